"""A simulated Campaign Monitor and all that polls it and listens to it, on a real database and with one clock."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web
from heart import writing
from servers import serving

from daemon import elements, webhook_urls
from daemon.connections import Connections
from daemon.elements.campaignmonitor.element import CampaignMonitor as Element
from daemon.elements.connection import Connection
from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor
from daemon.elements.simulators.ledger import Clock
from daemon.model import Incoming, Instance, Page
from daemon.outbound.client import Client, Limits
from daemon.plans import compile_plans
from daemon.poller import Polling
from daemon.poller.poller import Poller
from daemon.store import database, instances, vault
from daemon.store.directory import Directory
from daemon.store.log import SELF
from daemon.store.writer import Unit
from daemon.webhooks import Webhooks

START = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
KEY = {"authentication.type": "apiKey", "api.key": "campaignmonitor-key"}
OAUTH = {
    "oauth.api.key": "xxxxxxxxxxxxxxxxxx",
    "oauth.api.secret": "xxxxxxxxxxxxxxxxxxxxxx",
    "oauth.callback.url": "https://mycoolapp.com",
}
SECRETS = ("api.key", "oauth.api.secret", "oauth.user.token", "oauth.user.refresh_token", webhook_urls.SECRET)  # fmt: skip


def element(origin: str, clock: Clock | None = None) -> Element:
    """The element, and the server at *origin* in the provider's place."""
    built = elements.built_in("campaignmonitor", **({"now": clock} if clock else {}))
    made = built.beside(origin)
    assert isinstance(made, Element)
    return made


