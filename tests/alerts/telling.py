"""Alerts at work on a real database, and an operator's receiver that answers by script over real HTTP."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import orjson
from aiohttp import web
from heart import create_instance, opening, state, until, until_row
from servers import serving
from standardwebhooks import Webhook

from daemon.alerts import Alerts, Destination, Patience
from daemon.backoff import Exponential
from daemon.model import Secret
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.sender import Limits, Sender
from daemon.store import alerts, database, deliveries, instances, log, objects
from daemon.store.database import Pool
from daemon.store.log import Entry
from daemon.store.vault import Keys
from daemon.store.writer import Unit, Writer

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATH = "/hooks/T0P-s3cret"
SOON = Exponential(base=0.01, most=0.02)
LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass(frozen=True, slots=True)
class Posted:
    """What the operator got."""

    headers: Any
    body: bytes
    path: str

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.headers["webhook-id"])

    @property
    def repeat(self) -> bool:
        """Whether it says that it may be a repeat."""
        return "webhook-redelivery" in self.headers

    @property
    def type(self) -> str:
        """What happened."""
        return str(orjson.loads(self.body)["type"])

    @property
    def data(self) -> Any:
        """What it says of it."""
        return orjson.loads(self.body)["data"]

    def verified(self) -> Any:
        """The body, as the independent package reads it once it has verified it."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Webhook(KEY).verify(self.body, headers)


class Operator:
    """The receiver: answers *script*'s statuses first, then 204; while *open* is clear, nothing."""

    def __init__(self) -> None:
        self.script: list[int] = []
        self.headers: dict[str, str] = {}
        self.posted: list[Posted] = []
        self.accepted: list[Posted] = []
        self.open = asyncio.Event()
        self.open.set()
        self.at_answer: Callable[[], object] = lambda: None

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one alert, whatever comes of it."""
        posted = Posted(request.headers.copy(), await request.read(), request.path_qs)
        self.posted.append(posted)
        await self.open.wait()
        status = self.script.pop(0) if self.script else 204
        if 200 <= status < 300:
            self.accepted.append(posted)
        self.at_answer()
        text = None if status == 204 else f"cannot POST {request.path_qs}"
        return web.Response(status=status, headers=self.headers, text=text)

    async def told(self, number: int) -> None:
        """Return when so many were accepted."""
        await until(lambda: len(self.accepted) >= number, what=f"{len(self.accepted)} told")


class World:
    """A log, its writer, and alerts that can be ended and begun."""

    def __init__(
        self, dsn: str, keys: Keys, pool: Pool, sender: Sender, patience: Patience
    ) -> None:
        self.pool, self.sender, self.patience = pool, sender, patience
        self._dsn, self._keys = dsn, keys
        self.writer: Writer
        self.alerts: Alerts | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, url: str | None, *, key: str | None = KEY) -> None:
        """Begin as the daemon does: the writer, then alerts to *url*, if any."""
        self.writer = Writer(dsn=self._dsn, keys=self._keys, on_append=self._appended)
        await self.writer.open()
        self._tasks.append(asyncio.create_task(self.writer.run()))
        if await log.head(self.pool) == 0:
            await self.writer.append(opening())
        secret = None if key is None else Secret(key)
        self.alerts = Alerts(
            pool=self.pool,
            writer=self.writer,
            sender=self.sender,
            to=None if url is None else Destination(Secret(url, shown="the operator"), secret),
            patience=self.patience,
        )
        self._tasks.append(asyncio.create_task(self.alerts.run()))
        wanted = "alert.began" if url else "alert.ended"
        if url or await self.pool.fetchval("SELECT true FROM log WHERE kind = 'alert.began'"):
            await until_row(
                self.pool,
                "SELECT (SELECT kind FROM log WHERE kind IN ('alert.began', 'alert.ended') ORDER BY position DESC LIMIT 1) = $1",
                wanted,
            )

    def _appended(self, kinds: frozenset[str]) -> None:
        if self.alerts is not None and kinds & alerts.KINDS:
            self.alerts.wake()

    def check(self) -> None:
        """Fail if a loop has ended by itself."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def crash(self) -> None:
        """End everything without a last word."""
        self.check()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    async def settled(self) -> None:
        """Return when nothing is left to tell."""

        async def left() -> bool:
            place = await alerts.place(self.pool)
            return place is None or await alerts.next_after(self.pool, place) is not None

        end = asyncio.get_running_loop().time() + 8
        while await left():
            self.check()
            assert asyncio.get_running_loop().time() < end, "there is still something to tell"
            await asyncio.sleep(0.005)

    async def append(self, *entries: Entry) -> int:
        """Append *entries*; the position of the first."""
        return (await self.writer.append(Unit(entries))).position

    async def instance(self, **chosen: Any) -> int:
        """An instance of ann's; its id."""
        return await create_instance(self.writer, token=secrets.token_hex(8), **chosen)

    async def sent(self) -> list[Any]:
        """The data of every `alert.sent`."""
        rows = await self.pool.fetch(
            "SELECT data FROM log WHERE kind = 'alert.sent' ORDER BY position"
        )
        return [orjson.loads(row["data"]) for row in rows]


def given_up(instance: int, kind: str = "callback.disabled", **more: Any) -> Entry:
    """What the daemon appends when it gives something of an instance up."""
    if kind == "instance.disabled":
        entry = state(kind, instance_id=instance, disabled=True, token=f"of {instance}", **more)
        data = orjson.loads(entry.data or "") | {"reason": "access was not granted"}
        return Entry(kind, instance_id=instance, data=orjson.dumps(data).decode())
    if kind == "poll.disabled":
        facts = {"failures": 100, "error": "the provider answered 500"}
        return objects.poll_entry(kind, instance, "contacts", **facts)
    reason = "the receiver answered 410 Gone"
    return deliveries.callback_entry(kind, more.get("callback", instance), instance, reason)


def switched_off(instance: int) -> Entry:
    """What a person appends who switches an instance off."""
    return state("instance.disabled", instance_id=instance, disabled=True, token=f"of {instance}")


def disabled_by_hand(instance: int) -> Entry:
    """What a person appends who disables a callback."""
    return deliveries.callback_entry("callback.disabled", instance, instance, "a holiday", by="ann")


@asynccontextmanager
async def operated(
    dsn: str,
    keys: Keys,
    *,
    patience: Patience | None = None,
    dsn_of_pool: str | None = None,
) -> AsyncIterator[tuple[World, Operator, str]]:
    """A world in which nothing runs yet, the operator, and the address of alerts."""
    operator = Operator()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        origin = await enter(serving(operator.answer))
        pool = await enter(database.open_pool(dsn_of_pool or dsn, size=4))
        policy = AddressPolicy(allow=LOOPBACK)
        sender = await enter(Sender(policy=policy, limits=Limits(connect=1.0, head=5.0, total=5.0)))
        world = World(dsn, keys, pool, sender, patience or Patience(pauses=SOON))
        try:
            yield world, operator, origin + PATH
        finally:
            await world.crash()
            operator.open.set()


__all__ = [
    "KEY",
    "LOOPBACK",
    "PATH",
    "SOON",
    "Operator",
    "Posted",
    "World",
    "disabled_by_hand",
    "given_up",
    "instances",
    "operated",
    "switched_off",
]
