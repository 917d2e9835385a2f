"""Dead letters, held deliveries and redrive over HTTP."""

from typing import Any
from urllib.parse import quote

import orjson
import pytest
from api.running import Api, Open, Run
from api.test_api_events import ON, changes

from daemon.api import deliveries as handlers
from daemon.api import redelivery
from daemon.store import deliveries
from daemon.store.deliveries import Outcome
from daemon.store.writer import Unit

KEY = "a-signature-key-nobody-sees"
CRM = {
    "element": {"key": "crmlike"},
    "configuration": ON
    | {
        "event.notification.signature.key": KEY,
        "event.notification.basic.username": "ann",
        "event.notification.basic.password": "hunter2",
    },
}
DAY = 1_790_000_000_000  # ms


async def outcome(
    api: Api, instance_id: int, position: int, state: str, *, settled: int = DAY, **more: Any
) -> None:
    """Append what became of a notification."""
    facts = {
        "attempts": 3,
        "due": None,
        "status": 503,
        "error": "answered 503: busy",
        "doubtful": False,
    } | more
    one = Outcome(instance_id, position, state, settled=settled, **facts)
    await api.writer.append(Unit([deliveries.entry([], [one])]))


async def states(api: Api, instance_id: int) -> dict[str, str]:
    """The state of each delivery, by event id."""
    found = (await api.call("GET", f"/instances/{instance_id}/deliveries")).body
    return {one["eventId"]: one["status"] for one in found}


async def prepared(api: Api, *found: str) -> tuple[int, list[int]]:
    """An instance with a notification in each of these states."""
    made = await api.create(**CRM)
    positions = []
    for number, state in enumerate(found):
        position = await changes(api, made["id"], f"o{number}")
        more = {"due": DAY} if state == "retrying" else {}
        if state == "delivered":
            more = {"status": 200, "error": None}
        await outcome(api, made["id"], position, state, **more)
        positions.append(position)
    return made["id"], positions


def test_dead_letters_are_listed_and_shown_whole(run: Run, open_api: Open) -> None:
    """Lists choose by status and time, page by page; one shows request and attempts, and no secret."""

    async def main() -> None:
        async with open_api() as api:
            instance, positions = await prepared(
                api, "dead", "held", "delivered", "retrying", "dead"
            )
            path = f"/instances/{instance}/deliveries"
            listed = (await api.call("GET", path)).body
            assert ["dead", "held", "retrying", "dead"] == [one["status"] for one in listed]
            first = await api.call("GET", f"{path}?status=dead&pageSize=1")
            token = first.headers["Elements-Next-Page-Token"]
            rest = await api.call("GET", f"{path}?status=dead&nextPage={token}")
            assert [positions[0], positions[4]] == [
                one["position"] for one in first.body + rest.body
            ]
            assert [] == (await api.call("GET", f"{path}?since=2099-01-01T00:00:00Z")).body
            assert 400 == (await api.call("GET", f"{path}?status=lost")).status
            assert 400 == (await api.call("GET", f"{path}?since=yesterday")).status

            answer = await api.call("GET", f"{path}/{listed[0]['eventId']}")
            request = answer.body["request"]
            assert "https://x.example/" == request["url"]
            body = orjson.loads(request["body"])
            assert listed[0]["eventId"] == body["message"]["eventId"]
            assert ["answered 503: busy"] == [one["error"] for one in answer.body["history"]]
            assert {"********"} == {
                request["headers"][name] for name in ("webhook-signature", "authorization")
            }
            assert KEY not in answer.text
            assert "hunter2" not in answer.text
            assert 404 == (await api.call("GET", f"{path}/AQIDBAAAAAAAAAAAAAAB")).status
            await api.customer("second")
            stranger = api.customers[1].whole
            assert 404 == (await api.call("GET", path, auth=stranger)).status
            assert 404 == (await api.call("PUT", path, auth=stranger)).status

    run(main())


def test_one_is_retried_or_settled(run: Run, open_api: Open) -> None:
    """A held one is settled as delivered, a dead one sent again; what is delivered or under way is 409."""

    async def main() -> None:
        async with open_api() as api:
            instance, _ = await prepared(api, "dead", "held", "delivered", "in_doubt")
            fresh = await changes(api, instance, "fresh")
            path = f"/instances/{instance}/deliveries"
            dead, held, doubt = await states(api, instance)
            again = (await api.call("PUT", f"{path}/{dead}")).body
            assert ("retrying", 0) == (again["status"], again["attempts"])
            settled = (await api.call("PUT", f"{path}/{held}", {"status": "delivered"})).body
            assert "delivered" == settled["status"]
            for event in (held, doubt):
                refused = await api.call("PUT", f"{path}/{event}", {"status": "dead"})
                assert 409 == refused.status, refused.text
            events = (await api.call("GET", f"/instances/{instance}/events?after={fresh - 1}")).body
            pending = await api.call("GET", f"{path}/{events[0]['id']}")
            assert "pending" == pending.body["status"]
            assert 409 == (await api.call("PUT", f"{path}/{events[0]['id']}")).status
            bad = await api.call("PUT", f"{path}/{dead}", {"status": "gone"})
            assert (400, ["status"]) == (bad.status, list(bad.body["fields"]))

    run(main())


