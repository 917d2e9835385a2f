"""Described webhooks: verification over the raw bytes, bodies of every form, routes, events, challenges."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from elements.files import HOOK, NOW, element
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from daemon.elements.defined import Defined
from daemon.errors import BadSignature, Invalid
from daemon.model import ChangeType, Incoming, WebhookEvent

SECRET = "s3cret"
URL = "https://tidings.example/events/shop"


def post(
    body: Any, kind: str = "application/json", query: dict[str, str] | None = None, **headers: str
) -> Incoming:
    """A POST of *body*: bytes, or an object as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Incoming(
        "POST", "/events/shop", URL, CIMultiDict({"Content-Type": kind, **named}), query or {}, data
    )


def get(**query: str) -> Incoming:
    """A GET with *query*."""
    return Incoming("GET", "/events/shop", URL, CIMultiDict(), query, b"")


def signed(text: str) -> Defined:
    """A shop whose webhooks are signed as *text* says."""
    return element(HOOK.replace("unsigned = true\n", ""), "[webhook.signature]", text)


def digest(message: bytes, how: str = "sha256", key: bytes = SECRET.encode()) -> bytes:
    """An HMAC, by the standard library."""
    return hmac.new(key, message, getattr(hashlib, how)).digest()


BODY = b'{"id": 7,  "t": "{timestamp}"}'
STAMP = str(int(NOW.timestamp()))

SIGNATURES = {
    "hex of the body (GitHub)": (
        'header = "X-Sig"\nprefix = "sha256="',
        {"X-Sig": "sha256=" + digest(BODY).hex()},
    ),
    "base64 of the body (QuickBooks, Shopify)": (
        'header = "intuit-signature"\nencoding = "base64"',
        {"intuit-signature": base64.b64encode(digest(BODY)).decode()},
    ),
    "sha1": ('header = "X-Sig"\nalgorithm = "sha1"', {"X-Sig": digest(BODY, "sha1").hex()}),
    "address and body": (
        'header = "X-Sig"\ntext = "{url}{body}"',
        {"X-Sig": digest(URL.encode() + BODY).hex()},
    ),
    "method, address, body and time in milliseconds (HubSpot v3)": (
        ('header = "X-Sig"\nencoding = "base64"\ntext = "{method}{url}{body}{timestamp}"\n'
        'timestamp_header = "X-Time"\ntimestamp_unit = "milliseconds"'),
        {
            "X-Sig": base64.b64encode(digest(b"POST" + URL.encode() + BODY + STAMP.encode() + b"000")).decode(),
            "X-Time": STAMP + "000",
        },
    ),
    "fields in one header (Stripe)": (
        'header = "X-Sig"\nfield = "v1"\ntimestamp_field = "t"\ntext = "{timestamp}.{body}"',
        {"X-Sig": f"t={STAMP},v1=00,v1={digest(STAMP.encode() + b'.' + BODY).hex()}"},
    ),
    "version, time and body (Slack, Zoom)": (
        'header = "X-Sig"\nprefix = "v0="\ntext = "v0:{timestamp}:{body}"\ntimestamp_header = "X-Time"',
        {"X-Sig": "v0=" + digest(b"v0:" + STAMP.encode() + b":" + BODY).hex(), "X-Time": STAMP},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "headers"), SIGNATURES.values(), ids=SIGNATURES)
def test_signatures_are_verified(text: str, headers: dict[str, str]):
    """The raw bytes, whatever their spacing and whatever they say of {timestamp}, are what is signed."""
    shop = signed(text)
    request = post(BODY, **headers)

    assert "7" == shop.receive(request, {"signature.secret": SECRET}).events[0].object_id
    for other in (post(BODY.replace(b"7", b"8"), **headers), post(json.loads(BODY), **headers)):
        with pytest.raises(BadSignature):
            shop.receive(other, {"signature.secret": SECRET})
    with pytest.raises(BadSignature):
        shop.receive(request, {"signature.secret": "another"})


def test_standard_webhooks_are_verified():
    """The published library signs, the definition of the docs verifies: several signatures, a whsec_ key."""
    from standardwebhooks.webhooks import Webhook

    key = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()
    shop = signed(
        'header = "webhook-signature"\nprefix = "v1,"\nseparator = " "\nencoding = "base64"\n'
        'text = "{id}.{timestamp}.{body}"\nid_header = "webhook-id"\ntimestamp_header = "webhook-timestamp"\n'
        'key_prefix = "whsec_"\nkey_encoding = "base64"'
    )
    signature = "v1,AAAA " + Webhook(key).sign("msg_1", NOW, BODY.decode())
    request = post(BODY, webhook_id="msg_1", webhook_timestamp=STAMP, webhook_signature=signature)

    assert 1 == len(shop.receive(request, {"signature.secret": key}).events)
    with pytest.raises(BadSignature, match="not base64") as caught:
        shop.receive(request, {"signature.secret": "whsec_!!"})
    assert "!!" not in str(caught.value)


