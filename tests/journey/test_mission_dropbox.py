"""The mission for Dropbox: from POST /instances to a verified callback, the webhook a bell, the cursor the truth."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from journey.running import KEY, Api, Daemon, Receiver, add_user, receiving, running

from daemon.elements.simulators.dropbox.server import Dropbox

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# The "Example JSON with Webhooks" of the documents' page on Dropbox, unchanged but for the template's key.
EXAMPLE = """        {
          "element": {
            "key": "{{page.elementKey}}"
          },
          "providerData": {
            "code": "<AUTHORIZATION_GRANT_CODE>"
          },
          "configuration": {
            "oauth.api.key": "<CLIENT_ID>",
            "oauth.api.secret": "<CLIENT_SECRET>",
            "oauth.callback.url": "https://www.mycoolapp.com/auth",
            "event.notification.enabled": true,
            "event.notification.callback.url": "<INSERT_YOUR_APPS_CALLBACK_URL>",
            "event.notification.signature.key": "<INSERT_KEY>"
          },
          "tags": [
            "<ADD_YOUR_TAGS>"
          ],
          "name": "<INSTANCE_NAME>"
        }
""".replace("{{page.elementKey}}", "dropbox")


async def created(api: Api, receiver: Receiver, **more: str) -> tuple[int, str]:
    """Id and token of the example's instance, which tells *receiver* and is polled only when a webhook wakes it."""
    status, made = await api.call("POST", "/instances", EXAMPLE)
    assert 200 == status, made
    changed = {
        "event.notification.callback.url": receiver.url,
        "event.notification.signature.key": KEY,
        "event.poller.refresh_interval": "999999",
        **more,
    }
    status, _ = await api.call("PATCH", f"/instances/{made['id']}", {"configuration": changed})
    assert 200 == status
    await api.until_polled(made["id"])
    return int(made["id"]), str(made["token"])


async def registered(dropbox: Dropbox, daemon: Daemon) -> None:
    """Register the daemon's address, as a person does in the App Console."""
    assert await dropbox.hooks.register(f"{daemon.origin}/elements/api-v2/events/dropbox") is None


@pytest.mark.element("dropbox", "webhook")
@pytest.mark.element("dropbox", "both at once")
@pytest.mark.element("dropbox", "challenge")
@pytest.mark.parametrize("vendor", ["", "webhooks"])
def test_the_example_works_and_a_webhook_brings_what_changed(
    dsn: str, tmp_path: Path, run: Run, vendor: str
) -> None:
    """Events and a callback are enough: each webhook has the cursor read, and each change is told once, a move as one.

    So it is with `event.vendor.type` webhooks: they name no file, and the cursor does.
    """
    dropbox = Dropbox(app_secret="<CLIENT_SECRET>", waits=(0.1, 0.2, 0.4))
    dropbox.honour("<AUTHORIZATION_GRANT_CODE>")
    dropbox.upload("/Old/there before.txt")

    async def journey() -> None:
        async with (
            dropbox.running() as origin,
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"dropbox={origin}") as daemon,
        ):
            authorization = await add_user(dsn, tmp_path)
            api = Api(daemon, authorization)
            instance, token = await created(api, receiver, **{"event.vendor.type": vendor})
            _, made = await api.call("GET", f"/instances/{instance}")
            assert dropbox.account_id == made["configuration"]["oauth.user.id"]
            await registered(dropbox, daemon)
            dropbox.hooks.copies = 2

            folder = dropbox.folder("/New")["id"]
            await receiver.until(("CREATED", "files", folder))
            file = dropbox.upload("/New/one.txt", b"1")["id"]
            await receiver.until(("CREATED", "files", file))
            dropbox.expire_access()
            dropbox.move("/New/one.txt", "/Old/two.txt")
            await receiver.until(("UPDATED", "files", file))
            dropbox.lose_cursors()
            old = dropbox.delete("/Old")["id"]
            await receiver.until(("DELETED", "files", old), ("DELETED", "files", file))
            await dropbox.hooks.posted()

            before = dropbox.tree.nodes
            assert ["/new"] == list(before)
            assert 6 == len(receiver.events)  # with the file that was there before
            assert [] == receiver.faults
            assert {200} == {one.outcome for one in dropbox.hooks.deliveries}
            told = receiver.received[1]
            assert f"instance-{instance}-dropbox-events" == told["topic"]
            assert "documents" == told["message"]["events"][0]["hubKey"]
            assert "/New/one.txt" == told["message"]["raw"]["files"][0]["path_display"]

            user = authorization.partition(",")[0]
            for path, wanted in (("files", ["/New"]), (f"files/{folder}", "/New")):
                status, read = await api.call(
                    "GET", f"/hubs/documents/{path}", Authorization=f"{user}, Element {token}"
                )
                assert 200 == status, read
                shown = (
                    [one["path_display"] for one in read]
                    if isinstance(read, list)
                    else read["path_display"]
                )
                assert wanted == shown
            forged = await api.call(
                "POST", "/events/dropbox", dropbox.hooks.body(), **{"X-Dropbox-Signature": "00"}
            )
            stranger = json.dumps({"list_folder": {"accounts": ["dbid:somebody"]}})
            unknown = await api.call("POST", "/events/dropbox", stranger)
            assert (401, 200) == (forged[0], unknown[0])
            tokens = [*dropbox.tokens.tokens, *dropbox.tokens.refresh]
            shown = json.dumps([await api.call("GET", f"/instances/{instance}"), daemon.lines])
            assert not [token for token in tokens if token in shown]

    run(journey(), limit=60)
