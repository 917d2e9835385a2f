"""The lane: its invariants under every interleaving, crashes included."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemon.dispatcher.gate import Gate
from daemon.dispatcher.items import Item, Rules, State
from daemon.dispatcher.lane import Flushed, Lane
from daemon.model import Instance
from daemon.notifications import Notification, StoredChange
from daemon.store.deliveries import Outcome, Progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)

INSTANCE = Instance(1, 2, 2, "rest", "general", "n", (), {}, b"", False, NOW, NOW, 1)  # noqa: FBT003 — positional for brevity

RULES = Rules(
    window=8, ahead=8, parked=6, concurrency=3, breaker=3, probe_first=1.0, probe_most=4.0
)

STATES = {"retrying": State.RETRYING, "waiting": State.WAITING, "in_flight": State.HELD}


def notification(position: int, *objects: str) -> Notification:
    """One about *objects*, from *position* on."""
    changes = [
        StoredChange(position + n, "c", each, "UPDATED", None, "{}")
        for n, each in enumerate(objects)
    ]
    return Notification(position, str(position), NOW, INSTANCE, tuple(changes), NOW, None)


def a_lane(rules: Rules = RULES, **chosen: Any) -> Lane:
    """A lane that has read nothing."""
    return Lane(id=1, instance_id=1, cursor=0, reserved=0, rules=rules, **chosen)


@dataclass(slots=True)
class Durable:
    """What a crash leaves: the log, and the callback and its rows as the projection has them."""

    log: dict[int, Notification] = field(default_factory=dict)
    head: int = 0
    cursor: int = 0
    reserved: int = 0
    rows: dict[int, Outcome] = field(default_factory=dict)
    decided: set[int] = field(default_factory=set)  # a person settled it

    def decide(self, position: int, how: str) -> None:
        """As a person's `delivery.asked` is folded."""
        row = self.rows[position]
        self.rows[position] = row._replace(state=how, due=None)
        self.decided.add(position)

    def commit(self, progress: Progress, outcomes: list[Outcome]) -> None:
        """As the fold does it, with the guards of the schema."""
        assert progress.cursor >= self.cursor, "a cursor never falls back"
        for outcome in outcomes:
            before = self.rows.get(outcome.notification)
            if outcome.notification in self.decided and before is not None:
                if (before.state, outcome.state) == ("dead", "delivered"):
                    self.rows[outcome.notification] = outcome
                continue
            assert before is None or before.state != "delivered", "a delivered one is final"
            assert (outcome.state == "retrying") == (outcome.due is not None)
            self.rows[outcome.notification] = outcome
        self.cursor, self.reserved = progress.cursor, progress.reserved
        for position in self.log:
            assert position > self.cursor or position in self.rows, "passed without a row"

    def unanswered(self, window: int) -> list[int]:
        """As the statement UNANSWERED says it."""
        upto = min(self.reserved, self.head)
        return [
            position
            for position in sorted(self.log)
            if self.cursor < position <= upto and position not in self.rows
        ][:window]

    def in_flight(self) -> list[int]:
        """As the statement IN_FLIGHT says it."""
        return [position for position, row in self.rows.items() if row.state == "in_flight"]

    def settled(self, position: int) -> bool:
        """Whether its outcome is written."""
        return position in self.rows and self.rows[position].state in {"delivered", "dead"}


