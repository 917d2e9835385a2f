"""The dispatcher with a real database: what reaches the receiver, once each, whatever happens."""

import asyncio
import itertools
import random
from typing import Any

import pytest
from dispatching import Answered, Clock, Receiver, dispatching
from heart import (
    SIGNATURE_KEY,
    change,
    connected,
    create_instance,
    hook,
    poll,
    state,
    until_row,
)
from proxy import Proxy

from daemon.dispatcher.items import Rules
from daemon.errors import Invalid, NotSent, Unanswered
from daemon.store import deliveries, log
from daemon.store.reader import Reader
from daemon.store.vault import Keys
from daemon.store.writer import Unit, Writer, append_once

GOOD = Answered()
BAD = Answered(500, body=b"no")


async def prepared(w: Writer, instances: int = 1, **chosen: Any) -> list[int]:
    """That many instances."""
    return [
        await create_instance(w, token=str(n), url=f"https://app.test/{n}", **chosen)
        for n in range(instances)
    ]


async def polls(w: Writer, instance: int, numbers: Any, version: object = 0) -> None:
    """One notification for each number, about the object of that number."""
    for n in numbers:
        await w.append(poll(instance, change(n, version)))


def test_backlog_and_what_comes_live(dsn: str, keys: Keys, run: Any) -> None:
    """What the log held before the start and what comes after is delivered, signed, in order, once, and recorded."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            (instance,) = await prepared(world.writer, key=True)
            await world.writer.append(Unit(instance_id=instance, secrets={SIGNATURE_KEY: "key"}))
            await polls(world.writer, instance, range(30))
            await world.accepted(30)
        async with dispatching(dsn, keys, receiver) as world:
            await polls(world.writer, instance, range(30, 40))
            await world.writer.append(hook(instance, *[change(n, 1) for n in range(30)]))
            await world.accepted(42)
            await world.settled({"delivered": 42})
            numbers = [*range(40), *range(30)]
            # Eight go at once: in order is promised for each object, not for all.
            assert sorted(map(int, receiver.order)) == sorted(numbers)
            assert len(receiver.requests) == 42
            first = receiver.requests[0]
            assert first.url == "https://app.test/0"
            assert first.headers["elements-webhook-signature"].startswith("sha256=")
            assert first.headers["webhook-signature"].startswith("v1,")
            assert first.headers["elements-webhook-id"] == first.id
            assert not any(r.repeat for r in receiver.requests)

    run(main())


def test_a_failure_is_tried_again(dsn: str, keys: Keys, run: Any) -> None:
    """A 500 is tried again by the schedule, unmarked, with the same bytes; when the schedule ends it is dead, and the next goes."""
    answers = {"1": iter([BAD, Answered(302), GOOD]), "2": itertools.repeat(BAD)}
    receiver = Receiver(lambda request: next(answers.get(request.objects[0], iter([GOOD]))))

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, schedule="1m, 1h") as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1, 2])
            await polls(world.writer, instance, [2], version=1)
            await world.settled({"retrying": 2})
            world.later(59)
            await world.settled({"retrying": 2})
            assert len(receiver.requests) == 2
            world.later(1)
            await world.until(lambda: len(receiver.requests) == 4)
            await world.settled({"retrying": 2, "waiting": 1})
            answers["2"] = iter([BAD, GOOD])
            world.later(3600)
            await world.settled({"delivered": 2, "dead": 1})
            tries = [r for r in receiver.requests if r.objects == ["1"]]
            assert len({r.body for r in tries}) == len({r.id for r in tries}) == 1
            assert not any(r.repeat for r in receiver.requests)
            states = [(row[1], row[2]) for row in await world.rows()]
            assert states == [("delivered", 3), ("dead", 3), ("delivered", 1)]

    run(main())


def test_one_object_that_fails_blocks_only_itself(dsn: str, keys: Keys, run: Any) -> None:
    """While one object's notification is retried for hours, all others go, also those behind a window full of its successors."""
    broken = True
    receiver = Receiver(lambda r: BAD if broken and r.objects == ["bad"] else GOOD)

    async def main() -> None:
        nonlocal broken
        rules = Rules(window=8, parked=1000)
        async with dispatching(dsn, keys, receiver, schedule="1h, 1h", rules=rules) as world:
            (instance,) = await prepared(world.writer)
            for n in range(60):
                name = "bad" if n % 3 else f"good {n}"
                await world.writer.append(poll(instance, change(name, n)))
            await world.accepted(20)
            await world.reached("retrying", 1)
            broken = False
            world.later(3600)
            await world.settled({"delivered": 60})
            versions = [r.body for r in receiver.accepted if r.objects == ["bad"]]
            wanted = [f'"version":{n}}}'.encode() for n in range(60) if n % 3]
            assert all(w in v for w, v in zip(wanted, versions, strict=True)), "not in order"

    run(main())


