"""The writer: the one connection that appends, in groups.

    append() ──► waiting ──► one transaction ──► the futures of all that were in it
                    ▲              │
                    └── meanwhile ─┘

No timer: the first unit goes at once, the next group is what arrived while it was committed.  Within the
transaction, in this order: leave out what the log has already, take the append lock and draw positions, append,
fold the projections, write the vault, commit.

The connection also holds the lock that says which process owns this database, so a process that lost the
lock has lost the means to write as well: it cannot happen that two of them go on.

When the connection breaks before COMMIT was sent, nothing was stored.  When it breaks during COMMIT, PostgreSQL
is asked after the next connect what became of that transaction; until then its units wait.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg
import structlog

from daemon.errors import NotOwner, Outage
from daemon.model import Change, ChangeType
from daemon.store import log, projections, vault
from daemon.store.database import Conn, Connection, Db, connect, is_outage
from daemon.store.log import SELF, Entry

logger = structlog.get_logger()

POLL_NOTIFICATION = 10
HOOK_NOTIFICATION = 20
"""At most so many changes travel in one notification (facts: events-overview of the help centre)."""

GROUP_ROWS = 2000
"""A transaction takes units until it has about so many rows: a bound for memory and for how long others wait."""

WAITING_MOST = 20_000
"""Units that may wait; beyond, callers are told to come back."""

ROOM = 200_000
"""There is always a partition for so many positions to come."""

PATIENCE = 5.0
"""Seconds for which a process that starts waits for another to give the database up."""

LOST_PATIENCE = 60.0
"""Seconds for which a process that lost its connection waits until the server has noticed that as well."""

OWN = "SELECT pg_try_advisory_lock(7434604)"

OWNED = """
SELECT EXISTS (
       SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
        WHERE locktype = 'advisory' AND classid = 0 AND objid = 7434604 AND granted AND datname = current_database())
"""

KNOWN = """
SELECT o.instance_id, o.object_type, o.object_id, o.fingerprint
  FROM unnest($1::bigint[], $2::text[], $3::text[]) AS wanted (instance_id, object_type, object_id)
  JOIN objects AS o USING (instance_id, object_type, object_id)
"""

SEEN = """
SELECT s.instance_id, s.fingerprint
  FROM unnest($1::bigint[], $2::bytea[]) AS wanted (instance_id, fingerprint)
  JOIN seen AS s USING (instance_id, fingerprint)
