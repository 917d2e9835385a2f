"""The log as a file: out of one database, into an empty one.

One JSON object a line, in this order:

    {"tidings": "log", "schema": 1, "log": "01020304", "since": 1, "until": 90, "drawn": 93, "vault": true}
    {"position": 1, "appended": "2026-11-20T08:00:00.123456+00:00", "kind": "log.opened", "data": "{…}"}
    …                                   each entry; what is null is left out, data is the stored text, bytes are hex
    {"secret": {"instance_id": 4, "name": "…", "key_id": "k1", "sealed": "<hex>"}}      sealed as in the vault
    {"end": {"entries": 88, "secrets": 1}}                                              without it the file was cut

The log is the record, so a database that was given these lines and folded its projections from them is the
one that they came from: what was settled stays settled, what was open is open.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from daemon.errors import Invalid
from daemon.store import log, projections, vault
from daemon.store.database import SCHEMA_VERSION, Conn, Db
from daemon.store.writer import ROOM

CHUNK = 2000  # entries that one statement reads or writes

COLUMNS = (
    "position",
    "appended",
    "kind",
    "instance_id",
    "object_type",
    "object_id",
    "change",
    "changed",
    "fingerprint",
    "notification",
    "source",
    "polled",
    "data",
    "place",
)
TEXTS = frozenset({"kind", "object_type", "object_id", "change", "data", "place"})
TIMES = frozenset({"appended", "changed", "polled"})
BYTES = frozenset({"fingerprint"})

WHOLE_ENTRIES = """
SELECT position, appended, kind, instance_id, object_type, object_id, change, changed, fingerprint,
       notification, source, polled, data, place
  FROM log
 WHERE position > $1 AND position <= $2
 ORDER BY position
 LIMIT $3
"""

# By its key, so that a vault of any size is read in pieces.
SECRETS_AFTER = """
SELECT instance_id, name, key_id, sealed
  FROM vault
 WHERE (instance_id, name) > ($1, $2) AND instance_id <= $3
 ORDER BY instance_id, name
 LIMIT $4
"""

EMPTY = "SELECT NOT EXISTS (SELECT FROM log) AND NOT EXISTS (SELECT FROM vault)"

# A transaction that waits for a slow pipe is not one that was forgotten.
BE_PATIENT = "SET LOCAL idle_in_transaction_session_timeout = 0"

SET_DRAWN = "SELECT setval('log_position', $1::bigint)"

# Many rows came in one transaction: without this the folds are planned for an empty table.
ANALYZE = "ANALYZE log"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some lines of an export, and how far they reach: up to *position* of *until*."""

    lines: bytes
    position: int
    until: int


@dataclass(frozen=True, slots=True)
class Header:
    """The first line: of which log, of which positions of it, and the last position that was drawn there."""

    log: str
    since: int
    until: int
    drawn: int
    vault: bool


@dataclass(slots=True)
class Restored:
    """How much was read so far; *rebuilt* is the position up to which the projections are folded."""

    until: int = 0
    position: int = 0
    entries: int = 0
    secrets: int = 0
    rebuilt: int = 0


