"""The processes of a scenario: the daemon, which is killed, and the load, which keeps the ledger."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import processes
from faults.ledger import Ledger
from processes import Forked

TESTS = Path(__file__).parents[1]

PATIENCE = 60.0  # seconds for a start, however busy the machine is


def _environ(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    return {**kept, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", **more}


class Daemon:
    """`tidings run`, as often as it is started."""

    def __init__(
        self,
        *,
        dsn: str | None,
        directory: Path,
        port: int,
        arguments: Sequence[str],
        **settings: str,
    ) -> None:
        self.address = f"127.0.0.1:{port}"
        self.starts = 0
        self.troubles: Counter[str] = Counter()
        """Lines of level error, by their event: a daemon that is killed says nothing of the kind."""
        self.lines: deque[str] = deque(maxlen=200)
        self._arguments = arguments
        self._environ = _environ(
            **({} if dsn is None else {"TIDINGS_DATABASE_DSN": dsn}),
            TIDINGS_STATE_DIRECTORY=str(directory),
            TIDINGS_SERVER_LISTEN=self.address,
            TIDINGS_OUTBOUND_ALLOW_NETWORKS="127.0.0.0/8",
            TIDINGS_LOG_FORMAT="json",
            **settings,
        )
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def origin(self) -> str:
        """Where it is reached."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process that was started last is there."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; `ready` waits until it answers."""
        self._ready.clear()
        self.starts += 1
        if self._arguments:  # it is changed before it is imported
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "faults.launcher", *self._arguments, env=self._environ, cwd=TESTS.parent,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                limit=processes.LINE,
            )  # fmt: skip
        else:
            self._process = await processes.tidings(["run"], self._environ)
        self._reading = asyncio.create_task(self._read(self._process))

    async def ready(self) -> None:
        """Return when it answers; fail when it ends before."""
        assert self._reading is not None
        waiting = asyncio.create_task(self._ready.wait())
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({waiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        assert self._ready.is_set(), "the daemon ended:\n" + "".join(self.lines)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode("utf-8", "replace")
            self.lines.append(text)
            try:
                entry = json.loads(text)
            except ValueError:
                self.troubles[text.strip()[:120]] += 1
                continue
            if entry.get("level") in {"error", "critical"}:
                self.troubles[str(entry.get("event"))] += 1
            if entry.get("event") == "ready":
                self._ready.set()

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        assert self._reading is not None
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            status = await self._process.wait()
            await self._reading
        return status

    async def tidings(self, *arguments: str) -> str:
        """What another verb of the command line says, beside the daemon."""
        process = await processes.tidings(arguments, self._environ)
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
        return said.decode()

    def memory(self) -> int:
        """Bytes of memory that it has resident."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


class Load:
    """The process of `faults.load`, and what it is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()
        self.port = 0
        self.deaf = 0

    async def listening(self) -> None:
        """Return when it has said its ports."""
        said = await self._heard()
        self.port, self.deaf = said["port"], said["deaf"]

    @property
    def origin(self) -> str:
        """Where provider and receiver are reached."""
        return f"http://127.0.0.1:{self.port}"

    def callback(self, number: int, mode: str) -> str:
        """The URL of a callback that behaves like *mode*: of `nobody`, one where nobody listens until it is mended."""
        port = self.deaf if mode == "nobody" else self.port
        return f"http://127.0.0.1:{port}/callback/{number}"

    async def tell(self, do: str, **more: Any) -> dict[str, Any]:
        """Have it *do* something; its answer."""
        assert self._process.stdin is not None
        async with self._turn:
            self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            await self._process.stdin.drain()
            return await self._heard()

    async def ledger(self, directory: Path) -> Ledger:
        """Its ledger, by way of a file in *directory*."""
        path = directory / "ledger.json"
        await self.tell("write", path=str(path))
        return Ledger.read(path)

    async def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        assert line, "the load ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def loading(chosen: dict[str, Any]) -> AsyncGenerator[Load]:
    """A load process with these accounts and callbacks."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "faults.load", json.dumps(chosen), env=_environ(), cwd=TESTS.parent,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20,
    )  # fmt: skip
    load = Load(process)
    try:
        await load.listening()
        yield load
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
