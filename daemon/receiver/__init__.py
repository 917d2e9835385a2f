"""For applications that receive notifications: verify, do it once, answer whether it was done.

    handle           a request, whatever the web framework ─► Notification | Question | Refused
    PostgresInbox    the ids of what was done, beside what was done: asyncpg
    PsycopgInbox     … psycopg
    SqliteInbox      … sqlite3
    MemoryInbox      … in memory, for development: it forgets with the process

An inbox stores the id of a notification in the transaction that has its effect, so the effect and the id are there
together or not at all; that is all that "once" needs.  docs/receipts.md has the protocol and examples.
"""

from daemon.receipts import CONTENT_TYPE, Question, Receipts, write_answer
from daemon.receiver.dbapi import PsycopgInbox, SqliteInbox
from daemon.receiver.handling import Notification, Reaction, Refused, handle
from daemon.receiver.memory import MemoryInbox
from daemon.receiver.postgres import PostgresInbox

__all__ = [
    "CONTENT_TYPE",
    "MemoryInbox",
    "Notification",
    "PostgresInbox",
    "PsycopgInbox",
    "Question",
    "Reaction",
    "Receipts",
    "Refused",
    "SqliteInbox",
    "handle",
    "write_answer",
]
