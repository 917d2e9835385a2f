"""The roster: makes the lanes what the callbacks in the database are, at the start and whenever these change."""

from collections.abc import Callable, Sequence

import asyncpg
import orjson
import structlog

from daemon.backoff import Schedule
from daemon.dispatcher.clocks import Clocks
from daemon.dispatcher.desk import Desk
from daemon.dispatcher.gate import Gate
from daemon.dispatcher.items import Doubt, Rules, State
from daemon.dispatcher.lane import Lane
from daemon.dispatcher.lanes import Lanes
from daemon.dispatcher.sending import NOT_NOW, RETRY_AFTER_MOST
from daemon.dispatcher.wishes import replay_of, rules_of
from daemon.store import deliveries
from daemon.store.database import Pool
from daemon.store.deliveries import Outcome, Progress
from daemon.store.directory import Directory
from daemon.store.reader import Reader
from daemon.store.writer import Unit, Writer

logger = structlog.get_logger()

_ALIVE = frozenset({"active", "disabled"})

_STATES = {
    "retrying": State.RETRYING,
    "waiting": State.WAITING,
    "in_doubt": State.IN_DOUBT,
    "held": State.HELD,
    "in_flight": State.HELD,
}

_DOUBTFUL = {Doubt.RESEND: "retrying", Doubt.ASK: "in_doubt", Doubt.HOLD: "held"}


class Roster:
    """Loads lanes; *head* tells how far the log is tailed."""

    def __init__(
        self,
        *,
        pool: Pool,
        writer: Writer,
        directory: Directory,
        reader: Reader,
        desk: Desk,
        lanes: Lanes,
        rules: Rules,
        schedule: Schedule,
        clocks: Clocks,
        head: Callable[[], int],
    ) -> None:
        self._pool = pool
        self._writer = writer
        self._directory = directory
        self._reader = reader
        self._desk = desk
        self._lanes = lanes
        self._base = rules
        self._schedule = schedule
        self._clocks = clocks
        self._head = head
        self._loading: dict[int, None] = {}
        self._disabling = 0  # disabled here, and the log has not got it yet
        self._disabled = 0

    # ── after a crash ────────────────────────────────────────────────────────────────────────────────

    async def settle_doubts(self) -> None:
        """Write down as doubtful what the last run may have sent and has no outcome, before anything is sent."""
        window = self._base.window
        doubtful = await deliveries.unanswered(self._pool, window, self._writer.opened_at)
        now = int(self._clocks.wall() * 1000)
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

    # ── lanes ────────────────────────────────────────────────────────────────────────────────────────

    async def load(self, ready: Callable[[Lane], None]) -> None:
        """Make the lanes what the callbacks are: new ones, ended ones, paused ones; *ready* is told of each."""
        disabled = self._disabled
        for row in await deliveries.callbacks(self._pool):
            lane = self._lanes.get(row["id"])
            instance = self._directory.get(row["instance_id"])
            alive = row["state"] in _ALIVE and instance is not None
            before = None
            if lane is not None and (not alive or row["since"] != lane.since or lane.reloadable):
                # Ended; or ended and begun anew since we looked; or there are rows that it had no room for.
                before = lane if row["since"] == lane.since else None
                self._lanes.drop(lane)
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
                until = self._head() if lane.replay is None else lane.replay.until
                lane.behind = lane.read < until
            elif lane.paused and not paused and (self._disabling or disabled != self._disabled):
                continue  # it may have been disabled since the rows were read; there will be another look
            elif lane.paused and not paused:
                lane.retry_now(self._clocks.monotonic())
            lane.paused = paused
            lane.rules = self._rules(row)
            ready(lane)

    async def disable(self, lane: Lane, reason: str) -> None:
        """End the callback until a person enables it; returns when that is durable."""
        lane.paused = True
        logger.error("callback disabled", callback=lane.id, reason=reason)
        entry = deliveries.callback_entry("callback.disabled", lane.id, lane.instance_id, reason)
        self._disabling += 1
        await self._writer.append(Unit([entry]), patient=True)
        self._disabling -= 1
        self._disabled += 1

    def _rules(self, row: asyncpg.Record) -> Rules:
        instance = self._desk.instance(row["instance_id"], replay_of(row))
        return rules_of(row, self._base, instance)

    async def _load(self, row: asyncpg.Record, *, paused: bool) -> Lane:
        failing = row["failing"]
        lane = Lane(
            id=row["id"],
            instance_id=row["instance_id"],
            cursor=row["cursor"],
            reserved=row["reserved"],
            since=row["since"],
            rules=self._rules(row),
            replay=replay_of(row),
            paused=paused,
            gate=Gate(failing=None if failing is None else self._past(failing.timestamp())),
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
        self._lanes.add(lane)
        if lane.replay is not None:
            # It reads the log by itself, up to its request, which may be beyond what was tailed; all that came to
            # the instance until then is visible, and perhaps not known yet.
            self._reader.forget(lane.instance_id)
        return lane

    def _restore(self, lane: Lane, row: asyncpg.Record) -> None:
        lane.restore(
            row["notification"],
            tuple((kind, object_id) for kind, object_id in row["objects"]),
            _STATES[row["state"]],
            row["attempts"],
            0.0 if row["due"] is None else self._due(row["due"].timestamp(), row["status"]),
            doubtful=row["doubtful"],
        )

    def _due(self, moment: float, status: int | None) -> float:
        """By the monotonic clock, what was written as *moment*, by a clock that may have been set since.

        So it is at most the longest wait away, of the schedule or of those that a receiver may ask for.
        """
        most = max(self._schedule.delays, default=0.0)
        if status in NOT_NOW:
            most = max(most, RETRY_AFTER_MOST)
        return self._clocks.monotonic() + min(max(moment - self._clocks.wall(), 0.0), most)

    def _past(self, moment: float) -> float:
        """By the monotonic clock, the *moment* in the past since when a callback fails."""
        return self._clocks.monotonic() - max(self._clocks.wall() - moment, 0.0)

    # ── what people decide ───────────────────────────────────────────────────────────────────────────

    async def decided(self, row: asyncpg.Record) -> Lane | None:
        """A person settled notifications of a callback, or wants them tried again: the rows say so already.

        Returns the lane that was told, None where there is none.
        """
        asked = orjson.loads(row["data"])
        lane = self._lanes.get(asked["callback"])
        if lane is None:
            # What is being loaded may be older than this.
            self._loading.pop(asked["callback"], None)
            return None
        rows = await deliveries.some(self._pool, lane.id, asked["notifications"])
        # An attempt that was under way was not the person's to decide about; its row does not say what was asked.
        obeyed = "retrying" if asked["how"] == "retry" else asked["how"]
        now = self._clocks.monotonic()
        kept = {item.position for item in lane}
        for stored in rows:
            if stored["state"] == obeyed:
                lane.settle(stored["notification"], asked["how"], now)
        if asked["how"] == "retry":
            await self._bring_back(lane, sorted(p for p in asked["notifications"] if p not in kept))
        return lane

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
