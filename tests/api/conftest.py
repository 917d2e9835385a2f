"""Fixtures of the API's tests."""

from pathlib import Path
from typing import Any

import pytest
from api.running import Open, running

from daemon.store import vault


@pytest.fixture
def open_api(dsn: str, keys: vault.Keys, tmp_path: Path) -> Open:
    """Start everything, with what the test says of `[server]`; *through* is the DSN of a proxy to the database."""

    def opened(*, through: str | None = None, **server: Any) -> Any:
        return running(through or dsn, keys, tmp_path, **server)

    return opened
