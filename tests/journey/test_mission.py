"""The mission's example and the whole way of a change, by poll and by webhook, with a process that dies."""

import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from journey.running import KEY, Api, add_user, receiving, running

from daemon.elements.simulators.sageone import Sage
from daemon.elements.simulators.workshop import Workshop

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# The "Example JSON with Polling" of the Sage One page, unchanged: one quote in the url is not closed.
SAGE_EXAMPLE = r"""{
  "element":{
    "key":"sageone"
  },
  "providerData":{
    "code":"1c6ff4089d58d80e86482ab7d5b97f15dd7b041d"
  },
  "configuration":{
    "oauth.api.key": "xxxxxxxxxxxxxxxxxx",
    "oauth.api.secret": "xxxxxxxxxxxxxxxxxxxxxx",
    "signature.secret": "xxxxxxxxxxxxxxxxxxxxxxxxx",
    "apim.subscription.key": "xxxxxxxxxxxxxxxxxxxxxxxxx",
    "country": "US",
    "oauth.callback.url": "https://mycoolapp.com",
    "event.notification.enabled":true,
    "event.notification.callback.url":"http://mycoolapp.com",
    "event.poller.refresh_interval":"15",
    "event.poller.configuration":{
      "customers":{
        "url":"/hubs/finance/customers?where=lastModifiedDate>='${date:yyyy-MM-dd'T'HH:mm:ss'Z'}' and attributes='created_at,updated_at",
        "idField":"id",
        "datesConfiguration":{
          "updatedDateField":"updated_at",
          "updatedDateFormat":"yyyy-MM-dd'T'HH:mm:ss'Z'",
          "updatedDateTimezone":"GMT",
          "createdDateField":"created_at",
          "createdDateFormat":"yyyy-MM-dd'T'HH:mm:ss'Z'",
          "createdDateTimezone":"GMT"
        }
      }
    }
  },
  "tags":[
    "Test"
  ],
  "name":"API_Polling"
}"""


def test_the_sage_example_works_as_it_is_written(dsn: str, tmp_path: Path, run: Run) -> None:
    """The body is accepted as it stands, its code exchanged, its customers polled, each change told once."""
    sage = Sage()
    sage.honour("1c6ff4089d58d80e86482ab7d5b97f15dd7b041d")
    old = sage.create("There before")

    async def journey() -> None:
        async with (
            sage.running() as origin,
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_ELEMENTS_STAND_INS=f"sageone={origin}") as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            status, made = await api.call("POST", "/instances", SAGE_EXAMPLE)
            assert 200 == status, made
            assert "********" == made["configuration"]["oauth.api.secret"]
            status, _ = await api.call(
                "PATCH",
                f"/instances/{made['id']}",
                {
                    "configuration": {
                        "event.notification.callback.url": receiver.url,
                        "event.notification.signature.key": KEY,
                        "event.poller.refresh_interval": 0.02,
                    }
                },
            )
            assert 200 == status
            await api.until_polled(made["id"])

            new = sage.create("New")
            await receiver.until(("CREATED", "customers", new["id"]))
            sage.expire_access()
            sage.update(old["id"], name="Renamed")
            await receiver.until(("UPDATED", "customers", old["id"]))
            sage.delete(new["id"])
            await receiver.until(("DELETED", "customers", new["id"]))

            assert 3 == len(receiver.events)
            assert [] == receiver.faults
            body = receiver.received[0]
            assert f"instance-{made['id']}-sageone-events" == body["topic"]
            assert "finance" == body["message"]["events"][0]["hubKey"]
            assert ["API_Polling", "Test"] == body["message"]["instanceTags"]
            assert "customers" == body["message"]["raw"]["objectType"]
            shown = json.dumps([await api.call("GET", f"/instances/{made['id']}"), daemon.lines])
            assert "xxxxxxxxxxxxxxxxxx" not in shown

    run(journey(), limit=90)


