"""The demo's daemon: a process of its own, with a state directory of its own, and the API to set it up.

All is on 127.0.0.1 at ports that the system chose; nothing of it is left when the demo ends.
"""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from daemon.cli.outcome import Failed

START_LIMIT = 60.0  # seconds; a first start makes a database
STOP_LIMIT = 4.0  # seconds
COMMAND_LIMIT = 30.0  # seconds
LINE_MOST = 1024 * 1024  # bytes of a line of the daemon's log

_LEFT_OUT = frozenset({"event", "level", "timestamp", "exception", "traceback", "request_id"})

CONFIG = """\
# The configuration of this demo's daemon.
[server]
listen = "127.0.0.1:{port}"
stop_grace = "1s"

[state]
directory = "{state}"

[elements]
stand_ins = {stand_ins}

[outbound]
# Only for a demo: providers and receiver are on this machine.
allow_networks = ["127.0.0.0/8"]

[delivery]
retries = ["1s", "2s", "5s"]

[log]
format = "json"
"""


@dataclass(slots=True)
class Place:
    """Where a demo keeps everything; *sockets* is where its PostgreSQL has its socket, once it runs."""

    path: Path
    sockets: Path | None = None

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL's directory."""
        return self.path / "state" / "postgres"

    def look(self) -> int | None:
        """The process id of the PostgreSQL, None where none runs; notes where its socket is."""
        try:
            lines = (self.postgres / "postmaster.pid").read_text().splitlines()
            self.sockets = Path(lines[4])
            return int(lines[0])
        except (OSError, ValueError, IndexError):
            return None


@contextmanager
def directory(*, keep: bool) -> Iterator[Place]:
    """A directory for everything that the demo writes; removed at the end unless *keep*."""
    place = Place(Path(tempfile.mkdtemp(prefix="tidings-demo-")))
    try:
        yield place
    finally:
        _stop_postgres(place)
        if place.sockets is not None:
            with suppress(OSError):
                place.sockets.rmdir()
        if not keep:
            shutil.rmtree(place.path, ignore_errors=True)


