"""All pollers: they follow the instances' configurations, one at a time for each."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from aiohttp import web
from heart import until, until_row
from poller.polled import World, running

from daemon.model import Instance
from daemon.poller.poller import Poller
from daemon.poller.pollers import Pollers
from daemon.store.writer import Unit

Open = Callable[..., AbstractAsyncContextManager[World]]
Run = Callable[..., Any]

BASELINE = "SELECT count(*) = $2 FROM cursors WHERE instance_id = $1 AND baseline IS NOT NULL"


def paths(w: World) -> list[str]:
    """What the shop was asked for, without queries."""
    return [path.partition("?")[0] for path in w.shop.asked]


class Gate:
    """A request that the shop keeps waiting until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, request: web.Request) -> None:
        """Wait, or be left by the client."""
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise


def test_new_instance_is_polled_at_once(open_world: Open, run: Run) -> None:
    """An instance that is created while tidings runs is polled at once, all its resources."""

    async def main() -> None:
        async with open_world() as w, running(w.pollers()):
            instance = await w.create("orders", "tickets")
            await until_row(w.polling.pool, BASELINE, instance.id, 2)

    run(main())


def test_dropped_resource(open_world: Open, run: Run) -> None:
    """Taking a resource out of event.objects drops its poller record with that entry; put back, it starts anew."""

    async def main() -> None:
        async with open_world() as w, running(w.pollers()):
            instance = await w.create("orders", "tickets")
            await until_row(w.polling.pool, BASELINE, instance.id, 2)
            await w.configure(instance, "orders")
            assert await w.cursor(instance, "tickets") is None
            assert await w.cursor(instance, "orders") is not None
            await w.configure(instance, "orders", "tickets")
            await until_row(w.polling.pool, BASELINE, instance.id, 2)
            assert 2 == (await w.kinds(instance)).count("poll.baseline") - 1

    run(main())


def test_reconfigured_while_polling(open_world: Open, run: Run) -> None:
    """When the configuration changes in the middle of a poll, that poll is left and the new one begins at once."""

    async def main() -> None:
        async with open_world() as w, running(w.pollers()):
            gate = Gate()
            w.shop.faults = [gate]
            instance = await w.create("orders")
            await gate.reached.wait()
            await w.configure(instance, "notes")
            await gate.left.wait()
            await until_row(w.polling.pool, BASELINE, instance.id, 1)
            assert ["/orders", "/notes"] == paths(w)
            assert await w.cursor(instance, "orders") is None

    run(main())


def test_successor_waits_for_a_refresh(open_world: Open, run: Run) -> None:
    """A poller that is told to stop while it refreshes a token keeps it first; its successor polls with that one."""

    async def main() -> None:
        async with open_world() as w, running(w.pollers()):
            gate = Gate()
            w.shop.token = "another"
            w.shop.faults = [None, gate]
            instance = await w.create("orders")
            await gate.reached.wait()
            changed = await w.configure(instance, "notes")
            await w.configure(changed, "tickets")
            asked = list(paths(w))
            gate.open.set()
            await until_row(w.polling.pool, BASELINE, instance.id, 1)
            assert ["/orders", "/token"] == asked
            assert (["/orders", "/token", "/tickets"], 1) == (paths(w), w.shop.refreshed)

    run(main())


def test_disabled_instance(open_world: Open, run: Run) -> None:
    """A disabled instance's poll is left at once; enabled again, it goes on from its cursor."""

    async def main() -> None:
        async with open_world() as w:
            pollers = w.pollers()
            async with running(pollers):
                instance = await w.create("orders")
                await until_row(w.polling.pool, BASELINE, instance.id, 1)
                gate = Gate()
                w.shop.faults = [gate]
                pollers.wake(instance.id)
                await gate.reached.wait()
                await w.switch(instance, "instance.disabled")
                await gate.left.wait()
                await until(lambda: len(pollers) == 0)
                w.advance(90)
                w.shop.put("orders", 1)
                pollers.wake(instance.id)
                asked = len(w.shop.asked)
                await w.switch(instance, "instance.enabled")
                await until_row(w.polling.pool, "SELECT count(*) FROM log WHERE kind = 'change'")
                assert [("CREATED", "1")] == await w.told(instance)
                assert asked + 1 == len(w.shop.asked)

    run(main())


def test_deleted_while_appending(open_world: Open, run: Run) -> None:
    """What a poll still appends for an instance that was deleted meanwhile leaves nothing behind."""

    async def main() -> None:
        async with open_world() as w, running(w.pollers()):
            w.shop.put("orders", 1)
            gate = Gate()
            w.shop.faults = [gate]
            instance = await w.create("orders", event__poller__backfill="true")
            await gate.reached.wait()
            # Another poller of it, which nobody cancels: as one whose append is on its way already.
            late = asyncio.create_task(w.poller(instance).poll_once())
            deleted = Unit([entry_of(instance)], instance_id=instance.id, forget=True)
            await w.writer.append(deleted)
            gate.open.set()
            assert await late
            await w.polling.directory.refresh()
            for table in ("instances", "objects", "cursors", "vault"):
                assert 0 == await w.polling.pool.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 — the names above
            assert [] == await w.told(instance)

    def entry_of(instance: Instance) -> Any:
        from daemon.store import instances

        return instances.changed("instance.deleted", instance, resources=())

    run(main())


