"""The client that talks to providers: bounded in time, size and number, and plain about what went wrong.

Every request ends in a 2xx answer, read whole, or in one of three errors that say what the caller can do:
`Transient`, `Unauthorized`, `Refused`.  Nothing is tried again here; whoever polls decides that.  No cookies
are kept, so accounts at one provider never meet.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit
from weakref import WeakValueDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from daemon.backoff import retry_after
from daemon.errors import AddressRefused, NotSent, Refused, Transient, Unauthorized
from daemon.model import Request, Response
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.excerpts import excerpt, place

LONGEST_WAIT = 86400.0  # seconds of a Retry-After that are believed
CHUNK = 64 * 1024
EXCERPT = 4096  # bytes of an error's body that are read
OK = range(200, 300)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Request Timeout, Too Early, Too Many Requests: "not now" of the client errors (RFC 9110, 8470, 6585).
NOT_NOW = frozenset({408, 425, 429})

Addresses = Callable[[str, int], Awaitable[Sequence[str]]]
"""Resolve a host (a name or an address) and a port to the IP addresses that may be connected to.

Raises `Refused` for a host that the daemon must not talk to, `Transient` where it cannot be resolved;
`allowed_by` makes one of an `AddressPolicy`.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of every request; times in seconds, sizes in bytes after decompression."""

    connect: float = 10.0
    total: float = 60.0
    body: int = 32 * 1024 * 1024
    per_host: int = 4
    all_hosts: int = 256
    redirects: int = 5


class Client:
    """Sends requests to providers; an async context manager, one for the process.

    *addresses* is asked for every host before it is connected to, and only what it returns is connected to;
    without it the system resolves and every address is allowed.  *proxy* is the URL of an HTTP proxy; it then
    resolves names, so *addresses* can refuse a host but not pin it.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        addresses: Addresses | None = None,
        proxy: str | None = None,
        tls: ssl.SSLContext | None = None,
        agent: str = "tidings",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._limits = limits or Limits()
        self._addresses = addresses
        self._proxy = URL(proxy) if proxy else None
        self._tls = tls
        self._agent = agent
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._everywhere = asyncio.Semaphore(self._limits.all_hosts)
        # A host's semaphore lives as long as somebody holds or awaits it.
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        resolver = _Allowed(self._addresses) if self._addresses and not self._proxy else None
        connector = aiohttp.TCPConnector(limit=0, resolver=resolver, ssl=self._tls or True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=self._limits.total, sock_connect=self._limits.connect
            ),
            headers={"User-Agent": self._agent},
            # No text of our own: an answer's encoding is the element's business.
            skip_auto_headers=("Content-Type",),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, request: Request) -> Response:
        """Return a 2xx answer; raise `Transient`, `Unauthorized` or `Refused` for the rest.

        A GET follows redirects within its own origin.  Messages name the host and the path, never a query, and
        quote the provider with the request's values masked.
        """
        for _ in range(self._limits.redirects + 1):
            answer = await self._once(request)
            if isinstance(answer, Response):
                return answer
            request = replace(request, url=answer)
        raise Refused(f"{place(request.url)} redirected more than {self._limits.redirects} times")

    async def _once(self, request: Request) -> Response | str:
        """One exchange: the answer, or the address to go on with."""
        url = await self._checked(request.url)
        shown = place(request.url)
        try:
            async with self._turn(url), self._exchange(request, url) as answer:
                return await self._judge(request, answer)
        except aiohttp.ConnectionTimeoutError as error:
            raise Transient(
                f"{shown} cannot be reached within {self._limits.connect:g} s"
            ) from error
        except TimeoutError as error:
            raise Transient(f"{shown} did not answer within {self._limits.total:g} s") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise Transient(f"the certificate of {shown} is not valid for it") from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise Refused(f"{shown} is not an address that can be asked") from error
        except aiohttp.ClientConnectionError as error:
            raise Transient(f"{shown} cannot be reached: {_reason(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{shown} broke off its answer: {_reason(error)}") from error
        except ValueError as error:
            # What aiohttp says of a header with a line break, of a method that is none.
            raise Refused(f"the request to {shown} cannot be written: {_reason(error)}") from error

    async def _checked(self, address: str) -> URL:
        """*address* as a URL that may be asked."""
        url = _url(address)
        if url is None or url.port is None or url.raw_host is None:
            raise Refused(f"{place(address)} is not an http or https address")
        # aiohttp does not resolve what is an address already, and a proxy resolves for itself.
        if self._addresses and (self._proxy or _literal(url.raw_host)):
            await self._addresses(url.raw_host, url.port)
        return url

    @asynccontextmanager
    async def _turn(self, url: URL) -> AsyncGenerator[None]:
        """Wait for a place; those before us hold theirs at most `Limits.total` seconds each."""
        host = url.authority
        mine = self._hosts.get(host)
        if mine is None:
            mine = self._hosts[host] = asyncio.Semaphore(self._limits.per_host)
        async with mine, self._everywhere:
            yield

    @asynccontextmanager
    async def _exchange(self, request: Request, url: URL) -> AsyncGenerator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is used outside of its `async with`")
        async with self._session.request(
            request.method,
            url,
            headers=request.headers,
            data=request.body,
            proxy=self._proxy,
            allow_redirects=False,
        ) as answer:
            yield answer

    async def _judge(self, request: Request, answer: aiohttp.ClientResponse) -> Response | str:
        status, headers, shown = answer.status, answer.headers, place(request.url)
        if status in OK:
            body = await self._read(answer, shown)
            return Response(status=status, headers=headers, body=body, url=request.url)
        if status in REDIRECTS and request.method == "GET" and "Location" in headers:
            return _next(request.url, headers["Location"])
        body = await _some(answer)
        text = excerpt(request, body, headers.get("Content-Type", ""))
        message = f"{shown} answered {status}" + (f": {text}" if text else "")
        if status in NOT_NOW or status >= 500:  # noqa: PLR2004 — HTTP's class of server errors
            wait = retry_after(headers, now=self._now(), most=LONGEST_WAIT)
            raise Transient(message, retry_after=wait, status=status, body=body)
        if status == 401:  # noqa: PLR2004 — HTTP's Unauthorized
            raise Unauthorized(message, status=status, body=body)
        raise Refused(message, status=status, body=body)

    async def _read(self, answer: aiohttp.ClientResponse, shown: str) -> bytes:
        parts = bytearray()
        async for chunk in answer.content.iter_chunked(CHUNK):
            parts += chunk
            if len(parts) > self._limits.body:
                raise Refused(
                    f"{shown} answered more than {self._limits.body} bytes: ask for smaller pages",
                    status=answer.status,
                )
        return bytes(parts)


