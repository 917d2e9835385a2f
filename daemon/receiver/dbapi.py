"""Inboxes for applications that do not await: SQLite by sqlite3, PostgreSQL by psycopg.

The statements are the same for both; PsycopgInbox writes `%s` where SQLite has `?`.
"""

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from daemon.receipts import Question, Receipts
from daemon.receiver.answers import HORIZON, KEEP, answer, checked, horizon

TABLE = """
CREATE TABLE IF NOT EXISTS tidings_inbox (
    inbox text   NOT NULL,
    id    text   NOT NULL,
    at    bigint NOT NULL,
    PRIMARY KEY (inbox, id)
)
"""

INDEX = "CREATE INDEX IF NOT EXISTS tidings_inbox_at ON tidings_inbox (inbox, at)"

# Only PostgreSQL needs it: there IF NOT EXISTS alone fails when two do it at once.
LOCK = "SELECT pg_advisory_xact_lock(7434604)"

# While another transaction holds the same id uncommitted this waits for its end.
FIRST = (
    "INSERT INTO tidings_inbox (inbox, id, at) VALUES (?, ?, ?) ON CONFLICT (inbox, id) DO NOTHING"
)

FIND = "SELECT id, at FROM tidings_inbox WHERE inbox = ? AND id IN "

MOVE_HORIZON = """
INSERT INTO tidings_inbox (inbox, id, at) VALUES (?, ?, ?)
ON CONFLICT (inbox, id)
DO UPDATE SET at = CASE WHEN excluded.at > tidings_inbox.at THEN excluded.at ELSE tidings_inbox.at END
"""

FORGET = "DELETE FROM tidings_inbox WHERE inbox = ? AND id <> ? AND at < ?"


class PsycopgConnection(Protocol):
    """What is needed of psycopg's connection."""

    @property
    def info(self) -> Any: ...
    @property
    def autocommit(self) -> bool: ...
    def cursor(self) -> Any: ...


C = TypeVar("C", PsycopgConnection, sqlite3.Connection)


class _Inbox(ABC, Generic[C]):
    """The ids of notifications whose effect is in the database.

    *name* keeps apart the inboxes of several receivers in one database.  *clock* is in seconds since 1970.
    Nothing is committed here: that is for the caller, whose transaction it is.
    """

    _placeholder = "?"

    def __init__(self, name: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._name, self._clock = name, clock

    def create(self, conn: C) -> None:
        """Make the table `tidings_inbox` unless it is there; commit then."""
        for statement in (TABLE, INDEX):
            self._execute(conn, statement)

    def first(self, conn: C, message_id: str) -> bool:
        """Whether the notification has had no effect yet: if true, have it in this same transaction.

        Waits for a transaction that is at the same notification.  Raises `RuntimeError` outside a transaction.
        """
        self._check(conn)
        values = [self._name, checked(message_id), int(self._clock())]
        return self._execute(conn, FIRST, values) == 1

    def receipts(self, conn: C, question: Question) -> Receipts:
        """The answer to *question*.  *conn* must not be to a replica: it may lag."""
        values: list[str] = [self._name, HORIZON, *question.ids]
        statement = FIND + "(" + ", ".join("?" * (len(values) - 1)) + ")"
        with closing(conn.cursor()) as cursor:
            cursor.execute(self._written(statement), values)
            rows = cursor.fetchall()
        return answer(question, dict(_pair(row) for row in rows))

    def forget(self, conn: C, *, keep: timedelta = KEEP) -> None:
        """Forget ids older than *keep*; from then on nothing is said of ids that may have been among them.

        Raises `RuntimeError` outside a transaction.
        """
        self._check(conn)
        before = horizon(self._clock(), keep)
        for statement in (MOVE_HORIZON, FORGET):
            self._execute(conn, statement, [self._name, HORIZON, before])

    def _execute(self, conn: C, statement: str, values: Sequence[object] = ()) -> int:
        """Run *statement*; the number of rows that it touched."""
        with closing(conn.cursor()) as cursor:
            cursor.execute(self._written(statement), values)
            touched: int = cursor.rowcount
        return touched

    def _written(self, statement: str) -> str:
        return statement.replace("?", self._placeholder)

    @abstractmethod
    def _check(self, conn: C) -> None:
        """Raise `RuntimeError` if what is executed now were committed by itself."""


class SqliteInbox(_Inbox[sqlite3.Connection]):
    """An inbox in the application's own SQLite database.

    Begin with `BEGIN IMMEDIATE`: a transaction that has read before it writes fails when another wrote meanwhile.
    """

    def _check(self, conn: sqlite3.Connection) -> None:
        # sqlite3 would begin one by itself, or not: that depends on how the connection was made.
        if not conn.in_transaction:
            raise RuntimeError(
                "execute BEGIN IMMEDIATE first: one transaction must hold the id and the effect"
            )


class PsycopgInbox(_Inbox[PsycopgConnection]):
    """An inbox in the application's own PostgreSQL, by psycopg."""

    _placeholder = "%s"

    def create(self, conn: PsycopgConnection) -> None:
        """Make the table `tidings_inbox` unless it is there; needs the right to make tables.  Commit then."""
        self._check(conn)
        self._execute(conn, LOCK)
        super().create(conn)

    def _check(self, conn: PsycopgConnection) -> None:
        if conn.autocommit and conn.info.transaction_status == 0:  # IDLE
            raise RuntimeError("begin a transaction first: it must hold the id and the effect")


def _pair(row: Any) -> tuple[str, int]:
    """A row as the connection's row factory made it."""
    message_id, at = row.values() if isinstance(row, Mapping) else row
    return message_id, at
