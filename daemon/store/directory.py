"""The instances in memory, as the log has them.

Every request, poll and delivery needs an instance; there are thousands, and they change rarely.  So they are
read once and then followed through the log by position: `refresh` reads those that changed since.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from daemon.model import Instance
from daemon.store import instances, log, objects, vault
from daemon.store.database import Pool


class Directory:
    """All instances that exist, with the secrets of those in use."""

    def __init__(self, *, pool: Pool, keys: vault.Keys) -> None:
        self._pool = pool
        self._keys = keys
        self._instances: dict[int, Instance] = {}
        self._by_token: dict[bytes, int] = {}
        self._by_element: defaultdict[str, dict[int, None]] = defaultdict(dict)
        self._routes: dict[tuple[str, str], dict[str, list[int]]] = {}
        self._settings: dict[int, dict[str, str]] = {}
        self._changes = 0  # how often settings were forgotten
        self._position = 0
        self._refreshing = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._watchers: list[asyncio.Event] = []

    async def load(self) -> None:
        """Read all instances; raises one of `OUTAGE`."""
        self._position = await log.head(self._pool)
        for instance in await instances.load(self._pool):
            self._put(instance)

    async def refresh(self) -> None:
        """Read what changed since the last time, and set the watchers' events if anything did."""
        async with self._refreshing:
            upto, ids = await instances.changed_after(self._pool, self._position)
            if ids:
                found = {
                    instance.id: instance for instance in await instances.load(self._pool, ids)
                }
                for instance_id in ids:
                    self._drop(instance_id)
                    if instance_id in found:
                        self._put(found[instance_id])
            self._position = upto
        if ids:
            for watcher in self._watchers:
                watcher.set()

    def watch(self) -> asyncio.Event:
        """An event that is set whenever instances changed; the watcher clears it."""
        watcher = asyncio.Event()
        self._watchers.append(watcher)
        return watcher

    def get(self, instance_id: int) -> Instance | None:
        """The instance, None when it does not exist (any more)."""
        return self._instances.get(instance_id)

    def all(self) -> Iterable[Instance]:
        """Every instance, oldest first."""
        return sorted(self._instances.values(), key=lambda i: i.id)

    def of_organization(self, organization_id: int) -> list[Instance]:
        """An organization's instances, oldest first."""
        return sorted(
            (i for i in self._instances.values() if i.organization_id == organization_id),
            key=lambda i: i.id,
        )

    def of_element(self, element_key: str) -> list[Instance]:
        """An element's instances."""
        return [self._instances[instance_id] for instance_id in self._by_element[element_key]]

    def by_token(self, token: str) -> Instance | None:
        """The instance that an element token belongs to."""
        instance_id = self._by_token.get(instances.digest(token))
        return None if instance_id is None else self._instances[instance_id]

    def routed(self, element_key: str, key: str, value: str) -> list[Instance]:
        """The element's instances whose configuration has *value* under *key*."""
        route = self._routes.get((element_key, key))
        if route is None:
            route = {}
            for instance in self.of_element(element_key):
                found = instance.configuration.get(key)
                if found is not None:
                    route.setdefault(found, []).append(instance.id)
            self._routes[element_key, key] = route
        return [self._instances[instance_id] for instance_id in route.get(value, ())]

    def at_hand(self, instance: Instance) -> dict[str, str] | None:
        """What `settings` returns, where it was read already; None where it has to be asked."""
        return self._settings.get(instance.id)

    async def settings(self, instance: Instance) -> dict[str, str]:
        """The instance's configuration with secrets in clear; treat as read-only."""
        found = self._settings.get(instance.id)
        if found is not None:
            return found
        async with self._opening:
            # Many deliveries of one instance may have come here at once: the first reads for all.
            if (found := self._settings.get(instance.id)) is not None:
                return found
            changes = self._changes
            secrets = await vault.get(self._pool, self._keys, instance.id)
            found = {k: v for k, v in instance.configuration.items() if v is not None} | secrets
            # What was read while something changed, or for a caller who is behind, is not for others.
            if self._changes == changes and self._instances.get(instance.id) is instance:
                self._settings[instance.id] = found
            return found

    async def polled_so_far(self, instance_id: int) -> list[str]:
        """The resources of which it is known how far they are polled; raises one of `OUTAGE`."""
        return [row["resource"] for row in await objects.cursors(self._pool, instance_id)]

    def forget_settings(self, instance_id: int) -> None:
        """Read the instance's secrets anew next time: the vault has others now."""
        self._settings.pop(instance_id, None)
        self._changes += 1

    def _put(self, instance: Instance) -> None:
        self._instances[instance.id] = instance
        self._by_token[instance.token_digest] = instance.id
        self._by_element[instance.element_key][instance.id] = None
        self._unroute(instance.element_key)

    def _drop(self, instance_id: int) -> None:
        instance = self._instances.pop(instance_id, None)
        self.forget_settings(instance_id)
        if instance is not None:
            self._by_token.pop(instance.token_digest, None)
            self._by_element[instance.element_key].pop(instance_id, None)
            self._unroute(instance.element_key)

    def _unroute(self, element_key: str) -> None:
        for route in [route for route in self._routes if route[0] == element_key]:
            del self._routes[route]
