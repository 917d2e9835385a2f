"""What goes wrong outside while polling: written down, waited out, and nobody else's trouble."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest
from heart import until
from poller.polled import World
from poller.shop import status
from proxy import Proxy

from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.model import Page, Query

Open = Callable[..., AbstractAsyncContextManager[World]]
Run = Callable[..., Any]


class Faulty(Defined):
    """The shop's element with a bug in it: reading one resource raises what nobody expects."""

    def __init__(self, shop: Defined, resource: str, error: Exception) -> None:
        super().__init__(shop.definition)
        self._resource, self._error = resource, error

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages, or raise."""
        return (
            self._raise()
            if query.resource == self._resource
            else super().read(http, settings, query)
        )

    async def _raise(self) -> AsyncGenerator[Page]:
        raise self._error
        yield


def test_one_resource_fails(open_world: Open, run: Run) -> None:
    """A resource that fails is written down with the provider's answer; the others are polled all the same."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders", "tickets")
            w.shop.broken["orders"] = status(500)
            await w.poller(instance).poll_once()
            orders, tickets = [await w.cursor(instance, name) for name in ("orders", "tickets")]
            assert (None, 1) == (orders["baseline"], orders["failures"])
            assert "answered 500" in orders["error"]
            assert (0, None) == (tickets["failures"], tickets["error"])
            assert tickets["baseline"] is not None

    run(main())


@pytest.mark.parametrize("error", [KeyError("x"), OSError("socket"), TimeoutError()])
def test_unexpected_exception(open_world: Open, run: Run, error: Exception) -> None:
    """An exception that an element must not raise is that resource's failure, not an outage of the database."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders", "tickets")
            shop = w.registry.get("shop")
            assert isinstance(shop, Defined)
            assert await w.poller(instance, Faulty(shop, "orders", error)).poll_once()
            assert 1 == (await w.cursor(instance, "orders"))["failures"]
            assert (await w.cursor(instance, "tickets"))["baseline"] is not None

    run(main())


def test_back_off(open_world: Open, run: Run) -> None:
    """Each failure in a row doubles the wait; until it is over the resource is left alone, also after a restart."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            w.shop.broken["orders"] = status(502)
            waits = []
            for _ in range(4):
                await w.poller(instance).poll_once()
                row = await w.cursor(instance, "orders")
                waits.append((row["retry"] - w.now).total_seconds())
                asked = len(w.shop.asked)
                w.advance(waits[-1] - 1)
                await w.poller(instance).poll_once()
                assert asked == len(w.shop.asked), "asked before its time"
                w.advance(1)
            # Jitter takes a tenth away: `chance` is one half, of 0.2.
            assert [13.5, 27.0, 54.0, 108.0] == waits
            w.shop.broken.clear()
            await w.poller(instance).poll_once()
            assert (await w.cursor(instance, "orders"))["baseline"] is not None

    run(main())


def test_retry_after(open_world: Open, run: Run) -> None:
    """A provider's Retry-After is obeyed in full, after a restart too, and by a poll that only a hint asked for."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            w.shop.faults = [status(429, Retry_After="3000")]
            await w.poller(instance).poll_once()
            row = await w.cursor(instance, "orders")
            assert timedelta(seconds=3000) == row["retry"] - w.now
            w.advance(2999)
            await w.poller(instance).poll_once()
            assert 1 == len(w.shop.asked)
            w.advance(1)
            await w.poller(instance).poll_once(retries_only=True)
            assert 2 == len(w.shop.asked)

    run(main())


def test_retries_leave_the_others_alone(open_world: Open, run: Run) -> None:
    """When a failed resource is tried again, those that work are not polled before their time."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders", "tickets")
            poller = w.poller(instance)
            w.shop.broken["orders"] = status(500)
            await poller.poll_once()
            w.shop.asked.clear()
            w.advance(60)
            await poller.poll_once(retries_only=True)
            assert [True] == [path.startswith("/orders") for path in w.shop.asked]

    run(main())


def test_refused_until_resumed(open_world: Open, run: Run) -> None:
    """A resource that the provider refuses waits an interval each time, is given up after so many, and goes on when a person says so."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders", "tickets")
            poller = w.poller(instance, disable_after_failures=3)
            w.shop.broken["orders"] = status(403)
            for failures in range(1, 4):
                await poller.poll_once()
                row = await w.cursor(instance, "orders")
                assert (failures, failures == 3) == (row["failures"], row["disabled"])
                assert timedelta(minutes=15) == row["retry"] - w.now
                w.advance(901)
            w.shop.asked.clear()
            await poller.poll_once(hurry=True)
            assert not [path for path in w.shop.asked if path.startswith("/orders")]
            assert 1 == (await w.kinds(instance)).count("poll.disabled")
            w.shop.broken.clear()
            await w.entry(instance, "poll.resumed", "orders")
            await poller.poll_once()
            row = await w.cursor(instance, "orders")
            assert (False, 0) == (row["disabled"], row["failures"])
            assert row["baseline"] is not None

    run(main())


def test_expired_token(open_world: Open, run: Run) -> None:
    """A 401 in the middle of a walk refreshes the token, keeps it in the vault, and the walk goes on."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders", event__poller__backfill="true")
            for number in range(5):
                w.shop.put("orders", number)

            def expire(request: Any) -> None:
                w.shop.token = "another"

            w.shop.faults = [None, expire]
            await w.poller(instance).poll_once()
            assert [("CREATED", str(n)) for n in range(5)] == await w.told(instance)
            settings = await w.polling.directory.settings(instance)
            assert ("token-1", "r-1") == (
                settings["oauth.user.token"],
                settings["oauth.user.refresh_token"],
            )
            w.shop.asked.clear()
            await w.poller(instance).poll_once()
            assert 1 == w.shop.refreshed, "the new token was not used again"

    run(main())


