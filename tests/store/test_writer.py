"""The writer: acknowledged after commit, groups, outages, the COMMIT without an answer, ownership."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import uvloop
from databases import copied
from heart import (
    change,
    connected,
    create_instance,
    hook,
    mark,
    opening,
    poll,
    state,
    until,
    until_row,
    writing,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy import Proxy

from daemon.errors import NotOwner, Outage
from daemon.store import log, objects, writer
from daemon.store.database import is_outage
from daemon.store.log import Entry
from daemon.store.vault import Keys
from daemon.store.writer import Unit, Writer, append_once

CHANGES = "SELECT array_agg(object_id ORDER BY position) FROM log WHERE kind = 'change'"

KILL_WRITER = """
SELECT pg_terminate_backend(pid) FROM pg_locks
 WHERE locktype = 'advisory' AND objid = 7434604 AND granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def changes_in(conn: Any) -> list[str]:
    """The object ids of all changes in the log."""
    return await conn.fetchval(CHANGES) or []


def test_append_returns_after_the_commit(dsn: str, keys: Keys, run: Any) -> None:
    """When `append` returns, another connection sees the change; and not before the COMMIT is through."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            await until(lambda: w.commits == 2)
            asked = proxy.watch_commit()
            appending = asyncio.create_task(w.append(hook(instance, change(1))))
            await asked.happened.wait()
            # The server has everything but the COMMIT.
            assert not appending.done()
            assert await changes_in(other) == []
            proxy.resume()
            receipt = await appending
            assert await changes_in(other) == ["1"]
            assert (receipt.appended, receipt.duplicates) == (1, 0)
            assert await other.fetchval("SELECT max(position) FROM log") == receipt.position

    run(main())


def test_what_arrives_meanwhile_goes_together(dsn: str, keys: Keys, run: Any) -> None:
    """The first unit goes at once, and all that came during its commit share the next one."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            before = w.commits
            asked = proxy.watch_commit()
            first = asyncio.create_task(w.append(hook(instance, change(0))))
            await asked.happened.wait()
            rest = [asyncio.create_task(w.append(hook(instance, change(n)))) for n in range(1, 50)]
            await until(lambda: len(w._waiting) == 49)
            proxy.resume()
            receipts = await asyncio.gather(first, *rest)
            assert w.commits == before + 2
            assert len({receipt.position for receipt in receipts}) == 50

    run(main())


def test_a_unit_that_cannot_be_stored_fails_alone(dsn: str, keys: Keys, run: Any) -> None:
    """In one group with good units, one that PostgreSQL refuses and one that no codec encodes fail, and only they."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            asked = proxy.watch_commit()
            first = asyncio.create_task(w.append(hook(instance, change(0))))
            await asked.happened.wait()
            group = [
                w.append(hook(instance, change(1))),
                w.append(hook(instance, change(2), raw="not json"), patient=True),
                w.append(hook(instance, replace(change(4), object_id="\ud800")), patient=True),
                w.append(hook(instance, change("nul\0")), patient=True),
                w.append(hook(instance, change(3))),
            ]
            tasks = [asyncio.create_task(append) for append in group]
            await until(lambda: len(w._waiting) == 5)
            proxy.resume()
            results = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert [isinstance(r, Exception) for r in results] == [0, 0, 1, 1, 1, 0]
            assert not any(isinstance(r, Outage) for r in results)
            assert await changes_in(other) == ["0", "1", "3"]
            assert proxy.connections == 1, "a mistake in the data is no outage"

    run(main())


def test_without_a_database_an_append_is_refused_at_once(dsn: str, keys: Keys, run: Any) -> None:
    """While the database is away a webhook hears Outage; a patient unit waits and is stored when it is back."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            proxy.refusing = True
            proxy.cut()
            patient = asyncio.create_task(w.append(hook(instance, change("p")), patient=True))
            await until(lambda: not w.connected)
            with pytest.raises(Outage):
                await w.append(hook(instance, change(1)))
            assert not patient.done()
            proxy.refusing = False
            assert (await patient).appended == 1
            assert await changes_in(other) == ["p"]
            await w.append(hook(instance, change("after")))

    run(main())


