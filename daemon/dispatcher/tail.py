"""The tail: gives the lanes what is new in the log, and what they missed while they had no room.

log ──look──► lanes with room
      └─────► a lane without is behind: it reads the log itself, by its instance, when it has room again
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter

import asyncpg

from daemon.dispatcher.desk import until_there
from daemon.dispatcher.lane import Lane
from daemon.dispatcher.lanes import Lanes
from daemon.errors import Outage
from daemon.notifications import Notification
from daemon.store import log
from daemon.store.database import Pool
from daemon.store.reader import Reader
from daemon.store.writer import Writer

NOTIFICATION_ROWS = 20
"""A notification has at most so many rows."""

LOOK_ROWS = 1000
"""Rows that one look at the log takes."""

LOOK_PAUSE = 0.025
"""Seconds between two looks at the log under load: one statement serves what came meanwhile.  Idle, none."""

LOOK_BACKSTOP = 1.0
"""Seconds after which the log is looked at though nobody said that there is something."""


class Tail:
    """Reads the log for all lanes; `run` and `catch_up` are its loops.

    *given* is told of each lane that was given something, *decided* of each `delivery.asked` entry.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        writer: Writer,
        reader: Reader,
        lanes: Lanes,
        given: Callable[[Lane], None],
        decided: Callable[[asyncpg.Record], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._writer = writer
        self._reader = reader
        self._lanes = lanes
        self._given = given
        self._decided = decided
        self._something = asyncio.Event()
        self._behind: dict[int, None] = {}
        self._behind_wanted = asyncio.Event()
        self.head = 0
        """The log is read up to here."""

    def wake(self) -> None:
        """Look at the log now."""
        self._something.set()

    async def begin(self) -> None:
        """Begin at the log's head: what is before it, the lanes read for themselves."""
        self.head = await log.head(self._pool)

    async def run(self) -> None:
        """Look whenever there is something, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_BACKSTOP):
                    await self._something.wait()
            except TimeoutError:
                pass  # the backstop: look anyhow
            quiet = not self._something.is_set()
            self._something.clear()
            await until_there(partial(self._look, quiet=quiet))
            await asyncio.sleep(LOOK_PAUSE)

    async def _look(self, *, quiet: bool = False) -> None:
        """Give the lanes what is new.  *quiet*: there is time to pass over what is not for them."""
        # Asked first: what is visible now is visible to the next question too, so a log that shows nothing
        # then has nothing for us up to here.
        head = await log.head(self._pool) if quiet else 0
        while True:
            rows = await log.changes_after(self._pool, self.head, LOOK_ROWS)
            whole = whole_notifications(rows, LOOK_ROWS)
            for row in whole:
                if row["kind"] == "delivery.asked":
                    await self._decided(row)
                elif row["kind"] != "change":
                    # Later notifications show the instance as it is from here on.
                    self._reader.forget(row["instance_id"])
            self._check_owner()
            if whole:
                # From the end of this wait to the next nothing else runs: a lane is given what is new, or
                # is behind, or reads up to a head that is beyond it.
                await self._feed([row for row in whole if row["kind"] == "change"])
                self.head = whole[-1]["position"]
            if len(rows) < LOOK_ROWS:
                self.head = max(self.head, head)
                return

    async def _feed(self, rows: Sequence[asyncpg.Record]) -> None:
        """Give each lane its part, as far as it has room; a lane without room will read by itself."""
        by_instance: dict[int, list[asyncpg.Record]] = {}
        for row in rows:
            by_instance.setdefault(row["instance_id"], []).append(row)
        wanted: list[asyncpg.Record] = []
        for instance_id, mine in by_instance.items():
            lanes = self._lanes.fed_by(instance_id)
            if any(not lane.behind and not lane.paused and lane.room for lane in lanes):
                wanted.extend(mine)
        made: dict[int, list[Notification]] = {}
        for notification in await self._reader.notifications(wanted) if wanted else ():
            made.setdefault(notification.instance.id, []).append(notification)
        # While these were made, lanes may have come, or have read for themselves.
        for instance_id, mine in by_instance.items():
            for lane in self._lanes.fed_by(instance_id):
                if not lane.behind and lane.read < mine[-1]["position"]:
                    self._give(lane, made.get(instance_id, []))

    def _give(self, lane: Lane, notifications: Sequence[Notification]) -> None:
        fresh = [n for n in notifications if n.position > lane.read]
        if fresh and not lane.paused and lane.room >= len(fresh):
            _offer(lane, fresh)
            self._given(lane)
        else:
            lane.behind = True
            self.want_more(lane)

    # ── lanes that are behind ────────────────────────────────────────────────────────────────────────

    def want_more(self, lane: Lane) -> None:
        """Read the log for *lane* when it is behind and has room."""
        idle = lane.behind and not lane.paused and not lane.reading
        if idle and lane.room > lane.rules.window // 2:
            self._behind[lane.id] = None
            self._behind_wanted.set()

    async def catch_up(self) -> None:
        """Read for lanes that are behind, one after the other, until cancelled."""
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
                await until_there(partial(self._read_more, lane))
                self._given(lane)

    async def _read_more(self, lane: Lane) -> None:
        head = self._end(lane)
        # One row more than the largest notification has: there is always a whole one among them.
        limit = max(lane.room, NOTIFICATION_ROWS) + 1
        rows = await log.changes_of_instance(
            self._pool, lane.instance_id, lane.read, limit, until=head
        )
        found = await self._reader.notifications(whole_notifications(rows, limit))
        self._check_owner()
        lane.reading = False
        fits = max(lane.room, 0)
        _offer(lane, found[:fits])
        if len(rows) < limit and (not found or lane.read >= found[-1].last):
            lane.read = max(lane.read, head)
            # What was tailed while this read ran was not given to a lane that is behind.
            lane.behind = self._end(lane) > head

    def _end(self, lane: Lane) -> int:
        """How far the lane may read now."""
        return self.head if lane.replay is None else lane.replay.until

    def _check_owner(self) -> None:
        """Raise `Outage` while the writer is away.

        Another process may own the database now.  What it was not told of when it began, nobody must send
        but itself; so what was read may go out only if this process had the ownership afterwards.
        """
        if not self._writer.connected:
            raise Outage("the writer has no connection")


def _offer(lane: Lane, notifications: Sequence[Notification]) -> None:
    if lane.replay is None:
        # What came while the instance had no address is nobody's, also for a lane that has not heard of that
        # yet; but it can be asked for.
        for instance, some in groupby(notifications, key=attrgetter("instance")):
            if instance.callback_url is None:
                lane.skip.update(notification.position for notification in some)
    lane.offer(notifications)


def whole_notifications(rows: Sequence[asyncpg.Record], limit: int) -> Sequence[asyncpg.Record]:
    """*rows* without a last notification that the *limit* of the query may have cut."""
    if len(rows) < limit or rows[-1]["notification"] is None:
        return rows
    cut = rows[-1]["notification"]
    end = len(rows)
    while end and rows[end - 1]["notification"] == cut:
        end -= 1
    return rows[:end]
