"""What tests of the store share."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from databases import copied

from daemon.store import database


@pytest.fixture(scope="module")
def desk(server: str, template: str) -> Iterator[tuple[asyncio.Runner, Any]]:
    """One connection as the owner for many examples, and what runs coroutines with it."""
    with (
        copied(server, template) as dsn,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        conn = runner.run(database.connect(dsn, role=None))
        yield runner, conn
        runner.run(conn.close())
