"""What is POSTed: the documented format, and the same bytes for ever."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import uvloop
from databases import copied
from heart import (
    LOG_ID,
    change,
    connected,
    create_instance,
    hook,
    opening,
    poll,
    state,
    writing,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.dispatcher.tail import whole_notifications
from daemon.model import Instance
from daemon.notifications import Notification, StoredChange, render
from daemon.store import deliveries, events, log
from daemon.store.reader import Reader
from daemon.store.vault import Keys
from daemon.store.writer import Unit

# The complete examples that Cloud Elements published (facts, 1.1 and 1.2); of the records some fields.
NETSUITE = """
{"severity": "medium", "createdDate": "Mon Aug 20 15:30:07 UTC 2018",
 "topic": "instance-7950647-netsuiteerpv2-events", "action": "create", "id": "1496771",
 "message": {"elementKey": "netsuiteerpv2", "accountId": 874, "eventId": "AWVX9OTIhdQRdI1F7Q7v", "companyId": 291,
  "instanceId": 7950647, "instance_id": 7950647, "instanceName": "Local netsuite", "instanceTags": ["Local netsuite"],
  "raw": {"invoices": [{"tranId": "INV10000925", "internalId": "14682", "total": 2000,
    "lastModifiedDate": "2018-08-20T15:29:06Z", "createdDate": "2018-08-20T15:29:06Z", "status": "Open"}],
   "pollDate": 1534778974827, "objectType": "invoices"},
  "userId": 2749,
  "events": [{"date": "2018-08-20T15:29:06Z", "elementKey": "netsuiteerpv2", "pollDate": "2018-08-20T15:29:34Z",
   "eventType": "CREATED", "hubKey": "erp", "objectId": "14682", "objectType": "invoices"}]},
 "user": "notifications@cloud-elements.com"}
"""
QUICKBOOKS = """
{"severity": "medium", "createdDate": "Fri Feb 21 16:43:41 UTC 2020", "topic": "instance-8948659-quickbooks-events",
 "action": "create", "id": "69182068",
 "message": {"elementKey": "quickbooks", "accountId": 643, "eventId": "AXBooiL_qrZEur0mJV08", "companyId": 280,
  "instanceId": 8948659, "instance_id": 8948659, "instanceName": "Demoday", "instanceTags": ["Demoday"],
  "raw": {"invoices": [{"balance": 10000, "id": "2|0", "allowIPNPayment": false, "objectId": "2|0", "systemId": "2",
    "printStatus": "NOT_SET", "eventType": "CREATED", "salesTermRef": {"value": "3"}}]},
  "userId": 2374,
  "events": [{"date": "2020-02-21T16:43:41Z", "elementKey": "quickbooks", "pollDate": "2020-02-21T16:43:39Z",
   "eventType": "CREATED", "hubKey": "finance", "objectId": "2|0", "objectType": "invoices"}]},
 "user": "notifications@cloud-elements.com"}
