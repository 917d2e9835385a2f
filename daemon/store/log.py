"""The log: append and read, never change."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from daemon.store.database import Conn, Db

SELF = 0
"""As an entry's instance_id: the position that the entry itself is given (`instance.created`)."""

# statement_timestamp(), not now(): this statement begins under the append lock, so times rise with positions.
APPEND = """
INSERT INTO log (position, appended, kind, instance_id, object_type, object_id, change, changed,
                 fingerprint, notification, source, polled, data, place)
SELECT $1 + n - 1, statement_timestamp(), kind, CASE instance_id WHEN 0 THEN $1 + n - 1 ELSE instance_id END,
       object_type, object_id, change, changed, fingerprint, $1 + notification, $1 + source, polled, data::json, place
  FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
              $8::bytea[], $9::bigint[], $10::bigint[], $11::timestamptz[], $12::text[], $13::text[])
       WITH ORDINALITY AS entry (kind, instance_id, object_type, object_id, change, changed,
                                 fingerprint, notification, source, polled, data, place, n)
"""

# Takes the append lock: from here to COMMIT nobody else draws positions.
DRAW = "SELECT first, xid FROM log_draw($1)"

# Not pg_xact_status: after a crash of the server it refuses a transaction of which nothing reached the disk, or tells
# of another one that was given the same number since.
HAS_ENTRY = "SELECT EXISTS (SELECT FROM log WHERE position = $1 AND xmin = $2::text::xid8::xid)"

EXTEND = "SELECT log_extend($1)"

# Of positions drawn, also by transactions that were rolled back.
DRAWN = "SELECT last_value FROM log_position"

HEAD = "SELECT coalesce(max(position), 0) FROM log"

OPENED = "SELECT data->>'id' FROM log WHERE kind = 'log.opened' ORDER BY position LIMIT 1"

CHANGES_AFTER = """
SELECT position, appended, kind, instance_id, object_type, object_id, change, changed, notification, source, polled,
       CASE WHEN kind IN ('change', 'delivery.asked') THEN data END AS data
  FROM log
 WHERE (kind IN ('change', 'delivery.asked') OR kind LIKE 'instance.%') AND position > $1
 ORDER BY position
 LIMIT $2
"""

CHANGES_OF_INSTANCE = """
SELECT position, appended, instance_id, object_type, object_id, change, changed, notification, source, polled, data
  FROM log
 WHERE kind = 'change' AND instance_id = $1 AND position > $2 AND position <= $3
 ORDER BY position
 LIMIT $4
"""

CHANGES_OF_NOTIFICATIONS = """
SELECT log.position, appended, instance_id, object_type, object_id, change, changed, notification, source, polled, data
  FROM unnest($1::bigint[]) AS wanted (position)
  -- By position for each, whatever the planner thinks of the log's size: it is twenty rows at most.
 CROSS JOIN LATERAL (SELECT * FROM log AS l
                      WHERE l.position BETWEEN wanted.position AND wanted.position + 19
                        AND l.notification = wanted.position
                      LIMIT 20) AS log
 ORDER BY log.position
"""

SOURCES = "SELECT position, data FROM log WHERE position = ANY($1::bigint[])"

LIFE_OF_INSTANCE = """
SELECT position, kind, appended, data
  FROM log
 WHERE instance_id = $1 AND kind LIKE 'instance.%'
 ORDER BY position
"""

ENTRIES = """
SELECT position, appended, kind, instance_id, object_type, object_id, change, changed, notification, polled, data
  FROM log
 WHERE position > $1 AND ($3::bigint IS NULL OR instance_id = $3) AND ($4::text IS NULL OR kind = $4)
 ORDER BY position
 LIMIT $2
"""

LAST_ENTRIES = """
SELECT position, appended, kind, instance_id, object_type, object_id, change, changed, notification, polled, data
  FROM log
 WHERE ($2::bigint IS NULL OR instance_id = $2) AND ($3::text IS NULL OR kind = $3)
 ORDER BY position DESC
 LIMIT $1
"""

ENTRY = """
SELECT position, appended, kind, instance_id, object_type, object_id, change, changed, fingerprint,
       notification, source, polled, data, place
  FROM log
 WHERE position = $1
"""

POSITION_AT = "SELECT min(position) FROM log WHERE appended >= $1"

TELL = "SELECT pg_notify('tidings', $1::text)"

ASK_POLL = "SELECT pg_notify('tidings', 'poll ' || $1::bigint)"

# The lock that log_draw takes.
HOLD = "SELECT pg_advisory_xact_lock(7434602)"


EVENT_ID_BYTES = 15
"""Of an event id, before base64: 4 of the log's, 5 of the replay's position, 6 of the notification's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row to append.  *notification* and *source* are offsets within the append, not positions."""

    kind: str
    data: str | None = None
    instance_id: int | None = None
    object_type: str | None = None
    object_id: str | None = None
    change: str | None = None
    changed: datetime | None = None
    fingerprint: bytes | None = None
    notification: int | None = None
    source: int | None = None
    polled: datetime | None = None
    place: str | None = None


