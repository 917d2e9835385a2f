"""The mission for QuickBooks Online: from POST /instances to a verified callback, by poll and by webhook."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from elements.quickbooks.books import LINE
from journey.running import KEY, Api, add_user, receiving, running

from daemon.elements.simulators.quickbooks.server import REALM, VERIFIER, QuickBooks

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# The documents have no page of QuickBooks Online; this is their template for webhooks, with what Intuit sends beside the code.
EXAMPLE = """{
  "element": {
    "key": "quickbooks"
  },
  "providerData": {
    "code": "xoz8AFqScK2ngM04kSSM",
    "realmId": "REALM"
  },
  "configuration": {
    "oauth.callback.url": "https://mycoolapp.com",
    "oauth.api.key": "xxxxxxxxxxxxxxxxxx",
    "oauth.api.secret": "xxxxxxxxxxxxxxxxxxxxxx",
    "signature.secret": "VERIFIER",
    "event.notification.enabled": true,
    "event.notification.callback.url": "https://mycoolapp.com/events",
    "event.notification.signature.key": "xxxxxxxxxxxxxxxxxxxxxxxxx"
  },
  "tags": [
    "Docs"
  ],
  "name": "API Instance"
}"""


@pytest.mark.element("quickbooks", "both at once")
def test_the_example_works_and_a_webhook_hurries_the_poll(
    dsn: str, tmp_path: Path, run: Run
) -> None:
    """Events on and a callback are enough: a webhook brings the poll forward, and each change is told once."""
    quickbooks = QuickBooks(scale=0.01)
    quickbooks.honour("xoz8AFqScK2ngM04kSSM")
    quickbooks.create("Customer", DisplayName="There before")
    body = EXAMPLE.replace("REALM", REALM).replace("VERIFIER", VERIFIER)

    async def journey() -> None:
        async with (
            quickbooks.running() as origin,
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"quickbooks={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            status, made = await api.call("POST", "/instances", body)
            assert 200 == status, made
            assert REALM == made["configuration"]["realm.id"]
            changed = {
                "event.notification.callback.url": receiver.url,
                "event.notification.signature.key": KEY,
                "event.poller.refresh_interval": "999999",
            }
            status, _ = await api.call(
                "PATCH", f"/instances/{made['id']}", {"configuration": changed}
            )
            assert 200 == status
            await api.until_polled(made["id"])

            quickbooks.posting.hook = f"{daemon.origin}/elements/api-v2/events/quickbooks"
            invoice = quickbooks.create("Invoice", CustomerRef={"value": "1"}, Line=LINE)
            await receiver.until(("CREATED", "invoices", invoice["Id"]))
            quickbooks.expire_access()
            quickbooks.posting.legacy = True
            quickbooks.posting.repeats = 1
            quickbooks.update("Customer", "1", Active=False)
            await receiver.until(("UPDATED", "customers", "1"))
            quickbooks.delete("Invoice", invoice["Id"])
            await receiver.until(("DELETED", "invoices", invoice["Id"]))
            await quickbooks.posting.posted()

            assert 3 == len(receiver.events)
            assert [] == receiver.faults
            assert {200} == {one.outcome for one in quickbooks.posting.deliveries}
            told = receiver.received[0]
            assert f"instance-{made['id']}-quickbooks-events" == told["topic"]
            assert "finance" == told["message"]["events"][0]["hubKey"]
            assert 100 == told["message"]["raw"]["invoices"][0]["totalAmt"]
            shown = json.dumps([await api.call("GET", f"/instances/{made['id']}"), daemon.lines])
            assert "xxxxxxxxxxxxxxxxxx" not in shown
            assert VERIFIER not in shown

    run(journey(), limit=60)


def test_webhooks_alone_are_told_as_they_are(dsn: str, tmp_path: Path, run: Run) -> None:
    """With event.vendor.type webhook nothing is polled: the signed events are told, a repeated post once."""
    quickbooks = QuickBooks(scale=0.01)
    quickbooks.honour("xoz8AFqScK2ngM04kSSM")

    async def journey() -> None:
        async with (
            quickbooks.running() as origin,
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"quickbooks={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            made = await api.create(
                "quickbooks",
                {
                    "oauth.callback.url": "https://mycoolapp.com",
                    "oauth.api.key": "client",
                    "oauth.api.secret": "s3cret",
                    "quickbooks.verifier.token": VERIFIER,
                    "event.vendor.type": "webhook",
                    "event.notification.enabled": True,
                    "event.notification.callback.url": receiver.url,
                    "event.notification.signature.key": KEY,
                },
                providerData={"code": "xoz8AFqScK2ngM04kSSM", "realm_id": REALM},
            )
            quickbooks.posting.hook = f"{daemon.origin}/elements/api-v2/events/quickbooks"
            quickbooks.posting.repeats = 1
            quickbooks.create("Customer", DisplayName="A")
            await quickbooks.posting.posted()
            quickbooks.update("Customer", "1", Notes="more")
            await receiver.until(("CREATED", "customers", "1"), ("UPDATED", "customers", "1"))

            assert 2 == len(receiver.events)
            assert str(made["id"]) in receiver.received[0]["topic"]
            asked = [path for _, path in quickbooks.requests if "/v3/" in path]
            assert [] == asked

    run(journey(), limit=60)
