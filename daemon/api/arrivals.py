"""Long polls: who waits for an instance's next event, and how they are woken.

    wait() ──► a future among the waiting ◄── run() ◄── look(), when something was appended

Nobody who waits holds a connection.  However many there are and however much is appended, one statement at a
time asks for all of them, at most every PAUSE seconds.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.errors import TidingsError
from daemon.store import events
from daemon.store.database import Pool, is_outage

MOST = 1000
"""Requests that may wait at once."""

MOST_OF_ONE = 10
"""… for one instance, so that one consumer cannot keep the others out."""

PAUSE = 0.05
"""Seconds between two questions to the log."""


class TooManyWaiting(TidingsError):
    """There is no room for one more who waits: ask again later, or without waiting."""


@dataclass(slots=True, eq=False)
class _Waiting:
    instance_id: int
    after: int
    woken: asyncio.Future[None]


class Arrivals:
    """Those who wait for events; `run` is its loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[_Waiting, None] = {}
        self._something = asyncio.Event()
        self._closed = False

    async def wait(self, instance_id: int, after: int, seconds: float) -> None:
        """Return when the instance may have an event above position *after*, at the latest after *seconds*.

        Raises `TooManyWaiting`, or what asking the log raised.
        """
        of_one = sum(one.instance_id == instance_id for one in self._waiting)
        if len(self._waiting) >= MOST or of_one >= MOST_OF_ONE:
            raise TooManyWaiting("too many requests wait for events; try later, or without wait")
        if self._closed:
            return
        mine = _Waiting(instance_id, after, asyncio.get_running_loop().create_future())
        self._waiting[mine] = None
        # What came between the caller's look and this moment woke nobody.
        self.look()
        try:
            async with asyncio.timeout(seconds):
                await mine.woken
        except TimeoutError:
            pass  # nothing came: that is an answer too
        finally:
            self._waiting.pop(mine, None)

    def look(self) -> None:
        """Something was appended."""
        self._something.set()

    async def run(self) -> None:
        """Wake those for whom there is something, until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            if asked := [one for one in self._waiting if not one.woken.done()]:
                await self._ask(asked)
                await asyncio.sleep(PAUSE)

    def close(self) -> None:
        """Let all go, and nobody wait any more: the server stops."""
        self._closed = True
        for one in self._waiting:
            if not one.woken.done():
                one.woken.set_result(None)

    async def _ask(self, asked: Sequence[_Waiting]) -> None:
        try:
            found = await events.have_next(
                self._pool, [(one.instance_id, one.after) for one in asked]
            )
        except Exception as error:
            if not is_outage(error):
                raise
            # Whoever waits answers with what went wrong, as if it had asked itself.
            for one in asked:
                if not one.woken.done():
                    one.woken.set_exception(error)
            return
        for number in found:
            if not asked[number].woken.done():
                asked[number].woken.set_result(None)
