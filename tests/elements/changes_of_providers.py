"""A random history at a simulated provider, polled into a real log, and judged against what really was.

Laws: a version that is there in the end was told (lost 0); nothing was told that never was (invented 0); nothing was
told twice (duplicates 0).  Two changes between two polls count as one.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson
from heart import writing

from daemon import elements
from daemon.connections import Connections
from daemon.elements.simulators.ledger import Clock
from daemon.model import Instance, Request, Response
from daemon.outbound.client import Client, Limits
from daemon.plans import compile_plans
from daemon.poller import Polling
from daemon.poller.poller import Poller
from daemon.store import database, instances, vault
from daemon.store.directory import Directory
from daemon.store.log import SELF
from daemon.store.writer import Unit, Writer

START = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)

LENGTH = int(os.environ.get("HISTORY", "300"))

Version = tuple[str, str, str]
"""Resource, id, and what the version of the record is told by."""


class Provider(Protocol):
    """A simulated provider, as a history needs it."""

    key: str
    resources: tuple[str, ...]

    async def grant(self, http: Client, element: Any, settings: dict[str, str]) -> dict[str, str]:
        """The settings that access brings."""

    def create(self, resource: str, version: str) -> str:
        """A new record that holds *version*; its id."""

    def update(self, resource: str, record_id: str, version: str) -> None:
        """Have it hold *version*."""

    def delete(self, resource: str, record_id: str) -> bool:
        """Delete it, if that is possible."""

    def version(self, resource: str, record: dict[str, Any]) -> str:
        """What *record*, as it was told, holds."""

    def trouble(self, rng: random.Random) -> None:
        """Ask for a fault."""


class Interloper:
    """The client for providers, but something happens just before some of its requests."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.before: list[Callable[[], None] | None] = []

    async def send(self, request: Request) -> Response:
        """Let it happen, then send."""
        happening = self.before.pop(0) if self.before else None
        if happening is not None:
            happening()
        return await self._client.send(request)


@dataclass
class Truth:
    """What really was: the records there are, every version there ever was, and what was there at the baseline."""

    live: dict[tuple[str, str], str] = field(default_factory=dict)
    versions: set[Version] = field(default_factory=set)
    before: dict[tuple[str, str], str] = field(default_factory=dict)
    changes: int = 0


@dataclass
class Verdict:
    """The figures of a history, with the cases behind them."""

    changes: int
    told: int
    polls: int
    lost: list[Any]
    invented: list[Any]
    duplicates: list[Any]


class History:
    """One instance and its provider."""

    def __init__(
        self, *, provider: Provider, clock: Clock, seed: int, polling: Polling, instance: Instance,
        registry: elements.Registry, interloper: Interloper,
    ) -> None:  # fmt: skip
        self.provider, self.clock = provider, clock
        self.rng = random.Random(seed)  # noqa: S311 — it must be the same every time
        self.polling, self.instance, self.registry = polling, instance, registry
        self.interloper = interloper
        self.truth = Truth()
        self.polls = self.made = 0
        self.absences: tuple[int, ...] = ()
        """Days that may pass without a poll; none as a rule, for grants die of them at some providers."""
        self.poller = self._new_poller()

    def _new_poller(self) -> Poller:
        return Poller(self.polling, self.instance, self.registry.get(self.provider.key))

    def change(self) -> None:
        """One change at the provider."""
        truth, rng = self.truth, self.rng
        truth.changes += 1
        self.made += 1
        resource = rng.choice(self.provider.resources)
        mine = [name for name in truth.live if name[0] == resource]
        version = f"v{self.made}"
        what = rng.choice(["create", "update", "update", "delete"]) if mine else "create"
        if what == "create":
            name = (resource, self.provider.create(resource, version))
        else:
            name = rng.choice(mine)
            if what == "delete" and self.provider.delete(*name):
                del truth.live[name]
                return
            self.provider.update(*name, version)
        truth.live[name] = version
        truth.versions.add((*name, version))

    async def poll(self, *, troubled: bool = True) -> None:
        """One poll, in which things go wrong and change."""
        rng = self.rng
        if troubled and rng.random() < 0.5:
            self.provider.trouble(rng)
        if troubled and rng.random() < 0.7:
            self.interloper.before = [rng.choice([self.change, None]) for _ in range(16)]
        self.polls += 1
        assert await self.poller.poll_once(hurry=True)
        self.interloper.before = []

    async def live(self, changes: int) -> Verdict:
        """Set a baseline, go through *changes*, poll without trouble, and judge."""
        for _ in range(20):
            self.change()
            self.clock.advance(self.rng.choice([0, 1, 30]))
        self.clock.advance(200)
        await self.poll(troubled=False)
        truth = self.truth
        truth.before, truth.versions, truth.changes = dict(truth.live), set(), 0
        for name, version in truth.before.items():
            truth.versions.add((*name, version))
        lost: list[Any] = []
        while truth.changes < changes:
            self.change()
            self.clock.advance(self.rng.choice([0, 0, 1, 2, 40, 70, 300]))
            if self.absences and self.rng.random() < 0.03:
                await self._away(self.rng.choice(self.absences))
            # Seldom enough for several pages to be read, with times well beyond the overlap of two polls.
            if self.rng.random() < 0.1:
                await self.poll()
            if self.rng.random() < 0.02:
                self.poller = self._new_poller()  # as after a start
            if self.rng.random() < 0.04:
                # Often, for what was lost here may be changed again, and told, before the end.
                lost += (await self._rested()).lost
        verdict = await self._rested()
        verdict.lost += lost
        return verdict

    async def _away(self, days: int) -> None:
        """Nobody looks for *days*, and then perhaps nothing happens for a few more."""
        self.clock.advance(86_400 * days)
        for _ in range(self.rng.choice([0, 5])):
            self.clock.advance(86_400)
            await self.poll(troubled=False)

    async def _rested(self) -> Verdict:
        """Poll without trouble, and judge."""
        for _ in range(3):
            self.clock.advance(120)
            await self.poll(troubled=False)
        return await self.judge()

    async def judge(self) -> Verdict:
        """Hold what was told against what was."""
        rows = await self.polling.pool.fetch(
            "SELECT change, object_type, object_id, data FROM log WHERE kind = 'change' ORDER BY position"
        )
        truth = self.truth
        known = dict(truth.before)
        seen: set[Version] = set()
        verdict = Verdict(truth.changes, len(rows), self.polls, [], [], [])
        there = set(known)
        for row in rows:
            name = (row["object_type"], row["object_id"])
            if row["change"] == "DELETED":
                if name in truth.live:
                    verdict.invented.append((row["change"], name))
                if name in known and name not in there:
                    verdict.duplicates.append((row["change"], name))
                known.setdefault(name, "")
                there.discard(name)
                continue
            version = (*name, self.provider.version(name[0], orjson.loads(row["data"])))
            if version not in truth.versions or known.get(name) == version[2]:
                verdict.invented.append((row["change"], version))
            if version in seen:
                verdict.duplicates.append((row["change"], version))
            if (row["change"] == "CREATED") == (name in there):
                verdict.invented.append((row["change"], "not so", version))
            seen.add(version)
            known[name] = version[2]
            there.add(name)
        verdict.lost += [
            (name, version) for name, version in truth.live.items() if known.get(name) != version
        ]
        verdict.lost += [("DELETED", name) for name in there - set(truth.live)]
        return verdict