def test_one_callback_that_fails_blocks_only_itself(dsn: str, keys: Keys, run: Any) -> None:
    """While one callback refuses, or never answers, the other gets everything; the bad one's breaker lets single probes through."""
    receiver = Receiver(lambda r: BAD if r.url.endswith("/0") else GOOD)

    async def main() -> None:
        rules = Rules(breaker=3, probe_first=10, probe_most=40)
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            bad, good = await prepared(world.writer, 2)
            for n in range(20):
                await world.writer.append(poll(bad, change(n)))
                await world.writer.append(poll(good, change(n)))
            await world.settled({"delivered": 20}, good)
            tried = lambda: sum(r.url.endswith("/0") for r in receiver.requests)  # noqa: E731 — used thrice
            (lane,) = world.dispatcher._lanes.fed_by(bad)
            await world.until(lambda: tried() >= 3 and not lane.in_flight)
            before = tried()
            assert before <= 3 + rules.concurrency
            for _ in range(4):
                world.later(48)
                before += 1
                await world.until(lambda before=before: tried() == before and not lane.in_flight)
            assert {row[2] for row in await world.rows(bad)} <= {0, 1}, "a probe used an attempt up"
            receiver.script = lambda r: GOOD
            world.later(48)
            await world.settled({"delivered": 20}, bad)

    run(main())


def test_gone_disables_and_enabling_goes_on(dsn: str, keys: Keys, run: Any) -> None:
    """A 410 disables the callback, nothing is sent or lost meanwhile, and enabling goes on where it stopped, also after a restart."""
    receiver = Receiver(lambda r: Answered(410) if r.objects == ["3"] else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, rules=Rules(concurrency=1)) as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, range(1, 7))
            assert "410" in (await world.callback("disabled") or "")
            sent = len(receiver.requests)
            world.later(86_400)
            await polls(world.writer, instance, range(7, 10))
            await world.settled({"delivered": 2, "retrying": 1})
            assert len(receiver.requests) == sent
        async with dispatching(dsn, keys, receiver) as world:
            await polls(world.writer, instance, [10])
            receiver.script = lambda r: GOOD
            await world.enable(instance)
            await world.settled({"delivered": 10})
            assert sorted(map(int, receiver.order)) == list(range(1, 11))
            assert not any(r.repeat for r in receiver.requests)

    run(main())


def test_retry_after_is_obeyed(dsn: str, keys: Keys, run: Any) -> None:
    """After a 429 with Retry-After the whole callback is left alone for so long, and not longer."""
    busy = [Answered(429, {"retry-after": "600"})]
    receiver = Receiver(lambda r: busy.pop() if busy else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, schedule="10s, 10s") as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1])
            await world.settled({"retrying": 1})
            world.later(599)
            await polls(world.writer, instance, [2])
            await asyncio.wait([asyncio.create_task(world.settled({"retrying": 1}))])
            assert len(receiver.requests) == 1
            world.later(1)
            await world.settled({"delivered": 2})

    run(main())


