"""The harness's receiver: many callbacks, each well or ill behaved, and a ledger of all that came.

What a callback accepts is in the ledger before a byte of the answer leaves, so a sender that dies, or an answer
that is lost, leaves it accepted.  `MODES` says what each behaviour is; a mode can be changed while it runs.
"""

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import Callable

import orjson
from faults.ledger import GONE, Arrival, Ledger
from faults.wire import Exchange, Request, head
from standardwebhooks import Webhook

from daemon.signatures import verify_elements

KEY = "a key of the fault harness, 24 characters or more"

TRAP = "/trap"
"""Where the redirects of a callback lead; nobody may follow them."""

RETRY_AFTER = 4  # seconds that a callback of mode 429 asks for

RECEIPTS = "application/webhook-receipts+json"
"""What a question for receipts is told by: docs/receipts.md."""

FLOOD = 100 * 1024 * 1024  # bytes of an answer that is too large
CHUNK = bytes(256 * 1024)

OUTAGE = (2.0, 8.0)  # seconds for which a callback of mode `outage` fails, then works, then fails …


class Receiver:
    """Answers `/callback/NUMBER`."""

    def __init__(self, ledger: Ledger, *, chance: random.Random) -> None:
        self.ledger = ledger
        self._chance = chance
        self._judge = Webhook(base64.b64encode(KEY.encode()).decode())
        self._has: list[set[str]] = [set() for _ in ledger.callbacks]
        self._tasks: set[asyncio.Task[None]] = set()
        self.strict_time = True
        """Whether a signature whose time is far from the receiver's counts as wrong."""

    def answer(self, exchange: Exchange, request: Request) -> None:
        """Take one request."""
        if not request.path.startswith("/callback/"):
            self._count("trap" if request.path == TRAP else "else")
            exchange.answer(200)
            return
        number = int(request.path.removeprefix("/callback/"))
        callback = self.ledger.callbacks[number]
        if request.headers.get("content-type") == RECEIPTS:
            self._count("questions for receipts")
            self._receipts(number, exchange, request)
            return
        MODES[callback.mode](self, number, exchange, request)

    def _receipts(self, number: int, exchange: Exchange, request: Request) -> None:
        """Say which notifications it has: all that it ever accepted, so of every other that it has not.

        It fails as often as the callback does.
        """
        callback = self.ledger.callbacks[number]
        if not callback.receipts or not self._signed(request.headers, request.body):
            self._count("questions that nobody should ask")
            exchange.answer(400)
        elif callback.mode == "outage" and self._down():
            exchange.answer(500)
        elif callback.mode in {"closing", "forgetful"} and self._chance.random() < 0.1:
            exchange.transport.abort()
        else:
            asked, has = orjson.loads(request.body)["ids"], self._has[number]
            answer = {
                "received": [one for one in asked if one in has],
                "unknown": [one for one in asked if one not in has],
            }
            exchange.answer(200, orjson.dumps(answer), f"Content-Type: {RECEIPTS}")

    # What callbacks do.

    def _ok(self, number: int, exchange: Exchange, request: Request) -> None:
        self._note(number, request, 200)
        exchange.answer(200)

    def _slow(self, number: int, exchange: Exchange, request: Request) -> None:
        """Accept, and answer after up to 0.4 seconds."""
        self._note(number, request, 200)
        asyncio.get_running_loop().call_later(self._chance.uniform(0.02, 0.4), exchange.answer, 200)

    def _flaky(self, number: int, exchange: Exchange, request: Request) -> None:
        """Answer 500 to every fourth."""
        self._status(500 if self._chance.random() < 0.25 else 200, number, exchange, request)

    def _outage(self, number: int, exchange: Exchange, request: Request) -> None:
        """Answer 500 to everything for a while, then nothing is wrong for a while."""
        self._status(500 if self._down() else 200, number, exchange, request)

    def _down(self) -> bool:
        return time.monotonic() % sum(OUTAGE) < OUTAGE[0]

    def _closing(self, number: int, exchange: Exchange, request: Request) -> None:
        """Close every tenth connection without accepting and without an answer."""
        if self._chance.random() < 0.1:
            self._note(number, request, 0)
            exchange.transport.abort()
        else:
            self._ok(number, exchange, request)

    def _forgetful(self, number: int, exchange: Exchange, request: Request) -> None:
        """Accept, and close every tenth connection before the answer."""
        self._note(number, request, 200)
        if self._chance.random() < 0.1:
            exchange.transport.abort()
        else:
            exchange.answer(200)

    def _hang(self, number: int, exchange: Exchange, request: Request) -> None:
        """Take it and never answer."""
        self._note(number, request, 0)

    def _refuse(self, number: int, exchange: Exchange, request: Request) -> None:
        """Answer 500 to everything."""
        self._status(500, number, exchange, request)

    def _redirect(self, number: int, exchange: Exchange, request: Request) -> None:
        self._note(number, request, 302)
        exchange.answer(302, b"", f"Location: http://{request.headers['host']}{TRAP}")

    def _gone(self, number: int, exchange: Exchange, request: Request) -> None:
        self._status(410, number, exchange, request)

    def _busy(self, number: int, exchange: Exchange, request: Request) -> None:
        self._note(number, request, 429)
        exchange.answer(429, b"", f"Retry-After: {RETRY_AFTER}")

    def _drip(self, number: int, exchange: Exchange, request: Request) -> None:
        """Accept, and answer with a body that comes a byte a second and does not end."""
        self._note(number, request, 200)
        exchange.transport.write(head(200, 10_000))

        async def drip() -> None:
            while not exchange.transport.is_closing():
                exchange.transport.write(b".")
                await asyncio.sleep(1)

        self._do(drip())

    def _flood(self, number: int, exchange: Exchange, request: Request) -> None:
        """Accept, and answer with 100 MB."""
        self._note(number, request, 200)
        exchange.transport.write(head(200, FLOOD))

        async def flood() -> None:
            left = FLOOD
            while left and not exchange.transport.is_closing():
                if exchange.transport.get_write_buffer_size() < len(CHUNK):
                    exchange.transport.write(CHUNK[:left])
                    left -= min(left, len(CHUNK))
                await asyncio.sleep(0.001)

        self._do(flood())

    def _half(self, number: int, exchange: Exchange, request: Request) -> None:
        """Accept, and close half-way through the answer."""
        self._note(number, request, 200)
        exchange.transport.write(head(200, 1000) + b"half of it")
        exchange.transport.close()

    # What comes.

    def _status(self, status: int, number: int, exchange: Exchange, request: Request) -> None:
        self._note(number, request, status)
        exchange.answer(status)

    def _note(self, number: int, request: Request, status: int) -> None:
        headers, body = request.headers, request.body
        accepted = 200 <= status < 300
        if accepted:
            self._has[number].add(headers.get("webhook-id", ""))
        self.ledger.arrivals.append(
            Arrival(
                callback=number,
                id=headers.get("webhook-id", ""),
                marked="webhook-redelivery" in headers,
                digest=hashlib.blake2b(body, digest_size=12).hexdigest(),
                accepted=accepted,
                signed=self._signed(headers, body),
                status=status,
                at=time.monotonic(),
                told=told(body),
            )
        )

    def _signed(self, headers: dict[str, str], body: bytes) -> bool:
        if not verify_elements(KEY, body, headers.get("elements-webhook-signature", "")):
            return False
        if not self.strict_time:
            return "webhook-signature" in headers
        try:
            self._judge.verify(body, headers)
        except Exception:  # noqa: BLE001 — its own error, or whatever a missing header makes of it: not signed
            return False
        return True

    def _count(self, what: str) -> None:
        self.ledger.queried[what] = self.ledger.queried.get(what, 0) + 1

    def _do(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def told(body: bytes) -> list[tuple[str, int]]:
    """(object, version) of each event in a notification, in order.

    The versions stand in what the provider gave: a webhook's body, or the records of a poll.
    """
    message = orjson.loads(body)["message"]
    raw = message["raw"]
    if "events" in raw:
        return [(event["object"], event["version"]) for event in raw["events"]]
    versions = [record.get("version", GONE) for record in raw["things"]]
    names = [event["objectId"] for event in message["events"]]
    return list(zip(names, versions, strict=True))


MODES: dict[str, Callable[[Receiver, int, Exchange, Request], None]] = {
    "ok": Receiver._ok,
    "slow": Receiver._slow,
    "flaky": Receiver._flaky,
    "outage": Receiver._outage,
    "closing": Receiver._closing,
    "forgetful": Receiver._forgetful,
    "hang": Receiver._hang,
    "500": Receiver._refuse,
    "302": Receiver._redirect,
    "410": Receiver._gone,
    "429": Receiver._busy,
    "drip": Receiver._drip,
    "flood": Receiver._flood,
    "half": Receiver._half,
    "nobody": Receiver._ok,  # at a port where nobody listens
}
