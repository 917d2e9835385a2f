"""The dispatcher: tails the log, feeds a lane per callback, writes down what became of each notification.

    log ──tail──► lane ──take──► attempt ──► lane ──flush──► log
           └─(a lane that is behind reads the log itself, by its instance)

Outcomes and reservations of all lanes are written together, one row for many: at once when a lane cannot go on
without, else when the oldest has waited FLUSH_AFTER.  That is how a delivery costs far less than a statement.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import asyncpg
import orjson
import structlog

from daemon.backoff import Schedule
from daemon.dispatcher import receipts
from daemon.dispatcher.crews import Crew, Crews
from daemon.dispatcher.handshake import Handshakes
from daemon.dispatcher.lane import PERIOD, Doubt, Flushed, Item, Lane, Replay, Rules, State
from daemon.dispatcher.sending import (
    NOT_NOW,
    RETRY_AFTER_MOST,
    Letterhead,
    Sender,
    Verdict,
    attempt,
    shown,
)
from daemon.errors import ConfigError, Outage
from daemon.model import Instance
from daemon.notifications import Notification, format_of
from daemon.store import deliveries, log
from daemon.store.database import Pool, is_outage
from daemon.store.deliveries import Outcome, Progress, Reader
from daemon.store.directory import Directory
from daemon.store.writer import Unit, Writer

logger = structlog.get_logger()

T = TypeVar("T")

NOTIFICATION_ROWS = 20
"""A notification has at most so many rows."""

TAIL_ROWS = 1000
"""Rows that one look at the log takes."""

TAIL_PAUSE = 0.025
"""Seconds between two looks at the log under load: one statement serves what came meanwhile.  Idle, none."""

TAIL_BACKSTOP = 1.0
"""Seconds after which the log is looked at though nobody said that there is something."""

LOOK_PAUSE = 0.1
"""Seconds between two looks at the callbacks: whoever appends beside us tells us each time."""

FLUSH_AFTER = 0.2
"""Seconds that an outcome may wait to be written; a crash within them leaves the notification in doubt."""

TIMER_PAUSE = 0.01
"""Seconds between two looks at what is due: one serves many attempts that failed meanwhile."""

DRAIN_WRITE = 0.25
"""The share of the time to stop that is kept for writing down what is known."""

REPLAY_CONCURRENCY = 2
REPLAY_RATE = 200.0
"""A replay has at most so many attempts at once and a second, unless it asks for another rate: live traffic goes first."""

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
        self._pool = pool
        self._writer = writer
        self._directory = directory
        self._sender = sender
        self._delivery = delivery
        self._handshakes = handshakes
        self._agent = agent
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._lanes: dict[int, Lane] = {}
        self._by_instance: dict[int, list[Lane]] = {}
        self._loading: dict[int, None] = {}
        self._crews = Crews(delivery.per_origin)
        self._letterheads: dict[int, Letterhead] = {}
        self._head = 0  # the log is tailed up to here
        self._reader: Reader
        self._group: asyncio.TaskGroup
        self._something = asyncio.Event()
        self._timer = asyncio.Event()
        self._ended = asyncio.Event()  # an attempt ended
        self._flush_wanted = asyncio.Event()
        self._flush_at: float | None = None  # loop time by which outcomes are to be written
        self._behind: dict[int, None] = {}
        self._behind_wanted = asyncio.Event()
        self._callbacks_changed = directory.watch()
        self._disabling = 0  # disabled here, and the log has not got it yet
        self._disabled = 0
        self.delivered = 0
        self.failed = 0

    def wake(self) -> None:
        """Look at the log now."""
        self._something.set()

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
                await self._until_there(self._settle_doubts)
                await self._until_there(self._load_callbacks)
                for name, loop in (
                    ("tail", self._tail),
                    ("time", self._time),
                    ("callbacks", self._watch_callbacks),
                    *((f"catch up {number}", self._catch_up) for number in range(CATCH_UP)),
                ):
                    looking.append(self._group.create_task(loop(), name=f"dispatcher {name}"))
                self._group.create_task(self._flush(), name="dispatcher flush")
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                for task in looking:
                    task.cancel()
                await self._drain()
                raise

    async def _drain(self) -> None:
        """Let attempts under way end, write down what is known, give up what was reserved and not used."""
        for lane in self._lanes.values():
            lane.paused = True
        try:
            async with asyncio.timeout(self._delivery.drain * (1 - DRAIN_WRITE)):
                while any(lane.in_flight for lane in self._lanes.values()):
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            # Nothing is lost: what has no outcome is in doubt at the next start.
            number = sum(lane.in_flight for lane in self._lanes.values())
            logger.warning("stopped with deliveries under way", number=number)
        try:
            async with asyncio.timeout(self._delivery.drain * DRAIN_WRITE):
                ended = [lane for lane in self._lanes.values() if not lane.in_flight]
                for lane in ended:
                    lane.withdraw()
                await self._write()
                if unused := [lane.release() for lane in ended if lane.reserved > lane.cursor]:
                    entry = deliveries.entry(unused, [], later=self._later)
                    await self._writer.append(Unit([entry]))
        except (TimeoutError, Outage) as error:
            logger.warning("stopped without writing all down", error=str(error) or "no time left")

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────

    async def _settle_doubts(self) -> None:
        """Write down as doubtful what may have been sent and has no outcome."""
        log_id = await log.log_id(self._pool)
        self._reader = Reader(db=self._pool, log_id=log_id)
        doubtful = await deliveries.unanswered(
            self._pool, self._delivery.rules.window, self._writer.opened_at
        )
        now = int(self._clock() * 1000)
        rows = {row["id"]: row for row in await deliveries.callbacks(self._pool)}
        # With the same entry the old reservations end: what the next crash leaves in doubt is this run's.
        progress = [
            Progress(
                callback_id=row["id"],
                cursor=row["cursor"],
                reserved=row["cursor"],
                finished=False,
                failing=None if row["failing"] is None else int(row["failing"].timestamp() * 1000),
            )
            for row in rows.values()
            if row["state"] in _ALIVE and row["reserved"] > row["cursor"]
        ]
        if doubtful:
            logger.warning("deliveries in doubt after a crash", number=len(doubtful))
        outcomes = []
        for callback, _, notification, attempts in doubtful:
            state = _DOUBTFUL[self._rules(rows[callback]).doubt]
            due = now if state == "retrying" else None
            error = "in doubt: the process ended before an outcome was known"
            outcomes.append(
                Outcome(
                    callback, notification, state, attempts, due, now, None, error, doubtful=True
                )
            )
        if progress or outcomes:
            await self._writer.append(Unit([deliveries.entry(progress, outcomes)]), patient=True)
        self._head = await log.head(self._pool)

    async def _load_callbacks(self) -> None:
        """Make the lanes what the callbacks are: new ones, ended ones, paused ones."""
        disabled = self._disabled
        rows = await deliveries.callbacks(self._pool)
        for row in rows:
            lane = self._lanes.get(row["id"])
            instance = self._directory.get(row["instance_id"])
            alive = row["state"] in _ALIVE and instance is not None
            before = None
            if lane is not None and (not alive or row["since"] != lane.since or lane.reloadable):
                # Ended; or ended and begun anew since we looked; or there are rows that it had no room for.
                before = lane if row["since"] == lane.since else None
                self._drop(lane)
                lane = None
            if not alive:
                continue
            paused = row["state"] == "disabled" or instance is None
            if row["replay"] is None:
                paused = paused or (instance is not None and instance.disabled)
            if lane is None:
                lane = await self._load(row, paused=paused)
                if before is not None:
                    lane.follow(before)
                until = self._head if lane.replay is None else lane.replay.until
                lane.behind = lane.read < until
            elif lane.paused and not paused and (self._disabling or disabled != self._disabled):
                continue  # it may have been disabled since the rows were read; there will be another look
            elif lane.paused and not paused:
                lane.retry_now(self._monotonic())
            lane.paused = paused
            lane.rules = self._rules(row)
            self._crews.assign(lane.id, self._origin(lane))
            if lane.behind:
                self._want_more(lane)
            self._pump(lane)
        self._crews.keep(self._lanes)
        self._timer.set()

    def _origin(self, lane: Lane) -> tuple[str, str | None, int | None] | None:
        """Where the lane's callback is; None for one without address."""
        instance = self._receiving(lane.instance_id, lane.replay)
        url = None if instance is None else self._url(lane, instance)
        return None if url is None else _origin(url)

    def _rules(self, row: asyncpg.Record) -> Rules:
        """The operator's rules, with what the instance whose callback it is wants of it."""
        base = self._delivery.rules
        replay = _replay(row)
        instance = self._receiving(row["instance_id"], replay)
        if instance is None:
            return base
        wanted = instance.configuration
        doubt = _doubt(instance, replay)
        rules = replace(
            base,
            doubt=doubt,
            # What is reserved and not sent is in doubt after a crash: where doubt costs a person's or the
            # receiver's time, only what is about to be sent is reserved.
            ahead=base.ahead if doubt is Doubt.RESEND else 0,
            ask_after=receipts.SETTLE,
            rate=_number(wanted.get("event.notification.rate"), 0.0),
            concurrency=int(_number(wanted.get("event.notification.concurrency"), base.concurrency))
            or base.concurrency,
        )
        if replay is not None:
            rate = float(row["replay"].get("rate") or REPLAY_RATE)
            rules = replace(
                rules,
                concurrency=min(rules.concurrency, REPLAY_CONCURRENCY),
                rate=min(rate, rules.rate or rate),
            )
        return rules

    def _receiving(self, instance_id: int, replay: Replay | None) -> Instance | None:
        """The instance whose callback, key and policy count: its own, unless a replay goes to another's."""
        other = None if replay is None else replay.to
        return self._directory.get(instance_id if other is None else other)

    async def _load(self, row: asyncpg.Record, *, paused: bool) -> Lane:
        lane = Lane(
            id=row["id"],
            instance_id=row["instance_id"],
            cursor=row["cursor"],
            reserved=row["reserved"],
            since=row["since"],
            rules=self._rules(row),
            replay=_replay(row),
            paused=paused,
            failing=None if row["failing"] is None else self._since(row["failing"].timestamp()),
        )
        lane.skip = await deliveries.rows_above(self._pool, lane.id, lane.cursor)
        while True:
            self._loading[lane.id] = None
            open_rows = await deliveries.open_of(self._pool, lane.id, lane.rules.parked)
            if lane.id in self._loading:
                break
        del self._loading[lane.id]
        if len(open_rows) == lane.rules.parked:
            lane.partial, lane.restored = True, open_rows[-1]["notification"]
        for open_row in open_rows:
            self._restore(lane, open_row)
        self._lanes[lane.id] = lane
        if lane.replay is None:
            self._by_instance.setdefault(lane.instance_id, []).append(lane)
        else:
            # It reads the log by itself, up to its request, which may be beyond what was tailed; all that came to
            # the instance until then is visible, and perhaps not known yet.
            self._reader.forget(lane.instance_id)
        return lane

    def _restore(self, lane: Lane, row: asyncpg.Record) -> None:
        lane.restore(
            row["notification"],
            frozenset((kind, object_id) for kind, object_id in row["objects"]),
            _STATES[row["state"]],
            row["attempts"],
            0.0 if row["due"] is None else self._due(row["due"].timestamp(), row["status"]),
            doubtful=row["doubtful"],
        )

    def _due(self, moment: float, status: int | None) -> float:
        """By the monotonic clock, what was written as *moment*, by a clock that may have been set since.

        So it is at most the longest wait away, of the schedule or of those that a receiver may ask for.
        """
        most = max(self._delivery.schedule.delays, default=0.0)
        if status in NOT_NOW:
            most = max(most, RETRY_AFTER_MOST)
        return self._monotonic() + min(max(moment - self._clock(), 0.0), most)

    def _since(self, moment: float) -> float:
        """By the monotonic clock, the *moment* in the past since when a callback fails."""
        return self._monotonic() - max(self._clock() - moment, 0.0)

    def _drop(self, lane: Lane) -> None:
        lane.paused = True
        del self._lanes[lane.id]
        self._letterheads.pop(lane.id, None)
        if lane.replay is None:
            self._by_instance[lane.instance_id].remove(lane)

    async def _watch_callbacks(self) -> None:
        while True:
            await self._callbacks_changed.wait()
            self._callbacks_changed.clear()
            await self._until_there(self._load_callbacks)
            await asyncio.sleep(LOOK_PAUSE)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────

    async def _tail(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TAIL_BACKSTOP):
                    await self._something.wait()
            except TimeoutError:
                pass  # the backstop: look anyhow
            quiet = not self._something.is_set()
            self._something.clear()
            await self._until_there(partial(self._read_tail, quiet=quiet))
            await asyncio.sleep(TAIL_PAUSE)

    async def _read_tail(self, *, quiet: bool = False) -> None:
        """Give the lanes what is new.  *quiet*: there is time to pass over what is not for them."""
        # Asked first: what is visible now is visible to the next question too, so a log that shows nothing
        # then has nothing for us up to here.
        head = await log.head(self._pool) if quiet else 0
        while True:
            rows = await log.changes_after(self._pool, self._head, TAIL_ROWS)
            whole = _whole(rows, TAIL_ROWS)
            for row in whole:
                if row["kind"] == "delivery.asked":
                    await self._asked(row)
                elif row["kind"] != "change":
                    # Later notifications show the instance as it is from here on.
                    self._reader.forget(row["instance_id"])
            self._check_owner()
            if whole:
                # From the end of this wait to the next nothing else runs: a lane is given what is new, or
                # is behind, or reads up to a head that is beyond it.
                await self._feed([row for row in whole if row["kind"] == "change"])
                self._head = whole[-1]["position"]
            if len(rows) < TAIL_ROWS:
                self._head = max(self._head, head)
                return

    async def _feed(self, rows: Sequence[asyncpg.Record]) -> None:
        """Give each lane its part, as far as it has room; a lane without room will read by itself."""
        by_instance: dict[int, list[asyncpg.Record]] = {}
        for row in rows:
            by_instance.setdefault(row["instance_id"], []).append(row)
        wanted: list[asyncpg.Record] = []
        for instance_id, mine in by_instance.items():
            lanes = self._by_instance.get(instance_id, ())
            if any(not lane.behind and not lane.paused and lane.room for lane in lanes):
                wanted.extend(mine)
        made: dict[int, list[Notification]] = {}
        for notification in await self._reader.notifications(wanted) if wanted else ():
            made.setdefault(notification.instance.id, []).append(notification)
        # While these were made, lanes may have come, or have read for themselves.
        for instance_id, mine in by_instance.items():
            for lane in self._by_instance.get(instance_id, ()):
                if not lane.behind and lane.read < mine[-1]["position"]:
                    self._give(lane, made.get(instance_id, []))

    def _give(self, lane: Lane, notifications: Sequence[Notification]) -> None:
        fresh = [n for n in notifications if n.position > lane.read]
        if fresh and not lane.paused and lane.room >= len(fresh):
            self._offer(lane, fresh)
            self._pump(lane)
        else:
            lane.behind = True
            self._want_more(lane)

    def _offer(self, lane: Lane, notifications: Sequence[Notification]) -> None:
        if lane.replay is None:
            # What came while the instance had no address is nobody's, also for a lane that has not heard of that
            # yet; but it can be asked for.
            lane.skip.update(n.position for n in notifications if n.instance.callback_url is None)
        lane.offer(notifications)

    def _want_more(self, lane: Lane) -> None:
        idle = lane.behind and not lane.paused and not lane.reading
        if idle and lane.room > lane.rules.window // 2:
            self._behind[lane.id] = None
            self._behind_wanted.set()

    async def _catch_up(self) -> None:
        while True:
            await self._behind_wanted.wait()
            if not self._behind:
                self._behind_wanted.clear()
                continue
            lane_id = next(iter(self._behind))
            del self._behind[lane_id]
            lane = self._lanes.get(lane_id)
            if lane is not None and lane.behind and not lane.reading:
                lane.reading = True  # nobody else reads for it meanwhile
                await self._until_there(partial(self._read_more, lane))
                self._pump(lane)

    async def _asked(self, row: asyncpg.Record) -> None:
        """A person settled notifications of a callback, or wants them tried again: the rows say so already."""
        asked = orjson.loads(row["data"])
        lane = self._lanes.get(asked["callback"])
        if lane is None:
            # What is being loaded may be older than this.
            self._loading.pop(asked["callback"], None)
            return
        rows = await deliveries.some(self._pool, lane.id, asked["notifications"])
        # An attempt that was under way was not the person's to decide about; its row does not say what was asked.
        obeyed = "retrying" if asked["how"] == "retry" else asked["how"]
        now = self._monotonic()
        kept = {item.position for item in lane}
        for stored in rows:
            if stored["state"] == obeyed:
                lane.settle(stored["notification"], asked["how"], now)
        if asked["how"] == "retry":
            await self._bring_back(lane, sorted(p for p in asked["notifications"] if p not in kept))
        self._pump(lane)

    async def _bring_back(self, lane: Lane, positions: Sequence[int]) -> None:
        """Restore what the lane had forgotten, as far as it has space; the rest is read when it has."""
        if lane.partial:
            positions = [position for position in positions if position <= lane.restored]
        fit, rest = positions[: lane.space], positions[lane.space :]
        if rest:
            lane.leave_out(rest[0])
        if fit:
            for row in await deliveries.open_some(self._pool, lane.id, fit):
                self._restore(lane, row)

    async def _read_more(self, lane: Lane) -> None:
        head = self._head if lane.replay is None else lane.replay.until
        # One row more than the largest notification has: there is always a whole one among them.
        limit = max(lane.room, NOTIFICATION_ROWS) + 1
        rows = await log.changes_of_instance(
            self._pool, lane.instance_id, lane.read, limit, until=head
        )
        found = await self._reader.notifications(_whole(rows, limit))
        self._check_owner()
        lane.reading = False
        fits = max(lane.room, 0)
        self._offer(lane, found[:fits])
        if len(rows) < limit and (not found or lane.read >= found[-1].last):
            lane.read = max(lane.read, head)
            # What was tailed while this read ran was not given to a lane that is behind.
            lane.behind = (self._head if lane.replay is None else lane.replay.until) > head

    def _check_owner(self) -> None:
        """Raise `Outage` while the writer is away.

        Another process may own the database now.  What it was not told of when it began, nobody must send
        but itself; so what was read may go out only if this process had the ownership afterwards.
        """
        if not self._writer.connected:
            raise Outage("the writer has no connection")

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────

    def _pump(self, lane: Lane) -> None:
        """Start what can go now."""
        now = self._monotonic()
        lane.wake_due(now)
        if lane.ready:
            self._call(lane)
        while doubts := lane.take_doubts(now, receipts.IDS_MOST):
            self._group.create_task(self._ask(lane, doubts), name=f"ask {lane.id}")
        self._after(lane)

    def _after(self, lane: Lane) -> None:
        if lane.wants_flush:
            self._flush_at = 0.0
            self._flush_wanted.set()
        elif lane.has_outcomes:
            self._flush_within(FLUSH_AFTER)
        elif lane.idly_reserved:
            self._flush_within(PERIOD)
        if lane.behind:
            self._want_more(lane)
        if lane.reloadable:
            self.look_again()

    def _flush_within(self, seconds: float) -> None:
        at = asyncio.get_running_loop().time() + seconds
        if self._flush_at is None or at < self._flush_at:
            self._flush_at = at
            self._flush_wanted.set()

    def _call(self, lane: Lane) -> None:
        """Have the crew at the lane's origin look at it."""
        crew = self._crews.of(lane)
        if crew.add(lane):
            crew.workers += 1
            self._group.create_task(self._work(crew), name=f"deliver {lane.id}")

    async def _work(self, crew: Crew) -> None:
        """Send for the crew's lanes in turn, while any of them has something."""
        try:
            while (lane := crew.next()) is not None:
                now = self._monotonic()
                lane.wake_due(now)
                item = lane.take(now)
                if item is None:
                    self._after(lane)
                    if (moment := lane.next_time()) is not None and moment <= now + 3600:
                        self._timer.set()
                    continue
                if lane.ready:
                    self._call(lane)
                await self._send(lane, item)
                self._after(lane)
                crew.add(lane)
        finally:
            crew.workers -= 1

    async def _send(self, lane: Lane, item: Item) -> None:
        verdict = await self._attempt(lane, item)
        self._ended.set()
        now = self._monotonic()
        if verdict.delivered:
            self.delivered += 1
            lane.delivered(item, now, verdict.status or 200)
            return
        self.failed += 1
        if lane.failures == 0:
            logger.warning(
                "callback fails", callback=lane.id, error=verdict.error, notification=item.position
            )
        delay = self._delivery.schedule.delay(item.attempts + 1, self._chance)
        lane.failed(
            item,
            now,
            error=verdict.error or "failed",
            status=verdict.status,
            delay=0.0 if verdict.gone else delay,
            doubtful=verdict.doubtful,
            quiet=verdict.quiet,
            jitter=self._chance() * 2 - 1,
        )
        since = lane.failing
        if verdict.gone:
            await self._disable(lane, "the receiver answered 410 Gone")
        elif since is not None and now - since >= self._delivery.disable_after:
            moment = time.gmtime(self._clock() - (now - since))
            await self._disable(
                lane, f"nothing was accepted since {time.strftime('%Y-%m-%d %H:%M', moment)} UTC"
            )

    async def _ask(self, lane: Lane, doubts: Sequence[Item]) -> None:
        """Ask the receiver which of *doubts* it has, and settle those that it speaks of.

        Where it is not to be asked any more, the policy says what becomes of them.
        """
        instance = self._receiving(lane.instance_id, lane.replay)
        url = (
            None
            if instance is None
            else _asked_at(instance.configuration, instance.callback_url, lane.replay)
        )
        said: receipts.Receipts | receipts.NoAnswer = receipts.NoAnswer("nobody is asked any more")
        names: list[str] = []
        if instance is not None and url is not None:
            try:
                settings = await self._settings(lane, instance)
                about = [
                    await self._until_there(partial(self._notification, lane, item))
                    for item in doubts
                ]
                names = [notification.id for notification in about]
                said = await receipts.ask(
                    self._sender,
                    url,
                    settings,
                    names,
                    since=min(notification.appended for notification in about).timestamp(),
                    now=self._clock(),
                )
            except (ConfigError, ValueError) as error:
                said = receipts.NoAnswer(shown(str(error)))
        now = self._monotonic()
        quiet = 0.0
        if isinstance(said, receipts.NoAnswer):
            quiet = said.quiet
            logger.warning("no receipts", callback=lane.id, number=len(doubts), error=said.error)
        nobody = instance is not None and url is None
        heard = nobody or isinstance(said, receipts.Receipts)
        lane.asked(now, heard=heard, chance=self._chance, quiet=quiet)
        hold = instance is not None and _doubt(instance, lane.replay) is Doubt.HOLD
        for number, item in enumerate(doubts):
            received: bool | None = None
            if isinstance(said, receipts.Receipts):
                has, has_not = names[number] in said.received, names[number] in said.unknown
                received = True if has else False if has_not else None
            elif nobody and hold:
                lane.hold(item, now)
                continue
            elif nobody:
                received = False  # sent again, marked
            lane.answered(item, now, received=received)
        self._timer.set()
        if lane.id in self._lanes:
            self._pump(lane)

    def _url(self, lane: Lane, instance: Instance) -> str | None:
        own = lane.replay.url if lane.replay is not None else None
        return own or instance.callback_url

    async def _settings(self, lane: Lane, instance: Instance) -> Mapping[str, str]:
        """The instance's settings in clear, without what only the host of its own callback may see."""
        settings = self._directory.at_hand(instance)
        if settings is None:
            settings = await self._until_there(partial(self._directory.settings, instance))
        if lane.replay is None or lane.replay.url is None:
            return settings
        own = instance.callback_url
        if own is not None and _origin(own) == _origin(lane.replay.url):
            return settings
        return {name: value for name, value in settings.items() if name not in _FOR_ITS_OWN_HOST}

    async def _attempt(self, lane: Lane, item: Item) -> Verdict:
        instance = self._receiving(lane.instance_id, lane.replay)
        url = None if instance is None else self._url(lane, instance)
        if instance is None or url is None:
            return Verdict(delivered=False, error="the instance has no callback address")
        try:
            settings = await self._settings(lane, instance)
            notification = item.notification if lane.replay is None else None
            if notification is None:
                notification = await self._until_there(partial(self._notification, lane, item))
            form = format_of(notification)
            body = form.body(notification)
            asks = self._handshakes if form.handshake else None
            if asks is not None:
                # Before the headers are made, which say when: there may be a wait for the rate that was allowed.
                rate = _number(instance.configuration.get("event.notification.rate"), 0.0)
                if (refused := await asks.permit(url, settings, rate=rate)) is not None:
                    return refused
                lane.next_at = max(lane.next_at, self._monotonic() + asks.wait(url))
            sent = self._letterhead(lane, settings).headers(
                body,
                content_type=form.content_type,
                message_id=notification.id,
                now=self._clock(),
                repeat=item.doubtful,
                origin=None if asks is None else asks.origin,
            )
        except (ConfigError, ValueError) as error:
            # A vault without its key, a signing key that is none: a person must mend it, meanwhile others go on.
            return Verdict(delivered=False, error=shown(str(error)))
        return await attempt(self._sender, url, sent, body)

    def _letterhead(self, lane: Lane, settings: Mapping[str, str]) -> Letterhead:
        """What all requests of the lane have in common, made anew when its settings are others."""
        known = self._letterheads.get(lane.id)
        if known is None or known.settings is not settings:
            known = self._letterheads[lane.id] = Letterhead(settings, agent=self._agent)
        return known

    async def _notification(self, lane: Lane, item: Item) -> Notification:
        if item.notification is None:
            item.notification = (await self._reader.read([item.position]))[0]
        if lane.replay is not None and lane.replay.as_new:
            return self._reader.renamed(item.notification, lane.id)
        return item.notification

    async def _disable(self, lane: Lane, reason: str) -> None:
        lane.paused = True
        logger.error("callback disabled", callback=lane.id, reason=reason)
        entry = deliveries.callback_entry("callback.disabled", lane.id, lane.instance_id, reason)
        self._disabling += 1
        await self._writer.append(Unit([entry]), patient=True)
        self._disabling -= 1
        self._disabled += 1
        self.look_again()

    async def _time(self) -> None:
        """Wake lanes whose retries, probes or quiet times are due."""
        while True:
            now = self._monotonic()
            soonest = now + 60
            for lane in list(self._lanes.values()):
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

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted.clear()
            while self._flush_at is not None and (rest := self._flush_at - loop.time()) > 0:
                try:
                    async with asyncio.timeout(rest):
                        await self._flush_wanted.wait()
                    self._flush_wanted.clear()
                except TimeoutError:
                    pass  # the oldest outcome has waited long enough
            self._flush_at = None
            await self._write()

    async def _write(self) -> None:
        progress: list[Progress] = []
        outcomes: list[Outcome] = []
        flushed: list[tuple[Lane, Flushed]] = []
        for lane in self._lanes.values():
            if lane.has_outcomes or lane.wants_flush or lane.idly_reserved:
                of_lane, its_outcomes, done = lane.flush(self._head, self._monotonic())
                progress.append(of_lane)
                outcomes += its_outcomes
                flushed.append((lane, done))
        if not flushed:
            return
        entry = deliveries.entry(progress, outcomes, later=self._later)
        await self._writer.append(Unit([entry]), patient=True)
        for lane, done in flushed:
            lane.flushed(done)
            if lane.finished and self._lanes.get(lane.id) is lane:
                self._drop(lane)
            elif lane.id in self._lanes:
                self._pump(lane)

    @property
    def _later(self) -> int:
        """Milliseconds by which the time of day is later than the monotonic clock, now."""
        return round((self._clock() - self._monotonic()) * 1000)

    async def _until_there(self, work: Callable[[], Awaitable[T]]) -> T:
        """What *work* returns, which is done again and again while the database is away."""
        pause = 0.1
        while True:
            try:
                return await work()
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning(
                    "dispatcher waits for the database", error=str(error) or type(error).__name__
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)


