"""A random history of a HubSpot account, polled with faults and a lagging index: nothing lost, invented or told twice.

`HISTORY=2000` in the environment makes it so many changes long; `-s` shows the figures.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from elements.changes_of_providers import LENGTH, START, History, Verdict, opened, report

from daemon.elements.simulators.hubspot.records import Row, iso
from daemon.elements.simulators.hubspot.server import HubSpot
from daemon.elements.simulators.ledger import Clock
from daemon.outbound.client import Client
from daemon.store import vault

Run = Callable[..., Any]
Name = tuple[str, str]

KINDS = {
    "contacts": "contacts",
    "accounts": "companies",
    "deals": "deals",
    "line_items": "line_items",
}
"""Resources as the instance polls them, and HubSpot's names."""

LONGEST_LAG = 1500.0  # seconds
APP = {
    "oauth.api.key": "client",
    "oauth.api.secret": "hubspot-secret",
    "oauth.callback.url": "https://app.example/back",
    "event.notification.enabled": "true",
}


@dataclass
class Portal:
    """The simulated account, as a history needs it."""

    server: HubSpot
    key: str = "hubspot"
    resources: tuple[str, ...] = tuple(KINDS)
    deaths: set[Name] = field(default_factory=set)
    lag: float = 0.0

    async def grant(self, http: Client, element: Any, settings: dict[str, str]) -> dict[str, str]:
        """The settings that access brings."""
        code = self.server.grant()
        return dict(await element.exchange(http, settings, code, {}))

    def create(self, resource: str, version: str) -> str:
        """A new record."""
        return str(self.server.create(KINDS[resource], name=version)["id"])

    def update(self, resource: str, record_id: str, version: str) -> None:
        """Change it."""
        self.server.update(KINDS[resource], record_id, name=version)

    def delete(self, resource: str, record_id: str) -> bool:
        """Archive it."""
        self.server.delete(KINDS[resource], record_id)
        return True

    def version(self, resource: str, record: dict[str, Any]) -> str:
        """What a told record holds, and since when."""
        dates = record["properties"]
        return f"{dates['name']}@{dates.get('lastmodifieddate') or dates['hs_lastmodifieddate']}"

    def trouble(self, rng: random.Random) -> None:
        """A failing, throttling or expiring API, a few requests from now or at once; an index that lags."""
        match rng.choice(["500", "429", "477", "403", "expire", "slow", "lag", "lag"]):
            case "expire":
                self.server.expire_access()
            case "slow":
                self.server.slow(0.001, times=3)
            case "lag":
                self.lag = rng.choice([0, 5, 60, 600, LONGEST_LAG])
            case status:
                for _ in range(rng.randrange(8)):
                    self.server.slow(0)
                self.server.fail(int(status))


