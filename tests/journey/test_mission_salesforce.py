"""The mission for Salesforce: from POST /instances to a verified callback, by poll, outbound message and trigger."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from journey.running import KEY, Api, Daemon, add_user, receiving, running

from daemon.elements.simulators.salesforce.server import Salesforce

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# The keys of the documents' example with polling, and their values where those can work.
EXAMPLE = """{
  "element": {
    "key": "sfdc"
  },
  "providerData": {
    "code": "xoz8AFqScK2ngM04kSSM"
  },
  "configuration": {
    "oauth.callback.url": "https://www.mycoolapp.com/auth",
    "oauth.api.key": "xxxxxxxxxxxxxxxxxx",
    "oauth.api.secret": "xxxxxxxxxxxxxxxxxxxxxx",
    "filter.response.nulls": true,
    "event.notification.enabled": true,
    "event.vendor.type": "polling",
    "event.notification.callback.url": "https://mycoolapp.com",
    "event.notification.signature.key": "12345",
    "event.objects": "Contact,Account",
    "event.poller.refresh_interval": "5"
  },
  "tags": [
    "forDocs"
  ],
  "name": "mySFDCInstance"
}"""


async def address(daemon: Daemon, api: Api, instance: dict[str, Any]) -> str:
    """Where the provider posts the instance's webhooks, at this daemon."""
    status, shown = await api.call("GET", f"/instances/{instance['id']}")
    assert 200 == status
    path = str(shown["webhookUrl"]).partition("/elements/api-v2/")[2]
    return f"{daemon.origin}/elements/api-v2/{path}"


async def patch(api: Api, instance: dict[str, Any], **configuration: str) -> None:
    """Change the configuration; `__` in a key is a dot."""
    changed = {name.replace("__", "."): value for name, value in configuration.items()}
    status, body = await api.call(
        "PATCH", f"/instances/{instance['id']}", {"configuration": changed}
    )
    assert 200 == status, body


@pytest.mark.element("sfdc", "OAuth")
@pytest.mark.element("sfdc", "both at once")
@pytest.mark.element("sfdc", "refresh")
def test_the_example_works_and_messages_hurry_the_poll(dsn: str, tmp_path: Path, run: Run) -> None:
    """The documents' body polls contacts and accounts; with both, messages and triggers bring the poll forward."""
    salesforce = Salesforce(rotate=True, scale=0.01)
    salesforce.honour("xoz8AFqScK2ngM04kSSM")
    old = salesforce.create("Account", Name="There before")

    async def journey() -> None:
        async with (
            salesforce.running() as origin,
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"sfdc={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            status, made = await api.call("POST", "/instances", EXAMPLE)
            assert 200 == status, made
            assert "00Dd0000000dtDqEAI" == made["configuration"]["sfdc.organization.id"]
            assert origin == made["configuration"]["sfdc.session.instance.url"]
            await patch(
                api,
                made,
                event__notification__callback__url=receiver.url,
                event__notification__signature__key=KEY,
                event__poller__refresh_interval="999999",
                event__vendor__type="both",
            )
            await api.until_polled(made["id"])

            salesforce.messages.url = await address(daemon, api, made)
            salesforce.messages.duplicate = True
            ann = salesforce.create("Contact", LastName="Ann")
            salesforce.create("Lead", LastName="Nobody asked for leads")
            await receiver.until(("CREATED", "Contact", ann["Id"]))
            salesforce.expire_access()
            salesforce.update("Account", old["Id"], Name="Renamed")
            await receiver.until(("UPDATED", "Account", old["Id"]))
            # A deletion sends no outbound message; a trigger tells of it, and needs no more than the header.
            salesforce.messages.apex_url = f"{daemon.origin}/elements/api-v2/events/sfdc"
            salesforce.messages.apex_headers = {"Element-Instances": str(made["id"])}
            salesforce.delete("Contact", ann["Id"])
            await receiver.until(("DELETED", "Contact", ann["Id"]))
            await salesforce.messages.posted()

            assert 3 == len(receiver.events)
            assert [] == receiver.faults
            assert all(one.accepted for one in salesforce.messages.deliveries)
            told = receiver.received[0]
            assert f"instance-{made['id']}-sfdc-events" == told["topic"]
            assert "crm" == told["message"]["events"][0]["hubKey"]
            assert ["Ann"] == [one["LastName"] for one in told["message"]["raw"]["Contact"]]
            shown = json.dumps([await api.call("GET", f"/instances/{made['id']}"), daemon.lines])
            assert "xxxxxxxxxxxxxxxxxx" not in shown
            assert "00Dd0000000dtDq!" not in shown

    run(journey(), limit=60)


@pytest.mark.element("sfdc", "webhook")
def test_messages_alone_are_told_as_they_are(dsn: str, tmp_path: Path, run: Run) -> None:
    """With webhooks nothing is polled: what comes to the secret address is told once, what comes elsewhere is refused."""
    salesforce = Salesforce(scale=0.001)
    salesforce.honour("xoz8AFqScK2ngM04kSSM")

    async def journey() -> None:
        async with (
            salesforce.running() as origin,
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"sfdc={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            body = json.loads(EXAMPLE)
            body["configuration"] |= {
                "event.vendor.type": "webhooks",
                "event.notification.callback.url": receiver.url,
                "event.notification.signature.key": KEY,
            }
            status, made = await api.call("POST", "/instances", body)
            assert 200 == status, made
            where = await address(daemon, api, made)
            salesforce.messages.url = where.rpartition(".")[0] + ".guessed"
            salesforce.messages.duplicate = True
            ann = salesforce.create("Contact", LastName="Ann")
            async with asyncio.timeout(10):
                await salesforce.messages.attempted()
            assert {(404, False)} == {
                (one.outcome, one.accepted) for one in salesforce.messages.deliveries
            }
            salesforce.messages.url = where
            salesforce.create("Lead", LastName="Nobody asked for leads")
            await receiver.until(("CREATED", "Contact", ann["Id"]))
            await salesforce.messages.posted()
            salesforce.messages.apex_url = where
            salesforce.delete("Contact", ann["Id"])
            await receiver.until(("DELETED", "Contact", ann["Id"]))

            assert 2 == len(receiver.events)
            raw = receiver.received[0]["message"]["raw"]
            assert ["Ann"] == [one["sObject"]["LastName"] for one in raw["Notification"]]
            assert not any("query" in path for _, path in salesforce.requests)

    run(journey(), limit=60)
