"""Every verb that reads or writes the log, on a real one."""

import asyncio
import base64
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from cli.calling import Caller, program

from daemon import service
from daemon.cli.app import App
from daemon.model import Change, ChangeType
from daemon.store import accounts, database, instances, objects, writer
from daemon.store.writer import Intake, Unit, append_once

WORKSHOP = {
    "api.key": "********",
    "event.notification.enabled": "true",
    "event.notification.callback.url": "https://app.example.com/events",
}
DAY = datetime(2026, 11, 20, 8, tzinfo=UTC)


def in_log(work: Callable[[service.Base], Coroutine[Any, Any, Any]]) -> Any:
    """Run *work* on the log of the test, as a verb does."""

    async def main() -> Any:
        async with App().base() as base:
            return await work(base)

    return asyncio.run(main())


def make_instance(element: str = "workshop", settings: Any = (), **more: Any) -> int:
    """Add an instance, of the workshop as a rule; its id."""

    async def add(base: service.Base) -> int:
        entry = instances.entry(
            "instance.created",
            organization_id=1,
            user_id=1,
            element_key=element,
            hub="crm",
            name="the workshop",
            tags=["a"],
            configuration=WORKSHOP | dict(settings),
            token_digest=instances.digest(f"token{element}{settings}{more}"),
            callback=WORKSHOP["event.notification.callback.url"],
            resources=["customers", "orders"],
            **{"disabled": False, **more},
        )
        async with base.pool.acquire() as conn:
            return (await append_once(conn, base.keys, Unit([entry]))).position

    found: int = in_log(add)
    return found


def append(*entries: Any, **unit: Any) -> int:
    """Append *entries*; the position of the first."""

    async def add(base: service.Base) -> int:
        async with base.pool.acquire() as conn:
            return (await append_once(conn, base.keys, Unit(list(entries), **unit))).position

    found: int = in_log(add)
    return found


def change(object_id: str, kind: str = "customers") -> Change:
    """A customer that was created."""
    return Change(
        kind, object_id, ChangeType.CREATED, DAY, object_id.encode().ljust(16, b"."), b'{"id":"x"}'
    )


def poll(instance: int, *changes: Change) -> int:
    """Append what a poll found; its first position."""
    return append(intakes=[Intake(instance, changes, polled=DAY)])


def test_the_secrets_of_a_new_user_open_the_api(tidings: Caller) -> None:
    """`users add --json` prints user, organization and the header that authenticates as that user."""
    made: Any = tidings.json("users", "add", "ann", "--organization", "acme")

    assert f"User {made['user']}, Organization {made['organization']}" == made["authorization"]
    account = in_log(
        lambda base: accounts.authenticate(base.pool, made["user"], made["organization"])
    )
    assert ("ann", "acme") == (account.name, account.organization)
    assert 32 == len(base64.b64decode(made["user"]))


def test_secrets_are_shown_once(tidings: Caller) -> None:
    """Neither `users list` nor the log has the secrets that `users add` showed."""
    made: Any = tidings.json("users", "add", "ann")
    tidings("users", "list", "--json")
    listed = tidings.out
    tidings("log", "tail", "--json")

    assert "ann" in listed
    assert "ann" in tidings.out
    for secret in (made["user"], made["organization"]):
        assert secret not in listed + tidings.out


def test_a_name_is_taken_once(tidings: Caller) -> None:
    """Adding a user who is there fails with 1 and says what to do; a removed name is free again."""
    assert 0 == tidings("users", "add", "ann")
    assert 1 == tidings("users", "add", "ann")
    assert "users remove ann" in tidings.err
    assert 0 == tidings("users", "remove", "ann")
    assert 0 == tidings("users", "add", "ann")


def test_a_removed_user_opens_nothing(tidings: Caller) -> None:
    """After `users remove` the secrets do not authenticate; removing again is 5, not found."""
    made: Any = tidings.json("users", "add", "ann")
    assert 0 == tidings("users", "remove", "ann")

    assert in_log(lambda base: accounts.authenticate(base.pool, made["user"], None)) is None
    assert 5 == tidings("users", "remove", "ann")


