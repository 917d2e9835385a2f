"""What is known of the objects at providers, and how far each resource is read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from daemon.store.database import Db
from daemon.store.log import Entry

KNOWN = """
SELECT object_id, fingerprint, changed, deleted
  FROM objects
 WHERE instance_id = $1 AND object_type = $2 AND object_id = ANY($3::text[])
"""

PRESENT = """
SELECT object_id FROM objects WHERE instance_id = $1 AND object_type = $2 AND NOT deleted AND object_id > $3 ORDER BY object_id LIMIT $4
"""

CURSORS = """
SELECT instance_id, resource, cursor, baseline, polled, swept, failures, failed, retry, error, disabled, allow_sweep
  FROM cursors
 WHERE $1::bigint IS NULL OR instance_id = $1
 ORDER BY instance_id, resource
"""


async def known(
    db: Db, instance_id: int, object_type: str, ids: Sequence[str]
) -> dict[str, asyncpg.Record]:
    """Those of *ids* that are known: fingerprint, changed, deleted."""
    rows = await db.fetch(KNOWN, instance_id, object_type, ids)
    return {row["object_id"]: row for row in rows}


async def present(db: Db, instance_id: int, object_type: str, *, chunk: int = 5000) -> set[str]:
    """The ids of all objects that are known and not deleted."""
    ids: set[str] = set()
    last = ""
    while rows := await db.fetch(PRESENT, instance_id, object_type, last, chunk):
        ids.update(row["object_id"] for row in rows)
        last = rows[-1]["object_id"]
    return ids


async def cursors(db: Db, instance_id: int | None = None) -> list[asyncpg.Record]:
    """How far each polled resource is, of one instance or of all."""
    return await db.fetch(CURSORS, instance_id)


def known_entry(
    instance_id: int, object_type: str, found: Sequence[tuple[str, bytes, datetime | None]]
) -> Entry:
    """The entry that makes objects known without telling anybody: a baseline's, a page at a time."""
    rows = [
        (object_id, fingerprint.hex(), None if changed is None else int(changed.timestamp() * 1000))
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
