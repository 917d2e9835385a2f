"""What accounts need done though nobody asks: tokens that die of disuse refreshed, webhooks registered and revived.

An instance is due when it comes or changes, and then at the intervals that its element names.  What goes wrong
outside is logged and tried again, later each time; it never reaches another instance.

An instance that is deleted takes its credentials with it.  Of one that was tended the connection is still here, and
serves to take its webhooks back: once, and not for long.
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
from daemon.elements.connection import Connection
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

LEAVE_MOST = 30.0
"""Seconds that taking back a deleted instance's webhooks may last."""

ENABLED = "event.notification.enabled"


@dataclass(slots=True)
class Duty:
    """What one instance is due: seconds of the event loop's clock, infinite for never.

    *last* is true where it is tended once more and then left alone: its events were switched off.
    """

    revision: int
    refresh_at: float
    tend_at: float
    last: bool = False
    failures: int = 0

    @property
    def at(self) -> float:
        """When it is due."""
        return min(self.refresh_at, self.tend_at)


@dataclass(frozen=True, slots=True)
class Tended:
    """An account that was tended: how it is reached, and the address at which it has its webhooks."""

    element: Element
    connection: Connection
    address: str


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
        self._tended: dict[int, Tended] = {}
        self._changed = directory.watch()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Look after instances until cancelled."""
        clock = asyncio.get_running_loop().time
        self._follow(started=True)
        async with asyncio.TaskGroup() as leaving:
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
                for gone in [one for one in self._tended if self._directory.get(one) is None]:
                    leave = self._leave(gone, self._tended.pop(gone))
                    leaving.create_task(leave, name=f"leave {gone}")

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
            if element.tend_interval and (instance.notifies or instance.id in self._tended):
                tend_at = now + (self._chance() * FIRST_TEND if started else 0.0)
            if known is not None:
                refresh_at = min(refresh_at, known.refresh_at)
            if min(refresh_at, tend_at) < math.inf:
                last = not instance.notifies
                self._duties[instance.id] = Duty(instance.revision, refresh_at, tend_at, last)
            else:
                self._duties.pop(instance.id, None)
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
            if not _is_trouble(error):
                raise
            duty.failures += 1
            pause = BACKOFF.delay(duty.failures, self._chance)
            if duty.refresh_at <= loop.time():
                duty.refresh_at = loop.time() + pause
            if duty.tend_at <= loop.time():
                duty.tend_at = math.inf if duty.last else loop.time() + pause
            log.warning(
                "account not looked after",
                instance=instance_id,
                error=_shown(error),
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
            self._tended[instance.id] = Tended(element, connection, address)
            kept = await element.tend(connection, connection.settings, address)
            if kept:
                await self._connections.keep(instance.id, kept)
                log.info("account tended", instance=instance.id, keeps=sorted(kept))
            duty.tend_at = math.inf if duty.last else loop.time() + element.tend_interval
            if duty.last:
                del self._tended[instance.id]

    async def _leave(self, instance_id: int, tended: Tended) -> None:
        """Take the webhooks of an instance that was deleted back."""
        connection = tended.connection
        unwanted = {**connection.settings, ENABLED: "false"}
        try:
            async with self._turns, asyncio.timeout(LEAVE_MOST):
                await tended.element.tend(connection, unwanted, tended.address)
        except Exception as error:
            if not _is_trouble(error):
                raise
            log.warning(
                "webhooks of a deleted instance may be left at the provider",
                instance=instance_id, element=tended.element.key, error=_shown(error),
                remedy="remove them there; what they post is refused",
            )  # fmt: skip


def _is_trouble(error: Exception) -> bool:
    """Whether *error* is of the outside."""
    outside = (ElementError, Invalid, ConfigError, OSError, TimeoutError)
    return isinstance(error, outside) or is_outage(error)


def _shown(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:500]
