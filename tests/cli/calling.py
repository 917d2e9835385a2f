"""Calling the command line from tests: in this process, or as one of its own."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from typing import IO

import orjson
import processes
import pytest

from daemon.cli.program import call

ROOT = processes.ROOT
LIMIT = 30.0  # seconds


class Caller:
    """Calls verbs in this process, on the database and in the directory of one test."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: object) -> int:
        """Call `tidings` with *arguments*; the exit code.  What it said is in *out* and *err*."""
        self._capsys.readouterr()
        code = call([str(one) for one in arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, *arguments: object) -> object:
        """Call with `--json`; what it printed.  The call must end with 0."""
        assert 0 == self(*arguments, "--json"), self.err
        return orjson.loads(self.out)

    def lines(self, *arguments: object) -> list[dict[str, object]]:
        """Call with `--json`; each line that it printed."""
        assert 0 == self(*arguments, "--json"), self.err
        return [orjson.loads(line) for line in self.out.splitlines()]


class Program:
    """`tidings` as a process; its output comes line by line."""

    def __init__(self, process: "subprocess.Popen[str] | _Forked") -> None:
        self.process = process
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def until(self, text: str) -> str:
        """The first line from here on that holds *text*; fails when the process ends or is silent before."""
        while (line := self._lines.get(timeout=LIMIT)) is not None:
            self.said.append(line)
            if text in line:
                return line
        pytest.fail(f"{text!r} was never said:\n{''.join(self.said)}")

    def end(self, number: int | None = None) -> int:
        """Send the signal *number* if any; the exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=LIMIT)
        self._reading.join(timeout=LIMIT)
        while (line := self._lines.get_nowait()) is not None:
            self.said.append(line)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def program(*arguments: object, **environ: str) -> Iterator[Program]:
    """`tidings` with *arguments*, forked, both outputs as one; killed at the end if it still runs."""
    process, (end,) = processes.fork([*map(str, arguments)], _clean() | environ)
    with open(end, encoding="utf-8") as said:  # noqa: PTH123 — a descriptor has no path
        try:
            yield Program(_Forked(process, said))
        finally:
            process.kill()
            process.join()


@contextmanager
def whole_program(*arguments: object, **environ: str) -> Iterator[Program]:
    """The same, started as people do: with an interpreter of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "daemon", *map(str, arguments)],
        cwd=processes.ROOT,
        env=_clean() | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}


class _Forked:
    """What `Program` uses of a `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess, said: IO[str]) -> None:
        self._process = process
        self.stdout = said

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self._process.pid or 0, number)

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        assert status is not None, f"it runs for more than {timeout} s"
        return status
