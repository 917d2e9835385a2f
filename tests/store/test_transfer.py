"""The log as a file: a database that was given it is the one that it came from."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import asyncpg
import orjson
import pytest
import uvloop
from databases import copied
from dispatching import Answered, Receiver, Request, dispatching
from heart import LOG_ID, change, connected, create_instance, dumped, opening, poll, writing
from histories import KINDS, History
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.errors import ConfigError, Invalid
from daemon.store import database, log, projections, transfer, vault
from daemon.store.transfer import Restored
from daemon.store.vault import Keys
from daemon.store.writer import Unit

steps = st.tuples(
    st.integers(0, KINDS - 1), st.integers(0, 7), st.integers(0, 9), st.integers(0, 5)
)
histories = st.lists(st.lists(steps, min_size=1, max_size=7), min_size=1, max_size=10)

ROWS = "SELECT log::text FROM log ORDER BY position"
VAULT = "SELECT vault::text FROM vault ORDER BY 1"

URL = "https://app.test/hook"


async def exported(db: Any, **chosen: Any) -> list[bytes]:
    """The lines of an export."""
    pieces = [piece.lines async for piece in transfer.export(db, **chosen)]
    return b"".join(pieces).splitlines(keepends=True)


async def grouped(lines: list[bytes], size: int = 3) -> AsyncIterator[Iterable[bytes]]:
    """*lines*, some at a time."""
    for start in range(0, len(lines), size):
        yield lines[start : start + size]


async def restored(conn: Any, keys: Keys, lines: list[bytes], skip: int = 0) -> Restored:
    """Import *lines* in one transaction."""
    async with conn.transaction():
        restoring = transfer.restore(conn, grouped(lines), keys=keys, skip=skip)
        return [state async for state in restoring][-1]


async def column(conn: Any, query: str) -> list[str]:
    """The first column of *query*."""
    return [row[0] for row in await conn.fetch(query)]


async def wiped(conn: Any) -> None:
    """Empty the log as well: only a superuser with all triggers off can."""
    await conn.execute("SET session_replication_role = replica")
    await conn.execute(projections.EMPTY + ", log, vault")
    await conn.execute("RESET session_replication_role")
    await conn.execute("SELECT setval('log_position', 1, false)")


@pytest.fixture
def pair(server: str, template: str, dsn: str) -> Iterator[tuple[str, str]]:
    """A database to work with, and an empty one."""
    with copied(server, template) as empty:
        yield dsn, empty


@pytest.fixture(scope="module")
def desks(server: str, template: str) -> Iterator[tuple[asyncio.Runner, Any, Any]]:
    """Connections as the owner to two databases for many histories, and what runs coroutines with them."""
    with (
        copied(server, template) as one,
        copied(server, template) as other,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        conns = [runner.run(database.connect(dsn, role=None)) for dsn in (one, other)]
        yield runner, conns[0], conns[1]
        for conn in conns:
            runner.run(conn.close())


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(groups=histories)
def test_every_row_comes_over(desks: tuple[asyncio.Runner, Any, Any], groups: Any) -> None:
    """Whatever happened: log, vault and each projection are the same rows after export and import, and so is a second export."""
    keys = Keys([("k1", bytes(32))])

    async def main(old: Any, new: Any) -> None:
        await wiped(old)
        await wiped(new)
        await History(old, keys).run(groups)
        lines = await exported(old, secrets=True)
        await restored(new, keys, lines)

        for query in (ROWS, VAULT):
            assert await column(old, query) == await column(new, query)
        assert await dumped(old) == await dumped(new)
        assert await log.drawn(old) == await log.drawn(new)
        assert lines == await exported(new, secrets=True)

    runner, old, new = desks
    runner.run(main(old, new))


def test_what_was_settled_is_not_sent_again(pair: tuple[str, str], keys: Keys, run: Any) -> None:
    """On the imported database a dispatcher sends all that was open, and nothing that was delivered, dead or in another's order."""

    def refuse(request: Request) -> Answered:
        return Answered(500 if {"2", "5"} & set(request.objects) else 200)

    async def main(dsn: str, empty: str) -> None:
        receiver = Receiver(refuse)
        async with dispatching(dsn, keys, receiver) as world:
            instance = await create_instance(world.writer, url=URL)
            await world.directory.refresh()
            for number in range(8):
                await world.writer.append(poll(instance, change(number)))
            await world.settled({"delivered": 6, "retrying": 2})
            # Nobody is there to tell of these.
            await world.stop()
        async with writing(dsn, keys) as writer:
            await writer.append(poll(instance, change(8)))
            await writer.append(poll(instance, change(2, 1, kind="UPDATED")))
        async with connected(dsn, role=None) as old, connected(empty, role=None) as new:
            await restored(new, keys, await exported(old, secrets=True))

        again = Receiver()
        async with dispatching(empty, keys, again) as world:
            await world.accepted(1)
            world.later(7200)
            await world.settled({"delivered": 10})
        assert ["2", "2", "5", "8"] == sorted(again.order)
        assert {r.id for r in again.accepted}.isdisjoint(r.id for r in receiver.accepted)
        tried = {r.id for r in receiver.requests} - {r.id for r in receiver.accepted}
        assert tried < {r.id for r in again.accepted}

    run(main(*pair))


