"""Fixtures: a real PostgreSQL for the session, a database of its own for each test that asks.

TIDINGS_TEST_POSTGRES chooses the server: unset, the embedded one; a number, Debian's of that version.
"""

import asyncio
import gc
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import hypothesis
import pytest
import structlog
import uvloop
from databases import copied, dsn_of, in_memory, leave

from daemon.store import database, vault

for name in [
    name
    for name in os.environ
    if name.startswith("TIDINGS_") and not name.startswith("TIDINGS_TEST")
]:
    del os.environ[name]


# Examples of each law in a run, where a test does not say how many it needs: each run draws others, and there are many runs.
hypothesis.settings.register_profile("run", max_examples=40)
hypothesis.settings.register_profile("deep", max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "run"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal those marked `early` out to the workers of the run, longest first, as what each begins with.

    Each worker is given an equal part of the list first, and takes from the others' parts then.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = sorted(items, key=_seconds, reverse=True)[: sum(map(bool, map(_seconds, items)))]
    others = iter([item for item in items if not _seconds(item)])
    hands: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for item in long:
        min(hands, key=lambda hand: sum(map(_seconds, hand))).append(item)
    left, dealt = len(items), list[pytest.Item]()
    for number, hand in enumerate(hands):
        part = left // (workers - number)
        dealt += [*hand, *itertools.islice(others, max(part - len(hand), 0))]
        left -= part
    items[:] = [*dealt, *others]


def pytest_collection_finish() -> None:
    """Spare the collector what stays until the end: the tests and all modules."""
    gc.collect()
    gc.freeze()


def _seconds(item: pytest.Item) -> float:
    mark = item.get_closest_marker("early")
    return 0.0 if mark is None else float(mark.args[0])


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The DSN of a real server, without durability: these tests are not about power cuts."""
    version = os.environ.get("TIDINGS_TEST_POSTGRES")
    directory = Path(tempfile.mkdtemp(prefix="tidings-pg-", dir=in_memory()))
    directory.chmod(0o755)
    try:
        if version:
            with _debian_server(version, directory) as dsn:
                yield dsn
                leave(dsn)
        else:
            with _embedded_server(directory) as dsn:
                yield dsn
                leave(dsn)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _embedded_server(directory: Path) -> Iterator[str]:
    from daemon.store import embedded

    server = embedded._start(directory / "data")
    try:
        dsn = server.get_uri()
        asyncio.run(_no_fsync(dsn))
        yield dsn
    finally:
        server.cleanup()


@contextmanager
def _debian_server(version: str, directory: Path) -> Iterator[str]:
    binaries = Path(f"/usr/lib/postgresql/{version}/bin")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    data, socket = directory / "data", directory
    if os.geteuid() == 0:
        shutil.chown(directory, user)

    def run(*command: str) -> None:
        prefix = (
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
            if os.geteuid() == 0
            else []
        )
        subprocess.run([*prefix, *command], check=True, cwd="/", stdout=subprocess.DEVNULL)

    run(
        str(binaries / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "--auth=trust",
        "-E",
        "UTF8",
        "--no-sync",
    )
    run(
        str(binaries / "pg_ctl"),
        "-D",
        str(data),
        "-w",
        "-l",
        str(directory / "log"),
        "-o",
        f"-h '' -k {socket} -F",
        "start",
    )
    try:
        yield f"postgresql://postgres@/postgres?host={socket}"
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


async def _no_fsync(dsn: str) -> None:
    conn = await asyncpg.connect(dsn)
    await conn.execute("ALTER SYSTEM SET fsync = off")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """The name of a database that holds the schema, to copy."""
    name = f"template_{uuid.uuid4().hex[:8]}"

    async def make() -> None:
        conn = await asyncpg.connect(server)
        await conn.execute(f"CREATE DATABASE {name}")
        await conn.close()
        await database.install(dsn_of(server, name))

    asyncio.run(make())
    return name


@pytest.fixture
def dsn(server: str, template: str) -> Iterator[str]:
    """A fresh database with the schema; dropped afterwards, whoever is still connected."""
    with copied(server, template) as fresh:
        yield fresh


@pytest.fixture
def keys() -> vault.Keys:
    """Vault keys of this test."""
    return vault.Keys([("k1", bytes(range(32)))])


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on uvloop; an error that the loop had to handle by itself fails the test."""

    def runner(coroutine: Coroutine[Any, Any, Any], *, limit: float = 30) -> Any:
        unhandled: list[dict[str, Any]] = []

        async def main() -> Any:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: unhandled.append(context)
            )
            async with asyncio.timeout(limit):
                return await coroutine

        result = uvloop.run(main())
        assert [] == unhandled
        return result

    return runner


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    yield
    structlog.reset_defaults()