def test_a_callback_that_fails_for_days_is_disabled(dsn: str, keys: Keys, run: Any) -> None:
    """After `disable_after` without one success, restarts included, the callback is disabled; enabled, it has its time again."""
    receiver = Receiver(lambda r: BAD)
    clock = Clock()

    async def main() -> None:
        begin = dispatching(
            dsn, keys, receiver, clock=clock, schedule="1h, 1h, 1h, 1h", disable_after=7000
        )
        async with begin as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1])
            await world.settled({"retrying": 1})
        query = "SELECT state, reason FROM callbacks"
        begin = dispatching(
            dsn, keys, receiver, clock=clock, schedule="1h, 1h, 1h, 1h", disable_after=7000
        )
        async with begin as world:
            world.later(3600)
            await world.until(lambda: len(receiver.requests) == 2)
            assert (await world.pool.fetchrow(query))["state"] == "active"
            await world.settled({"retrying": 1})
            world.later(3600)
            assert "nothing was accepted since" in (await world.callback("disabled") or "")
            await world.enable(instance)
            await world.until(lambda: len(receiver.requests) == 4)
            assert (await world.pool.fetchrow(query))["state"] == "active"

    run(main())


def test_retries_survive_a_restart(dsn: str, keys: Keys, run: Any) -> None:
    """What was to be tried again in an hour is tried then by the next process, with its attempts counted on."""
    receiver = Receiver(lambda r: BAD)
    clock = Clock()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, clock=clock, schedule="1h, 1h") as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1])
            await polls(world.writer, instance, [1], version=1)
            await world.settled({"retrying": 1})
            await world.crash()
        async with dispatching(dsn, keys, receiver, clock=clock, schedule="1h, 1h") as world:
            world.later(3599)
            await world.settled({"retrying": 1})
            assert len(receiver.requests) == 1
            receiver.script = lambda r: GOOD
            world.later(1)
            await world.settled({"delivered": 2})
            assert [row[2] for row in await world.rows()] == [2, 1]
            assert not receiver.requests[1].repeat
            assert len({r.body for r in receiver.requests[:2]}) == 1

    run(main())


@pytest.mark.parametrize("first_answer", [GOOD, BAD])
def test_a_crash_before_the_outcome_leaves_it_in_doubt(
    dsn: str, keys: Keys, run: Any, first_answer: Answered
) -> None:
    """What was sent when the process died, for the first time or again, goes again with its id, its bytes and the mark; no other."""
    receiver = Receiver(lambda r: first_answer)
    clock = Clock()

    async def main() -> None:
        rules = Rules(concurrency=2)
        async with dispatching(dsn, keys, receiver, clock=clock, rules=rules) as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1])
            await world.settled({"delivered": 1} if first_answer is GOOD else {"retrying": 1})
            receiver.open.clear()
            await polls(world.writer, instance, [2])
            world.later(60)
            number = 2 if first_answer is GOOD else 3
            await world.until(lambda: len(receiver.requests) == number)
            sent = receiver.requests[1:]
            await world.crash()
        receiver.open.set()
        receiver.script = lambda r: GOOD
        renamed = state(
            "instance.configured",
            instance_id=instance,
            name="new",
            token="0",
            url="https://app.test/0",
        )
        # What comes before the dispatcher looks, its last run cannot have sent.
        early = Unit([renamed], intakes=poll(instance, change(9)).intakes)
        async with dispatching(dsn, keys, receiver, clock=clock, early=early) as world:
            await world.settled({"delivered": 3})
            again = {r.id: r for r in receiver.requests[number:]}
            assert len(again) == len(receiver.requests) - number
            for request in sent:
                assert again[request.id].body == request.body
                assert again[request.id].repeat
            others = [r for r in again.values() if r.id not in {s.id for s in sent}]
            assert [r.objects for r in others] == [["9"]]
            assert not others[0].repeat
            doubts = {row[0]: row[3] for row in await world.rows()}
            assert sum(doubts.values()) == len(sent)

    run(main())


def test_crash_after_crash_doubts_no_more_than_was_sent(dsn: str, keys: Keys, run: Any) -> None:
    """A process that dies before it sends anything leaves nothing new in doubt, however large the backlog."""
    receiver = Receiver()
    rules = Rules(window=4, concurrency=2)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            (instance,) = await prepared(world.writer)
            receiver.open.clear()
            await polls(world.writer, instance, range(40))
            await world.until(lambda: len(receiver.requests) == 2)
            await world.crash()
        doubts = "SELECT count(*) FROM deliveries WHERE doubtful"
        for _ in range(3):
            async with dispatching(dsn, keys, receiver, rules=rules) as world:
                count = await until_row(world.pool, doubts)
                await world.writer.append(
                    Unit(
                        [
                            state(
                                "instance.configured",
                                instance_id=instance,
                                disabled=True,
                                token="0",
                            )
                        ]
                    )
                )
                await world.crash()
            assert 2 <= count <= rules.window

    run(main())


