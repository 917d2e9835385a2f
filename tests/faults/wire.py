"""HTTP/1.1 on the harness's side, small and fast: its load must not be what is measured."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools


@dataclass(slots=True)
class Request:
    """One request, whole; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Exchange(asyncio.Protocol):
    """One connection of a server: calls *handle* for each request, which answers with `answer` when it likes."""

    def __init__(self, handle: Callable[["Exchange", Request], None]) -> None:
        self._handle = handle
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        parts = urlsplit(self._url.decode())
        method = self._parser.get_method().decode()
        request = Request(method, parts.path, parts.query, self._headers, b"".join(self._body))
        self._url, self._headers, self._body = b"", {}, []
        self._handle(self, request)

    def answer(self, status: int, body: bytes = b"", *headers: str) -> None:
        """Answer the request."""
        if not self.transport.is_closing():
            self.transport.write(head(status, len(body), *headers) + body)


def head(status: int, length: int, *headers: str) -> bytes:
    """The first lines of an answer, up to its body."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {length}", *headers, "", ""]
    return "\r\n".join(lines).encode()


@dataclass(slots=True)
class Poster:
    """A client that posts, one request at a time over one connection that is opened again when it breaks."""

    host: str
    port: int
    timeout: float = 6.0
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None)

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        """The status that answers, 0 when none came."""
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        try:
            async with asyncio.timeout(self.timeout):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(self.host, self.port)
                reader, writer = self._streams
                writer.write(request)
                answer = await reader.readuntil(b"\r\n\r\n")
                status = int(answer[9:12])
                length = _length(answer)
                await reader.readexactly(length)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.close()
            return 0
        if b"connection: close" in answer.lower():
            self.close()
        return status

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def _length(answer: bytes) -> int:
    for line in answer.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0
