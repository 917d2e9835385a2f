"""The supervisor, on asyncio and on uvloop."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop
from structlog.testing import capture_logs

from daemon.supervisor import Loop, LoopExited, supervise

ROOT = Path(__file__).parent.parent
Runner = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Runner:
    """Run a coroutine, for at most ten seconds, on one of the two."""
    start = asyncio.run if request.param == "asyncio" else uvloop.run

    async def bounded(main: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(10):
            return await main

    return lambda main: start(bounded(main))


class Recorder:
    """Loops that write down when they start and end."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.started = asyncio.Event()

    def loop(self, name: str, phase: int = 0, *, at_end: Callable[[], None] = lambda: None) -> Loop:
        """Return a loop that waits to be cancelled."""

        async def run() -> None:
            self.started.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.said.append(name)
                at_end()

        return Loop(name, run, phase)


def failing(error: BaseException | None, name: str = "bad") -> Loop:
    """Return a loop that raises *error* at once, or returns."""

    async def run() -> None:
        await asyncio.sleep(0)
        if error is not None:
            raise error

    return Loop(name, run)


def test_phases_stop_in_order(runner: Runner) -> None:
    """A phase is cancelled when the one before it has ended, whatever the order of the loops."""
    recorder = Recorder()

    async def main() -> None:
        stop = asyncio.Event()
        loops = [recorder.loop(f"{phase}", phase) for phase in (2, 0, 1, 0)]
        group = asyncio.create_task(supervise(loops, stop=stop, grace=5))
        await recorder.started.wait()
        stop.set()
        await group

    runner(main())

    assert ["0", "0", "1", "2"] == recorder.said


def test_tasks_bear_the_loops_names(runner: Runner) -> None:
    """What runs can be recognised in a dump of the tasks."""

    async def main() -> set[str]:
        stop, recorder = asyncio.Event(), Recorder()
        group = asyncio.create_task(supervise([recorder.loop("poll 7")], stop=stop, grace=5))
        await recorder.started.wait()
        names = {task.get_name() for task in asyncio.all_tasks()}
        stop.set()
        await group
        return names

    assert "poll 7" in runner(main())


@pytest.mark.parametrize("error", [ValueError("bug"), None, asyncio.CancelledError()])
def test_a_loop_that_ends_is_a_fault(runner: Runner, error: BaseException | None) -> None:
    """A loop that raises, returns or is cancelled from within takes the others and what is open with it."""
    recorder = Recorder()

    @asynccontextmanager
    async def opened(name: str) -> Any:
        try:
            yield
        finally:
            recorder.said.append(f"close {name}")

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for name in ("pool", "site"):
                await stack.enter_async_context(opened(name))
            loops = [recorder.loop("good"), failing(error)]
            await supervise(loops, stop=asyncio.Event(), grace=5)

    with pytest.raises(ExceptionGroup) as caught:
        runner(main())

    (fault,) = caught.value.exceptions
    assert (ValueError if isinstance(error, ValueError) else LoopExited) is type(fault)
    assert "bad" in str(fault) or fault is error
    assert ["good", "close site", "close pool"] == recorder.said


def test_an_error_in_stopping_is_not_lost(runner: Runner) -> None:
    """What a loop raises when it is cancelled comes out; the later phases end all the same."""
    recorder = Recorder()

    def at_end() -> None:
        raise ValueError("late bug")

    async def main() -> None:
        stop = asyncio.Event()
        loops = [recorder.loop("0", 0, at_end=at_end), recorder.loop("1", 1)]
        group = asyncio.create_task(supervise(loops, stop=stop, grace=5))
        await recorder.started.wait()
        stop.set()
        await group

    with pytest.raises(ExceptionGroup) as caught:
        runner(main())

    assert ["late bug"] == [str(error) for error in caught.value.exceptions]
    assert ["0", "1"] == recorder.said


def test_cancelled_from_outside(runner: Runner) -> None:
    """Cancelling the supervisor cancels every loop and comes out as a cancellation."""
    recorder = Recorder()

    async def main() -> None:
        group = asyncio.create_task(supervise([recorder.loop("a")], stop=asyncio.Event(), grace=5))
        await recorder.started.wait()
        group.cancel()
        with pytest.raises(asyncio.CancelledError):
            await group

    runner(main())

    assert ["a"] == recorder.said


def test_a_late_loop_is_named(runner: Runner) -> None:
    """A loop that does not end within the grace is logged, and the next phase does not wait for it."""
    recorder = Recorder()

    async def main() -> None:
        stop, release = asyncio.Event(), asyncio.Event()

        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await release.wait()

        loops = [Loop("stubborn", stubborn), recorder.loop("next", 1, at_end=release.set)]
        group = asyncio.create_task(supervise(loops, stop=stop, grace=0.01))
        await recorder.started.wait()
        stop.set()
        await group

    with capture_logs() as lines:
        runner(main())

    assert ["next"] == recorder.said
    assert ["stubborn"] == [
        line["loop"] for line in lines if line["event"] == "loop is late to stop"
    ]


def test_starting_and_stopping_often(runner: Runner) -> None:
    """However early the stop comes, every loop ends and no task is left."""

    async def main() -> None:
        for turns in range(30):
            stop, recorder = asyncio.Event(), Recorder()
            loops = [recorder.loop(str(n), n % 3) for n in range(5)]
            group = asyncio.create_task(supervise(loops, stop=stop, grace=5))
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            stop.set()
            await group
            assert {asyncio.current_task()} == asyncio.all_tasks()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    runner(main())


PROGRAM = textwrap.dedent(
    """
    import asyncio, contextlib, sys, uvloop
    from daemon.supervisor import Loop, stop_on_signals, supervise

    async def loop():
        print("running", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("ending", flush=True)
            while sys.argv[2] == "stubborn":
                with contextlib.suppress(BaseException):
                    await asyncio.Event().wait()

    async def main():
        await supervise([Loop("a", loop)], stop=stop_on_signals(), grace=60)

    (uvloop if sys.argv[1] == "uvloop" else asyncio).run(main())
    """
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_signals(library: str, manner: str, number: signal.Signals) -> None:
    """A signal ends a polite process with status 0; a second one kills a process that eats whatever is thrown."""
    command = [sys.executable, "-c", PROGRAM, library, manner]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        try:
            lines = iter(process.stdout or ())
            assert any(b"running" in line for line in lines)
            process.send_signal(number)
            assert any(b"ending" in line for line in lines)
            if manner == "stubborn":
                process.send_signal(number)
            status = process.wait(10)
        finally:
            process.kill()

    assert (0 if manner == "polite" else -number) == status
