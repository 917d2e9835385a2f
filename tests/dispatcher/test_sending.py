"""One attempt: the headers that go with a body, and what an answer means."""

import asyncio
import base64
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from dispatching import Answered, Receiver, headers_of
from hypothesis import assume, given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from daemon.dispatcher.sending import attempt, judge, own_headers, shown
from daemon.errors import Invalid, NotSent, Unanswered
from daemon.model import Instance
from daemon.notifications import Notification, StoredChange
from daemon.outbound.target import head, target
from daemon.signatures import signing_key, standard_secret

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def notification() -> Notification:
    """Any one."""
    instance = Instance(
        3,
        2,
        2,
        "rest",
        "general",
        "n",
        (),
        {},
        b"",
        disabled=False,
        created=NOW,
        updated=NOW,
        revision=1,
    )
    changes = (StoredChange(9, "c", "1", "CREATED", None, "{}"),)
    return Notification(9, "AQIDBAAAAAAAAAAAABeY", NOW, instance, changes, NOW, None)


def sent(body: bytes = b"{}", *, repeat: bool = False, **settings: str) -> dict[str, str]:
    """The headers by lower-case name."""
    chosen = {f"event.notification.{k.replace('__', '.')}": v for k, v in settings.items()}
    pairs = headers_of(notification(), body, chosen, NOW.timestamp(), repeat=repeat)
    return {name.lower(): value for name, value in pairs}


def test_the_elements_signature_is_the_documented_one() -> None:
    """The key and body that Cloud Elements' documentation shows give the signature that it shows."""
    found = sent(
        b"<INSERT_EVENT_NOTIFICATION_RESPONSE_BODY>", signature__key="MySecretEventSignatureKey"
    )
    assert (
        found["elements-webhook-signature"] == "sha256=jHdbRx5EZAsOfTwAPJOGkNUzQMVVdu5VJlxcsk+G6jQ="
    )


@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    said=st.dictionaries(st.text(max_size=5), st.integers(0, 9)),
)
def test_the_standard_signature_verifies(key: str, said: dict[str, int]) -> None:
    """An independent implementation of Standard Webhooks accepts what is signed, for any key that is a text."""
    assume(not key.startswith("whsec_"))
    body, settings = orjson.dumps(said), {"event.notification.signature.key": key}
    pairs = headers_of(notification(), body, settings, time.time(), repeat=False)
    assert Webhook(standard_secret(signing_key(key))).verify(body, dict(pairs)) == said


def test_a_first_attempt_and_a_repeat() -> None:
    """Both carry the same id twice and the time; only what may be a repeat says so; without a key nothing is signed."""
    first, again = sent(), sent(repeat=True)
    assert first["elements-webhook-id"] == first["webhook-id"] == "AQIDBAAAAAAAAAAAABeY"
    assert first["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert first["content-type"] == "application/json"
    assert set(again) - set(first) == {"webhook-redelivery"}
    assert not any("signature" in name for name in first)


def test_basic_authentication_and_own_headers() -> None:
    """A callback's user and password go as Basic authentication, its own headers as they are."""
    found = sent(basic__username="ann", basic__password="p:w", callback__headers="X-A: 1; X-B: two")
    assert base64.b64decode(found["authorization"].removeprefix("Basic ")) == b"ann:p:w"
    assert (found["x-a"], found["x-b"]) == ("1", "two")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("", []),
        ('{"X-A": "1", "X-N": 2}', [("X-A", "1"), ("X-N", "2")]),
        ("X-A: 1\nX-B:2", [("X-A", "1"), ("X-B", "2")]),
        ("X-A: http://h:8/", [("X-A", "http://h:8/")]),
        ("nonsense", []),
        ("{nonsense", []),
        (": no name", []),
    ],
)
def test_own_headers_in_both_forms(text: str | None, expected: list[tuple[str, str]]) -> None:
    """A JSON object or lines of `Name: value`; what is neither is left out."""
    assert own_headers(text) == expected


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    """Every 2xx delivers."""
    assert judge(Answered(status)).delivered


@pytest.mark.parametrize(
    ("status", "said", "quiet"),
    [
        (100, {}, 0),
        (301, {"retry-after": "9"}, 0),
        (400, {}, 0),
        (410, {}, 0),
        (429, {}, 0),
        (429, {"retry-after": "9"}, 9),
        (503, {"retry-after": "99999999"}, 86_400),
        (503, {"retry-after": "soon"}, 0),
        (500, {"retry-after": "9"}, 0),
    ],
)
def test_anything_else_is_a_failure(status: int, said: dict[str, str], quiet: float) -> None:
    """Redirects and errors are refused without doubt; 429 and 503 may ask for quiet, a day at most; only 410 is the end."""
    verdict = judge(Answered(status, said, b"why"))
    assert not verdict.delivered
    assert not verdict.doubtful
    assert verdict.quiet == quiet
    assert verdict.gone == (status == 410)
    assert verdict.error == f"answered {status}: why"


@pytest.mark.parametrize(
    ("error", "doubtful"),
    [(NotSent("a"), False), (Unanswered("b"), True), (Invalid({"c": "d"}), False)],
)
def test_errors_are_verdicts(error: Exception, *, doubtful: bool) -> None:
    """An attempt never raises for what the outside does; only what may have arrived is in doubt."""
    to = target("https://a.test")
    message = head("POST", to, [("webhook-id", "1")], 0)
    verdict = asyncio.run(attempt(Receiver(lambda r: error), to, message))
    assert not verdict.delivered
    assert verdict.doubtful == doubtful
    assert verdict.error == str(error)


@given(st.binary(max_size=600), st.integers(300, 599))
def test_an_error_is_one_clean_line(body: bytes, status: int) -> None:
    """Whatever bytes a receiver answers with, the error that is kept is printable and short."""
    error: Any = judge(Answered(status, {}, body)).error
    assert error.isprintable()
    assert len(error) <= 300
    assert shown(error) == error
