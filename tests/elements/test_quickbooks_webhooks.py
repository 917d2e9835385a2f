"""QuickBooks' webhooks: signatures, both formats, and a simulated company that posts them."""

import asyncio
import base64
import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from aiohttp import web
from elements.quickbooks.books import LINE, incoming, sample
from heart import until
from servers import serving

from daemon.elements import built_in
from daemon.elements.simulators.quickbooks.server import REALM, VERIFIER, QuickBooks
from daemon.errors import BadSignature, Invalid
from daemon.model import ChangeType, Received, WebhookEvent

TOKEN = "test-verifier-token"
SETTINGS = {"quickbooks.verifier.token": TOKEN, "realm.id": "310687"}


def signed(body: bytes, token: str = TOKEN) -> str:
    """What Intuit would send as intuit-signature."""
    return base64.b64encode(hmac.digest(token.encode(), body, "sha256")).decode()


def received(body: bytes, kind: str = "application/json") -> Received:
    """What the element makes of a signed body."""
    request = incoming(body, intuit_signature=signed(body), Content_Type=kind)
    return built_in("quickbooks").receive(request, SETTINGS)


@pytest.mark.element("quickbooks", "signature")
@pytest.mark.parametrize(
    ("token", "body", "signature"),
    [
        ("verify_me", b'{"stuff":"5"}', "nfPLN16u3vMvv08ghDs+dOkLuirEVDy5wAeG/lmM2OA="),
        (TOKEN, sample("cloudevents.json"), "ilqwtIIGIj6T4sFgSJxcHRKASZHkicUGoXmOGuMQO7E="),
    ],
    ids=["python-quickbooks", "cloudevents"],
)
def test_the_known_signatures_are_right(token: str, body: bytes, signature: str):
    """Both vectors of the facts pass, under either name of the setting; a changed byte and a wrong token do not."""
    quickbooks = built_in("quickbooks")

    def verify(body: bytes, **settings: str) -> None:
        named = {name.replace("_", "."): value for name, value in settings.items()}
        try:
            quickbooks.receive(incoming(body, intuit_signature=signature), named)
        except Invalid:
            assert b"stuff" in body  # signed rightly, but no webhook

    verify(body, quickbooks_verifier_token=token)
    verify(body, signature_secret=token)
    for body_, settings in (
        (body + b" ", {"quickbooks_verifier_token": token}),
        (body, {"quickbooks_verifier_token": "wrong", "signature_secret": token}),
        (body, {}),
    ):
        with pytest.raises(BadSignature):
            verify(body_, **settings)
    with pytest.raises(BadSignature):
        quickbooks.receive(incoming(body), SETTINGS)
    with pytest.raises(BadSignature):
        quickbooks.receive(incoming(body, intuit_signature=signature), None)


def test_a_cloudevent_is_read():
    """Type, ids and the time with nine digits; the answer is 200, and the event only a hint at what to read."""
    found = received(sample("cloudevents-nine-digits.json"), "application/cloudevents+json")

    assert (
        WebhookEvent(
            object_type="ledger-accounts",
            object_id="1234",
            change=ChangeType.CREATED,
            changed=datetime(2025, 9, 10, 21, 31, 25, 179851, tzinfo=UTC),
            identity="88cd52aa-33b6-4351-9aa4-47572edbd068",
            route="310687",
        ),
    ) == found.events
    assert 200 == found.reply.status
    assert found.hint
    assert orjson.loads(found.raw)[0]["intuitaccountid"] == "310687"


def test_the_legacy_format_is_read():
    """eventNotifications still say which record of which company; without an event id what they say names them."""
    found = received(sample("legacy.json"))
    again = received(sample("legacy.json"))
    later = received(sample("legacy.json").replace(b"2025-09-08", b"2025-09-09"))

    [event] = found.events
    assert ("ledger-accounts", "1234", ChangeType.CREATED) == (
        event.object_type,
        event.object_id,
        event.change,
    )
    assert "310687" == event.route
    assert event.identity == again.events[0].identity != later.events[0].identity


def test_the_old_spelling_of_a_time_is_read():
    """`2015-10-05T14:42:19-0700` has no colon in its offset."""
    body = sample("legacy.json").replace(b"2025-09-08T20:52:31.657Z", b"2015-10-05T14:42:19-0700")

    assert datetime(2015, 10, 5, 21, 42, 19, tzinfo=UTC) == received(body).events[0].changed


def test_a_merger_is_an_update_and_a_delete():
    """What is left of a merger changed, what was merged away is gone; in either format."""
    old = {"id": "123", "operation": "Merge", "name": "Customer", "deletedId": "27"}
    legacy = {"eventNotifications": [{"realmId": "1", "dataChangeEvent": {"entities": [old]}}]}

    for body in (sample("merged.json"), orjson.dumps(legacy)):
        found = [(one.object_id, one.change) for one in received(body).events]
        assert [("123", ChangeType.UPDATED), ("27", ChangeType.DELETED)] == found


@pytest.mark.parametrize(
    ("operation", "change"),
    [
        ("created", "CREATED"), ("updated", "UPDATED"), ("deleted", "DELETED"), ("voided", "UPDATED"),
        ("emailed", "UPDATED"), ("reticulated", "UNKNOWN"),
    ],
)  # fmt: skip
def test_every_operation_is_a_change(operation: str, change: str):
    """Voiding and mailing are updates; what Intuit may yet invent is UNKNOWN."""
    body = sample("without-data.json").replace(b"updated", operation.encode())

    [event] = received(body).events
    assert ("sales-receipts", "150", change) == (event.object_type, event.object_id, event.change)


