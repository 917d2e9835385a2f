"""Replays: what is asked to be sent again, and how far that is.

A replay is a callback of its own, whose id is the position of its `replay.requested`; it goes from `after` to
`until` over the notifications that its selection holds.  Ending it early is a `callback.disabled` about it, and
`callback.enabled` lets it go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import orjson

from daemon.store import log
from daemon.store.database import Db
from daemon.store.log import Entry

COUNT = """
SELECT instance_id, count(DISTINCT notification) AS notifications, count(*) AS changes,
       min(appended) AS oldest, max(appended) AS newest
  FROM log
 WHERE kind = 'change' AND instance_id = ANY($1::bigint[]) AND position > $2 AND position <= $3
   AND ($4::text IS NULL OR object_type = $4) AND ($5::text IS NULL OR object_id = $5)
 GROUP BY instance_id
 ORDER BY instance_id
"""

INSTANCES_OF = """
SELECT instances.id
  FROM instances LEFT JOIN organizations ON organizations.id = organization_id
 WHERE ($1::text IS NULL OR element_key = $1) AND ($2::text IS NULL OR organizations.name = $2)
 ORDER BY instances.id
"""

STATES = """
SELECT c.id, c.instance_id, c.state, c.reason, c.cursor, c.until, c.failing, c.replay, log.appended AS requested,
       d.delivered, d.dead, d.open
  FROM callbacks AS c JOIN log ON log.position = c.id
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE deliveries.state = 'delivered') AS delivered,
              count(*) FILTER (WHERE deliveries.state = 'dead') AS dead,
              count(*) FILTER (WHERE deliveries.state NOT IN ('delivered', 'dead')) AS open
         FROM deliveries WHERE callback_id = c.id) AS d
 WHERE c.replay IS NOT NULL AND ($1::bigint[] IS NULL OR c.id = ANY($1::bigint[]))
   AND ($2 OR c.state IN ('active', 'disabled'))
 ORDER BY c.id
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which notifications: positions above *after* and up to *until*, of one type or object where that is given."""

    after: int
    until: int
    object_type: str | None = None
    object_id: str | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """How they are sent.

    To *url*, or to the callback of the instance *to_instance*, or (both None) to the instance's own; with new ids
    if *as_new*; at most *rate* a second.
    """

    url: str | None = None
    to_instance: int | None = None
    as_new: bool = False
    rate: float = 200.0


def requested(
    instance_id: int, selection: Selection, terms: Terms, *, notifications: int, by: str
) -> Entry:
    """The `replay.requested` entry of one instance; *notifications* is how many there were when *by* asked."""
    data = {
        "instance": instance_id,
        "after": selection.after,
        "until": selection.until,
        "type": selection.object_type,
        "object": selection.object_id,
        "url": terms.url,
        "to_instance": terms.to_instance,
        "as_new": terms.as_new,
        "rate": terms.rate,
        "notifications": notifications,
        "requested_by": by,
    }
    return Entry("replay.requested", instance_id=instance_id, data=orjson.dumps(data).decode())


async def whole(db: Db, selection: Selection) -> Selection:
    """*selection*, widened to whole notifications at both ends: they travel as they did."""
    after, until = selection.after, selection.until
    first = await log.entry(db, after + 1)
    if first is not None and first["notification"] is not None:
        after = first["notification"] - 1
    last = await log.entry(db, until) if until > after else None
    if last is not None and last["notification"] is not None:
        until = (await log.changes_of_notifications(db, [last["notification"]]))[-1]["position"]
    return Selection(after, until, selection.object_type, selection.object_id)


async def instances_of(
    db: Db, *, element: str | None = None, organization: str | None = None
) -> list[int]:
    """The ids of the instances of an element, of the organization of that name, or of both; of all without either."""
    return [row["id"] for row in await db.fetch(INSTANCES_OF, element, organization)]


async def count(
    db: Db, instance_ids: Sequence[int], selection: Selection
) -> dict[int, asyncpg.Record]:
    """How much *selection* holds of each instance, if anything: notifications, changes, oldest, newest (times)."""
    rows = await db.fetch(
        COUNT,
        instance_ids,
        selection.after,
        selection.until,
        selection.object_type,
        selection.object_id,
    )
    return {row["instance_id"]: row for row in rows}


async def states(
    db: Db, ids: Sequence[int] | None = None, *, ended: bool = True
) -> list[asyncpg.Record]:
    """How replays (those of *ids*, else all) are, in order; without *ended* only what has not come to its end.

    id, instance_id, state, reason, cursor, until, failing, replay (what was asked for), requested (when), and how
    many are delivered, dead and open.
    """
    return await db.fetch(STATES, ids, ended)