@pytest.mark.parametrize(
    ("stamp", "said"),
    [(int(STAMP) - 301, "more than 300 s"), (int(STAMP) + 301, "more than 300 s"), ("soon", "not a number"), ("", "no X-Time")],
)  # fmt: skip
def test_old_requests_are_not_believed_again(stamp: object, said: str):
    """A signature over an old time is right and yet refused."""
    shop = signed('header = "X-Sig"\ntext = "{timestamp}{body}"\ntimestamp_header = "X-Time"')
    headers = {"X-Sig": digest(str(stamp).encode() + BODY).hex(), "X-Time": str(stamp)}

    with pytest.raises(BadSignature, match=said):
        shop.receive(post(BODY, **headers), {"signature.secret": SECRET})


def test_without_a_key_nothing_is_believed():
    """No settings, an instance without a key, a missing header: each is refused, none compares with nothing."""
    shop = signed('header = "X-Sig"')
    request = post(BODY, X_Sig=digest(BODY, key=b"").hex())
    for settings in (None, {}, {"signature.secret": ""}):
        with pytest.raises(BadSignature):
            shop.receive(request, settings)
    with pytest.raises(BadSignature, match="no X-Sig header"):
        shop.receive(post(BODY), {"signature.secret": SECRET})


def test_an_applications_secret_verifies_for_all(tmp_path: Path):
    """With secret_file the shared address needs no instance to verify."""
    (tmp_path / "app.key").write_text(SECRET + "\n", encoding="utf-8")
    parts = (
        HOOK.replace("unsigned = true\n", ""),
        "[webhook.signature]\nheader = 'X-Sig'\nsecret_file = 'app.key'",
    )
    shop = element(*parts, directory=tmp_path)

    assert 1 == len(shop.receive(post(BODY, X_Sig=digest(BODY).hex()), None).events)
    with pytest.raises(BadSignature):
        shop.receive(post(BODY, X_Sig="00"), None)


# What a body says.

EVENTS = """
[webhook]
unsigned = true
routing_key = "shop.account"
[webhook.events]
items = "events"
id = "object.id"
object_type_source = "subject"
object_types = { "contact.*" = "contacts", "deal" = "deals" }
type = "subject"
types = { "contact.creation" = "CREATED", "*.deletion" = "DELETED", "contact.*" = "UPDATED" }
date = "at"
date_format = "milliseconds"
identity = "eventId"
route = "portal"
"""


def test_events_are_read_from_their_list():
    """Ids, types by name and by pattern, dates, identities and routes come from where the definition says."""
    body = {
        "events": [
            {
                "object": {"id": 1},
                "subject": "contact.creation",
                "at": 1795168800000,
                "eventId": "e1",
                "portal": 62,
            },
            {
                "object": {"id": "2"},
                "subject": "contact.change",
                "at": "never",
                "eventId": "e2",
                "portal": 62,
            },
            {"object": {"id": "3"}, "subject": "deal.deletion", "eventId": "e3", "portal": "63"},
            {"object": {"id": "4"}, "subject": "deal", "eventId": "e4"},
        ]
    }
    shop = element(EVENTS)
    request = post(body)

    assert (
        WebhookEvent(
            "contacts", "1", ChangeType.CREATED, datetime(2026, 11, 20, 10, tzinfo=UTC), "e1", "62"
        ),
        WebhookEvent("contacts", "2", ChangeType.UPDATED, None, "e2", "62"),
        WebhookEvent("deal.deletion", "3", ChangeType.DELETED, None, "e3", "63"),
        WebhookEvent("deals", "4", ChangeType.UNKNOWN, None, "e4", None),
    ) == shop.receive(request, None).events
    assert ("62", "63") == shop.routes(request)
    assert request.body == shop.receive(request, None).raw


