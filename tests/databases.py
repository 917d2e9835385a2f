"""Databases for tests: a fresh one is a copy of a template that holds the schema."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg

ROOM = 2 * 2**30
"""Bytes that must be free in memory: each worker of a run has a server there."""


def in_memory() -> str | None:
    """A directory in memory for a server's files, where there is one with room; None is the usual one for such things.

    A database is 300 files: to copy and drop it takes 300 ms of the processor on a disk's file system, 25 in memory.
    """
    memory = Path("/dev/shm")  # noqa: S108 — a directory of its own is made in it
    try:
        free = shutil.disk_usage(memory).free
    except OSError:
        return None
    return str(memory) if free >= ROOM and os.access(memory, os.W_OK) else None


def dsn_of(server: str, name: str) -> str:
    """The DSN of another database of *server*."""
    return server.replace("/postgres?", f"/{name}?")


@contextmanager
def copied(server: str, template: str) -> Iterator[str]:
    """The DSN of a fresh copy of *template*; dropped afterwards, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    # `wal_log`, the default, takes two and a half times as long.
    _commands(server).execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield dsn_of(server, name)
    finally:
        _commands(server).execute(f"DROP DATABASE {name} WITH (FORCE)")


def leave(server: str) -> None:
    """Close the connection to *server* over which databases are made."""
    _commands(server).close()
    _commands.cache_clear()


@cache
def _commands(server: str) -> psycopg.Connection:
    """A connection that is kept: to open one for each command would cost as much as the command."""
    return psycopg.connect(server, autocommit=True)
