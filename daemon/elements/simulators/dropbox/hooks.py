"""The webhooks of a simulated Dropbox: who changed, never what, until somebody has taken it in.

What happens while a post is under way, or waits to be tried again, is one more post after it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex

import aiohttp
import orjson

from daemon.signatures import hmac_digest

WAITS = (5.0, 15.0, 40.0, 120.0, 240.0)  # about ten minutes together
ANSWER = 10.0  # seconds that Dropbox waits for an answer


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to post: the number of the notification, and the status that answered, or what went wrong."""

    notification: int
    attempt: int
    outcome: int | str


class Hooks:
    """Posts to *target*, once there is one; *copies* of each notification, for Dropbox promises no less than one."""

    def __init__(
        self, *, secret: str, account_id: str, uid: int, waits: Sequence[float] = WAITS
    ) -> None:
        self.target: str | None = None
        self.copies = 1
        self.deliveries: deque[Delivery] = deque(maxlen=1000)
        self._secret = secret.encode()
        self._account = {"list_folder": {"accounts": [account_id]}, "delta": {"users": [uid]}}
        self._waits = tuple(waits)
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._count = 0

    async def run(self) -> None:
        """Post whatever is noted, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ANSWER)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._count += 1
                for _ in range(self.copies):
                    await self._post(session, self._count)
                if not self._changed.is_set():
                    self._idle.set()

    def note(self) -> None:
        """Something changed."""
        if self.target is not None:
            self._idle.clear()
            self._changed.set()

    async def posted(self) -> None:
        """Return when every notification so far was accepted or given up."""
        await self._idle.wait()

    async def register(self, url: str) -> str | None:
        """Take an address to post to, once it has echoed a challenge; what is wrong with it, if anything."""
        challenge = token_hex(16)
        timeout = aiohttp.ClientTimeout(total=ANSWER)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, params={"challenge": challenge}) as answer,
            ):
                echoed = (await answer.content.read(1024)).decode("utf-8", "replace")
                kind, sniffed = answer.content_type, answer.headers.get("X-Content-Type-Options")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"{url} cannot be asked: {type(error).__name__}"
        if (echoed, kind, sniffed) != (challenge, "text/plain", "nosniff"):
            return f"{url} did not echo the challenge as text/plain with nosniff"
        self.target = url
        return None

    def body(self) -> bytes:
        """What every notification says."""
        return orjson.dumps(self._account)

    def signed(self, body: bytes) -> dict[str, str]:
        """The headers of a notification."""
        return {
            "Content-Type": "application/json",
            "User-Agent": "DropboxWebhooks/1.0",
            "X-Dropbox-Signature": hmac_digest("sha256", "hex", self._secret, body),
        }

    async def _post(self, session: aiohttp.ClientSession, notification: int) -> None:
        for attempt, wait in enumerate((*self._waits, None), 1):
            outcome = await self._attempt(session)
            self.deliveries.append(Delivery(notification, attempt, outcome))
            accepted = isinstance(outcome, int) and outcome in range(200, 300)
            if accepted or wait is None:
                return
            await asyncio.sleep(wait)

    async def _attempt(self, session: aiohttp.ClientSession) -> int | str:
        body = self.body()
        try:
            async with session.post(
                str(self.target), data=body, headers=self.signed(body)
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__