def test_a_killed_backend_is_replaced(dsn: str, keys: Keys, run: Any) -> None:
    """When PostgreSQL ends the writer's backend, the writer connects again and goes on."""

    async def main() -> None:
        async with connected(dsn, role=None) as other, writing(dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            assert await other.fetchval(KILL_WRITER)
            receipt = await w.append(hook(instance, change(1)), patient=True)
            assert receipt.appended == 1
            assert await changes_in(other) == ["1"]

    run(main())


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("stored", [True, False])
def test_a_commit_without_an_answer_is_asked_about(
    dsn: str, keys: Keys, run: Any, *, stored: bool, patient: bool
) -> None:
    """When the connection breaks during COMMIT: done, it is acknowledged; lost, the patient go again and others hear Outage."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            cut = proxy.lose_answer() if stored else proxy.lose_commit()
            append = w.append(hook(instance, change(1)), patient=patient)
            if stored or patient:
                receipt = await append
                assert receipt.appended == 1
                assert await other.fetchval("SELECT max(position) FROM log") == receipt.position
                assert await changes_in(other) == ["1"]
            else:
                with pytest.raises(Outage):
                    await append
                assert await changes_in(other) == []
            assert cut.happened.is_set()
            assert proxy.connections == 2

    run(main())


@pytest.mark.parametrize(
    "where",
    [mark("contacts/needle/0"), b"needle", b"INSERT INTO objects"],
    ids=["looking", "appending", "folding"],
)
def test_a_connection_lost_within_the_transaction_stores_nothing(
    dsn: str, keys: Keys, run: Any, where: bytes
) -> None:
    """When the connection breaks before COMMIT nothing was stored, and the caller is told so."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            cut = proxy.cut_at(where, up=True, passes=True)
            with pytest.raises(Outage):
                await w.append(hook(instance, change("needle")))
            assert cut.happened.is_set()
            assert await changes_in(other) == []
            assert await other.fetchval("SELECT count(*) FROM objects") == 0

    run(main())


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_receipts_tell_the_truth_whatever_breaks(server: str, template: str, seed: int) -> None:
    """Cut at random, again and again: acknowledged is exactly once in the log, Outage is not in it."""
    chance = random.Random(seed)  # noqa: S311 — a test's dice

    async def main(dsn: str) -> None:
        keys = Keys([("k1", bytes(32))])
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)

            async def one(n: int) -> bool:
                try:
                    unit = hook(instance, change(n))
                    return (await w.append(unit, patient=n % 3 == 0)).appended == 1
                except Outage:
                    return False

            tasks = []
            for n in range(60):
                tasks.append(asyncio.create_task(one(n)))
                if n % 6 == 5:
                    chance.choice([proxy.lose_commit, proxy.lose_answer, proxy.race_commit])()
                if n % 20 == 13:
                    proxy.cut()
                await asyncio.sleep(chance.random() / 200)
            kept = await asyncio.gather(*tasks)
            found = await changes_in(other)
            assert len(found) == len(set(found))
            assert sorted(map(int, found)) == [n for n in range(60) if kept[n]]
            assert all(kept[n] for n in range(0, 60, 3))

    with copied(server, template) as dsn:
        uvloop.run(main(dsn))


def test_an_outage_is_told_from_a_mistake() -> None:
    """A connection that broke, a server that shuts down and our own word for it are outages; bad data never is."""
    away = [
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 12"),
        asyncpg.exceptions.AdminShutdownError(),
        asyncpg.exceptions.CannotConnectNowError(),
        Outage(),
    ]
    mistakes = [
        asyncpg.DataError(),
        asyncpg.exceptions._base.DataError("invalid input for query argument $1"),
        asyncpg.CheckViolationError(),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        NotOwner(),
    ]
    assert all(map(is_outage, away))
    assert not any(map(is_outage, mistakes))


def test_a_second_writer_is_refused(dsn: str, keys: Keys, run: Any) -> None:
    """While one process owns the database another's writer does not open, and does when the first has gone."""

    async def main() -> None:
        async with writing(dsn, keys):
            second = Writer(dsn=dsn, keys=keys)
            with pytest.raises(NotOwner):
                await second.open(patience=0.3)
            with pytest.raises(Outage):
                await second.append(opening())
        async with writing(dsn, keys) as w:
            await w.append(opening())

    run(main())


