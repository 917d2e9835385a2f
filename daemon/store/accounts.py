"""Organizations and users: who a request is from.

A user has two secrets, sent as `User <secret>, Organization <secret>`.  They are shown once, when the user is
added, and kept as digests.
"""

import base64
import secrets

import asyncpg
import orjson

from daemon.model import Account
from daemon.store.database import Db
from daemon.store.instances import digest
from daemon.store.log import Entry

FIND_USER = """
SELECT users.id, organization_id, users.name, organizations.name AS organization, organization_digest
  FROM users JOIN organizations ON organizations.id = organization_id
 WHERE user_digest = $1 AND removed IS NULL
"""

LIST_USERS = """
SELECT users.id, users.name, organizations.name AS organization, added, removed
  FROM users JOIN organizations ON organizations.id = organization_id
 ORDER BY users.id
"""

NAMED = """
SELECT users.id, users.name, organizations.name AS organization, added, removed
  FROM users JOIN organizations ON organizations.id = organization_id
 WHERE users.name = $1 AND removed IS NULL
"""


def new_user(name: str, organization: str) -> tuple[Entry, str, str]:
    """The entry that adds a user, and the two secrets (user's, organization's) to show this once."""
    user = base64.b64encode(secrets.token_bytes(32)).decode()
    secret = secrets.token_hex(16)
    data = {
        "name": name,
        "organization": organization,
        "user_digest": digest(user).hex(),
        "organization_digest": digest(secret).hex(),
    }
    return Entry("user.added", data=orjson.dumps(data).decode()), user, secret


def removed_user(user_id: int) -> Entry:
    """The entry that removes a user."""
    return Entry("user.removed", data=orjson.dumps({"user": user_id}).decode())


async def authenticate(db: Db, user: str, organization: str | None) -> Account | None:
    """The account that these secrets open; the organization's is checked only where it is given."""
    row = await db.fetchrow(FIND_USER, digest(user))
    if row is None:
        return None
    if organization is not None and not secrets.compare_digest(
        row["organization_digest"], digest(organization)
    ):
        return None
    return Account(row["id"], row["organization_id"], row["name"], row["organization"])


async def users(db: Db) -> list[asyncpg.Record]:
    """All users, removed ones too: id, name, organization, added, removed."""
    return await db.fetch(LIST_USERS)


async def named(db: Db, name: str) -> asyncpg.Record | None:
    """The user of that name who is not removed."""
    return await db.fetchrow(NAMED, name)
