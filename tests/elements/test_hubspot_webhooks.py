"""HubSpot's webhooks: every published signature, every kind of event, and what is not HubSpot's refused."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hubspot.utils.signature import Signature
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from servers import serving

from daemon.elements import built_in
from daemon.elements.hubspot.hooks import signed_address
from daemon.elements.simulators.hubspot.server import HubSpot
from daemon.errors import BadSignature, Invalid
from daemon.model import Incoming, Received

HERE = Path(__file__).parent / "hubspot"
URL = "https://www.example.com/webhook_uri"
KEY = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"
V1_BODY = (
    b'[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":'
    b'"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]'
)
OWN_BODY = (
    b'[{"objectId":1246965,"propertyName":"lifecyclestage","propertyValue":"subscriber","changeSource":"ACADEMY",'
    b'"eventId":3816279340,"subscriptionId":25,"portalId":33,"appId":1160452,"occurredAt":1462216307945,'
    b'"eventType":"contact.propertyChange","attemptNumber":0}]'
)
AT = datetime(2023, 9, 2, 12, 26, 0, tzinfo=UTC)  # 1693657560000
SETTINGS = {"oauth.api.secret": KEY}


def incoming(
    body: bytes | str, headers: dict[str, str], *, url: str = URL, method: str = "POST"
) -> Incoming:
    """A request as it arrives."""
    data = body.encode() if isinstance(body, str) else body
    return Incoming(method, "/webhook_uri", url, CIMultiDict(headers), {}, data)


def older(version: str, signature: str) -> dict[str, str]:
    """The headers of a webhook signed in an old way."""
    return {"X-HubSpot-Signature": signature, "X-HubSpot-Signature-Version": version}


def newest(signature: str, stamp: str) -> dict[str, str]:
    """The headers of a webhook signed in version 3."""
    return {"X-HubSpot-Signature-v3": signature, "X-HubSpot-Request-Timestamp": stamp}


def verify(request: Incoming, *, at: datetime = AT, **settings: str) -> None:
    """Return where the signature is right; raise `BadSignature`."""
    element = built_in("hubspot", now=lambda: at)
    given = {name.replace("__", "."): value for name, value in settings.items()}
    element._verify(request, SETTINGS | given)


def receive(events: Any, **settings: str) -> Received:
    """What the element makes of a rightly signed webhook that holds *events*."""
    body = events if isinstance(events, bytes) else json.dumps(events).encode()
    signature = Signature.get_signature(KEY, body.decode(), "v1")
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return built_in("hubspot").receive(incoming(body, older("v1", signature)), SETTINGS | given)


def told(events: Any, **settings: str) -> list[tuple[str, str, str]]:
    """(change, object type, object id) of what a webhook holds."""
    return [
        (one.change.value, one.object_type, one.object_id)
        for one in receive(events, **settings).events
    ]


# Signatures.

VECTORS = {
    "v1 of the documents": incoming(
        V1_BODY,
        older("v1", "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de"),
    ),
    "v2 of a GET": incoming(
        "",
        older("v2", "eee2dddcc73c94d699f5e395f4b9d454a069a6855fbfa152e91e88823087200e"),
        method="GET",
    ),
    "v2 of a POST": incoming(
        '{"example_field":"example_value"}',
        older("v2", "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900"),
    ),
    "v3 of the client's tests": incoming(
        "{'example_field':'example_value'}",
        newest("K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y=", "1693657560000"),
    ),
}


@pytest.mark.element("hubspot", "signature")
@pytest.mark.parametrize("request_", VECTORS.values(), ids=VECTORS)
def test_the_published_signatures_are_right(request_: Incoming):
    """Every signature that HubSpot publishes is accepted, and with anything changed none is."""
    verify(request_)
    changed = [
        replace(request_, body=request_.body + b" "),
        replace(
            request_, headers=CIMultiDict({k: f"{v[:-2]}00" for k, v in request_.headers.items()})
        ),
    ]
    if "v1" not in request_.headers.values():
        changed += [
            replace(request_, method="PUT"),
            replace(request_, url=URL + "/"),
        ]
    for one in changed:
        with pytest.raises(BadSignature):
            verify(one)
    with pytest.raises(BadSignature):
        verify(request_, oauth__api__secret="another")


def test_version_3_at_another_address():
    """A vector made for this: POST https://hooks.example.com/hubspot at 1700000000000."""
    request = incoming(
        OWN_BODY,
        newest("cQIpEslr6bb/VJWop1rw8GpDMhMe6RRzM0QT4TOJ62s=", "1700000000000"),
        url="https://hooks.example.com/hubspot",
    )
    verify(
        request, at=datetime.fromtimestamp(1700000000, UTC), signature__secret="test-client-secret"
    )


