"""A random history of a QuickBooks company, polled with faults: nothing lost, invented or told twice."""

import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from elements.changes_of_providers import LENGTH, opened, report
from elements.quickbooks.books import LINE, SETTINGS, START

from daemon.elements.quickbooks import element as element_module
from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.quickbooks.server import REALM, QuickBooks
from daemon.outbound.client import Client
from daemon.store import vault

Run = Callable[..., Any]

ENTITIES = {
    "customers": "Customer", "invoices": "Invoice", "payments": "Payment", "time-activities": "TimeActivity",
}  # fmt: skip
SINCE = "lastModifiedDate>='${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'"


class Company:
    """The simulated company as a history needs it: names, transactions, and one entity that CDC does not know."""

    key = "quickbooks"
    resources = tuple(ENTITIES)

    def __init__(self, server: QuickBooks) -> None:
        self.server = server

    async def grant(self, http: Client, element: Any, settings: dict[str, str]) -> dict[str, str]:
        """The settings that access brings."""
        code = self.server.grant()
        return dict(await element.exchange(http, settings, code, {"realmId": REALM}))

    def create(self, resource: str, version: str) -> str:
        """A new record."""
        fields = {"CustomerRef": {"value": "1"}, "Line": LINE, "PrivateNote": version}
        if resource == "customers":
            fields["DisplayName"] = version
        return str(self.server.create(ENTITIES[resource], **fields)["Id"])

    def update(self, resource: str, record_id: str, version: str) -> None:
        """Change it; some customers go inactive and come back."""
        more = {"Active": int(version[1:]) % 3 > 0} if resource == "customers" else {}
        self.server.update(ENTITIES[resource], record_id, PrivateNote=version, **more)

    def delete(self, resource: str, record_id: str) -> bool:
        """Delete a transaction; a name cannot be."""
        if resource == "customers":
            return False
        self.server.delete(ENTITIES[resource], record_id)
        return True

    def version(self, resource: str, record: dict[str, Any]) -> str:
        """What a told record holds."""
        return str(record["privateNote"])

    def trouble(self, rng: random.Random) -> None:
        """A failing, throttling or expiring API, a few requests from now or at once."""
        match rng.choice(["500", "429", "expire", "slow", "403"]):
            case "expire":
                self.server.expire_access()
            case "slow":
                self.server.slow(0.001, times=3)
            case status:
                for _ in range(rng.randrange(6)):
                    self.server.slow(0)
                self.server.fail(int(status))


@pytest.mark.element("quickbooks", "created")
@pytest.mark.element("quickbooks", "updated")
def test_a_random_history_is_told_once(dsn: str, keys: vault.Keys, run: Run) -> None:
    """Names, transactions and time activities, created, changed and deleted while polls fail and records move."""
    told_once(dsn, keys, run, LENGTH)


@pytest.mark.parametrize("newest_first", [False, True])
def test_captures_that_leave_out_changes(
    dsn: str, keys: vault.Keys, run: Run, monkeypatch: Any, *, newest_first: bool
) -> None:
    """Where the CDC shows some of the changes only, the earliest or the latest, all are told all the same."""
    monkeypatch.setattr(element_module, "MOST", 3)
    told_once(dsn, keys, run, LENGTH // 2, most_captured=3, newest_first=newest_first)


def test_a_quiet_company_is_never_read_whole(dsn: str, keys: vault.Keys, run: Run) -> None:
    """Weeks without a change do not take the cursor out of what the CDC remembers: no inventory, and a deletion is told."""
    clock = Clock(START)
    server = QuickBooks(client_id="client", client_secret="s3cret", per_minute=0, now=clock)
    url = f"/hubs/finance/invoices?where={SINCE}"
    configuration = {
        **SETTINGS,
        "realm.id": REALM,
        "event.poller.configuration": f'{{"invoices": {{"url": "{url}", "idField": "systemId"}}}}',
    }

    async def history() -> list[str]:
        company = Company(server)
        made = company.create("invoices", "v1")
        async with (
            server.running() as origin,
            opened(
                company, origin=origin, clock=clock, dsn=dsn, keys=keys, seed=1, configuration=configuration
            ) as history,
        ):  # fmt: skip
            await history.poll(troubled=False)
            server.requests.clear()
            for _ in range(45):
                clock.advance(86_400)
                await history.poll(troubled=False)
            company.delete("invoices", made)
            clock.advance(600)
            await history.poll(troubled=False)
            rows = await history.polling.pool.fetch("SELECT change FROM log WHERE kind = 'change'")
            return [row["change"] for row in rows]

    assert ["DELETED"] == run(history())
    asked = [path for _, path in server.requests if "/query" in path]
    assert len(asked) >= 46
    assert all("WHERE%20MetaData.LastUpdatedTime" in path for path in asked)


def told_once(
    dsn: str, keys: vault.Keys, run: Run, length: int, *, most_captured: int = 1000, newest_first: bool = False
) -> None:  # fmt: skip
    """Go through a history of *length* changes, and judge."""
    clock = Clock(START)
    server = QuickBooks(client_id="client", client_secret="s3cret", per_minute=0, now=clock)
    server.most_captured, server.newest_first = most_captured, newest_first
    configuration = {
        **SETTINGS,
        "realm.id": REALM,
        "event.poller.configuration": _configuration(),
    }

    async def history() -> Any:
        company = Company(server)
        async with (
            server.running() as origin,
            opened(
                company,
                origin=origin,
                clock=clock,
                dsn=dsn,
                keys=keys,
                seed=1,
                configuration=configuration,
            ) as history,
        ):
            history.absences = (2, 4, 40)  # the CDC looks back 30 days
            return await history.live(length)

    coroutine: Coroutine[Any, Any, Any] = history()
    verdict = run(coroutine, limit=30 + length / 5)

    print(report("quickbooks", verdict))  # noqa: T201 — pytest shows it with -s
    assert verdict.changes >= length
    assert ([], [], []) == (verdict.lost, verdict.invented, verdict.duplicates)
    assert verdict.told > length / 3


def _configuration() -> str:
    """Pages of two, so that records move between them."""
    import orjson

    return orjson.dumps(
        {
            resource: {
                "url": f"/hubs/finance/{resource}?where={SINCE}",
                "idField": "systemId",
                "pageSize": 2,
                "datesConfiguration": {
                    "updatedDateField": "metaData.lastUpdatedTime",
                    "createdDateField": "metaData.createTime",
                },
            }
            for resource in ENTITIES
        }
    ).decode()
