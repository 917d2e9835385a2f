"""Fixtures of the webhooks' tests."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from webhooks.posting import Site, site

from daemon.store import vault


@pytest.fixture
def open_site(
    dsn: str, keys: vault.Keys, tmp_path: Path
) -> Callable[..., AbstractAsyncContextManager[Site]]:
    """Start a site on this test's database."""

    def opened(**chosen: Any) -> AbstractAsyncContextManager[Site]:
        return site(dsn, keys, tmp_path, **chosen)

    return opened
