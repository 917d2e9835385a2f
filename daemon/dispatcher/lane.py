"""A lane: the deliveries of one callback, as a machine without I/O.

What happens is told to it (`offer`, `flushed`, `answered`), what to do is asked of it (`take`, `flush`), and
the time is passed in, so every interleaving can be played through by a test.  That time is of a clock that nobody
sets: seconds that only go on.  What is written has the times of day that the dispatcher makes of them.

    offer ─► fresh ──take──► in flight ─┬─ 2xx ──────► delivered
               │                        ├─ failed ───► retrying ─ due ─► reserving ─ durable ─► in flight
               │                        └─ no answer ► retrying, doubtful          (resend)
               │                                       in doubt ─ asked ─► delivered | retrying   (receipts)
               │                                       held ─ a person ─► delivered | retrying | dead   (hold)
               └─ behind an unsettled one about the same object ─► waiting

The invariants, each with its property test:

- Before a request leaves, its attempt is durable.  For a fresh notification that is the callback's reserved
  position, drawn ahead in one row for many; for a repeated one its own row, `in_flight`.
- At most `window` fresh notifications are out at once; so after a crash those that may have been sent are
  among the first `window` without a row between cursor and reserved.
- No more is reserved than will soon be sent, as far as the last flushes show: what is reserved and not sent is in
  doubt after a crash as well.
- Of two notifications about one object the later is never out while the earlier is unsettled.
- The cursor passes a notification only in the transaction that writes its row.
- A breaker that is open lets one attempt through at a time, and such a probe uses nothing up.
- What a person said of a notification stands, whatever an attempt under way comes to.
- What is unsettled about one object does not keep the others waiting: when it fills the window, it gets rows.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import islice

from daemon.backoff import Chance
from daemon.dispatcher.foresight import Foresight
from daemon.dispatcher.gate import Gate
from daemon.dispatcher.items import Doubt, Item, Object, Replay, Rules, State
from daemon.dispatcher.order import Order
from daemon.dispatcher.questions import Questions
from daemon.notifications import Notification
from daemon.store.deliveries import Outcome, Progress

OK = 200  # what is recorded of a notification that the receiver says it has


@dataclass(slots=True)
class Lane:
    """The deliveries of one callback."""

    id: int
    instance_id: int
    cursor: int
    reserved: int
    since: int = 0  # the entry that began the callback
    rules: Rules = field(default_factory=Rules)
    replay: Replay | None = None
    paused: bool = False
    behind: bool = False  # the log has more for it than it was given
    reading: bool = False  # somebody reads the log for it
    partial: bool = False  # there are more unsettled rows than it has in mind
    restored: int = 0  # of a partial one: it has all rows up to here
    read: int = 0  # the log is loaded up to here
    skip: set[int] = field(default_factory=set)  # above the cursor, with a row already
    gate: Gate = field(default_factory=Gate)
    in_flight: int = 0
    questions: Questions = field(default_factory=Questions)
    _items: dict[int, Item] = field(default_factory=dict)
    _later: dict[int, Item] = field(default_factory=dict)  # restored, and not read yet
    _fresh: dict[int, Item] = field(default_factory=dict)  # without a row, in order of position
    _order: Order = field(default_factory=Order)
    _ready: deque[Item] = field(default_factory=deque)
    _due: list[tuple[float, int]] = field(default_factory=list)
    _reserving: list[Item] = field(default_factory=list)
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _flushing: int = 0  # fresh ones whose row is being written
    _writing: int = 0  # flushes that are not committed yet
    _out: set[int] = field(default_factory=set)  # fresh ones in flight
    _foresight: Foresight = field(default_factory=Foresight)
    _narrowed: int = -1  # what a flush made `reserved` to be that left some out
    _left: int = 0  # of _fresh: delivered or dead, and gone from _items
    _may_park: bool = False  # something changed since it was seen that no fresh one is stuck
    finished: bool = False  # a replay's end is written

    def __post_init__(self) -> None:
        self.read = max(self.read, self.cursor)

    # ── what comes in ────────────────────────────────────────────────────────────────────────────────

    @property
    def room(self) -> int:
        """How many more fresh notifications it takes now."""
        if self._parked >= self.rules.parked or self.read >= self._reads_to:
            return 0
        return self._window_left

    @property
    def _reads_to(self) -> int:
        """How far it may read: of rows that it had to leave out, only the order among themselves is known."""
        return self.restored if self.partial else 2**62

    @property
    def _parked(self) -> int:
        """How many unsettled ones have a row, or get one with the flush that is under way."""
        return len(self._items) - (len(self._fresh) - self._left)

    @property
    def _window_left(self) -> int:
        return self.rules.window - len(self._fresh) - self._flushing

    @property
    def reloadable(self) -> bool:
        """Whether it had to leave unsettled rows out and may now be loaded again, with more of them."""
        if not self.partial or len(self._items) + len(self._later) >= self.rules.parked // 2:
            return False
        # Whatever is under way here would be read as it was before, or as an attempt that nobody makes any more.
        return not (
            self.in_flight
            or self._outcomes
            or self._writing
            or any(item.state in {State.RESERVING, State.ASKING} for item in self._items.values())
        )

    @property
    def idle(self) -> bool:
        """Whether nothing is unsettled and nothing waits to be written."""
        return not self._items and not self._outcomes and not self._writing

    def offer(self, notifications: Iterable[Notification]) -> None:
        """Take in notifications from the log, in order and without a gap; those read before are passed over.

        While rows were left out it takes those up to the last row that it has; `read` says how far it came.
        """
        reads_to, later, skip = self._reads_to, self._later, self.skip
        for notification in notifications:
            position = notification.position
            if position <= self.read:
                continue
            if position > reads_to:
                break
            self.read = notification.last
            if self.replay is not None and not self.replay.selects(notification):
                continue
            if later and (item := later.pop(position, None)) is not None:
                skip.discard(position)
                self._readmit(item)
                continue
            if position in skip:
                skip.discard(position)
                continue
            item = Item(position, notification.objects, notification)
            self._enter(item)
            self._fresh[position] = item
            if item.blockers:
                self._may_park = True
            else:
                self._ready.append(item)

    def restore(
        self,
        position: int,
        objects: tuple[Object, ...],
        state: State,
        attempts: int,
        due: float,
        *,
        doubtful: bool,
    ) -> None:
        """Take in a notification that has a row, as the database has it; in order, before any `offer`.

        Above what is read it takes its place when the log is read that far: others between, about the same
        objects, may have no row yet, and they come first.
        """
        item = Item(position, objects, None, state, attempts, due, doubtful=doubtful, parked=True)
        if position > self._reads_to:
            return  # it comes when the lane is loaded again
        if position > self.read:
            self._later[position] = item
        else:
            self._readmit(item)

    @property
    def space(self) -> int:
        """How many more with a row it keeps in mind."""
        return max(self.rules.parked - len(self._items) - len(self._later), 0)

    def leave_out(self, position: int) -> None:
        """From *position* on there are rows that it has no space for: it is loaded again when it has."""
        self.restored = min(position - 1, self._reads_to, self.read)
        self.partial = True

    def _readmit(self, item: Item) -> None:
        self._enter(item)
        if item.state is State.WAITING and not item.blockers:
            item.state = State.RETRYING  # what it waited for was settled just before the end
        if item.state in {State.RETRYING, State.IN_DOUBT}:
            self._retry_at(item, item.due)

    def follow(self, before: "Lane") -> None:
        """Go on as *before*, the lane that it replaces: as quiet, with the breaker as it was."""
        self.gate.follow(before.gate)
        self.questions.follow(before.questions)

    def _enter(self, item: Item) -> None:
        self._items[item.position] = item
        self._order.enter(item)

    # ── what goes out ────────────────────────────────────────────────────────────────────────────────

    @property
    def ready(self) -> bool:
        """Whether `take` may have something, as far as that does not depend on the time."""
        return bool(self._ready) and not self.paused and self.in_flight < self.rules.concurrency

    def take(self, now: float) -> Item | None:
        """The next notification to send, which counts as in flight from here; None when there is none now.

        Its attempt is durable.  The caller sends it and calls `answered`.
        """
        if self.paused or not self.gate.admits(now, self.in_flight, self.rules):
            return None
        self.gate.not_before = 0.0  # the quiet is over
        ready = self._ready
        while ready:
            item = ready[0]
            state = item.state
            if item.blockers or (state is not State.FRESH and state is not State.RESERVING):
                ready.popleft()
                continue
            if not item.parked:
                if item.position > self.reserved:
                    return None  # a reservation is needed first; see `wants_flush`
                self._out.add(item.position)
            ready.popleft()
            item.state = State.IN_FLIGHT
            item.probe = self.gate.is_open(self.rules)
            self.in_flight += 1
            self._foresight.taken()
            self.gate.passed(now, self.rules)
            return item
        return None

    def wake_due(self, now: float) -> None:
        """Move retries whose time has come on: their attempt is written with the next flush."""
        if not self._due or self.paused or now < self.gate.not_before:
            return
        probing = self.gate.is_open(self.rules)
        if probing and now < self.gate.probe_at:
            return
        while self._due and self._due[0][0] <= now:
            if probing and (self._reserving or self._ready or self.in_flight):
                return
            due, position = heappop(self._due)
            item = self._items.get(position)
            if item is None or item.due != due or item.blockers:
                continue
            if item.state is State.IN_DOUBT:
                self.questions.add(item)
            elif item.state is State.RETRYING:
                self._reserve(item)

    def take_doubts(self, now: float, most: int = 100) -> list[Item]:
        """Those whose fate is to be asked for now; the caller asks, calls `asked`, then `answered` for each."""
        return self.questions.take(now, most)

    def _reserve(self, item: Item) -> None:
        item.state = State.RESERVING
        self._reserving.append(item)
        self._outcomes[item.position] = Outcome(
            self.id,
            item.position,
            "in_flight",
            item.attempts,
            None,
            None,
            None,
            None,
            item.doubtful,
        )

    def next_time(self) -> float | None:
        """When `wake_due` or `take` has something that it has not now; None when only an event changes that."""
        gate, probing = self.gate, self.gate.is_open(self.rules)
        if self.paused or self.in_flight >= (1 if probing else self.rules.concurrency):
            return None
        times = [self._due[0][0]] if self._due else []
        if (ask_at := self.questions.next_time()) is not None:
            times.append(ask_at)
        pace = max(gate.not_before, gate.next_at)
        if self._ready and pace:
            times.append(pace)
        if not times and not self._ready:
            return None
        floor = gate.not_before
        if probing:
            floor = max(floor, gate.probe_at)
            times.append(floor)
        return max(min(times), floor) if times else None

    # ── what came back ───────────────────────────────────────────────────────────────────────────────

    def delivered(self, item: Item, now: float, status: int) -> None:
        """The receiver accepted *item*."""
        self.in_flight -= 1
        self._out.discard(item.position)
        was_open = self.gate.is_open(self.rules)
        item.overruled = False  # it was accepted, and nobody can have known better
        self.gate.accepted()
        self._record(item, "delivered", now, attempts=item.attempts + 1, status=status)
        self._leave(item)
        if was_open:
            # Nobody should wait out a delay that an outage of the whole callback made.
            for other in self._items.values():
                if other.state is State.RETRYING and other.due > now:
                    self._retry_at(other, now)

    def failed(
        self,
        item: Item,
        now: float,
        *,
        error: str,
        status: int | None = None,
        delay: float | None,
        doubtful: bool = False,
        quiet: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        """The receiver did not accept *item*.

        *delay* is until the next attempt, None when the schedule has ended; *doubtful* when it may have been
        accepted all the same; *quiet* seconds the receiver wants to be left alone; *jitter* in -1..1.
        """
        self.in_flight -= 1
        self._out.discard(item.position)
        self.gate.failed(now, self.rules, probe=item.probe, quiet=quiet, jitter=jitter)
        if item.overruled:
            self._settled(item)
            return
        item.doubtful = item.doubtful or doubtful
        attempts = item.attempts
        if not item.probe:
            attempts += 1
        elif delay is None:
            delay = 0.0
        if doubtful and self.rules.doubt is not Doubt.RESEND:
            self._doubt(item, now, attempts=attempts, error=error)
            return
        if delay is None:
            self._record(item, "dead", now, attempts=attempts, status=status, error=error)
            self._leave(item)
            return
        item.attempts = attempts
        item.state = State.RETRYING
        item.notification = None  # a row and the log keep it; memory does not
        self._retry_at(item, now + max(delay, quiet))
        self._may_park = True
        self._record(
            item, "retrying", now, attempts=attempts, due=item.due, status=status, error=error
        )

    def _doubt(self, item: Item, now: float, *, attempts: int, error: str) -> None:
        """*item* may have been accepted, and this callback does not want it again unless it was not."""
        item.attempts = attempts
        item.notification = None
        ask = self.rules.doubt is Doubt.ASK
        item.state = State.IN_DOUBT if ask else State.HELD
        self._record(item, "in_doubt" if ask else "held", now, attempts=attempts, error=error)
        if ask:
            self._retry_at(item, now + self.rules.ask_after)

    def asked(self, now: float, *, heard: bool, chance: Chance, quiet: float = 0.0) -> None:
        """A question has ended: *heard* when there was an answer to it.

        *quiet*: seconds for which the receiver wants not to be asked.
        """
        if self.questions.ended(now, self.rules, heard=heard, chance=chance, quiet=quiet):
            # Nobody should wait out a delay that the receiver's silence made.
            for other in self._items.values():
                if other.state is State.IN_DOUBT and other.due > now + self.rules.ask_after:
                    self._retry_at(other, now)

    def answered(self, item: Item, now: float, *, received: bool | None) -> None:
        """The receiver said whether it has *item*; None when it could not say, or did not answer."""
        if item.state is not State.ASKING:
            return  # a person was faster
        if received is None:
            item.state = State.IN_DOUBT
            self._retry_at(item, self.questions.again(item, now, self.rules))
        elif received:
            self._record(item, "delivered", now, attempts=item.attempts, status=OK)
            self._leave(item)
        else:
            self._again(item, now)

    def hold(self, item: Item, now: float) -> None:
        """Nobody is asked about *item* any more, and it is not to be sent again by itself: it waits for a person."""
        if item.state is State.ASKING:
            item.state = State.HELD
            error = "in doubt, and nobody is asked any more"
            self._record(item, "held", now, attempts=item.attempts, error=error)

    def settle(self, position: int, how: str, now: float) -> None:
        """A person decided: `retry`, `delivered` or `dead`.  The log says so already; nothing is recorded."""
        if how != "retry":
            self._later.pop(position, None)
        item = self._items.get(position)
        if item is None or item.state is State.FRESH:
            return
        if item.state is State.IN_FLIGHT:
            # Its request is out; what comes of it is not written over what the person said.
            item.overruled = how != "retry"
        elif how == "retry":
            item.attempts = 0
            self._again(item, now)
        else:
            self._settled(item)

    def _settled(self, item: Item) -> None:
        item.state = State.SETTLED
        self._outcomes.pop(item.position, None)
        if not item.blockers:
            self._leave(item)

    def _again(self, item: Item, now: float) -> None:
        item.state = State.RETRYING
        self._retry_at(item, now)
        self._record(
            item, "retrying", now, attempts=item.attempts, due=now, error="to be sent again"
        )

    def retry_now(self, now: float) -> None:
        """Bring every retry forward: the callback was enabled, or a person said so."""
        self.gate.forgive()
        for item in self._items.values():
            if item.state is State.RETRYING:
                self._retry_at(item, now)

    def _retry_at(self, item: Item, due: float) -> None:
        item.due = due
        heappush(self._due, (due, item.position))
        if len(self._due) > 2 * len(self._items) + 64:
            # Times that were brought forward leave their old entries behind.
            self._due = [
                (i.due, i.position)
                for i in self._items.values()
                if i.state in {State.RETRYING, State.IN_DOUBT} and not i.blockers
            ]
            heapify(self._due)

    def _record(
        self,
        item: Item,
        state: str,
        now: float,
        *,
        attempts: int,
        due: float | None = None,
        status: int | None = None,
        error: str | None = None,
    ) -> None:
        self._outcomes[item.position] = Outcome(
            self.id,
            item.position,
            state,
            attempts,
            None if due is None else int(due * 1000),
            int(now * 1000),
            status,
            error,
            item.doubtful,
        )

    def _leave(self, item: Item) -> None:
        """*item* is settled: the next about each of its objects may go."""
        del self._items[item.position]
        self._left += item.position in self._fresh
        for follower in self._order.leave(item):
            self._free(follower)

    def _free(self, item: Item) -> None:
        if item.state is State.FRESH:
            self._ready.append(item)
        elif item.state is State.WAITING:
            self._reserve(item)
        elif item.state in {State.RETRYING, State.IN_DOUBT}:
            self._retry_at(item, item.due)
        elif item.state is State.SETTLED:
            self._leave(item)  # a person settled it while it stood behind another

    # ── what must be durable ─────────────────────────────────────────────────────────────────────────

    @property
    def wants_flush(self) -> bool:
        """Whether something cannot go on before a flush: a reservation, or a window full of settled ones."""
        if self.paused:
            return bool(self._outcomes)
        if self._reserving or (self.ended and not self.finished):
            return True
        if self._ready and self._ready[0].position > self.reserved and not self._ready[0].parked:
            return True
        # There is room, or enough to go on with while others' outcomes come together.
        if self._window_left > self.rules.window // 2 or len(self._ready) > self.rules.window // 4:
            return False
        return bool(self._outcomes) or self._parkable()

    @property
    def ended(self) -> bool:
        """Whether a replay has nothing left to do."""
        return self.replay is not None and self.read >= self.replay.until and not self._items

    @property
    def has_outcomes(self) -> bool:
        """Whether outcomes wait to be written."""
        return bool(self._outcomes)

    def flush(self, head: int, now: float) -> tuple[Progress, list[Outcome], "Flushed"]:
        """What to write now, in one transaction, given the log's *head*; then call `flushed`."""
        if self._parked:
            self._park_blocked()
        outcomes = list(self._outcomes.values())
        settled = 0
        for outcome in outcomes:
            item = self._fresh.pop(outcome.notification, None)
            if item is not None:
                settled += 1
                item.parked = True
        self._outcomes.clear()
        self._left = 0  # whatever left had an outcome
        self._flushing += settled
        self._writing += 1
        self.cursor = next(iter(self._fresh)) - 1 if self._fresh else self.read
        reserved = self._reservation(head, now)
        reserving, self._reserving = self._reserving, []
        self.finished = self.ended
        progress = Progress(
            self.id,
            self.cursor,
            max(reserved, self.cursor),
            finished=self.finished,
            failing=self._failing_ms,
        )
        return progress, outcomes, Flushed(progress.reserved, settled, reserving)

    def _reservation(self, head: int, now: float) -> int:
        """Up to where attempts may be made after this flush.

        Where more are ready than will soon go, only those that will; where fewer are, what the log has and what
        comes next, so that it goes at once.
        """
        soon = self._foresight.flush(now, self.rules)
        if not self._fresh:
            return self.reserved
        if len(self._ready) <= soon:
            reserved = max(self.reserved, next(reversed(self._fresh)))
            return max(reserved, head + self.rules.ahead) if self._low(head) else reserved
        wanted = [item.position for item in islice(self._ready, soon) if not item.parked]
        reserved = max([self.cursor, *self._out, *wanted])
        if self._writing > 1:
            return max(reserved, self.reserved)  # a flush that is not committed may say more
        self.reserved = min(self.reserved, reserved)  # nothing beyond goes from here on
        self._narrowed = reserved
        return reserved

    @property
    def idly_reserved(self) -> bool:
        """Whether more is reserved than goes, perhaps: all of it would be in doubt after a crash."""
        many = 2 * self.rules.concurrency
        if self.reserved == self._narrowed or len(self._ready) <= many:
            return False
        return not self._ready[many].parked and self._ready[many].position <= self.reserved

    def flushed(self, done: "Flushed") -> None:
        """What `flush` gave is committed."""
        self.reserved = max(self.reserved, done.reserved)
        self._flushing -= done.settled
        self._writing -= 1
        self._ready.extend(done.reserving)

    def withdraw(self) -> None:
        """Before the end: attempts that are written down or about to be, and were not made, are not made."""
        self._reserving.clear()
        for item in self._items.values():
            if item.state is State.RESERVING:
                item.state = State.RETRYING
                self._outcomes[item.position] = Outcome(
                    self.id,
                    item.position,
                    "retrying",
                    item.attempts,
                    int(item.due * 1000),
                    None,
                    None,
                    None,
                    item.doubtful,
                )

    def release(self) -> Progress:
        """The progress that gives up what was reserved and not used: nothing of this lane is in flight."""
        self.reserved = self.cursor
        return Progress(self.id, self.cursor, self.cursor, finished=False, failing=self._failing_ms)

    @property
    def _failing_ms(self) -> int | None:
        return None if self.gate.failing is None else int(self.gate.failing * 1000)

    def _low(self, head: int) -> bool:
        return self.rules.ahead > 0 and self.reserved < head + self.rules.ahead // 2

    def _parkable(self) -> bool:
        """Whether a flush would give rows to fresh ones."""
        self._may_park = self._may_park and any(map(self._stuck, self._fresh.values()))
        return self._may_park

    def _stuck(self, item: Item) -> bool:
        """Whether a fresh one is behind one that has a row or gets one with the next flush."""
        if item.state is not State.FRESH or not item.blockers:
            return False
        return any(
            first.parked or first.state in {State.RETRYING, State.WAITING}
            for first in self._order.firsts(item)
        )

    def _park_blocked(self) -> None:
        """Fresh ones that are stuck get a row, so that the cursor can pass them."""
        self._may_park = False
        for item in self._fresh.values():
            if self._stuck(item):
                item.state = State.WAITING
                item.notification = None
                self._outcomes[item.position] = Outcome(
                    self.id,
                    item.position,
                    "waiting",
                    item.attempts,
                    None,
                    None,
                    None,
                    None,
                    item.doubtful,
                )

    def __iter__(self) -> Iterator[Item]:
        """All unsettled notifications."""
        return iter(self._items.values())


@dataclass(frozen=True, slots=True)
class Flushed:
    """What a flush makes true once it is committed."""

    reserved: int
    settled: int
    reserving: list[Item]