"""

JAVA_DATE = "%a %b %d %H:%M:%S UTC %Y"


def from_example(example: dict[str, Any]) -> Notification:
    """The notification that an example is of, as our log would have it."""
    message = example["message"]
    appended = datetime.strptime(example["createdDate"], JAVA_DATE).replace(tzinfo=UTC)
    instance = Instance(
        id=message["instanceId"],
        organization_id=message["companyId"],
        user_id=message["userId"],
        element_key=message["elementKey"],
        hub=message["events"][0]["hubKey"],
        name=message["instanceName"],
        tags=tuple(message["instanceTags"]),
        configuration={},
        token_digest=b"",
        disabled=False,
        created=appended,
        updated=appended,
        revision=1,
    )
    event, kind = message["events"][0], message["events"][0]["objectType"]
    milliseconds = message["raw"].get("pollDate")
    polled = datetime.fromisoformat(event["pollDate"])
    if milliseconds is not None:
        polled = datetime.fromtimestamp(milliseconds / 1000, UTC)
    position = int(example["id"])
    stored = StoredChange(
        position,
        kind,
        event["objectId"],
        event["eventType"],
        datetime.fromisoformat(event["date"]),
        orjson.dumps(message["raw"][kind][0]).decode(),
    )
    return Notification(position, message["eventId"], appended, instance, (stored,), polled, None)


def test_the_netsuite_example_comes_outwhole_notifications() -> None:
    """Given what the published example of 2018 tells of, the body is that example: keys, their order, types and values.

    One value differs: an organization is `accountId` and `companyId` alike, theirs had two numbers.
    """
    example = orjson.loads(NETSUITE)
    body = orjson.loads(render(from_example(example)))
    example["message"]["accountId"] = example["message"]["companyId"]
    # Compared as text, so that the order of keys at every level is compared too.
    assert orjson.dumps(body) == orjson.dumps(example)


def test_the_quickbooks_example_comes_outwhole_notifications() -> None:
    """The same of the example of 2020, whose `raw` was published without when and what."""
    example = orjson.loads(QUICKBOOKS)
    body = orjson.loads(render(from_example(example)))
    raw = body["message"]["raw"]
    assert list(raw) == ["invoices", "pollDate", "objectType"]
    assert (raw.pop("pollDate"), raw.pop("objectType")) == (1582303419000, "invoices")
    example["message"]["accountId"] = example["message"]["companyId"]
    assert orjson.dumps(body) == orjson.dumps(example)


def test_a_webhook_carries_the_whole_body_every_time(dsn: str, keys: Keys, run: Any) -> None:
    """A webhook with 45 events is three notifications, each with the provider's whole body to the letter, and no pollDate."""
    written = '{ "events":[1,2 , 3.0], "x":"\\u00e9\\/" }'

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w, tags=("a", "Local", "b"))
            at = datetime(2026, 1, 2, 3, 4, 5, 999_000, tzinfo=UTC)
            many = [change(n, changed=at if n == 44 else None) for n in range(45)]
            await w.append(hook(instance, *many, raw=written))
            rows = await log.changes_after(conn, 0, 100)
            found = await Reader(db=conn, log_id=LOG_ID).notifications(
                [row for row in rows if row["kind"] == "change"]
            )
            assert [len(n.changes) for n in found] == [20, 20, 5]
            for notification in found:
                body = render(notification)
                assert f'"raw":{written},'.encode() in body
                message = orjson.loads(body)["message"]
                assert message["instanceTags"] == ["Local", "a", "b"]
                assert list(message["events"][0]) == [
                    "date",
                    "elementKey",
                    "eventType",
                    "hubKey",
                    "objectId",
                    "objectType",
                ]
            assert (
                orjson.loads(render(found[2]))["message"]["events"][4]["date"]
                == "2026-01-02T03:04:05Z"
            )
            stored = found[2].appended.strftime("%Y-%m-%dT%H:%M:%SZ")
            assert orjson.loads(render(found[2]))["message"]["events"][0]["date"] == stored

    run(main())


moves = st.one_of(
    st.tuples(st.just("poll"), st.integers(0, 1), st.integers(1, 23)),
    st.tuples(st.just("hook"), st.integers(0, 1), st.integers(1, 45)),
    st.tuples(st.just("rename"), st.integers(0, 1), st.integers(0, 5)),
)


async def tailed(reader: Reader, conn: Any, limit: int) -> dict[int, bytes]:
    """Bodies as the dispatcher's tail makes them, *limit* rows at a time."""
    made: dict[int, bytes] = {}
    head = 0
    while True:
        rows = await log.changes_after(conn, head, limit)
        whole = whole_notifications(rows, limit)
        for row in whole:
            if row["kind"] != "change":
                reader.forget(row["instance_id"])
        changes = [row for row in whole if row["kind"] == "change"]
        made |= {n.position: render(n) for n in await reader.notifications(changes)}
        if len(rows) < limit:
            return made
        head = whole[-1]["position"]


