"""A random history of a Salesforce organization, polled with faults: nothing lost, invented or told twice."""

import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
import pytest
from elements.changes_of_providers import LENGTH, History, Verdict, opened, report
from elements.organization import SETTINGS, START

from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.salesforce.server import Salesforce
from daemon.outbound.client import Client
from daemon.store import vault

Run = Callable[..., Any]

FIELDS = {"Account": "Name", "Contact": "LastName", "Lead": "LastName"}


class Organization:
    """The simulated organization as a history needs it: late commits, undeletes, hard deletes and equal stamps."""

    key = "sfdc"
    resources = tuple(FIELDS)

    def __init__(self, server: Salesforce, seed: int) -> None:
        self.server = server
        self._rng = random.Random(seed)  # noqa: S311 — a history is drawn, not guarded
        self._binned: dict[str, list[str]] = {name: [] for name in FIELDS}
        self.born: dict[tuple[str, str], datetime] = {}
        self.deleted: set[tuple[str, str]] = set()
        self.counts = dict.fromkeys(("late", "undeleted", "hard"), 0)

    async def grant(self, http: Client, element: Any, settings: dict[str, str]) -> dict[str, str]:
        """The settings that access brings."""
        code = self.server.grant(SETTINGS["oauth.callback.url"])
        return dict(await element.exchange(http, settings, code, {}))

    def create(self, resource: str, version: str) -> str:
        """A new record, or one that comes back from the recycle bin."""
        bin_ = self._binned[resource]
        if bin_ and self._rng.random() < 0.3:
            record_id = bin_.pop()
            self.server.undelete(resource, record_id)
            self.counts["undeleted"] += 1
            # At once: else what it held before would be told again, and rightly.
            self.server.update(resource, record_id, **{FIELDS[resource]: version})
            return record_id
        made = self.server.create(resource, late=self._late(), **{FIELDS[resource]: version})
        self.born[resource, made["Id"]] = self.server.org.now()
        return str(made["Id"])

    def update(self, resource: str, record_id: str, version: str) -> None:
        """Change it; now and then the system touches it as well."""
        self.server.org.commit(record_id)
        self._update(resource, record_id, version)

    def delete(self, resource: str, record_id: str) -> bool:
        """Delete it, past the recycle bin or not."""
        self.server.org.commit(record_id)
        hard = self._rng.random() < 0.3
        self.deleted.add((resource, record_id))
        self.server.delete(resource, record_id, hard=hard, late=0 if hard else self._late())
        if hard:
            self.counts["hard"] += 1
        elif not self.server.org.is_locked(record_id):
            self._binned[resource].append(record_id)
        return True

    def version(self, resource: str, record: dict[str, Any]) -> str:
        """What a told record holds."""
        return str(record[FIELDS[resource]])

    def trouble(self, rng: random.Random) -> None:
        """A failing, busy or forgetful API, a few requests from now or at once."""
        server = self.server
        match rng.choice(["500", "limit", "session", "locator", "slow", "403"]):
            case "session":
                server.after(rng.randrange(9), server.expire_access)
            case "locator":
                for at in rng.sample(range(25), 4):
                    server.after(at, server.expire_locators)
            case "slow":
                server.fail(200, slow=0.001, times=3)
            case "limit":
                server.fail(403, code="REQUEST_LIMIT_EXCEEDED")
            case status:
                server.fail(200, times=rng.randrange(6))
                server.fail(int(status))

    def born_before(self, history: History) -> set[tuple[str, str]]:
        """What had been created when the baseline of its resource was taken."""
        baselines = {name: one.progress.baseline for name, one in history.poller.resources.items()}
        return {
            (resource, record_id)
            for (resource, record_id), when in self.born.items()
            if (baseline := baselines[resource]) is not None and when < baseline
        }

    def _update(self, resource: str, record_id: str, version: str) -> None:
        fields = {FIELDS[resource]: version}
        self.server.update(resource, record_id, late=self._late(), **fields)

    def _late(self) -> float:
        """Some transactions take their time: what they write is dated before what others have committed since."""
        late = self._rng.choice([0, 0, 0, 0, 5, 90, 300])
        self.counts["late"] += late > 0
        return late