def test_values_may_stand_outside_of_the_event():
    """$.path reads the whole body, header: and query: the request."""
    shop = element(
        '[webhook]\nunsigned = true\nrouting_key = "a"\n[webhook.events]\nitems = "rows"\nid = "n"\n'
        'object_type_source = "header:X-Topic"\ntype = "header:X-Action"\ntypes = { made = "CREATED" }\n'
        'date = "$.meta.at"\nroute = "query:account"'
    )
    request = post(
        {"rows": [{"n": 1}], "meta": {"at": "2026-11-20T10:00:00Z"}},
        query={"account": "x"},
        X_Topic="orders",
        X_Action="made",
    )
    [event] = shop.receive(request, None).events

    assert ("orders", "1", ChangeType.CREATED, NOW, "x") == (
        event.object_type,
        event.object_id,
        event.change,
        event.changed,
        event.route,
    )


def test_box_posts_a_form():
    """The documents' box example: form fields, one of them a JSON list that routes to every user in it."""
    shop = element(
        '[webhook]\nunsigned = true\nrouting_key = "oauth.user.id"\njson_fields = ["userId"]\n[webhook.events]\n'
        'id = "itemId"\nobject_type_source = "itemType"\ntype = "event"\ntypes = { uploaded = "CREATED" }\nroute = "userId"'
    )
    fields = {
        "userId": '["17","18"]',
        "event": "uploaded",
        "itemId": "5",
        "itemType": "file",
        "newItemId": "",
    }
    request = post(urlencode(fields).encode(), "application/x-www-form-urlencoded; charset=utf-8")
    received = shop.receive(request, None)

    assert ("17", "18") == shop.routes(request)
    assert [("file", "5", "17"), ("file", "5", "18")] == [
        (one.object_type, one.object_id, one.route) for one in received.events
    ]
    assert {**fields, "userId": ["17", "18"]} == json.loads(received.raw)


def test_zendesk_comes_by_get():
    """The documents' zendesk example: the query of a GET holds one JSON text."""
    shop = element(
        '[webhook]\nmethods = ["GET"]\njson_fields = ["ticket"]\nunguessable = true\n[webhook.events]\n'
        'items = "ticket"\nid = "id"\nobject_type = "tickets"'
    )
    request = get(ticket='{"id": 9, "target": "t"}')
    received = shop.receive(request, {})

    assert "9" == received.events[0].object_id
    assert {"ticket": {"id": 9, "target": "t"}} == json.loads(received.raw)
    with pytest.raises(Invalid, match="method: should be GET"):
        shop.receive(post({}), {})


def test_a_byte_order_mark_is_not_json():
    """Windows' mark before JSON is taken off what is kept; the signature is over the bytes with it."""
    body = b"\xef\xbb\xbf" + BODY
    received = signed('header = "X-Sig"').receive(
        post(body, X_Sig=digest(body).hex()), {"signature.secret": SECRET}
    )

    assert BODY == received.raw


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"), (b"{", "application/json"), (b"<x/>", "text/xml"), (b'{"id": "\xff"}', "application/json"),
        (b"id=%ff", "application/x-www-form-urlencoded"), (b"&".join([b"a=1"] * 2000), "application/x-www-form-urlencoded"),
        (b'{"name": "no id"}', "application/json"), (b'{"id": {"a": 1}}', "application/json"), (b"[1]", "application/json"),
        (b'{"id": true}', "application/json"), (b"[" * 100_000, "application/json"), (b"NaN", "application/json"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_invalid(body: bytes, kind: str):
    """A broken body, and an event without an id, is the sender's mistake."""
    with pytest.raises(Invalid):
        element(HOOK).receive(post(body, kind), None)


@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "application/x-www-form-urlencoded", "", "a/b; c"]),
)
def test_no_body_breaks_the_intake(body: bytes, kind: str):
    """Any bytes are either read or `Invalid`; what is kept is JSON."""
    try:
        received = element(EVENTS, "[[webhook.challenge]]\nsource = 'x'").receive(
            post(body, kind), None
        )
    except Invalid:
        return

    json.loads(received.raw)


def test_a_webhook_without_events_is_accepted():
    """A missing or empty list, and what `ignore` names, holds no events and is no mistake."""
    shop = element(
        HOOK.replace(
            "[webhook.events]",
            '[[webhook.ignore]]\nsource = "type"\nequals = "ping"\n[webhook.events]\nitems = "rows"',
        )
    )

    for body in ({}, {"rows": []}, {"rows": None}, {"type": "ping", "rows": [{}]}):
        assert () == shop.receive(post(body), None).events


