"""The bodies of the mission's Campaign Monitor page, from POST /instances to a verified callback."""

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from journey.running import KEY, PATIENCE, Api, Daemon, Receiver, add_user, receiving, running

from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# "Configure Webhooks Through API": the JSON as it stands there, the page's key and the `<…>` filled in by `filled`.
BODY = r"""{
      "element": {
        "key": "{{page.elementKey}}"
      },
      "providerData": {
        "code": "<AUTHORIZATION_GRANT_CODE>"
      },
      "configuration": {
        "oauth.callback.url": "<CALLBACK_URL>",
        "oauth.api.key": "<CONSUMER_KEY>",
      	"oauth.api.secret": "<CONSUMER_SECRET>",
        "event.notification.enabled": true,
        "event.notification.callback.url": "<CALLBACK_URL>",
        "event.notification.signature.key": "<OPTIONAL_SIGNATURE_KEY>"
      },
      "tags": [
        "<Add_Your_Tag>"
      ],
      "name": "<INSTANCE_NAME>"
    }
"""  # noqa: E101 — the document has a tab
# "Example cURL": the body as it stands there; a comma is missing after oauth.api.secret.
CURL = r"""{
  "element": {
    "key": "{{page.elementKey}}"
  },
  "providerData": {
    "code": "xoz8AFqScK2ngM04kSSM"
  },
  "configuration": {
    "oauth.callback.url": "https://mycoolapp.com",
    "oauth.api.key": "xxxxxxxxxxxxxxxxxx",
    "oauth.api.secret": "xxxxxxxxxxxxxxxxxxxxxx"
    "event.notification.enabled": true,
    "event.notification.callback.url": "https://mycoolapp.com/events",
    "event.notification.signature.key": "xxxxxxxxxxxxxxxxxxxxxxxxx"
  },
  "tags": [
    "Docs"
  ],
  "name": "API Instance"
}"""


def filled(body: str, **values: str) -> str:
    """*body* with the page's key and its placeholders filled in."""
    body = body.replace("{{page.elementKey}}", "campaignmonitor")
    for name, value in values.items():
        body = body.replace(f"<{name}>", value)
    return body


