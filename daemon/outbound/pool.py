"""How many connections there may be, and which of them are free: no I/O, only counting.

Each connection, from before it is opened until it is lost, holds a *place*.  Places are bounded per origin
and altogether.  Who finds none waits, in order of arrival within an origin; a place that becomes free for all
goes to the origin that has waited longest, and an idle connection of another origin is closed for it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from daemon.outbound.addresses import Address
from daemon.outbound.connection import Connection


@dataclass(slots=True)
class _Origin:
    """*open*: places held.  *idle*: connections that rest, the most recently used last."""

    open: int = 0
    idle: list[Connection] = field(default_factory=list)
    waiting: deque[asyncio.Future[Connection | None]] = field(default_factory=deque)


class Pool:
    """Idle connections and places: at most *per_origin*, and *most* altogether."""

    def __init__(self, *, per_origin: int, idle_per_origin: int, most: int) -> None:
        self._per_origin = per_origin
        self._idle_per_origin = idle_per_origin
        self._most = most
        self._open = 0
        self._origins: dict[str, _Origin] = {}
        self._short: dict[str, None] = {}  # origins that wait for a place of all, the longest first
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    @property
    def open(self) -> int:
        """How many places are held."""
        return self._open

    def idle(self, origin: str, addresses: tuple[Address, ...]) -> Connection | None:
        """An idle connection to one of *addresses*, now the caller's; connections elsewhere are closed."""
        at = self._origins.get(origin)
        while at is not None and at.idle:
            connection = at.idle.pop()
            if connection.address in addresses:
                return connection
            connection.abort()  # the name has moved
        return None

    async def place(self, origin: str) -> Connection | None:
        """An idle connection, or None: a place to open a new one; either is the caller's then.

        Waits without limit when there is no place; being cancelled gives back what may have come meanwhile.
        """
        at = self._origins.setdefault(origin, _Origin())
        if at.open < self._per_origin and not at.waiting:
            if self._open < self._most:
                self._hold(at)
                return None
            self._evict()
        waiting: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        at.waiting.append(waiting)
        if at.open < self._per_origin:
            self._short.setdefault(origin)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.cancelled():
                self._leave(origin, at, waiting)
            elif (connection := waiting.result()) is None:
                self.free(origin)
            else:
                connection.abort()
            raise

    def rest(self, connection: Connection, seconds: float) -> None:
        """Take *connection* back: for whoever waits, else to rest for *seconds*, else to be closed."""
        at = self._origins[connection.origin]
        if not connection.rest(seconds):
            connection.abort()
            return
        while at.waiting:
            waiting = at.waiting.popleft()
            if not at.waiting:
                self._short.pop(connection.origin, None)
            if not waiting.done():
                waiting.set_result(connection)
                return
        if self._closed or self._short or len(at.idle) >= self._idle_per_origin:
            connection.abort()
        else:
            at.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """*connection* is gone: its place is free."""
        at = self._origins[connection.origin]
        if connection in at.idle:
            at.idle.remove(connection)
        self.free(connection.origin)

    def free(self, origin: str) -> None:
        """A place of *origin* is not needed any more."""
        at = self._origins[origin]
        at.open -= 1
        self._open -= 1
        if at.waiting:
            self._short.setdefault(origin)
        self._grant()
        self._prune(origin)

    async def close(self, *, patience: float) -> None:
        """Close every idle connection, and each other one when it is given back.

        Waits at most *patience* seconds until all places are free.
        """
        self._closed = True
        for at in self._origins.values():
            while at.idle:
                at.idle.pop().abort()
        if self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._emptied,), timeout=patience)

    def _hold(self, at: _Origin) -> None:
        at.open += 1
        self._open += 1

    def _evict(self) -> None:
        """Close the connection that has been idle for longest; its place comes when it is lost, in a moment."""
        resting = [at for at in self._origins.values() if at.idle]
        if resting:
            min(resting, key=lambda at: at.idle[0].rested).idle.pop(0).abort()

    def _grant(self) -> None:
        """Give free places to those who wait, origins in turn."""
        for origin in list(self._short):
            if self._open >= self._most:
                return
            del self._short[origin]
            at = self._origins[origin]
            while at.waiting and at.open < self._per_origin:
                waiting = at.waiting.popleft()
                if not waiting.done():
                    self._hold(at)
                    waiting.set_result(None)
                    break
            if at.waiting and at.open < self._per_origin:
                self._short[origin] = None  # behind the others

    def _leave(self, origin: str, at: _Origin, waiting: asyncio.Future[Connection | None]) -> None:
        """Wait no more; who came in behind may have waited only for the sake of order."""
        if waiting in at.waiting:
            at.waiting.remove(waiting)
        if at.waiting:
            self._short.setdefault(origin)
        else:
            self._short.pop(origin, None)
        self._grant()
        self._prune(origin)

    def _prune(self, origin: str) -> None:
        """Forget *origin* when nothing is known of it: memory must not grow with every callback there ever was."""
        at = self._origins.get(origin)
        if at is not None and not at.open and not at.waiting:
            self._short.pop(origin, None)
            del self._origins[origin]
        if not self._open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