def allowed_by(policy: AddressPolicy) -> Addresses:
    """Hold providers to *policy*, as callbacks are."""

    async def addresses(host: str, port: int) -> Sequence[str]:
        try:
            return [str(found.ip) for found in await policy.resolve(host, port)]
        except AddressRefused as error:
            raise Refused(str(error)) from error
        except NotSent as error:
            raise Transient(str(error)) from error

    return addresses


class _Allowed(AbstractResolver):
    """Gives the connector only addresses that `Addresses` allows: what was checked is what is connected to."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=found, port=port, family=family, proto=0, flags=0)
            for found in await self._addresses(host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def _some(answer: aiohttp.ClientResponse) -> bytes:
    """The beginning of an error's body; a body that breaks off must not hide the status."""
    parts = bytearray()
    try:
        async for chunk in answer.content.iter_chunked(EXCERPT):
            parts += chunk
            if len(parts) >= EXCERPT:
                break
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass
    return bytes(parts[:EXCERPT])


def _next(here: str, location: str) -> str:
    """Where a redirect leads, if that is the same origin: credentials go nowhere else."""
    there = urljoin(here, location)
    if _origin(there) != _origin(here):
        raise Refused(
            f"{place(here)} redirects to {place(there)}, which is another server: "
            "if it is the right one, make it the base address"
        )
    return there


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme,
            parts.hostname,
            parts.port or {"http": 80, "https": 443}.get(parts.scheme),
        )
    except ValueError:
        return None


def _url(address: str) -> URL | None:
    try:
        url = URL(address)
    except ValueError:
        return None
    return url if url.scheme in ("http", "https") and url.host else None


def _literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _reason(error: BaseException) -> str:
    """An error in words without addresses: aiohttp's texts name hosts, and URLs with their queries."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(error, aiohttp.ClientOSError) and error.strerror:
        return error.strerror
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    return type(error).__name__