async def export(
    db: Db, *, since: int = 1, until: int | None = None, secrets: bool = False
) -> AsyncIterator[Piece]:
    """The log from *since* up to *until* (both inclusive), as lines; with *secrets*, the sealed vault too.

    The log is read by position in statements of its own, never in a transaction that is held open; what is
    appended meanwhile is not part of it.
    """
    # The head first: whatever is visible up to it was drawn before the sequence is read.
    head = await log.head(db)
    drawn = await log.drawn(db) if head else 0
    last = head if until is None else min(head, until)
    opened = (await log.log_id(db)).hex() if head else ""
    header = {
        "tidings": "log",
        "schema": SCHEMA_VERSION,
        "log": opened,
        "since": since,
        "until": last,
        "drawn": drawn,
        "vault": secrets,
    }
    yield Piece(_line(header), since - 1, last)
    position, entries, sealed = since - 1, 0, 0
    while rows := await db.fetch(WHOLE_ENTRIES, position, last, CHUNK):
        position = rows[-1]["position"]
        entries += len(rows)
        yield Piece(b"".join(_line(_written(row)) for row in rows), position, last)
    after = (0, "")
    while secrets and (rows := await db.fetch(SECRETS_AFTER, *after, last, CHUNK)):
        after = rows[-1]["instance_id"], rows[-1]["name"]
        sealed += len(rows)
        lines = [_line({"secret": {**row, "sealed": row["sealed"].hex()}}) for row in rows]
        yield Piece(b"".join(lines), last, last)
    yield Piece(_line({"end": {"entries": entries, "secrets": sealed}}), last, last)


async def restore(
    conn: Conn, lines: AsyncIterator[Iterable[bytes]], *, keys: vault.Keys, skip: int = 0
) -> AsyncIterator[Restored]:
    """Put exported *lines* into an empty database and fold every projection; yields how far it is.

    Runs in the caller's transaction, as the owner, who has seen to it that no daemon works there.  The next
    position drawn is the one that the other log would have drawn at the export, and *skip* more.  Raises
    `Invalid` for a database that is not empty or lines that are no whole export, `ConfigError` when *keys*
    do not open what the vault's rows hold.
    """
    await conn.execute(BE_PATIENT)
    await log.hold(conn)
    if not await conn.fetchval(EMPTY):
        raise Invalid(
            {
                "database": "is not empty; a log is imported into a database of its own, "
                "which no daemon was started on"
            }
        )
    reader = _Reader(keys)
    state = reader.state
    async for group in lines:
        first = reader.number + 1
        for line in group:
            reader.take(line)
        await _store(conn, *reader.taken(), where=f"lines {first} to {reader.number}")
        yield state
    header = reader.end()
    if state.entries:
        if await conn.fetchval(log.OPENED) != header.log:
            raise Invalid({"log": f"the entry log.opened of log {header.log} is missing"})
        await conn.execute(SET_DRAWN, max(header.drawn, state.position) + skip)
        await log.extend(conn, await log.drawn(conn) + ROOM)
    await conn.execute(ANALYZE)
    async for done in projections.rebuild(conn):
        state.rebuilt = done
        yield state


class _Reader:
    """Takes the lines of an export one after the other, and sees to it that they are all there and in order."""

    def __init__(self, keys: vault.Keys) -> None:
        self.state = Restored()
        self.number = 0
        self._keys = keys
        self._header: Header | None = None
        self._ended = False
        self._entries: list[tuple[Any, ...]] = []
        self._secrets: list[tuple[Any, ...]] = []

    def take(self, line: bytes) -> None:
        """Read the next line; raises `Invalid`, `ConfigError`."""
        self.number += 1
        where = f"line {self.number}"
        read = _parsed(line, where)
        if self._ended:
            raise Invalid({where: "stands behind the end of the export"})
        if self._header is None:
            self._header = _header(read, where)
            self.state.until = self._header.until
        elif "end" in read:
            _check_end(read["end"], self.state, where)
            self._ended = True
        elif "secret" in read:
            self._secrets.append(_secret(read["secret"], self._keys, where))
            self.state.secrets += 1
        else:
            self._entries.append(_entry(read, self.state, where))
            self.state.position = self._entries[-1][0]
            self.state.entries += 1

    def taken(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """The rows of log and vault that were read since the last time."""
        entries, self._entries = self._entries, []
        secrets, self._secrets = self._secrets, []
        return entries, secrets

    def end(self) -> Header:
        """The header, when all was read; raises `Invalid` for an export without its end."""
        if self._header is None or not self._ended:
            raise Invalid(
                {f"line {self.number + 1}": "is missing: the export was cut before its end"}
            )
        return self._header


async def _store(
    conn: Conn, entries: list[tuple[Any, ...]], secrets: list[tuple[Any, ...]], *, where: str
) -> None:
    try:
        if entries:
            await log.extend(conn, entries[-1][0])
            await conn.copy_records_to_table("log", records=entries, columns=COLUMNS)
        if secrets:
            await conn.copy_records_to_table(
                "vault", records=secrets, columns=("instance_id", "name", "key_id", "sealed")
            )
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, OverflowError) as error:
        raise Invalid({where: f"cannot be stored: {error}"}) from error