def test_a_clean_stop_leaves_no_doubt(dsn: str, keys: Keys, run: Any) -> None:
    """Told to stop, it lets what is under way end, starts nothing more, writes it down; the next start doubts and repeats nothing."""
    receiver = Receiver(lambda r: BAD if r.objects == ["0"] else GOOD)
    clock = Clock()

    async def main() -> None:
        rules = Rules(concurrency=3)
        async with dispatching(dsn, keys, receiver, clock=clock, rules=rules) as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [0])
            await world.settled({"retrying": 1})
            receiver.open.clear()
            await polls(world.writer, instance, range(1, 30))
            await world.until(lambda: receiver.waiting == 3)
            # A retry that is written down as in flight, and waits for its turn.
            world.later(60)
            await world.settled({"in_flight": 1})
            stopping = asyncio.create_task(world.stop())
            await asyncio.sleep(0)
            # Whatever is announced meanwhile does not wake the lanes again.
            world.dispatcher.look_again()
            await asyncio.sleep(0)
            receiver.open.set()
            await stopping
            assert len(receiver.requests) == 4
        async with connected(dsn) as conn:
            assert await deliveries.unanswered(conn, 256, 2**40) == []
            rows = await conn.fetch("SELECT cursor, reserved, failing FROM callbacks")
            assert rows[0]["cursor"] == rows[0]["reserved"]
        receiver.script = lambda r: GOOD
        async with dispatching(dsn, keys, receiver, clock=clock) as world:
            await world.settled({"delivered": 30})
            assert sorted(map(int, receiver.order)) == list(range(30))
            assert not any(row[3] for row in await world.rows())

    run(main())


def test_a_stop_that_takes_too_long_writes_down_what_it_knows(
    dsn: str, keys: Keys, run: Any
) -> None:
    """One request that never ends leaves only itself in doubt; the outcomes that are known are written."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, drain=0.4) as world:
            slow, quick = await prepared(world.writer, 2)
            receiver.stuck.add("https://app.test/0")
            await polls(world.writer, slow, [1])
            await world.until(lambda: receiver.waiting == 1)
            await polls(world.writer, quick, [2])
            await world.accepted(1)
            await world.stop()
        async with connected(dsn) as conn:
            doubts = await deliveries.unanswered(conn, 256, 2**40)
            assert [d[0] for d in doubts] == [slow]
            rows = await conn.fetch("SELECT callback_id, state FROM deliveries")
            assert [tuple(row) for row in rows] == [(quick, "delivered")]

    run(main())


@pytest.mark.parametrize(("window", "concurrency"), [(1, 1), (5, 8), (64, 4)])
def test_a_lane_that_is_behind_delivers_everything_in_order(
    dsn: str, keys: Keys, run: Any, window: int, concurrency: int
) -> None:
    """Far more than a window, in notifications of every size, while more comes: each object's arrive in order, each once."""
    receiver = Receiver()

    async def main() -> None:
        rules = Rules(window=window, concurrency=concurrency, ahead=7)
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            first, second = await prepared(world.writer, 2)
            receiver.open.clear()
            expected: dict[str, list[int]] = {}
            for n in range(40):
                size = (1, 20, 3, 10)[n % 4]
                many = [change(f"{(n + m) % 25}", n) for m in range(size)]
                unit = hook if n % 2 else poll
                await world.writer.append(unit(first, *many))
                await world.writer.append(poll(second, change(n)))
                for it in many:
                    expected.setdefault(it.object_id, []).append(n)
                if n == 20:
                    receiver.open.set()
            await world.settled({"delivered": 80})
            assert len(receiver.requests) == 80
            assert receiver.most <= 2 * concurrency
            reader = Reader(db=world.pool)
            rows = await log.changes_of_instance(world.pool, first, 0, 1000)
            positions = {n.id: n.position for n in await reader.notifications(rows)}
            last: dict[str, int] = {}
            for request in receiver.accepted:
                for object_id in set(request.objects) if request.url.endswith("/0") else ():
                    assert last.get(object_id, 0) < positions[request.id]
                    last[object_id] = positions[request.id]

    run(main())


