"""The law of polling: every object's last version is told, once, and nothing is invented."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from poller.polled import World
from poller.shop import half_body, page_for_people, status

Open = Callable[..., AbstractAsyncContextManager[World]]

FAULTS = [status(500), status(429, Retry_After="1"), half_body, page_for_people, status(403)]

objects = st.integers(0, 5)
edits = st.tuples(st.sampled_from(["put", "put", "drop"]), objects)
steps = st.lists(
    st.one_of(
        edits,
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 30, 61, 600])),
        # Which requests of the poll fail and how, and what is edited just before which request.
        st.tuples(
            st.just("poll"),
            st.lists(st.one_of(st.none(), st.sampled_from(FAULTS), edits), max_size=6),
        ),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=25,
)


class Life:
    """One instance and its provider through a list of steps."""

    def __init__(self, w: World, resource: str) -> None:
        self.w = w
        self.resource = resource
        self.existed: set[tuple[str, int]] = set()
        self.before: set[tuple[str, int]] = set()
        self.known: set[str] = set()

    def edit(self, what: str, number: int) -> None:
        """Change the provider."""
        shop = self.w.shop
        there = str(number) in shop.records.get(self.resource, {})
        if what == "put":
            record = shop.put(self.resource, number)
            self.existed.add((record["id"], record["v"]))
        elif there:
            shop.drop(self.resource, number)

    def fault(self, one: Any) -> Any:
        """What happens to one request."""
        if isinstance(one, tuple):
            return lambda request: self.edit(*one)
        return one

    async def live(self, history: list[Any], start: list[Any]) -> None:
        """Go through it all, then poll without trouble, and judge."""
        w = self.w
        w.shop.records.clear()
        w.shop.deleted.clear()
        for step in start:
            self.edit(*step)
        instance = await w.create(self.resource)
        poller = w.poller(instance)
        await poller.poll_once()
        self.before = set(self.existed)
        self.known = set(w.shop.records.get(self.resource, {}))
        for what, value in history:
            match what:
                case "wait":
                    w.advance(value)
                case "restart":
                    poller = w.poller(instance)
                case "poll":
                    w.shop.faults = [self.fault(one) for one in value]
                    assert await poller.poll_once(hurry=True)
                    w.shop.faults = []
                case _:
                    self.edit(what, value)
        for _ in range(2):
            assert await poller.poll_once(hurry=True)
        self.judge(await w.versions(instance))

    def judge(self, told: list[tuple[str, str, int | None]]) -> None:
        """Hold what was told against what was."""
        versions = [(i, v) for change, i, v in told if change != "DELETED"]
        assert len(versions) == len(set(versions)), "a version was told twice"
        assert set(versions) <= self.existed, "a version was invented"
        assert not set(versions) & self.before, "the baseline was told"
        kept = self.w.shop.records.get(self.resource, {})
        for number in map(str, range(6)):
            mine = [(change, v) for change, i, v in told if i == number]
            known = number in self.known
            for change, _ in mine:
                # A channel tells also of what came and went between two polls.
                brief = self.resource == "tickets" and change == "DELETED"
                assert brief or known == (change != "CREATED"), f"{number}: {mine}"
                known = change != "DELETED"
            assert known == (number in kept), f"{number}: {mine}, and then {kept.get(number)}"
            if number in kept and (number, kept[number]["v"]) not in self.before:
                assert mine, f"{number} was never told"
                assert kept[number]["v"] == mine[-1][1], f"{number}: the last version is missing"


@pytest.mark.parametrize("skew", [-18_000, 0, 18_000])
@pytest.mark.parametrize("resource", ["contacts", "tickets"])
def test_nothing_is_lost_or_invented(open_world: Open, resource: str, skew: float) -> None:
    """Whatever fails and changes between and during polls, in the end every last version was told, once."""
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # one loop for all examples
        w = runner.run(stack.enter_async_context(open_world(skew=skew)))

        @settings(
            max_examples=25,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(history=steps, start=st.lists(edits, max_size=8))
        def holds(history: list[Any], start: list[Any]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(20):
                    await Life(w, resource).live(history, start)

            runner.run(bounded())

        try:
            holds()
        finally:
            runner.run(stack.aclose())