"""


@dataclass(frozen=True, slots=True)
class Intake:
    """Changes of one instance from one poll page or one webhook.

    *polled* is when the provider answered a poll, None for a webhook, whose body is *raw* (JSON text).
    """

    instance_id: int
    changes: Sequence[Change]
    polled: datetime | None = None
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """What is appended together or not at all.

    *intakes* first, each change left out that the log has; then *entries*.  *if_changed* entries are appended
    only when a change was.  *secrets* go into the vault of *instance_id* (SELF: of the first entry's position),
    a None removes one, *forget* removes all.
    """

    entries: Sequence[Entry] = ()
    intakes: Sequence[Intake] = ()
    if_changed: Sequence[Entry] = ()
    instance_id: int = SELF
    secrets: Mapping[str, str | None] = field(default_factory=dict)
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a unit: its first position (0 when nothing was left to append), changes in and left out."""

    position: int
    appended: int
    duplicates: int


@dataclass(slots=True)
class _Waiting:
    unit: Unit
    future: asyncio.Future[Receipt]
    patient: bool


class Writer:
    """Appends units to the log, in groups; `run` is its loop."""

    def __init__(
        self,
        *,
        dsn: str,
        keys: vault.Keys,
        on_append: Callable[[frozenset[str]], None] = lambda kinds: None,
        connect_timeout: float = 10.0,
    ) -> None:
        """*on_append* is called after each commit with the kinds of entries that it added."""
        self._dsn = dsn
        self._keys = keys
        self._on_append = on_append
        self._connect_timeout = connect_timeout
        self._waiting: deque[_Waiting] = deque()
        self._something = asyncio.Event()
        self._conn: Connection | None = None
        self._committing: list[_Waiting] = []
        self._unanswered: tuple[list[_Waiting], _Prepared] | None = None  # COMMIT was sent
        self._end = 0  # first position without a partition
        self._pause = 0.0  # seconds before the next connect; grows until something is committed
        self._gone: set[int] = set()  # instances deleted while this process ran
        self.opened_at = 0
        """The log's last position when this process took the database over."""
        self.statements = 0
        self.commits = 0

    async def append(self, unit: Unit, *, patient: bool = False) -> Receipt:
        """Append *unit*; returns after commit.

        Raises `Outage` when the database is away or too much is waiting.  A *patient* unit waits for the
        database instead, however long that takes.
        """
        if not patient and (self._conn is None or len(self._waiting) >= WAITING_MOST):
            raise Outage(
                "the database is away" if self._conn is None else "too much is waiting to be stored"
            )
        waiting = _Waiting(unit, asyncio.get_running_loop().create_future(), patient)
        self._waiting.append(waiting)
        self._something.set()
        return await waiting.future

    @property
    def connected(self) -> bool:
        """Whether this process owns the database, as far as it knows."""
        return self._conn is not None and not self._conn.is_closed()

    async def open(self, *, patience: float = PATIENCE) -> None:
        """Connect and take the ownership of the database; raises `NotOwner`, or one of `OUTAGE`."""
        conn = await connect(self._dsn, timeout=self._connect_timeout)
        try:
            await _own(conn, patience)
            conn.add_termination_listener(self._terminated)
            self.opened_at = self.opened_at or await log.head(conn)
            self._end = await log.extend(conn, await log.drawn(conn) + ROOM)
        except BaseException:
            conn.terminate()
            raise
        self._conn = conn

    async def run(self) -> None:
        """Commit group after group until cancelled."""
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                if not self.connected:
                    await self._reconnect()
                while group := self._take():
                    await self._commit(group)
        finally:
            self._fail_waiting(Outage("tidings is stopping"), patient_too=True)
            for waiting in (*self._committing, *(self._unanswered[0] if self._unanswered else ())):
                _fail(waiting, Outage("tidings is stopping"))
            self._disconnect()

    async def _commit(self, group: list[_Waiting]) -> None:
        assert self._conn is not None  # noqa: S101 — open() came first, and _reconnect() sets it again; for the type checker
        prepared: _Prepared | None = None
        self._committing = group
        try:
            async with self._conn.transaction():
                prepared = await _prepare(
                    self._conn, self._keys, [w.unit for w in group], self._gone
                )
                self.statements += prepared.statements + 2
        except Exception as error:  # noqa: BLE001 — an outage is waited out, anything else is its sender's to hear
            self._committing = []
            if is_outage(error):
                await self._lost(group, prepared, error)
            else:
                await self._refused(group, error)
        else:
            self._committing = []
            self.commits += 1
            self._pause = 0.0
            self._settle(group, prepared)
            await self._make_room(prepared.last)

    async def _lost(
        self, group: list[_Waiting], prepared: "_Prepared | None", error: Exception
    ) -> None:
        """The connection broke under *group*."""
        logger.warning("database lost", error=str(error) or type(error).__name__)
        if prepared is not None and prepared.xid is not None:
            self._unanswered = (group, prepared)
        else:
            self._put_back(group)
        await self._reconnect()

    async def _refused(self, group: list[_Waiting], error: Exception) -> None:
        """PostgreSQL or a codec does not take what is in *group*."""
        if len(group) > 1:
            # One unit that cannot be stored must not fail the others: each goes alone.
            for waiting in group:
                await self._commit([waiting])
        elif isinstance(error, asyncpg.exceptions.TransactionRollbackError):
            self._waiting.appendleft(
                group[0]
            )  # a deadlock with another process; it was the other's turn
        else:
            _fail(group[0], error)
            # It has drawn positions all the same.
            await self._make_room(None)

    async def _make_room(self, last: int | None) -> None:
        """Make partitions in time; *last* is the last position drawn, None when it must be asked for."""
        if self._conn is None or (last is not None and last + ROOM <= self._end):
            return
        try:
            last = await log.drawn(self._conn) if last is None else last
            if last + ROOM > self._end:
                self._end = await log.extend(self._conn, last + 2 * ROOM)
        except Exception as error:
            if not is_outage(error):
                raise
            logger.warning("database lost", error=str(error) or type(error).__name__)
            await self._reconnect()

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = 0
        while self._waiting and rows < GROUP_ROWS:
            waiting = self._waiting.popleft()
            if waiting.future.done():  # its caller has gone
                continue
            group.append(waiting)
            rows += (
                1 + len(waiting.unit.entries) + sum(len(i.changes) for i in waiting.unit.intakes)
            )
        return group

    def _settle(self, group: list[_Waiting], prepared: "_Prepared") -> None:
        self._gone |= prepared.gone
        for waiting, receipt in zip(group, prepared.receipts, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(receipt)
        if prepared.kinds:
            self._on_append(prepared.kinds)

    def _put_back(self, group: list[_Waiting]) -> None:
        """Nothing of *group* was stored: the patient wait on, the others are told."""
        for waiting in reversed(group):
            if waiting.patient:
                self._waiting.appendleft(waiting)
            else:
                _fail(waiting, Outage("the database went away; nothing was stored"))

    def _fail_waiting(self, error: Outage, *, patient_too: bool = False) -> None:
        kept: deque[_Waiting] = deque()
        for waiting in self._waiting:
            if waiting.patient and not patient_too:
                kept.append(waiting)
            else:
                _fail(waiting, error)
        self._waiting = kept

    async def _reconnect(self) -> None:
        """Connect again however long it takes, then learn what became of an unanswered COMMIT."""
        while True:
            self._disconnect()
            self._fail_waiting(Outage("the database is away"))
            # A server that can be reached and does not take anything (its disk is full) is no reason to hurry.
            await asyncio.sleep(self._pause)
            self._pause = min(max(self._pause * 2, 0.05), 2.0)
            try:
                await self.open(patience=LOST_PATIENCE)
                await self._learn()
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.debug("database still away", error=str(error) or type(error).__name__)
            else:
                logger.info("database back")
                return

    def _terminated(self, conn: object) -> None:
        """The connection is gone: it is opened again though nothing is to be written."""
        self._something.set()

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None

    async def _learn(self) -> None:
        if self._unanswered is None or self._conn is None:
            return
        group, prepared = self._unanswered
        # The backend that ran the COMMIT holds the owner's lock until it ends, and we have that lock: so
        # the transaction is over, one way or the other.
        committed = await log.was_committed(self._conn, prepared.xid or "", prepared.last)
        self._unanswered = None
        self._pause = 0.0
        logger.info("unanswered commit", became="committed" if committed else "aborted")
        if committed:
            self._settle(group, prepared)
        else:
            self._put_back(group)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)


async def own(conn: Conn) -> bool:
    """Take the ownership of the database for as long as *conn* lives; false when a process has it."""
    taken: bool = await conn.fetchval(OWN)
    return taken


async def owned(db: Db) -> bool:
    """Whether a process has the ownership of the database: a daemon runs."""
    has: bool = await db.fetchval(OWNED)
    return has


async def _own(conn: Conn, patience: float) -> None:
    """Take the ownership, which a process that was killed a moment ago may still seem to have."""
    try:
        async with asyncio.timeout(patience):
            while not await own(conn):  # noqa: ASYNC110 — another process's lock sets no event here
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise NotOwner(
            "another tidings process works on this database; stop it first, or give this one a database of its own"
        ) from None


async def append_once(conn: Conn, keys: vault.Keys, unit: Unit) -> Receipt:
    """Append *unit* in a transaction of its own: for a process that is not the daemon.

    It looks before it has the append lock, so two of them could both find a change new: let intakes go
    through the daemon's writer.
    """
    async with conn.transaction():
        prepared = await _prepare(conn, keys, [unit], set())
        await log.tell(conn, prepared.kinds)
    return prepared.receipts[0]


@dataclass(slots=True)
class _Prepared:
    receipts: list[Receipt]
    kinds: frozenset[str]
    xid: str | None
    last: int
    statements: int
    gone: set[int]


async def _prepare(
    conn: Conn, keys: vault.Keys, units: Sequence[Unit], gone: set[int]
) -> _Prepared:
    """Everything between BEGIN and COMMIT."""
    known, seen, statements = await _look(conn, units)
    gone = set(gone)
    entries, counts = _compose(units, known, seen, gone)
    first, xid = 0, None
    if entries:
        first, xid = await log.append(conn, entries)
        await projections.fold(conn, first, [entry.kind for entry in entries])
        statements += 3
    for unit, (start, _, _, _) in zip(units, counts, strict=True):
        if unit.secrets or unit.forget:
            owner = unit.instance_id or first + start
            if unit.forget:
                await vault.forget(conn, owner)
            if unit.secrets and owner not in gone:
                await vault.put(conn, keys, owner, unit.secrets)
            statements += 1
    receipts = [
        Receipt(first + start if rows else 0, changes, dup) for start, rows, changes, dup in counts
    ]
    return _Prepared(
        receipts,
        frozenset(e.kind for e in entries),
        xid,
        first + len(entries) - 1,
        statements,
        gone,
    )


def _compose(
    units: Sequence[Unit], known: "_Known", seen: "_Seen", gone: set[int]
) -> tuple[list[Entry], list[tuple[int, int, int, int]]]:
    """What to append of *units*, and of each unit its offset there, rows, changes and duplicates.

    Adds to *known*, *seen* and *gone* what the entries make so.
    """
    entries: list[Entry] = []
    counts: list[tuple[int, int, int, int]] = []
    for unit in units:
        start = len(entries)
        changes = duplicates = 0
        for intake in unit.intakes:
            if intake.instance_id in gone:
                continue
            fresh = [c for c in intake.changes if _is_new(intake, c, known, seen)]
            duplicates += len(intake.changes) - len(fresh)
            changes += len(fresh)
            entries += _rows(intake, fresh, len(entries))
        for entry in (*unit.entries, *(unit.if_changed if changes else ())):
            if entry.instance_id not in gone:
                entries.append(entry)
            if entry.kind == "instance.deleted" and entry.instance_id is not None:
                gone.add(entry.instance_id)
        counts.append((start, len(entries) - start, changes, duplicates))
    return entries, counts


_Known = dict[tuple[int, str, str], bytes]
_Seen = set[tuple[int, bytes]]


async def _look(conn: Conn, units: Sequence[Unit]) -> tuple[_Known, _Seen, int]:
    """What the log has already of the changes that *units* bring."""
    polls = {
        (i.instance_id, c.object_type, c.object_id)
        for unit in units
        for i in unit.intakes
        if i.polled is not None
        for c in i.changes
    }
    hooks = {
        (i.instance_id, c.fingerprint)
        for unit in units
        for i in unit.intakes
        if i.polled is None
        for c in i.changes
    }
    known: _Known = {}
    seen: _Seen = set()
    if polls:
        rows = await conn.fetch(KNOWN, *map(list, zip(*polls, strict=True)))
        known = {
            (r["instance_id"], r["object_type"], r["object_id"]): r["fingerprint"] for r in rows
        }
    if hooks:
        rows = await conn.fetch(SEEN, *map(list, zip(*hooks, strict=True)))
        seen = {(r["instance_id"], r["fingerprint"]) for r in rows}
    return known, seen, bool(polls) + bool(hooks)


def _is_new(intake: Intake, change: Change, known: _Known, seen: _Seen) -> bool:
    """Whether the log lacks this change.

    A poll shows an object's state: it is news when it differs from the last state known, so that a value
    which comes back (A, B, A) is told.  A webhook tells of an event: it is news once, whenever it comes again.
    """
    if intake.polled is not None:
        key = (intake.instance_id, change.object_type, change.object_id)
        if known.get(key) == change.fingerprint:
            return False
        known[key] = change.fingerprint
        return True
    event = (intake.instance_id, change.fingerprint)
    if event in seen:
        return False
    seen.add(event)
    if change.change == ChangeType.DELETED:
        # As the projection has it: whatever version comes after a deletion is news.
        known[intake.instance_id, change.object_type, change.object_id] = change.fingerprint
    return True


def _rows(intake: Intake, changes: Sequence[Change], offset: int) -> list[Entry]:
    """Entries for *changes*, cut into notifications: one instance, one object type, ten or twenty at most."""
    most = HOOK_NOTIFICATION if intake.polled is None else POLL_NOTIFICATION
    rows: list[Entry] = []
    opened, object_type = 0, None
    for number, change in enumerate(changes):
        if change.object_type != object_type or number - opened == most:
            opened, object_type = number, change.object_type
        rows.append(
            Entry(
                kind="change",
                # The body of a webhook stands once, with its first change.
                data=change.data.decode()
                if intake.polled is not None
                else intake.raw
                if number == 0
                else None,
                instance_id=intake.instance_id,
                object_type=change.object_type,
                object_id=change.object_id,
                change=change.change,
                changed=change.changed,
                fingerprint=change.fingerprint,
                notification=offset + opened,
                source=None if intake.polled is not None else offset,
                polled=intake.polled,
                place=change.place,
            )
        )
    return rows
