"""The daemon as a process of its own, a receiver that judges what it is sent, and a client of the API."""

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import processes
from aiohttp import web
from processes import Forked
from servers import serving
from standardwebhooks import Webhook

from daemon.signatures import verify_elements
from daemon.store import accounts, database, vault
from daemon.store.writer import Unit, append_once

KEY = "a key of at least 24 characters"
API = "/elements/api-v2"
PATIENCE = 15.0  # seconds for anything that must happen


class Daemon:
    """`tidings run` against *dsn*; `start` and `kill` as often as a test likes."""

    def __init__(self, dsn: str, directory: Path, **settings: str) -> None:
        self.dsn = dsn
        self.directory = directory
        self.settings = settings
        self.origin = ""
        self.lines: list[dict[str, Any]] = []
        self._logged = asyncio.Condition()
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start and wait until it answers."""
        environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TIDINGS_")},
            "TIDINGS_DATABASE_DSN": self.dsn,
            "TIDINGS_STATE_DIRECTORY": str(self.directory),
            "TIDINGS_SERVER_LISTEN": "127.0.0.1:0",
            "TIDINGS_OUTBOUND_ALLOW_NETWORKS": "127.0.0.0/8",
            "TIDINGS_LOG_FORMAT": "json",
            **self.settings,
        }
        if "PYTHONPATH" in self.settings:  # another daemon's code than that which is forked
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "daemon", "run",
                env=environ, cwd=processes.ROOT, stdout=asyncio.subprocess.PIPE, stderr=None, limit=processes.LINE,
            )  # fmt: skip
        else:
            self._process = await processes.tidings(["run"], environ)
        ready = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(ready))
        async with asyncio.timeout(PATIENCE):
            self.origin = f"http://{await ready}"

    async def _read(self, ready: "asyncio.Future[str]") -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": line.decode("utf-8", "replace")}
            self.lines.append(entry)
            async with self._logged:
                self._logged.notify_all()
            if entry.get("event") == "ready":
                ready.set_result(entry["address"])
        if not ready.done():
            ready.set_exception(AssertionError(f"the daemon ended: {self.lines[-20:]}"))

    async def until(self, event: str) -> None:
        """Wait until the daemon has logged *event*."""
        async with asyncio.timeout(PATIENCE), self._logged:
            await self._logged.wait_for(lambda: any(line["event"] == event for line in self.lines))

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        assert self._reading is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        async with asyncio.timeout(PATIENCE):
            status = await self._process.wait()
            await self._reading
        return status


@asynccontextmanager
async def running(dsn: str, directory: Path, **settings: str) -> AsyncGenerator[Daemon]:
    """A daemon that runs, and is gone afterwards."""
    daemon = Daemon(dsn, directory, **settings)
    try:
        await daemon.start()
        yield daemon
    finally:
        await daemon.kill()


async def add_user(dsn: str, directory: Path, name: str = "journey") -> str:
    """A user of an organization of its own; the authorization header."""
    keys = vault.load_keys(directory / "vault.key", create=True)
    entry, user, organization = accounts.new_user(name, name)
    conn = await database.connect(dsn)
    try:
        await append_once(conn, keys, Unit([entry]))
    finally:
        await conn.close()
    return f"User {user}, Organization {organization}"


@dataclass
class Receiver:
    """A callback that verifies both signatures and keeps what it accepted, by id; *status* is what it answers.

    *repeats* are those that came again and said so, as after a crash; one that does not say so is a fault.
    """

    status: Callable[[], int] = lambda: 200
    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, request: web.Request) -> web.Response:
        """Judge one notification."""
        body = await request.read()
        if not verify_elements(KEY, body, request.headers.get("Elements-Webhook-Signature", "")):
            self.faults.append("Elements-Webhook-Signature")
        Webhook(base64.b64encode(KEY.encode()).decode()).verify(body, dict(request.headers))
        status = self.status()
        if status < 300:
            name = request.headers["webhook-id"]
            if name not in self.ids:
                self.ids.append(name)
                self.received.append(json.loads(body))
            elif "webhook-redelivery" in request.headers:
                self.repeats.append(name)
            else:
                self.faults.append(f"a repeat of {name} that is not marked")
            async with self._arrived:
                self._arrived.notify_all()
        return web.Response(status=status)

    @property
    def events(self) -> list[tuple[str, str, str]]:
        """(event type, object type, object id) of all that was accepted, in order."""
        return [
            (event["eventType"], event["objectType"], event["objectId"])
            for body in self.received
            for event in body["message"]["events"]
        ]

    async def until(self, *wanted: tuple[str, str, str]) -> None:
        """Wait until all *wanted* events were accepted."""
        try:
            async with asyncio.timeout(PATIENCE), self._arrived:
                await self._arrived.wait_for(lambda: set(wanted) <= set(self.events))
        except TimeoutError:
            missing = set(wanted) - set(self.events)
            raise AssertionError(f"never came: {missing}; came: {self.events}") from None


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    async with serving(receiver.answer) as origin:
        receiver.url = f"{origin}/callback"
        yield receiver


class Api:
    """Calls the API as an integrator does."""

    def __init__(self, daemon: Daemon, authorization: str) -> None:
        self._daemon = daemon
        self._authorization = authorization

    async def call(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON of one call."""
        data = body if isinstance(body, str | bytes | None) else json.dumps(body)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                self._daemon.origin + API + path,
                data=data,
                headers={
                    "Authorization": self._authorization,
                    "Content-Type": "application/json",
                    **headers,
                },
            ) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def create(
        self, element: str, configuration: dict[str, Any], **body: Any
    ) -> dict[str, Any]:
        """Create an instance; it must succeed."""
        status, made = await self.call(
            "POST",
            "/instances",
            {
                "element": {"key": element},
                "name": "Journey",
                "configuration": configuration,
                **body,
            },
        )
        assert 200 == status, made
        return made

    async def until_polled(self, instance_id: int) -> list[dict[str, Any]]:
        """Wait until every resource of the instance has its baseline."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            status, records = await self.call("GET", "/instances/event-poller-records")
            mine = [r for r in records if r["instanceId"] == instance_id] if status == 200 else []
            if mine and all(record["baselineDate"] for record in mine):
                return mine
            assert asyncio.get_running_loop().time() < deadline, (
                status,
                records,
                self._daemon.lines[-10:],
            )
            await asyncio.sleep(0.05)
