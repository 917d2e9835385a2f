"""Fixtures of the pollers' tests."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from poller.polled import World, world

from daemon.store import vault

Open = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def open_world(dsn: str, keys: vault.Keys, tmp_path: Path) -> Open:
    """Start everything on this test's database."""

    def opened(**chosen: Any) -> AbstractAsyncContextManager[World]:
        return world(dsn, keys, tmp_path, **chosen)

    return opened
