"""Pollers at work on a real database and a shop; the clock is the test's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from heart import writing
from poller.shop import ELEMENT, Shop
from servers import serving

from daemon import elements
from daemon.connections import Connections
from daemon.elements import Registry
from daemon.elements.base import Element
from daemon.model import Instance
from daemon.outbound.client import Client, Limits
from daemon.plans import compile_plans
from daemon.poller import Pollers, Polling
from daemon.poller.poller import Poller
from daemon.store import database, instances, objects, vault
from daemon.store.directory import Directory
from daemon.store.log import SELF, Entry
from daemon.store.writer import Unit, Writer

START = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)

Told = list[tuple[str, str]]


class World:
    """Everything that a poller needs, and what became of it."""

    def __init__(
        self,
        polling: Polling,
        registry: Registry,
        shop: Shop,
        writer: Writer,
        *,
        clock: list[datetime],
        uptime: list[float],
    ) -> None:
        self.polling = polling
        self.registry = registry
        self.shop = shop
        self.writer = writer
        self._clock = clock
        self._uptime = uptime

    @property
    def now(self) -> datetime:
        """Our own clock."""
        return self._clock[0]

    def advance(self, seconds: float) -> None:
        """Let all clocks go on."""
        self._uptime[0] += seconds
        self._clock[0] += timedelta(seconds=seconds)
        self.shop.now += timedelta(seconds=seconds)

    def set_clock(self, seconds: float) -> None:
        """Set our own clock, forwards or backwards, though no time goes by."""
        self._clock[0] += timedelta(seconds=seconds)

    async def create(self, *wanted: str, **settings: str | None) -> Instance:
        """An instance that polls the resources *wanted*; `__` in a setting's name is a dot."""
        return await self._append("instance.created", SELF, wanted, settings)

    async def configure(self, instance: Instance, *wanted: str, **settings: str | None) -> Instance:
        """The instance with another configuration."""
        return await self._append("instance.configured", instance.id, wanted, settings)

    async def switch(self, instance: Instance, kind: str) -> None:
        """`instance.deleted`, `instance.disabled` or `instance.enabled`."""
        plans = compile_plans(instance.configuration, self.registry.get("shop").poller_defaults)
        entry = instances.changed(
            kind,
            instance,
            resources=[plan.resource for plan in plans],
            disabled=kind == "instance.disabled",
        )
        await self.writer.append(Unit([entry], instance_id=instance.id))
        await self.polling.directory.refresh()

    async def _append(
        self, kind: str, instance_id: int, wanted: tuple[str, ...], settings: dict[str, str | None]
    ) -> Instance:
        entry = self.another(*wanted, kind=kind, instance_id=instance_id, **settings)
        secrets = {
            "oauth.api.secret": "s",
            "oauth.user.token": "first",
            "oauth.user.refresh_token": "r-0",
        }
        receipt = await self.writer.append(Unit([entry], instance_id=instance_id, secrets=secrets))
        await self.polling.directory.refresh()
        found = self.polling.directory.get(instance_id or receipt.position)
        assert found is not None
        return found

    def another(
        self,
        *wanted: str,
        kind: str = "instance.created",
        instance_id: int = SELF,
        **settings: str | None,
    ) -> Entry:
        """The entry of such an instance."""
        configuration: dict[str, str | None] = {
            "event.notification.enabled": "true",
            "event.notification.callback.url": "https://app.test/hook",
            "event.poller.refresh_interval": "15",
            "event.objects": ",".join(wanted) or "contacts",
            "oauth.api.key": "client",
            "oauth.user.token": "********",
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        plans = compile_plans(configuration, self.registry.get("shop").poller_defaults)
        token = instances.new_token()
        return instances.entry(
            kind,
            instance_id=instance_id,
            organization_id=2,
            user_id=2,
            element_key="shop",
            hub="general",
            name="Shop",
            tags=(),
            configuration=configuration,
            token_digest=instances.digest(token),
            disabled=False,
            callback="https://app.test/hook",
            resources=[plan.resource for plan in plans],
        )

    def poller(self, instance: Instance, element: Element | None = None, **rules: Any) -> Poller:
        """A poller of its own for *instance*, as after a start."""
        polling = replace(self.polling, **rules)
        return Poller(polling, instance, element or self.registry.get("shop"))

    def pollers(self, **rules: Any) -> Pollers:
        """The loop that has all pollers."""
        return Pollers(polling=replace(self.polling, **rules), elements=self.registry)

    async def told(self, instance: Instance | int) -> Told:
        """(change, object id) of all that the log tells, in order."""
        return [(row["change"], row["object_id"]) for row in await self.changes(instance)]

    async def changes(self, instance: Instance | int) -> list[Any]:
        """The changes in the log, in order."""
        return await self.polling.pool.fetch(
            "SELECT change, object_type, object_id, data FROM log WHERE kind = 'change' AND instance_id = $1 ORDER BY position",
            instance if isinstance(instance, int) else instance.id,
        )

    async def versions(self, instance: Instance) -> list[tuple[str, str, int | None]]:
        """(change, object id, version) of all that the log tells."""
        return [
            (row["change"], row["object_id"], orjson.loads(row["data"]).get("v"))
            for row in await self.changes(instance)
        ]

    async def cursor(self, instance: Instance, resource: str) -> Any:
        """The resource's row of `cursors`."""
        rows = await objects.cursors(self.polling.pool, instance.id)
        return next((row for row in rows if row["resource"] == resource), None)

    async def kinds(self, instance: Instance) -> list[str]:
        """The kinds of the instance's entries, in order."""
        rows = await self.polling.pool.fetch(
            "SELECT kind FROM log WHERE instance_id = $1 ORDER BY position", instance.id
        )
        return [row["kind"] for row in rows]

    async def entry(self, instance: Instance, kind: str, resource: str = "contacts") -> None:
        """What a person says: `poll.resumed`, `sweep.allowed`."""
        await self.writer.append(Unit([objects.poll_entry(kind, instance.id, resource)]))


@asynccontextmanager
async def world(
    dsn: str,
    keys: vault.Keys,
    folder: Path,
    *,
    through: str | None = None,
    skew: float = 0,
    provider: Callable[[datetime], Any] = Shop,
    definition: str = ELEMENT,
    **rules: Any,
) -> AsyncIterator[World]:
    """Start everything; the shop's clock is *skew* seconds off ours, *through* the DSN of a proxy to the database.

    Another *provider* may be in the shop's place, described by *definition*, whose key is `shop` too.
    """
    shop = provider(START + timedelta(seconds=skew))
    clock, uptime = [START], [1000.0]
    async with (
        serving(shop.answer) as origin,
        database.open_pool(through or dsn, size=4) as pool,
        writing(through or dsn, keys) as writer,
        Client(Limits(connect=2, total=5)) as http,
    ):
        file = folder / "shop.toml"
        file.write_text(definition.replace("ORIGIN", origin))
        directory = Directory(pool=pool, keys=keys)
        await directory.load()
        registry = elements.load([file])
        connections = Connections(http=http, elements=registry, directory=directory, writer=writer)
        polling = Polling(
            pool=pool,
            writer=writer,
            directory=directory,
            connections=connections,
            turns=asyncio.Semaphore(8),
            clock=lambda: clock[0],
            monotonic=lambda: uptime[0],
            chance=lambda: 0.5,
            **rules,
        )
        yield World(polling, registry, shop, writer, clock=clock, uptime=uptime)


@asynccontextmanager
async def running(pollers: Pollers) -> AsyncIterator[None]:
    """The pollers at work; an error that ends them fails the test."""
    task = asyncio.create_task(pollers.run())
    try:
        yield
    finally:
        ended = task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert not ended, "the pollers ended by themselves"
