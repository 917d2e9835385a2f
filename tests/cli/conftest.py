"""Fixtures for the command line."""

from pathlib import Path

import pytest
from cli.calling import Caller


@pytest.fixture
def tidings(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Caller:
    """The command, on a database and a directory of this test."""
    monkeypatch.setenv("TIDINGS_DATABASE_DSN", dsn)
    monkeypatch.setenv("TIDINGS_STATE_DIRECTORY", str(tmp_path / "state"))
    return Caller(capsys)
