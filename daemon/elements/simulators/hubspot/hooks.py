"""The webhooks of a simulated HubSpot: batches, signed in every way there is, tried again with a higher attemptNumber."""

import asyncio
import base64
import hashlib
import hmac
import re
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count

import aiohttp
import orjson

from daemon.elements.simulators import beside
from daemon.elements.simulators.ledger import Now
from daemon.model import Json

MOST_IN_A_BATCH = 100
ATTEMPTS = 10
WAITS = (1.0, 60.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 28800.0)
"""Seconds between attempts, roughly: HubSpot says ten times within 24 hours."""
_DECODED = re.compile("%(?:3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to post a batch: its events, the number of the attempt, the status or what went wrong."""

    events: int
    attempt: int
    outcome: int | str


class Poster:
    """Posts what changes to *target*, the one address that an app has, while it is `running`."""

    def __init__(
        self,
        *,
        secret: str,
        portal: int,
        app: int,
        now: Now,
        waits: Sequence[float] = WAITS,
        timeout: float = 5.0,
    ) -> None:
        self.target: str | None = None
        self.type_key = "subscriptionType"
        """The key of an event's type: HubSpot's own examples have `eventType` too."""
        self.versions: tuple[str, ...] = ("v1", "v3")
        """The signatures that a post carries."""
        self.duplicates = 0
        """So many of the next batches are posted twice."""
        self.reordered = False
        """Whether a batch holds its events in the opposite order."""
        self.deliveries: deque[Delivery] = deque(maxlen=1000)
        self.waits = tuple(waits)
        self._secret = secret
        self._portal = portal
        self._app = app
        self._now = now
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._numbers = count(3816279340)
        self._queue: asyncio.Queue[Json] = asyncio.Queue(maxsize=100_000)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Post until the end of the block; what is still waiting then is lost."""
        async with (
            aiohttp.ClientSession(timeout=self._timeout) as session,
            beside(self._post_all(session)),
        ):
            yield

    def tell(self, kind: str, at: datetime, **facts: object) -> None:
        """Have an event posted, where there is an address to post to."""
        if self.target is None:
            return
        event: Json = {
            "eventId": next(self._numbers),
            "subscriptionId": 1000 + sum(kind.encode()) % 1000,
            "portalId": self._portal,
            "appId": self._app,
            "occurredAt": int(at.timestamp() * 1000),
            self.type_key: kind,
            "attemptNumber": 0,
            **facts,
        }
        self._queue.put_nowait(event)

    async def posted(self) -> None:
        """Return when every event so far was accepted or given up."""
        await self._queue.join()

    def signed(self, url: str, body: bytes) -> dict[str, str]:
        """The headers of a POST of *body* to *url*, at the time it is now."""
        secret, uri = self._secret.encode(), _DECODED.sub(_decoded, url).encode()
        stamp = str(int(self._now().timestamp() * 1000))
        headers = {"Content-Type": "application/json"}
        plain = {"v1": secret + body, "v2": secret + b"POST" + url.encode() + body}
        for version in self.versions:
            if version in plain:
                headers["X-HubSpot-Signature"] = hashlib.sha256(plain[version]).hexdigest()
                headers["X-HubSpot-Signature-Version"] = version
            else:
                digest = hmac.digest(secret, b"POST" + uri + body + stamp.encode(), "sha256")
                headers["X-HubSpot-Signature-v3"] = base64.b64encode(digest).decode()
                headers["X-HubSpot-Request-Timestamp"] = stamp
        return headers

    async def _post_all(self, session: aiohttp.ClientSession) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MOST_IN_A_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                await self._post(session, batch[::-1] if self.reordered else batch)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _post(self, session: aiohttp.ClientSession, batch: list[Json]) -> None:
        """Post one batch until it is accepted; each attempt is signed anew."""
        for attempt in range(ATTEMPTS):
            outcome = await self._attempt(session, batch, attempt)
            if isinstance(outcome, int) and outcome in range(200, 300):
                if self.duplicates > 0:
                    self.duplicates -= 1
                    await self._attempt(session, batch, attempt)
                return
            if attempt >= len(self.waits):
                return
            await asyncio.sleep(self.waits[attempt])

    async def _attempt(
        self, session: aiohttp.ClientSession, batch: list[Json], attempt: int
    ) -> int | str:
        url = str(self.target)
        body = orjson.dumps([{**event, "attemptNumber": attempt} for event in batch])
        outcome: int | str
        try:
            async with session.post(url, data=body, headers=self.signed(url, body)) as answer:
                outcome = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome = type(error).__name__
        self.deliveries.append(Delivery(len(batch), attempt, outcome))
        return outcome


def _decoded(found: re.Match[str]) -> str:
    return chr(int(found[0][1:], 16))
