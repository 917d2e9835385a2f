"""Notifications as the API shows them: an instance's events, newest first or in the order of the log."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from daemon.notifications import Notification, raw, render
from daemon.store import log
from daemon.store.database import Db
from daemon.store.reader import Reader

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

STATE = "SELECT state FROM deliveries WHERE callback_id = $1 AND notification = $2"

# What the documented API calls the states.
_STATUS = {None: "RECEIVED", "delivered": "NOTIFIED"}


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A notification as `GET /instances/{id}/events` shows it; *raw* and *notified* are JSON text."""

    position: int
    id: str
    appended: datetime
    status: str
    raw: str
    notified: str | None


async def events(db: Db, instance_id: int, *, before: int | None, limit: int) -> list[StoredEvent]:
    """An instance's notifications, newest first, from below position *before*."""
    reader = Reader(db=db)
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
    found = await Reader(db=db).read(list(states))
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