class Machine(RuleBasedStateMachine):
    """Plays the dispatcher: offers, sends, answers, flushes, crashes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.stored = Durable()
        self.lane = a_lane()
        self.out: list[Item] = []
        self.flushes: list[tuple[Progress, list[Outcome], Flushed]] = []
        self.accepted: set[int] = set()  # the receiver has it, whether or not we know
        self.open: set[int] = set()  # sent, and its outcome is not written
        self.done: set[int] = set()  # this process knows that it is delivered or dead
        self.quiet_until = 0.0
        self.attempts: dict[int, int] = {}
        self.unheard: list[tuple[int, str]] = []  # said by a person, and the lane does not know

    # ── the outside ──────────────────────────────────────────────────────────────────────────────────

    @rule(
        many=st.lists(
            st.lists(st.sampled_from("ABCDEF"), min_size=1, max_size=2), min_size=1, max_size=6
        ),
        gap=st.integers(1, 3),
    )
    def append(self, many: list[list[str]], gap: int) -> None:
        """The log gets notifications, and entries that are not for this lane."""
        for objects in many:
            made = notification(self.stored.head + gap, *objects)
            self.stored.log[made.position] = made
            self.stored.head = made.last

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 40.0]))
    def time(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds

    @rule()
    def reserve(self) -> None:
        """What is read gets its reservation, and goes."""
        self.read()
        self.flush()
        while self.flushes:
            self.commit()
        self.send()

    @rule()
    def read(self) -> None:
        """The log is read for the lane, as far as it has room."""
        following = [n for p, n in sorted(self.stored.log.items()) if p > self.lane.read]
        self.lane.offer(following[: max(self.lane.room, 0)])

    @rule()
    def send(self) -> None:
        """All that may go goes."""
        self.lane.wake_due(self.now)
        while (item := self.lane.take(self.now)) is not None:
            self._check(item)
            self.out.append(item)
            self.open.add(item.position)

    def _check(self, item: Item) -> None:
        position, stored = item.position, self.stored
        row = stored.rows.get(position)
        durable = position <= stored.reserved if row is None else row.state == "in_flight"
        durable = durable or any(position == told for told, _ in self.unheard)
        assert durable, "sent without a durable attempt"
        assert position not in self.done
        assert item.doubtful or position not in self.accepted, "sent again without a mark"
        for other in stored.log.values():
            if other.position < position and set(other.objects) & set(item.objects):
                assert other.position in self.done, "overtook an earlier one about its object"
        assert not self.lane.paused
        assert self.now >= self.quiet_until, "disturbed a receiver that asked for quiet"
        assert len(self.out) < RULES.concurrency
        assert self.lane.gate.failures < RULES.breaker or not self.out, "two probes at once"
        fresh = [p for p in {*self.open, position} if p not in stored.rows]
        assert len(fresh) <= RULES.window, "more out than a window"

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 9), number=st.integers(1, 3))
    def accept(self, which: int, number: int) -> None:
        """The receiver answers 200, to one or more."""
        for _ in range(min(number, len(self.out))):
            item = self.out.pop(which % len(self.out))
            self.accepted.add(item.position)
            self.done.add(item.position)
            self.lane.delivered(item, self.now, 200)

    @precondition(lambda self: self.out)
    @rule(
        which=st.integers(0, 9),
        how=st.sampled_from(["refused", "refused", "lost", "acted", "quiet", "last"]),
        jitter=st.sampled_from([-1.0, 0.0, 1.0]),
    )
    def fail(self, which: int, how: str, jitter: float) -> None:
        """The receiver refuses, gives no answer whether or not it acted, asks for quiet; or the schedule ends."""
        item = self.out.pop(which % len(self.out))
        if how == "acted":
            self.accepted.add(item.position)
        quiet = 7.0 if how == "quiet" else 0.0
        if quiet:
            self.quiet_until = max(self.quiet_until, self.now + quiet)
        probe = item.probe
        expected = self.attempts.get(item.position, 0) + (not probe)
        overruled = item.overruled
        self.lane.failed(
            item,
            self.now,
            error=how,
            delay=None if how == "last" else 2.0,
            doubtful=how in {"lost", "acted"},
            quiet=quiet,
            jitter=jitter,
        )
        if overruled:
            return
        if how == "last" and not probe:
            self.done.add(item.position)
        else:
            assert item.attempts == expected, "a probe uses nothing up"
            self.attempts[item.position] = expected

    # ── a person ─────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: any(r.state == "retrying" for r in self.stored.rows.values()))
    @rule(which=st.integers(0, 9), how=st.sampled_from(["delivered", "dead"]))
    def decide(self, which: int, how: str) -> None:
        """A person settles one whose row is open, whatever the lane is at."""
        there = sorted(p for p, row in self.stored.rows.items() if row.state == "retrying")
        position = there[which % len(there)]
        self.stored.decide(position, how)
        self.unheard.append((position, how))

    @precondition(lambda self: self.unheard)
    @rule()
    def hear(self) -> None:
        """The lane hears of it, if it came about."""
        for position, how in self.unheard:
            if self.stored.rows[position].state == how:
                self.lane.settle(position, how, self.now)
            if position not in self._positions_out():
                self.open.discard(position)
            self.done.add(position)
        self.unheard.clear()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.flushes) < 2)
    @rule()
    def flush(self) -> None:
        """What is to be written is handed over."""
        if self.lane.has_outcomes or self.lane.wants_flush or self.lane.idly_reserved:
            self.flushes.append(self.lane.flush(self.stored.head, self.now))

    @precondition(lambda self: self.flushes)
    @rule()
    def commit(self) -> None:
        """The oldest flush is committed, and the lane told."""
        progress, outcomes, done = self.flushes.pop(0)
        self._commit(progress, outcomes)
        self.lane.flushed(done)

    def _commit(self, progress: Progress, outcomes: list[Outcome]) -> None:
        self.stored.commit(progress, outcomes)
        for outcome in outcomes:
            if outcome.state != "in_flight" and outcome.notification not in self._positions_out():
                self.open.discard(outcome.notification)

    def _positions_out(self) -> set[int]:
        return {item.position for item in self.out}

    # ── ends and beginnings ──────────────────────────────────────────────────────────────────────────

    @rule(paused=st.booleans())
    def pause(self, *, paused: bool) -> None:
        """The callback is disabled, or enabled again."""
        if self.lane.paused and not paused:
            self.lane.retry_now(self.now)
            self.quiet_until = 0.0
        self.lane.paused = paused

    @rule(committed=st.integers(0, 2), acted=st.booleans())
    def crash(self, committed: int, *, acted: bool) -> None:
        """The process dies; of the flushes under way some were committed, of the requests out all or none acted on."""
        for progress, outcomes, _ in self.flushes[:committed]:
            self._commit(progress, outcomes)
        if acted:
            self.accepted |= self._positions_out()
        self.flushes, self.out = [], []
        self._begin()

    def _begin(self) -> None:
        """What the dispatcher does first: settle doubts, then load."""
        stored = self.stored
        fresh, again = stored.unanswered(RULES.window), stored.in_flight()
        doubtful = [*fresh, *again]
        assert self.open - stored.decided <= set(doubtful), (
            "may have been sent, and is not in doubt"
        )
        assert len(fresh) <= RULES.window
        now = int(self.now * 1000)
        outcomes = [
            Outcome(
                1,
                p,
                "retrying",
                stored.rows[p].attempts if p in again else 0,
                now,
                now,
                None,
                "in doubt",
                doubtful=True,
            )
            for p in doubtful
        ]
        stored.commit(
            Progress(1, stored.cursor, stored.cursor, finished=False, failing=None), outcomes
        )
        self.open.clear()
        self.quiet_until = 0.0
        self.unheard.clear()
        self.done = {p for p in stored.log if stored.settled(p)}
        self.attempts = {p: row.attempts for p, row in stored.rows.items()}
        self.lane = self._loaded(paused=self.lane.paused)

    def _loaded(self, *, paused: bool) -> Lane:
        stored = self.stored
        self.done |= {p for p in stored.log if stored.settled(p)}
        lane = Lane(1, 1, stored.cursor, stored.reserved, rules=RULES, paused=paused)
        lane.skip = {p for p in stored.rows if p > stored.cursor}
        waiting = sorted(p for p in stored.rows if not stored.settled(p))[: RULES.parked]
        if len(waiting) == RULES.parked:
            lane.partial, lane.restored = True, waiting[-1]
        for position in waiting:
            row = stored.rows[position]
            due = 0.0 if row.due is None else row.due / 1000
            objects = stored.log[position].objects
            lane.restore(
                position, objects, STATES[row.state], row.attempts, due, doubtful=row.doubtful
            )
        return lane

    @precondition(lambda self: self.lane.reloadable)
    @rule()
    def reload(self) -> None:
        """There is room for rows that it had to leave out."""
        assert not self.flushes
        assert not self.out
        before, self.lane = self.lane, self._loaded(paused=self.lane.paused)
        self.lane.follow(before)

    @rule()
    def stop(self) -> None:
        """A clean stop: what is out ends, what is known is written, and nothing is in doubt at the next start."""
        was = self.lane.paused
        self.lane.paused = True
        while self.out:
            self.accept(0, 1)
        while self.flushes:
            self.commit()
        self.lane.withdraw()
        self.flush()
        while self.flushes:
            self.commit()
        progress = self.lane.release()
        self.stored.commit(progress, [])
        assert not self.open - self.stored.decided
        assert self.stored.unanswered(RULES.window) == []
        assert self.stored.in_flight() == []
        self.lane.paused = was
        self._begin()

    # ── always ───────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def memory_is_bounded(self) -> None:
        """However long it goes on, the lane holds a bounded number of things."""
        lane = self.lane
        assert len(lane._fresh) + lane._flushing <= RULES.window
        assert len(lane._items) <= RULES.parked + 2 * RULES.window
        assert len(lane._due) <= 2 * len(lane._items) + 65
        held = [item for item in lane if item.notification is not None]
        assert len(held) <= RULES.window + RULES.concurrency

    @invariant()
    def who_waits_is_woken(self) -> None:
        """While something could go and only time is missing, the lane says until when."""
        lane = self.lane
        moment = lane.next_time()
        due = [item for item in lane if item.state is State.RETRYING and not item.blockers]
        if due and not lane.paused and not self.out:
            assert moment is not None
            assert moment <= max(
                min(item.due for item in due), lane.gate.not_before, lane.gate.probe_at
            )

    def teardown(self) -> None:
        """Left alone with a receiver that works, everything is settled: nothing was lost."""
        self.hear()
        self.lane.paused = False
        self.lane.retry_now(self.now)
        self.quiet_until = 0.0
        for _ in range(400):
            if self.lane.reloadable and not self.flushes:
                self.reload()
            self.read()
            self.send()
            while self.out:
                self.accept(0, 1)
            self.flush()
            while self.flushes:
                self.commit()
            if all(self.stored.settled(p) for p in self.stored.log):
                return
            self.now += 1.0
        pytest.fail(f"stuck: {self.lane}")


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)

TestMachine = Machine.TestCase
TestMachine.__doc__ = (
    """Whatever happens in whatever order, the invariants in the lane's docstring hold."""
)


