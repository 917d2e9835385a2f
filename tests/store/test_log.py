"""The log: positions become visible in order, and what is in it stays as it is."""

import asyncio
from typing import Any

import asyncpg
import pytest
from heart import LOG_ID, change, connected, create_instance, hook, opening, state, writing
from hypothesis import given
from hypothesis import strategies as st

from daemon.store import database, log
from daemon.store.log import Entry
from daemon.store.vault import Keys
from daemon.store.writer import Unit, append_once

AFTER = "SELECT position FROM log WHERE position > $1 ORDER BY position"

WITHOUT_LOCK = """
CREATE OR REPLACE FUNCTION log_draw(n integer, OUT first bigint, OUT xid text) LANGUAGE plpgsql AS $$
BEGIN
    first := nextval('log_position');
    xid := pg_current_xact_id()::text;
END $$
"""


def test_a_reader_by_position_misses_nothing(dsn: str, keys: Keys, run: Any) -> None:
    """While five connections append at once, a reader of `position > last` sees every entry that was committed."""

    async def appender(number: int) -> list[int]:
        async with connected(dsn) as conn:
            units = [Unit([state(token=f"{number}/{n}")] * 1) for n in range(25)]
            return [(await append_once(conn, keys, unit)).position for unit in units]

    async def main() -> None:
        async with connected(dsn) as reader:
            appending = asyncio.gather(*[appender(number) for number in range(5)])
            seen: list[int] = []
            while not appending.done():
                seen += [r[0] for r in await reader.fetch(AFTER, max(seen, default=0))]
            positions = sorted(p for many in await appending for p in many)
            seen += [r[0] for r in await reader.fetch(AFTER, max(seen, default=0))]
            assert seen == positions
            assert len(seen) == 125

    run(main())


@pytest.mark.parametrize("locked", [True, False])
def test_it_is_the_lock_that_keeps_the_order(dsn: str, run: Any, *, locked: bool) -> None:
    """A transaction that began to append later waits for the earlier; without the lock a reader loses the earlier's entry."""

    async def main() -> None:
        async with (
            connected(dsn, role=None) as owner,
            connected(dsn) as early,
            connected(dsn) as late,
            connected(dsn) as reader,
        ):
            if not locked:
                await owner.execute(WITHOUT_LOCK)
            entry = Entry("log.opened", data='{"id": "01020304"}')
            begun = early.transaction()
            await begun.start()
            await log.append(early, [entry])

            async def second() -> None:
                async with late.transaction():
                    await log.append(late, [entry])

            task = asyncio.create_task(second())
            if locked:
                waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                while not await reader.fetchval(waits):
                    assert not task.done()
            else:
                await task
            last = max([r[0] for r in await reader.fetch(AFTER, 0)], default=0)
            await begun.commit()
            await task
            told = [r[0] for r in await reader.fetch(AFTER, last)]
            assert (last, told) == ((0, [1, 2]) if locked else (2, []))

    run(main())


CHANGING = [
    "UPDATE log SET kind = 'user.added'",
    "UPDATE log SET data = data WHERE position = 1",
    "DELETE FROM log",
    "TRUNCATE log",
    "UPDATE log_0 SET kind = 'user.added'",
    "DELETE FROM log_0",
    "TRUNCATE log_0",
    "DELETE FROM log_1",
    "TRUNCATE log_1",
]


@pytest.mark.parametrize("role", [None, database.ROLE], ids=["owner", "daemon"])
def test_nobody_changes_the_log(dsn: str, keys: Keys, run: Any, role: str | None) -> None:
    """Neither the daemon's role nor the owner updates, deletes or empties the log or a partition, old or new."""

    async def main() -> None:
        async with connected(dsn, role=None) as owner, connected(dsn, role=role) as conn:
            await append_once(owner, keys, opening())
            await owner.execute("SELECT setval('log_position', 10000001)")
            await append_once(owner, keys, Unit([state()]))
            before = await owner.fetch("SELECT position, data::text FROM log ORDER BY 1")
            assert len(before) == 3
            for statement in CHANGING:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(statement)
            assert await owner.fetch("SELECT position, data::text FROM log ORDER BY 1") == before

    run(main())


def test_the_daemon_may_not_touch_the_schema(dsn: str, run: Any) -> None:
    """The daemon's role can neither drop nor alter the log, nor switch its triggers off; partitions it gets by a function."""

    async def main() -> None:
        async with connected(dsn) as conn:
            for statement in (
                "DROP TABLE log",
                "ALTER TABLE log DISABLE TRIGGER ALL",
                "DROP TABLE log_0",
                "ALTER TABLE log DETACH PARTITION log_0",
                "CREATE TABLE more (a int)",
                "SET session_replication_role = replica",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(statement)
            assert await log.extend(conn, 25_000_000) == 30_000_000

    run(main())


def test_a_partition_is_like_the_others(dsn: str, run: Any) -> None:
    """A partition made later has the constraints, indexes and triggers of the first."""
    parts = """
    SELECT (SELECT array_agg(pg_get_constraintdef(oid) ORDER BY pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = $1::regclass),
           (SELECT count(*) FROM pg_index WHERE indrelid = $1::regclass),
           (SELECT array_agg(tgname::text ORDER BY tgname) FROM pg_trigger WHERE tgrelid = $1::regclass)
    """

    async def main() -> None:
        async with connected(dsn) as conn:
            await log.extend(conn, 45_000_000)
            first, last = await conn.fetchrow(parts, "log_0"), await conn.fetchrow(parts, "log_4")
            assert tuple(first) == tuple(last)
            assert last[1] == 4
            assert set(last[2]) == {"log_never_changes", "log_never_empties"}

    run(main())


def test_times_rise_with_positions(dsn: str, keys: Keys, run: Any) -> None:
    """However transactions overlap, an entry with a higher position was appended no earlier."""

    async def main() -> None:
        async with connected(dsn) as a, connected(dsn) as b:
            first = a.transaction()
            await first.start()
            await a.fetchval("SELECT now()")
            await append_once(b, keys, opening())
            await log.append(a, [Entry("log.opened", data="{}")])
            await first.commit()
            rows = await b.fetch("SELECT appended FROM log ORDER BY position")
            times = [r[0] for r in rows]
            assert times == sorted(times)
            assert len(times) == 3

    run(main())


def test_json_goes_out_as_it_came(dsn: str, keys: Keys, run: Any) -> None:
    """What a provider wrote is kept to the letter: spaces, order of keys, doubled keys, large numbers, escapes."""
    written = '{ "b" : 1.50,  "a":[1e400, 18446744073709551616], "b":"\\u0000\\/é" }'

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w)
            receipt = await w.append(hook(instance, change(1), raw=written))
            entry = await log.entry(conn, receipt.position)
            assert entry["data"] == written

    run(main())


@given(
    notification=st.integers(1, 2**47),
    replay=st.integers(0, 2**39),
    other=st.binary(min_size=4, max_size=4),
)
def test_an_event_id_names_its_notification(notification: int, replay: int, other: bytes) -> None:
    """An event id has 20 characters, gives its position back, and means nothing to another log."""
    event = log.event_id(LOG_ID, notification, replay)
    assert len(event) == 20
    assert log.position_of(LOG_ID, event) == notification
    assert other == LOG_ID or log.position_of(other, event) is None


@given(st.text(max_size=24))
def test_any_text_may_be_asked_for_as_an_event(text: str) -> None:
    """Whatever stands where an event id should is answered, not raised."""
    assert log.position_of(LOG_ID, text) is None or len(text) == 20