def test_positions_go_on_behind_those_drawn(pair: tuple[str, str], keys: Keys, run: Any) -> None:
    """The first entry after an import stands behind every position that the other log had drawn, and behind what was skipped."""

    async def main(dsn: str, empty: str) -> None:
        async with writing(dsn, keys) as writer, connected(dsn, role=None) as old:
            await writer.append(opening())
            await old.fetch(log.DRAW, 40)  # as a transaction does that is rolled back then
            lines = await exported(old)
            assert 42 == orjson.loads(lines[0])["drawn"]
        async with connected(empty, role=None) as new:
            await restored(new, keys, lines, skip=20_000_000)
        async with writing(empty, keys) as writer:
            assert 20_000_043 == await create_instance(writer)
        async with connected(empty) as new:
            assert LOG_ID == await log.log_id(new)

    run(main(*pair))


def test_a_part_of_the_log(pair: tuple[str, str], keys: Keys, run: Any) -> None:
    """`until` gives the log as it was at that position, which can be imported; what begins later is no log and is refused."""

    async def main(dsn: str, empty: str) -> None:
        async with writing(dsn, keys) as writer, connected(dsn, role=None) as old:
            await writer.append(opening())
            instance = await create_instance(writer, url=URL)
            await writer.append(poll(instance, *map(change, range(5))))
            part = await exported(old, until=instance + 2, secrets=True)
            rest = await exported(old, since=instance + 3)
            rows = await column(old, ROWS)
        async with connected(empty, role=None) as new:
            with pytest.raises(Invalid, match="only an export from the first"):
                await restored(new, keys, rest)
            await restored(new, keys, part)
            assert rows[: instance + 2] == await column(new, ROWS)
            # Ids of notifications that were sent are not given anew.
            assert await log.drawn(new) == instance + 5

    run(main(*pair))


def _cut(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def _missing(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], *lines[3:]]


def _swapped(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def _twice(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[-1]]


def _headless(lines: list[bytes]) -> list[bytes]:
    return lines[1:]


def _of_another_schema(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b'"schema":1', b'"schema":99'), *lines[1:]]


def _of_no_kind(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b"log.opened", b"log.closed"), *lines[2:]]


def _without_opening(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *lines[2:-1], lines[-1].replace(b'"entries":3', b'"entries":2')]


def _no_json(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b"{", *lines[2:]]


def _no_time(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"appended":"', b'"appended":"x'), *lines[2:]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, "line 5: is missing"),
        (_missing, "line 4: counts"),
        (_swapped, "line 3: should have a position above 2"),
        (_twice, "line 6: stands behind the end"),
        (_headless, "line 1: is not the head"),
        (_of_another_schema, "line 1: is of schema 99"),
        (_of_no_kind, "lines 1 to 3: cannot be stored"),
        (_without_opening, "log.opened"),
        (_no_json, "line 3: is not JSON"),
        (_no_time, "line 2: appended"),
    ],
)
def test_what_is_not_whole_is_refused_and_nothing_stays(
    pair: tuple[str, str],
    keys: Keys,
    run: Any,
    spoil: Callable[[list[bytes]], list[bytes]],
    said: str,
) -> None:
    """Cut, changed or reordered lines are refused with their number, and the database is as empty as it was."""

    async def main(dsn: str, empty: str) -> None:
        async with writing(dsn, keys) as writer, connected(dsn, role=None) as old:
            await writer.append(opening())
            await create_instance(writer)
            lines = await exported(old)
        async with connected(empty, role=None) as new:
            with pytest.raises(Invalid, match=said):
                await restored(new, keys, spoil(lines))
            assert await new.fetchval(transfer.EMPTY)
            assert 3 == (await restored(new, keys, lines)).entries

    run(main(*pair))


def test_only_an_empty_database_takes_a_log(dsn: str, keys: Keys, run: Any) -> None:
    """A database with one entry refuses, and says what to do."""

    async def main() -> None:
        async with writing(dsn, keys) as writer, connected(dsn, role=None) as conn:
            await writer.append(opening())
            with pytest.raises(Invalid, match="not empty"):
                await restored(conn, keys, await exported(conn))

    run(main())


def test_a_vault_that_does_not_open_is_refused(pair: tuple[str, str], keys: Keys, run: Any) -> None:
    """Secrets travel sealed and open with the same key file only: another one is refused before anything is stored."""

    async def main(dsn: str, empty: str) -> None:
        async with writing(dsn, keys) as writer, connected(dsn, role=None) as old:
            await writer.append(opening())
            instance = await create_instance(writer)
            await writer.append(
                Unit(instance_id=instance, secrets={"a": "hush", "b": "\N{SNOWMAN}"})
            )
            lines = await exported(old, secrets=True)
            assert b"hush" not in b"".join(lines)
            assert b"secret" not in b"".join((await exported(old))[:-1])
        async with connected(empty, role=None) as new:
            with pytest.raises(ConfigError, match="'k1'"):
                await restored(new, Keys([("k2", bytes(32))]), lines)
            assert await new.fetchval(transfer.EMPTY)
            await restored(new, keys, lines)
            assert {"a": "hush", "b": "\N{SNOWMAN}"} == await vault.get(new, keys, instance)

    run(main(*pair))


def test_the_imported_log_is_as_append_only(pair: tuple[str, str], keys: Keys, run: Any) -> None:
    """In partitions that the import made, even the owner cannot delete."""

    async def main(dsn: str, empty: str) -> None:
        async with writing(dsn, keys) as writer, connected(dsn, role=None) as old:
            await writer.append(opening())
            lines = await exported(old)
        async with connected(empty, role=None) as new:
            await restored(new, keys, lines)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await new.execute("DELETE FROM log")

    run(main(*pair))