def test_what_is_not_there_is_5(tidings: Caller) -> None:
    """An instance or position that does not exist ends with 5 and leaves standard output empty."""
    for arguments in (
        ("instances", "show", 99),
        ("instances", "pause", 99),
        ("instances", "resume", 99),
        ("instances", "poll", 99),
        ("log", "show", 99),
        ("replay", "--instance", 99, "--dry-run"),
    ):
        assert 5 == tidings(*arguments), arguments
        assert "" == tidings.out
        assert "99" in tidings.err


def test_instances_show_how_they_are(tidings: Caller) -> None:
    """`instances list` and `show` tell of polls, callback and deliveries, with secrets masked."""
    instance = make_instance()
    append(
        objects.poll_entry(
            "poll.failed",
            instance,
            "orders",
            failures=3,
            error="answered 500",
            retry=DAY.isoformat(),
        )
    )

    (listed,) = tidings.json("instances", "list")  # type: ignore[misc] # a list of one
    shown: Any = tidings.json("instances", "show", instance)

    assert (instance, "workshop", False) == (listed["id"], listed["element"], listed["disabled"])
    assert "active" == shown["callback"]["state"]
    assert [("orders", 3, "answered 500")] == [
        (p["resource"], p["failures"], p["error"]) for p in shown["polls"]
    ]
    assert "********" == shown["configuration"]["api.key"]
    assert 0 == tidings("instances", "list")
    assert "1 failing" in tidings.out


def test_pause_and_resume_an_instance(tidings: Caller) -> None:
    """`pause` switches an instance off, `resume` on again; it still watches what it watched."""
    instance = make_instance()
    append(objects.poll_entry("poll.completed", instance, "customers", cursor=DAY.isoformat()))

    assert 0 == tidings("instances", "pause", instance)
    assert tidings.json("instances", "show", instance)["disabled"] is True  # type: ignore[index] # an object
    assert 0 == tidings("instances", "pause", instance)
    assert "paused already" in tidings.out
    assert 0 == tidings("instances", "resume", instance)
    shown: Any = tidings.json("instances", "show", instance)

    assert shown["disabled"] is False
    assert ["customers"] == [poll["resource"] for poll in shown["polls"]]


def test_pause_only_the_callback(tidings: Caller) -> None:
    """`pause --callback` disables the callback with its reason and leaves the instance on; `resume` enables it."""
    instance = make_instance()
    assert 0 == tidings("instances", "pause", instance, "--callback", "--reason", "they asked")
    shown: Any = tidings.json("instances", "show", instance)
    assert (False, "disabled", "they asked") == (
        shown["disabled"],
        *(shown["callback"][k] for k in ("state", "reason")),
    )

    assert 0 == tidings("instances", "resume", instance)
    assert "active" == tidings.json("instances", "show", instance)["callback"]["state"]  # type: ignore[index] # an object


def test_resume_takes_up_polls_that_were_given_up(tidings: Caller) -> None:
    """`resume` appends poll.resumed for a disabled resource, and `--allow-sweep` releases the brake of sweeps."""
    instance = make_instance()
    append(
        objects.poll_entry("poll.disabled", instance, "orders", failures=100, error="answered 500")
    )

    assert 0 == tidings("instances", "resume", instance)
    (orders,) = tidings.json("instances", "show", instance)["polls"]  # type: ignore[index] # an object
    assert (False, 0) == (orders["disabled"], orders["failures"])

    assert 0 == tidings("instances", "resume", instance, "--allow-sweep")
    (orders,) = tidings.json("instances", "show", instance)["polls"]  # type: ignore[index] # an object
    assert orders["allow_sweep"] is True