def _stop_postgres(place: Place) -> None:
    """Stop the server if somebody (`tidings log tail -f`) still uses it: its files are about to go."""
    if (pid := place.look()) is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)  # to PostgreSQL: now, in order
    until = time.monotonic() + STOP_LIMIT
    while place.look() is not None and time.monotonic() < until:
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """The environment without settings of another daemon: this one's stand in its file."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TIDINGS_") and name not in {"NOTIFY_SOCKET", "STATE_DIRECTORY"}
    }


class Household:
    """A running daemon, and how to speak to it."""

    def __init__(
        self, *, place: Place, stand_ins: Mapping[str, str], complain: Callable[[str], None]
    ) -> None:
        """*stand_ins* has the origin of each simulated provider; *complain* is told what the daemon logs as wrong."""
        self._place = place
        path = place.path
        self.config = path / "tidings.toml"
        self.log = path / "daemon.log"
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self._complain = complain
        self._process: asyncio.subprocess.Process | None = None
        self._authorization = ""
        table = ", ".join(f'{key} = "{origin}"' for key, origin in stand_ins.items())
        self.config.write_text(
            CONFIG.format(port=self.port, state=path / "state", stand_ins=f"{{ {table} }}"),
            encoding="utf-8",
        )

    @asynccontextmanager
    async def daemon(self) -> AsyncGenerator[None]:
        """The daemon, from when it answers until it has stopped.  Raises `Failed` when it does not start."""
        # A session of its own: Ctrl-C is for us, and we stop it.
        process = await asyncio.create_subprocess_exec(
            *self.command("run"),
            env=environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=LINE_MOST,
        )
        self._process = process
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(process, ready), name="the daemon's log")
            try:
                try:
                    async with asyncio.timeout(START_LIMIT):
                        await ready.wait()
                except TimeoutError:
                    raise self._not_running("did not start") from None
                if process.returncode is not None or reading.done():
                    raise self._not_running("did not start")
                self._place.look()
                yield
            finally:
                if not await _stop(process):
                    self._complain(f"(killed: it did not stop within {STOP_LIMIT:g} s)")

    def command(self, *arguments: str) -> list[str]:
        """The command `tidings` with this daemon's configuration."""
        return [sys.executable, "-m", "daemon", *arguments, "--config", str(self.config)]

    def check(self) -> None:
        """Raise `Failed` if the daemon has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise self._not_running(f"ended with status {self._process.returncode}")

    async def add_user(self, name: str) -> None:
        """Add a user with the command line, and be them from now on."""
        process = await asyncio.create_subprocess_exec(
            *self.command("users", "add", name, "--json"),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(COMMAND_LIMIT):
                out, err = await process.communicate()
        finally:
            await _stop(process)
        if process.returncode != 0:
            raise Failed(f"tidings users add: {err.decode(errors='replace').strip()}")
        self._authorization = orjson.loads(out)["authorization"]

    @asynccontextmanager
    async def api(self) -> AsyncGenerator["Api"]:
        """The API, as the user that was added."""
        async with aiohttp.ClientSession(
            headers={"Authorization": self._authorization}, timeout=aiohttp.ClientTimeout(total=15)
        ) as session:
            yield Api(session, f"{self.origin}/elements/api-v2")

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        """Keep the daemon's log, and notice what it says."""
        assert process.stdout is not None  # noqa: S101 — it was asked for; for the type checker
        with self.log.open("wb", buffering=0) as file:
            while line := await process.stdout.readline():
                file.write(line)
                try:
                    entry = orjson.loads(line)
                except orjson.JSONDecodeError:
                    entry = {"level": "error", "event": line.decode(errors="replace").strip()}
                if entry.get("event") == "ready":
                    ready.set()
                if entry.get("level") in {"warning", "error", "critical"}:
                    self._complain(_words(entry))
        await process.wait()
        ready.set()

    def _not_running(self, what: str) -> Failed:
        last = self.log.read_text(errors="replace").splitlines()[-8:] if self.log.exists() else []
        return Failed(
            "\n".join([f"the daemon {what}; its last words:", *last]),
            remedy="`tidings demo --keep` keeps its log",
        )


class Api:
    """The daemon's API, as an integrator uses it."""

    def __init__(self, session: aiohttp.ClientSession, prefix: str) -> None:
        self._session = session
        self._prefix = prefix

    async def create_instance(self, body: Mapping[str, Any]) -> int:
        """Create an instance; its id.  Raises `Failed` with what the API says."""
        made = await self._request("POST", "/instances", json=body)
        instance_id: int = made["id"]
        return instance_id

    async def pollers(self) -> Sequence[Mapping[str, Any]]:
        """How far each polled resource is."""
        found: Sequence[Mapping[str, Any]] = await self._request(
            "GET", "/instances/event-poller-records"
        )
        return found

    async def _request(self, method: str, path: str, **more: Any) -> Any:
        try:
            async with self._session.request(method, self._prefix + path, **more) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Failed(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if answer.status != 200:  # noqa: PLR2004 — what the API answers when all is well
            raise Failed(f"{method} {path} was answered {answer.status}: {text[:500]}")
        return orjson.loads(text)


def random_key() -> str:
    """A signature key."""
    return secrets.token_urlsafe(24)


def _words(entry: Mapping[str, Any]) -> str:
    facts = {k: v for k, v in entry.items() if k not in _LEFT_OUT}
    return " ".join(
        [str(entry.get("event")), *(f"{name}={value}" for name, value in facts.items())]
    )[:300]


async def _stop(process: asyncio.subprocess.Process) -> bool:
    """End *process*; whether it ended in order."""
    if process.returncode is not None:
        return True
    try:
        process.terminate()
        async with asyncio.timeout(STOP_LIMIT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
    except ProcessLookupError:
        pass  # it ended meanwhile
    return True