async def caught_up(reader: Reader, conn: Any, instance: int, limit: int) -> dict[int, bytes]:
    """Bodies of one instance, as a lane that is behind makes them."""
    made: dict[int, bytes] = {}
    read = 0
    while True:
        rows = await log.changes_of_instance(conn, instance, read, limit)
        for notification in await reader.notifications(whole_notifications(rows, limit)):
            made[notification.position] = render(notification)
            read = notification.last
        if len(rows) < limit:
            return made


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=st.lists(moves, min_size=1, max_size=14),
    limits=st.tuples(st.integers(46, 90), st.integers(21, 60)),
)
def test_a_body_is_the_same_for_ever(
    server: str, template: str, history: list[tuple[str, int, int]], limits: tuple[int, int]
) -> None:
    """However an instance changes between and after, tail, catch-up and a later single read make the same bytes."""

    async def main(dsn: str) -> None:
        keys = Keys([("k1", bytes(32))])
        async with writing(dsn, keys) as w, connected(dsn) as conn, connected(dsn) as later:
            await w.append(opening())
            ids = [await create_instance(w, token=str(n), name="first") for n in range(2)]
            live: dict[int, bytes] = {}
            at_work = Reader(db=conn, log_id=LOG_ID)
            for number, (what, which, much) in enumerate(history):
                its = ids[which]
                many = [change(n, number, object_type="ab"[n % 7 == 6]) for n in range(much)]
                if what == "rename":
                    name = f"name {number}"
                    entry = state(
                        "instance.configured",
                        instance_id=its,
                        name=name,
                        token=str(which),
                        tags=[name],
                    )
                    await w.append(Unit([entry]))
                    at_work.forget(its)
                    continue
                receipt = await w.append(
                    poll(its, *many)
                    if what == "poll"
                    else hook(its, *many, raw=f'{{"n":{number}}}')
                )
                last = receipt.position + receipt.appended
                new = await log.changes_of_instance(
                    conn, its, receipt.position - 1, 100, until=last
                )
                live |= {n.position: render(n) for n in await at_work.notifications(new)}
            await w.append(Unit([state("instance.deleted", instance_id=ids[0])]))
            fresh = Reader(db=later, log_id=LOG_ID)
            assert await tailed(Reader(db=later, log_id=LOG_ID), later, limits[0]) == live
            behind = [await caught_up(fresh, later, its, limits[1]) for its in ids]
            assert behind[0] | behind[1] == live
            for position, body in live.items():
                (alone,) = await Reader(db=later, log_id=LOG_ID).read([position])
                assert render(alone) == body
            assert [render(n) for n in await fresh.read(list(live))] == list(live.values())

    with copied(server, template) as dsn:
        uvloop.run(main(dsn))


def test_a_life_that_was_read_while_it_changed_is_not_kept(
    dsn: str, keys: Keys, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that is told of while the instance's life is being read shows in the notifications after it."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w, name="before")
            first = await w.append(poll(instance, change(1)))
            reader = Reader(db=conn, log_id=LOG_ID)
            read = log.life_of_instance

            async def slow(db: Any, instance_id: int) -> Any:
                rows = await read(db, instance_id)
                entry = state("instance.configured", instance_id=instance, name="after")
                await w.append(Unit([entry]))
                reader.forget(instance)
                return rows

            with monkeypatch.context() as patched:
                patched.setattr(log, "life_of_instance", slow)
                (one,) = await reader.read([first.position])
            second = await w.append(poll(instance, change(2)))
            (other,) = await reader.read([second.position])
            assert (one.instance.name, other.instance.name) == ("before", "after")

    run(main())


def test_events_are_listed_newest_first_with_their_state(dsn: str, keys: Keys, run: Any) -> None:
    """An instance's events come in pages, newest first, each with what became of it, and one is found by its id only there."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance, other = [await create_instance(w, token=str(n)) for n in range(2)]
            many = [change(n, object_type=f"t{n % 5}") for n in range(50)]
            many.sort(key=lambda c: c.object_type)
            await w.append(poll(instance, *many))
            await w.append(hook(instance, *[change(n) for n in range(45)]))
            await w.append(poll(other, change(1)))
            listed: list[events.StoredEvent] = []
            before = None
            while page := await events.events(conn, instance, before=before, limit=3):
                listed += page
                before = page[-1].position
            assert [e.position for e in listed] == sorted(
                {e.position for e in listed}, reverse=True
            )
            assert len(listed) == 5 + 3
            first = listed[-1]
            done = deliveries.Outcome(
                instance, first.position, "delivered", 1, None, 1, 200, None, doubtful=False
            )
            await w.append(Unit([deliveries.entry([], [done])]))
            one = await events.event(conn, LOG_ID, instance, first.id)
            assert one is not None
            assert (first.status, one.status) == ("RECEIVED", "NOTIFIED")
            assert one.notified is not None
            assert orjson.loads(one.notified)["message"]["raw"] == orjson.loads(one.raw)
            assert await events.event(conn, LOG_ID, other, first.id) is None
            assert await events.event(conn, LOG_ID, instance, "x" * 20) is None

    run(main())
