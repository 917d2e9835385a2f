"""Resources on which nothing changes for long: their cursor is taken along, and nothing is lost by it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from poller.polled import World
from poller.shop import STAMP, status

from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.errors import DeletionsLost
from daemon.model import Page, Query
from daemon.poller.reach import BEHIND, TAKEN_AFTER, taken_along

Open = Callable[..., AbstractAsyncContextManager[World]]
Run = Callable[..., Any]

HOUR = 3600.0
DAY = 24 * HOUR
LOOK_BACK = timedelta(days=10)


class Forgetful(Defined):
    """The shop, whose channel of deletions looks back ten days and no further."""

    def deletions(
        self, http: Http, settings: Settings, resource: str, since: datetime
    ) -> AsyncGenerator[Page] | None:
        """As the shop's, or lost."""
        told = super().deletions(http, settings, resource, since)
        return told if told is None or self._now() - since <= LOOK_BACK else self._lost()

    def inventory(
        self, http: Http, settings: Settings, resource: str
    ) -> AsyncGenerator[Page] | None:
        """All that is there."""
        return self.read(http, settings, Query(resource))

    async def _lost(self) -> AsyncGenerator[Page]:
        raise DeletionsLost("too long ago")
        yield  # a generator


def forgetful(w: World) -> Forgetful:
    """That shop at the test's clock."""
    shop = w.registry.get("shop")
    assert isinstance(shop, Defined)
    return Forgetful(shop.definition, now=lambda: w.now)


@pytest.mark.parametrize("resource", ["contacts", "tickets", "notes"])
def test_the_cursor_is_never_older_than_days(open_world: Open, run: Run, resource: str) -> None:
    """Of a resource on which nothing changes the cursor stays two to three days behind, and the log has a row a day."""

    async def main() -> None:
        async with open_world() as w:
            w.shop.put(resource, 1)
            instance = await w.create(resource)
            poller = w.poller(instance)
            days = 12
            for poll in range(days * 4):
                assert await poller.poll_once()
                if poll == days * 2:
                    poller = w.poller(instance)  # as after a restart
                age = w.shop.now - (await w.cursor(instance, resource))["cursor"]
                assert age < TAKEN_AFTER, f"after {poll} polls"
                w.advance(6 * HOUR)
            kinds = await w.kinds(instance)
            assert days - 3 <= kinds.count("poll.completed") <= days
            assert set(kinds) <= {
                "instance.created", "poll.baseline", "object.known", "poll.completed",
            }  # fmt: skip
            assert [] == await w.told(instance)

    run(main())


def test_it_goes_on_from_what_was_last_seen_after_a_failure(open_world: Open, run: Run) -> None:
    """A poll that works again and finds nothing leaves the cursor: what shows late is still asked for."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            poller = w.poller(instance)
            await poller.poll_once()
            w.shop.put("orders", "late")
            w.shop.hidden.add("late")
            w.advance(HOUR)
            w.shop.broken["orders"] = status(500)
            await poller.poll_once()
            w.shop.broken.clear()
            await poller.poll_once(hurry=True)
            assert "poll.recovered" in await w.kinds(instance)
            w.shop.hidden.clear()
            await poller.poll_once()
            assert [("CREATED", "late")] == await w.told(instance)

    run(main())


def test_what_the_channel_forgot_is_found_by_an_inventory(open_world: Open, run: Run) -> None:
    """Deletions older than the provider's channel tells are found by an inventory at once, though none is due, once."""

    async def main() -> None:
        async with open_world() as w:
            for number in range(3):
                w.shop.put("tickets", number)
            instance = await w.create("tickets", event__poller__sweep_interval="999999999")
            await w.poller(instance, forgetful(w)).poll_once()
            w.advance(DAY)
            w.shop.drop("tickets", 1)
            w.advance(40 * DAY)  # nobody polls
            # And a change, which takes the cursor past all that.
            w.shop.put("tickets", 2)
            poller = w.poller(instance, forgetful(w))
            await poller.poll_once()
            assert [("UPDATED", "2"), ("DELETED", "1")] == await w.told(instance)
            asked = len(w.shop.asked)
            await poller.poll_once()
            assert "/tickets-deleted" in "".join(w.shop.asked[asked:])
            assert "/tickets" not in w.shop.asked[asked:], "another inventory"

    run(main())


late = st.integers(0, int(BEHIND / timedelta(hours=1)) - 1)
"""Hours by which a change is committed late."""


@pytest.mark.parametrize("resource", ["contacts", "tickets"])
def test_a_change_that_is_committed_late_is_told(open_world: Open, resource: str) -> None:
    """Whenever a change shows, up to two days after its date, it is told, however the cursor was taken along meanwhile."""
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        w = runner.run(stack.enter_async_context(open_world()))

        @settings(
            max_examples=6,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        # It waits until the cursor is just about to be taken along, and shows after it was.
        @example(changes=[(71, 47), (1, 47)])
        @given(changes=st.lists(st.tuples(st.integers(0, 100), late), min_size=1, max_size=3))
        def holds(changes: list[tuple[int, int]]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(30):
                    await shown_late(w, resource, changes)

            runner.run(bounded())

        try:
            holds()
        finally:
            runner.run(stack.aclose())


async def shown_late(w: World, resource: str, changes: list[tuple[int, int]]) -> None:
    """After so many quiet hours something is changed, so many hours before it shows."""
    w.shop.records.clear()
    w.shop.deleted.clear()
    w.shop.put(resource, "0")
    instance = await w.create(resource)
    poller = w.poller(instance, forgetful(w))
    await poller.poll_once()
    expected: list[tuple[str, str]] = []

    async def poll(hours: int) -> None:
        for _ in range(0, hours, 4):
            w.advance(4 * HOUR)
            assert await poller.poll_once()

    for number, (quiet, hours) in enumerate(changes, 1):
        await poll(quiet)
        name = str(number)
        w.shop.put(resource, name)
        w.shop.hidden.add(name)
        await poll(hours)
        w.shop.hidden.discard(name)
        assert await poller.poll_once()
        expected.append(("CREATED", name))
        assert expected == await w.told(instance)
        # And gone again; the channel tells that late as well.
        when = w.shop.now
        w.shop.drop(resource, name)
        kept = w.shop.deleted
        w.shop.deleted = kept[:-1]
        await poll(hours)
        w.shop.deleted = kept
        assert await poller.poll_once()
        expected.append(("DELETED", name))
        assert expected == await w.told(instance), when.strftime(STAMP)


@given(
    cursor=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001 — either both or none
    hours=st.lists(st.floats(0, 500), max_size=30),
)
def test_a_cursor_is_taken_along_by_days(cursor: datetime, hours: list[float]) -> None:
    """It never goes back nor beyond two days ago, and each time that it goes it goes by a day or more."""
    asked, start, moves = cursor, cursor, 0
    for more in hours:
        asked += timedelta(hours=more)
        after = taken_along(cursor, asked)
        assert after == cursor or (after - cursor >= timedelta(days=1) and after <= asked - BEHIND)
        moves += after != cursor
        cursor = after
        assert asked - cursor < TAKEN_AFTER
    assert moves <= (asked - start) / timedelta(days=1)
