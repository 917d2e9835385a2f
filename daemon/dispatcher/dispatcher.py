"""The dispatcher: delivers what the log holds to every callback.

    log ──tail──► lane ──courier──► receiver
                   ▲ │                  │ no answer
                   │ └──recorder──► log └──inquirer──► receiver
    callbacks ──roster

Each part holds what it does; here they are put together, and run until the end.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import asyncpg
import structlog

from daemon.backoff import Schedule
from daemon.dispatcher import receipts
from daemon.dispatcher.clocks import Clocks
from daemon.dispatcher.courier import Courier, Policy
from daemon.dispatcher.desk import Desk, until_there
from daemon.dispatcher.handshake import Handshakes
from daemon.dispatcher.inquirer import Inquirer
from daemon.dispatcher.items import Rules
from daemon.dispatcher.lane import Lane
from daemon.dispatcher.lanes import Lanes
from daemon.dispatcher.recorder import Recorder
from daemon.dispatcher.roster import Roster
from daemon.dispatcher.sending import Sender
from daemon.dispatcher.tail import Tail
from daemon.errors import Outage
from daemon.store.database import Pool
from daemon.store.directory import Directory
from daemon.store.reader import Reader
from daemon.store.writer import Writer

logger = structlog.get_logger()

LOOK_PAUSE = 0.1
"""Seconds between two looks at the callbacks: whoever appends beside us tells us each time."""

TIMER_PAUSE = 0.01
"""Seconds between two looks at what is due: one serves many attempts that failed meanwhile."""

TIMER_BACKSTOP = 60.0
"""Seconds after which what is due is looked at though nothing is known to be."""

DRAIN_WRITE = 0.25
"""The share of the time to stop that is kept for writing down what is known."""

CATCH_UP = 4
"""Lanes that are behind and read the log at the same time."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the operator wants deliveries: see `[delivery]`.  *disable_after* in seconds.

    *per_origin*: so many attempts at once to all callbacks at one origin, no more than the sender opens
    connections there.
    """

    schedule: Schedule
    rules: Rules = field(default_factory=Rules)
    disable_after: float = 5 * 86_400.0
    per_origin: int = 64
    drain: float = 5.0


class Dispatcher:
    """Delivers what the log holds to every callback; `run` is its loop."""

    def __init__(
        self,
        *,
        pool: Pool,
        writer: Writer,
        directory: Directory,
        sender: Sender,
        delivery: Delivery,
        handshakes: Handshakes | None = None,
        agent: str = "tidings",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """*clock* tells the time of day, for what is sent and written; every wait is by *monotonic*."""
        self._monotonic = monotonic
        self._drain_time = delivery.drain
        self._group: asyncio.TaskGroup
        self._timer = asyncio.Event()
        self._ended = asyncio.Event()  # an attempt ended
        self._callbacks_changed = directory.watch()
        self._lanes = Lanes()
        clocks = Clocks(wall=clock, monotonic=monotonic, chance=chance)
        reader = Reader(db=pool)
        desk = Desk(directory=directory, reader=reader)
        self._tail = Tail(
            pool=pool,
            writer=writer,
            reader=reader,
            lanes=self._lanes,
            given=self._pump,
            decided=self._decided,
        )
        self._roster = Roster(
            pool=pool,
            writer=writer,
            directory=directory,
            reader=reader,
            desk=desk,
            lanes=self._lanes,
            rules=delivery.rules,
            schedule=delivery.schedule,
            clocks=clocks,
            head=lambda: self._tail.head,
        )
        self._recorder = Recorder(
            writer=writer,
            lanes=self._lanes,
            head=lambda: self._tail.head,
            clocks=clocks,
            written=self._pump,
        )
        self._inquirer = Inquirer(desk=desk, sender=sender, clocks=clocks)
        self._courier = Courier(
            desk=desk,
            sender=sender,
            policy=Policy(delivery.schedule, delivery.disable_after, delivery.per_origin),
            handshakes=handshakes,
            agent=agent,
            clocks=clocks,
            spawn=self._spawn,
            ended=self._attempted,
            due=self._timer.set,
            disable=self._disable,
        )

    @property
    def delivered(self) -> int:
        """Attempts that were accepted, in this run."""
        return self._courier.delivered

    @property
    def failed(self) -> int:
        """Attempts that were not, in this run."""
        return self._courier.failed

    def wake(self) -> None:
        """Look at the log now."""
        self._tail.wake()

    def look_again(self) -> None:
        """Callbacks changed (disabled, enabled, a replay asked for): make the lanes what they are now."""
        self._callbacks_changed.set()

    async def run(self) -> None:
        """Settle what the last run left open, then deliver until cancelled.

        Cancelled, it starts nothing more and gives attempts under way *drain* seconds to end.
        """
        async with asyncio.TaskGroup() as self._group:
            looking: list[asyncio.Task[None]] = []
            try:
                await until_there(self._roster.settle_doubts)
                await until_there(self._tail.begin)
                await until_there(self._load)
                for name, loop in (
                    ("tail", self._tail.run()),
                    ("time", self._time()),
                    ("callbacks", self._watch_callbacks()),
                    *((f"catch up {number}", self._tail.catch_up()) for number in range(CATCH_UP)),
                ):
                    looking.append(self._group.create_task(loop, name=f"dispatcher {name}"))
                self._spawn(self._recorder.run(), "dispatcher recorder")
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                for task in looking:
                    task.cancel()
                await self._drain()
                raise

    async def _drain(self) -> None:
        """Let attempts under way end, write down what is known, give up what was reserved and not used."""
        for lane in self._lanes:
            lane.paused = True
        try:
            async with asyncio.timeout(self._drain_time * (1 - DRAIN_WRITE)):
                while any(lane.in_flight for lane in self._lanes):
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            # Nothing is lost: what has no outcome is in doubt at the next start.
            number = sum(lane.in_flight for lane in self._lanes)
            logger.warning("stopped with deliveries under way", number=number)
        try:
            async with asyncio.timeout(self._drain_time * DRAIN_WRITE):
                await self._recorder.give_up()
        except (TimeoutError, Outage) as error:
            logger.warning("stopped without writing all down", error=str(error) or "no time left")

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        self._group.create_task(work, name=name)

    # ── what happens to a lane ───────────────────────────────────────────────────────────────────────

    def _pump(self, lane: Lane) -> None:
        """Start what can go now, and see to what the lane needs: to write, to read, to be loaded again."""
        now = self._monotonic()
        lane.wake_due(now)
        if lane.ready:
            self._courier.call(lane)
        while doubts := lane.take_doubts(now, receipts.IDS_MOST):
            self._spawn(self._inquirer.ask(lane, doubts, self._asked), f"ask {lane.id}")
        self._recorder.note(lane)
        if lane.behind:
            self._tail.want_more(lane)
        if lane.reloadable:
            self.look_again()

    def _attempted(self, lane: Lane) -> None:
        # There is room for more, or for what was left out, only once this is written; then it is pumped.
        self._ended.set()
        self._recorder.note(lane)

    def _asked(self, lane: Lane) -> None:
        self._timer.set()
        if lane in self._lanes:
            self._pump(lane)

    async def _decided(self, row: asyncpg.Record) -> None:
        lane = await self._roster.decided(row)
        if lane is not None:
            self._pump(lane)

    async def _disable(self, lane: Lane, reason: str) -> None:
        await self._roster.disable(lane, reason)
        self.look_again()

    # ── what is looked at again and again ────────────────────────────────────────────────────────────

    async def _watch_callbacks(self) -> None:
        while True:
            await self._callbacks_changed.wait()
            self._callbacks_changed.clear()
            await until_there(self._load)
            await asyncio.sleep(LOOK_PAUSE)

    async def _load(self) -> None:
        await self._roster.load(self._loaded)
        self._courier.keep(self._lanes.ids())
        self._timer.set()

    def _loaded(self, lane: Lane) -> None:
        self._courier.assign(lane)
        if lane.behind:
            self._tail.want_more(lane)
        self._pump(lane)

    async def _time(self) -> None:
        """Wake lanes whose retries, probes or quiet times are due."""
        while True:
            now = self._monotonic()
            soonest = now + TIMER_BACKSTOP
            for lane in self._lanes:
                moment = lane.next_time()
                if moment is None:
                    continue
                if moment <= now:
                    self._pump(lane)
                    moment = lane.next_time() or soonest
                    moment = max(moment, now + 0.05)
                soonest = min(soonest, moment)
            try:
                async with asyncio.timeout(max(soonest - self._monotonic(), 0.01)):
                    await self._timer.wait()
            except TimeoutError:
                pass  # something is due
            self._timer.clear()
            await asyncio.sleep(TIMER_PAUSE)
