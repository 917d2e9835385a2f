"""[database] connect_timeout, against a server that takes connections and says nothing."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon import service
from daemon.config import load
from daemon.store import database, vault
from daemon.store.database import is_outage
from daemon.store.writer import Writer

Run = Callable[..., Any]


@asynccontextmanager
async def silence() -> AsyncGenerator[str]:
    """The DSN of a server that answers nothing."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1024):
                pass
        finally:
            writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        yield f"postgresql://nobody@127.0.0.1:{server.sockets[0].getsockname()[1]}/x"


async def open_pool(dsn: str, keys: vault.Keys) -> None:
    async with database.open_pool(dsn, connect_timeout=0.2):
        pass


async def open_writer(dsn: str, keys: vault.Keys) -> None:
    await Writer(dsn=dsn, keys=keys, connect_timeout=0.2).open()


async def install(dsn: str, keys: vault.Keys) -> None:
    await database.install(dsn, connect_timeout=0.2)


@pytest.mark.parametrize("opening", [open_pool, open_writer, install])
def test_a_silent_server_is_given_up(
    run: Run, keys: vault.Keys, opening: Callable[[str, vault.Keys], Awaitable[None]]
) -> None:
    """Whatever opens a connection gives up after connect_timeout, as when the database is away."""

    async def main() -> None:
        async with silence() as dsn:
            began = time.monotonic()
            with pytest.raises(Exception) as raised:  # noqa: PT011 — is_outage says which
                await opening(dsn, keys)
            assert is_outage(raised.value)
            assert time.monotonic() - began < 5

    run(main())


@pytest.mark.parametrize("owner", [False, True])
def test_the_setting_reaches_every_connection(
    run: Run,
    dsn: str,
    tmp_path: Path,
    owner: bool,  # noqa: FBT001 — pytest gives it
) -> None:
    """[database] connect_timeout holds for the daemon's start, and for what is opened beside its pool."""
    environ = {
        "TIDINGS_STATE_DIRECTORY": str(tmp_path),
        "TIDINGS_DATABASE_CONNECT_TIMEOUT": "200ms",
    }

    async def main() -> None:
        config = load(None, environ | {"TIDINGS_DATABASE_DSN": dsn})
        async with service.open_base(config) as base, silence() as silent:
            conn = await base.connect(owner=owner)
            role = await conn.fetchval("SELECT current_user")
            assert owner == (role != database.ROLE)
            await conn.close()
            lost = service.Base(silent, base.pool, base.keys, base.connect_timeout)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await lost.connect(owner=owner)
            config = load(None, environ | {"TIDINGS_DATABASE_DSN": silent})
            with pytest.raises(TimeoutError):
                async with service.open_base(config):
                    pass
            assert time.monotonic() - began < 5

    run(main())