def test_repeats_are_recognised_by_what_they_say():
    """Without an id of its own an event is named by its content: the order of keys and spacing do not matter."""
    shop = element(HOOK)

    def identity(body: bytes) -> str:
        return shop.receive(post(body), None).events[0].identity

    assert identity(b'{"id": 1, "a": [1, 2]}') == identity(b'{"a":[1,2],"id":1}')
    assert identity(b'{"id": 1, "a": [1, 2]}') != identity(b'{"id": 1, "a": [2, 1]}')


def test_the_reply_and_the_hint_are_the_definitions():
    """What the provider wants to hear, and whether its word is only a hint, stands in the file."""
    shop = element(
        HOOK.replace("unsigned = true", "unsigned = true\nhint = true"),
        "[webhook.reply]\nstatus = 202\nbody = 'ok'",
    )
    received = shop.receive(post({"id": 1}), None)

    assert received.hint
    assert (202, b"ok", "text/plain") == (
        received.reply.status,
        received.reply.body,
        received.reply.content_type,
    )


# Challenges.


def challenge(text: str) -> Defined:
    """A shop with one challenge."""
    return element(HOOK, "[[webhook.challenge]]", text)


def test_a_challenge_is_echoed():
    """Dropbox's GET ?challenge=: the bare value; without it the request is no challenge."""
    shop = challenge('method = "GET"\nsource = "query:challenge"')
    reply = shop.handshake(get(challenge="abc<b>"), None)

    assert reply is not None
    assert (200, b"abc<b>", "text/plain") == (reply.status, reply.body, reply.content_type)
    assert shop.handshake(get(other="1"), None) is None
    assert shop.handshake(post({"id": 1}, query={"challenge": "a"}), None) is None
    assert element(HOOK).handshake(get(challenge="a"), None) is None


def test_a_challenge_may_stand_in_the_body():
    """Slack's url_verification: only a body of that type is a challenge."""
    shop = challenge(
        'source = "challenge"\nwhen = { source = "type", equals = "url_verification" }'
    )
    reply = shop.handshake(post({"type": "url_verification", "challenge": "xyz"}), None)

    assert reply is not None
    assert b"xyz" == reply.body
    assert shop.handshake(post({"type": "event", "challenge": "xyz"}), None) is None
    assert shop.handshake(post(b"not JSON"), None) is None


def test_a_challenge_may_be_answered_by_an_hmac():
    """Zoom's endpoint.url_validation: JSON with the token and its HMAC, quoted as JSON."""
    shop = challenge(
        'source = "payload.plainToken"\nwhen = { source = "event", equals = "endpoint.url_validation" }\nanswer = "hmac"\n'
        'key = "zoom.secret"\ncontent_type = "application/json"\n'
        """reply = '{"plainToken": "{value}", "encryptedToken": "{answer}"}'"""
    )
    request = post(
        {"event": "endpoint.url_validation", "payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"}}
    )
    reply = shop.handshake(request, {"zoom.secret": SECRET})

    assert reply is not None
    assert {
        "plainToken": "qgg8vlvZRS6UYooatFL8Aw",
        "encryptedToken": digest(b"qgg8vlvZRS6UYooatFL8Aw").hex(),
    } == json.loads(reply.body)
    with pytest.raises(BadSignature, match="needs a key"):
        shop.handshake(request, None)


@pytest.mark.parametrize("value", ['{"id":1}', "a b", "x" * 257, "v0:1:{}"])
def test_nothing_that_could_be_a_body_is_signed(value: str):
    """Else whoever asks could let us sign a forged webhook."""
    shop = challenge('method = "GET"\nsource = "query:c"\nanswer = "hmac"\nkey = "k"')
    with pytest.raises(BadSignature, match="not a plain token"):
        shop.handshake(get(c=value), {"k": SECRET})


def test_a_challenge_may_have_to_know_a_token():
    """Facebook's hub.verify_token must be the instance's own, not one for every customer."""
    shop = challenge(
        'method = "GET"\nsource = "query:hub.challenge"\nverify_source = "query:hub.verify_token"\nverify_key = "fb.token"'
    )
    right = {"hub.challenge": "42", "hub.verify_token": "mine"}
    reply = shop.handshake(get(**right), {"fb.token": "mine"})

    assert reply is not None
    assert b"42" == reply.body
    for settings in ({"fb.token": "other"}, {}, None):
        with pytest.raises(BadSignature):
            shop.handshake(get(**right), settings)


def test_a_challenge_is_bounded():
    """What is echoed is short."""
    with pytest.raises(BadSignature, match="too long"):
        challenge('source = "query:c"').handshake(get(c="x" * 5000), None)
