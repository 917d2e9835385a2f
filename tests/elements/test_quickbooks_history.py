"""A random history of a QuickBooks company, polled with faults: nothing lost, invented or told twice."""

import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from elements.changes_of_providers import LENGTH, opened, report
from elements.quickbooks.books import LINE, SETTINGS, START

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
    clock = Clock(START)
    server = QuickBooks(client_id="client", client_secret="s3cret", per_minute=0, now=clock)
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
            return await history.live(LENGTH)

    coroutine: Coroutine[Any, Any, Any] = history()
    verdict = run(coroutine, limit=30 + LENGTH / 5)

    print(report("quickbooks", verdict))  # noqa: T201 — pytest shows it with -s
    assert verdict.changes >= LENGTH
    assert ([], [], []) == (verdict.lost, verdict.invented, verdict.duplicates)
    assert verdict.told > LENGTH / 3


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
