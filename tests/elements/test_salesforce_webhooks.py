"""Outbound messages and what a trigger posts: read, routed, acknowledged, and nothing in them believed too much."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from elements.organization import Account, with_account
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from servers import serving

from daemon.elements import load
from daemon.elements.salesforce.outbound_message import ACK, eighteen, parse, same
from daemon.elements.simulators.salesforce.server import Salesforce
from daemon.errors import BadSignature, Invalid
from daemon.model import ChangeType, Incoming, WebhookEvent

SAMPLES = Path(__file__).parent / "salesforce"
MESSAGE = (SAMPLES / "outbound_message.xml").read_bytes()
TRIGGER = (SAMPLES / "trigger.json").read_bytes()
ORG = "00Dd0000000dtDqEAI"
SFDC = load().get("sfdc")


def incoming(body: bytes, kind: str = "text/xml; charset=UTF-8") -> Incoming:
    """A POST of *body*."""
    headers = CIMultiDict({"Content-Type": kind})
    return Incoming("POST", "/events/sfdc", "https://t.example/events/sfdc", headers, {}, body)


@pytest.mark.element("sfdc", "webhook")
def test_a_message_says_what_changed():
    """Each notification is an event, named by its own id; created or updated by the dates, unknown without them."""
    received = SFDC.receive(incoming(MESSAGE), {"sfdc.organization.id": ORG})

    assert (
        WebhookEvent("Opportunity", "0062000000ZZpewAAD", ChangeType.UPDATED,
                     datetime(2014, 8, 20, 11, 16, 4, tzinfo=UTC), "04l2000000KFmjJAAT"),
        WebhookEvent("Opportunity", "0062000000ZZpexAAD", ChangeType.CREATED,
                     datetime(2014, 8, 20, 11, 16, 4, tzinfo=UTC), "04l2000000KFmjKAAT"),
        WebhookEvent("Contact", "0032000000AbCdEAAV", ChangeType.UNKNOWN, None, "04l2000000KFmjLAAT"),
    ) == received.events  # fmt: skip
    assert not received.hint


def test_a_message_is_kept_as_json_without_its_session():
    """The names are Salesforce's; a session id, which old messages carry, is no place for a log."""
    body = MESSAGE.replace(b'<SessionId xsi:nil="true"/>', b"<SessionId>00D!secret</SessionId>")
    raw = SFDC.receive(incoming(body), {}).raw
    kept = orjson.loads(raw)

    assert b"secret" not in raw
    assert {"OrganizationId", "ActionId", "EnterpriseUrl", "PartnerUrl", "Notification"} == set(
        kept
    )
    assert {
        "attributes": {"type": "Opportunity"}, "Id": "0062000000ZZpewAAD", "Name": "Pipes & Valves", "NextStep": None,
        "CreatedDate": "2014-08-01T09:00:00.000Z", "LastModifiedDate": "2014-08-20T11:16:04.000Z",
    } == kept["Notification"][0]["sObject"]  # fmt: skip


def test_the_acknowledgement_is_what_salesforce_waits_for():
    """SOAP with Ack true, as text/xml; of an organization that nobody knows as well, or it comes again for a day."""
    for settings in ({"sfdc.organization.id": ORG}, {}, None):
        reply = SFDC.receive(incoming(MESSAGE), settings).reply
        assert (200, ACK, "text/xml") == (reply.status, reply.body, reply.content_type)
    assert (
        b'<notificationsResponse xmlns="http://soap.sforce.com/2005/09/outbound"><Ack>true</Ack>'
        in ACK
    )


@pytest.mark.parametrize("mine", [ORG, ORG[:15]])
def test_the_organization_is_one_however_long_its_id_is(mine: str):
    """A configuration may hold 15 characters or 18; a message is routed by either."""
    assert mine in SFDC.routes(incoming(MESSAGE))
    assert 3 == len(SFDC.receive(incoming(MESSAGE), {"sfdc.organization.id": mine}).events)


@pytest.mark.parametrize("other", ["00Dd0000000dtDQEAY", "00Dd0000000dtDqEAJ"[:14] + "X"])
def test_a_message_of_another_organization_is_refused(other: str):
    """The first 15 characters decide, and case is told apart in them."""
    with pytest.raises(BadSignature, match="another organization"):
        SFDC.receive(incoming(MESSAGE), {"sfdc.organization.id": other})


def test_a_trigger_says_what_changed():
    """The documents' own webhook: objects with their type, and one action for all of them."""
    received = SFDC.receive(incoming(TRIGGER, "application/json"), {"sfdc.organization.id": ORG})
    first, second = received.events

    assert ("Contact", "003d000000TeSTAAA0", ChangeType.UPDATED) == (
        first.object_type,
        first.object_id,
        first.change,
    )
    assert datetime(2026, 11, 20, 10, tzinfo=UTC) == first.changed
    assert first.identity != second.identity
    assert b"" == received.reply.body
    assert TRIGGER == received.raw
    again = SFDC.receive(incoming(TRIGGER, "application/json"), {})
    assert received.events == again.events, "the same call again is the same events"


