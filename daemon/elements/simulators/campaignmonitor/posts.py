"""How a simulated Campaign Monitor posts its webhooks: in batches, again after a failure, until it gives one up.

Nothing is signed.  A webhook whose posts fail for longer than *patience* is deactivated, as the real one is after a
week; when it tries again in between is not published, so *waits* are an assumption.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import aiohttp
import orjson

from daemon.elements.simulators.campaignmonitor.lists import Hook, MailingList
from daemon.elements.simulators.ledger import Now
from daemon.model import Json

MOST_EVENTS = 1000  # of one post


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to post: to which webhook, how many events, and the status that answered or what went wrong."""

    webhook_id: str
    events: int
    outcome: int | str


@dataclass(slots=True, kw_only=True)
class Posts:
    """Posts events; use it inside `posting`.  Times are seconds."""

    now: Now
    waits: Sequence[float]
    gather: float
    patience: float
    timeout: float
    deliveries: deque[Delivery] = field(default_factory=lambda: deque(maxlen=10_000))
    twice: int = 0
    """How many of the next posts are made twice."""
    shuffled: bool = False
    """Whether events are posted one by one, the latest first."""
    _session: aiohttp.ClientSession | None = None
    _group: asyncio.TaskGroup | None = None
    _busy: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @asynccontextmanager
    async def posting(self, lists: Iterable[MailingList]) -> AsyncGenerator[None]:
        """Post, beginning with what waits in *lists*."""
        failure: Exception | None = None
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            self._session, self._group = session, group
            for one in lists:
                self.hurry(one)
            try:
                yield
            except Exception as error:  # noqa: BLE001 — raised again below: a TaskGroup would wrap it
                failure = error
            finally:
                self._session = self._group = None
                for task in self._busy.values():
                    task.cancel()
        if failure is not None:
            raise failure

    def tell(self, one: MailingList, event: Json) -> None:
        """Take an event for every webhook of the list that wants it."""
        for hook in one.hooks.values():
            if hook.status == "Active" and event["Type"] in hook.events:
                hook.pending.append(event)
        self.hurry(one)

    def hurry(self, one: MailingList) -> None:
        """Have a task at work for each webhook that has something to post."""
        if self._group is None:
            return
        for hook in one.hooks.values():
            if hook.pending and hook.id not in self._busy:
                self._busy[hook.id] = self._group.create_task(self._empty(one, hook))

    async def posted(self) -> None:
        """Return when every event so far was accepted or given up."""
        while self._busy:
            await asyncio.wait(list(self._busy.values()))

    async def once(self, one: MailingList, hook: Hook, events: list[Json]) -> int | str:
        """Post *events* once; the status, or what went wrong."""
        if self._session is None:
            return "NotServing"
        body = orjson.dumps({"Events": events, "ListID": one.id})
        headers = {"Content-Type": "application/json; charset=utf-8"}
        try:
            async with self._session.post(hook.url, data=body, headers=headers) as answer:
                outcome: int | str = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            outcome = type(error).__name__
        self.deliveries.append(Delivery(hook.id, len(events), outcome))
        return outcome

    async def _empty(self, one: MailingList, hook: Hook) -> None:
        try:
            while hook.pending and hook.status == "Active":
                await asyncio.sleep(self.gather)
                batch, hook.pending = hook.pending[:MOST_EVENTS], hook.pending[MOST_EVENTS:]
                parts = [[event] for event in reversed(batch)] if self.shuffled else [batch]
                for part in parts:
                    await self._deliver(one, hook, part)
                    if self.twice:
                        self.twice -= 1
                        await self._deliver(one, hook, part)
        finally:
            self._busy.pop(hook.id, None)

    async def _deliver(self, one: MailingList, hook: Hook, events: list[Json]) -> None:
        """Post until it is accepted, the waits are used up, or the webhook is given up."""
        for wait in (*self.waits, None):
            outcome = await self.once(one, hook, events)
            if isinstance(outcome, int) and outcome in range(200, 300):
                hook.failing_since = None
                return
            hook.failing_since = hook.failing_since or self.now()
            if self.now() - hook.failing_since > timedelta(seconds=self.patience):
                hook.status, hook.pending = "Inactive", []
            if wait is None or hook.status != "Active":
                return
            await asyncio.sleep(wait)