def test_a_poll_needs_a_daemon(tidings: Caller) -> None:
    """`instances poll` fails with 1 and says so while no daemon runs: nobody would hear it."""
    instance = make_instance()

    assert 1 == tidings("instances", "poll", instance, "--wait", 1)
    assert "no daemon runs" in tidings.err


def test_a_poll_needs_somebody_who_polls(tidings: Caller) -> None:
    """`instances poll` says of an instance that no poller reads why that is, and of no other."""
    by_webhooks = {"event.vendor.type": "webhooks"}
    # Dropbox only rings: what its webhooks mean is read, whatever event.vendor.type says.
    for element, settings, off, why in (
        ("hubspot", by_webhooks, False, "its changes come by webhooks alone"),
        ("dropbox", by_webhooks, False, "no daemon runs"),
        ("workshop", {"event.vendor.type": "<EVENT_VENDOR_TYPE>"}, False, "no daemon runs"),
        ("workshop", {"event.notification.enabled": "false"}, False, "enabled is not true"),
        ("workshop", {}, True, "is off"),
        ("gone", {}, False, "cannot be polled: there is no element 'gone'"),
    ):
        instance = make_instance(element, settings, disabled=off)
        assert 1 == tidings("instances", "poll", instance)
        assert why in tidings.err, (element, settings)


def test_the_log_in_lines(tidings: Caller) -> None:
    """`log tail` shows the last entries in order; --instance, --kind and -n choose."""
    instance = make_instance()
    first = poll(instance, change("a"), change("b"))

    rows = tidings.lines("log", "tail", "-n", 2)
    assert [first, first + 1] == [row["position"] for row in rows]
    assert ["a", "b"] == [row["object_id"] for row in rows]
    assert ["instance.created"] == [
        row["kind"] for row in tidings.lines("log", "tail", "--kind", "instance.created")
    ]
    assert 3 == len(tidings.lines("log", "tail", "--instance", instance))
    assert 0 == tidings("log", "tail")
    assert re.search(rf"{first}  .*Z +{instance}  CREATED  customers a by poll", tidings.out)


def test_control_characters_do_not_reach_the_terminal(tidings: Caller) -> None:
    """An id that a provider made of escape sequences is shown with its control characters spelt out."""
    poll(make_instance(), change("\x1b[2Jx\u202e"))

    assert 0 == tidings("log", "tail")
    assert r"\x1b[2Jx\x202e" in tidings.out
    assert "\x1b" not in tidings.out


def test_an_entry_in_whole(tidings: Caller) -> None:
    """`log show` prints every fact of an entry; with --json as one object, its data parsed."""
    first = poll(make_instance(), change("a"))

    entry: Any = tidings.json("log", "show", first)
    assert {"id": "x"} == entry["data"]
    assert ("change", "CREATED", "a", first) == tuple(
        entry[k] for k in ("kind", "change", "object_id", "notification")
    )
    assert 0 == tidings("log", "show", first)
    assert "object_id     a" in tidings.out


def test_rebuild_gives_the_same(tidings: Caller) -> None:
    """After `rebuild` every instance is as it was, and it says how much it read."""
    instance = make_instance()
    poll(instance, change("a"))
    before = tidings.json("instances", "show", instance)

    assert 0 == tidings("rebuild")
    assert re.search(r"Rebuilt from \d+ positions", tidings.out)
    assert before == tidings.json("instances", "show", instance)


def test_rebuild_refuses_beside_a_daemon(tidings: Caller, dsn: str) -> None:
    """While a process has the ownership of the database `rebuild` ends with 1 and says what to stop."""

    async def beside() -> tuple[bool, int]:
        conn = await database.connect(dsn)
        try:
            assert await writer.own(conn)
            with program(
                "rebuild", TIDINGS_DATABASE_DSN=dsn, TIDINGS_STATE_DIRECTORY=str(tmp)
            ) as process:
                await asyncio.to_thread(process.until, "stop it first")
                return await writer.owned(conn), await asyncio.to_thread(process.end)
        finally:
            await conn.close()

    tmp = App().config().state.directory

    assert (True, 1) == asyncio.run(beside())
    assert 0 == tidings("rebuild")


