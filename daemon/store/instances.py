"""Instances: how the log tells of them, and how they are read."""

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from daemon.model import Instance
from daemon.store.database import Db
from daemon.store.log import SELF, Entry

ALL = """
SELECT id, organization_id, user_id, element_key, hub, name, tags, configuration, token_digest, disabled, created, updated, revision, reason
  FROM instances
 ORDER BY id
"""

SOME = """
SELECT id, organization_id, user_id, element_key, hub, name, tags, configuration, token_digest, disabled, created, updated, revision, reason
  FROM instances
 WHERE id = ANY($1::bigint[])
"""

CHANGED_AFTER = """
SELECT coalesce(max(position), $1) AS upto, array_agg(DISTINCT instance_id) FILTER (WHERE kind LIKE 'instance.%') AS ids
  FROM log
 WHERE position > $1
"""


def new_token() -> str:
    """An element token: shaped as Cloud Elements' are, standard base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def digest(secret: str) -> bytes:
    """What is kept of a secret that only has to be recognised.  They are random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).digest()


def entry(
    kind: str,
    *,
    instance_id: int = SELF,
    organization_id: int,
    user_id: int,
    element_key: str,
    hub: str,
    name: str,
    tags: Sequence[str],
    configuration: Mapping[str, str | None],
    token_digest: bytes,
    disabled: bool,
    callback: str | None,
    resources: Sequence[str],
    detail: Mapping[str, Any] | None = None,
) -> Entry:
    """An `instance.*` entry.  Each carries the whole state, secrets masked, so the last one says all.

    *callback* is the address that notifications go to, None while events are off; *resources* are those
    that are polled.
    """
    return Entry(
        kind=kind,
        instance_id=instance_id,
        data=orjson.dumps(
            {
                "organization": organization_id,
                "user": user_id,
                "element": element_key,
                "hub": hub,
                "name": name,
                "tags": list(tags),
                "configuration": dict(configuration),
                "token_digest": token_digest.hex(),
                "disabled": disabled,
                "callback": callback,
                "resources": list(resources),
                **(detail or {}),
            }
        ).decode(),
    )


def changed(kind: str, instance: Instance, *, resources: Sequence[str], **fields: Any) -> Entry:
    """The entry that makes *instance* one with other *fields* (`name`, `tags`, `configuration`, `disabled`)."""
    state = {
        "organization_id": instance.organization_id,
        "user_id": instance.user_id,
        "element_key": instance.element_key,
        "hub": instance.hub,
        "name": instance.name,
        "tags": instance.tags,
        "configuration": instance.configuration,
        "token_digest": instance.token_digest,
        "disabled": instance.disabled,
        **fields,
    }
    notifies = (state["configuration"].get("event.notification.enabled") or "").lower() == "true"
    url = state["configuration"].get("event.notification.callback.url")
    callback = url if notifies and url and url != "false" and kind != "instance.deleted" else None
    return entry(kind, instance_id=instance.id, callback=callback, resources=resources, **state)


async def load(db: Db, ids: Sequence[int] | None = None) -> list[Instance]:
    """All instances, or those of *ids* that exist."""
    rows = await db.fetch(ALL) if ids is None else await db.fetch(SOME, ids)
    return [_instance(row) for row in rows]


async def changed_after(db: Db, position: int) -> tuple[int, list[int]]:
    """The log's last position, and the instances that entries after *position* speak of."""
    row = await db.fetchrow(CHANGED_AFTER, position)
    if row is None:
        return position, []
    return row["upto"], row["ids"] or []


def as_of(row: asyncpg.Record, instance_id: int, created: datetime) -> Instance:
    """The instance that an `instance.*` entry describes, *created* at the time of its first."""
    data = orjson.loads(row["data"])
    return Instance(
        id=instance_id,
        organization_id=data["organization"],
        user_id=data["user"],
        element_key=data["element"],
        hub=data["hub"],
        name=data["name"],
        tags=tuple(data["tags"]),
        configuration=data["configuration"],
        token_digest=bytes.fromhex(data["token_digest"]),
        disabled=data["disabled"],
        created=created,
        updated=row["appended"],
        revision=row["position"],
        reason=data.get("reason"),
    )


def _instance(row: asyncpg.Record) -> Instance:
    return Instance(**{**row, "tags": tuple(row["tags"])})
