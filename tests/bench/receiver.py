"""A receiver that is no bottleneck: answers every request with an empty 200 and counts.

Run as a process of its own; prints the port it listens on.  `GET /count` answers the number of POSTs.
"""

import asyncio
import sys

import httptools
import uvloop

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Receiver(asyncio.Protocol):
    """One connection."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        if self._url == b"/count":
            number = str(Receiver.count).encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(number)
            self._transport.write(head + number)  # type: ignore[attr-defined]  # a TCP transport writes
        else:
            Receiver.count += 1
            self._transport.write(OK)  # type: ignore[attr-defined]  # likewise


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
