"""A load that is no bottleneck: POSTs of one body, each with another event id, over some connections.

Run as a process of its own: `load.py URL NUMBER CONNECTIONS SECRET`; prints requests a second and the p50 and
p99 of their times in ms as JSON.  With a SECRET each body is signed as the workshop signs its webhooks.
"""

import asyncio
import hmac
import json
import sys
import time
from urllib.parse import urlsplit

import httptools
import uvloop


class Connection(asyncio.Protocol):
    """One connection; a request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[int] | None = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        if self._done is not None:
            self._done.set_result(status)

    async def request(self, data: bytes) -> int:
        """Send *data*, a whole request; the status of the answer."""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(data)  # type: ignore[attr-defined]  # a TCP transport writes
        return await self._done


async def main(url: str, number: int, connections: int, secret: str) -> None:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    times: list[float] = []
    statuses: dict[int, int] = {}
    names = iter(range(number))
    run = time.time_ns()

    def build(name: int) -> bytes:
        event = {"event_id": f"{run}-{name}", "action": "ticket.changed", "ticket": {"id": str(name % 5000), "title": "x" * 300},
                 "at": "2026-01-02T03:04:05Z"}  # fmt: skip
        body = json.dumps({"account": "bench", "type": "events", "events": [event]}).encode()
        stamp = str(int(time.time()))
        signature = hmac.digest(secret.encode(), stamp.encode() + b"." + body, "sha256").hex()
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"X-Workshop-Timestamp: {stamp}\r\nX-Workshop-Signature: v1={signature}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def work() -> None:
        _, connection = await loop.create_connection(Connection, parts.hostname, parts.port)
        for name in names:
            data = build(name)
            began = time.perf_counter()
            status = await connection.request(data)
            times.append(time.perf_counter() - began)
            statuses[status] = statuses.get(status, 0) + 1

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    seconds = time.perf_counter() - began
    times.sort()
    sys.stdout.write(
        json.dumps(
            {
                "per_second": number / seconds,
                "p50_ms": times[len(times) // 2] * 1000,
                "p99_ms": times[len(times) * 99 // 100] * 1000,
                "statuses": statuses,
            }
        )
    )


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
