"""What the handlers work with, and the one way in which they change an instance."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from aiohttp import web

from daemon.api.arrivals import Arrivals
from daemon.connections import Connections
from daemon.elements import Registry
from daemon.elements.base import Http
from daemon.errors import NotFound, Outage
from daemon.model import Instance
from daemon.outbound.addresses import AddressPolicy
from daemon.store.database import OUTAGE, Pool
from daemon.store.directory import Directory
from daemon.store.vault import Keys
from daemon.store.writer import Receipt, Unit, Writer


class _Locks:
    """One lock per instance, for as long as somebody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def of(self, instance_id: int) -> asyncio.Lock:
        lock = self._locks.get(instance_id)
        if lock is None:
            lock = self._locks[instance_id] = asyncio.Lock()
        return lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The collaborators of all handlers.

    *arrivals* is to be told when something was appended (`look`), here or by another process.
    *http* is the plain client for providers, *connections* are the instances' own; *public_url* is where the world reaches this daemon, without a
    slash at its end.
    """

    arrivals: Arrivals
    pool: Pool
    keys: Keys
    writer: Writer
    directory: Directory
    elements: Registry
    http: Http
    connections: Connections
    addresses: AddressPolicy
    public_url: str
    _locks: _Locks = field(default_factory=_Locks, init=False, repr=False)

    @asynccontextmanager
    async def changing(self, instance: Instance) -> AsyncGenerator[Instance]:
        """Yield *instance* as it is now, and keep other requests from changing it meanwhile.

        An entry of the log carries the whole instance, so of two changes made side by side the later would undo
        the earlier.  Raises `NotFound` when it was deleted.
        """
        async with self._locks.of(instance.id):
            await self.directory.refresh()
            now = self.directory.get(instance.id)
            if now is None:
                raise NotFound(f"instance {instance.id} was deleted")
            yield now

    async def append(self, unit: Unit) -> Receipt:
        """Append *unit* and have the directory know; raises `Outage`."""
        receipt = await self.writer.append(unit)
        try:
            await self.directory.refresh()
        except OUTAGE as error:
            raise Outage(
                "the change is stored, but the database went away before it could be read back: GET it in a moment"
            ) from error
        return receipt


CONTEXT = web.AppKey("context", Context)
