"""Which instances are polled: one task each, kept as the directory says."""

import asyncio
from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

import structlog

from daemon.elements import Registry
from daemon.errors import Invalid, NotFound
from daemon.model import Instance
from daemon.poller.poller import Poller
from daemon.poller.polling import Polling

log = structlog.get_logger()

SPREAD = 0.02
"""Seconds per instance over which the first polls after a start are spread, so that thousands do not wake together."""


class Pollers:
    """All pollers; `run` is their loop."""

    def __init__(self, *, polling: Polling, elements: Registry) -> None:
        self._polling = polling
        self._elements = elements
        self._running: dict[int, tuple[Poller, asyncio.Task[None]]] = {}
        self._revisions: dict[int, int] = {}
        self._changed = polling.directory.watch()
        # Each lives as long as somebody holds or awaits it.
        self._alone: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._turns: WeakValueDictionary[tuple[str, str | None], asyncio.Semaphore] = (
            WeakValueDictionary()
        )

    async def run(self) -> None:
        """Keep a poller running for every instance that wants one, until cancelled."""
        async with asyncio.TaskGroup() as group:
            instances = list(self._wanted())
            for instance in instances:
                first_after = self._polling.chance() * min(len(instances) * SPREAD, 60.0)
                self._start(group, instance, first_after=first_after)
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._follow(group)

    def wake(self, instance_id: int, *, hurry: bool = False) -> None:
        """Poll that instance now, if it is polled at all; with *hurry* what waits after a failure as well.

        A hint of the provider is no reason to hurry: it may have asked for that wait itself.
        """
        if (running := self._running.get(instance_id)) is not None:
            running[0].wake(hurry=hurry)

    def hint(self, instance_id: int, names: Sequence[tuple[str, str]]) -> None:
        """Let the next poll of that instance look at objects (type and id) that a webhook named.

        Where it is not polled now nothing is kept: its poller begins by comparing everything.
        """
        if (running := self._running.get(instance_id)) is not None:
            running[0].hint(names)

    def __len__(self) -> int:
        return len(self._running)

    def _wanted(self) -> Iterable[Instance]:
        every = self._polling.directory.all()
        return (one for one in every if one.notifies and not one.disabled)

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """Stop and start so that every poller runs with its instance's latest configuration."""
        wanted = {instance.id: instance for instance in self._wanted()}
        for instance_id in [
            i
            for i in self._revisions
            if i not in wanted or wanted[i].revision != self._revisions[i]
        ]:
            del self._revisions[instance_id]
            if (running := self._running.pop(instance_id, None)) is not None:
                running[1].cancel()
        for instance_id, instance in wanted.items():
            if instance_id not in self._revisions:
                self._start(group, instance, first_after=0.0)

    def _start(self, group: asyncio.TaskGroup, instance: Instance, *, first_after: float) -> None:
        self._revisions[instance.id] = instance.revision
        try:
            element = self._elements.get(instance.element_key)
            poller = Poller(self._polling, instance, element)
        except (Invalid, NotFound) as error:
            # It was right when it was stored: an element file has changed since.
            log.error(  # noqa: TRY400 — the sentence says all; a trace would say less
                "instance cannot be polled", instance=instance.id, error=str(error)
            )
            return
        if not poller.resources:
            return
        task = group.create_task(
            self._run(instance, poller, first_after), name=f"poll {instance.id}"
        )
        self._running[instance.id] = (poller, task)

    async def _run(self, instance: Instance, poller: Poller, first_after: float) -> None:
        """Run *poller* as soon as the one before it has ended: that may still be saving a refreshed token."""
        alone = self._alone.setdefault(instance.id, asyncio.Lock())
        provider = (instance.element_key, instance.configuration.get("base.url"))
        turns = self._turns.setdefault(provider, asyncio.Semaphore(self._polling.per_provider))
        async with alone:
            await poller.run(first_after=first_after, turns=turns)
