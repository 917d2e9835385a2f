"""Clocks that are set, the provider's and ours, neither hide a change nor stall a poll."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from poller.polled import START, World
from poller.shop import status

from daemon.poller.clocks import ProviderClock

Open = Callable[..., AbstractAsyncContextManager[World]]
Run = Callable[..., Any]

HOUR = 3600


@pytest.mark.parametrize("resource", ["contacts", "orders", "notes"])
def test_a_provider_whose_clock_returns(open_world: Open, run: Run, resource: str) -> None:
    """What changes after a provider's clock was hours ahead and returned is told by the next poll, and only once."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create(resource)
            poller = w.poller(instance)
            await poller.poll_once()
            w.shop.now += timedelta(hours=3)
            w.advance(15)
            w.shop.put(resource, 1)
            await poller.poll_once()
            w.shop.now -= timedelta(hours=3)
            w.advance(15)
            w.shop.put(resource, 2)
            await poller.poll_once()
            w.advance(15)
            w.shop.put(resource, 1)
            await poller.poll_once()
            assert [("CREATED", "1"), ("CREATED", "2"), ("UPDATED", "1")] == await w.told(instance)

    run(main())


def test_the_cursor_that_is_put_back_is_written_down(open_world: Open, run: Run) -> None:
    """A clock that went back leaves one `poll.set_back` in the log, and cursor and baseline at what is not read yet."""

    async def main() -> None:
        async with open_world(skew=3 * HOUR) as w:
            instance = await w.create("orders")
            poller = w.poller(instance)
            await poller.poll_once()
            w.advance(60)
            w.shop.now -= timedelta(hours=3)
            for _ in range(3):
                await poller.poll_once()
                w.advance(15)
            row = await w.cursor(instance, "orders")
            # What the provider's clock would have shown when the baseline was taken.
            assert row["cursor"] == w.now - timedelta(seconds=60 + 3 * 15)
            assert row["baseline"] == row["cursor"] - timedelta(seconds=60), "a little before"
            assert ["poll.baseline", "poll.set_back"] == [
                kind for kind in await w.kinds(instance) if kind.startswith("poll.")
            ]

    run(main())


def test_a_clock_that_was_put_back_between_two_lives(open_world: Open, run: Run) -> None:
    """A poller that did not see the provider's clock go back reads what was changed since all the same."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            await w.poller(instance).poll_once()
            w.shop.now += timedelta(hours=3)
            w.shop.put("orders", 1)
            await w.poller(instance).poll_once()
            w.shop.now -= timedelta(hours=3)
            w.shop.put("orders", 2)
            await w.poller(instance).poll_once()
            assert [("CREATED", "1"), ("CREATED", "2")] == await w.told(instance)

    run(main())


def test_a_clock_that_was_mended_while_nobody_looked(open_world: Open, run: Run) -> None:
    """What changed while we were down, and a provider's clock was put back, is told though that has passed the cursor again."""

    async def main() -> None:
        async with open_world(skew=3 * HOUR) as w:
            instance = await w.create("orders")
            await w.poller(instance).poll_once()
            w.shop.now -= timedelta(hours=3)
            w.advance(2 * HOUR)
            w.shop.put("orders", 1)
            w.advance(2 * HOUR)
            # The database's clock is not the test's.
            await w.polling.pool.execute("UPDATE cursors SET noted = noted - interval '4 hours'")
            poller = w.poller(instance)
            await poller.poll_once()
            await poller.poll_once()
            assert [("CREATED", "1")] == await w.told(instance)
            assert 1 == (await w.kinds(instance)).count("poll.set_back")

    run(main())


jumps = st.sampled_from([-9 * HOUR, -3 * HOUR, -61, -31, -20, 20, 61, 3 * HOUR, 9 * HOUR])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from([1, 30, 61, 600])),
        st.tuples(st.just("poll"), st.booleans()),
        st.tuples(st.just("jump"), jumps),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=30,
)