async def append(conn: Conn, entries: Sequence[Entry]) -> tuple[int, str]:
    """Append *entries* in order, inside the caller's transaction; the first position and the transaction's id.

    Takes the append lock, which is held until that transaction ends.
    """
    row = await conn.fetchrow(DRAW, len(entries))
    assert row is not None  # noqa: S101 — a function always returns its row; for the type checker
    first: int = row["first"]
    await conn.execute(
        APPEND,
        first,
        [entry.kind for entry in entries],
        [entry.instance_id for entry in entries],
        [entry.object_type for entry in entries],
        [entry.object_id for entry in entries],
        [entry.change for entry in entries],
        [entry.changed for entry in entries],
        [entry.fingerprint for entry in entries],
        [entry.notification for entry in entries],
        [entry.source for entry in entries],
        [entry.polled for entry in entries],
        [entry.data for entry in entries],
        [entry.place for entry in entries],
    )
    return first, row["xid"]


async def was_committed(db: Db, xid: str, position: int) -> bool:
    """Whether the transaction *xid*, which is over and appended an entry at *position*, was committed."""
    there: bool = await db.fetchval(HAS_ENTRY, position, xid)
    return there


async def extend(db: Db, upto: int) -> int:
    """Make partitions for positions up to *upto*; the first position that has none."""
    first: int = await db.fetchval(EXTEND, upto)
    return first


async def head(db: Db) -> int:
    """The last position, 0 for an empty log."""
    position: int = await db.fetchval(HEAD)
    return position


async def drawn(db: Db) -> int:
    """The last position that was ever drawn, whether or not an entry has it."""
    position: int = await db.fetchval(DRAWN)
    return position


async def log_id(db: Db) -> bytes:
    """The four bytes that tell this log's event ids from another's."""
    return bytes.fromhex(await db.fetchval(OPENED))


async def changes_after(db: Db, position: int, limit: int) -> list[asyncpg.Record]:
    """Changes of all instances, and what happens to instances, after *position*, in order."""
    return await db.fetch(CHANGES_AFTER, position, limit)


async def changes_of_instance(
    db: Db, instance_id: int, after: int, limit: int, *, until: int = 2**62
) -> list[asyncpg.Record]:
    """Changes of one instance after a position, in order."""
    return await db.fetch(CHANGES_OF_INSTANCE, instance_id, after, until, limit)


async def changes_of_notifications(db: Db, notifications: Sequence[int]) -> list[asyncpg.Record]:
    """All changes that belong to *notifications*, in order."""
    return await db.fetch(CHANGES_OF_NOTIFICATIONS, notifications)


async def sources(db: Db, positions: Sequence[int]) -> dict[int, str]:
    """The provider's bodies that stand at *positions*, as JSON text."""
    return {row["position"]: row["data"] for row in await db.fetch(SOURCES, positions)}


async def life_of_instance(db: Db, instance_id: int) -> list[asyncpg.Record]:
    """The instance's `instance.*` entries in order; each holds the whole state from there on."""
    return await db.fetch(LIFE_OF_INSTANCE, instance_id)


async def entries(
    db: Db, after: int, limit: int, *, instance_id: int | None = None, kind: str | None = None
) -> list[asyncpg.Record]:
    """Entries of every kind after a position, in order."""
    return await db.fetch(ENTRIES, after, limit, instance_id, kind)


async def last_entries(
    db: Db, limit: int, *, instance_id: int | None = None, kind: str | None = None
) -> list[asyncpg.Record]:
    """The last entries, in order."""
    return (await db.fetch(LAST_ENTRIES, limit, instance_id, kind))[::-1]


async def entry(db: Db, position: int) -> asyncpg.Record | None:
    """One entry, whole."""
    return await db.fetchrow(ENTRY, position)


async def position_at(db: Db, moment: datetime) -> int | None:
    """The first position appended at or after *moment*, None where there is none."""
    position: int | None = await db.fetchval(POSITION_AT, moment)
    return position


async def tell(db: Db, kinds: Iterable[str]) -> None:
    """Tell a daemon that works on this database what *kinds* were appended; in a transaction, when it commits."""
    await db.execute(TELL, ",".join(sorted(kinds)))


async def ask_poll(db: Db, instance_id: int) -> None:
    """Ask a daemon that works on this database to poll that instance now."""
    await db.execute(ASK_POLL, instance_id)


async def hold(conn: Conn) -> None:
    """Let nobody else append until the caller's transaction ends, so that what it reads now stays so."""
    await conn.execute(HOLD)


def event_id(log: bytes, notification: int, replay: int = 0) -> str:
    """The 20 characters that name a notification: `eventId` and `webhook-id`.

    Made of the log's id, the position of a replay that asked for new ids (else 0) and the notification's
    position: fixed when it is appended, and found again without an index.
    """
    return base64.urlsafe_b64encode(
        log + replay.to_bytes(5, "big") + notification.to_bytes(6, "big")
    ).decode()


def position_of(log: bytes, event: str) -> int | None:
    """The notification that an event id names; None for an id that this log has not given."""
    try:
        raw = base64.urlsafe_b64decode(event)
    except ValueError:
        return None
    if len(raw) != EVENT_ID_BYTES or raw[:4] != log:
        return None
    return int.from_bytes(raw[9:], "big")
