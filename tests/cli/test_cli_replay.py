"""`tidings replay`, on a real log, and once with a daemon that sends."""

import asyncio
import getpass
import signal
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from cli.calling import Caller, program
from heart import until_row

from daemon import service
from daemon.cli.app import App
from daemon.model import Change, ChangeType
from daemon.store import accounts, database, deliveries, instances, writer
from daemon.store.vault import Keys
from daemon.store.writer import Intake, Unit, append_once

URL = "https://app.example.com/events"
AGAIN = "https://again.example.com/events"
DAY = datetime(2026, 11, 20, 8, tzinfo=UTC)


def in_log(work: Callable[[service.Base], Coroutine[Any, Any, Any]]) -> Any:
    """Run *work* on the log of the test, as a verb does."""

    async def main() -> Any:
        async with App().base() as base:
            return await work(base)

    return asyncio.run(main())


def append(*entries: Any, **unit: Any) -> int:
    """Append *entries*; the position of the first."""

    async def add(base: service.Base) -> int:
        async with base.pool.acquire() as conn:
            return (await append_once(conn, base.keys, Unit(list(entries), **unit))).position

    found: int = in_log(add)
    return found


def make_instance(
    *, element: str = "workshop", organization: int = 1, url: str | None = URL, token: str = "token"
) -> int:
    """Add an instance; its id."""
    return append(
        instances.entry(
            "instance.created",
            organization_id=organization,
            user_id=organization,
            element_key=element,
            hub="crm",
            name="the workshop",
            tags=["a"],
            configuration={
                "event.notification.enabled": "true" if url else "false",
                "event.notification.callback.url": url,
            },
            token_digest=instances.digest(token),
            disabled=False,
            callback=url,
            resources=["customers", "orders"],
        )
    )


def change(object_id: str, kind: str = "customers") -> Change:
    """An object that was created."""
    fingerprint = object_id.encode().ljust(16, b".")
    return Change(kind, object_id, ChangeType.CREATED, DAY, fingerprint, b'{"id":"x"}')


def poll(instance: int, *changes: Change) -> int:
    """Append what a poll found; its first position."""
    return append(intakes=[Intake(instance, changes, polled=DAY)])


def asked_for(tidings: Caller) -> list[dict[str, Any]]:
    """What the log's `replay.requested` entries hold."""
    found: Any = tidings.lines("log", "tail", "-n", 1000, "--kind", "replay.requested")
    return [entry["data"] for entry in found]


def test_a_dry_replay_counts(tidings: Caller) -> None:
    """`replay --dry-run` counts notifications in a range by position, time, type and object, and appends nothing."""
    instance = make_instance()
    first = poll(instance, change("a"), change("b"))
    second = poll(instance, change("c", "orders"))
    before = tidings.lines("log", "tail")

    def count(*arguments: object) -> tuple[int, int]:
        found: Any = tidings.json("replay", "--instance", instance, "--dry-run", *arguments)
        return found["notifications"], found["changes"]

    assert (2, 3) == count()
    assert (1, 1) == count("--since", second)
    assert (1, 1) == count("--type", "orders")
    assert (1, 1) == count("--object", "b")
    assert (0, 0) == count("--object", "b", "--type", "orders")
    assert (1, 2) == count("--until", first)  # whole notifications only
    assert (1, 2) == count("--since", first + 1, "--until", first + 1)
    assert (2, 3) == count("--since", "2026-01-01T00:00:00Z")
    assert (0, 0) == count("--since", "2999-01-01T00:00:00Z")
    assert (0, 0) == count("--until", "2000-01-01T00:00:00Z")
    assert (0, 0) == count("--since", second, "--until", first)
    assert (0, 0) == count("--since", 10**30)
    assert before == tidings.lines("log", "tail")