async def lived(w: World, resource: str, history: list[tuple[str, int]]) -> None:
    """Go through *history*, then judge."""
    w.shop.records.clear()
    instance = await w.create(resource)
    poller = w.poller(instance)
    await poller.poll_once()
    for what, value in history:
        match what:
            case "put":
                w.shop.put(resource, value)
            case "wait":
                w.advance(value)
                # The database's clock is not the test's.
                back = timedelta(seconds=value)
                await w.polling.pool.execute(
                    "UPDATE cursors SET noted = noted - $1::interval", back
                )
            case "jump":
                # A clock that goes and comes between two polls shows nobody that it did.
                w.shop.now += timedelta(seconds=value)
                await poller.poll_once(hurry=True)
            case "restart":
                poller = w.poller(instance)
            case "poll":
                w.shop.faults = [status(500)] if value else []
                await poller.poll_once(hurry=True)
                w.shop.faults = []
    await poller.poll_once(hurry=True)
    told = await w.versions(instance)
    last = {name: version for _, name, version in told}
    there = w.shop.records.get(resource, {})
    assert {name: record["v"] for name, record in there.items()} == last
    assert len(told) == len(set(told))


@pytest.mark.parametrize("resource", ["orders", "notes"])
def test_no_step_of_a_clock_loses_a_change(open_world: Open, resource: str) -> None:
    """Whichever way and however often a provider's clock steps, the last version of every object is told, once."""
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # one loop for all examples
        w = runner.run(stack.enter_async_context(open_world()))

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(steps)
        def holds(history: list[tuple[str, int]]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(20):
                    await lived(w, resource, history)

            runner.run(bounded())

        try:
            holds()
        finally:
            runner.run(stack.aclose())


def test_our_own_clock_does_not_stall_a_retry(open_world: Open, run: Run) -> None:
    """A wait after a failure lasts as long as it was to last, whatever our clock is set to meanwhile."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            poller = w.poller(instance)
            await poller.poll_once()
            w.shop.broken["orders"] = status(500)
            await poller.poll_once()
            del w.shop.broken["orders"]
            w.set_clock(5 * HOUR)
            asked = len(w.shop.asked)
            await poller.poll_once()
            assert asked == len(w.shop.asked), "it was not over yet"
            w.set_clock(-10 * HOUR)
            w.advance(15)
            w.shop.put("orders", 1)
            await poller.poll_once()
            assert [("CREATED", "1")] == await w.told(instance)

    run(main())


def test_a_wait_from_a_wrong_clock_ends(open_world: Open, run: Run) -> None:
    """A wait that was written down by a clock years ahead ends within a day of the next start."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            await w.poller(instance).poll_once()
            w.set_clock(3 * 365 * 24 * HOUR)
            w.shop.broken["orders"] = status(500)
            await w.poller(instance).poll_once()
            del w.shop.broken["orders"]
            w.set_clock(-3 * 365 * 24 * HOUR)
            poller = w.poller(instance)
            await poller.poll_once()
            w.shop.put("orders", 1)
            w.advance(24 * HOUR)
            await poller.poll_once()
            assert [("CREATED", "1")] == await w.told(instance)

    run(main())


@pytest.mark.parametrize("hours", [-5, 5])
def test_our_own_clock_does_not_stall_a_sweep(open_world: Open, run: Run, hours: int) -> None:
    """A deletion is noticed when the interval of sweeps has passed, whatever our clock is set to meanwhile."""

    async def main() -> None:
        async with open_world() as w:
            w.shop.put("contacts", 1)
            instance = await w.create("contacts", event__poller__sweep_interval="10")
            poller = w.poller(instance)
            await poller.poll_once()
            w.shop.drop("contacts", 1)
            w.set_clock(hours * HOUR)
            await poller.poll_once()
            assert [] == await w.told(instance)
            w.advance(10 * 60)
            await poller.poll_once()
            assert [("DELETED", "1")] == await w.told(instance)

    run(main())


@given(
    st.integers(0, 10**9).map(lambda seconds: START + timedelta(seconds=seconds)),
    st.floats(-86_400, 86_400),
    st.floats(0, 86_400),
)
def test_the_last_look_as_the_clock_goes_now(shown: datetime, step: float, passed: float) -> None:
    """A clock that was set by so much would, as it goes now, have shown so much more or less at the last look."""
    clock = ProviderClock()
    assert clock.look(shown, 5.0) == shown
    before = clock.look(shown + timedelta(seconds=passed + step), 5.0 + passed)
    assert abs((before - shown).total_seconds() - step) < 0.001
