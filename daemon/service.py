"""The daemon, put together: what is open stands on one exit stack, what runs is a named loop.

site ─► webhooks, API ─┐
pollers ───────────────┼─► writer ─► log ─► dispatcher ─► callbacks
                       │             └───► alerts ─► the operator
follow: the log and other processes tell of instances and callbacks
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import orjson
import structlog
from aiohttp import web

from daemon import elements, systemd
from daemon.alerts import Alerts, Destination
from daemon.api import Arrivals, Context
from daemon.backoff import Schedule
from daemon.caretaker import Caretaker
from daemon.config import Config
from daemon.connections import Connections
from daemon.dispatcher import Delivery, Dispatcher
from daemon.dispatcher.handshake import Handshakes
from daemon.dispatcher.items import Rules
from daemon.outbound import client, connection
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.client import Client
from daemon.outbound.sender import Sender
from daemon.poller import Pollers, Polling
from daemon.server import make_app, open_site
from daemon.store import alerts, database, log, vault
from daemon.store.database import AWAY, Connection, Pool
from daemon.store.directory import Directory
from daemon.store.embedded import embedded_postgres, keep_running
from daemon.store.log import Entry
from daemon.store.writer import Unit, Writer, append_once
from daemon.supervisor import Loop, stop_on_signals, supervise
from daemon.systemd import Watchdog
from daemon.webhooks import Webhooks

logger = structlog.get_logger()


def _version() -> str:
    try:
        return version("tidings")
    except PackageNotFoundError:  # a checkout that nobody installed
        return "0"


VERSION = _version()

AGENT = f"tidings/{VERSION}"

FOLLOW_PAUSE = 0.1
"""Seconds between two looks: whoever appends beside us tells us each time."""

FOLLOW_BACKSTOP = 5.0
"""Seconds after which instances and callbacks are looked at though nobody said that they changed."""


@dataclass(frozen=True, slots=True)
class Base:
    """What every verb that touches the log needs."""

    dsn: str
    pool: Pool
    keys: vault.Keys
    connect_timeout: float

    async def connect(self, *, owner: bool = False) -> Connection:
        """One connection beside the pool, as the daemon's role or as the *owner*; raises one of `OUTAGE`."""
        role = None if owner else database.ROLE
        return await database.connect(self.dsn, role=role, timeout=self.connect_timeout)


