"""How a simulated QuickBooks Online posts webhooks: signed, in batches, and no further while one is not accepted.

    CloudEvents   [{"specversion": "1.0", "type": "qbo.customer.created.v1", "intuitaccountid": …}, …]   since 2026
    legacy        {"eventNotifications": [{"realmId": …, "dataChangeEvent": {"entities": […]}}]}

Only status 200 within three seconds counts.  What is not accepted is posted again after 10, 20 and 30 seconds, 5 and
20 minutes, 2, 4 and 6 hours, and then every 6 hours; what comes after it waits (developer.intuit.com, "Webhooks best
practices").
"""

import asyncio
import base64
import hmac
import itertools
import uuid
from collections import deque
from dataclasses import dataclass

import aiohttp
import orjson

from daemon.elements.simulators.ledger import Now
from daemon.elements.simulators.quickbooks.company import OPERATIONS, Event
from daemon.model import Json

WAITS = (10.0, 20.0, 30.0, 300.0, 1200.0, 7200.0, 14400.0, 21600.0)
PATIENCE = 3.0  # seconds
MOST = 100  # events in one POST
SOURCE = "intuit.dsnBgbseACLLRZNxo2dfc4evmEJdxde58xeeYcZliOU="
MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt: how many events it held, and the status that answered, or what went wrong."""

    events: int
    attempt: int
    outcome: int | str


class Posting:
    """Posts what happens in a company; *scale* shortens the waits.  See `run`."""

    def __init__(
        self, *, verifier: str, realm: str, now: Now, scale: float = 1.0, patience: float = PATIENCE
    ) -> None:
        self.hook: str | None = None
        self.legacy = False
        self.deliveries: deque[Delivery] = deque(maxlen=1000)
        self.repeats = 0
        """How many of the next posts are made twice."""
        self.reversals = 0
        """How many of the next posts hold their events in reverse."""
        self._verifier = verifier.encode()
        self._realm = realm
        self._now = now
        self._scale = scale
        self._timeout = aiohttp.ClientTimeout(total=patience)
        self._waiting: deque[tuple[Event, str]] = deque(maxlen=MOST_WAITING)
        self._busy = False
        self._told = asyncio.Event()
        self._moved = asyncio.Condition()

    def tell(self, event: Event) -> None:
        """Have *event* posted, if there is an address to post to."""
        if self.hook is not None:
            self._waiting.append((event, str(uuid.uuid4())))
            self._told.set()

    def signature(self, body: bytes) -> str:
        """The `intuit-signature` of *body*."""
        return base64.b64encode(hmac.digest(self._verifier, body, "sha256")).decode()

    async def posted(self) -> None:
        """Return when everything so far was accepted."""
        async with self._moved:
            await self._moved.wait_for(lambda: not self._waiting and not self._busy)

    async def run(self) -> None:
        """Post until cancelled."""
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            while True:
                await self._told.wait()
                # What happens meanwhile goes into the same post, as Intuit gathers events.
                self._busy = True
                batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                if self.reversals:
                    self.reversals -= 1
                    batch.reverse()
                body = self._legacy(batch) if self.legacy else self._cloudevents(batch)
                await self._until_accepted(session, body, len(batch))
                if self.repeats:
                    self.repeats -= 1
                    await self._until_accepted(session, body, len(batch))
                self._busy = False
                if not self._waiting:
                    self._told.clear()
                async with self._moved:
                    self._moved.notify_all()

    async def _until_accepted(
        self, session: aiohttp.ClientSession, body: bytes, events: int
    ) -> None:
        waits = itertools.chain(WAITS, itertools.repeat(WAITS[-1]))
        for attempt, wait in enumerate(waits, 1):
            outcome = await self._attempt(session, body)
            self.deliveries.append(Delivery(events, attempt, outcome))
            if outcome == 200:  # noqa: PLR2004 — not just any 2xx
                return
            await asyncio.sleep(wait * self._scale)

    async def _attempt(self, session: aiohttp.ClientSession, body: bytes) -> int | str:
        headers = {
            "Content-Type": "application/json" if self.legacy else "application/cloudevents+json",
            "intuit-signature": self.signature(body),
            "intuit-t-id": str(uuid.uuid4()),
            "intuit-created-time": self._now().isoformat(),
        }
        try:
            async with session.post(str(self.hook), data=body, headers=headers) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__

    def _cloudevents(self, batch: list[tuple[Event, str]]) -> bytes:
        return orjson.dumps([self._cloudevent(event, name) for event, name in batch])

    def _cloudevent(self, event: Event, name: str) -> Json:
        return {
            "specversion": "1.0",
            "id": name,
            "source": SOURCE,
            "type": f"qbo.{event.entity.lower()}.{OPERATIONS[event.operation]}.v1",
            "datacontenttype": "application/json",
            # Nine digits: a parser that knows only six stumbles here, and is to.
            "time": event.at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "517Z",
            "intuitentityid": event.record_id,
            "intuitaccountid": self._realm,
            "data": {"deletedid": event.deleted_id} if event.deleted_id else {},
        }

    def _legacy(self, batch: list[tuple[Event, str]]) -> bytes:
        entities = []
        for event, _ in batch:
            one = {"id": event.record_id, "operation": event.operation, "name": event.entity}
            one["lastUpdated"] = event.at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
            entities.append(one | ({"deletedId": event.deleted_id} if event.deleted_id else {}))
        told = {"realmId": self._realm, "dataChangeEvent": {"entities": entities}}
        return orjson.dumps({"eventNotifications": [told]})
