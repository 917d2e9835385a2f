"""A random history of a Sage business, polled with faults: nothing lost, invented or told twice."""

import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from elements.changes_of_providers import LENGTH, START, opened, report

from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.sageone import KINDS, Sage
from daemon.outbound.client import Client
from daemon.store import vault

Run = Callable[..., Any]

SETTINGS = {"oauth.api.key": "k", "oauth.api.secret": "s", "oauth.callback.url": "https://app.test"}
SINCE = "updated_at>='${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'"


class Business:
    """The simulated business as a history needs it: two kinds of contacts, invoices, and products without deletes."""

    key = "sageone"
    resources = ("customers", "suppliers", "sales_invoices", "products")

    def __init__(self, sage: Sage, rng: random.Random) -> None:
        self.sage = sage
        self.rng = rng

    async def grant(self, http: Client, element: Any, settings: dict[str, str]) -> dict[str, str]:
        """The settings that access brings."""
        return dict(await element.exchange(http, settings, self.sage.grant(), {}))

    def create(self, resource: str, version: str) -> str:
        """A new record, somewhere in the order of names."""
        name = f"{self.rng.random():.6f}"
        return str(self.sage.add(resource, name=name, reference=version)["id"])

    def update(self, resource: str, record_id: str, version: str) -> None:
        """Change it, and often its place among the others."""
        path = "contacts" if resource in KINDS else resource
        fields: dict[str, Any] = {"reference": version}
        if self.rng.random() < 0.5:
            fields["displayed_as"] = f"{self.rng.random():.6f}"
        self.sage.ledgers[path].update(record_id, fields)

    def delete(self, resource: str, record_id: str) -> bool:
        """Delete it; of a product nobody would hear."""
        if resource == "products":
            return False
        self.sage.ledgers["contacts" if resource in KINDS else resource].delete(record_id)
        return True

    def version(self, resource: str, record: dict[str, Any]) -> str:
        """What a told record holds."""
        return str(record["reference"])

    def trouble(self, rng: random.Random) -> None:
        """A failing, throttling or expiring API, at once or a few requests from now."""
        match rng.choice(["500", "429", "expire", "slow", "400"]):
            case "expire":
                self.sage.expire_access()
            case "slow":
                self.sage.slow(0.001, times=3)
            case status:
                for _ in range(rng.randrange(6)):
                    self.sage.slow(0)
                self.sage.fail(int(status), retry_after="1" if status == "429" else None)


@pytest.mark.element("sageone", "created")
@pytest.mark.element("sageone", "updated")
def test_a_random_history_is_told_once(dsn: str, keys: vault.Keys, run: Run) -> None:
    """Customers, suppliers, invoices and products, created, changed, renamed and deleted while polls fail and lists move."""
    clock = Clock(START)
    sage = Sage(client_id="k", client_secret="s", now=clock)
    configuration = {**SETTINGS, "event.poller.configuration": _configuration()}

    async def history() -> Any:
        business = Business(sage, random.Random(7))  # noqa: S311 — the same every time
        async with (
            sage.running() as origin,
            opened(
                business,
                origin=origin,
                clock=clock,
                dsn=dsn,
                keys=keys,
                seed=7,
                configuration=configuration,
            ) as history,
        ):
            return await history.live(LENGTH)

    verdict = run(history(), limit=30 + LENGTH / 5)

    print(report("sageone", verdict))  # noqa: T201 — pytest shows it with -s
    assert verdict.changes >= LENGTH
    assert ([], [], []) == (verdict.lost, verdict.invented, verdict.duplicates)
    assert verdict.told > LENGTH / 3


def _configuration() -> str:
    """Pages of two, so that rows move between them."""
    dates = {"updatedDateField": "updated_at", "createdDateField": "created_at"}
    resources = {
        resource: {
            "url": f"/hubs/finance/{resource}?where={SINCE}",
            "idField": "id",
            "pageSize": 2,
            "datesConfiguration": dates,
        }
        for resource in Business.resources
    }
    return orjson.dumps(resources).decode()