def test_rotating_the_vault_key(tidings: Caller, tmp_path: Path) -> None:
    """`vault rotate` seals what an old key sealed under the first, after which the old line may go."""
    instance = make_instance()
    append(instance_id=instance, secrets={"api.key": "the key"})
    file = tmp_path / "state" / "vault.key"
    new = "k2:" + base64.b64encode(bytes(32)).decode()
    file.write_text(f"{new}\n{file.read_text()}")

    assert 0 == tidings("vault", "rotate")
    assert "1 credentials were sealed anew" in tidings.out
    file.write_text(f"{new}\n")
    assert 0 == tidings("vault", "rotate")
    assert 0 == tidings("check"), tidings.out


def test_check_says_that_all_is_well(tidings: Caller) -> None:
    """`check` looks at configuration, elements, key and database, and ends with 0 where all is in order."""
    make_instance()
    found: Any = tidings.json("check")

    assert found["ok"] is True
    assert ["configuration", "elements", "vault key", "alerts", "database"] == [
        one["name"] for one in found["checks"]
    ]
    assert all(one["ok"] for one in found["checks"])


def test_check_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine where nothing was started yet `check` ends with 0 and makes no file."""
    monkeypatch.setenv("TIDINGS_STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.delenv("TIDINGS_DATABASE_DSN", raising=False)
    tidings = Caller(capsys)

    assert 0 == tidings("check"), tidings.out
    assert [] == list(tmp_path.iterdir())


def test_a_key_that_others_can_read_is_wrong(tidings: Caller, tmp_path: Path) -> None:
    """`check` ends with 3 for a vault key with open permissions, and gives the command that closes it."""
    make_instance()
    (tmp_path / "state" / "vault.key").chmod(0o644)

    assert 3 == tidings("check")
    assert "chmod 600" in tidings.out


def test_the_elements_that_there_are(tidings: Caller) -> None:
    """`elements list` has the built-in ones with what they can do."""
    found: Any = tidings.json("elements", "list")

    workshop = next(one for one in found if one["key"] == "workshop")
    assert (True, True) == (workshop["polls"], workshop["webhooks"])


def test_a_definition_is_shown_with_what_it_asks(tidings: Caller, tmp_path: Path) -> None:
    """`elements check` prints the first request of each resource, and names conditions that are left out."""
    file = tmp_path / "mine.toml"
    file.write_text(
        'id = 4711\nkey = "mine"\nname = "Mine"\n[connection]\nbase = "https://api.example.com/v1"\n'
        "[resources.things]\nupdated = \"changed\"\npoll = \"/things?where=changed>='${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'\"\n"
    )
    (report,) = tidings.json("elements", "check", file)  # type: ignore[misc] # a list of one

    (asked,) = report["asks"]
    assert asked["request"].startswith("GET https://api.example.com/v1/things")
    assert asked["ignored"][0].startswith("changed>=")


def test_every_problem_of_a_definition_has_its_place(tidings: Caller, tmp_path: Path) -> None:
    """`elements check` ends with 3 and names each wrong key with its path in the file."""
    file = tmp_path / "mine.toml"
    file.write_text('id = 4711\nkey = "mine"\nname = 5\n[connection]\nbase = "nowhere"\n')

    assert 3 == tidings("elements", "check", file)
    assert "mine.toml: name" in tidings.out
    assert "mine.toml: connection.base" in tidings.out


def test_json_goes_through_a_pipe_as_one_object(tidings: Caller) -> None:
    """With --json standard output is JSON and nothing else, also where there is nothing."""
    for arguments in (("users", "list"), ("instances", "list")):
        assert 0 == tidings(*arguments, "--json")
        assert [] == orjson.loads(tidings.out)