class Account(History):
    """A history in which records are merged and restored, too."""

    provider: Portal
    archived: set[Name]
    """What was archived at the baseline."""

    async def live(self, changes: int) -> Verdict:
        """Go through it all, remembering what was archived when the baseline was set."""
        self.archived = set()
        return await super().live(changes)

    async def poll(self, *, troubled: bool = True) -> None:
        """One poll."""
        if not self.polls:
            self.archived = set(self.provider.deaths)
        await super().poll(troubled=troubled)

    async def _rested(self) -> Verdict:
        """Poll without trouble once the index has followed, and judge."""
        self.clock.advance(LONGEST_LAG)
        return await super()._rested()

    def change(self) -> None:
        """One change."""
        rng, truth, server = self.rng, self.truth, self.provider.server
        resource = rng.choice(self.provider.resources)
        records = server.records[KINDS[resource]]
        there, gone = [str(one) for one in records.rows], [str(one) for one in records.archived]
        what = rng.choice(["create", "update", "update", "update", "delete", "restore", "merge"])
        merges = resource != "line_items" and truth.before  # older merges are history
        truth.changes += 1
        self.made += 1
        server.lag(rng.choice([0, self.provider.lag]))  # one change overtakes another
        version = f"v{self.made}"
        if what == "restore" and gone:
            self.clock.advance(0.001)  # or it could be the version that it was before
            touched = [server.restore(KINDS[resource], rng.choice(gone))["id"]]
        elif what == "merge" and len(there) > 1 and merges:
            touched = rng.sample(there, 2)
            server.merge(KINDS[resource], *touched)
        elif what == "create" or not there:
            touched = [self.provider.create(resource, version)]
        else:
            touched = [rng.choice(there)]
            if what == "delete":
                self.provider.delete(resource, touched[0])
            else:
                self.provider.update(resource, touched[0], version)
        for one in touched:
            self._note((resource, one), records.rows.get(int(one)))

    def _note(self, name: Name, row: Row | None) -> None:
        if row is None:
            self.provider.deaths.add(name)
            del self.truth.live[name]
        else:
            version = f"{row.fields['name']}@{iso(row.updated)}"
            self.truth.live[name] = version
            self.truth.versions.add((*name, version))

    async def judge(self) -> Verdict:
        """Hold what was told against what was."""
        rows = await self.polling.pool.fetch(
            "SELECT change, object_type, object_id, data FROM log WHERE kind = 'change' ORDER BY position"
        )
        truth = self.truth
        verdict = Verdict(truth.changes, len(rows), self.polls, [], [], [])
        known = dict(truth.before)
        there, ever = set(known), set(known)
        seen: set[Any] = set()
        for row in rows:
            name = (row["object_type"], row["object_id"])
            if row["change"] == "DELETED":
                # One that came and went between two polls is told once, too.
                if name in ever and name not in there:
                    verdict.duplicates.append(("DELETED", name))
                if name not in self.provider.deaths:
                    verdict.invented.append(("DELETED", name))
                there.discard(name)
                ever.add(name)
                known.pop(name, None)
                continue
            version = self.provider.version(name[0], orjson.loads(row["data"]))
            if (*name, version) not in truth.versions or truth.before.get(name) == version:
                verdict.invented.append((row["change"], name, version))
            if (*name, version) in seen:
                verdict.duplicates.append((row["change"], name, version))
            # One that was archived at the baseline and is restored was never heard of: it is changed, not new.
            older = name not in ever and name in self.archived
            if (row["change"] == "CREATED") == (name in there or older):
                verdict.invented.append((row["change"], "not so", name, version))
            seen.add((*name, version))
            there.add(name)
            ever.add(name)
            known[name] = version
        verdict.lost += [
            (name, version) for name, version in truth.live.items() if known.get(name) != version
        ]
        verdict.lost += [("DELETED", name) for name in there - set(truth.live)]
        return verdict


@pytest.mark.element("hubspot", "polling")
@pytest.mark.element("hubspot", "created")
@pytest.mark.element("hubspot", "updated")
@pytest.mark.element("hubspot", "deleted")
@pytest.mark.parametrize("seed", [3])
def test_a_random_history_is_told_once(dsn: str, keys: vault.Keys, run: Run, seed: int) -> None:
    """Created, changed, archived, restored and merged while polls fail, tokens expire and the index lags."""
    clock = Clock(START)
    server = HubSpot(client_id="client", now=clock)
    configuration = {
        **APP,
        "event.poller.configuration": orjson.dumps(
            {
                resource: {
                    "url": f"/hubs/crm/{resource}?where=lastmodifieddate='${{date}}'&properties=name",
                    "idField": "id",
                    "pageSize": 3,
                    "datesConfiguration": {
                        "updatedDateField": f"properties.{server.records[kind].modified}",
                        "updatedDateFormat": "milliseconds",
                        "createdDateField": "properties.createdate",
                        "createdDateFormat": "milliseconds",
                    },
                }
                for resource, kind in KINDS.items()
            }
        ).decode(),
    }

    async def history() -> Verdict:
        async with (
            server.running() as origin,
            opened(
                Portal(server),
                origin=origin,
                clock=clock,
                dsn=dsn,
                keys=keys,
                seed=seed,
                configuration=configuration,
            ) as plain,
        ):
            account = Account(
                provider=plain.provider, clock=clock, seed=seed, polling=plain.polling, instance=plain.instance,
                registry=plain.registry, interloper=plain.interloper,
            )  # fmt: skip
            return await account.live(LENGTH)

    verdict = run(history(), limit=60 + LENGTH / 5)

    print(report("hubspot", verdict))  # noqa: T201 — pytest shows it with -s
    assert verdict.changes >= LENGTH
    assert ([], [], []) == (verdict.lost, verdict.invented, verdict.duplicates)
    assert verdict.told > LENGTH / 3