def test_an_address_that_changes_is_used_at_once(dsn: str, keys: Keys, run: Any) -> None:
    """What is sent after an instance's address changed goes to the new one, what was open too."""
    receiver = Receiver(lambda r: BAD if r.url.endswith("/0") else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1])
            await world.settled({"retrying": 1})
            moved = state(
                "instance.configured", instance_id=instance, token="0", url="https://new.test/"
            )
            await world.writer.append(Unit([moved]))
            await world.until(
                lambda: world.directory.get(instance).callback_url == "https://new.test/"
            )  # type: ignore[union-attr]  # it exists
            await polls(world.writer, instance, [2])
            world.later(60)
            await world.settled({"delivered": 2})
            assert {r.url for r in receiver.accepted} == {"https://new.test/"}

    run(main())


def test_a_callback_that_is_given_again_begins_anew(dsn: str, keys: Keys, run: Any) -> None:
    """After events were off, neither what was open nor what came meanwhile is sent, only what comes from then on."""
    receiver = Receiver(lambda r: BAD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1])
            await world.settled({"retrying": 1})
            off, on = (
                state("instance.configured", instance_id=instance, token="0", url=url)
                for url in (None, "https://again.test/")
            )
            receiver.script = lambda r: GOOD
            # In one commit, so that nobody sees the time between.
            between = [Unit([off]), poll(instance, change(2)), Unit([on])]
            await asyncio.gather(*[world.writer.append(unit) for unit in between])
            lanes = world.dispatcher._lanes
            await world.until(lambda: any(lane.since != instance for lane in lanes))
            await polls(world.writer, instance, [3])
            world.later(60)
            await world.settled({"dead": 1, "delivered": 1})
            assert receiver.order == ["3"]
        async with dispatching(dsn, keys, receiver) as world:
            world.later(3600)
            await polls(world.writer, instance, [4])
            await world.settled({"dead": 1, "delivered": 2})
            assert receiver.order == ["3", "4"]

    run(main())