def test_a_replay_is_asked_for_in_the_log(tidings: Caller) -> None:
    """`replay --no-wait` appends replay.requested with its selection and terms, which makes a callback from after to until."""
    instance = make_instance()
    first = poll(instance, change("a"))
    made: Any = tidings.json(
        *("replay", "--instance", instance, "--since", first, "--no-wait"),
        *("--to", AGAIN, "--as-new", "--rate", 7, "--type", "customers", "--object", "a"),
    )
    (asked,) = made["replays"]
    entry: Any = tidings.json("log", "show", asked["id"])

    assert "asked" == made["state"]
    assert entry["kind"] == "replay.requested"
    assert entry["instance_id"] == instance
    assert entry["data"] == {
        "instance": instance,
        "after": first - 1,
        "until": first,
        "type": "customers",
        "object": "a",
        "url": AGAIN,
        "to_instance": None,
        "as_new": True,
        "rate": 7.0,
        "notifications": 1,
        "requested_by": getpass.getuser(),
    }
    rows = in_log(lambda base: deliveries.callbacks(base.pool))
    assert [(first - 1, first)] == [
        (row["cursor"], row["until"]) for row in rows if row["id"] == asked["id"]
    ]


def test_many_instances_in_one_unit(tidings: Caller) -> None:
    """--element, --organization and --all ask for one replay for each instance that has anything to send, and a callback."""
    org = append(accounts.new_user("ann", "acme")[0])
    mine = make_instance(token="1", organization=org)
    other = make_instance(token="2", organization=org, element="rest")
    mute = make_instance(token="3", organization=org, url=None)
    foreign = make_instance(token="4")
    make_instance(token="5")  # nothing ever happened there
    for instance in (mine, other, mute, foreign):
        poll(instance, change("a"))
        poll(instance, change("b"))

    for chosen, wanted in (
        (("--element", "rest"), [other]),
        (("--organization", "acme"), [mine, other]),
        (("--all",), [mine, other, foreign]),
    ):
        before = len(asked_for(tidings))
        made: Any = tidings.json("replay", *chosen, "--no-wait")
        asked = asked_for(tidings)[before:]

        assert (
            wanted
            == [data["instance"] for data in asked]
            == [one["instance"] for one in made["replays"]]
        )
        ids = [one["id"] for one in made["replays"]]
        assert ids == [*range(ids[0], ids[0] + len(ids))]
        assert 2 * len(wanted) == made["notifications"]
        assert ([] if chosen[0] == "--element" else [mute]) == made["without_callback"]
    counted: Any = tidings.json("replay", "--all", "--to", AGAIN, "--dry-run")
    assert {str(n): 2 for n in (mine, other, mute, foreign)} == counted["instances"]
    assert 0 == tidings("replay", "--all", "--dry-run")
    assert str(mute) in tidings.err
    assert 5 == tidings("replay", "--element", "nothing", "--dry-run")
    assert 5 == tidings("replay", "--organization", "nobody", "--dry-run")


def test_to_another_instance(tidings: Caller) -> None:
    """--to-instance is recorded; one that is not there is 5, one without a callback 1."""
    instance, target = make_instance(url=None), make_instance(token="2")
    mute = make_instance(token="3", url=None)
    poll(instance, change("a"))

    assert 1 == tidings("replay", "--instance", instance, "--no-wait")
    assert "--to-instance" in tidings.err
    assert 5 == tidings("replay", "--instance", instance, "--to-instance", 99, "--no-wait")
    assert 1 == tidings("replay", "--instance", instance, "--to-instance", mute, "--no-wait")
    assert [] == asked_for(tidings)
    assert 0 == tidings("replay", "--instance", instance, "--to-instance", target, "--no-wait")
    assert [(instance, target, None)] == [
        (data["instance"], data["to_instance"], data["url"]) for data in asked_for(tidings)
    ]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/x", "https://localhost/x", "http://169.254.169.254/x", "ftp://a/b", "x"],
)
def test_an_address_is_judged_before_it_is_recorded(
    tidings: Caller, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """A URL that may not be a callback's is none for a replay: 2, and nothing in the log; the operator can allow its network."""
    instance = make_instance()
    poll(instance, change("a"))

    assert 2 == tidings("replay", "--instance", instance, "--to", url, "--no-wait")
    assert url in tidings.err
    assert [] == asked_for(tidings)
    monkeypatch.setenv(
        "TIDINGS_OUTBOUND_ALLOW_NETWORKS", "127.0.0.0/8, ::1/128, 169.254.169.254/32"
    )
    allowed = url.startswith("http")
    assert (0 if allowed else 2) == tidings(
        "replay", "--instance", instance, "--to", url, "--no-wait"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--instance", 1, "--all"),
        ("--element", "x", "--organization", "y"),
        ("--instance", 1, "--to", AGAIN, "--to-instance", 2),
        ("--instance", 1, "--rate", 0),
        ("--instance", 1, "--rate", "nan"),
        ("--instance", 1, "list"),
    ],
)
def test_wrong_usage(tidings: Caller, arguments: tuple[object, ...]) -> None:
    """Nobody's, two choices at once, a rate that is none, options before a verb: each ends with 2."""
    assert 2 == tidings("replay", *arguments)


