"""A machine whose time is set delivers on: waits are waits, and times of day are what is written."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from dispatching import Answered, Clock, Receiver, dispatching
from heart import change, connected, create_instance, poll

from daemon.backoff import retry_after
from daemon.store.vault import Keys

HOURS = 3 * 3600.0

BAD = Answered(500)
BUSY = Answered(429, {"retry-after": "7200"})


@pytest.mark.parametrize("step", [-HOURS, HOURS])
def test_a_retry_waits_as_long_as_it_was_to(dsn: str, keys: Keys, run: Any, step: float) -> None:
    """A retry a minute from now comes after a minute, though the time of day is set by hours meanwhile."""
    receiver = Receiver(lambda request: BAD)
    clock = Clock()
    wrong = [0.0]

    async def main() -> None:
        async with dispatching(
            dsn, keys, receiver, clock=clock, wall=lambda: clock.now + wrong[0]
        ) as world:
            instance = await create_instance(world.writer)
            await world.writer.append(poll(instance, change(1)))
            await world.settled({"retrying": 1})
            async with connected(dsn) as conn:
                due = await conn.fetchval("SELECT extract(epoch FROM due) FROM deliveries")
            assert abs(float(due) - clock.now - 60) < 1
            wrong[0] = step
            receiver.script = lambda request: Answered()
            world.later(50)
            await world.writer.append(poll(instance, change(2)))
            await world.accepted(1)
            assert receiver.order == ["2"], "it was not due"
            world.later(11)
            await world.accepted(2)
            sent = receiver.requests[-1].headers["webhook-timestamp"]
            assert sent == str(int(clock.now + step)), "what is sent has the time of day"

    run(main())


@pytest.mark.parametrize(
    ("answer", "longest"), [(BAD, 3600), (BUSY, 86_400)], ids=["schedule", "Retry-After"]
)
def test_a_wait_that_a_wrong_clock_wrote(
    dsn: str, keys: Keys, run: Any, answer: Answered, longest: float
) -> None:
    """A retry that was due by a clock years ahead comes after the longest wait there is, and not in years."""
    receiver = Receiver(lambda request: answer)
    clock = Clock()

    async def main() -> None:
        years = 3 * 365 * 86_400.0
        async with dispatching(
            dsn, keys, receiver, clock=clock, wall=lambda: clock.now + years
        ) as world:
            instance = await create_instance(world.writer)
            await world.writer.append(poll(instance, change(1)))
            await world.settled({"retrying": 1})
        receiver.script = lambda request: Answered()
        async with dispatching(dsn, keys, receiver, clock=clock) as world:
            other = await create_instance(world.writer, token="other", url="https://app.test/o")
            await world.writer.append(poll(other, change(2)))
            await world.accepted(1)  # so the first is loaded
            world.later(longest - 5)
            await world.writer.append(poll(other, change(3)))
            await world.accepted(2)
            assert receiver.order == ["2", "3"]
            world.later(10)
            await world.accepted(3)

    run(main())


def test_a_callback_is_not_disabled_by_a_clock(dsn: str, keys: Keys, run: Any) -> None:
    """A time of day that is set by a week does not make a failure of a minute one of days."""
    receiver = Receiver(lambda request: BAD)
    clock = Clock()
    wrong = [0.0]

    async def main() -> None:
        async with dispatching(
            dsn, keys, receiver, clock=clock, wall=lambda: clock.now + wrong[0]
        ) as world:
            instance = await create_instance(world.writer)
            await world.writer.append(poll(instance, change(1)))
            await world.settled({"retrying": 1})
            wrong[0] = 7 * 86_400.0
            world.later(61)
            await world.until(lambda: len(receiver.requests) == 2)
            receiver.script = lambda request: Answered()
            world.later(3601)
            await world.accepted(1)
            async with connected(dsn) as conn:
                assert await conn.fetchval("SELECT state FROM callbacks") == "active"

    run(main())


def test_retry_after_as_a_date_counts_from_the_answers_own() -> None:
    """A `Retry-After` with a date is by the receiver's clock, so ours does not matter where the answer has a `Date`."""
    headers = {
        "date": "Wed, 21 Oct 2015 07:28:00 GMT",
        "retry-after": "Wed, 21 Oct 2015 07:30:00 GMT",
    }
    assert retry_after(headers, now=datetime.fromtimestamp(time.time(), UTC), most=1000) == 120.0
    now = datetime(2015, 10, 21, 7, 29, tzinfo=UTC)
    assert retry_after({"retry-after": headers["retry-after"]}, now=now, most=1000) == 60.0