def test_redrive_brings_dead_letters_and_the_callback_back(run: Run, open_api: Open) -> None:
    """PUT …/deliveries retries what is dead and leaves the rest; a disabled callback is active again."""

    async def main() -> None:
        async with open_api() as api:
            instance, positions = await prepared(api, "dead", "held", "delivered", "dead")
            disabled = deliveries.callback_entry("callback.disabled", instance, instance, "410")
            await api.writer.append(Unit([disabled]))
            answer = await api.call("PUT", f"/instances/{instance}/deliveries")
            assert {"retried": 2, "more": False, "enabled": True} == answer.body
            assert ["retrying", "held", "retrying"] == list((await states(api, instance)).values())
            row = await deliveries.callback(api.context.pool, instance)
            assert row is not None
            assert "active" == row["state"]
            again = await api.call("PUT", f"/instances/{instance}/deliveries", {})
            assert {"retried": 0, "more": False, "enabled": False} == again.body
            held = await api.call("PUT", f"/instances/{instance}/deliveries?status=held")
            assert 1 == held.body["retried"]
            async with api.context.pool.acquire() as conn:
                asked = await conn.fetch(
                    "SELECT data FROM log WHERE kind = 'delivery.asked' ORDER BY position"
                )
            assert [[positions[0], positions[3]], [positions[1]]] == [
                orjson.loads(row["data"])["notifications"] for row in asked
            ]

    run(main())


def test_redrive_by_ids_does_all_or_nothing(run: Run, open_api: Open) -> None:
    """Of ids each is named that cannot be sent again, and then none is; ids do not go with status."""

    async def main() -> None:
        async with open_api() as api:
            instance, _ = await prepared(api, "dead", "in_doubt", "dead")
            path = f"/instances/{instance}/deliveries"
            one, doubt, other = await states(api, instance)
            refused = await api.call("PUT", path, {"ids": [one, doubt, "x"]})
            assert (400, {"ids.1", "ids.2"}) == (refused.status, set(refused.body["fields"]))
            assert "dead" == (await states(api, instance))[one]
            mixed = await api.call("PUT", path, {"ids": [one], "status": "dead"})
            assert 400 == mixed.status
            answer = await api.call("PUT", path, {"ids": [other]})
            assert 1 == answer.body["retried"]
            assert ["dead", "in_doubt", "retrying"] == list((await states(api, instance)).values())

    run(main())


def test_many_are_redriven_page_by_page(
    run: Run, open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound of one request the answer says that there is more, and the same request goes on there."""
    monkeypatch.setattr(redelivery, "PAGE", 2)
    monkeypatch.setattr(handlers, "PAGES_MOST", 2)

    async def main() -> None:
        async with open_api() as api:
            instance, _ = await prepared(api, *["dead"] * 5)
            path = f"/instances/{instance}/deliveries"
            for expected in ((4, True), (1, False), (0, False)):
                answer = (await api.call("PUT", path)).body
                assert expected == (answer["retried"], answer["more"])

    run(main())


def test_what_is_from_before_the_callback_is_not_redriven(run: Run, open_api: Open) -> None:
    """Without a callback it is 409; what died with a callback that was given anew later stays dead."""

    async def main() -> None:
        async with open_api() as api:
            instance, _ = await prepared(api, "held")
            (event,) = await states(api, instance)
            for enabled, expected in ((False, 409), (True, 200)):
                body = {"configuration": {"event.notification.enabled": enabled}}
                assert 200 == (await api.call("PATCH", f"/instances/{instance}", body)).status
                answer = await api.call("PUT", f"/instances/{instance}/deliveries")
                assert expected == answer.status
            assert 0 == answer.body["retried"]
            assert (
                409 == (await api.call("PUT", f"/instances/{instance}/deliveries/{event}")).status
            )
            assert {event: "dead"} == await states(api, instance)

    run(main())


def test_the_documented_queue_is_an_address(run: Run, open_api: Open) -> None:
    """`where` with the address of a callback lists and redrives what is queued there, of one's own organization."""

    async def main() -> None:
        async with open_api() as api:
            instance, positions = await prepared(api, "dead", "retrying", "waiting", "delivered")

            def path(where: str) -> str:
                return f"/notifications/subscriptions/deliveries?where={quote(where)}"

            url = "config.url='https://x.example/'"
            queued = path(f"channel='webhook' and status='queued' and {url}")
            listed = (await api.call("GET", queued)).body
            assert [
                (str(positions[0]), instance, "queued"),
                (str(positions[2]), instance, "queued"),
            ] == [(one["notificationId"], one["subscriptionId"], one["status"]) for one in listed]
            assert 1 == len((await api.call("GET", path(f"{url} and status='retry'"))).body)
            assert 1 == (await api.call("PUT", queued)).body["retried"]
            assert 1 == len((await api.call("GET", queued)).body)
            await api.customer("second")
            assert 404 == (await api.call("PUT", queued, auth=api.customers[1].whole)).status
            for wrong in ("", "status='queued'", f"{url} or 1=1", f"channel='sms' and {url}"):
                assert 400 == (await api.call("GET", path(wrong))).status, wrong

    run(main())