def _line(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _written(row: asyncpg.Record) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for name, value in row.items():
        if value is not None:
            written[name] = value.hex() if name in BYTES else value
    return written


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        read = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Invalid({where: f"is not JSON ({error})"}) from error
    if not isinstance(read, dict):
        raise Invalid({where: "should be a JSON object"})
    return read


def _header(read: dict[str, Any], where: str) -> Header:
    if read.get("tidings") != "log":
        raise Invalid({where: "is not the head of an exported log"})
    if read.get("schema") != SCHEMA_VERSION:
        raise Invalid(
            {
                where: f"is of schema {read.get('schema')}, this tidings works with schema {SCHEMA_VERSION}"
            }
        )
    numbers = [read.get(name) for name in ("since", "until", "drawn")]
    if not all(type(one) is int and one >= 0 for one in numbers) or not isinstance(
        read.get("log"), str
    ):
        raise Invalid({where: "should have log, since, until and drawn"})
    if read["since"] > 1:
        raise Invalid(
            {where: f"begins at position {read['since']}: only an export from the first is a log"}
        )
    return Header(read["log"], read["since"], read["until"], read["drawn"], bool(read.get("vault")))


def _check_end(end: object, state: Restored, where: str) -> None:
    if end != {"entries": state.entries, "secrets": state.secrets}:
        raise Invalid(
            {
                where: f"counts {end}, but {state.entries} entries and {state.secrets} secrets were read"
            }
        )


def _entry(read: dict[str, Any], state: Restored, where: str) -> tuple[int, *tuple[Any, ...]]:
    if unknown := read.keys() - set(COLUMNS):
        raise Invalid({where: f"has {', '.join(sorted(unknown))}, which no entry has"})
    position = read.get("position")
    if type(position) is not int or not state.position < position <= state.until:
        raise Invalid(
            {
                where: f"should have a position above {state.position} and up to {state.until}, "
                f"not {position!r}"
            }
        )
    if state.secrets:
        raise Invalid({where: "is an entry behind the vault's rows"})
    values: list[Any] = []
    for name in COLUMNS[1:]:
        try:
            values.append(_value(name, read.get(name)))
        except (TypeError, ValueError) as error:
            raise Invalid({f"{where}: {name}": str(error)}) from error
    return (position, *values)


def _value(name: str, value: object) -> object:
    if value is None:
        return None
    if name in TEXTS | TIMES | BYTES:
        if not isinstance(value, str):
            raise TypeError("should be a text")
        if name in TIMES:
            return datetime.fromisoformat(value)
        return bytes.fromhex(value) if name in BYTES else value
    if type(value) is not int:
        raise TypeError("should be a whole number")
    return value


def _secret(read: object, keys: vault.Keys, where: str) -> tuple[int, str, str, bytes]:
    match read:
        case {
            "instance_id": int(instance_id),
            "name": str(name),
            "key_id": str(key_id),
            "sealed": str(text),
        }:
            try:
                sealed = bytes.fromhex(text)
            except ValueError as error:
                raise Invalid({where: "has a secret that is not hex"}) from error
            # A vault that does not open is found now, and not at the first delivery.
            keys.open(instance_id, name, key_id, sealed)
            return instance_id, name, key_id, sealed
        case _:
            raise Invalid({where: "should be a secret with instance_id, name, key_id and sealed"})
