"""Connections to PostgreSQL, and what to think when one breaks."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
import orjson
import structlog
from asyncpg.pool import PoolConnectionProxy

from daemon.errors import ConfigError, Outage

logger = structlog.get_logger()

T = TypeVar("T")


class _Clean(asyncpg.Connection):
    """A pool's connection that needs no cleaning when it comes home: nothing here leaves state on a session.

    asyncpg's own way costs another round trip for every read.
    """

    def get_reset_query(self) -> str:
        """Nothing to undo."""
        return ""


if TYPE_CHECKING:  # asyncpg's classes are generic in its stubs only
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Conn: TypeAlias = Connection | PoolConnectionProxy[asyncpg.Record]
else:
    Pool, Connection = asyncpg.Pool, asyncpg.Connection
    Conn = Connection | PoolConnectionProxy
Db: TypeAlias = Pool | Conn
"""Reads take a `Db`; whatever must share a transaction takes a `Conn`."""

SCHEMA_VERSION = 1

ROLE = "tidings_daemon"
"""The daemon's role: it may append to the log and not change it."""

# What a database that is away looks like from here.  InternalClientError is how asyncpg reports that a
# connection died in the middle of a message (`cannot switch to state …`); its base is plain Exception.
OUTAGE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.exceptions.DiskFullError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
)


AWAY: tuple[type[BaseException], ...] = (*OUTAGE, Outage)
"""The same, whether asyncpg says so or the writer."""


def is_outage(error: BaseException) -> bool:
    """Whether the database is away.

    Of asyncpg's InterfaceErrors those that are ValueErrors too are about what it was given (its own DataError):
    a mistake in the data, with which another connection would not help.
    """
    return isinstance(error, AWAY) and not isinstance(error, ValueError)


PATIENCE = (0.1, 2.0)
"""Seconds between two questions to a database that is away: the first pause, which doubles, and the longest."""


async def until_there(work: Callable[[], Awaitable[T]], *, waiting: str) -> T:
    """What *work* returns, which is done again and again while the database is away; *waiting* is who waits."""
    pause, most = PATIENCE
    while True:
        try:
            return await work()
        except Exception as error:
            if not is_outage(error):
                raise
            said = str(error) or type(error).__name__
            logger.warning("waiting for the database", who=waiting, error=said)
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)


FIND_SCHEMA = "SELECT obj_description(to_regclass('log'), 'pg_class')"
PING = "SELECT 1"

# One writer may be creating the schema while another process looks.
LOCK_SCHEMA = "SELECT pg_advisory_xact_lock(7434601)"


def schema_sql() -> str:
    """The text of `schema.sql`: beside the package when installed, at the project's top in a checkout."""
    packaged = resources.files("daemon").joinpath("schema.sql")
    if packaged.is_file():
        return packaged.read_text()
    return (Path(__file__).parents[2] / "schema.sql").read_text()


async def connect(dsn: str, *, role: str | None = ROLE, timeout: float = 10) -> Connection:  # noqa: ASYNC109 — it is asyncpg's, which cleans up after itself
    """Open one connection, as the daemon's role unless *role* is None (the owner).

    Raises one of `OUTAGE`, or what PostgreSQL says against the credentials.
    """
    conn = await asyncpg.connect(
        dsn,
        timeout=timeout,
        command_timeout=60,
        server_settings=_settings(role),
    )
    await _prepare(conn)
    return conn


@asynccontextmanager
async def open_pool(
    dsn: str,
    *,
    size: int = 8,
    role: str | None = ROLE,
    connect_timeout: float = 10,
    command_timeout: float = 30,
) -> AsyncIterator[Pool]:
    """A pool of connections for reading."""
    pool = await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        timeout=connect_timeout,
        command_timeout=command_timeout,
        server_settings=_settings(role),
        init=_prepare,
        connection_class=_Clean,
    )
    try:
        yield pool
    finally:
        # close() waits for every connection to come home; one that hangs must not keep the process.
        try:
            await asyncio.wait_for(pool.close(), 5)
        except TimeoutError:
            pool.terminate()


async def install(dsn: str, *, connect_timeout: float = 10) -> bool:
    """Create the schema where there is none; true when it was created.

    Raises `ConfigError` for a schema of another version, or when the database's user may not create it.
    """
    conn = await connect(dsn, role=None, timeout=connect_timeout)
    try:
        async with conn.transaction():
            await conn.execute(LOCK_SCHEMA)
            found = await conn.fetchval(FIND_SCHEMA)
            if found is None:
                await conn.execute(schema_sql())
                return True
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(
            f"database: its user may not create tidings' schema ({error}); grant CREATE on the database and "
            "CREATEROLE to it, or let an administrator run schema.sql once"
        ) from error
    finally:
        await conn.close()
    version = re.fullmatch(r"tidings schema (\d+)", found)
    if version is None or int(version[1]) != SCHEMA_VERSION:
        raise ConfigError(
            f"database: found {found!r}, this tidings works with schema {SCHEMA_VERSION}; "
            "install the tidings that made it, or give this one a database of its own"
        )
    return False


async def installed(db: Db) -> str | None:
    """What the schema says of itself (`tidings schema 1`), None where there is none."""
    found: str | None = await db.fetchval(FIND_SCHEMA)
    return found


async def ping(db: Db) -> None:
    """Return when PostgreSQL answers; raises one of `OUTAGE`."""
    await db.fetchval(PING, timeout=5)


def _settings(role: str | None) -> dict[str, str]:
    settings = {
        "application_name": "tidings",
        "timezone": "UTC",
        # The server must notice within a minute that this machine is gone: its writer's backend has locks.
        "tcp_keepalives_idle": "20",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "4",
        # A transaction that this process forgot must not hold back vacuum or the append lock.
        "idle_in_transaction_session_timeout": "60000",
        # Compiling a plan costs more than any statement here takes.
        "jit": "off",
    }
    return settings if role is None else {**settings, "role": role}


async def _prepare(conn: Connection) -> None:
    # json stays text: entries go out again as they came in, spliced into a body without being parsed.
    await conn.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_dump, decoder=orjson.loads, format="text"
    )


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()