def test_an_instance_that_is_disabled_or_deleted_gets_nothing(
    dsn: str, keys: Keys, run: Any
) -> None:
    """A disabled instance's notifications wait until it is enabled; a deleted one's are not sent."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            first, second = await prepared(world.writer, 2)
            for kind, instance, token in (
                ("instance.disabled", first, "0"),
                ("instance.deleted", second, "1"),
            ):
                gone = state(
                    kind,
                    instance_id=instance,
                    token=token,
                    disabled=True,
                    url=f"https://app.test/{token}",
                )
                await world.writer.append(Unit([gone]))
            await world.until(lambda: world.directory.get(second) is None)
            await polls(world.writer, first, range(5))
            await polls(world.writer, second, range(5))
            world.later(60)
            await asyncio.sleep(0.05)
            assert receiver.requests == []
            back = state("instance.enabled", instance_id=first, token="0", url="https://app.test/0")
            await world.writer.append(Unit([back]))
            await world.settled({"delivered": 5})

    run(main())


def test_more_open_than_it_keeps_in_mind(dsn: str, keys: Keys, run: Any) -> None:
    """A callback with many times more open notifications than the lane holds settles them all in the end, each once, in order."""
    broken = True
    receiver = Receiver(lambda r: BAD if broken else GOOD)
    clock = Clock()

    async def main() -> None:
        nonlocal broken
        many = Rules(window=16, parked=500, breaker=10_000)
        begin = dispatching(dsn, keys, receiver, clock=clock, rules=many)
        async with begin as world:
            (instance,) = await prepared(world.writer)
            for n in range(60):
                await world.writer.append(poll(instance, change(n % 40, n)))
            await world.reached("retrying", 40)
        few = Rules(window=16, parked=9, breaker=10_000)
        broken = False
        async with dispatching(dsn, keys, receiver, clock=clock, rules=few) as world:
            await polls(world.writer, instance, [0], version="last")
            world.later(60)
            await world.settled({"delivered": 61})
            assert len(receiver.accepted) == 61
            assert not any(r.repeat for r in receiver.accepted)
            zero = [r.body for r in receiver.accepted if r.objects == ["0"]]
            wanted = [b'"version":0}', b'"version":40}', b'"version":"last"}']
            assert all(w in z for w, z in zip(wanted, zero, strict=True))

    run(main())


def test_more_in_doubt_than_it_keeps_in_mind(dsn: str, keys: Keys, run: Any) -> None:
    """After a crash that leaves more in doubt than a lane holds, with nothing settled before, all is settled in order."""
    receiver = Receiver()
    clock = Clock()

    async def main() -> None:
        many = Rules(window=16, concurrency=12)
        async with dispatching(dsn, keys, receiver, clock=clock, rules=many) as world:
            (instance,) = await prepared(world.writer)
            receiver.open.clear()
            await polls(world.writer, instance, range(12))
            await world.until(lambda: receiver.waiting == 12)
            await polls(world.writer, instance, range(12), version=1)
            await world.crash()
        receiver.open.set()
        few = Rules(window=16, parked=4)
        async with dispatching(dsn, keys, receiver, clock=clock, rules=few) as world:
            await world.settled({"delivered": 24})
            for n in range(12):
                bodies = [r.body for r in receiver.accepted if r.objects == [str(n)]]
                first, second = bodies
                assert b'"version":0' in first
                assert b'"version":1' in second

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        Answered(500, body=b"a\0b\x1b[31m\xff\r\n" + b"x" * 400),
        NotSent("no\0pe"),
        Invalid({"headers.x": "must be printable ASCII on one line"}),
        Answered(503, {"retry-after": "never\0"}),
    ],
    ids=["body", "not sent", "invalid", "retry-after"],
)
def test_nothing_that_a_receiver_says_ends_the_daemon(
    dsn: str, keys: Keys, run: Any, answer: Answered | Exception
) -> None:
    """Whatever an answer or an error holds, it is recorded on one clean line, and other callbacks go on."""
    receiver = Receiver(lambda r: answer if r.url.endswith("/0") else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            bad, good = await prepared(world.writer, 2)
            await polls(world.writer, bad, [1])
            await world.settled({"retrying": 1}, bad)
            await polls(world.writer, good, [1])
            await world.settled({"delivered": 1}, good)
            ((_, _, _, doubtful, error),) = await world.rows(bad)
            assert error.isprintable()
            assert 0 < len(error) <= 300
            assert not doubtful

    run(main())


def test_secrets_that_cannot_be_used_are_that_callbacks_trouble(
    dsn: str, keys: Keys, run: Any
) -> None:
    """A signing key that is none, or one that the vault cannot open, fails that callback's deliveries with a reason, and no other."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            ids = []
            for n, key in enumerate(["whsec_é", "good", "other"]):
                entry = state(key=True, token=str(n), url=f"https://app.test/{n}")
                receipt = await world.writer.append(Unit([entry], secrets={SIGNATURE_KEY: key}))
                ids.append(receipt.position)
            async with connected(dsn) as conn:
                await conn.execute(
                    "UPDATE vault SET key_id = 'lost' WHERE instance_id = $1", ids[2]
                )
            for instance in ids:
                await polls(world.writer, instance, [1])
            await world.settled({"delivered": 1}, ids[1])
            await world.settled({"retrying": 1}, ids[0])
            await world.settled({"retrying": 1}, ids[2])
            assert "whsec_" in (await world.rows(ids[0]))[0][4]
            assert "'lost'" in (await world.rows(ids[2]))[0][4]
            assert [r.url for r in receiver.requests] == ["https://app.test/1"]

    run(main())


def test_no_answer_is_marked_when_it_goes_again(dsn: str, keys: Keys, run: Any) -> None:
    """A request that left and got no answer goes again with the mark; one that did not leave goes again without."""
    trouble = {"1": [Unanswered("cut")], "2": [NotSent("refused")]}
    receiver = Receiver(lambda r: trouble[r.objects[0]].pop() if trouble[r.objects[0]] else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1, 2])
            await world.settled({"retrying": 2})
            world.later(60)
            await world.settled({"delivered": 2})
            marks = {r.objects[0]: r.repeat for r in receiver.accepted}
            assert marks == {"1": True, "2": False}
            assert [row[3] for row in await world.rows()] == [True, False]

    run(main())