_ALIVE = frozenset({"active", "disabled"})

_STATES = {
    "retrying": State.RETRYING,
    "waiting": State.WAITING,
    "in_doubt": State.IN_DOUBT,
    "held": State.HELD,
    "in_flight": State.HELD,
}

_DOUBTFUL = {Doubt.RESEND: "retrying", Doubt.ASK: "in_doubt", Doubt.HOLD: "held"}


def _doubt(instance: Instance, replay: Replay | None) -> Doubt:
    """What *instance* wants to be done about what may have been accepted."""
    wanted = instance.configuration
    if _asked_at(wanted, instance.callback_url, replay) is not None:
        return Doubt.ASK
    hold = (wanted.get("event.notification.redelivery") or "").lower() == "hold"
    return Doubt.HOLD if hold else Doubt.RESEND


def _replay(row: asyncpg.Record) -> Replay | None:
    asked = row["replay"]
    if asked is None:
        return None
    return Replay(
        # Up to its own entry all is visible; what came later was not there when it was asked for.
        until=min(row["until"], row["id"]),
        object_type=asked.get("type"),
        object_id=asked.get("object"),
        url=asked.get("url"),
        to=asked.get("to_instance"),
        as_new=bool(asked.get("as_new")),
    )


def _asked_at(
    settings: Mapping[str, str | None], own: str | None, replay: Replay | None
) -> str | None:
    """The URL that says what became of a notification; None when nobody is to be asked.

    Of what a replay sent to another address, only that address knows: an inbox with a URL of its own would answer
    for what it once got itself.
    """
    if replay is None or replay.url is None or replay.url == own:
        return receipts.wanted(settings, own)
    told = (settings.get(receipts.SETTING) or "").strip().lower()
    return replay.url if told == "true" else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


_FOR_ITS_OWN_HOST = frozenset(
    {
        "event.notification.basic.username",
        "event.notification.basic.password",
        "event.notification.callback.headers",
    }
)


def _number(text: str | None, default: float) -> float:
    """A number of an instance's configuration, which was checked when it was stored."""
    try:
        return float(text) if text else default
    except ValueError:
        return default


def _whole(rows: Sequence[asyncpg.Record], limit: int) -> Sequence[asyncpg.Record]:
    """*rows* without a last notification that the limit may have cut."""
    if len(rows) < limit or rows[-1]["notification"] is None:
        return rows
    cut = rows[-1]["notification"]
    end = len(rows)
    while end and rows[end - 1]["notification"] == cut:
        end -= 1
    return rows[:end]