@asynccontextmanager
async def opened(
    provider: Provider, *, origin: str, clock: Clock, dsn: str, keys: vault.Keys, seed: int,
    configuration: dict[str, str],
) -> AsyncIterator[History]:  # fmt: skip
    """Everything that polls, on the database *dsn*."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(database.open_pool(dsn, size=4))
        writer = await enter(writing(dsn, keys))
        client = await enter(Client(Limits(connect=2, total=10)))
        built = elements.built_in(provider.key, now=clock).beside(origin)
        registry = elements.Registry([built])
        directory = Directory(pool=pool, keys=keys)
        await directory.load()
        interloper = Interloper(client)
        connections = Connections(
            http=interloper, elements=registry, directory=directory, writer=writer
        )
        polling = Polling(
            pool=pool, writer=writer, directory=directory, connections=connections,
            turns=asyncio.Semaphore(8), clock=clock, monotonic=lambda: clock().timestamp(), chance=lambda: 0.5, disable_after_failures=10**9,
            sweep_limit=1.0,
        )  # fmt: skip
        tokens = await provider.grant(client, built, configuration)
        instance = await _instance(writer, directory, built, {**configuration, **tokens})
        yield History(
            provider=provider, clock=clock, seed=seed, polling=polling, instance=instance, registry=registry,
            interloper=interloper,
        )  # fmt: skip


async def _instance(
    writer: Writer, directory: Directory, element: Any, settings: dict[str, str]
) -> Instance:
    shown = {
        key: "********" if key in element.secrets else value for key, value in settings.items()
    }
    shown["event.notification.enabled"] = "true"
    shown["event.notification.callback.url"] = "https://app.test/hook"
    plans = compile_plans(shown, element.poller_defaults)
    entry = instances.entry(
        "instance.created",
        instance_id=SELF,
        organization_id=2,
        user_id=2,
        element_key=element.key,
        hub=element.hub,
        name="History",
        tags=(),
        configuration=shown,
        token_digest=instances.digest(instances.new_token()),
        disabled=False,
        callback="https://app.test/hook",
        resources=[plan.resource for plan in plans],
    )
    secrets = {key: value for key, value in settings.items() if key in element.secrets}
    receipt = await writer.append(Unit([entry], instance_id=SELF, secrets=secrets))
    await directory.refresh()
    found = directory.get(receipt.position)
    assert found is not None
    return found


def report(provider: str, verdict: Verdict) -> str:
    """The figures, for people; to see them: HISTORY=2000 pytest -s."""
    return (
        f"\n{provider}: {verdict.changes} changes, {verdict.polls} polls, {verdict.told} told: lost {len(verdict.lost)}, "
        f"invented {len(verdict.invented)}, duplicates {len(verdict.duplicates)}"
    )
