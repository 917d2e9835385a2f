"""An inbox in the application's own PostgreSQL, on its own asyncpg connection and in its own transaction."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from daemon.receipts import Question, Receipts
from daemon.receiver.answers import HORIZON, KEEP, answer, checked, horizon

if TYPE_CHECKING:  # asyncpg's classes are generic in its stubs only
    Conn: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Conn = asyncpg.Connection | PoolConnectionProxy

# One transaction, because one call; the lock, because IF NOT EXISTS alone fails when two do it at once.
TABLE = """
SELECT pg_advisory_xact_lock(7434604);
CREATE TABLE IF NOT EXISTS tidings_inbox (
    inbox text   NOT NULL,
    id    text   NOT NULL,
    at    bigint NOT NULL,
    PRIMARY KEY (inbox, id)
);
CREATE INDEX IF NOT EXISTS tidings_inbox_at ON tidings_inbox (inbox, at);
"""

# While another transaction holds the same id uncommitted this waits for its end.
FIRST = """
INSERT INTO tidings_inbox (inbox, id, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true
"""

FIND = "SELECT id, at FROM tidings_inbox WHERE inbox = $1 AND id = ANY ($2)"

MOVE_HORIZON = """
INSERT INTO tidings_inbox (inbox, id, at) VALUES ($1, $2, $3)
ON CONFLICT (inbox, id) DO UPDATE SET at = greatest(tidings_inbox.at, excluded.at)
"""

FORGET = "DELETE FROM tidings_inbox WHERE inbox = $1 AND id <> $2 AND at < $3"


class PostgresInbox:
    """The ids of notifications whose effect is in the database.

    *name* keeps apart the inboxes of several receivers in one database.  *clock* is in seconds since 1970.
    """

    def __init__(self, name: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._name, self._clock = name, clock

    async def create(self, conn: Conn) -> None:
        """Make the table `tidings_inbox` unless it is there; needs the right to make tables."""
        await conn.execute(TABLE)

    async def first(self, conn: Conn, message_id: str) -> bool:
        """Whether the notification has had no effect yet: if true, have it in this same transaction.

        Waits for a transaction that is at the same notification.  Raises `RuntimeError` outside a transaction and,
        under REPEATABLE READ and SERIALIZABLE, asyncpg's `SerializationError` where it would have had to wait: answer
        500, and tidings comes again.
        """
        if not conn.is_in_transaction():
            raise RuntimeError("begin a transaction first: it must hold the id and the effect")
        at = int(self._clock())
        return bool(await conn.fetchval(FIRST, self._name, checked(message_id), at))

    async def receipts(self, conn: Conn, question: Question) -> Receipts:
        """The answer to *question*.  *conn* must not be to a replica: it may lag."""
        rows = await conn.fetch(FIND, self._name, [*question.ids, HORIZON])
        return answer(question, {row["id"]: row["at"] for row in rows})

    async def forget(self, conn: Conn, *, keep: timedelta = KEEP) -> None:
        """Forget ids older than *keep*; from then on nothing is said of ids that may have been among them."""
        before = horizon(self._clock(), keep)
        async with conn.transaction():
            await conn.execute(MOVE_HORIZON, self._name, HORIZON, before)
            await conn.execute(FORGET, self._name, HORIZON, before)