def test_who_lost_the_connection_lost_the_pen(
    dsn: str, keys: Keys, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer whose connection broke cannot write while another owns the database, and ends with NotOwner."""
    monkeypatch.setattr(writer, "LOST_PATIENCE", 0.5)

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other:
            first = Writer(dsn=proxy.dsn, keys=keys)
            await first.open()
            running = asyncio.create_task(first.run())
            await first.append(opening())
            instance = await create_instance(first)
            proxy.refusing = True
            proxy.cut()
            async with writing(dsn, keys) as second:
                waiting = asyncio.create_task(
                    first.append(hook(instance, change("mine")), patient=True)
                )
                proxy.refusing = False
                await second.append(hook(instance, change("theirs")))
                with pytest.raises(NotOwner):
                    await running
                with pytest.raises(Outage):
                    await waiting
                assert await changes_in(other) == ["theirs"]
                assert not first.connected

    run(main())


def test_stopping_answers_everybody(dsn: str, keys: Keys, run: Any) -> None:
    """A writer that is cancelled in the middle of a group leaves no caller waiting for ever."""

    async def main() -> None:
        async with Proxy(dsn) as proxy:
            w = Writer(dsn=proxy.dsn, keys=keys)
            await w.open()
            running = asyncio.create_task(w.run())
            await w.append(opening())
            asked = proxy.watch_commit()
            first = asyncio.create_task(w.append(Unit([state(token="a")]), patient=True))
            await asked.happened.wait()
            second = asyncio.create_task(w.append(Unit([state(token="b")]), patient=True))
            await until(lambda: len(w._waiting) == 1)
            running.cancel()
            proxy.cut()
            proxy.resume()
            results = await asyncio.gather(first, second, return_exceptions=True)
            assert [type(r) for r in results] == [Outage, Outage]
            with pytest.raises(asyncio.CancelledError):
                await running

    run(main())


def test_too_much_waiting_is_refused(
    dsn: str, keys: Keys, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue before the writer has a bound: beyond it a caller hears Outage."""
    monkeypatch.setattr(writer, "WAITING_MOST", 3)

    async def main() -> None:
        async with Proxy(dsn) as proxy, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            asked = proxy.watch_commit()
            tasks = [asyncio.create_task(w.append(Unit([state(token="0")])))]
            await asked.happened.wait()
            tasks += [
                asyncio.create_task(w.append(Unit([state(token=str(n))]))) for n in range(1, 4)
            ]
            await until(lambda: len(w._waiting) == 3)
            with pytest.raises(Outage, match="too much"):
                await w.append(Unit([state(token="x")]))
            proxy.resume()
            await asyncio.gather(*tasks)

    run(main())


def test_whoever_gave_up_is_not_stored(dsn: str, keys: Keys, run: Any) -> None:
    """A unit whose caller was cancelled while it waited (a webhook that timed out) is left out."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            asked = proxy.watch_commit()
            first = asyncio.create_task(w.append(hook(instance, change(1))))
            await asked.happened.wait()
            second = asyncio.create_task(w.append(hook(instance, change(2))))
            await until(lambda: len(w._waiting) == 1)
            second.cancel()
            proxy.resume()
            await first
            await w.append(hook(instance, change(3)))
            assert await changes_in(other) == ["1", "3"]

    run(main())


def test_a_full_disk_is_waited_out_without_haste(dsn: str, keys: Keys, run: Any) -> None:
    """While the server takes nothing, a patient unit is tried again with growing pauses, and stored in the end."""

    async def main() -> None:
        async with (
            Proxy(dsn) as proxy,
            connected(dsn, role=None) as owner,
            writing(proxy.dsn, keys) as w,
        ):
            await w.append(opening())
            instance = await create_instance(w)
            await owner.execute(
                "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE EXCEPTION 'no space' USING ERRCODE = 'disk_full'; END $$"
            )
            await owner.execute(
                "CREATE TRIGGER no_space BEFORE INSERT ON objects EXECUTE FUNCTION no_space()"
            )
            waiting = asyncio.create_task(w.append(hook(instance, change(1)), patient=True))
            await until(lambda: proxy.connections >= 4)
            assert w._pause >= 0.2
            await owner.execute("DROP TRIGGER no_space ON objects")
            assert (await waiting).appended == 1
            assert w._pause == 0

    run(main())


def test_partitions_are_there_before_they_are_needed(dsn: str, keys: Keys, run: Any) -> None:
    """A group that crosses the end of a partition is stored, also right after a start and after groups that failed."""

    async def main() -> None:
        async with connected(dsn, role=None) as owner:
            async with writing(dsn, keys) as w:
                await w.append(opening())
                instance = await create_instance(w)
            # The head is far below: what was drawn counts, and rolled back groups have drawn as well.
            await owner.execute("SELECT setval('log_position', 19999995)")
            async with writing(dsn, keys) as w:
                receipt = await w.append(hook(instance, *[change(n) for n in range(10)]))
                assert receipt.position == 19_999_996
                rows = await owner.fetch(
                    "SELECT tableoid::regclass::text AS part, count(*) AS n FROM log"
                    " WHERE kind = 'change' GROUP BY 1 ORDER BY 1"
                )
                assert [(r["part"], r["n"]) for r in rows] == [("log_1", 4), ("log_2", 6)]
                await owner.execute("SELECT setval('log_position', 29900000)")
                with pytest.raises(Exception, match="json"):
                    await w.append(hook(instance, change("x"), raw="{"))
                await until_row(owner, "SELECT to_regclass('log_3')::text")

    run(main())


def test_a_reader_does_not_hold_up_a_new_partition(dsn: str, keys: Keys, run: Any) -> None:
    """While a dump reads the log and another transaction appends, partitions are made at once."""

    async def main() -> None:
        async with (
            connected(dsn) as reader,
            connected(dsn) as appender,
            connected(dsn) as other,
            reader.transaction(),
            appender.transaction(),
        ):
            await reader.fetch("SELECT * FROM log")
            await log.append(appender, [Entry("log.opened", data='{"id": "01020304"}')])
            async with asyncio.timeout(5):
                assert await log.extend(other, 45_000_000) == 50_000_000
            assert await log.head(other) == 0

    run(main())


def test_nothing_is_appended_about_an_instance_after_its_end(
    dsn: str, keys: Keys, run: Any
) -> None:
    """Changes and secrets of an instance that go with or after its deletion are left out, and its secrets are gone."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, connected(dsn) as other, writing(proxy.dsn, keys) as w:
            await w.append(opening())
            instance = (await w.append(Unit([state(key=True)], secrets={"password": "x"}))).position
            asked = proxy.watch_commit()
            first = asyncio.create_task(w.append(hook(instance, change(1))))
            await asked.happened.wait()
            end = Unit(
                [state("instance.deleted", instance_id=instance)],
                instance_id=instance,
                forget=True,
            )
            together = [
                end,
                hook(instance, change(2)),
                Unit(instance_id=instance, secrets={"password": "y"}),
                Unit([objects.poll_entry("poll.completed", instance, "contacts")]),
            ]
            tasks = [asyncio.create_task(w.append(unit)) for unit in together]
            await until(lambda: len(w._waiting) == 4)
            proxy.resume()
            await asyncio.gather(first, *tasks)
            late = await w.append(poll(instance, change(3)))
            assert (late.position, late.appended) == (0, 0)
            assert await changes_in(other) == ["1"]
            for table in ("vault", "objects", "seen", "cursors", "instances"):
                assert await other.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 — our own names

    run(main())


def test_another_process_appends_and_is_heard(dsn: str, keys: Keys, run: Any) -> None:
    """`append_once` stores beside a running writer, and who listens is told when it has committed."""

    async def main() -> None:
        async with connected(dsn) as listening, connected(dsn) as other, writing(dsn, keys) as w:
            heard = asyncio.Event()
            await listening.add_listener("tidings", lambda *args: heard.set())
            await w.append(opening())
            receipt = await append_once(other, keys, Unit([state()], secrets={"k": "v"}))
            async with asyncio.timeout(5):
                await heard.wait()
            assert await other.fetchval("SELECT id FROM instances") == receipt.position
            assert await other.fetchval("SELECT instance_id FROM vault") == receipt.position

    run(main())


def test_on_append_hears_what_kinds_came(dsn: str, keys: Keys, run: Any) -> None:
    """After each commit, and only for what was appended, the listener is given the kinds."""
    heard: list[frozenset[str]] = []

    async def main() -> None:
        async with writing(dsn, keys, heard.append) as w:
            await w.append(opening())
            instance = await create_instance(w)
            await w.append(hook(instance, change(1)))
            await w.append(hook(instance, change(1)))
            await w.append(Unit(instance_id=instance, secrets={"a": "b"}))
        assert heard == [
            frozenset({"log.opened", "user.added"}),
            frozenset({"instance.created"}),
            frozenset({"change"}),
        ]

    run(main())


def test_if_changed_goes_only_with_a_change(dsn: str, keys: Keys, run: Any) -> None:
    """A poll's cursor moves in the transaction of its changes, and not at all when there were none."""

    async def main() -> None:
        async with connected(dsn) as other, writing(dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            entry = objects.poll_entry("poll.completed", instance, "contacts", cursor="2026-01-01")
            for _ in range(2):
                unit = Unit(intakes=poll(instance, change(1)).intakes, if_changed=[entry])
                await w.append(unit)
            kinds = await other.fetch("SELECT kind FROM log WHERE instance_id = $1", instance)
            assert [k["kind"] for k in kinds] == ["instance.created", "change", "poll.completed"]

    run(main())