class Account:
    """One instance: what polls it, what takes its webhooks, and what the log tells of it."""

    def __init__(
        self, provider: CampaignMonitor, clock: Clock, polling: Polling, instance: Instance, registry: elements.Registry
    ) -> None:  # fmt: skip
        self.provider, self.clock, self.polling, self.instance = provider, clock, polling, instance
        self.registry = registry
        self.element = registry.get("campaignmonitor")
        self.address = ""
        self.knocks = 0
        self.poller = Poller(polling, instance, self.element)

    def restart(self) -> None:
        """A poller as after a start: what it had in memory is gone."""
        self.poller = Poller(self.polling, self.instance, self.element)

    async def poll(self) -> None:
        """Poll once, whatever waits."""
        assert await self.poller.poll_once(hurry=True)

    async def connection(self) -> Connection:
        """The instance's own."""
        return await self.polling.connections.of(self.instance)

    async def tend(self) -> dict[str, str]:
        """Look after the webhooks, and keep what that brings."""
        connection = await self.connection()
        kept = await self.element.tend(connection, connection.settings, self.address)
        if kept:
            await self.polling.writer.append(Unit(instance_id=self.instance.id, secrets=kept))
            self.polling.directory.forget_settings(self.instance.id)
        return kept

    async def changes(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(change, object id, record) of all that the log tells, in order."""
        rows = await self.polling.pool.fetch(
            "SELECT change, object_id, data FROM log WHERE kind = 'change' AND instance_id = $1 ORDER BY position",
            self.instance.id,
        )
        return [
            (row["change"], row["object_id"], orjson.loads(row["data"] or "{}")) for row in rows
        ]

    async def told(self) -> list[tuple[str, str]]:
        """(change, address) of all that the log tells, in order."""
        return [(change, name.partition("/")[2]) for change, name, _ in await self.changes()]

    async def trouble(self) -> str | None:
        """What the last poll failed with."""
        return await self.polling.pool.fetchval(
            "SELECT error FROM cursors WHERE instance_id = $1", self.instance.id
        )


@asynccontextmanager
async def opened(
    dsn: str, keys: vault.Keys, provider: CampaignMonitor, clock: Clock, **settings: str
) -> AsyncIterator[Account]:
    """Everything that polls and listens, on the database *dsn*; `__` in a setting's name is a dot."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        origin = await enter(provider.running())
        pool = await enter(database.open_pool(dsn, size=4))
        writer = await enter(writing(dsn, keys))
        client = await enter(Client(Limits(connect=2, total=5)))
        registry = elements.Registry([element(origin, clock)])
        directory = Directory(pool=pool, keys=keys)
        await directory.load()
        connections = Connections(http=client, elements=registry, directory=directory, writer=writer)  # fmt: skip
        polling = Polling(
            pool=pool, writer=writer, directory=directory, connections=connections,
            turns=asyncio.Semaphore(8), clock=clock, chance=lambda: 0.5,
            monotonic=lambda: clock().timestamp(),
        )  # fmt: skip
        given = {name.replace("__", "."): value for name, value in settings.items()}
        instance = await _created(polling, registry, provider, client, given)
        account = Account(provider, clock, polling, instance, registry)
        webhooks = Webhooks(
            elements=registry,
            directory=directory,
            writer=writer,
            wake_poller=lambda _: _knocked(account),
            hint_poller=lambda _, names: account.poller.hint(names),
            public_url="",
            timeout=5.0,
        )
        app = web.Application()
        app.add_routes(webhooks.routes())
        public = await enter(serving(app))
        known = await directory.settings(instance)
        account.address = webhook_urls.write(public, "campaignmonitor", instance.id, known)
        yield account


def _knocked(account: Account) -> None:
    account.knocks += 1


async def _created(
    polling: Polling, registry: elements.Registry, provider: CampaignMonitor, client: Client, given: dict[str, str]
) -> Instance:  # fmt: skip
    made = registry.get("campaignmonitor")
    settings = {
        **(KEY if "authentication.type" not in given else {}),
        "event.notification.enabled": "true",
        "event.notification.callback.url": "https://app.test/hook",
        webhook_urls.SECRET: webhook_urls.new_secret(),
        **given,
    }
    if settings["authentication.type"] == "oauth2":
        code = provider.grant(OAUTH["oauth.callback.url"])
        settings |= OAUTH
        settings |= await made.exchange(client, settings, code, {"code": code})
    made.check_settings(settings)
    plans = compile_plans(settings, made.poller_defaults)
    entry = instances.entry(
        "instance.created",
        instance_id=SELF,
        organization_id=2,
        user_id=2,
        element_key=made.key,
        hub=made.hub,
        name="Lists",
        tags=(),
        configuration={k: "********" if k in SECRETS else v for k, v in settings.items()},
        token_digest=instances.digest("token"),
        disabled=False,
        callback="https://app.test/hook",
        resources=[plan.resource for plan in plans],
    )
    secrets = {key: settings[key] for key in SECRETS if key in settings}
    receipt = await polling.writer.append(Unit([entry], instance_id=SELF, secrets=secrets))
    await polling.directory.refresh()
    found = polling.directory.get(receipt.position)
    assert found is not None
    return found


def incoming(body: bytes, path: str = "/events/campaignmonitor") -> Incoming:
    """A webhook as it arrives."""
    return Incoming("POST", path, f"https://tidings.example{path}", {}, {}, body)


async def collect(pages: AsyncGenerator[Page] | None) -> list[dict[str, Any]]:
    """All records."""
    assert pages is not None
    async with aclosing(pages):
        return [record async for page in pages for record in page.records]


def connected(test: Any, provider: CampaignMonitor | None = None, **settings: str) -> Any:
    """Run *test* with a provider, the element and a connection; `__` in a setting's name is a dot."""
    provider = provider or CampaignMonitor(now=Clock(START))

    async def main() -> Any:
        async with provider.running() as origin, Client() as client:
            one = element(origin)
            known = {**KEY, **{key.replace("__", "."): value for key, value in settings.items()}}

            async def save(new: dict[str, str]) -> None:
                known.update(new)

            connection = Connection(http=client, element=one, settings=known, save=save)
            return await test(provider, one, connection)

    return asyncio.run(main())
