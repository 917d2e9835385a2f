"""Stored events and poller records over HTTP."""

import hashlib
from datetime import UTC, datetime, timedelta

import orjson
from api.running import Api, Open, Run

from daemon.model import Change, ChangeType
from daemon.store import deliveries, objects
from daemon.store.writer import Intake, Unit

ON = {"event.notification.enabled": True, "event.notification.callback.url": "https://x.example/"}


async def changes(api: Api, instance_id: int, *names: str) -> int:
    """Append a poll's changes of these objects as one notification; its position."""
    found = [
        Change(
            object_type="accounts",
            object_id=name,
            change=ChangeType.CREATED,
            changed=None,
            fingerprint=hashlib.blake2b(name.encode(), digest_size=16).digest(),
            data=orjson.dumps({"id": name}),
        )
        for name in names
    ]
    intake = Intake(instance_id, found, polled=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    return (await api.writer.append(Unit(intakes=[intake]))).position


def test_a_stored_event_is_shown_as_documented(run: Run, open_api: Open) -> None:
    """An event has the provider's body as text, and once delivered what the application was told."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(element={"key": "crmlike"}, configuration=ON)
            position = await changes(api, made["id"], "a", "b")
            path = f"/instances/{made['id']}/events"
            (event,) = (await api.call("GET", path)).body
            assert ("RECEIVED", [], []) == (
                *(event["status"], event["notifiedData"]),
                event["eventElementInstances"],
            )
            raw = orjson.loads(event["providerData"])
            assert [{"id": "a"}, {"id": "b"}] == raw["accounts"]
            outcome = deliveries.Outcome(
                callback_id=made["id"],
                notification=position,
                state="delivered",
                attempts=1,
                due=None,
                settled=1,
                status=200,
                error=None,
                doubtful=False,
            )
            await api.writer.append(Unit(entries=[deliveries.entry([], [outcome])]))
            told = (await api.call("GET", f"{path}/{event['id']}")).body
            assert "NOTIFIED" == told["status"]
            (notified,) = told["notifiedData"]
            (mine,) = told["eventElementInstances"]
            assert event["id"] == notified["message"]["eventId"] == mine["eventId"]
            assert notified == orjson.loads(mine["notifiedData"])
            assert [{"value": "a"}, {"value": "b"}] == mine["objectIds"]
            by_token = api.customers[0].element(made["token"])
            assert (
                told
                == (await api.call("GET", f"/instances/events/{event['id']}", auth=by_token)).body
            )
            for wrong in ("AQIDBAAAAAAAAAAAAAAB", "x", "%C3%A9", "A" * 400):
                assert 404 == (await api.call("GET", f"{path}/{wrong}")).status

    run(main())


def test_the_address_for_webhooks_is_told(run: Run, open_api: Open) -> None:
    """Every event, and the header of a list that is empty, has the id that the webhook address ends with."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(element={"key": "crmlike"}, configuration=ON)
            answer = await api.call("GET", f"/instances/{made['id']}/events")
            encoded = answer.headers["Elements-Encoded-Id"]
            await changes(api, made["id"], "a")
            (event,) = (await api.call("GET", f"/instances/{made['id']}/events")).body
            assert encoded == event["encodedId"]
            expected = f"https://tidings.example.com/elements/api-v2/events/crmlike/{encoded}"
            assert expected == event["webhookUrl"]

    run(main())


def test_paging_events_goes_back_in_time(run: Run, open_api: Open) -> None:
    """The newest come first, each once, whatever arrives meanwhile."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(element={"key": "crmlike"}, configuration=ON)
            for name in "abcde":
                await changes(api, made["id"], name)
            seen: list[str] = []
            query = "pageSize=2"
            while query:
                answer = await api.call("GET", f"/instances/{made['id']}/events?{query}")
                seen += [orjson.loads(e["providerData"])["accounts"][0]["id"] for e in answer.body]
                assert str(len(answer.body)) == answer.headers["Elements-Returned-Count"]
                await changes(api, made["id"], f"late {len(seen)}")
                token = answer.headers.get("Elements-Next-Page-Token")
                query = f"nextPage={token}" if token else ""
            assert list("edcba") == seen
            wrong = await api.call("GET", f"/instances/{made['id']}/events?pageSize=201")
            assert 400 == wrong.status

    run(main())


def test_poller_records_follow_the_configuration(run: Run, open_api: Open) -> None:
    """One record per polled resource; fewer at once when event.objects names fewer; none for webhooks."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                element={"key": "crmlike"},
                configuration=ON | {"event.poller.refresh_interval": "5"},
            )
            await api.create(configuration=ON)
            path, records = f"/instances/{made['id']}", "/instances/event-poller-records"

            async def watched() -> list[str]:
                return [one["objectName"] for one in (await api.call("GET", records)).body]

            assert ["accounts", "contacts"] == await watched()
            await api.call("PATCH", path, {"configuration": {"event.objects": "Contacts"}})
            assert ["contacts"] == await watched()
            await api.call("PATCH", path, {"configuration": {"event.vendor.type": "webhooks"}})
            assert [] == await watched()
            await api.call(
                "PATCH", path, {"configuration": {"event.vendor.type": None, "event.objects": None}}
            )
            assert ["accounts", "contacts"] == await watched()
            (record, _) = (await api.call("GET", records)).body
            assert (made["id"], "crmlike", "active", 5.0) == (
                *(record["instanceId"], record["elementKey"]),
                *(record["status"], record["intervalMinutes"]),
            )
            by_token = api.customers[0].element(made["token"])
            assert 2 == len((await api.call("GET", records, auth=by_token)).body)
            await api.call("DELETE", f"{path}/enabled")
            assert {"disabled"} == {r["status"] for r in (await api.call("GET", records)).body}

    run(main())


def test_poller_records_show_progress_and_trouble(run: Run, open_api: Open) -> None:
    """Cursor and baseline of what works, failures and the next try of what does not."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(element={"key": "crmlike"}, configuration=ON)
            now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
            entries = [
                objects.poll_entry(
                    "poll.baseline", made["id"], "accounts", cursor=now, baseline=now, polled=now
                ),
                objects.poll_entry(
                    "poll.failed",
                    made["id"],
                    "contacts",
                    failures=3,
                    error="429",
                    retry=now + timedelta(hours=1),
                ),
            ]
            await api.writer.append(Unit(entries=entries))
            well, ill = (await api.call("GET", "/instances/event-poller-records")).body
            assert ("active", "2026-01-02T03:04:05Z", 0, None) == (
                *(well["status"], well["cursor"], well["failures"], well["error"]),
            )
            assert ("failing", None, 3, "429", "2026-01-02T04:04:05Z") == (
                *(ill["status"], ill["cursor"], ill["failures"], ill["error"], ill["nextTryDate"]),
            )
            assert [] == (await api.call("GET", "/instances/polling-disabled")).body

    run(main())