@pytest.mark.parametrize(
    ("seconds", "fresh"), [(-301, False), (-299, True), (299, True), (301, False)]
)
def test_a_time_too_far_away_is_refused_on_both_sides(seconds: int, *, fresh: bool):
    """Five minutes, before and after: HubSpot's own helper forgets the future."""
    at = AT + timedelta(seconds=seconds)
    if fresh:
        verify(VECTORS["v3 of the client's tests"], at=at)
    else:
        with pytest.raises(BadSignature):
            verify(VECTORS["v3 of the client's tests"], at=at)


def test_the_fallback_can_be_forbidden():
    """With hubspot.signature.v3.only a webhook that carries only version 1 or 2 is refused, one with version 3 is not."""
    for name in ("v1 of the documents", "v2 of a POST"):
        with pytest.raises(BadSignature, match=r"v3\.only"):
            verify(VECTORS[name], hubspot__signature__v3__only="true")
    verify(VECTORS["v3 of the client's tests"], hubspot__signature__v3__only="true")


def test_a_wrong_version_3_is_not_made_good_by_an_older_one():
    """Where the newest signature is there, it counts."""
    good = VECTORS["v1 of the documents"]
    both = CIMultiDict(good.headers)
    both.update(newest("AAAA", "1693657560000"))
    with pytest.raises(BadSignature):
        verify(replace(good, headers=both))


@pytest.mark.parametrize(
    "headers",
    [{}, older("v9", "00"), newest("x", "soon"), newest("x", ""), {"X-HubSpot-Signature-v3": "x"}],
)
def test_what_is_not_signed_is_refused(headers: dict[str, str]):
    """No signature, an unknown version, no time or none that can be read."""
    with pytest.raises(BadSignature):
        verify(incoming(V1_BODY, headers))


def test_without_a_secret_nothing_is_believed():
    """An instance without a client secret, and no instance at all, cannot verify."""
    element = built_in("hubspot")
    for settings in (None, {}, {"oauth.api.secret": "<OAUTH2_ONLY_CONSUMER_SECRET>"}):
        with pytest.raises(BadSignature):
            element.receive(VECTORS["v1 of the documents"], settings)


def test_the_percent_encoding_that_hubspot_undoes():
    """Before version 3 is hashed, exactly these are decoded in the address; the rest stays."""
    codes = [
        "%3A",
        "%2F",
        "%3F",
        "%40",
        "%21",
        "%24",
        "%27",
        "%28",
        "%29",
        "%2A",
        "%2C",
        "%3B",
        "%3a",
        "%2f",
    ]
    assert list(":/?@!$'()*,;:/") == [signed_address(one) for one in codes]
    assert "https://a.example/x%20y%25%26%3D?a=%23" == signed_address(
        "https://a.example/x%20y%25%26%3D?a=%23"
    )
    assert "%2F" == signed_address("%252F").replace("%25", "%")  # once, not again


def test_an_address_with_percent_encoding_is_verified_as_hubspot_signs_it():
    """The signature is over the decoded address, ours arrives encoded."""
    url = "https://a.example/hook%3Ax?to=%2Fb%20c&d=%40"
    stamp = str(int(AT.timestamp() * 1000))
    decoded = "https://a.example/hook:x?to=/b%20c&d=@"
    signature = Signature.get_signature(KEY, "[]", "v3", decoded, "POST", stamp)
    verify(incoming("[]", newest(signature, stamp), url=url))


printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=60)


@given(
    body=printable,
    path=st.text("abc/%3A2F?&=,;", max_size=20),
    secret=st.text("abc-123", min_size=1),
)
def test_what_hubspots_helper_signs_is_accepted(body: str, path: str, secret: str):
    """Whatever body, address and secret: what HubSpot's own code computes is right here too."""
    url = f"https://a.example/{path}"
    stamp = str(int(AT.timestamp() * 1000))
    v3 = Signature.get_signature(secret, body, "v3", signed_address(url), "POST", stamp)
    verify(incoming(body, newest(v3, stamp), url=url), signature__secret=secret)
    for version in ("v1", "v2"):
        signature = Signature.get_signature(secret, body, version, url, "POST")
        verify(incoming(body, older(version, signature), url=url), signature__secret=secret)