@pytest.fixture
def workshop() -> Workshop:
    """A provider that can be polled and posts webhooks."""
    return Workshop(
        signing_secret="what the workshop signs with", waits=[0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    )


def test_a_webhook_comes_out_once_even_if_the_daemon_is_killed(
    dsn: str, tmp_path: Path, run: Run, workshop: Workshop
) -> None:
    """Webhooks are verified, logged, and told once; what came while the daemon was dead comes when it is back."""

    async def journey() -> None:
        async with workshop.running() as origin, receiving() as receiver:  # noqa: SIM117 — formatted so, it can be read
            async with running(
                dsn, tmp_path,
                TIDINGS_ELEMENTS_STAND_INS=f"workshop={origin}",
                TIDINGS_SERVER_LISTEN="127.0.0.1:18431",
            ) as daemon:  # fmt: skip
                api = Api(daemon, await add_user(dsn, tmp_path))
                made = await api.create(
                    "workshop",
                    {
                        "api.key": "workshop-key",
                        "signature.secret": "what the workshop signs with",
                        "workshop.account": "acme",
                        "event.vendor.type": "webhooks",
                        "event.notification.enabled": True,
                        "event.notification.callback.url": receiver.url,
                        "event.notification.signature.key": KEY,
                    },
                )
                workshop.hook = f"{daemon.origin}/elements/api-v2/events/workshop"
                first = workshop.create("tickets", title="one")
                await receiver.until(("CREATED", "tickets", first["id"]))

                await daemon.kill()
                second = workshop.create("tickets", title="two")
                workshop.update("tickets", first["id"], title="changed")
                await daemon.start()
                await receiver.until(
                    ("CREATED", "tickets", second["id"]), ("UPDATED", "tickets", first["id"])
                )

                status, events = await api.call("GET", f"/instances/{made['id']}/events")
                assert 200 == status
                assert 3 == len(events)
                assert 3 == len(receiver.events)
                assert [] == receiver.faults
                assert {"acme"} == {body["message"]["raw"]["account"] for body in receiver.received}

                # The same webhook again, as providers send it when they missed our answer.
                body = json.dumps({"account": "acme", "events": [
                    {"event_id": "e1", "action": "ticket.opened", "ticket": {"id": "77"}, "at": "2026-01-02T03:04:05Z"}
                ]}).encode()  # fmt: skip
                for _ in range(2):
                    status, _ = await api.call(
                        "POST",
                        "/events/workshop",
                        body.decode(),
                        **workshop.signed(body, int(time.time())),
                    )
                    assert 200 == status
                await receiver.until(("CREATED", "tickets", "77"))
                status, refused = await api.call(
                    "POST",
                    "/events/workshop",
                    body.decode(),
                    **{"X-Workshop-Signature": "v1=00", "X-Workshop-Timestamp": "1"},
                )
                assert 401 == status
                assert "message" in refused
                assert 4 == len(receiver.events)

    run(journey(), limit=90)


def test_a_failing_callback_is_tried_again_after_a_restart(
    dsn: str, tmp_path: Path, run: Run, workshop: Workshop
) -> None:
    """A callback that answered 503 hears of the change from the next process, in order for each object."""

    async def journey() -> None:
        async with workshop.running() as origin, receiving() as receiver:
            receiver.status = lambda: 503
            async with running(
                dsn, tmp_path,
                TIDINGS_ELEMENTS_STAND_INS=f"workshop={origin}",
                TIDINGS_DELIVERY_RETRIES="1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s",
            ) as daemon:  # fmt: skip
                api = Api(daemon, await add_user(dsn, tmp_path))
                made = await api.create(
                    "workshop",
                    {
                        "api.key": "workshop-key",
                        "event.notification.enabled": True,
                        "event.notification.callback.url": receiver.url,
                        "event.notification.signature.key": KEY,
                        "event.poller.refresh_interval": "0.02",
                        "event.objects": "orders",
                    },
                )
                await api.until_polled(made["id"])
                order = workshop.create("orders", total=1)
                await daemon.until("callback fails")
                await daemon.kill()
                receiver.status = lambda: 200
                workshop.update("orders", order["id"], total=2)
                await daemon.start()
                await receiver.until(
                    ("CREATED", "orders", order["id"]), ("UPDATED", "orders", order["id"])
                )

                assert ["CREATED", "UPDATED"] == [kind for kind, _, _ in receiver.events]

    run(journey(), limit=90)