def reserve(lane: Lane, head: int = 0) -> list[Outcome]:
    """Flush and commit."""
    _, outcomes, done = lane.flush(head, 0.0)
    lane.flushed(done)
    return outcomes


def test_one_object_that_fails_does_not_fill_the_window() -> None:
    """Behind one that is retried for hours, far more than a window about the same object make way for the others."""
    lane = a_lane(Rules(window=8, parked=1000, concurrency=2, ahead=10))
    lane.offer([notification(1, "dead")])
    reserve(lane, 1)
    item = lane.take(0.0)
    assert item is not None
    lane.failed(item, 0.0, error="no", delay=3600.0)
    sent = 0
    for position in range(2, 200):
        assert lane.room > 0, "the lane is full of what waits"
        lane.offer([notification(position, "dead" if position % 10 else f"good {position}")])
        if lane.wants_flush:
            reserve(lane, position)
        while (item := lane.take(1.0)) is not None:
            sent += 1
            lane.delivered(item, 1.0, 200)
    assert sent == 19


def test_a_flush_is_wanted_only_while_it_helps() -> None:
    """A window that is full of what waits for an attempt under way asks for no flush, again and again."""
    lane = a_lane(Rules(window=4, ahead=100))
    lane.offer([notification(1, "A")])
    reserve(lane, 1)
    assert lane.take(0.0) is not None
    lane.offer([notification(n, "A") for n in range(2, 5)])
    assert lane.room == 0
    assert not lane.wants_flush
    assert not lane.has_outcomes


