"""The instances' connections to their providers: one each, whoever uses it.

Pollers, the API and the caretaker read one account side by side, and a refresh token is often good for one use:
so they share the connection, and with it the refresh.  New tokens go into the vault before they are used.

A refresh that the provider refuses for good ends the instance's work: it is disabled with the reason, and a person
has to grant access again.
"""

from collections.abc import Mapping

import structlog

from daemon.elements import Registry, watching
from daemon.elements.base import Http
from daemon.elements.connection import Connection, Lost, Save
from daemon.errors import Unauthorized
from daemon.model import Instance
from daemon.store import instances as store
from daemon.store.directory import Directory
from daemon.store.writer import Unit, Writer
from daemon.webhook_urls import PREFIX

log = structlog.get_logger()

REASON_MOST = 500  # characters of a reason that the log keeps


def remedy(instance_id: int) -> str:
    """What a person does about an instance whose access was refused for good."""
    instance = f"{PREFIX}/instances/{instance_id}"
    return (
        f"grant access again: PATCH {instance} with a new providerData.code (or other credentials in its configuration), "
        f"then PUT {instance}/enabled"
    )


class Connections:
    """All connections; *http* is the client for providers."""

    def __init__(
        self, *, http: Http, elements: Registry, directory: Directory, writer: Writer
    ) -> None:
        self._http = http
        self._elements = elements
        self._directory = directory
        self._writer = writer
        self._connections: dict[int, Connection] = {}

    async def of(self, instance: Instance) -> Connection:
        """The instance's connection, with its settings as they are now.

        Raises `NotFound` where there is no such element any more, `ConfigError` for a secret that no key of ours
        opens, one of `OUTAGE`.
        """
        element = self._elements.get(instance.element_key)
        settings = await self._directory.settings(instance)
        connection = self._connections.get(instance.id)
        if connection is None:
            self._forget_gone()
            connection = Connection(
                http=self._http,
                element=element,
                settings=settings,
                save=self._saving(instance.id),
                lost=self._losing(instance.id),
            )
            self._connections[instance.id] = connection
        else:
            connection.adopt(settings)
        return connection

    def _forget_gone(self) -> None:
        for instance_id in [one for one in self._connections if self._directory.get(one) is None]:
            del self._connections[instance_id]

    async def keep(self, instance_id: int, settings: Mapping[str, str]) -> None:
        """Keep what a provider gave, in the vault; returns when it is durable, however long the database is away."""
        await self._writer.append(
            Unit(instance_id=instance_id, secrets=dict(settings)), patient=True
        )
        self._directory.forget_settings(instance_id)

    def _saving(self, instance_id: int) -> Save:
        async def save(secrets: dict[str, str]) -> None:
            """Keep rotated credentials, before they are used: the old ones may be worthless already."""
            await self.keep(instance_id, secrets)

        return save

    def _losing(self, instance_id: int) -> Lost:
        async def lost(error: Unauthorized) -> None:
            await self.disable(instance_id, str(error))

        return lost

    async def disable(self, instance_id: int, reason: str) -> None:
        """Switch the instance off, and say why; raises `Outage`."""
        await self._directory.refresh()
        instance = self._directory.get(instance_id)
        if instance is None or instance.disabled:
            return
        log.error(
            "instance disabled",
            instance=instance_id,
            element=instance.element_key,
            reason=reason,
            remedy=remedy(instance_id),
        )
        so_far = await self._directory.polled_so_far(instance_id)
        entry = store.changed(
            "instance.disabled",
            instance,
            resources=watching.resources(self._elements, instance, so_far=so_far),
            disabled=True,
            detail={"reason": reason[:REASON_MOST].replace("\0", " ")},
        )
        await self._writer.append(Unit(entries=[entry], instance_id=instance_id))
