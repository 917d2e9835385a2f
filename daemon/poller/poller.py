"""One instance's poller: when its resources are read, one after the other.

Waits are measured by the monotonic clock; only what outlives the process is written as a time of day.

What goes wrong outside stays with the resource (`trouble`), and the others go on.  A database that is away is
nobody's fault: the poll is done again soon.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from daemon.elements.base import Element, Http, Settings
from daemon.elements.watching import polled
from daemon.errors import ConfigError, ElementError, Invalid, NotFound
from daemon.model import Instance
from daemon.plans import ResourcePlan, refresh_interval
from daemon.poller import trouble
from daemon.poller.baseline import take_baseline
from daemon.poller.changes import heed_hints, read_changes
from daemon.poller.feeding import follow_feed
from daemon.poller.ledger import Ledger
from daemon.poller.polling import Polling
from daemon.poller.progress import Progress
from daemon.poller.rounds import Round
from daemon.poller.source import Source
from daemon.store import objects
from daemon.store.database import is_outage

log = structlog.get_logger()

LEAST_PAUSE = 0.05  # seconds between two polls, whatever else says so

OUTAGE_PAUSE = 2.0
"""Seconds until a poll is tried again that broke off because the database is away."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource that is polled: what it is, what the log knows of it, and how far it is."""

    plan: ResourcePlan
    ledger: Ledger
    progress: Progress = field(default_factory=Progress)


class Poller:
    """Polls one instance, as it is at one revision, until cancelled."""

    def __init__(self, polling: Polling, instance: Instance, element: Element) -> None:
        """Raises `Invalid` for a configuration that does not compile."""
        self._polling = polling
        self._instance = instance
        self._element = element
        self.interval = refresh_interval(instance.configuration)
        self.resources = {
            plan.resource: Resource(plan, self._ledger(plan.resource))
            for plan in polled(element, instance)
        }
        self._woken = asyncio.Event()
        self._hurry = False

    def _ledger(self, resource: str) -> Ledger:
        return Ledger(
            pool=self._polling.pool,
            writer=self._polling.writer,
            instance_id=self._instance.id,
            resource=resource,
        )

    def wake(self, *, hurry: bool = False) -> None:
        """Poll now; with *hurry* what waits after a failure as well."""
        self._hurry = self._hurry or hurry
        self._woken.set()

    def hint(self, names: Sequence[tuple[str, str]]) -> None:
        """Look at objects (type and id) with the next poll, where the element cannot find an edit by its date."""
        if self._element.edits_undated:
            for resource in self.resources.values():
                mine = (resource.plan.resource, resource.plan.path)
                resource.progress.hints.add(i for kind, i in names if kind in mine)

    async def run(self, *, first_after: float, turns: asyncio.Semaphore) -> None:
        """Poll, wait, poll again, until cancelled; *turns* are those at its provider."""
        loop = asyncio.get_running_loop()
        with structlog.contextvars.bound_contextvars(
            instance=self._instance.id, element=self._element.key
        ):
            due = loop.time() + first_after
            pause, woken, hurry = first_after, False, False
            while True:
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    pass  # it is time
                # What was asked for before a poll broke off is still asked for.
                woken, hurry = woken or self._woken.is_set(), hurry or self._hurry
                self._woken.clear()
                self._hurry = False
                everything = woken or loop.time() >= due
                async with turns, self._polling.turns:
                    ended = await self.poll_once(hurry=hurry, retries_only=not everything)
                if not ended:
                    pause = OUTAGE_PAUSE
                    continue
                woken = hurry = False
                if everything:
                    due = loop.time() + self._usual()
                pause = max(min(due - loop.time(), self._until_retry()), LEAST_PAUSE)

    async def poll_once(self, *, hurry: bool = False, retries_only: bool = False) -> bool:
        """Poll every resource that does not wait after a failure; false when the database went away meanwhile.

        With *hurry* those that wait are polled too; with *retries_only* none but those whose wait is over.
        """
        clock, monotonic = self._polling.clock, self._polling.monotonic
        try:
            for row in await objects.cursors(self._polling.pool, self._instance.id):
                if row["resource"] in self.resources:
                    progress = self.resources[row["resource"]].progress
                    progress.load(row, now=clock(), monotonic=monotonic())
            due = [
                resource
                for resource in self.resources.values()
                if resource.progress.is_due(monotonic(), hurry=hurry, retries_only=retries_only)
            ]
            if due:
                await self._poll_all(due)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning(
                "poll broken off, the database is away", error=str(error) or type(error).__name__
            )
            return False
        return True

    async def _poll_all(self, due: Sequence[Resource]) -> None:
        try:
            http = await self._polling.connections.of(self._instance)
        except (ConfigError, NotFound) as error:
            # A secret that no key of ours opens: this instance's trouble only.
            for resource in due:
                await self._failed(resource, error)
            return
        for resource in due:
            await self._poll(resource, http, http.settings)

    async def _poll(self, resource: Resource, http: Http, settings: Settings) -> None:
        """One resource, to the end; what goes wrong with the provider is written down, not raised."""
        try:
            await self._read(
                Round(
                    polling=self._polling,
                    configuration=self._instance.configuration,
                    interval=self.interval,
                    source=Source(self._element, http, settings, resource.plan),
                    ledger=resource.ledger,
                    progress=resource.progress,
                )
            )
        except (ElementError, Invalid, ConfigError) as error:
            await self._failed(resource, error)
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("poll failed unexpectedly", resource=resource.plan.resource)
            await self._failed(resource, error)

    async def _read(self, one: Round) -> None:
        """Read the resource in the way that it is to be read now."""
        opened = one.source.feed(self._polling.clock())
        if opened is not None:
            await follow_feed(one, opened)
        elif one.progress.baseline is None:
            await take_baseline(one)
        elif not await heed_hints(one):
            await read_changes(one)

    async def _failed(self, resource: Resource, error: Exception) -> None:
        await trouble.write_down(
            error,
            polling=self._polling,
            ledger=resource.ledger,
            progress=resource.progress,
            interval=self.interval,
        )

    def _usual(self) -> float:
        """Seconds from one poll to the next: the interval, a little shorter or longer."""
        return self.interval * (1 + self._polling.jitter * (self._polling.chance() * 2 - 1))

    def _until_retry(self) -> float:
        """Seconds until the first of those that wait after a failure is due."""
        now = self._polling.monotonic()
        waiting = [one.progress for one in self.resources.values() if not one.progress.disabled]
        return min(
            (progress.retry_at - now for progress in waiting if progress.retry is not None),
            default=math.inf,
        )