@asynccontextmanager
async def open_base(config: Config, *, opened: bool = True) -> AsyncIterator[Base]:
    """The database (started, when it is the embedded one), its schema and the vault's keys.

    A new log is given its first entry, unless *opened* is false: an import brings its own.
    Raises `ConfigError`, or one of `OUTAGE` when the configured server does not answer.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        config.state.directory.mkdir(parents=True, exist_ok=True)
        keys = vault.load_keys(config.vault.key_file, create=True)
        if config.database.dsn is None:
            dsn = await enter(embedded_postgres(_embedded(config)))
        else:
            dsn = config.database.dsn.reveal()
        chosen = config.database
        await database.install(dsn, connect_timeout=chosen.connect_timeout)
        pool = await enter(
            database.open_pool(
                dsn,
                size=chosen.pool_size,
                connect_timeout=chosen.connect_timeout,
                command_timeout=chosen.command_timeout,
            )
        )
        base = Base(dsn, pool, keys, chosen.connect_timeout)
        if opened:
            await open_log(base)
        yield base


async def serve(config: Config, *, ready: "asyncio.Future[str] | None" = None) -> None:
    """Run the daemon until SIGINT or SIGTERM; *ready* is given the site's address when it answers."""
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        base = await enter(open_base(config))
        registry = elements.load(config.elements.directories, stand_ins=config.elements.stand_ins)
        directory = Directory(pool=base.pool, keys=base.keys)
        addresses = AddressPolicy(allow=config.outbound.allow_networks)
        http = await enter(open_client(config, addresses))
        sender = await enter(open_sender(config, addresses))
        arrivals = Arrivals(base.pool)
        follower = Follower(base=base, directory=directory, arrivals=arrivals)
        writer = Writer(
            dsn=base.dsn,
            keys=base.keys,
            on_append=follower.appended,
            connect_timeout=base.connect_timeout,
        )
        await writer.open()
        await directory.load()
        dispatcher = Dispatcher(
            pool=base.pool,
            writer=writer,
            directory=directory,
            sender=sender,
            delivery=delivery(config),
            handshakes=Handshakes(asker=sender, origin=_host(config.server.url), agent=AGENT),
            agent=AGENT,
        )
        connections = Connections(http=http, elements=registry, directory=directory, writer=writer)
        pollers = Pollers(
            polling=polling(config, base, writer, directory, connections), elements=registry
        )
        caretaker = Caretaker(
            directory=directory,
            elements=registry,
            connections=connections,
            public_url=config.server.url,
        )
        alerting = Alerts(
            pool=base.pool, writer=writer, sender=sender, to=destination(config), agent=AGENT
        )
        follower.dispatcher, follower.pollers, follower.alerting = dispatcher, pollers, alerting
        webhooks = Webhooks(
            elements=registry,
            directory=directory,
            writer=writer,
            wake_poller=pollers.wake,
            hint_poller=pollers.hint,
            public_url=config.server.url,
            timeout=config.server.webhook_timeout,
        )
        context = Context(
            arrivals=arrivals,
            pool=base.pool,
            keys=base.keys,
            writer=writer,
            directory=directory,
            elements=registry,
            http=http,
            connections=connections,
            addresses=addresses,
            public_url=config.server.url,
        )
        site = Loop(
            "site",
            Site(
                config,
                make_app(context, extra_routes=webhooks.routes(), server=config.server),
                ready,
            ).run,
        )
        await supervise(
            [
                site,
                Loop("pollers", pollers.run),
                Loop("caretaker", caretaker.run),
                Loop("dispatcher", dispatcher.run, phase=1),
                Loop("alerts", alerting.run, phase=1),
                Loop("arrivals", arrivals.run, phase=1),
                Loop("follow", follower.run, phase=2),
                Loop("writer", writer.run, phase=3),
                Loop("watchdog", Watchdog(lambda: alive(base.pool)).run, phase=3),
                *database_loops(config),
            ],
            stop=stop,
            grace=config.server.stop_grace,
        )
        systemd.notify(systemd.STOPPING)


def database_loops(config: Config) -> list[Loop]:
    """What keeps the database running: the embedded one only, another's is somebody else's to start."""
    if config.database.dsn is not None:
        return []
    return [Loop("postgres", partial(keep_running, _embedded(config)), phase=3)]


def _embedded(config: Config) -> Path:
    """Where the embedded PostgreSQL has its data."""
    return config.state.directory / "postgres"


async def alive(pool: Pool) -> None:
    """Return when PostgreSQL answers, or is known to be away.

    Away, the daemon answers 503, keeps what it has and tries again: being restarted would not help.  What
    must not count as alive is a process that hangs.
    """
    try:
        await database.ping(pool)
    except AWAY as error:
        logger.warning("database away", error=str(error) or type(error).__name__)


def open_client(config: Config, addresses: AddressPolicy | None) -> Client:
    """The HTTP client for providers.

    An instance's `base.url` comes from whoever may create instances, so providers' addresses are checked as
    callbacks' are.
    """
    chosen = config.outbound
    return Client(
        client.Limits(
            connect=chosen.connect_timeout,
            total=chosen.total_timeout,
            body=chosen.body_limit,
            per_host=chosen.per_host,
        ),
        addresses=None if addresses is None else client.allowed_by(addresses),
        proxy=None if chosen.proxy is None else chosen.proxy.reveal(),
        agent=AGENT,
    )


def open_sender(config: Config, addresses: AddressPolicy) -> Sender:
    """The HTTP client for callbacks."""
    chosen = config.delivery
    return Sender(
        policy=addresses,
        limits=connection.Limits(
            connect=chosen.connect_timeout,
            head=chosen.total_timeout,
            total=chosen.total_timeout,
            per_origin=per_origin(config),
        ),
    )


def per_origin(config: Config) -> int:
    """Connections to one origin, and attempts at once to the callbacks there."""
    return max(connection.Limits().per_origin, config.delivery.concurrency)


def _host(url: str) -> str:
    """The name under which receivers know this tidings."""
    return urlsplit(url).hostname or "localhost"


