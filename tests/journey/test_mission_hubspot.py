"""The mission's HubSpot bodies, from POST /instances to a verified callback: by polls, by webhooks, by both."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from journey.running import KEY, Api, Receiver, add_user, receiving, running

from daemon.elements.simulators.hubspot.server import PRIVATE_TOKEN, HubSpot

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# "Example JSON with Polling", its element key filled in; nothing else.
POLLING = r"""{
  "element": {
    "key": "hubspot"
  },
  "providerData": {
    "code": "<AUTHORIZATION_GRANT_CODE>"
  },
  "configuration": {
    "authentication.type": "oauth2 OR apiKey",
    "oauth.callback.url": "<OAUTH2_ONLY_CALLBACK_URL>",
    "oauth.api.key": "<OAUTH2_ONLY_CONSUMER_KEY>",
    "oauth.api.secret": "<OAUTH2_ONLY_CONSUMER_SECRET>",
    "hubspot.authorization.apikey":"<API_KEY_ONLY_HAPIKEY>",
    "create.bulk.properties": "false",
    "filter.response.nulls": true,
    "event.notification.enabled": true,
    "event.vendor.type": "polling",
    "event.notification.callback.url": "https://mycoolapp.com",
    "event.notification.signature.key": "12345",
    "event.poller.refresh_interval": "5",
    "event.poller.configuration":{
      "accounts":{
        "url":"/hubs/crm/contacts?where=lastmodifieddate='${date}'",
        "idField":"vid",
        "filterByUpdatedDate":true,
        "datesConfiguration":{
          "updatedDateField":"properties.lastmodifieddate",
          "updatedDateFormat":"milliseconds",
          "createdDateField":"properties.createdate",
          "createdDateFormat":"milliseconds",
          "createdCheckTolerance": 10
        }
      }
    }
  },
  "tags": [
    "<Add_Your_Tag>"
  ],
  "name": "<INSTANCE_NAME>"
}"""

# "Example JSON with Webhooks", likewise.
WEBHOOKS = r"""{
  "element": {
    "key": "hubspot"
  },
  "providerData": {
    "code": "<AUTHORIZATION_GRANT_CODE>"
  },
  "configuration": {
    "authentication.type": "oauth2 OR apiKey",
    "oauth.callback.url": "<OAUTH2_ONLY_CALLBACK_URL>",
    "oauth.api.key": "<OAUTH2_ONLY_CONSUMER_KEY>",
    "oauth.api.secret": "<OAUTH2_ONLY_CONSUMER_SECRET>",
    "hubspot.authorization.apikey":"<API_KEY_ONLY_HAPIKEY>",
    "create.bulk.properties": "false",
    "filter.response.nulls": true,
    "event.notification.enabled": true,
    "event.vendor.type": "webhooks",
    "event.notification.callback.url": "https://mycoolapp.com",
    "event.notification.signature.key": "12345",
    "event.objects": "Contact,Account"
  },
  "tags": [
    "<Add_Your_Tag>"
  ],
  "name": "<INSTANCE_NAME>"
}"""

REDIRECT = "https://app.example/back"
OAUTH = {
    "<OAUTH2_ONLY_CALLBACK_URL>": REDIRECT,
    "<OAUTH2_ONLY_CONSUMER_KEY>": "client",
    "<OAUTH2_ONLY_CONSUMER_SECRET>": "hubspot-secret",
}


def filled(body: str, values: dict[str, str]) -> str:
    """*body* with the placeholders that a person fills in."""
    for placeholder, value in values.items():
        assert placeholder in body
        body = body.replace(placeholder, value)
    return body


def here(receiver: Receiver, **more: Any) -> dict[str, Any]:
    """What leads the notifications to the test."""
    return {
        "configuration": {
            "event.notification.callback.url": receiver.url,
            "event.notification.signature.key": KEY,
            **{name.replace("__", "."): value for name, value in more.items()},
        }
    }


@pytest.mark.parametrize("way", ["oauth2", "token"])
def test_the_polling_body_works(dsn: str, tmp_path: Path, run: Run, way: str) -> None:
    """With an app's credentials or a private app's token in its placeholders the body is polled, each change told once."""
    hubspot = HubSpot(client_id="client")
    old = hubspot.create("contacts", email="old@example.com")

    async def journey() -> None:
        async with (
            hubspot.running() as origin,
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"hubspot={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            code = {"<AUTHORIZATION_GRANT_CODE>": hubspot.grant(REDIRECT)}
            ways = {"oauth2": OAUTH | code, "token": {"<API_KEY_ONLY_HAPIKEY>": PRIVATE_TOKEN}}
            status, made = await api.call("POST", "/instances", filled(POLLING, ways[way]))
            assert 200 == status, made
            status, _ = await api.call(
                "PATCH",
                f"/instances/{made['id']}",
                here(receiver, event__poller__refresh_interval=0.01),
            )
            assert 200 == status
            await api.until_polled(made["id"])

            new = hubspot.create("contacts", email="new@example.com")
            await receiver.until(("CREATED", "accounts", new["id"]))
            hubspot.expire_access()
            hubspot.update("contacts", old["id"], firstname="Ann")
            await receiver.until(("UPDATED", "accounts", old["id"]))
            hubspot.delete("contacts", new["id"])
            await receiver.until(("DELETED", "accounts", new["id"]))

            assert 3 == len(receiver.events)
            assert [] == receiver.faults
            body = receiver.received[0]
            assert f"instance-{made['id']}-hubspot-events" == body["topic"]
            [record] = body["message"]["raw"]["accounts"]
            assert int(new["id"]) == record["vid"]
            assert "firstname" not in record["properties"]  # filter.response.nulls
            shown = json.dumps([await api.call("GET", f"/instances/{made['id']}"), daemon.lines])
            assert PRIVATE_TOKEN not in shown
            assert "hubspot-secret" not in shown

    run(journey(), limit=90)


def test_the_webhook_body_works(dsn: str, tmp_path: Path, run: Run) -> None:
    """Contacts and companies are told as contacts and accounts, at the shared address, deals and other portals are not."""
    hubspot = HubSpot(client_id="client", waits=[0.1] * 9)
    stranger = HubSpot(portal=4711, waits=[0.1] * 9)

    async def journey() -> None:
        async with (
            hubspot.running() as origin,
            stranger.running(),
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"hubspot={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            code = {"<AUTHORIZATION_GRANT_CODE>": hubspot.grant(REDIRECT)}
            status, made = await api.call("POST", "/instances", filled(WEBHOOKS, OAUTH | code))
            assert 200 == status, made
            assert "62515" == made["configuration"]["hubspot.portal.id"]
            status, _ = await api.call("PATCH", f"/instances/{made['id']}", here(receiver))
            assert 200 == status

            # Signed is the address that the daemon believes to be at.
            hubspot.webhooks.target = f"{daemon.origin}/elements/api-v2/events/hubspot"
            stranger.webhooks.target = hubspot.webhooks.target
            hubspot.webhooks.versions = stranger.webhooks.versions = ("v1",)
            hubspot.webhooks.duplicates = 2
            contact = hubspot.create("contacts", email="ann@example.com")
            company = hubspot.create("companies", name="Acme")
            hubspot.create("deals", dealname="Big")
            stranger.create("contacts")
            await receiver.until(
                ("CREATED", "contacts", contact["id"]), ("CREATED", "accounts", company["id"])
            )
            hubspot.webhooks.reordered = True
            hubspot.update("contacts", contact["id"], firstname="Ann")
            hubspot.delete("companies", company["id"])
            await receiver.until(
                ("UPDATED", "contacts", contact["id"]), ("DELETED", "accounts", company["id"])
            )
            await hubspot.webhooks.posted()
            await stranger.webhooks.posted()
            assert {200} == {one.outcome for one in hubspot.webhooks.deliveries}
            assert {200} == {one.outcome for one in stranger.webhooks.deliveries}
            assert 4 == len(receiver.events)
            assert [] == receiver.faults

    run(journey(), limit=90)


@pytest.mark.element("hubspot", "both at once")
def test_what_poll_and_webhook_both_see_is_told_once(dsn: str, tmp_path: Path, run: Run) -> None:
    """With event.vendor.type both a webhook hurries the poll on, in version 3 at the instance's address; a merge is told too."""
    hubspot = HubSpot(waits=[0.1] * 9)

    async def journey() -> None:
        async with hubspot.running() as origin, receiving() as receiver:  # noqa: SIM117 — formatted so, it can be read
            async with running(
                dsn, tmp_path,
                TIDINGS_ELEMENTS_STAND_INS=f"hubspot={origin}",
                TIDINGS_SERVER_LISTEN="127.0.0.1:18437",
                TIDINGS_SERVER_PUBLIC_URL="http://127.0.0.1:18437",
            ) as daemon:  # fmt: skip
                api = Api(daemon, await add_user(dsn, tmp_path))
                made = await api.create(
                    "hubspot",
                    {
                        "hubspot.access.token": PRIVATE_TOKEN,
                        "signature.secret": "hubspot-secret",
                        "hubspot.signature.v3.only": True,
                        "event.vendor.type": "both",
                        "event.notification.enabled": True,
                        "event.notification.callback.url": receiver.url,
                        "event.notification.signature.key": KEY,
                        "event.poller.refresh_interval": "60",
                    },
                )
                await api.until_polled(made["id"])
                hubspot.webhooks.target = f"{daemon.origin}/events/hubspot/{made['id']}?a=%2F"
                one, two = (hubspot.create("companies", name=name)["id"] for name in ("One", "Two"))
                await receiver.until(("CREATED", "accounts", one), ("CREATED", "accounts", two))
                hubspot.merge("companies", one, two)
                await receiver.until(("UPDATED", "accounts", one), ("DELETED", "accounts", two))
                hubspot.lag(300)  # no search shows this before the test is over
                hubspot.update("companies", one, name="Three")
                three = hubspot.create("companies", name="Four")["id"]
                await receiver.until(("CREATED", "accounts", three))
                hubspot.delete("companies", three)
                await receiver.until(("DELETED", "accounts", three))
                ticket = hubspot.create("tickets", subject="Help")["id"]  # is not polled
                await receiver.until(("CREATED", "tickets", ticket))
                await hubspot.webhooks.posted()
                assert {200} == {one.outcome for one in hubspot.webhooks.deliveries}
                assert 8 == len(receiver.events)
                assert [] == receiver.faults

    run(journey(), limit=90)


@pytest.mark.parametrize("body", [POLLING, WEBHOOKS])
def test_the_bodies_are_taken_as_they_stand(dsn: str, tmp_path: Path, run: Run, body: str) -> None:
    """With every placeholder left in it the instance is created; what it needs is filled in later, and is said meanwhile."""
    hubspot = HubSpot()

    async def journey() -> None:
        async with (
            hubspot.running() as origin,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"hubspot={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            status, made = await api.call("POST", "/instances", body)
            assert 200 == status, made
            if body == POLLING:
                await daemon.until("poll failed")
                [said] = [line["error"] for line in daemon.lines if line["event"] == "poll failed"]
                assert "hubspot.access.token" in said
            assert [] == list(hubspot.requests)
            status, answer = await api.call(
                "PATCH",
                f"/instances/{made['id']}",
                {"configuration": {"hubspot.authorization.apikey": "7d0a5f9c-0f3f-4a9b-8f27"}},
            )
            assert 400 == status
            assert "30 November 2022" in json.dumps(answer)

    run(journey(), limit=90)
