"""A dispatcher at work on a real database, and a receiver that answers by script."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from heart import opening, until

from daemon.backoff import Schedule
from daemon.dispatcher import Delivery, Dispatcher
from daemon.dispatcher.handshake import Handshakes
from daemon.dispatcher.items import Rules
from daemon.dispatcher.sending import Letterhead
from daemon.notifications import Notification, format_of
from daemon.outbound.target import Target
from daemon.store import database, deliveries, log
from daemon.store.database import Pool
from daemon.store.directory import Directory
from daemon.store.vault import Keys
from daemon.store.writer import Unit, Writer


def headers_of(
    notification: Notification,
    body: bytes,
    settings: Mapping[str, str],
    now: float,
    *,
    repeat: bool = False,
    agent: str = "tidings",
) -> list[tuple[str, str]]:
    """The headers with which *notification* is sent at *now*, without those of HTTP itself."""
    letterhead = Letterhead("http://receiver.test/", settings, agent=agent)
    message = request_of(letterhead, notification, body, now, repeat=repeat)
    headers, sent = taken_apart(message)
    assert sent == body
    return [pair for pair in headers if pair[0] not in {"Host", "Content-Length"}]


def request_of(
    letterhead: Letterhead, notification: Notification, body: bytes, now: float, *, repeat: bool
) -> bytes:
    """The request that sends *notification* at *now*."""
    return letterhead.request(
        body,
        content_type=format_of(notification).content_type,
        message_id=notification.id,
        now=now,
        repeat=repeat,
    )


def taken_apart(message: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """The headers and the body of a request, whose length must be what it says."""
    head, _, body = message.partition(b"\r\n\r\n")
    pairs = [tuple(line.split(": ", 1)) for line in head.decode("ascii").split("\r\n")[1:]]
    assert pairs[-1] == ("Content-Length", str(len(body)))
    return [(name, value) for name, value in pairs], body


@dataclass(frozen=True, slots=True)
class Answered:
    """What the receiver answers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """What the receiver got."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The notification's id."""
        return self.headers["webhook-id"]

    @property
    def repeat(self) -> bool:
        """Whether it says that it may be a repeat."""
        return "webhook-redelivery" in self.headers

    @property
    def objects(self) -> list[str]:
        """The ids of the objects that it is about."""
        return [event["objectId"] for event in orjson.loads(self.body)["message"]["events"]]


Script = Callable[[Request], Answered | Exception]


class Receiver:
    """A sender whose other end is *script*: implements the dispatcher's `Sender`."""

    def __init__(self, script: Script = lambda request: Answered()) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        self.open = asyncio.Event()
        """While it is clear, requests have arrived and get no answer."""
        self.open.set()
        self.stuck: set[str] = set()
        """Addresses that never answer."""
        self.waiting = 0
        self.most = 0

    async def send(self, to: Target, message: bytes) -> Answered:
        """One request, whole."""
        headers, body = taken_apart(message)
        path = message.split(b" ", 2)[1].decode()
        return await self.post(to.origin + path, headers=headers, body=body)

    async def post(self, url: str, *, headers: Sequence[tuple[str, str]], body: bytes) -> Answered:
        """One request."""
        names = [name.lower() for name, _ in headers]
        assert len(names) == len(set(names)), "a header came twice"
        request = Request(url, {name.lower(): value for name, value in headers}, body)
        self.requests.append(request)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
            if url in self.stuck:
                await asyncio.get_running_loop().create_future()
        finally:
            self.waiting -= 1
        answer = self.script(request)
        if isinstance(answer, Exception):
            raise answer
        if 200 <= answer.status < 300:
            self.accepted.append(request)
        return answer

    @property
    def order(self) -> list[str]:
        """The objects of what was accepted, in order."""
        return [object_id for request in self.accepted for object_id in request.objects]


