"""What accounts need done though nobody asks: tokens that die of disuse refreshed, webhooks registered and revived.

An instance is due when it comes or changes, and then at the intervals that its element names.  What goes wrong
outside is logged and tried again, later each time; it never reaches another instance.
"""

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from daemon import webhook_urls
from daemon.backoff import Exponential
from daemon.connections import Connections
from daemon.elements import Registry
from daemon.elements.base import Element
from daemon.errors import ConfigError, ElementError, Invalid, NotFound
from daemon.model import Instance
from daemon.store.database import is_outage
from daemon.store.directory import Directory

log = structlog.get_logger()

AT_ONCE = 8
"""Instances that are looked after at a time."""

BACKOFF = Exponential(base=30.0, most=3600.0, jitter=0.2)

FIRST_REFRESH = 86400.0
"""Seconds over which the first refreshes after a start are spread: when the last were is not known."""

FIRST_TEND = 60.0

BACKSTOP = 3600.0


@dataclass(slots=True)
class Duty:
    """What one instance is due: seconds of the event loop's clock, infinite for never."""

    revision: int
    refresh_at: float
    tend_at: float
    failures: int = 0

    @property
    def at(self) -> float:
        """When it is due."""
        return min(self.refresh_at, self.tend_at)


class Caretaker:
    """Looks after all instances; `run` is its loop."""

    def __init__(
        self,
        *,
        directory: Directory,
        elements: Registry,
        connections: Connections,
        public_url: str,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._directory = directory
        self._elements = elements
        self._connections = connections
        self._public_url = public_url
        self._chance = chance
        self._duties: dict[int, Duty] = {}
        self._changed = directory.watch()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Look after instances until cancelled."""
        clock = asyncio.get_running_loop().time
        self._follow(started=True)
        while True:
            due = [one for one, duty in self._duties.items() if duty.at <= clock()]
            async with asyncio.TaskGroup() as group:
                for instance_id in due:
                    serving = self._serve(instance_id, self._duties[instance_id])
                    group.create_task(serving, name=f"care {instance_id}")
            first = min((duty.at for duty in self._duties.values()), default=math.inf)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(first - clock(), 0.0), BACKSTOP)):
                    await self._changed.wait()
            if self._changed.is_set():
                self._changed.clear()
                self._follow(started=False)

    def _follow(self, *, started: bool) -> None:
        """Know the instances that there are, and what each is due."""
        now = asyncio.get_running_loop().time()
        present: set[int] = set()
        for instance in self._directory.all():
            element = self._element(instance)
            if element is None or instance.disabled:
                continue
            present.add(instance.id)
            known = self._duties.get(instance.id)
            if known is not None and known.revision == instance.revision:
                continue
            refresh_at = tend_at = math.inf
            if element.keep_alive:
                refresh_at = now + (
                    self._chance() * min(FIRST_REFRESH, element.keep_alive)
                    if started
                    else element.keep_alive
                )
            if element.tend_interval and instance.notifies:
                tend_at = now + (self._chance() * FIRST_TEND if started else 0.0)
            if known is not None:
                refresh_at = min(refresh_at, known.refresh_at)
            if min(refresh_at, tend_at) < math.inf:
                self._duties[instance.id] = Duty(instance.revision, refresh_at, tend_at)
        for gone in self._duties.keys() - present:
            del self._duties[gone]

    def _element(self, instance: Instance) -> Element | None:
        try:
            return self._elements.get(instance.element_key)
        except NotFound:
            return None

    async def _serve(self, instance_id: int, duty: Duty) -> None:
        """Do what the instance is due, once."""
        loop = asyncio.get_running_loop()
        try:
            async with self._turns:
                instance = self._directory.get(instance_id)
                element = None if instance is None else self._element(instance)
                if instance is None or element is None or self._duties.get(instance_id) is not duty:
                    return
                await self._look_after(instance, element, duty)
                duty.failures = 0
        except Exception as error:
            trouble = isinstance(error, (ElementError, Invalid, ConfigError, OSError, TimeoutError))
            if not trouble and not is_outage(error):
                raise
            duty.failures += 1
            pause = BACKOFF.delay(duty.failures, self._chance)
            if duty.refresh_at <= loop.time():
                duty.refresh_at = loop.time() + pause
            if duty.tend_at <= loop.time():
                duty.tend_at = loop.time() + pause
            log.warning(
                "account not looked after",
                instance=instance_id,
                error=(str(error) or type(error).__name__)[:500],
                again_in=round(pause),
            )

    async def _look_after(self, instance: Instance, element: Element, duty: Duty) -> None:
        loop = asyncio.get_running_loop()
        connection = await self._connections.of(instance)
        if duty.refresh_at <= loop.time():
            last = connection.refreshed
            if last is None or loop.time() - last >= element.keep_alive:
                refreshed = await connection.refresh()
                log.debug("tokens kept alive", instance=instance.id, refreshed=refreshed)
                last = loop.time()
            duty.refresh_at = last + element.keep_alive
        if duty.tend_at <= loop.time():
            address = webhook_urls.write(
                self._public_url, instance.element_key, instance.id, connection.settings
            )
            kept = await element.tend(connection, connection.settings, address)
            if kept:
                await self._connections.keep(instance.id, kept)
                log.info("account tended", instance=instance.id, keeps=sorted(kept))
            duty.tend_at = loop.time() + element.tend_interval