def test_one_that_cannot_be_polled(open_world: Open, run: Run) -> None:
    """An instance whose element is gone or whose configuration does not compile stops nobody else."""

    async def main() -> None:
        async with open_world() as w:
            pollers = w.pollers()
            one, other = await w.create("orders"), await w.create("orders")
            third = await w.create("orders")
            async with running(pollers):
                await broken(w, one.id, "element_key = 'lost'")
                await broken(
                    w, other.id, 'configuration = configuration || \'{"event.objects": "lost"}\''
                )
                await until_row(w.polling.pool, BASELINE, third.id, 1)
                await until(lambda: len(pollers) == 1)

    async def broken(w: World, instance_id: int, what: str) -> None:
        now = w.polling.directory.get(instance_id)
        assert now is not None
        await w.polling.pool.execute(f"UPDATE instances SET {what} WHERE id = $1", instance_id)  # noqa: S608 — the test's own words
        # As after a change: the directory reads what the log speaks of.
        from daemon.store import instances

        await w.writer.append(
            Unit([instances.changed("instance.configured", now, resources=["orders"])])
        )
        await w.polling.pool.execute(f"UPDATE instances SET {what} WHERE id = $1", instance_id)  # noqa: S608 — the test's own words
        await w.polling.directory.refresh()

    run(main())


def test_hint_while_polling(open_world: Open, run: Run) -> None:
    """A hint that arrives in the middle of a poll makes another one follow, for that one may have read before the change."""

    async def main() -> None:
        async with open_world() as w:
            pollers = w.pollers()
            async with running(pollers):
                instance = await w.create("orders")
                await until_row(w.polling.pool, BASELINE, instance.id, 1)
                gate = Gate()
                w.shop.faults = [gate]
                pollers.wake(instance.id)
                await gate.reached.wait()
                pollers.wake(instance.id)
                pollers.wake(instance.id + 1000)
                gate.open.set()
                await until(lambda: 3 == len(w.shop.asked))

    run(main())


def test_hint_does_not_shorten_a_pause(open_world: Open, run: Run) -> None:
    """A hint does not ask a provider that asked for a pause; a person who hurries does."""

    async def main() -> None:
        async with open_world() as w:
            pollers = w.pollers()
            async with running(pollers):
                w.shop.broken["orders"] = lambda request: web.Response(
                    status=429, headers={"Retry-After": "600"}
                )
                instance = await w.create("orders")
                await until_row(
                    w.polling.pool,
                    "SELECT failures FROM cursors WHERE instance_id = $1",
                    instance.id,
                )
                w.shop.broken.clear()
                pollers.wake(instance.id)
                other = await w.create("notes")
                await until_row(w.polling.pool, BASELINE, other.id, 1)
                assert ["/orders", "/notes"] == paths(w)
                pollers.wake(instance.id, hurry=True)
                await until_row(w.polling.pool, BASELINE, instance.id, 1)

    run(main())


def test_slow_provider_leaves_turns(open_world: Open, run: Run) -> None:
    """Instances of one provider that does not answer use up only their share of the turns."""

    async def main() -> None:
        turns = asyncio.Semaphore(4)
        async with open_world() as w, running(w.pollers(per_provider=3, turns=turns)):
            gate = Gate()
            w.shop.broken["orders"] = gate
            for _ in range(6):
                await w.create("orders")
            await until(lambda: 3 == len(w.shop.asked))
            assert not turns.locked()
            other = await w.create("notes", base__url="another provider")
            await until_row(w.polling.pool, BASELINE, other.id, 1)

    run(main())


def test_a_thousand_start_spread(open_world: Open, run: Run) -> None:
    """The first polls of a thousand instances are spread evenly over twenty seconds."""

    async def main() -> None:
        async with open_world() as w:
            first = await w.create("orders")
            entries = [w.another("orders") for _ in range(999)]
            for at in range(0, 999, 111):
                await w.writer.append(Unit(entries[at : at + 111]))
            await w.polling.directory.refresh()
            chances = iter(n / 1000 for n in range(1000))
            starts: list[float] = []

            class Watched(Pollers):
                def _start(self, group: Any, instance: Instance, *, first_after: float) -> None:
                    starts.append(first_after)

            polling = replace(w.polling, chance=lambda: next(chances))
            async with running(Watched(polling=polling, elements=w.registry)):
                await until(lambda: 1000 == len(starts))
            assert w.polling.directory.get(first.id) is not None
            assert starts == sorted(starts)
            assert (0.0, 19.98) == (starts[0], round(starts[-1], 2))

    run(main())


def test_interval_is_jittered(open_world: Open, run: Run) -> None:
    """The time from one poll to the next is the interval, up to a tenth shorter or longer."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            for chance, seconds in ((0.0, 810.0), (0.5, 900.0), (1.0, 990.0)):
                poller: Poller = w.poller(instance, chance=lambda chance=chance: chance)
                assert seconds == round(poller._usual(), 6)
                await poller.poll_once()
                assert poller._until_retry() == float("inf")
            assert timedelta(minutes=15).total_seconds() == poller.interval

    run(main())