async def judged(history: History, organization: Organization) -> Verdict:
    """Hold what was told against what was; what was deleted may be there again."""
    rows = await history.polling.pool.fetch(
        "SELECT change, object_type, object_id, data FROM log WHERE kind = 'change' ORDER BY position"
    )
    truth = history.truth
    verdict = Verdict(truth.changes, len(rows), history.polls, [], [], [])
    there = dict(truth.before)
    heard = set(there)
    versions: set[Any] = set()
    for row in rows:
        name, change = (row["object_type"], row["object_id"]), row["change"]
        if change == "DELETED":
            # What came and went between two polls is told by the log of deletions only.
            if name not in there and name in heard:
                verdict.duplicates.append((change, name))
            if name not in organization.deleted:
                verdict.invented.append((change, name))
            there.pop(name, None)
            heard.add(name)
            continue
        version = (*name, organization.version(name[0], orjson.loads(row["data"])))
        if version in versions:
            verdict.duplicates.append((change, version))
        if version not in truth.versions or there.get(name) == version[2]:
            verdict.invented.append((change, version))
        # In the recycle bin when the baseline was taken: back again, it may be new or changed, as its dates say.
        was_binned = name not in heard and name in organization.born_before(history)
        if (change == "CREATED") == (name in there) and not was_binned:
            verdict.invented.append((change, "not so", version))
        versions.add(version)
        heard.add(name)
        there[name] = version[2]
    verdict.lost += [one for one in truth.live.items() if there.get(one[0]) != one[1]]
    verdict.lost += [("DELETED", name) for name in there.keys() - truth.live.keys()]
    return verdict


@pytest.mark.element("sfdc", "polling")
@pytest.mark.element("sfdc", "created")
@pytest.mark.element("sfdc", "updated")
@pytest.mark.element("sfdc", "deleted")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_history_is_told_once(dsn: str, keys: vault.Keys, run: Run, seed: int) -> None:
    """Records created, changed, deleted, brought back and committed late, while polls fail and sessions end."""
    clock = Clock(START)
    server = Salesforce(
        client_id="the id", client_secret="the secret", rotate=True, batch=2, now=clock
    )
    organization = Organization(server, seed)
    configuration = SETTINGS | {"event.objects": ",".join(FIELDS)}

    async def history() -> Any:
        async with (
            server.running() as origin,
            opened(
                organization,
                origin=origin,
                clock=clock,
                dsn=dsn,
                keys=keys,
                seed=seed,
                configuration=configuration,
            ) as history,
        ):
            history.absences = (2, 4, 40)  # the log of deletions goes back 15 days
            on_the_way = await history.live(LENGTH)
            verdict = await judged(history, organization)
            verdict.lost += on_the_way.lost
            return verdict

    verdict = run(history(), limit=30 + LENGTH / 5)

    print(report("sfdc", verdict), organization.counts)  # noqa: T201 — pytest shows it with -s
    assert verdict.changes >= LENGTH
    assert ([], [], []) == (verdict.lost, verdict.invented, verdict.duplicates)
    assert verdict.told > LENGTH / 3
    assert all(organization.counts.values())


@pytest.mark.element("sfdc", "deleted")
def test_what_went_during_a_long_absence_is_found_by_its_id(
    dsn: str, keys: vault.Keys, run: Run
) -> None:
    """After 20 days, deeper than any log: what is no more is told, once, and all ids are listed once a day at most."""
    clock = Clock(START)
    server = Salesforce(client_id="the id", client_secret="the secret", now=clock)
    organization = Organization(server, 1)

    async def absence() -> None:
        made = [server.create("Contact", LastName=name)["Id"] for name in "abc"]
        server.create("Lead", LastName="quiet")
        clock.advance(3600)
        configuration = SETTINGS | {"event.objects": "Contact,Lead"}
        async with (
            server.running() as origin,
            opened(
                organization,
                origin=origin,
                clock=clock,
                dsn=dsn,
                keys=keys,
                seed=1,
                configuration=configuration,
            ) as history,
        ):
            await history.poll(troubled=False)
            server.delete("Contact", made[0], hard=True)
            server.delete("Contact", made[1])
            server.org.purge("Contact", made[1])
            clock.advance(20 * 86400)
            server.requests.clear()
            for _ in range(3):
                await history.poll(troubled=False)
                clock.advance(900)
            rows = await history.polling.pool.fetch(
                "SELECT change, object_id FROM log WHERE kind = 'change' ORDER BY object_id"
            )
            assert [("DELETED", one) for one in made[:2]] == [tuple(row) for row in rows]
            listed = [path for _, path in server.requests if "SELECT%20Id%20FROM" in path]
            assert [1, 1] == [sum(name in path for path in listed) for name in ("Contact", "Lead")]

    run(absence(), limit=30)