def free_port() -> int:
    """A port that the daemon can listen at: its webhook address must be known before it does."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def told(
    provider: CampaignMonitor, receiver: Receiver, daemon: Daemon, api: Api, made: int
) -> None:
    """Subscribers come, are edited, renamed and deleted; though the next poll is minutes away, all is told at once."""
    await api.until_polled(made)
    await daemon.until("account tended")
    [hook] = provider.lists[provider.list_id].hooks.values()
    encoded, _, secret = hook.url.rpartition("/")[2].partition(".")
    assert encoded
    assert len(secret) >= 32
    status, shown = await api.call("GET", f"/instances/{made}")
    assert (200, "15") == (status, shown["configuration"].get("event.poller.refresh_interval") or "15")  # fmt: skip

    def name(address: str) -> str:
        return f"{provider.list_id}/{address}"

    provider.create("New@example.com", name="New")
    await receiver.until(("CREATED", "subscribers", name("new@example.com")))
    provider.update("old@example.com", name="Renamed")
    await receiver.until(("UPDATED", "subscribers", name("old@example.com")))
    provider.expire_access()
    provider.update("new@example.com", address="newer@example.com")
    await receiver.until(
        ("DELETED", "subscribers", name("new@example.com")),
        ("CREATED", "subscribers", name("newer@example.com")),
    )
    provider.update("old@example.com", state="Unsubscribed")
    provider.delete("newer@example.com")
    await receiver.until(("DELETED", "subscribers", name("newer@example.com")))
    async with asyncio.timeout(PATIENCE), receiver._arrived:
        await receiver._arrived.wait_for(lambda: len(receiver.events) >= 6)

    assert 2 == receiver.events.count(("UPDATED", "subscribers", name("old@example.com")))
    assert 6 == len(receiver.events)
    assert [] == receiver.faults
    assert {"marketing"} == {
        event["hubKey"] for body in receiver.received for event in body["message"]["events"]
    }


@pytest.mark.element("campaignmonitor", "both at once")
@pytest.mark.parametrize("example", ["json", "curl"])
def test_the_pages_examples_work(dsn: str, tmp_path: Path, run: Run, example: str) -> None:
    """The body runs as it is written, its code exchanged; webhooks are registered, and each change is told once, signed."""
    port = free_port()
    provider = CampaignMonitor(gather=0.01, waits=[0.05, 0.1, 0.2, 0.4, 0.8])
    provider.honour("xoz8AFqScK2ngM04kSSM")
    provider.create("old@example.com", name="Old")

    async def journey() -> None:
        async with (
            provider.running() as origin,
            receiving() as receiver,
            running(
                dsn,
                tmp_path,
                TIDINGS_SERVER_LISTEN=f"127.0.0.1:{port}",
                TIDINGS_ELEMENTS_STAND_INS=f"campaignmonitor={origin}",
            ) as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            code = "xoz8AFqScK2ngM04kSSM"
            if example == "json":
                body = filled(
                    BODY, AUTHORIZATION_GRANT_CODE=code, CALLBACK_URL=receiver.url, CONSUMER_KEY="id",
                    CONSUMER_SECRET="a client secret", OPTIONAL_SIGNATURE_KEY=KEY, Add_Your_Tag="Docs",
                    INSTANCE_NAME="API Instance",
                )  # fmt: skip
            else:
                status, refused = await api.call("POST", "/instances", filled(CURL))
                assert 400 == status
                assert (
                    'a comma is missing before "event.notification.enabled"' in refused["message"]
                )
                secret = '"oauth.api.secret": "xxxxxxxxxxxxxxxxxxxxxx"'
                body = filled(CURL).replace(secret, secret + ",")
            status, made = await api.call("POST", "/instances", body)
            assert 200 == status, made
            assert code not in provider.tokens.codes
            if example == "curl":
                settings = {
                    "event.notification.callback.url": receiver.url,
                    "event.notification.signature.key": KEY,
                }
                status, _ = await api.call(
                    "PATCH", f"/instances/{made['id']}", {"configuration": settings}
                )
                assert 200 == status
            await told(provider, receiver, daemon, api, made["id"])
            tags = receiver.received[0]["message"]["instanceTags"]
            assert {"Docs", "API Instance"} == set(tags)
            shown = json.dumps([await api.call("GET", f"/instances/{made['id']}"), daemon.lines])
            for secret in ("xxxxxxxxxxxxxxxxxxxxxx", "a client secret", *provider.tokens.access):
                assert secret not in shown

    run(journey(), limit=60)


@pytest.mark.element("campaignmonitor", "API key")
def test_an_instance_by_api_key(dsn: str, tmp_path: Path, run: Run) -> None:
    """With a key instead of a grant, and lists by the platform's name for them, all goes the same way."""
    provider = CampaignMonitor(gather=0.01, waits=[0.05, 0.1, 0.2, 0.4, 0.8])
    provider.create("old@example.com", name="Old")
    other = provider.mailing_list("Not watched")
    port = free_port()

    async def journey() -> None:
        async with (
            provider.running() as origin,
            receiving() as receiver,
            running(
                dsn,
                tmp_path,
                TIDINGS_SERVER_LISTEN=f"127.0.0.1:{port}",
                TIDINGS_ELEMENTS_STAND_INS=f"campaignmonitor={origin}",
            ) as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            configuration = {
                "authentication.type": "basic",
                "username": "campaignmonitor-key",
                "events.list.ids": provider.list_id,
                "event.notification.enabled": True,
                "event.notification.callback.url": receiver.url,
                "event.notification.signature.key": KEY,
            }
            made = await api.create("campaignmonitor", configuration)
            assert "********" == made["configuration"]["username"]
            provider.create("nobody@example.com", list_id=other)
            await told(provider, receiver, daemon, api, made["id"])
            assert not provider.lists[other].hooks

    run(journey(), limit=60)