def test_revoked_access(open_world: Open, run: Run) -> None:
    """When a refresh does not help, the poll has failed, with words that a person can act on."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            w.shop.token = "another"
            w.shop.broken["token"] = status(400)
            await w.poller(instance).poll_once()
            assert "access was not granted" in (await w.cursor(instance, "orders"))["error"]

    run(main())


def test_secret_that_does_not_open(open_world: Open, run: Run) -> None:
    """An instance whose secrets no key opens fails by itself: its poller writes that down and does not end."""

    async def main() -> None:
        async with open_world() as w:
            instance = await w.create("orders")
            await w.polling.pool.execute("UPDATE vault SET key_id = 'lost'")
            assert await w.poller(instance).poll_once()
            assert "restore that line" in (await w.cursor(instance, "orders"))["error"]

    run(main())


def test_database_away(open_world: Open, dsn: str, run: Run) -> None:
    """A poll during which the database goes away is done again; nothing is lost, and it is not the provider's failure."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, open_world(through=proxy.dsn) as w:
            instance = await w.create("orders")
            poller = w.poller(instance)
            await poller.poll_once()
            w.advance(90)
            for number in range(5):
                w.shop.put("orders", number)

            def cut(request: Any) -> None:
                proxy.refusing = True
                proxy.cut()

            w.shop.faults = [None, cut]
            assert not await poller.poll_once()
            assert not await poller.poll_once()
            proxy.refusing = False
            await until(lambda: w.writer.connected)
            assert await poller.poll_once()
            assert [("CREATED", str(n)) for n in range(5)] == await w.told(instance)
            assert ["poll.baseline", "poll.completed"] == [
                kind for kind in await w.kinds(instance) if kind.startswith("poll.")
            ]

    run(main())


# Sweeps.


def test_incomplete_inventory(open_world: Open, run: Run) -> None:
    """An inventory that breaks off deletes nothing; the next, whole one does."""

    async def main() -> None:
        async with open_world() as w:
            for number in range(5):
                w.shop.put("contacts", number)
            w.advance(3600)
            instance = await w.create("contacts")
            poller = w.poller(instance)
            await poller.poll_once()
            w.shop.drop("contacts", 4)
            w.advance(90)
            # The question for changes, then the inventory's first page, then the page that breaks.
            w.shop.faults = [None, None, status(500)]
            await poller.poll_once()
            assert [] == await w.told(instance)
            await poller.poll_once(hurry=True)
            assert [("DELETED", "4")] == await w.told(instance)

    run(main())


def test_provider_that_forgets_half(open_world: Open, run: Run) -> None:
    """What a list does not show but the provider still has, asked for one by one, is not deleted."""

    async def main() -> None:
        async with open_world() as w:
            for number in range(8):
                w.shop.put("contacts", number)
            instance = await w.create("contacts")
            poller = w.poller(instance)
            await poller.poll_once()
            w.advance(3600)
            w.shop.incomplete = True
            await poller.poll_once()
            assert [] == await w.told(instance)

    run(main())


def test_brake(open_world: Open, run: Run) -> None:
    """A sweep that would delete too much stops and says so, is never given up, changes go on; allowed, it passes once."""

    async def main() -> None:
        async with open_world() as w:
            for number in range(12):
                w.shop.put("contacts", f"{number:02}")
            instance = await w.create("contacts")
            poller = w.poller(instance, disable_after_failures=2)
            await poller.poll_once()
            w.advance(3600)
            for number in range(11):
                w.shop.drop("contacts", f"{number:02}")
            for _ in range(3):
                await poller.poll_once()
                w.advance(901)
            row = await w.cursor(instance, "contacts")
            assert (3, False) == (row["failures"], row["disabled"])
            assert "11 of 12" in row["error"]
            w.shop.put("contacts", "new")
            await poller.poll_once()
            assert [("CREATED", "new")] == await w.told(instance)
            await w.entry(instance, "sweep.allowed")
            await poller.poll_once()
            gone = [("DELETED", f"{number:02}") for number in range(11)]
            assert [("CREATED", "new"), *gone] == await w.told(instance)
            row = await w.cursor(instance, "contacts")
            assert (0, False) == (row["failures"], row["allow_sweep"])
            for number in range(12):
                w.shop.put("contacts", f"x{number:02}")
            await poller.poll_once()
            for number in range(12):
                w.shop.drop("contacts", f"x{number:02}")
            w.advance(90)
            await poller.poll_once()
            assert "12 of 14" in (await w.cursor(instance, "contacts"))["error"]

    run(main())


def test_sweep_interval(open_world: Open, run: Run) -> None:
    """With event.poller.sweep_interval the inventory is taken so often and not with every poll, restarts included."""

    async def main() -> None:
        async with open_world() as w:
            w.shop.put("contacts", 1)
            instance = await w.create("contacts", event__poller__sweep_interval="60")
            poller = w.poller(instance)
            await poller.poll_once()
            w.shop.drop("contacts", 1)
            for _ in range(3):
                w.advance(900)
                await poller.poll_once()
                await w.poller(instance).poll_once()
            assert [] == await w.told(instance)
            w.advance(901)
            await poller.poll_once()
            assert [("DELETED", "1")] == await w.told(instance)

    run(main())
