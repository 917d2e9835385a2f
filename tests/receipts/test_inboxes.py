"""The inboxes: an id and its effect are there together or not at all, whatever happens around them."""

import asyncio
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import need

from daemon.receipts import Question, Receipts
from daemon.receiver import MemoryInbox, PostgresInbox, PsycopgInbox, SqliteInbox

try:
    import psycopg
except ImportError:
    psycopg = None

DAY = 86_400
EFFECTS = "CREATE TABLE effects (id text)"


def clock(at: list[float]) -> Callable[[], float]:
    """A clock that shows what is in the list."""
    return lambda: at[0]


# ── PostgreSQL, asyncpg ──────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection, which is closed: a loop that ends with an open one hangs instead of failing."""
    conn = await asyncpg.connect(dsn)
    try:
        yield conn
    finally:
        conn.terminate()


@asynccontextmanager
async def prepared(dsn: str, inbox: PostgresInbox) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the inbox and a table for effects."""
    async with connected(dsn) as conn:
        await inbox.create(conn)
        await conn.execute(EFFECTS)
        yield conn


async def once(conn: Any, inbox: PostgresInbox, message_id: str, **transaction: str) -> bool:
    """Have the effect if it is the first; whether it was."""
    async with conn.transaction(**transaction):
        first = await inbox.first(conn, message_id)
        if first:
            await conn.execute("INSERT INTO effects VALUES ($1)", message_id)
    return first


def test_postgres_concurrent_duplicates(dsn: str, run: Any) -> None:
    """Of many requests with the same ids at the same time, over many connections, each id has one effect."""
    inbox = PostgresInbox()

    async def main() -> None:
        async with prepared(dsn, inbox) as conn:
            async with asyncpg.create_pool(dsn, min_size=8, max_size=8) as pool:

                async def request(message_id: str) -> bool:
                    async with pool.acquire() as one:
                        return await once(one, inbox, message_id)

                answers = await asyncio.gather(*(request(f"id {n % 10}") for n in range(200)))
            effects = [row["id"] for row in await conn.fetch("SELECT id FROM effects ORDER BY id")]
            assert effects == [f"id {n}" for n in range(10)]
            assert sum(answers) == 10

    run(main())


@pytest.mark.parametrize("commits", [True, False])
def test_postgres_waits_for_the_transaction_that_is_at_it(
    dsn: str, run: Any, *, commits: bool
) -> None:
    """While one transaction holds an id another waits: if the one commits it is a repeat, else it is the first."""
    inbox = PostgresInbox()

    async def main() -> None:
        async with prepared(dsn, inbox) as one, connected(dsn) as other, connected(dsn) as watch:
            transaction = one.transaction()
            await transaction.start()
            assert await inbox.first(one, "a")
            assert await inbox.receipts(watch, Question(("a",), 0)) == Receipts(
                unknown=frozenset("a")
            )
            waiting = asyncio.ensure_future(once(other, inbox, "a"))
            while not await watch.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'",
                other.get_server_pid(),
            ):
                assert not waiting.done()
            await (transaction.commit() if commits else transaction.rollback())
            assert await waiting is not commits
            assert await watch.fetchval("SELECT count(*) FROM effects") == (0 if commits else 1)
            assert await inbox.receipts(watch, Question(("a",), 0)) == Receipts(frozenset("a"))

    run(main())


def test_postgres_a_crash_before_the_commit_leaves_no_id(dsn: str, run: Any) -> None:
    """When the process dies between effect and commit neither is there, and the repeat is the first."""
    inbox = PostgresInbox()

    async def main() -> None:
        async with prepared(dsn, inbox) as watch, connected(dsn) as dying:
            await dying.execute("BEGIN")
            assert await inbox.first(dying, "a")
            await dying.execute("INSERT INTO effects VALUES ('a')")
            pid = dying.get_server_pid()
            dying.terminate()
            while await watch.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):
                pass
            assert (await inbox.receipts(watch, Question(("a",), 0))).unknown == {"a"}
            assert await once(watch, inbox, "a")
            assert await watch.fetchval("SELECT count(*) FROM effects") == 1

    run(main())


def test_postgres_stricter_isolation_fails_instead_of_doing_it_twice(dsn: str, run: Any) -> None:
    """Under REPEATABLE READ and SERIALIZABLE, too, there is one effect; the loser is told to come again."""
    inbox = PostgresInbox()

    async def main() -> None:
        async with prepared(dsn, inbox) as one, connected(dsn) as other:
            for level in ("repeatable_read", "serializable"):
                async with other.transaction(isolation=level):
                    await other.fetchval("SELECT count(*) FROM effects")  # its snapshot is taken
                    assert await once(one, inbox, level)
                    with pytest.raises(asyncpg.SerializationError):
                        async with other.transaction():
                            await inbox.first(other, level)
                assert not await once(other, inbox, level, isolation=level)
            assert await one.fetchval("SELECT count(*) FROM effects") == 2

    run(main())


def test_postgres_wants_a_transaction(dsn: str, run: Any) -> None:
    """Outside a transaction `first` refuses, and stores nothing."""
    inbox = PostgresInbox()

    async def main() -> None:
        async with prepared(dsn, inbox) as conn:
            with pytest.raises(RuntimeError, match="transaction"):
                await inbox.first(conn, "a")
            assert (await inbox.receipts(conn, Question(("a",), 0))).unknown == {"a"}

    run(main())


def test_postgres_table_is_made_by_many_at_once(dsn: str, run: Any) -> None:
    """Processes that start at the same time may all call `create`."""

    async def main() -> None:
        async with asyncpg.create_pool(dsn, min_size=8, max_size=8) as pool:

            async def create() -> None:
                async with pool.acquire() as conn:
                    await PostgresInbox().create(conn)

            await asyncio.gather(*(create() for _ in range(16)))

    run(main())


def test_postgres_names_keep_inboxes_apart(dsn: str, run: Any) -> None:
    """Two receivers in one database each have their effect of one id."""
    one, other = PostgresInbox("one"), PostgresInbox("other")

    async def main() -> None:
        async with prepared(dsn, one) as conn:
            assert await once(conn, one, "a")
            assert (await other.receipts(conn, Question(("a",), 0))).unknown == {"a"}
            assert await once(conn, other, "a")
            assert not await once(conn, one, "a")

    run(main())


# ── PostgreSQL, psycopg ──────────────────────────────────────────────────────────────────────────────


def test_psycopg_concurrent_duplicates(dsn: str) -> None:
    """Threads with a connection each have one effect for each id."""
    need(psycopg, "psycopg")
    inbox = PsycopgInbox()
    with psycopg.connect(dsn) as conn:
        conn.execute(EFFECTS)
    failures: list[Exception] = []

    def work() -> None:
        try:
            with psycopg.connect(dsn) as conn:
                inbox.create(conn)
                conn.commit()
                for n in range(20):
                    with conn.transaction():
                        if inbox.first(conn, f"id {n}"):
                            conn.execute("INSERT INTO effects VALUES (%s)", [f"id {n}"])
        except Exception as error:  # noqa: BLE001 — a thread's failure is this test's
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    with psycopg.connect(dsn) as conn:
        counted = conn.execute("SELECT count(*), count(DISTINCT id) FROM effects").fetchone()
    assert counted == (20, 20)


def test_psycopg_transactions_and_rows(dsn: str) -> None:
    """A rollback leaves no id; autocommit without a transaction is refused; any usual row factory will do."""
    need(psycopg, "psycopg")
    inbox = PsycopgInbox()
    question = Question(("a", "b"), 0)
    factories = psycopg.rows.tuple_row, psycopg.rows.dict_row, psycopg.rows.namedtuple_row
    with psycopg.connect(dsn) as conn:
        inbox.create(conn)
        conn.commit()
        assert inbox.first(conn, "a")
        conn.rollback()
        assert inbox.receipts(conn, question).unknown == {"a", "b"}
        assert inbox.first(conn, "a")
        conn.commit()
        for factory in factories:
            conn.row_factory = factory
            assert inbox.receipts(conn, question) == Receipts(frozenset("a"), frozenset("b"))
    with psycopg.connect(dsn, autocommit=True) as conn:
        for refused in (inbox.create, lambda one: inbox.first(one, "b"), inbox.forget):
            with pytest.raises(RuntimeError, match="transaction"):
                refused(conn)
        with conn.transaction():
            assert inbox.first(conn, "b")


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────────────


def opened(path: str | Path = ":memory:", **options: Any) -> sqlite3.Connection:
    """A database with the inbox and a table for effects."""
    conn = sqlite3.connect(path, timeout=20, **options)
    SqliteInbox().create(conn)
    conn.execute(EFFECTS.replace("TABLE", "TABLE IF NOT EXISTS"))
    conn.commit()
    return conn


def test_sqlite_concurrent_duplicates(tmp_path: Path) -> None:
    """Threads with a connection each to one file have one effect for each id."""
    opened(tmp_path / "db").close()
    inbox = SqliteInbox()
    failures: list[Exception] = []

    def work() -> None:
        conn = sqlite3.connect(tmp_path / "db", timeout=20)
        try:
            for n in range(20):
                with conn:
                    conn.execute("BEGIN IMMEDIATE")
                    if inbox.first(conn, f"id {n}"):
                        conn.execute("INSERT INTO effects VALUES (?)", [f"id {n}"])
        except Exception as error:  # noqa: BLE001 — a thread's failure is this test's
            failures.append(error)
        finally:
            conn.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    conn = opened(tmp_path / "db")
    assert conn.execute("SELECT count(*), count(DISTINCT id) FROM effects").fetchone() == (20, 20)
    conn.close()


def test_sqlite_a_crash_before_the_commit_leaves_no_id(tmp_path: Path) -> None:
    """A connection that is gone before its commit leaves neither id nor effect."""
    inbox = SqliteInbox()
    conn = opened(tmp_path / "db")
    conn.execute("BEGIN IMMEDIATE")
    assert inbox.first(conn, "a")
    conn.execute("INSERT INTO effects VALUES ('a')")
    conn.close()
    conn = opened(tmp_path / "db")

    assert inbox.receipts(conn, Question(("a",), 0)).unknown == {"a"}
    assert conn.execute("SELECT count(*) FROM effects").fetchone() == (0,)
    conn.close()


@pytest.mark.parametrize(
    "options", [{}, {"isolation_level": None}, {"isolation_level": "IMMEDIATE"}]
)
def test_sqlite_wants_a_transaction(options: Any) -> None:
    """Whatever sqlite3 would begin by itself or not, `first` and `forget` refuse without a transaction."""
    conn, inbox = opened(**options), SqliteInbox()
    for refused in (lambda: inbox.first(conn, "a"), lambda: inbox.forget(conn)):
        with pytest.raises(RuntimeError, match="BEGIN IMMEDIATE"):
            refused()
        assert not conn.in_transaction
    conn.execute("BEGIN IMMEDIATE")
    assert inbox.first(conn, "a")
    conn.commit()
    conn.row_factory = sqlite3.Row
    assert inbox.receipts(conn, Question(("a",), 0)).received == {"a"}
    conn.close()


# ── what is forgotten ────────────────────────────────────────────────────────────────────────────────


def test_what_may_be_forgotten_is_not_unknown(dsn: str, run: Any) -> None:
    """After `forget` nothing is said of absent ids that may be older; younger ones are unknown as before."""
    now = [100.0 * DAY]
    inbox = PostgresInbox(clock=clock(now))

    async def main() -> None:
        async with prepared(dsn, inbox) as conn:
            await once(conn, inbox, "old")
            now[0] += 20 * DAY
            await once(conn, inbox, "young")
            now[0] += 15 * DAY
            await inbox.forget(conn)
            horizon = int(now[0]) - 30 * DAY
            asked = ("old", "young", "never")

            assert await inbox.receipts(conn, Question(asked, 99 * DAY)) == Receipts(
                frozenset({"young"})
            )
            assert await inbox.receipts(conn, Question(asked)) == Receipts(frozenset({"young"}))
            assert await inbox.receipts(conn, Question(asked, horizon + 300)) == Receipts(
                frozenset({"young"})
            )
            assert await inbox.receipts(conn, Question(asked, horizon + 301)) == Receipts(
                frozenset({"young"}), frozenset({"old", "never"})
            )
            # A longer memory does not bring back what is forgotten.
            await inbox.forget(conn, keep=timedelta(days=90))
            assert not (await inbox.receipts(conn, Question(asked, 104 * DAY))).unknown
            with pytest.raises(ValueError, match="longer"):
                await inbox.forget(conn, keep=timedelta())

    run(main())


@pytest.mark.parametrize("kind", ["sqlite3", "psycopg"])
def test_what_may_be_forgotten_is_not_unknown_without_asyncio(dsn: str, kind: str) -> None:
    """The same with sqlite3 and psycopg: what was forgotten stays so when the next `forget` keeps more."""
    now = [100.0 * DAY]
    inbox: Any
    if kind == "psycopg":
        need(psycopg, "psycopg")
        inbox, conn = PsycopgInbox(clock=clock(now)), psycopg.connect(dsn, autocommit=True)
    else:
        inbox, conn = (
            SqliteInbox(clock=clock(now)),
            sqlite3.connect(":memory:", isolation_level=None),
        )
    conn.execute("BEGIN")
    inbox.create(conn)
    assert inbox.first(conn, "old")
    now[0] += 40 * DAY
    assert inbox.first(conn, "young")
    old, young = Question(("old", "young"), 100 * DAY), Question(("old", "young"), 120 * DAY)

    assert inbox.receipts(conn, old) == Receipts(frozenset({"old", "young"}))
    for keep in (timedelta(days=30), timedelta(days=90)):
        inbox.forget(conn, keep=keep)
        assert inbox.receipts(conn, old) == Receipts(frozenset({"young"}))
        assert inbox.receipts(conn, young) == Receipts(frozenset({"young"}), frozenset({"old"}))
    conn.execute("COMMIT")
    conn.close()


@pytest.mark.parametrize("message_id", ["", "a\0b"])
def test_ids_that_cannot_be_stored(message_id: str) -> None:
    """The empty id, which the inbox itself uses, and what a text column cannot hold are refused."""
    conn = opened()
    conn.execute("BEGIN IMMEDIATE")
    with pytest.raises(ValueError, match="id"):
        SqliteInbox().first(conn, message_id)
    with pytest.raises(ValueError, match="id"):
        MemoryInbox().first(message_id)
    conn.close()


# One thing that happens to an inbox: hours go by, an id arrives (and is committed or not), ids are forgotten.
happenings = st.one_of(
    st.tuples(st.just("time"), st.integers(1, 40)),
    st.tuples(st.just("arrives"), st.integers(0, 5)),
    st.tuples(st.just("fails"), st.integers(0, 5)),
    st.tuples(st.just("forget"), st.integers(1, 60)),
)


@settings(deadline=None)
@given(st.lists(happenings, max_size=30), st.lists(st.integers(0, 100), min_size=6, max_size=6))
def test_an_inbox_never_lies(history: list[tuple[str, int]], born: list[int]) -> None:
    """Received is what was committed and only that; nothing that was ever committed is called unknown.

    Each id has a moment at which it was born; it arrives later, and is asked for with that moment.
    """
    start = 1000 * DAY
    now = [float(start)]
    inbox, conn = SqliteInbox(clock=clock(now)), opened()
    births = [start + hours * 3600 for hours in born]
    committed: set[str] = set()
    forgetful = False
    for what, number in history:
        if what == "time":
            now[0] += number * 3600
        elif what == "forget":
            forgetful = True
            conn.execute("BEGIN")
            inbox.forget(conn, keep=timedelta(hours=number))
            conn.commit()
        elif now[0] >= births[number]:
            conn.execute("BEGIN")
            inbox.first(conn, str(number))
            if what == "arrives":
                conn.commit()
                committed.add(str(number))
            else:
                conn.rollback()
        for message_id, birth in zip("012345", births, strict=True):
            said = inbox.receipts(conn, Question((message_id,), birth))
            assert said.received <= committed
            assert not said.unknown & committed
            if not forgetful:
                assert said.received == committed & {message_id}
                assert said.unknown == {message_id} - committed
    conn.close()


# ── in memory ────────────────────────────────────────────────────────────────────────────────────────


def test_memory() -> None:
    """It knows what came since it was made, and says nothing of what may have come before."""
    now = [1000.5]
    inbox = MemoryInbox(clock=clock(now))

    assert inbox.first("a")
    assert not inbox.first("a")
    assert inbox.receipts(Question(("a", "b"), 1000)) == Receipts(frozenset("a"), frozenset("b"))
    assert inbox.receipts(Question(("a", "b"), 999)) == Receipts(frozenset("a"))
    assert inbox.receipts(Question(("a", "b"))) == Receipts(frozenset("a"))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=40), st.integers(1, 4))
def test_memory_is_bounded_and_never_lies(arrivals: list[tuple[int, int]], most: int) -> None:
    """It holds no more than it may, and what it had to forget it does not call unknown."""
    now = [50.25]
    inbox = MemoryInbox(most=most, clock=clock(now))
    had: set[str] = set()
    born = dict(zip(map(str, range(10)), itertools.count(50), strict=False))
    for number, seconds in arrivals:
        now[0] += seconds
        if now[0] >= born[str(number)]:
            inbox.first(str(number))
            had.add(str(number))
        assert len(inbox._seen) <= most
        for message_id, birth in born.items():
            said = inbox.receipts(Question((message_id,), birth))
            assert said.received <= had
            assert not said.unknown & had