@pytest.mark.parametrize(
    ("action", "change"),
    [("insert", "CREATED"), ("create", "CREATED"), ("undelete", "CREATED"), ("update", "UPDATED"),
     ("delete", "DELETED"), ("upsert", "UNKNOWN")],
)  # fmt: skip
def test_actions_of_a_trigger(action: str, change: str):
    """Apex names what a trigger is about; what it does not name is unknown."""
    body = orjson.dumps({**orjson.loads(TRIGGER), "action": action})
    assert {ChangeType(change)} == {
        one.change for one in SFDC.receive(incoming(body, "application/json"), {}).events
    }


def test_a_trigger_may_name_its_organization():
    """organizationId in the body routes it, and is compared where it is there."""
    body = orjson.dumps({**orjson.loads(TRIGGER), "organizationId": ORG[:15]})
    call = incoming(body, "application/json")

    assert {ORG, ORG[:15]} == set(SFDC.routes(call))
    assert all(
        one.route is None for one in SFDC.receive(call, {"sfdc.organization.id": ORG}).events
    )
    with pytest.raises(BadSignature):
        SFDC.receive(call, {"sfdc.organization.id": "00Dd0000000XXXX"})
    assert () == SFDC.routes(incoming(TRIGGER, "application/json"))


BOMB = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;">]><a>&lol2;</a>"""
OUTSIDE = (
    b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>"""
)
PLAIN = b"""<?xml version="1.0"?><!DOCTYPE a SYSTEM "http://evil.example/a.dtd"><a/>"""


@pytest.mark.parametrize("body", [BOMB, OUTSIDE, PLAIN])
def test_a_document_type_is_refused(body: bytes):
    """Entities can fill the memory, read files and ask other servers: there is no way to have any."""
    with pytest.raises(Invalid, match="document type"):
        SFDC.receive(incoming(body), {})


@pytest.mark.parametrize(
    "body",
    [
        b"<a/>",
        b"<",
        b"<a>&unknown;</a>",
        b"<a>" * 1000,
        b"<a>" * 100 + b"</a>" * 100,
        MESSAGE.replace(b"2005/09/outbound", b"2005/09/other"),
        MESSAGE.replace(b"<OrganizationId>" + ORG.encode(), b"<OrganizationId>"),
        MESSAGE.replace(b"<Id>04l2000000KFmjJAAT</Id>", b""),
        MESSAGE[:-40],
        b"<?xml version='1.0' encoding='no-such-thing'?><a/>",
        b"\xff\xfe<",
    ],
)
def test_what_is_no_message_is_refused(body: bytes):
    """With a sentence, not with an error of the parser."""
    with pytest.raises(Invalid):
        parse(body)


def test_more_notifications_than_there_can_be_are_refused():
    """Salesforce sends 100 at most."""
    one = b"<Notification><Id>04l</Id></Notification>"
    head, _, tail = MESSAGE.partition(b"   <Notification>")
    tail = b"</notifications>" + tail.rpartition(b"</notifications>")[2]

    assert 100 == len(parse(head + one * 100 + tail).notifications)
    with pytest.raises(Invalid, match="101 times"):
        parse(head + one * 101 + tail)


@given(
    body=st.one_of(
        st.binary(max_size=200), st.text("<>/&;!a='\"[]- ?", max_size=80).map(str.encode)
    )
)
def test_no_bytes_break_the_parser(body: bytes):
    """Whatever comes, it is read or refused."""
    try:
        parse(body)
    except Invalid as error:
        assert error.problems  # noqa: PT017 — either is right


@given(st.text("<>&'\"\n é\U0001f600\\", max_size=30))
def test_texts_come_through(text: str):
    """What a field holds is read as it was meant, however it had to be written."""
    from xml.sax.saxutils import escape

    body = MESSAGE.replace(b"Pipes &amp; Valves", escape(text).encode())
    assert text.strip() == parse(body).notifications[0].fields["Name"]


@given(
    st.text(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=15, max_size=15
    )
)
def test_ids_of_eighteen_are_told_apart_without_case(identifier: str):
    """The three last characters say which of the first 15 are capitals."""
    whole = eighteen(identifier)

    assert same(whole, identifier)
    assert whole == eighteen(whole)
    assert (whole.lower() == eighteen(identifier.swapcase()).lower()) == (
        identifier == identifier.swapcase()
    )


@pytest.mark.parametrize(
    "known",
    ["00Dd0000000dtDqEAI", "04kd0000000PCgvAAG", "0062000000ZZpewAAD", "003i0000032SVcmAAG"],
)
def test_ids_that_salesforce_made(known: str):
    """Ids as they stand in Salesforce's own messages."""
    assert known == eighteen(known[:15])


class Listener:
    """Answers outbound messages as a test tells it, and keeps what came."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.bodies: list[bytes] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one message: as told, else with the acknowledgement."""
        self.bodies.append(await request.read())
        if self.answers:
            return self.answers.pop(0)
        return web.Response(body=ACK, content_type="text/xml")


def test_the_simulator_posts_until_it_is_acknowledged():
    """503, and 200 without the acknowledgement, are tried again; the element reads what then comes."""

    async def main() -> None:
        simulated, listener = Salesforce(scale=0.001), Listener()
        listener.answers = [web.Response(status=503), web.Response(text="thank you")]
        async with serving(listener.answer) as target, simulated.running():
            simulated.messages.url = f"{target}/events/sfdc"
            one = simulated.create("Contact", LastName="Tom & <Jerry>")
            async with asyncio.timeout(10):
                await simulated.messages.posted()
            assert [503, 200, 200] == [each.outcome for each in simulated.messages.deliveries]
            assert [False, False, True] == [each.accepted for each in simulated.messages.deliveries]
            events = [SFDC.receive(incoming(body), None).events for body in listener.bodies]
            assert {(one["Id"], ChangeType.CREATED)} == {(e.object_id, e.change) for [e] in events}
            assert 1 == len({e.identity for [e] in events}), "one notification, one identity"
            assert "Tom & <Jerry>" == parse(listener.bodies[0]).notifications[0].fields["LastName"]

    asyncio.run(main())


def test_a_message_holds_what_is_there_when_it_is_sent():
    """Two changes while nobody listened: two notifications with the same last state; nothing of a deleted record."""

    async def main() -> None:
        simulated, listener = Salesforce(scale=0.001), Listener()
        async with serving(listener.answer) as target, simulated.running():
            simulated.messages.url = f"{target}/events/sfdc"
            one = simulated.create("Contact", LastName="a")
            simulated.update("Contact", one["Id"], LastName="b")
            two = simulated.create("Contact", LastName="c")
            simulated.delete("Contact", two["Id"])
            simulated.create("Lead", LastName="d")
            async with asyncio.timeout(10):
                await simulated.messages.posted()
            contacts, leads = (parse(body) for body in listener.bodies)
            assert [{"b"}, {"b"}, set()] == [
                {each.fields["LastName"]} if each.fields else set()
                for each in contacts.notifications
            ]
            assert ["Lead"] == [each.kind for each in leads.notifications]
            assert 2 == len(SFDC.receive(incoming(listener.bodies[0]), None).events)

    asyncio.run(main())


def test_the_simulator_repeats_and_reverses_on_request():
    """What Salesforce does now and then: the same message twice, the younger one first."""

    async def main() -> None:
        simulated, listener = Salesforce(scale=0.001), Listener()
        async with serving(listener.answer) as target, simulated.running():
            simulated.messages.url = f"{target}/events/sfdc"
            simulated.messages.duplicate = simulated.messages.reverse = True
            made = [simulated.create("Contact", LastName=name)["Id"] for name in "ab"]
            async with asyncio.timeout(10):
                await simulated.messages.posted()
            assert listener.bodies[0] == listener.bodies[1]
            assert made[::-1] == [
                each.fields["Id"] for each in parse(listener.bodies[0]).notifications
            ]

    asyncio.run(main())


def test_the_simulator_can_be_told_by_http():
    """Records, messages and faults without any token, for whoever tries an integration by hand."""

    async def test(account: Account) -> None:
        from aiohttp import ClientSession

        listener = Listener()
        async with serving(listener.answer) as target, ClientSession(account.origin) as session:
            async with session.put("/simulator/outbound", json={"url": target}) as answer:
                assert 200 == answer.status
            async with session.put("/simulator/apex", json={"url": target, "instances": "17"}):
                pass
            async with session.post("/simulator/Contact", json={"LastName": "Ann"}) as answer:
                made = (await answer.json())["id"]
            async with session.patch(f"/simulator/Contact/{made}", json={"Phone": "1"}) as answer:
                assert 204 == answer.status
            async with session.delete(f"/simulator/Contact/{made}") as answer:
                assert 204 == answer.status
            async with session.delete(f"/simulator/Contact/{made}") as answer:
                assert 404 == answer.status
            async with asyncio.timeout(10):
                await account.simulated.messages.posted()
            actions = [orjson.loads(body)["action"] for body in listener.bodies if body[:1] == b"{"]
            assert ["insert", "update", "delete"] == actions
            async with session.get("/simulator/deliveries") as answer:
                assert len(await answer.json()) == len(listener.bodies)

    with_account(test)


def test_events_have_no_route_left_to_compare():
    """The organization was compared already, in whatever spelling: an instance with 15 characters is no stranger."""
    received = SFDC.receive(incoming(MESSAGE), {"sfdc.organization.id": ORG[:15]})

    assert received == replace(
        received, events=tuple(replace(e, route=None) for e in received.events)
    )