@given(data=st.binary(max_size=200), header=st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_request_makes_the_verifier_stumble(data: bytes, header: str):
    """Bytes that are no text and headers that are no signature are refused, nothing else."""
    for headers in (
        older("v1", header),
        older("v2", header),
        newest(header, "1693657560000"),
        newest("x", header),
    ):
        with pytest.raises(BadSignature):
            verify(incoming(data, headers))


# What webhooks say.


@pytest.mark.element("hubspot", "webhook")
@pytest.mark.parametrize("file", ["mirror.json", "guide.json"])
def test_both_spellings_of_the_type_are_read(file: str):
    """The documents write `eventType` here and `subscriptionType` there: either says what happened."""
    body = (HERE / file).read_bytes()
    received = receive(body)
    first = received.events[0]
    assert ("UPDATED", "contacts") == (first.change.value, first.object_type)
    assert received.raw == body
    assert not received.hint
    if file == "mirror.json":
        assert [("UPDATED", "contacts", "1246965"), ("CREATED", "contacts", "1246978")] == told(
            body
        )
        assert datetime(2016, 5, 2, 19, 11, 47, 945000, UTC) == first.changed
        assert "33" == first.route


def event(kind: str, **facts: Any) -> dict[str, Any]:
    """One event."""
    common = {
        "eventId": 1,
        "subscriptionId": 2,
        "portalId": 33,
        "occurredAt": 1715203101896,
        "attemptNumber": 0,
    }
    return {**common, "subscriptionType": kind, "objectId": 7, **facts}


@pytest.mark.parametrize(
    ("kind", "facts", "wanted"),
    [
        ("contact.creation", {}, [("CREATED", "contacts", "7")]),
        ("company.propertyChange", {}, [("UPDATED", "accounts", "7")]),
        ("deal.deletion", {}, [("DELETED", "deals", "7")]),
        ("ticket.restore", {}, [("CREATED", "tickets", "7")]),
        ("contact.privacyDeletion", {}, [("DELETED", "contacts", "7")]),
        ("line_item.creation", {}, [("CREATED", "line_items", "7")]),
        ("product.somethingNew", {}, [("UNKNOWN", "products", "7")]),
        ("object.creation", {"objectTypeId": "0-1"}, [("CREATED", "contacts", "7")]),
        ("object.deletion", {"objectTypeId": "0-2"}, [("DELETED", "accounts", "7")]),
        ("object.propertyChange", {"objectTypeId": "2-123"}, [("UPDATED", "2-123", "7")]),
        ("conversation.creation", {}, [("CREATED", "conversations", "7")]),
        ("event.completed", {"objectId": None}, []),
        (
            "contact.merge",
            {
                "primaryObjectId": 7,
                "mergedObjectIds": [8, 9],
                "newObjectId": 7,
                "numberOfPropertiesMoved": 3,
            },
            [
                ("UPDATED", "contacts", "7"),
                ("DELETED", "contacts", "8"),
                ("DELETED", "contacts", "9"),
            ],
        ),
        (
            "deal.merge",
            {
                "primaryObjectId": 7,
                "mergedObjectIds": [8],
                "newObjectId": 10,
                "numberOfPropertiesMoved": 3,
            },
            [("CREATED", "deals", "10"), ("DELETED", "deals", "8"), ("DELETED", "deals", "7")],
        ),
        (
            "contact.associationChange",
            {
                "objectId": None,
                "associationType": "CONTACT_TO_COMPANY",
                "fromObjectId": 7,
                "toObjectId": 8,
            },
            [("UPDATED", "contacts", "7")],
        ),
    ],
)
def test_every_kind_of_event(kind: str, facts: dict[str, Any], wanted: list[tuple[str, str, str]]):
    """Creations, changes, deletions, restores, merges, associations, generic and unknown ones, each object once."""
    assert wanted == told([event(kind, **facts)])


def test_what_makes_an_event_the_same():
    """A repeat differs in attemptNumber only; eventId alone is not unique; each property is an event of its own."""
    first = event("contact.propertyChange", propertyName="email")
    again = {**first, "attemptNumber": 3}
    others = [
        {**first, "propertyName": "phone"},
        {**first, "occurredAt": 1715203101897},
        {**first, "objectId": 8},
        {**first, "portalId": 34},
        {**first, "subscriptionId": 3},
        {**first, "eventId": 2},
        {**first, "subscriptionType": "contact.creation"},
    ]
    names = [one.identity for one in receive([first, again, *others]).events]
    assert names[0] == names[1]
    assert 1 + len(others) == len(set(names))


def test_a_batch_is_routed_by_its_accounts():
    """The shared address names every account of the batch; an instance takes, and keeps, its own events only."""
    batch = [
        event("contact.creation", portalId=portal, objectId=portal) for portal in (33, 62515, 33)
    ]
    element = built_in("hubspot")
    body = json.dumps(batch).encode()

    assert ("33", "62515") == element.routes(incoming(body, {}))
    received = receive(body, hubspot__portal__id="62515")
    assert ["62515"] == [one.object_id for one in received.events]
    assert [62515] == [one["portalId"] for one in json.loads(received.raw)]
    assert b"33" not in received.raw
    assert 3 == len(receive(body).events)


@pytest.mark.parametrize("body", [b"", b"{", b'["a"]', b"7", b'"text"'])
def test_a_body_that_holds_no_events_is_refused(body: bytes):
    """What cannot be read is `Invalid`, by the route and by the instance."""
    with pytest.raises(Invalid):
        built_in("hubspot").routes(incoming(body, {}))
    with pytest.raises(Invalid):
        receive(body)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"event__objects": "Contact,Account"}, "accounts"),
        ({"event__objects": "Company"}, "companies"),
        ({"event__objects": "companies, accounts"}, "companies"),
        ({"event__objects": "<COMMA_SEPARATED_LIST>"}, "accounts"),
        ({}, "accounts"),
        (
            {"event__poller__configuration": '{"firms": {"url": "/hubs/crm/companies"}}'},
            "companies",
        ),
        ({"event__poller__configuration": '{"firms": {"url": "/hubs/crm/accounts"}}'}, "accounts"),
        (
            {"event__poller__configuration": '{"accounts": {"url": "/hubs/crm/contacts"}}'},
            "companies",
        ),
    ],
)
def test_companies_go_by_the_name_that_the_instance_has_for_them(
    settings: dict[str, str], wanted: str
):
    """Account and company are one: the webhook says what `event.objects` or the polled resources say."""
    assert [("CREATED", wanted, "7")] == told([event("company.creation")], **settings)


