"""The sender of deliveries: a small HTTP/1.1 client that knows exactly what it has sent.

Every request ends in an `Answer` (any status; redirects are not followed) or in one of two errors: `NotSent`,
not a byte has left, it may be sent again without a mark; `Unanswered`, it may have arrived.  Nothing is ever
repeated here, with one exception that nobody can notice: when a kept-alive connection turns out to be dead
before a byte was written to it, the next one or a new one takes its place.

A name is resolved and its addresses are judged in one step (`addresses`), and the connection goes to the
address that was judged.  `target` makes the bytes, `pool` counts, `connection` speaks.  One request at a
time on a connection; bodies are sent whole with their length and never compressed.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Self

import uvloop

from daemon.errors import CertificateRefused, NotSent
from daemon.outbound.addresses import Address, AddressPolicy
from daemon.outbound.connection import Answer, Connection, Limits, Outbox
from daemon.outbound.pool import Pool
from daemon.outbound.target import Target, head, target

__all__ = ["Answer", "Limits", "Sender"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_TRIED = 4  # addresses of one name
_PATIENCE = 1.0  # seconds that closing waits for connections to be gone
_HINT = re.compile(rb"timeout ?= ?\"?([0-9]{1,9})")


class Sender:
    """Sends requests to callbacks; an async context manager that closes its connections.

    *ssl_context* must verify certificates and names and speak TLS 1.2 or newer, else `ValueError`; the
    default trusts what the system trusts.
    """

    def __init__(
        self,
        *,
        policy: AddressPolicy,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits or Limits()
        self._ssl = _checked(ssl_context) if ssl_context else _default_context()
        self._outbox = Outbox()
        self._pool = Pool(
            per_origin=self._limits.per_origin,
            idle_per_origin=self._limits.idle_per_origin,
            most=self._limits.connections,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._pool.close(patience=_PATIENCE)

    @property
    def connections(self) -> int:
        """How many connections are open or being opened."""
        return self._pool.open

    def post(
        self, url: str, *, headers: Headers = (), body: bytes
    ) -> Coroutine[None, None, Answer]:
        """POST *body* to *url*; see `request`."""
        return self.request("POST", url, headers=headers, body=body)

    async def request(
        self, method: str, url: str, *, headers: Headers = (), body: bytes = b""
    ) -> Answer:
        """Send one request and return what was answered.

        *method* is one of GET, POST, PUT, PATCH, DELETE and OPTIONS.  Raises `Invalid` for a URL or headers
        that can never be sent, `NotSent` (of which `AddressRefused` and `CertificateRefused` want a
        person), `Unanswered`.  Being cancelled closes the connection in use.
        """
        to = target(url)
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        return await self.send(to, head(method, to, pairs, len(body)) + body)

    async def send(self, to: Target, message: bytes) -> Answer:
        """Send *message*, a whole request to *to*, and return what was answered; raises as `request` does."""
        total = asyncio.get_running_loop().time() + self._limits.total
        while True:
            connection, opened = self._idle(to) or await self._open(to, total)
            awaiting = connection.exchange(message, total=total)
            try:
                answered = await awaiting
            except BaseException:
                connection.abort()
                if awaiting.done() and not awaiting.cancelled():
                    awaiting.exception()  # cancelled while failing: nobody else will look
                raise
            if answered:
                break
            connection.abort()
            if opened:
                raise NotSent(f"{to.origin}: the connection was closed as soon as it was open")
        answer = connection.answer()
        self._pool.rest(connection, self._rest(answer))
        return answer

    def _idle(self, to: Target) -> tuple[Connection, bool] | None:
        """An idle connection to an address that is still the right one, without waiting."""
        addresses = self._policy.known(to.host, to.port)
        if addresses is None:
            return None
        connection = self._pool.idle(to.origin, addresses)
        return None if connection is None else (connection, False)

    async def _open(self, to: Target, total: float) -> tuple[Connection, bool]:
        """A connection, and whether it is new: else it was given back by another request meanwhile."""
        now = asyncio.get_running_loop().time()
        patience = min(self._limits.connect, total - now)
        try:
            async with asyncio.timeout(patience):
                addresses = await self._policy.resolve(to.host, to.port)
                connection = self._pool.idle(to.origin, addresses)
                while connection is None or connection.address not in addresses:
                    if connection is not None:
                        connection.abort()
                    connection = await self._pool.place(to.origin)
                    if connection is None:
                        return await self._connect(to, addresses, now + patience), True
                return connection, False
        except TimeoutError as error:
            raise NotSent(f"{to.origin}: no connection within {patience:.3g} s") from error

    async def _connect(
        self, to: Target, addresses: tuple[Address, ...], until: float
    ) -> Connection:
        """Connect to the first of *addresses* that can be connected to; frees the place when none can."""
        loop = asyncio.get_running_loop()
        tried = addresses[:_TRIED]
        failure: Exception = NotSent(to.origin)
        try:
            for left, address in zip(range(len(tried), 0, -1), tried, strict=True):
                # Each address has its share of the time, so that a silent one leaves some for the next.
                share = (until - loop.time()) / left
                try:
                    async with asyncio.timeout(share):
                        return await self._dial(to, address)
                except OSError as error:  # also TimeoutError and ssl.SSLError
                    failure = _not_sent(to, address, error, share)
        except BaseException:
            self._pool.free(to.origin)
            raise
        self._pool.free(to.origin)
        raise failure

    async def _dial(self, to: Target, address: Address) -> Connection:
        loop = asyncio.get_running_loop()
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(0)  # the loop waits
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address.sockaddr)
        except BaseException:
            sock.close()
            raise
        connection = Connection(
            origin=to.origin,
            address=address,
            sock=sock,
            tls=to.tls,
            limits=self._limits,
            outbox=self._outbox,
            lost=self._pool.lost,
        )
        try:
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._ssl if to.tls else None,
                server_hostname=to.host.rstrip(".") if to.tls else None,
            )
        except BaseException:
            connection.discard()
            if isinstance(loop, uvloop.Loop):
                # libuv owns the descriptor and has closed it, but before uvloop 0.23 the socket does not
                # know that: closed once more, the number could be somebody else's by then.
                sock.detach()
            else:
                sock.close()
            raise
        return connection

    def _rest(self, answer: Answer) -> float:
        """How long the connection may be idle: less than the receiver says, so that we close first."""
        idle = self._limits.idle
        for name, value in answer.pairs:
            if name.lower() == b"keep-alive" and (hint := _HINT.search(value)) is not None:
                return min(idle, int(hint[1]) - 1.0)
        return idle


def _not_sent(to: Target, address: Address, error: OSError, share: float) -> NotSent:
    where = f"{to.origin} ({address.ip})"
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(f"{where}: {error.verify_message.rstrip('.')}")
    if isinstance(error, ssl.SSLError):
        return NotSent(f"{where}: no TLS: {error.reason or error}")
    if isinstance(error, TimeoutError) and not error.strerror:
        return NotSent(f"{where}: no connection within {share:.3g} s")
    # uvloop's own words for a failed connect leave out why.
    return NotSent(f"{where}: {os.strerror(error.errno) if error.errno else error}")


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _checked(context: ssl.SSLContext) -> ssl.SSLContext:
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("the TLS context must verify certificates and names")
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise ValueError("the TLS context must not speak less than TLS 1.2")
    return context