def delivery(config: Config) -> Delivery:
    """How deliveries are made."""
    chosen = config.delivery
    return Delivery(
        schedule=Schedule(chosen.retries),
        rules=Rules(window=chosen.window, concurrency=chosen.concurrency),
        disable_after=chosen.disable_after,
        per_origin=per_origin(config),
        drain=config.server.stop_grace,
    )


def destination(config: Config) -> Destination | None:
    """Where alerts go; None where the operator wants none."""
    chosen = config.alerts
    return None if chosen.url is None else Destination(chosen.url, chosen.key)


def polling(
    config: Config,
    base: Base,
    writer: Writer,
    directory: Directory,
    connections: Connections,
) -> Polling:
    """How providers are polled."""
    chosen = config.polling
    return Polling(
        pool=base.pool,
        writer=writer,
        directory=directory,
        connections=connections,
        turns=asyncio.Semaphore(chosen.concurrency),
        jitter=chosen.jitter,
        disable_after_failures=chosen.disable_after_failures,
        sweep_limit=chosen.sweep_limit,
        per_provider=2 * config.outbound.per_host,
    )


class Site:
    """The listening site, as a loop: open while the others run, closed first."""

    def __init__(
        self, config: Config, app: web.Application, ready: "asyncio.Future[str] | None"
    ) -> None:
        self._config = config
        self._app = app
        self._ready = ready

    async def run(self) -> None:
        """Listen until cancelled."""
        async with open_site(self._config.server, self._app) as address:
            logger.info("ready", address=address)
            systemd.notify(systemd.READY, systemd.status(f"listening on {address}"))
            if self._ready is not None:
                self._ready.set_result(address)
            await asyncio.get_running_loop().create_future()


class Follower:
    """Keeps memory in step with the log: tells whoever must know that instances or callbacks changed."""

    def __init__(self, *, base: Base, directory: Directory, arrivals: Arrivals) -> None:
        self._base = base
        self._directory = directory
        self._arrivals = arrivals
        self._look = asyncio.Event()
        self.dispatcher: Dispatcher
        self.pollers: Pollers
        self.alerting: Alerts

    def appended(self, kinds: frozenset[str]) -> None:
        """The writer added entries of these *kinds*."""
        if "change" in kinds or "delivery.asked" in kinds:
            self.dispatcher.wake()
        if "change" in kinds:
            self._arrivals.look()
        if any(kind.startswith("instance.") for kind in kinds):
            self._look.set()
        if any(kind.startswith(("callback.", "replay.")) for kind in kinds):
            self.dispatcher.look_again()
        if not alerts.KINDS.isdisjoint(kinds):
            self.alerting.wake()

    def _told(self, *args: object) -> None:
        """Another process appended (the kinds, with commas), or asks for a poll (`poll <instance>`)."""
        payload = str(args[-1])
        if payload.startswith("poll "):
            if payload[5:].isdecimal():
                self.pollers.wake(int(payload[5:]), hurry=True)
        elif payload:
            self.appended(frozenset(payload.split(",")))
        else:
            self._look_everywhere()

    def _look_everywhere(self) -> None:
        """Something may have been appended, by whoever."""
        self.dispatcher.look_again()
        self.dispatcher.wake()
        self._arrivals.look()
        self._look.set()
        self.alerting.wake()

    async def run(self) -> None:
        """Follow until cancelled."""
        listening: asyncpg.Connection[asyncpg.Record] | None = None
        try:
            while True:
                try:
                    if listening is None or listening.is_closed():
                        listening = await self._base.connect()
                        await listening.add_listener("tidings", self._told)
                        self._look_everywhere()  # nobody told us of what came meanwhile
                    await self._directory.refresh()
                except AWAY as error:
                    logger.debug("follower waits for the database", error=str(error))
                try:
                    async with asyncio.timeout(FOLLOW_BACKSTOP):
                        await self._look.wait()
                except TimeoutError:
                    pass  # the backstop: look anyhow
                self._look.clear()
                await asyncio.sleep(FOLLOW_PAUSE)
        finally:
            if listening is not None:
                listening.terminate()


async def open_log(base: Base) -> None:
    """Give a new log its first entry, which holds what tells its event ids from another log's."""
    conn = await base.connect()
    try:
        if await log.head(conn) == 0:
            data = orjson.dumps({"id": secrets.token_hex(4)}).decode()
            await append_once(conn, base.keys, Unit([Entry("log.opened", data=data)]))
    finally:
        await conn.close()
