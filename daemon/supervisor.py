"""Keeps the daemon's loops running, all or none.

What is *open* (a pool, a site) belongs on the caller's exit stack; what *runs* is a `Loop` here, a named
task in one group.  A loop that ends is a fault, however it ends: the others are cancelled and the fault
comes out, so that the process ends and systemd starts it again.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

log = structlog.get_logger()


class LoopExited(RuntimeError):
    """A loop ended although nobody stopped it: a bug in that loop."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A coroutine that runs until it is cancelled; of a lower *phase* are those that stop first."""

    name: str
    run: Callable[[], Awaitable[None]]
    phase: int = 0


async def supervise(loops: Sequence[Loop], *, stop: asyncio.Event, grace: float) -> None:
    """Run *loops* until *stop* is set, then cancel them, phase after phase.

    A phase begins when the one before has ended, or after *grace* seconds.  Return when every loop has
    ended; a loop that will not is named in the log and waited for, which a second signal or systemd
    cuts short.  Raise an `ExceptionGroup` with whatever loops raised, in work or in stopping.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [(loop.phase, group.create_task(_forever(loop), name=loop.name)) for loop in loops]
        await stop.wait()
        log.info("stopping", loops=len(tasks))
        for phase in sorted({phase for phase, _ in tasks}):
            batch = [task for its, task in tasks if its == phase]
            for task in batch:
                # The group takes a cancelled child for a quiet end, so leaving it raises nothing.
                task.cancel()
            _, late = await asyncio.wait(batch, timeout=grace)
            for task in late:
                log.warning("loop is late to stop", loop=task.get_name(), grace=grace)


async def _forever(loop: Loop) -> None:
    try:
        await loop.run()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # It waited for something that somebody else cancelled.  The group would take that for a quiet
        # end, and the loop would be missed by nobody.
        raise LoopExited(f"{loop.name} was cancelled from within") from error
    raise LoopExited(f"{loop.name} returned")


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def first(number: signal.Signals) -> None:
        log.info("signal", signal=number.name)
        for each in numbers:
            loop.remove_signal_handler(each)
            # Removing leaves Python's own handler for SIGINT, whose KeyboardInterrupt a stuck loop could eat.
            signal.signal(each, signal.SIG_DFL)
        stop.set()

    for number in numbers:
        loop.add_signal_handler(number, first, number)
    return stop