class Clock:
    """A time that goes on when told."""

    def __init__(self) -> None:
        self.now = 1_770_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class World:
    """What runs, and handles to it."""

    pool: Pool
    writer: Writer
    directory: Directory
    dispatcher: Dispatcher
    receiver: Receiver
    clock: Clock
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def rows(self, callback: int | None = None) -> list[tuple[Any, ...]]:
        """The rows of deliveries: notification, state, attempts, doubtful, error."""
        query = (
            "SELECT notification, state, attempts, doubtful, error FROM deliveries"
            " WHERE $1::bigint IS NULL OR callback_id = $1 ORDER BY notification"
        )
        return [tuple(row) for row in await self.pool.fetch(query, callback)]

    async def states(self, callback: int | None = None) -> dict[str, int]:
        """How many rows there are in each state."""
        counted: dict[str, int] = {}
        for row in await self.rows(callback):
            counted[row[1]] = counted.get(row[1], 0) + 1
        return counted

    async def settled(self, states: dict[str, int], callback: int | None = None) -> None:
        """Return when the rows are in these states."""
        loop = asyncio.get_running_loop()
        end = loop.time() + 8
        while (found := await self.states(callback)) != states:
            self.check()
            assert loop.time() < end, f"{found} and not {states}"
            await asyncio.sleep(0.01)

    async def reached(self, state: str, number: int) -> None:
        """Return when so many rows are in that state."""
        loop = asyncio.get_running_loop()
        end = loop.time() + 8
        while (await self.states()).get(state) != number:
            self.check()
            assert loop.time() < end, await self.states()
            await asyncio.sleep(0.01)

    async def callback(self, state: str) -> str | None:
        """Why the callback is in *state*, as soon as one is."""
        query = "SELECT state, reason FROM callbacks WHERE state = $1"
        loop = asyncio.get_running_loop()
        end = loop.time() + 8
        while (row := await self.pool.fetchrow(query, state)) is None:
            self.check()
            assert loop.time() < end, f"no callback is {state}"
            await asyncio.sleep(0.005)
        reason: str | None = row["reason"]
        return reason

    async def accepted(self, number: int) -> None:
        """Return when so many were accepted."""
        await self.until(lambda: len(self.receiver.accepted) >= number)

    async def until(self, holds: Callable[[], object]) -> None:
        """Return when *holds* does, while everything runs."""

        def checked() -> object:
            self.check()
            return holds()

        await until(checked)

    def check(self) -> None:
        """Fail if a loop has ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    def later(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.now += seconds
        self.dispatcher.look_again()

    async def enable(self, callback: int) -> None:
        """What a person does with a disabled callback."""
        await self.writer.append(
            Unit([deliveries.callback_entry("callback.enabled", callback, callback)])
        )

    async def crash(self) -> None:
        """End everything without a last word."""
        self.dispatcher._drain_time = 0.02
        writing, *others = self._tasks
        for task in (writing, *others):
            task.cancel()
            with suppress(asyncio.CancelledError, ExceptionGroup):
                await task
        self._tasks.clear()

    async def stop(self) -> None:
        """End everything as the daemon does when it is told to stop."""
        for task in reversed(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()


@asynccontextmanager
async def dispatching(
    dsn: str,
    keys: Keys,
    receiver: Receiver,
    *,
    clock: Clock | None = None,
    wall: Callable[[], float] | None = None,
    schedule: str = "1m, 1h",
    rules: Rules | None = None,
    disable_after: float = 5 * 86_400.0,
    drain: float = 2.0,
    writer_dsn: str | None = None,
    early: Unit | None = None,
    handshakes: Handshakes | None = None,
) -> AsyncIterator[World]:
    """A writer, a directory that follows it and a dispatcher, stopped cleanly at the end unless they were before.

    *clock* is the time that goes by, and the time of day unless *wall* tells that.  *early* is appended when the writer has begun and the dispatcher has not.
    """
    clock = clock or Clock()
    async with database.open_pool(dsn, size=4) as pool:
        directory = Directory(pool=pool, keys=keys)
        look = asyncio.Event()

        def appended(kinds: frozenset[str]) -> None:
            if "change" in kinds:
                dispatcher.wake()
            if any(kind.startswith("instance.") for kind in kinds):
                look.set()
            if any(kind.startswith("callback.") for kind in kinds):
                dispatcher.look_again()

        async def follow() -> None:
            while True:
                await look.wait()
                look.clear()
                try:
                    await directory.refresh()
                except database.AWAY:
                    look.set()
                    await asyncio.sleep(0.01)

        writer = Writer(dsn=writer_dsn or dsn, keys=keys, on_append=appended)
        await writer.open()
        await directory.load()
        dispatcher = Dispatcher(
            pool=pool,
            writer=writer,
            directory=directory,
            sender=receiver,
            delivery=Delivery(
                Schedule.parse(schedule, jitter=0.0) if schedule else Schedule(()),
                rules or Rules(),
                disable_after=disable_after,
                drain=drain,
            ),
            clock=wall or clock,
            monotonic=clock,
            chance=lambda: 0.5,
            handshakes=handshakes,
        )
        world = World(pool, writer, directory, dispatcher, receiver, clock)
        world._tasks.append(asyncio.create_task(writer.run()))
        if await log.head(pool) == 0:
            await writer.append(opening())
        if early is not None:
            await writer.append(early)
        world._tasks += [asyncio.create_task(loop) for loop in (follow(), dispatcher.run())]
        try:
            yield world
        finally:
            await world.stop()