def test_opportunities_are_deals():
    """The platform's other name."""
    assert [("CREATED", "opportunities", "7")] == told(
        [event("deal.creation")], event__objects="Opportunity"
    )


# The simulator.


def test_what_the_simulator_posts_is_believed_and_read():
    """Creations, changes, deletions, merges and associations come signed, in batches, again after a 500, and once more on request."""
    seen: list[Incoming] = []
    answers = iter([500, 503])

    async def main() -> None:
        simulated = HubSpot(waits=[0.01, 0.01])

        async def answer(request: web.Request) -> web.Response:
            body = await request.read()
            seen.append(Incoming("POST", "/hook", f"{there}/hook", request.headers, {}, body))
            return web.Response(status=next(answers, 204))

        async with serving(answer) as there, simulated.running():
            silent = simulated.create("contacts")["id"]
            simulated.webhooks.target = f"{there}/hook"
            simulated.webhooks.type_key = "eventType"
            simulated.webhooks.duplicates = 1
            simulated.webhooks.reordered = True
            other = simulated.create("contacts", email="b@example.com")["id"]
            simulated.update("contacts", silent, firstname="Ann", lastname="Lee")
            simulated.associate("contacts", silent, "companies", "5")
            simulated.merge("contacts", silent, other)
            simulated.delete("contacts", silent)
            simulated.restore("contacts", silent)
            simulated.delete("contacts", silent, privacy=True)
            await simulated.webhooks.posted()
            outcomes = [(one.attempt, one.outcome) for one in simulated.webhooks.deliveries]
            assert [(0, 500), (1, 503), (2, 204), (2, 204)] == outcomes[:4]

    asyncio.run(main())
    element = built_in("hubspot")
    settings = {"oauth.api.secret": "hubspot-secret", "hubspot.portal.id": "62515"}
    received = [element.receive(one, settings) for one in seen]
    kinds = [(one.change.value, one.object_type) for one in received[2].events]
    assert ("DELETED", "contacts") == kinds[0]  # in the opposite order
    assert ("CREATED", "contacts") == kinds[-1]
    assert ("UPDATED", "accounts") in kinds  # the association, from its other side
    once = {one.identity for one in received[0].events}
    assert all(once == {one.identity for one in other.events} for other in received[1:])
