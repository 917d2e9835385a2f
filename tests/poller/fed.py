"""A poller on a real database that reads the simulated Dropbox, and the simulator's own account of what it told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiohttp import web
from heart import writing

from daemon import elements
from daemon.connections import Connections
from daemon.elements.simulators.dropbox.server import Dropbox
from daemon.elements.simulators.dropbox.tree import Conflict
from daemon.model import Instance
from daemon.outbound.client import Client, Limits
from daemon.plans import compile_plans
from daemon.poller import Polling
from daemon.poller.poller import Poller
from daemon.store import database, instances, objects, vault
from daemon.store.directory import Directory
from daemon.store.log import SELF
from daemon.store.writer import Unit, Writer

START = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
SECRET = "app-secret"

Version = tuple[str, str, str]  # id, rev, path in lower case
Happening = Callable[[], web.Response | None]


class Fed:
    """An account, what reads it, and what its history was."""

    def __init__(self, polling: Polling, registry: elements.Registry, dropbox: Dropbox) -> None:
        self.polling = polling
        self.registry = registry
        self.dropbox = dropbox
        self.writer: Writer = polling.writer
        self.happenings: list[Happening | None] = []
        """Before which request what happens: each is used up by one."""
        self.existed: set[Version] = set()
        self.clock = [START]

    def edit(self, how: str, *paths: str) -> None:
        """Change the account, if that can be: `upload`, `folder`, `delete`, `move`."""
        content = (str(len(self.existed)).encode(),) if how == "upload" else ()
        with suppress(Conflict):
            getattr(self.dropbox, how)(*paths, *content)
        self.existed |= set(self.there())

    def there(self) -> list[Version]:
        """What the account holds."""
        return [(one.id, one.rev, path) for path, one in self.dropbox.tree.nodes.items()]

    def ids(self) -> dict[str, str]:
        """Id by path."""
        return {path: one.id for path, one in self.dropbox.tree.nodes.items()}

    async def create(self, **settings: str) -> Instance:
        """An instance; `__` in a setting's name is a dot."""
        return await self._append("instance.created", SELF, settings)

    async def configure(self, instance: Instance, **settings: str) -> Instance:
        """The instance with other settings."""
        return await self._append("instance.configured", instance.id, settings)

    async def _append(self, kind: str, instance_id: int, settings: dict[str, str]) -> Instance:
        tokens = self.dropbox.access()
        configuration: dict[str, str | None] = {
            "event.notification.enabled": "true",
            "event.notification.callback.url": "https://app.test/hook",
            "oauth.api.key": "client",
            "oauth.user.id": tokens.pop("oauth.user.id"),
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        plans = compile_plans(configuration, self.registry.get("dropbox").poller_defaults)
        watched = plans if configuration["event.notification.enabled"] == "true" else ()
        entry = instances.entry(
            kind,
            instance_id=instance_id,
            organization_id=2,
            user_id=2,
            element_key="dropbox",
            hub="documents",
            name="Box",
            tags=(),
            configuration=configuration,
            token_digest=instances.digest(instances.new_token()),
            disabled=False,
            callback="https://app.test/hook",
            resources=[plan.resource for plan in watched],
        )
        secrets = {"oauth.api.secret": SECRET, **tokens}
        receipt = await self.writer.append(Unit([entry], instance_id=instance_id, secrets=secrets))
        await self.polling.directory.refresh()
        found = self.polling.directory.get(instance_id or receipt.position)
        assert found is not None
        return found

    def poller(self, instance: Instance) -> Poller:
        """A poller for it, as after a start."""
        return Poller(self.polling, instance, self.registry.get("dropbox"))

    async def rows(self, instance: Instance) -> list[Any]:
        """The changes in the log, in order."""
        return await self.polling.pool.fetch(
            "SELECT change, object_id, object_type, place, data FROM log WHERE kind = 'change' AND instance_id = $1 ORDER BY position",
            instance.id,
        )

    async def told(self, instance: Instance) -> list[tuple[str, str]]:
        """(change, name by which the object is known) of all that the log tells: its path, or its last."""
        names = {i: path for i, _, path in sorted(self.existed)} | {
            i: path for path, i in self.ids().items()
        }
        return [(row["change"], names[row["object_id"]]) for row in await self.rows(instance)]

    async def cursor(self, instance: Instance, resource: str = "files") -> Any:
        """The resource's row of `cursors`."""
        rows = await objects.cursors(self.polling.pool, instance.id)
        return next((row for row in rows if row["resource"] == resource), None)

    async def judge(self, instance: Instance, before: set[Version]) -> dict[str, int]:
        """Hold what was told against what was: how many changes were told, lost, invented, told twice.

        *before* is what there was when the baseline was taken.
        """
        last = {i: (i, rev, path) for i, rev, path in before}
        counts = dict.fromkeys(("told", "lost", "invented", "twice"), 0)
        for row in await self.rows(instance):
            counts["told"] += 1
            i, known = row["object_id"], row["object_id"] in last
            if row["change"] == "DELETED":
                counts["invented"] += not known
                last.pop(i, None)
                continue
            record = orjson.loads(row["data"])
            version = (i, record.get("rev", ""), record["path_lower"])
            counts["invented"] += version not in self.existed or known != (
                row["change"] == "UPDATED"
            )
            counts["twice"] += last.get(i) == version
            last[i] = version
        counts["lost"] = len(set(last.values()) ^ set(self.there()))
        return counts


@asynccontextmanager
async def fed(dsn: str, keys: vault.Keys, *, page: int = 2000, **rules: Any) -> AsyncIterator[Fed]:
    """Start everything."""
    clock = [START]
    dropbox = Dropbox(app_secret=SECRET, page=page, now=lambda: clock[0])
    happenings: list[Happening | None] = []

    @web.middleware
    async def happening(request: web.Request, handler: Any) -> web.StreamResponse:
        what = happenings.pop(0) if happenings and request.path.startswith("/2/") else None
        answer = what() if what is not None else None
        return answer if answer is not None else await handler(request)

    def monotonic() -> float:
        return clock[0].timestamp()

    dropbox.app.middlewares.append(happening)
    async with (
        dropbox.running() as origin,
        database.open_pool(dsn, size=4) as pool,
        writing(dsn, keys) as writer,
        Client(Limits(connect=2, total=5)) as http,
    ):
        registry = elements.load(stand_ins={"dropbox": origin})
        directory = Directory(pool=pool, keys=keys)
        await directory.load()
        polling = Polling(
            pool=pool,
            writer=writer,
            directory=directory,
            connections=Connections(
                http=http, elements=registry, directory=directory, writer=writer
            ),
            turns=asyncio.Semaphore(8),
            clock=lambda: clock[0],
            monotonic=monotonic,
            chance=lambda: 0.5,
            **rules,
        )
        made = Fed(polling, registry, dropbox)
        made.happenings, made.clock = happenings, clock
        yield made


def advance(world: Fed, seconds: float) -> None:
    """Let the clock go on."""
    world.clock[0] += timedelta(seconds=seconds)


def status(code: int) -> Happening:
    """Answer with that status."""
    return lambda: web.Response(status=code, text="asked for")
