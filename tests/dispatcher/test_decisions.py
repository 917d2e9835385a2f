"""What a person says of a delivery stands, and many that are asked for again do not fill the memory."""

import asyncio
from typing import Any

import pytest
from dispatching import Answered, Clock, Receiver, dispatching
from heart import change, connected, create_instance, opening, poll, state, writing

from daemon.dispatcher.items import Rules, State
from daemon.dispatcher.lane import Lane
from daemon.store import deliveries, projections
from daemon.store.deliveries import Outcome, Progress
from daemon.store.vault import Keys
from daemon.store.writer import Unit, Writer

ROW = "SELECT state, attempts, status, decided FROM deliveries WHERE callback_id = $1 AND notification = $2"


async def notified(w: Writer) -> tuple[int, int]:
    """A callback and a notification that failed there once."""
    await w.append(opening())
    callback = await create_instance(w)
    notification = (await w.append(poll(callback, change(1)))).position
    await said(w, callback, notification, "retrying")
    return callback, notification


async def said(w: Writer, callback: int, notification: int, what: str) -> None:
    """What a lane writes down."""
    one = Outcome(
        callback,
        notification,
        what,
        2,
        1_700_000_000_000 if what == "retrying" else None,
        None if what == "in_flight" else 1_700_000_000_000,
        200 if what == "delivered" else 500,
        None if what == "delivered" else "no",
        doubtful=False,
    )
    progress = Progress(callback, notification, notification, finished=False, failing=None)
    await w.append(Unit([deliveries.entry([progress], [one])]))


async def decided(w: Writer, callback: int, notification: int, how: str) -> None:
    """What a person says."""
    await w.append(Unit([deliveries.asked_entry(callback, [notification], how, "ann")]))


async def rebuilt(dsn: str) -> None:
    """Fold the log again, as `tidings rebuild` does."""
    async with connected(dsn, role=None) as conn, conn.transaction():
        async for _ in projections.rebuild(conn):
            pass


@pytest.mark.parametrize(
    "words",
    [
        ("delivered", "retrying", "delivered"),
        ("delivered", "in_flight", "delivered"),
        ("delivered", "dead", "delivered"),
        ("delivered", "delivered", "delivered"),
        ("dead", "retrying", "dead"),
        ("dead", "in_flight", "dead"),
        # It was accepted, whatever anybody thought.
        ("dead", "delivered", "delivered"),
        ("retry", "dead", "dead"),
    ],
)
def test_a_lane_that_writes_after_a_person(
    dsn: str, keys: Keys, run: Any, words: tuple[str, str, str]
) -> None:
    """What a lane writes that has not heard what a person said is no error and changes nothing; a rebuild finds the same."""
    how, later, then = words

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            callback, notification = await notified(w)
            await decided(w, callback, notification, how)
            await said(w, callback, notification, later)
            row = await conn.fetchrow(ROW, callback, notification)
            assert row["state"] == then
            await rebuilt(dsn)
            assert row == await conn.fetchrow(ROW, callback, notification)

    run(main())


def test_what_was_closed_is_not_asked_for(dsn: str, keys: Keys, run: Any) -> None:
    """What was open when the callback was taken away stays dead though somebody wants it again, before it is given and after."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            callback, notification = await notified(w)
            off = state("instance.configured", instance_id=callback, url=None)
            await w.append(Unit([off]))
            await decided(w, callback, notification, "retry")
            assert (await conn.fetchrow(ROW, callback, notification))["state"] == "dead"
            await w.append(Unit([state("instance.configured", instance_id=callback)]))
            await decided(w, callback, notification, "retry")
            assert (await conn.fetchrow(ROW, callback, notification))["state"] == "dead"

    run(main())


def test_a_request_that_is_out_is_overruled() -> None:
    """A person who settles a delivery whose request is out has it settled: what comes of it is neither written nor tried again."""
    lane = Lane(id=1, instance_id=1, cursor=5, reserved=5)
    objects = frozenset({("c", "1")})
    lane.restore(3, objects, State.RETRYING, 1, 0.0, doubtful=False)
    lane.restore(4, objects, State.WAITING, 0, 0.0, doubtful=False)
    lane.wake_due(1.0)
    _, _, done = lane.flush(5, 1.0)
    lane.flushed(done)
    item = lane.take(1.0)
    assert item is not None
    assert item.position == 3
    lane.settle(3, "dead", 2.0)
    lane.failed(item, 3.0, error="no", delay=1.0)
    assert [4] == [other.position for other in lane], "the next about its object may go"
    _, outcomes, _ = lane.flush(5, 3.0)
    assert [(4, "in_flight")] == [(one.notification, one.state) for one in outcomes]


def test_a_person_who_is_faster_than_the_receiver() -> None:
    """What a person settled while the receiver was asked about it stays settled, whatever the receiver says."""
    lane = Lane(id=1, instance_id=1, cursor=5, reserved=5)
    for position in (1, 2, 3):
        objects = frozenset({("c", str(position))})
        lane.restore(position, objects, State.IN_DOUBT, 1, 0.0, doubtful=True)
    lane.wake_due(1.0)
    asked = lane.take_doubts(1.0)
    assert [1, 2, 3] == [item.position for item in asked]
    for position, how in enumerate(("delivered", "dead"), 1):
        lane.settle(position, how, 2.0)
    lane.asked(3.0, heard=True, chance=lambda: 0.0)
    for item in asked:
        lane.answered(item, 3.0, received=False)
    _, outcomes, _ = lane.flush(5, 3.0)
    assert [(3, "retrying")] == [(one.notification, one.state) for one in outcomes]


def test_very_many_that_are_asked_for_again(dsn: str, keys: Keys, run: Any) -> None:
    """Of thousands that are to be sent again no more are kept in mind than the bound, and each is sent, in order, once."""
    receiver = Receiver(lambda request: Answered(500))
    clock = Clock()
    rules = Rules(window=50, parked=100, breaker=10**6)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, clock=clock, rules=rules, schedule="") as world:
            instance = await create_instance(world.writer)
            dead = []
            for version in range(60):
                changes = [poll(instance, change(n, version)) for n in range(20)]
                dead += await asyncio.gather(*map(world.writer.append, changes))
            await world.settled({"dead": 1200})
            receiver.script = lambda request: Answered()
            positions = [one.position for one in dead]
            most = 0
            for start in range(0, 1200, 500):
                page = positions[start : start + 500]
                entry = deliveries.asked_entry(instance, page, "retry", "ann")
                await world.writer.append(Unit([entry]))
                world.dispatcher.wake()

            def all_there() -> bool:
                nonlocal most
                lane = world.dispatcher._lanes.get(instance)
                if lane is not None:
                    most = max(most, len(list(lane)) + len(lane._later))
                return len(receiver.accepted) >= 1200

            await world.until(all_there)
            await world.settled({"delivered": 1200})
            assert most <= 100 + 50
            ids = [request.id for request in receiver.accepted]
            assert len(ids) == len(set(ids)) == 1200
            by_object: dict[str, list[int]] = {}
            numbers = {one.id: n for n, one in enumerate(receiver.requests[:1200])}
            for request in receiver.accepted:
                by_object.setdefault(request.objects[0], []).append(numbers[request.id])
            assert all(one == sorted(one) for one in by_object.values())

    run(main())