def test_quiet_is_kept_though_another_attempt_succeeds() -> None:
    """When one of two attempts is answered with Retry-After and the other accepted after it, the lane keeps quiet."""
    lane = a_lane()
    lane.offer([notification(1, "A"), notification(2, "B"), notification(3, "C")])
    reserve(lane, 3)
    first, second, third = (lane.take(0.0) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    lane.failed(first, 0.0, error="429", delay=1.0, quiet=60.0)
    lane.delivered(second, 0.0, 200)
    lane.delivered(third, 0.0, 200)
    lane.offer([notification(4, "D")])
    reserve(lane, 4)
    assert lane.take(59.0) is None
    assert lane.next_time() == 60.0
    assert lane.take(60.0) is not None


def test_probes_come_one_by_one_and_rarer() -> None:
    """An open breaker lets one through after 1, 2, 4, then every 4 seconds, and closes with the first that is accepted."""
    lane = a_lane(Rules(window=50, breaker=3, probe_most=4.0, concurrency=5))
    lane.offer([notification(n, f"{n}") for n in range(1, 30)])
    reserve(lane, 30)
    for _ in range(3):
        item = lane.take(0.0)
        assert item is not None
        lane.failed(item, 0.0, error="no", delay=1000.0)
    now, pauses = 0.0, []
    for _ in range(5):
        moment = lane.next_time()
        assert moment is not None
        assert lane.take(moment - 0.01) is None
        if lane.wants_flush:
            reserve(lane, 30)
        item = lane.take(moment)
        assert item is not None
        assert lane.take(moment) is None
        assert lane.next_time() is None, "nothing to do before the answer"
        pauses.append(moment - now)
        now = moment
        lane.failed(item, now, error="no", delay=1000.0)
        assert item.attempts == 0
    assert pauses == [1, 2, 4, 4, 4]
    moment = lane.next_time()
    assert moment is not None
    item = lane.take(moment)
    assert item is not None
    lane.delivered(item, moment, 200)
    reserve(lane, 30)
    assert [lane.take(moment) is not None for _ in range(6)] == [True] * 5 + [False]


def test_failing_since_outlives_a_restart() -> None:
    """A clean stop keeps since when nothing was accepted, so that a callback is disabled in the end."""
    lane = a_lane(gate=Gate(failing=1234.5))
    assert lane.release().failing == 1_234_500


def test_a_lane_that_replaces_another_is_as_patient() -> None:
    """A lane that is loaded again keeps the breaker, the quiet that was asked for and since when it fails."""
    before = a_lane(gate=Gate(failing=5.0, failures=9, probe_at=77.0, not_before=99.0))
    after = a_lane()
    after.follow(before)
    after.offer([notification(1, "A")])
    reserve(after, 1)
    assert after.take(98.0) is None
    assert after.take(99.0) is not None
    assert after.gate.failing == 5.0


def test_what_was_read_is_passed_over() -> None:
    """A notification that is offered twice is sent once."""
    lane = a_lane()
    lane.offer([notification(1, "A")])
    lane.offer([notification(1, "A"), notification(2, "B")])
    reserve(lane, 2)
    taken = [item.position for _ in range(3) if (item := lane.take(0.0)) is not None]
    assert taken == [1, 2]


def test_times_that_were_brought_forward_leave_no_heap() -> None:
    """However often retries are brought forward, the lane keeps a bounded number of times, and every retry comes."""
    lane = a_lane(Rules(window=20))
    lane.offer([notification(n, f"{n}") for n in range(1, 9)])
    reserve(lane, 8)
    while (item := lane.take(0.0)) is not None:
        lane.failed(item, 0.0, error="no", delay=1e6)
    for now in range(1, 200):
        lane.retry_now(float(now))
        assert len(lane._due) <= 2 * 8 + 65
    lane.wake_due(200.0)
    reserve(lane, 8)
    taken = [item.position for _ in range(9) if (item := lane.take(200.0)) is not None]
    assert sorted(taken) == list(range(1, 9))


def test_a_lane_is_not_loaded_again_under_a_write() -> None:
    """While what is settled is being written, the rows are older than the lane: it is not replaced then."""
    lane = a_lane(RULES, partial=True, restored=6)
    lane.cursor = lane.read = 6
    for position in range(1, 7):
        lane.restore(
            position, frozenset({("c", f"{position}")}), State.RETRYING, 1, 0.0, doubtful=False
        )
    lane.wake_due(1.0)
    reserve(lane, 6)
    for _ in range(2):
        out = [item for _ in range(3) if (item := lane.take(1.0)) is not None]
        assert not lane.reloadable
        for item in out:
            lane.delivered(item, 1.0, 200)
    assert not lane.reloadable
    _, _, done = lane.flush(6, 1.0)
    assert not lane.reloadable
    lane.flushed(done)
    assert lane.reloadable


@given(st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_no_more_is_reserved_than_goes(bursts: list[int]) -> None:
    """Whatever comes, a receiver that takes nothing has at most four times what it may take at once reserved for it."""
    lane = a_lane(Rules(window=256, concurrency=8))
    position, now = 0, 0.0
    for burst in bursts:
        for _ in range(burst):
            position += 1
            if lane.room:
                lane.offer([notification(position, f"{position}")])
        while lane.take(now) is not None:
            pass
        for _ in range(8):
            now += 1.0
            if lane.wants_flush or lane.has_outcomes or lane.idly_reserved:
                _, _, done = lane.flush(position, now)
                lane.flushed(done)
            while lane.take(now) is not None:
                pass
        assert not lane.idly_reserved
        assert sum(item.position <= lane.reserved for item in lane) <= 4 * 8
