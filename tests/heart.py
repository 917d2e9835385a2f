"""What tests of the log, its writer and the dispatcher build on: entries, changes, and things that run."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

from daemon.model import Change, ChangeType
from daemon.store import accounts, database, instances, projections, vault
from daemon.store.log import SELF, Entry
from daemon.store.writer import Intake, Receipt, Unit, Writer

LOG_ID = bytes.fromhex("01020304")

POLLED = datetime(2026, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)

SIGNATURE_KEY = "event.notification.signature.key"


def mark(text: str) -> bytes:
    """A fingerprint."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def change(
    object_id: object,
    version: object = 0,
    *,
    kind: str = "CREATED",
    object_type: str = "contacts",
    changed: datetime | None = None,
) -> Change:
    """A change as a poll shows it, of that version of that object."""
    data = orjson.dumps({"id": object_id, "version": version})
    name = mark(f"{object_type}/{object_id}/{version}")
    return Change(object_type, str(object_id), ChangeType(kind), changed, name, data)


def poll(instance_id: int, *changes: Change, polled: datetime = POLLED) -> Unit:
    """What a poll page brings."""
    return Unit(intakes=[Intake(instance_id, changes, polled=polled)])


def hook(instance_id: int, *changes: Change, raw: str = '{"of": "provider"}') -> Unit:
    """What a webhook brings."""
    return Unit(intakes=[Intake(instance_id, changes, raw=raw)])


def state(
    kind: str = "instance.created",
    *,
    instance_id: int = SELF,
    url: str | None = "https://app.test/hook",
    name: str = "Local",
    tags: Sequence[str] = ("one",),
    token: str = "token",
    disabled: bool = False,
    resources: Sequence[str] = ("contacts",),
    key: bool = False,
    more: dict[str, str | None] | None = None,
) -> Entry:
    """An `instance.*` entry; without *url* its events are off."""
    configuration: dict[str, str | None] = {
        "event.notification.enabled": "true" if url else "false",
        "event.notification.callback.url": url,
        **({SIGNATURE_KEY: "********"} if key else {}),
        **(more or {}),
    }
    return instances.entry(
        kind,
        instance_id=instance_id,
        organization_id=2,
        user_id=2,
        element_key="rest",
        hub="general",
        name=name,
        tags=tags,
        configuration=configuration,
        token_digest=instances.digest(token),
        disabled=disabled,
        callback=None if kind == "instance.deleted" else url,
        resources=resources,
    )


def opening() -> Unit:
    """A log's first two entries: its id, and a user."""
    data = orjson.dumps({"id": LOG_ID.hex()}).decode()
    return Unit([Entry("log.opened", data=data), accounts.new_user("ann", "acme")[0]])


@asynccontextmanager
async def writing(
    dsn: str, keys: vault.Keys, on_append: Callable[[frozenset[str]], None] | None = None
) -> AsyncIterator[Writer]:
    """A writer at work; an error that ends it fails the test."""
    writer = Writer(dsn=dsn, keys=keys, on_append=on_append or (lambda kinds: None))
    await writer.open()
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def connected(dsn: str, *, role: str | None = database.ROLE) -> AsyncIterator[Any]:
    """One connection, as the daemon's role unless *role* is None."""
    conn = await database.connect(dsn, role=role)
    try:
        yield conn
    finally:
        await conn.close(timeout=5)


async def create_instance(writer: Writer, **chosen: Any) -> int:
    """Append an instance; its id."""
    receipt: Receipt = await writer.append(Unit([state(**chosen)]))
    return receipt.position


async def dumped(conn: asyncpg.Connection) -> dict[str, list[str]]:  # type: ignore[type-arg]  # generic in its stubs only
    """Every row of every projection, as text."""
    tables = [table for projection in projections.PROJECTIONS for table in projection.tables]
    return {
        table: [r[0] for r in await conn.fetch(f"SELECT t::text FROM {table} AS t ORDER BY 1")]  # noqa: S608 — our own names
        for table in tables
    }


async def until(holds: Callable[[], object], *, within: float = 8.0, what: str = "") -> None:
    """Return when *holds* does; fail after *within* seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not holds():
        assert loop.time() < end, what or "it did not come about"
        await asyncio.sleep(0.002)


async def until_row(conn: Any, query: str, *args: object, within: float = 8.0) -> Any:
    """The first value of *query*, as soon as there is one that is neither None nor false."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not (value := await conn.fetchval(query, *args)):
        assert loop.time() < end, f"no row: {query}"
        await asyncio.sleep(0.005)
    return value
