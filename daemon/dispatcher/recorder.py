"""The recorder: writes down what became of notifications, and how far each callback may go.

Outcomes and reservations of all lanes are written together, one row for many: at once when a lane cannot go on
without, else when the oldest has waited FLUSH_AFTER.  That is how a delivery costs far less than a statement.
"""

import asyncio
from collections.abc import Callable

from daemon.dispatcher.clocks import Clocks
from daemon.dispatcher.foresight import PERIOD
from daemon.dispatcher.lane import Flushed, Lane
from daemon.dispatcher.lanes import Lanes
from daemon.store import deliveries
from daemon.store.deliveries import Outcome, Progress
from daemon.store.writer import Unit, Writer

FLUSH_AFTER = 0.2
"""Seconds that an outcome may wait to be written; a crash within them leaves the notification in doubt."""


class Recorder:
    """Writes for all lanes; `run` is its loop.

    *head* tells how far the log is tailed; *written* is told of each lane of which something was written.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        lanes: Lanes,
        head: Callable[[], int],
        clocks: Clocks,
        written: Callable[[Lane], None],
    ) -> None:
        self._writer = writer
        self._lanes = lanes
        self._head = head
        self._clocks = clocks
        self._written = written
        self._wanted = asyncio.Event()
        self._at: float | None = None  # loop time by which something is to be written
        self._outcome_waits = False  # since then there is an outcome that waits for it

    def note(self, lane: Lane) -> None:
        """Write, as soon as the lane needs it, what it has to be written."""
        if lane.wants_flush:
            self._at = 0.0
            self._wanted.set()
        elif lane.has_outcomes:
            if not self._outcome_waits:
                self._outcome_waits = True
                self._within(FLUSH_AFTER)
        elif lane.idly_reserved:
            self._within(PERIOD)

    def _within(self, seconds: float) -> None:
        at = asyncio.get_running_loop().time() + seconds
        if self._at is None or at < self._at:
            self._at = at
            self._wanted.set()

    async def run(self) -> None:
        """Write when it is time, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._at is not None and (rest := self._at - loop.time()) > 0:
                try:
                    async with asyncio.timeout(rest):
                        await self._wanted.wait()
                    self._wanted.clear()
                except TimeoutError:
                    pass  # the oldest outcome has waited long enough
            self._at = None
            await self.write()

    async def write(self) -> None:
        """Write now what there is; raises one of `OUTAGE` only when the writer is closed."""
        progress: list[Progress] = []
        outcomes: list[Outcome] = []
        flushed: list[tuple[Lane, Flushed]] = []
        self._outcome_waits = False
        now = self._clocks.monotonic()
        for lane in self._lanes:
            if lane.has_outcomes or lane.wants_flush or lane.idly_reserved:
                of_lane, its_outcomes, done = lane.flush(self._head(), now)
                progress.append(of_lane)
                outcomes += its_outcomes
                flushed.append((lane, done))
        if not flushed:
            return
        entry = deliveries.entry(progress, outcomes, later=self._clocks.later)
        await self._writer.append(Unit([entry]), patient=True)
        for lane, done in flushed:
            lane.flushed(done)
            if lane not in self._lanes:
                continue
            if lane.finished:
                self._lanes.drop(lane)
            else:
                self._written(lane)

    async def give_up(self) -> None:
        """Before the end: write what is known, and give up what was reserved and not used; raises `Outage`."""
        ended = [lane for lane in self._lanes if not lane.in_flight]
        for lane in ended:
            lane.withdraw()
        await self.write()
        if unused := [lane.release() for lane in ended if lane.reserved > lane.cursor]:
            entry = deliveries.entry(unused, [], later=self._clocks.later)
            await self._writer.append(Unit([entry]))
