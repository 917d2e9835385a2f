"""Callbacks, and what became of each notification there."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
import orjson

from daemon.store.database import Db
from daemon.store.log import Entry

CALLBACKS = """
SELECT id, instance_id, state, reason, since, cursor, reserved, failing, until, replay
  FROM callbacks
 ORDER BY id
"""

# Notifications of live callbacks that may have been sent and have no outcome: between cursor and reserved, no
# row.  A lane never has more than a window of them out, so the first $1 of each callback are all there can be.
UNANSWERED = """
SELECT callbacks.id, callbacks.instance_id, sent.notification
  FROM callbacks, LATERAL (
       SELECT DISTINCT notification FROM (
              SELECT notification FROM log
               WHERE kind = 'change' AND log.instance_id = callbacks.instance_id
                 AND position > callbacks.cursor AND position <= least(callbacks.reserved, callbacks.until, $2)
                 AND (callbacks.replay->>'type' IS NULL OR object_type = callbacks.replay->>'type')
                 AND (callbacks.replay->>'object' IS NULL OR object_id = callbacks.replay->>'object')
               ORDER BY position) AS change
        WHERE NOT EXISTS (SELECT FROM deliveries AS d
                           WHERE d.callback_id = callbacks.id AND d.notification = change.notification)
        ORDER BY notification
        LIMIT $1) AS sent
 WHERE state IN ('active', 'disabled') AND reserved > cursor
"""

IN_FLIGHT = """
SELECT callback_id AS id, instance_id, notification, attempts
  FROM deliveries JOIN callbacks ON callbacks.id = callback_id
 WHERE deliveries.state = 'in_flight' AND callbacks.state IN ('active', 'disabled')
"""

OPEN = """
SELECT d.notification, d.state, d.attempts, d.due, d.status, d.doubtful,
       array_agg(DISTINCT ARRAY[log.object_type, log.object_id]) AS objects
  FROM (SELECT notification, state, attempts, due, status, doubtful FROM deliveries
         WHERE callback_id = $1 AND state NOT IN ('delivered', 'dead')
         ORDER BY notification LIMIT $2) AS d
  -- By position for each row, whatever the planner thinks of the log's size: it is twenty rows at most.
 CROSS JOIN LATERAL (SELECT object_type, object_id FROM log AS l
                      WHERE l.position BETWEEN d.notification AND d.notification + 19
                        AND l.notification = d.notification
                      LIMIT 20) AS log
 GROUP BY d.notification, d.state, d.attempts, d.due, d.status, d.doubtful
 ORDER BY d.notification
"""

OPEN_SOME = """
SELECT d.notification, d.state, d.attempts, d.due, d.status, d.doubtful,
       array_agg(DISTINCT ARRAY[log.object_type, log.object_id]) AS objects
  FROM deliveries AS d
  -- By position for each row, whatever the planner thinks of the log's size: it is twenty rows at most.
 CROSS JOIN LATERAL (SELECT object_type, object_id FROM log AS l
                      WHERE l.position BETWEEN d.notification AND d.notification + 19
                        AND l.notification = d.notification
                      LIMIT 20) AS log
 WHERE callback_id = $1 AND d.notification = ANY($2::bigint[]) AND state NOT IN ('delivered', 'dead')
 GROUP BY d.notification, d.state, d.attempts, d.due, d.status, d.doubtful
 ORDER BY d.notification
"""

# Two halves, so that each has its partial index: what was delivered is most of all rows.
UNSETTLED = """
SELECT notification, state, attempts, due, settled, status, error, doubtful FROM (
(SELECT notification, state, attempts, due, settled, status, error, doubtful
   FROM deliveries
  WHERE callback_id = $1 AND notification > $2 AND state = 'dead' AND 'dead' = ANY($3::text[])
    AND ($4::timestamptz IS NULL OR settled >= $4)
  ORDER BY notification LIMIT $5)
UNION ALL
(SELECT notification, state, attempts, due, settled, status, error, doubtful
   FROM deliveries
  WHERE callback_id = $1 AND notification > $2 AND state NOT IN ('delivered', 'dead') AND state = ANY($3::text[])
    AND ($4::timestamptz IS NULL OR settled >= $4)
  ORDER BY notification LIMIT $5)) AS both_halves
 ORDER BY notification
 LIMIT $5
"""

SOME = """
SELECT notification, state, attempts, due, settled, status, error, doubtful
  FROM deliveries
 WHERE callback_id = $1 AND notification = ANY($2::bigint[])
 ORDER BY notification
"""

CALLBACK = """
SELECT id, instance_id, state, reason, since, cursor, reserved, failing, until, replay
  FROM callbacks
 WHERE id = $1
"""

# A notification is counted by its first change.  Counting ends somewhere: whoever asks wants to know whether it is much.
BACKLOG = """
SELECT count(*) FROM (
       SELECT FROM log
        WHERE kind = 'change' AND instance_id = $1 AND position > $2 AND position <= $3 AND notification = position
        LIMIT $4) AS change
"""

ATTEMPTS = """
SELECT attempt, state, settled, status, error
  FROM attempts
 WHERE callback_id = $1 AND notification = $2
 ORDER BY position
"""

ROWS_ABOVE = "SELECT notification FROM deliveries WHERE callback_id = $1 AND notification > $2"

COUNTS = """
SELECT callback_id, state, count(*) AS number FROM deliveries
 WHERE $1::bigint IS NULL OR callback_id = $1
 GROUP BY callback_id, state
