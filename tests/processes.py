"""`tidings` as a process that is there at once: forked off one that has imported it already.

To import the daemon takes three quarters of a second of the processor, and tests start it more than a hundred
times.  Python's fork server imports it once for each worker of a run; what it forks runs the same `main` with its
own environment and outputs, has a process id, and is killed like any other.  Whole starts, with the
interpreter, are those of `cli.calling.whole_program` and of the service under systemd.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]

LINE = 2**22
"""Bytes that a line of the output may have."""


class Forked:
    """A forked `tidings`, with what tests use of `asyncio.subprocess.Process`."""

    def __init__(self, process: ForkServerProcess, outputs: list[asyncio.StreamReader]) -> None:
        self._process = process
        self._ended = asyncio.get_running_loop().create_task(self._end())
        self.pid: int = process.pid or 0
        self.stdout, self.stderr = outputs[0], outputs[-1]
        self.returncode: int | None = None
        """None while it runs; of one that a signal ended, the signal's number below 0."""

    def send_signal(self, number: int) -> None:
        """Send it the signal *number*; raises `ProcessLookupError` when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        """The exit status, when it has ended."""
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        """What it said until it ended, and what it said as errors."""
        said = asyncio.create_task(self.stdout.read())
        complained = await self.stderr.read() if self.stderr is not self.stdout else b""
        await self.wait()
        return await said, complained

    async def _end(self) -> int:
        await asyncio.to_thread(self._process.join)
        status = self._process.exitcode
        assert status is not None
        self.returncode = status
        self._process.close()
        return status


class _UntilItEnds(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        super().eof_received()
        return False  # let it be closed


async def tidings(
    arguments: Sequence[str], environ: Mapping[str, str], *, errors_apart: bool = False
) -> Forked:
    """Fork `tidings` with *arguments*, in *environ* alone; *errors_apart* gives stderr a pipe of its own."""
    process, ends = await asyncio.to_thread(fork, arguments, environ, 1 + errors_apart)
    return Forked(process, [await _reader(end) for end in ends])


def fork(
    arguments: Sequence[str], environ: Mapping[str, str], outputs: int = 1
) -> tuple[ForkServerProcess, list[int]]:
    """Fork `tidings`; the process, and the ends to read of one pipe for all that it says, or of one for each output."""
    pipes = [os.pipe() for _ in range(outputs)]
    ends = [Connection(writing, readable=False) for _, writing in pipes]
    process = _forker().Process(target=_become, args=(list(arguments), dict(environ), ends))
    process.start()
    for end in ends:
        end.close()
    return process, [reading for reading, _ in pipes]


@cache
def _forker() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["daemon.cli"])
    return context


async def _reader(end: int) -> asyncio.StreamReader:
    stream = asyncio.StreamReader(limit=LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: _UntilItEnds(stream), os.fdopen(end, "rb", buffering=0)
    )
    return stream


def _become(arguments: list[str], environ: dict[str, str], ends: list[Connection]) -> None:
    """Be `tidings` with *arguments*: in the child."""
    os.dup2(ends[0].fileno(), 1)
    os.dup2(ends[-1].fileno(), 2)
    for end in ends:
        end.close()
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(ROOT)
    sys.argv = ["tidings", *arguments]
    from daemon.cli import main

    main()