@pytest.mark.parametrize("when", ["yesterday", "-1", "2026-13-01T00:00:00Z"])
def test_a_time_that_is_none_is_wrong_usage(tidings: Caller, when: str) -> None:
    """What is neither position nor time ends with 2 and shows how to write it."""
    instance = make_instance()

    assert 2 == tidings("replay", "--instance", instance, f"--since={when}", "--dry-run")
    assert "2026-11-20T08:00:00Z" in tidings.err


def test_a_replay_that_nobody_would_send_fails(tidings: Caller) -> None:
    """Waiting for a replay while no daemon runs fails with 1 before anything is asked for."""
    instance = make_instance()
    poll(instance, change("a"))

    assert 1 == tidings("replay", "--instance", instance)
    assert "--no-wait" in tidings.err
    assert [] == asked_for(tidings)


def test_listed_cancelled_resumed(tidings: Caller) -> None:
    """`replay list` shows what has not ended; `cancel` and `resume` switch one, each only once, and say what it is else."""
    instance = make_instance()
    poll(instance, change("a"))
    made: Any = tidings.json("replay", "--instance", instance, "--no-wait")
    replay = made["replays"][0]["id"]

    def listed(*arguments: object) -> list[tuple[int, str, str | None]]:
        found: Any = tidings.json("replay", "list", *arguments)
        return [(one["id"], one["state"], one["reason"]) for one in found]

    assert [(replay, "active", None)] == listed()
    assert 0 == tidings("replay", "cancel", replay)
    assert [(replay, "disabled", f"cancelled by {getpass.getuser()}")] == listed()
    assert 1 == tidings("replay", "cancel", replay)
    assert 0 == tidings("replay", "list")
    assert "cancelled by" in tidings.out
    assert 0 == tidings("replay", "resume", replay)
    assert 1 == tidings("replay", "resume", replay)
    done = deliveries.Progress(replay, 99, 99, finished=True, failing=None)
    append(deliveries.entry([done], []))
    assert [] == listed()
    assert [(replay, "finished", None)] == listed("--all")
    assert 1 == tidings("replay", "cancel", replay)
    assert 5 == tidings("replay", "cancel", instance)
    assert 5 == tidings("replay", "resume", 99)


def test_followed_to_its_end_or_left(tidings: Caller, dsn: str) -> None:
    """Without --no-wait it ends when the replay does; Ctrl-C leaves the replay as it is and says how to watch and end it."""
    instance = make_instance()
    poll(instance, change("a"))
    surroundings = {
        "TIDINGS_DATABASE_DSN": dsn,
        "TIDINGS_STATE_DIRECTORY": str(App().config().state.directory),
    }
    begun = "SELECT max(id) FROM callbacks WHERE replay IS NOT NULL AND state = 'active'"

    async def main() -> int:
        conn, other = await database.connect(dsn), await database.connect(dsn)
        try:
            assert await writer.own(conn)  # as a daemon does
            with program("replay", "--instance", instance, **surroundings) as process:
                first: int = await until_row(other, begun, within=20)
                assert 130 == await asyncio.to_thread(process.end, signal.SIGINT)
                said = "".join(process.said)
            assert f"Replay {first} goes on" in said
            assert "replay list" in said
            assert "replay cancel" in said
            assert first == await other.fetchval(begun)
            with program("replay", "--instance", instance, **surroundings) as process:
                second: int = await until_row(
                    other, begun.replace("WHERE", f"WHERE id > {first} AND"), within=20
                )
                done = deliveries.Progress(second, 99, 99, finished=True, failing=None)
                unit = Unit([deliveries.entry([done], [])])
                await append_once(other, Keys([("k1", bytes(32))]), unit)
                assert 0 == await asyncio.to_thread(process.end)
                assert f"Replay {second} of instance {instance} is finished" in "".join(
                    process.said
                )
            return first
        finally:
            await conn.close()
            await other.close()

    asyncio.run(main())
