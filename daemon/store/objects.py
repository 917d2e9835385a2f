"""What is known of the objects at providers, and how far each resource is read."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import asyncpg
import orjson

from daemon.store.database import Db
from daemon.store.log import Entry

KNOWN = """
SELECT object_id, fingerprint, changed, deleted, place
  FROM objects
 WHERE instance_id = $1 AND object_type = $2 AND object_id = ANY($3::text[])
"""

PRESENT = """
SELECT object_id FROM objects
 WHERE instance_id = $1 AND object_type = $2 AND NOT deleted AND object_id > $3
   AND ($5::text = '' OR place = $5 OR (place >= $5 || '/' AND place < $5 || '0'))
 ORDER BY object_id LIMIT $4
"""

# The beginning of a place serves to find, the whole of it to be right.  What is below `/a` is from `/a/` up to, not with,
# `/a0`: in the column's order of bytes 0 follows upon /.  LIKE would need its wildcards escaped, and no index serves it
# in a plan that is made for any pattern.  The order is not needed: it has the index used for a table that nobody has
# analysed yet, which is what a first baseline fills.
DISPLACED = """
SELECT DISTINCT wanted.n
  FROM unnest($3::text[], $4::text[], $5::boolean[]) WITH ORDINALITY AS wanted (place, object_id, keeps_below, n)
 CROSS JOIN LATERAL (
       SELECT FROM objects AS o
        WHERE o.instance_id = $1 AND o.object_type = $2 AND left(o.place, 500) = left(wanted.place, 500)
          AND o.place = wanted.place AND o.object_id <> wanted.object_id
        UNION ALL
      (SELECT FROM objects AS o
        WHERE o.instance_id = $1 AND o.object_type = $2 AND NOT wanted.keeps_below
          AND left(o.place, 500) >= left(wanted.place || '/', 500) AND left(o.place, 500) <= left(wanted.place || '0', 500)
          AND o.place >= wanted.place || '/' AND o.place < wanted.place || '0'
        ORDER BY left(o.place, 500) LIMIT 1)) AS other
"""

AT = """
SELECT object_id, place FROM objects
 WHERE instance_id = $1 AND object_type = $2 AND left(place, 500) = left($3::text, 500) AND place = $3
 LIMIT $4
"""

BELOW = """
SELECT object_id, place FROM objects
 WHERE instance_id = $1 AND object_type = $2
   AND left(place, 500) >= left($3::text || '/', 500) AND left(place, 500) <= left($3 || '0', 500)
   AND place >= $3 || '/' AND place < $3 || '0'
 ORDER BY left(place, 500) LIMIT $4
"""

CURSORS = """
SELECT instance_id, resource, cursor, baseline, polled, swept, failures, failed, retry, error, disabled, allow_sweep, token,
       extract(epoch FROM now() - noted)::double precision AS age
  FROM cursors
 WHERE $1::bigint IS NULL OR instance_id = $1
 ORDER BY instance_id, resource
"""


async def known(
    db: Db, instance_id: int, object_type: str, ids: Sequence[str]
) -> dict[str, asyncpg.Record]:
    """Those of *ids* that are known: fingerprint, changed, deleted, place."""
    rows = await db.fetch(KNOWN, instance_id, object_type, ids)
    return {row["object_id"]: row for row in rows}


async def present(
    db: Db, instance_id: int, object_type: str, *, root: str = "", chunk: int = 5000
) -> set[str]:
    """The ids of all objects that are known and not deleted; with *root*, of those at that place or below it."""
    ids: set[str] = set()
    last = ""
    while rows := await db.fetch(PRESENT, instance_id, object_type, last, chunk, root):
        ids.update(row["object_id"] for row in rows)
        last = rows[-1]["object_id"]
    return ids


async def displaced(
    db: Db, instance_id: int, object_type: str, places: Sequence[tuple[str, str, bool]]
) -> list[int]:
    """Which of *places* (their numbers, from 0) have another object than they should, or one below them.

    Each is a place, the id of the object there (empty: none) and whether what is below the place may stay.
    """
    columns = [[place[n] for place in places] for n in range(3)]
    rows = await db.fetch(DISPLACED, instance_id, object_type, *columns)
    return [row["n"] - 1 for row in rows]


async def at_or_below(
    db: Db, instance_id: int, object_type: str, place: str, *, below: bool, limit: int
) -> list[tuple[str, str]]:
    """Ids and places of the objects at *place* and, if *below*, of those below it: at most *limit* of each."""
    rows = await db.fetch(AT, instance_id, object_type, place, limit)
    if below:
        rows += await db.fetch(BELOW, instance_id, object_type, place, limit)
    return [(row["object_id"], row["place"]) for row in rows]


async def cursors(db: Db, instance_id: int | None = None) -> list[asyncpg.Record]:
    """How far each polled resource is, of one instance or of all."""
    return await db.fetch(CURSORS, instance_id)


def known_entry(
    instance_id: int,
    object_type: str,
    found: Sequence[tuple[str, bytes, datetime | None]],
    *,
    places: Mapping[str, str] = MappingProxyType({}),
) -> Entry:
    """The entry that makes objects known without telling anybody: a baseline's, a page at a time.

    *places* has, by id, where those objects are that have a place.
    """
    rows = [
        (
            object_id,
            fingerprint.hex(),
            None if changed is None else int(changed.timestamp() * 1000),
            *([places[object_id]] if object_id in places else []),
        )
        for object_id, fingerprint, changed in found
    ]
    return Entry(
        "object.known",
        instance_id=instance_id,
        data=orjson.dumps({"object_type": object_type, "objects": rows}).decode(),
    )


def poll_entry(kind: str, instance_id: int, resource: str, **facts: Any) -> Entry:
    """A `poll.*` or `sweep.*` entry: *facts* are cursor, baseline, polled, swept, failures, retry, error."""
    data: dict[str, Any] = {"resource": resource, **facts}
    if data.get("error") is not None:
        # Providers' words may be in it, and PostgreSQL's text holds no NUL.
        data["error"] = data["error"].replace("\0", " ")
    return Entry(kind, instance_id=instance_id, data=orjson.dumps(data).decode())
