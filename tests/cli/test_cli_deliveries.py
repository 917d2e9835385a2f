"""`tidings deliveries` and `tidings callbacks`, on a real log."""

from typing import Any

import orjson
import pytest
from cli.calling import Caller
from cli.test_cli_verbs import append, change, in_log, make_instance, poll

from daemon.api import redelivery
from daemon.cli import deliveries as verbs
from daemon.store import deliveries, log
from daemon.store.deliveries import Outcome

DAY = 1_790_000_000_000  # ms


def outcome(callback: int, notification: int, state: str, **more: Any) -> None:
    """Append what became of a notification."""
    facts: dict[str, Any] = {
        "attempts": 3,
        "due": DAY if state == "retrying" else None,
        "settled": DAY,
        "status": 200 if state == "delivered" else 503,
        "error": None if state == "delivered" else "answered 503: busy",
        "doubtful": False,
    } | more
    append(deliveries.entry([], [Outcome(callback, notification, state, **facts)]))


def prepared(*states: str) -> tuple[int, list[int]]:
    """An instance with a notification in each of these states."""
    instance = make_instance()
    found = []
    for number, state in enumerate(states):
        position = poll(instance, change(f"o{number}"))
        outcome(instance, position, state)
        found.append(position)
    return instance, found


def states_of(tidings: Caller, instance: int) -> dict[int, str]:
    """The state of each delivery that is open or dead."""
    found: Any = tidings.json("deliveries", "list", "--instance", instance)
    return {one["notification"]: one["state"] for one in found}


def test_what_is_not_delivered_is_listed(tidings: Caller) -> None:
    """`deliveries list` shows all but what was delivered, by instance, state and time, as many as asked for."""
    instance, (dead, held, _, retrying) = prepared("dead", "held", "delivered", "retrying")

    assert {dead: "dead", held: "held", retrying: "retrying"} == states_of(tidings, instance)
    assert {} == states_of(tidings, instance + 1000)
    only: Any = tidings.json("deliveries", "list", "--state", "dead", "--state", "held")
    assert [dead, held] == [one["notification"] for one in only]
    assert [] == tidings.json("deliveries", "list", "--since", "2099-01-01T00:00:00Z")
    assert 0 == tidings("deliveries", "list", "-n", 2)
    assert "busy" in tidings.out
    assert "more than 2" in tidings.err
    assert 2 == tidings("deliveries", "list", "--since", "yesterday")


def test_a_delivery_is_shown_whole(tidings: Caller) -> None:
    """`deliveries show` has the request as it is sent, and every attempt with what the receiver answered."""
    instance, (dead,) = prepared("retrying")
    outcome(instance, dead, "dead", attempts=4, error="answered 500: oh no", status=500)

    found: Any = tidings.json("deliveries", "show", instance, dead)
    assert ["answered 503: busy", "answered 500: oh no"] == [o["error"] for o in found["history"]]
    assert "https://app.example.com/events" == found["request"]["url"]
    assert found["event"] == found["request"]["headers"]["webhook-id"]
    assert 0 == tidings("deliveries", "show", instance, dead)
    assert f'"eventId":"{found["event"]}"' in tidings.out
    assert "oh no" in tidings.out
    assert 5 == tidings("deliveries", "show", instance, dead + 1)
    assert 5 == tidings("deliveries", "show", 999, dead)


def test_named_ones_are_retried_all_or_none(tidings: Caller) -> None:
    """`deliveries retry` asks for those it names; one that cannot be retried stops it before anything is done."""
    instance, (dead, doubt, held) = prepared("dead", "in_doubt", "held")

    assert 1 == tidings("deliveries", "retry", instance, dead, doubt)
    assert str(doubt) in tidings.err
    assert "dead" == states_of(tidings, instance)[dead]
    assert 0 == tidings("deliveries", "retry", instance, dead, held)
    assert {dead: "retrying", doubt: "in_doubt", held: "retrying"} == states_of(tidings, instance)
    for wrong in ((), (dead, "--all")):
        assert 2 == tidings("deliveries", "retry", instance, *wrong)


def test_bulk_retry_goes_on_where_it_was_interrupted(
    tidings: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page is asked for durably: what an interrupted run had asked for is not asked for again by the next."""
    instance, found = prepared(*["dead"] * 5)
    monkeypatch.setattr(redelivery, "PAGE", 2)
    whole, calls = verbs.append_once, 0

    async def breaks_off(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("the line was cut")
        return await whole(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(verbs, "append_once", breaks_off)
        assert 0 != tidings("deliveries", "retry", instance, "--all")
    assert ["retrying"] * 2 + ["dead"] * 3 == list(states_of(tidings, instance).values())
    assert 0 == tidings("deliveries", "retry", instance, "--all")
    assert "3" in tidings.out

    asked = in_log(lambda base: log.entries(base.pool, 0, 100, kind="delivery.asked"))
    assert [2, 2, 1] == [len(orjson.loads(row["data"])["notifications"]) for row in asked]
    assert set(found) == {
        one for row in asked for one in orjson.loads(row["data"])["notifications"]
    }
    assert 0 == tidings("deliveries", "retry", instance, "--since", "2020-01-01T00:00:00Z")
    assert "nothing" in tidings.out


def test_a_person_settles_what_is_held(tidings: Caller) -> None:
    """`deliveries settle` makes held and dead ones delivered or dead; what moves by itself is left alone."""
    instance, (held, dead, retrying) = prepared("held", "dead", "retrying")

    assert 0 == tidings("deliveries", "settle", instance, held, dead, "--as", "delivered")
    assert {retrying: "retrying"} == states_of(tidings, instance)
    assert 1 == tidings("deliveries", "settle", instance, retrying, "--as", "dead")
    assert 1 == tidings("deliveries", "retry", instance, held)
    assert "delivered" in tidings.err
    assert 2 == tidings("deliveries", "settle", instance, retrying)


def test_a_callback_is_disabled_and_brought_back(tidings: Caller) -> None:
    """`callbacks` shows state, reason, backlog and counts, and switches once, not twice."""
    instance, (dead, _) = prepared("dead", "held")
    poll(instance, change("x"), change("y"))

    found: Any = tidings.json("callbacks", "list")
    (one,) = found
    assert ("active", 3) == (one["state"], one["backlog"])
    assert {"dead": 1, "held": 1} == one["deliveries"]
    assert 0 == tidings("callbacks", "disable", instance, "--reason", "moving house")
    assert 0 == tidings("callbacks", "list")
    assert "moving house" in tidings.out
    assert 0 == tidings("deliveries", "retry", instance, dead)
    assert f"callbacks enable {instance}" in tidings.err
    assert 0 == tidings("callbacks", "enable", instance)
    assert 0 == tidings("callbacks", "enable", instance)
    assert "already" in tidings.out
    kinds = [row["kind"] for row in in_log(lambda base: log.entries(base.pool, 0, 100))]
    assert 1 == kinds.count("callback.enabled")
    assert 5 == tidings("callbacks", "enable", 999)