"""


class Outcome(NamedTuple):
    """What became of one notification at one callback; times in ms, since the epoch or as `entry` is told."""

    callback_id: int
    notification: int
    state: str
    attempts: int
    due: int | None
    settled: int | None
    status: int | None
    error: str | None
    doubtful: bool


class Progress(NamedTuple):
    """How far a callback is; *failing* in ms, since the epoch or as `entry` is told."""

    callback_id: int
    cursor: int
    reserved: int
    finished: bool
    failing: int | None


def entry(progress: Iterable[Progress], outcomes: Iterable[Outcome], *, later: int = 0) -> Entry:
    """The `delivery` entry: many callbacks' progress and many outcomes in one row.

    *later*: milliseconds to add to their times to have them since the epoch.
    """
    data = {
        "callbacks": [
            (
                p.callback_id,
                p.cursor,
                p.reserved,
                p.finished,
                None if p.failing is None else p.failing + later,
            )
            for p in progress
        ],
        "outcomes": [
            (
                o.callback_id,
                o.notification,
                o.state,
                o.attempts,
                None if o.due is None else o.due + later,
                None if o.settled is None else o.settled + later,
                o.status,
                o.error,
                o.doubtful,
            )
            for o in outcomes
        ],
    }
    return Entry("delivery", data=orjson.dumps(data).decode())


def callback_entry(
    kind: str,
    callback_id: int,
    instance_id: int,
    reason: str | None = None,
    *,
    by: str | None = None,
) -> Entry:
    """A `callback.disabled` (with its reason) or `callback.enabled` entry; *by* is who asks for it, a person."""
    said = {"callback": callback_id, "reason": reason, "by": by}
    data = {name: value for name, value in said.items() if value is not None}
    return Entry(kind, instance_id=instance_id, data=orjson.dumps(data).decode())


async def callbacks(db: Db) -> list[asyncpg.Record]:
    """Every callback: state, since, cursor, reserved, failing, until, replay."""
    return await db.fetch(CALLBACKS)


async def unanswered(db: Db, window: int, until: int) -> list[tuple[int, int, int, int]]:
    """(callback, instance, notification, attempts so far) of all that may have been sent and has no outcome.

    *until* is the log's last position when this process began: what came later, the last run cannot have sent.
    """
    fresh = [
        (row["id"], row["instance_id"], row["notification"], 0)
        for row in await db.fetch(UNANSWERED, window, until)
    ]
    again = [
        (row["id"], row["instance_id"], row["notification"], row["attempts"])
        for row in await db.fetch(IN_FLIGHT)
    ]
    return fresh + again


async def open_of(db: Db, callback_id: int, limit: int) -> list[asyncpg.Record]:
    """A callback's unsettled rows in order: notification, state, attempts, due, status, doubtful, objects."""
    return await db.fetch(OPEN, callback_id, limit)


async def open_some(db: Db, callback_id: int, notifications: Sequence[int]) -> list[asyncpg.Record]:
    """Those of *notifications* that have an unsettled row, as `open_of` gives them."""
    return await db.fetch(OPEN_SOME, callback_id, notifications)


async def unsettled(
    db: Db,
    callback_id: int,
    *,
    states: Sequence[str],
    after: int = 0,
    since: datetime | None = None,
    limit: int = 1000,
) -> list[asyncpg.Record]:
    """A callback's rows in one of *states* (`dead`, `held`, …; not `delivered`), in order from above *after*, a page at a time."""
    return await db.fetch(UNSETTLED, callback_id, after, list(states), since, limit)


async def some(db: Db, callback_id: int, notifications: Sequence[int]) -> list[asyncpg.Record]:
    """The callback's rows of *notifications*, whatever their state, as `unsettled` gives them."""
    return await db.fetch(SOME, callback_id, notifications)


async def callback(db: Db, callback_id: int) -> asyncpg.Record | None:
    """One callback, as `callbacks` gives it."""
    return await db.fetchrow(CALLBACK, callback_id)


async def backlog(db: Db, row: asyncpg.Record, most: int) -> int:
    """How many notifications of the log are above the cursor of the callback *row*, counted up to *most*."""
    until = 2**62 if row["until"] is None else row["until"]
    found: int = await db.fetchval(BACKLOG, row["instance_id"], row["cursor"], until, most)
    return found


async def attempts(db: Db, callback_id: int, notification: int) -> list[asyncpg.Record]:
    """Every attempt that did not succeed at once: attempt, state, settled, status, error."""
    return await db.fetch(ATTEMPTS, callback_id, notification)


def asked_entry(callback_id: int, notifications: Sequence[int], how: str, by: str) -> Entry:
    """The `delivery.asked` entry: a person (*by*) wants them tried again (`retry`), or settles them (`delivered`, `dead`)."""
    data = {"callback": callback_id, "notifications": list(notifications), "how": how, "by": by}
    return Entry("delivery.asked", data=orjson.dumps(data).decode())


async def rows_above(db: Db, callback_id: int, cursor: int) -> set[int]:
    """The notifications above a callback's cursor that have a row."""
    return {row["notification"] for row in await db.fetch(ROWS_ABOVE, callback_id, cursor)}


async def counts(db: Db, callback_id: int | None = None) -> list[asyncpg.Record]:
    """How many rows each callback has in each state."""
    return await db.fetch(COUNTS, callback_id)
