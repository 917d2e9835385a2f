"""Replays: what is asked to be sent again, and how far that is.

A replay is a callback of its own, whose id is the position of its `replay.requested`; it goes from `after` to
`until` over the notifications that its selection holds.
"""

from dataclasses import dataclass

import asyncpg
import orjson

from daemon.store.database import Db
from daemon.store.log import Entry

COUNT = """
SELECT count(DISTINCT notification) AS notifications, count(*) AS changes,
       min(position) AS first, max(position) AS last, min(appended) AS oldest, max(appended) AS newest
  FROM log
 WHERE kind = 'change' AND instance_id = $1 AND position > $2 AND position <= $3
   AND ($4::text IS NULL OR object_type = $4) AND ($5::text IS NULL OR object_id = $5)
"""

PROGRESS = "SELECT state, reason, cursor, until, failing FROM callbacks WHERE id = $1 AND replay IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which notifications of an instance: positions above *after* and up to *until*, of one type or object if given."""

    instance_id: int
    after: int
    until: int
    object_type: str | None = None
    object_id: str | None = None


def requested(selection: Selection, *, url: str | None, requested_by: str) -> Entry:
    """The `replay.requested` entry; *url* None sends to the instance's own callback."""
    data = {
        "instance": selection.instance_id,
        "after": selection.after,
        "until": selection.until,
        "type": selection.object_type,
        "object": selection.object_id,
        "url": url,
        "requested_by": requested_by,
    }
    return Entry(
        "replay.requested", instance_id=selection.instance_id, data=orjson.dumps(data).decode()
    )


async def count(db: Db, selection: Selection) -> asyncpg.Record:
    """How much *selection* holds: notifications, changes, first, last (positions), oldest, newest (times)."""
    row = await db.fetchrow(
        COUNT,
        selection.instance_id,
        selection.after,
        selection.until,
        selection.object_type,
        selection.object_id,
    )
    assert row is not None  # noqa: S101 — an aggregate always has its row; for the type checker
    return row


async def progress(db: Db, replay_id: int) -> asyncpg.Record | None:
    """How far a replay is: state, reason, cursor, until, failing; None where there is no such replay."""
    return await db.fetchrow(PROGRESS, replay_id)