def test_the_database_may_go_away_and_come_back(dsn: str, keys: Keys, run: Any) -> None:
    """While every connection is cut again and again, everything is delivered, each once and unmarked, and no attempt is used up."""
    receiver = Receiver()

    async def main() -> None:
        async with Proxy(dsn) as proxy, dispatching(proxy.dsn, keys, receiver) as world:
            (instance,) = await prepared(world.writer)
            for n in range(30):
                await world.writer.append(poll(instance, change(n)), patient=True)
                if n % 10 == 4:
                    proxy.cut()
                if n == 15:
                    proxy.lose_answer()
                if n == 25:
                    proxy.lose_commit()
            loop = asyncio.get_running_loop()
            end = loop.time() + 10
            async with connected(dsn) as conn:
                count = "SELECT count(*) FROM deliveries WHERE state = 'delivered' AND attempts = 1"
                while await conn.fetchval(count) != 30:
                    assert loop.time() < end
                    await asyncio.sleep(0.01)
            assert sorted(map(int, receiver.order)) == list(range(30))
            assert len(receiver.requests) == 30

    run(main())


def test_who_lost_the_ownership_sends_nothing_new(dsn: str, keys: Keys, run: Any) -> None:
    """While the writer is cut off, what another process appends is not sent by this one, until it owns the database again."""
    receiver = Receiver()

    async def main() -> None:
        async with (
            Proxy(dsn) as proxy,
            dispatching(dsn, keys, receiver, writer_dsn=proxy.dsn) as world,
        ):
            (instance,) = await prepared(world.writer)
            await polls(world.writer, instance, [1])
            await world.settled({"delivered": 1})
            proxy.refusing = True
            proxy.cut()
            await world.until(lambda: not world.writer.connected)
            async with connected(dsn) as conn:
                await append_once(conn, keys, poll(instance, change(2)))
            world.dispatcher.wake()
            await asyncio.sleep(0.1)
            assert len(receiver.requests) == 1
            proxy.refusing = False
            await world.settled({"delivered": 2})

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_in_any_company_each_goes_once_and_in_order(
    dsn: str, keys: Keys, run: Any, seed: int
) -> None:
    """Many callbacks, small windows, failures at random, renames and restarts between: each accepted once, per object in order."""
    dice = random.Random(seed)  # noqa: S311 — a test's dice
    receiver = Receiver(lambda r: dice.choice([GOOD, GOOD, BAD]))
    clock = Clock()
    rules = Rules(window=6, parked=40, concurrency=3, breaker=10_000, ahead=20)

    async def main() -> None:
        total = 0
        ids: list[int] = []
        for round_ in range(3):
            begin = dispatching(
                dsn, keys, receiver, clock=clock, schedule=", ".join(["1s"] * 90), rules=rules
            )
            async with begin as world:
                ids = ids or await prepared(world.writer, 5)
                for step in range(20):
                    units = []
                    for n, instance in enumerate(ids):
                        many = [
                            change(m, (round_, step))
                            for m in dice.sample(range(6), dice.randint(1, 3))
                        ]
                        units.append(dice.choice([poll, hook])(instance, *many))
                        total += 1
                        if dice.random() < 0.1:
                            renamed = state(
                                "instance.configured",
                                instance_id=instance,
                                token=str(n),
                                name=f"{step}",
                                url=f"https://app.test/{n}",
                            )
                            units.append(Unit([renamed]))
                    await asyncio.gather(*[world.writer.append(unit) for unit in units])
                    world.later(1)
                if round_ == 2:
                    loop = asyncio.get_running_loop()
                    end = loop.time() + 20
                    while (await world.states()).get("delivered", 0) != total:
                        world.later(1)
                        assert loop.time() < end, await world.states()
                        await asyncio.sleep(0.02)
        assert len({r.id for r in receiver.accepted}) == len(receiver.accepted) == total
        assert not any(r.repeat for r in receiver.requests)
        last: dict[tuple[str, str], list[int]] = {}
        for request in receiver.accepted:
            position = int(request.body.split(b'"id":"', 1)[1].split(b'"', 1)[0])
            for object_id in set(request.objects):
                before = last.setdefault((request.url, object_id), [])
                assert not before or before[-1] < position
                before.append(position)

    run(main())
