"""A receiver that does what a receiver should not: one behaviour per connection, by the byte."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """One connection, as the receiver sees it."""

    def __init__(self, sock: socket.socket, hostile: "Hostile") -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._hostile = hostile
        self._buffer = bytearray()

    async def request(self) -> bytes | None:
        """The next request, whole, also kept in `Hostile.requests`; None when the other side closed."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._more():
                return None
        head = self._buffer.index(b"\r\n\r\n") + 4
        length = re.search(rb"\r\nContent-Length: (\d+)\r\n", self._buffer[:head])
        size = head + int(length[1] if length else 0)
        while len(self._buffer) < size:
            if not await self._more():
                return None
        request = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._hostile.requests.append(request)
        return request

    async def head(self) -> bytes:
        """Read until the head of a request is there; the body may be unread."""
        while b"\r\n\r\n" not in self._buffer:
            assert await self._more()
        return bytes(self._buffer)

    async def send(self, *parts: bytes) -> None:
        """Send each of *parts* in a segment of its own."""
        for part in parts:
            await self._loop.sock_sendall(self._sock, part)
            await asyncio.sleep(0)

    async def answer(self, *parts: bytes) -> None:
        """Read a request, then send *parts*."""
        await self.request()
        await self.send(*parts)

    async def gone(self) -> None:
        """Wait until the other side has closed."""
        while await self._more():
            pass

    def half_close(self) -> None:
        """Say that nothing will be said any more."""
        with suppress(OSError):  # the other side has reset it already
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in order, as far as the kernel sees unread bytes: else it resets."""
        self._sock.close()

    def reset(self) -> None:
        """Close with a reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def _more(self) -> bool:
        try:
            data = await self._loop.sock_recv(self._sock, 65536)
        except ConnectionError:
            return False
        self._hostile.received += len(data)
        self._buffer += data
        return bool(data)


Behaviour = Callable[[Peer], Awaitable[None]]


@dataclass
class Hostile:
    """What came in so far: connections, bytes, whole requests; *live* connections and their most."""

    port: int
    connections: int = 0
    received: int = 0
    requests: list[bytes] = field(default_factory=list)
    live: int = 0
    most: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; it is looked at when a connection begins or ends."""
        async with self.changed, asyncio.timeout(5):
            await self.changed.wait_for(condition)


async def polite(peer: Peer) -> None:
    """Answer every request with 200 until the other side closes."""
    while await peer.request() is not None:
        await peer.send(OK)


@asynccontextmanager
async def hostile(
    *behaviours: Behaviour, then: Behaviour = polite, buffer: int | None = None
) -> AsyncIterator[Hostile]:
    """A receiver on loopback: the n-th connection gets the n-th behaviour, later ones *then*.

    *buffer* is the size of the receive buffer, to make writing block.
    """
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    listening.settimeout(0)
    if buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    server = Hostile(listening.getsockname()[1])
    script: Iterator[Behaviour] = iter(behaviours)

    async def serve(sock: socket.socket) -> None:
        with sock, suppress(ConnectionError):  # a client may leave whenever it likes
            await next(script, then)(Peer(sock, server))
        server.live -= 1
        async with server.changed:
            server.changed.notify_all()

    async def accept(group: asyncio.TaskGroup) -> None:
        while True:
            sock, _ = await loop.sock_accept(listening)
            server.connections += 1
            server.live += 1
            server.most = max(server.most, server.live)
            group.create_task(serve(sock))
            async with server.changed:
                server.changed.notify_all()

    async def everything() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(accept(group))

    with listening:
        task = asyncio.create_task(everything())
        try:
            yield server
        finally:
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.result()  # a behaviour that failed fails the test
