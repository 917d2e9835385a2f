"""Callbacks, and what became of each notification there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg
import orjson

from daemon.model import Instance
from daemon.notifications import Notification, StoredChange, raw, render
from daemon.store import instances, log
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

NEXT_EVENTS = """
SELECT log.position, d.state
  FROM log LEFT JOIN deliveries AS d ON d.callback_id = $1 AND d.notification = log.position
 WHERE kind = 'change' AND instance_id = $1 AND position > $2 AND log.notification = position
 ORDER BY position
 LIMIT $3
"""

HAVE_NEXT = """
SELECT number
  FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS wanted (instance_id, after, number)
 WHERE EXISTS (SELECT FROM log
                WHERE kind = 'change' AND log.instance_id = wanted.instance_id AND position > wanted.after
                  AND notification = position)
"""

ATTEMPTS = """
SELECT attempt, state, settled, status, error
  FROM attempts
 WHERE callback_id = $1 AND notification = $2
 ORDER BY position
"""

ROWS_ABOVE = "SELECT notification FROM deliveries WHERE callback_id = $1 AND notification > $2"

EVENTS = """
SELECT first.notification, d.state
  FROM (SELECT DISTINCT notification FROM (
               SELECT notification FROM log
                WHERE kind = 'change' AND instance_id = $1 AND position < $2
                ORDER BY position DESC
                LIMIT $3 * 20) AS recent
         ORDER BY notification DESC
         LIMIT $3) AS first
  LEFT JOIN deliveries AS d ON d.callback_id = $1 AND d.notification = first.notification
 ORDER BY first.notification DESC
"""

STATE = "SELECT state FROM deliveries WHERE callback_id = $1 AND notification = $2"

COUNTS = """
SELECT callback_id, state, count(*) AS number FROM deliveries
 WHERE $1::bigint IS NULL OR callback_id = $1
 GROUP BY callback_id, state
"""


LIVES_MOST = 5_000
"""Instances of which a reader keeps in mind what they were and are."""


@dataclass(frozen=True, slots=True)
class Outcome:
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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a callback is; *failing* in ms, since the epoch or as `entry` is told."""

    callback_id: int
    cursor: int
    reserved: int
    finished: bool
    failing: int | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A notification as `GET /instances/{id}/events` shows it; *raw* and *notified* are JSON text."""

    position: int
    id: str
    appended: datetime
    status: str
    raw: str
    notified: str | None


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
    kind: str, callback_id: int, instance_id: int, reason: str | None = None
) -> Entry:
    """A `callback.disabled` (with its reason) or `callback.enabled` entry."""
    data = {"callback": callback_id, **({} if reason is None else {"reason": reason})}
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


class Reader:
    """Makes notifications of log rows, each with its instance as it was then."""

    def __init__(self, *, db: Db, log_id: bytes) -> None:
        self._db = db
        self._log_id = log_id
        self._lives: dict[int, list[Instance]] = {}
        self._forgotten = 0

    def forget(self, instance_id: int) -> None:
        """Read the instance's life anew next time: it has changed."""
        self._lives.pop(instance_id, None)
        self._forgotten += 1

    async def notifications(self, rows: Sequence[asyncpg.Record]) -> list[Notification]:
        """*rows* of the log, in order and whole notifications only, as notifications."""
        missing = {row["source"] for row in rows if row["source"] is not None}
        bodies: dict[int, str] = {}
        for row in rows:
            if row["source"] == row["position"]:
                missing.discard(row["position"])
                bodies[row["position"]] = row["data"]
        if missing:
            bodies |= await log.sources(self._db, list(missing))
        found: list[Notification] = []
        start = 0
        for end in range(1, len(rows) + 1):
            if end == len(rows) or rows[end]["notification"] != rows[start]["notification"]:
                found.append(await self._notification(rows[start:end], bodies))
                start = end
        return found

    async def _notification(
        self, rows: Sequence[asyncpg.Record], bodies: dict[int, str]
    ) -> Notification:
        first = rows[0]
        position: int = first["notification"]
        return Notification(
            position=position,
            id=log.event_id(self._log_id, position),
            appended=first["appended"],
            instance=await self._instance(first["instance_id"], position),
            changes=tuple(
                [
                    StoredChange(
                        row["position"],
                        row["object_type"],
                        row["object_id"],
                        row["change"],
                        row["changed"],
                        row["data"],
                    )
                    for row in rows
                ]
            ),
            polled=first["polled"],
            raw=None if first["source"] is None else bodies[first["source"]],
        )

    async def _instance(self, instance_id: int, position: int) -> Instance:
        life = self._lives.get(instance_id)
        if life is None:
            forgotten = self._forgotten
            rows = await log.life_of_instance(self._db, instance_id)
            life = [instances.as_of(row, instance_id, rows[0]["appended"]) for row in rows]
            # It tells all up to *position*; but if something came to it while it was read, not what follows.
            if self._forgotten == forgotten:
                while len(self._lives) >= LIVES_MOST:
                    del self._lives[next(iter(self._lives))]
                self._lives[instance_id] = life
        return next(state for state in reversed(life) if state.revision < position)

    def renamed(self, notification: Notification, replay: int) -> Notification:
        """*notification* under the id that a replay with new ids gives it."""
        return replace(notification, id=log.event_id(self._log_id, notification.position, replay))

    async def read(self, notifications: Sequence[int]) -> list[Notification]:
        """The notifications at these positions, in order."""
        return await self.notifications(await log.changes_of_notifications(self._db, notifications))


