"""`tidings log export` and `import`, as commands."""

import asyncio
import io
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from cli.calling import Caller
from databases import copied
from heart import connected, dumped

from daemon.store import database, writer


def rows(dsn: str) -> tuple[list[str], dict[str, list[str]]]:
    """Log and projections."""

    async def read() -> tuple[list[str], dict[str, list[str]]]:
        async with connected(dsn, role=None) as conn:
            log = await conn.fetch("SELECT log::text FROM log ORDER BY position")
            return [row[0] for row in log], await dumped(conn)

    return asyncio.run(read())


@pytest.fixture
def empty(server: str, template: str) -> Iterator[str]:
    """The DSN of a database that nobody has used."""
    with copied(server, template) as fresh:
        yield fresh


def test_a_file_and_back(
    tidings: Caller, dsn: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `export` wrote, `import` puts into a database that nobody used yet; the file is for its owner only."""
    file = tmp_path / "log.jsonl"
    assert 0 == tidings("users", "add", "ann"), tidings.err
    assert 0 == tidings("log", "export", "--vault", file), tidings.err
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert [file] == list(tmp_path.glob("*log*"))
    assert "" == tidings.out
    monkeypatch.setenv("TIDINGS_DATABASE_DSN", empty)
    assert 0 == tidings("log", "import", file), tidings.err
    assert "Imported 2 entries and 0 secrets" in tidings.out
    assert rows(dsn) == rows(empty)
    assert 0 == tidings("users", "list")
    assert "ann" in tidings.out
    assert 1 == tidings("log", "import", file)
    assert "not empty" in tidings.err


def test_through_a_pipe(
    tidings: Caller, dsn: str, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `-` the lines go to standard output and come from standard input; `--since` and `--until` choose by position."""
    assert 0 == tidings("users", "add", "ann")
    assert 0 == tidings("log", "export", "-", "--since", 2, "--until", 2)
    part = [orjson.loads(line) for line in tidings.out.splitlines()]
    assert [2] == [line["position"] for line in part if "position" in line]
    assert 1 == tidings("log", "export", "-", "--since", 2, "--until", 1)
    assert 0 == tidings("log", "export", "-")
    sent = tidings.out.encode()
    monkeypatch.setenv("TIDINGS_DATABASE_DSN", empty)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
    assert 0 == tidings("log", "import", "-"), tidings.err
    assert rows(dsn) == rows(empty)


def test_an_export_of_nothing_leaves_no_file(tidings: Caller, tmp_path: Path) -> None:
    """A file whose folder is missing fails with 1, and one that cannot be whole is not there."""
    assert 1 == tidings("log", "export", tmp_path / "missing" / "log.jsonl")
    assert "missing" in tidings.err
    assert [] == list(tmp_path.glob("**/*.jsonl"))


def test_no_import_beside_a_daemon(tidings: Caller, dsn: str, tmp_path: Path) -> None:
    """While a process owns the database, an import is refused and says to stop it."""
    file = tmp_path / "log.jsonl"
    file.write_bytes(b"")
    with asyncio.Runner() as runner:
        daemon = runner.run(database.connect(dsn))
        assert runner.run(writer.own(daemon))
        assert 1 == tidings("log", "import", file)
        assert "a daemon runs" in tidings.err
        runner.run(daemon.close())