def test_each_event_goes_to_its_own_company():
    """One POST may speak of several companies: all are routed to, and each event knows which is its own."""
    events = orjson.loads(sample("cloudevents.json")) + orjson.loads(sample("merged.json"))
    request = incoming(orjson.dumps(events))

    assert ("310687", "93414556000000000") == built_in("quickbooks").routes(request)
    assert ["310687", "93414556000000000", "93414556000000000"] == [
        one.route for one in received(orjson.dumps(events)).events
    ]


def test_one_bad_event_does_not_stop_the_others():
    """Refused, the whole batch would be posted again for days, and nothing after it: what cannot be read is left out."""
    good = orjson.loads(sample("cloudevents.json"))[0]
    nameless = {name: value for name, value in good.items() if name != "intuitentityid"}
    body = orjson.dumps([None, 7, {}, nameless, {**good, "type": "odd"}, {**good, "time": 5}, good])

    found = received(body).events
    assert [None, datetime(2025, 9, 10, 21, 31, 25, 179000, tzinfo=UTC)] == [
        one.changed for one in found
    ]
    assert 1 == len(received(orjson.dumps(good)).events)


@pytest.mark.parametrize("body", [b'"text"', b"{}", b'{"eventNotifications": 1}', b"not json"])
def test_a_body_of_another_shape_is_invalid(body: bytes):
    """Signed or not: nothing can be made of it."""
    with pytest.raises(Invalid):
        received(body)


# The simulated company posts.


class Receiver:
    """What posts came, verified by the element; *statuses* are what it answers first, 200 after that."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []
        self.kinds: list[str] = []
        self.events: list[tuple[str, str, str]] = []
        self.hang = False

    async def answer(self, request: web.Request) -> web.Response:
        """Take one post."""
        if self.hang:
            self.hang = False
            await asyncio.sleep(60)
        body = await request.read()
        self.bodies.append(body)
        self.kinds.append(request.content_type)
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            settings = {"quickbooks.verifier.token": VERIFIER}
            posted = incoming(
                body,
                Content_Type=request.content_type,
                intuit_signature=request.headers["intuit-signature"],
            )
            found = built_in("quickbooks").receive(posted, settings)
            assert {REALM} == {one.route for one in found.events}
            self.events += [(str(e.change), e.object_type, e.object_id) for e in found.events]
        return web.Response(status=status)


def posting(
    test: Callable[[QuickBooks], Awaitable[None]], receiver: Receiver, **options: Any
) -> QuickBooks:
    """A company that posts to *receiver* what *test* does to it."""

    async def main() -> QuickBooks:
        server = QuickBooks(scale=0.0005, **options)
        async with server.running(), serving(receiver.answer) as origin, asyncio.timeout(20):
            server.posting.hook = f"{origin}/events/quickbooks"
            await test(server)
            await server.posting.posted()
        return server

    return asyncio.run(main())


async def busy_day(server: QuickBooks) -> None:
    """Every kind of event."""
    company = server.company
    for name in ("A", "B"):
        company.create("Customer", {"DisplayName": name})
    invoice = company.create("Invoice", {"CustomerRef": {"value": "1"}, "Line": LINE})
    company.void("Invoice", {"Id": invoice["Id"], "SyncToken": "0"})
    server.delete("Invoice", invoice["Id"])
    company.merge("Customer", "1", "2")


DAY = [
    ("CREATED", "customers", "1"), ("CREATED", "customers", "2"), ("CREATED", "invoices", "1"),
    ("UPDATED", "invoices", "1"), ("DELETED", "invoices", "1"), ("UPDATED", "customers", "1"),
    ("DELETED", "customers", "2"),
]  # fmt: skip


@pytest.mark.element("quickbooks", "webhook")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_company_posts_what_happens(legacy: bool):  # noqa: FBT001 — a parameter of the test
    """Both formats arrive, signed with the verifier token, in order."""
    receiver = Receiver()

    async def test(server: QuickBooks) -> None:
        server.posting.legacy = legacy
        await busy_day(server)

    posting(test, receiver)

    assert receiver.events == DAY
    assert {"application/json" if legacy else "application/cloudevents+json"} == set(receiver.kinds)


def test_only_200_ends_the_attempts_and_what_follows_waits():
    """A 500, a 202 and no answer within the patience are all posted again, and the next post only after that."""
    receiver = Receiver(500, 202)
    receiver.hang = True

    async def test(server: QuickBooks) -> None:
        server.create("Customer", DisplayName="A")
        await until(lambda: server.posting.deliveries)
        server.create("Customer", DisplayName="B")

    server = posting(test, receiver, patience=0.2)

    assert [("CREATED", "customers", "1"), ("CREATED", "customers", "2")] == receiver.events
    outcomes = [(one.attempt, one.outcome) for one in server.posting.deliveries]
    assert [(1, "TimeoutError"), (2, 500), (3, 202), (4, 200), (1, 200)] == outcomes


def test_posts_are_repeated_and_reversed_on_request():
    """The same bytes twice, with the same event ids, and a batch back to front."""
    receiver = Receiver()

    async def test(server: QuickBooks) -> None:
        server.posting.repeats = server.posting.reversals = 1
        server.create("Customer", DisplayName="A")
        server.create("Customer", DisplayName="B")

    posting(test, receiver)

    assert receiver.bodies[0] == receiver.bodies[1]
    assert ["2", "1"] == [number for _, _, number in receiver.events[:2]]


def test_more_than_a_hundred_events_are_several_posts():
    """A post holds at most 100 events."""
    receiver = Receiver()

    async def test(server: QuickBooks) -> None:
        for number in range(250):
            server.create("Customer", DisplayName=str(number))

    server = posting(test, receiver)

    assert [100, 100, 50] == [one.events for one in server.posting.deliveries]
    assert 250 == len(receiver.events)