# What the documented API calls the states.
_STATUS = {None: "RECEIVED", "delivered": "NOTIFIED"}


async def events(db: Db, instance_id: int, *, before: int | None, limit: int) -> list[StoredEvent]:
    """An instance's notifications, newest first, from below position *before*."""
    reader = Reader(db=db, log_id=await log.log_id(db))
    rows = await db.fetch(EVENTS, instance_id, 2**62 if before is None else before, limit)
    states = {row["notification"]: row["state"] for row in rows}
    found = await reader.read(sorted(states))
    return [
        _stored(notification, states[notification.position]) for notification in reversed(found)
    ]


async def next_events(db: Db, instance_id: int, *, after: int, limit: int) -> list[StoredEvent]:
    """An instance's notifications in the order of the log, from above position *after*."""
    rows = await db.fetch(NEXT_EVENTS, instance_id, after, limit)
    states = {row["position"]: row["state"] for row in rows}
    if not states:
        return []
    found = await Reader(db=db, log_id=await log.log_id(db)).read(list(states))
    return [_stored(notification, states[notification.position]) for notification in found]


async def have_next(db: Db, wanted: Sequence[tuple[int, int]]) -> list[int]:
    """Of pairs (instance, position), the indices of those for which `next_events` would find something."""
    ids = [instance_id for instance_id, _ in wanted]
    after = [position for _, position in wanted]
    return [row["number"] - 1 for row in await db.fetch(HAVE_NEXT, ids, after)]


async def event(db: Db, log_id: bytes, instance_id: int, event_id: str) -> StoredEvent | None:
    """The instance's notification of that id, None where it has none."""
    position = log.position_of(log_id, event_id)
    if position is None:
        return None
    found = await Reader(db=db, log_id=log_id).read([position])
    if not found or found[0].instance.id != instance_id:
        return None
    return _stored(found[0], await db.fetchval(STATE, instance_id, position))


def _stored(notification: Notification, state: str | None) -> StoredEvent:
    return StoredEvent(
        position=notification.position,
        id=notification.id,
        appended=notification.appended,
        status=_STATUS.get(state, "DISPATCHED"),
        raw=raw(notification).decode(),
        notified=render(notification).decode() if state == "delivered" else None,
    )
