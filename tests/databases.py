"""Databases for tests: a fresh one is a copy of a template that holds the schema."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg


def dsn_of(server: str, name: str) -> str:
    """The DSN of another database of *server*."""
    return server.replace("/postgres?", f"/{name}?")


@contextmanager
def copied(server: str, template: str) -> Iterator[str]:
    """The DSN of a fresh copy of *template*; dropped afterwards, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    # `wal_log`, the default, takes two and a half times as long.
    asyncio.run(_command(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    try:
        yield dsn_of(server, name)
    finally:
        asyncio.run(_command(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _command(server: str, text: str) -> None:
    conn = await asyncpg.connect(server)
    try:
        await conn.execute(text)
    finally:
        await conn.close()
