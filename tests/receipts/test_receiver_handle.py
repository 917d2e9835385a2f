"""What a receiver makes of a request: verified first, then a notification, a question, or refused."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.receiver import CONTENT_TYPE, Notification, Question, Refused, handle
from daemon.signatures import elements_signature, signing_key, standard_signature

KEY = "MySecretEventSignatureKey"
OLD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_760_000_000
BODY = b'{"message": {"events": []}}'
ASKS = b'{"ids": ["a", "b"], "since": 1759990000}'


@dataclass
class Signed:
    """A request as tidings sends it; *headers* replace those, None takes one away."""

    body: bytes = BODY
    key: str = KEY
    message_id: str = "AAECAwAAAAAAAAAAACkB"
    at: int = NOW
    headers: dict[str, str | None] = field(default_factory=dict)

    def all(self) -> dict[str, str]:
        """Its headers."""
        made = {
            "content-type": "application/json",
            "Elements-Webhook-Id": self.message_id,
            "webhook-id": self.message_id,
            "webhook-timestamp": str(self.at),
            "Elements-Webhook-Signature": elements_signature(self.key, self.body),
            "webhook-signature": standard_signature(
                [signing_key(self.key)], self.message_id, self.at, self.body
            ),
        }
        return {k: v for k, v in {**made, **self.headers}.items() if v is not None}


def asking(body: bytes = ASKS, **more: Any) -> Signed:
    """A question."""
    return Signed(body, headers={"content-type": CONTENT_TYPE}, message_id="receipts_1", **more)


NOTIFIED = Notification("AAECAwAAAAAAAAAAACkB", BODY, repeat=False)
WRONG = elements_signature("another", BODY)


@pytest.mark.parametrize(
    ("request_", "keys", "expected"),
    [
        (Signed(), [KEY], NOTIFIED),
        (Signed(), [OLD, KEY], NOTIFIED),
        (Signed(key=OLD), [OLD, KEY], NOTIFIED),
        (Signed(key=OLD), [KEY], 401),
        (Signed(at=NOW - 300), [KEY], NOTIFIED),
        (Signed(at=NOW - 301), [KEY], 401),
        (Signed(at=NOW + 301), [KEY], 401),
        (Signed(headers={"webhook-timestamp": str(NOW + 1)}), [KEY], 401),
        (Signed(headers={"webhook-timestamp": None}), [KEY], 401),
        (Signed(headers={"webhook-id": "another"}), [KEY], 401),
        (Signed(headers={"webhook-id": None}), [KEY], 401),
        (Signed(headers={"webhook-signature": None}), [KEY], 401),
        (Signed(headers={"webhook-signature": "v1,AAAA"}), [KEY], 401),
        (Signed(headers={"Elements-Webhook-Signature": WRONG}), [KEY], 401),
        (Signed(headers={"Elements-Webhook-Signature": None}), [KEY], NOTIFIED),
        (Signed(message_id=""), [KEY], 400),
        (Signed(message_id="a" * 201), [KEY], 400),
        (Signed(message_id="a\x00b"), [KEY], 400),
        (
            Signed(headers={"webhook-redelivery": "possible"}),
            [KEY],
            Notification(NOTIFIED.id, BODY, repeat=True),
        ),
        (asking(), [KEY], Question(("a", "b"), 1759990000)),
        (asking(key=OLD), [KEY], 401),
        (asking(b'{"ids": []}'), [KEY], 400),
        (asking(b"no"), [KEY], 400),
    ],
)
def test_requests(request_: Signed, keys: list[str], expected: object) -> None:
    """Each request gets its reaction, with headers in whatever case."""
    for cased in (str, str.lower, str.upper, str.title):
        headers = {cased(name): value for name, value in request_.all().items()}
        reaction = handle(headers, request_.body, keys=keys, now=NOW)

        assert expected == (reaction.status if isinstance(reaction, Refused) else reaction)


@pytest.mark.parametrize("keys", [[], (), KEY, ["whsec_"], [""]])
def test_without_a_key_nothing_is_believed(keys: Any) -> None:
    """No key, an empty one, or a text where a list belongs (each letter would be a key) is an error, not open doors."""
    with pytest.raises(ValueError, match="key"):
        handle(Signed().all(), BODY, keys=keys, now=NOW)


def test_the_present_is_the_default() -> None:
    """Without *now* it is the clock that counts: what was signed long ago is refused."""
    assert isinstance(handle(Signed().all(), BODY, keys=[KEY]), Refused)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "webhook-id",
                "webhook-signature",
                "webhook-timestamp",
                "content-type",
                "webhook-redelivery",
                "elements-webhook-signature",
            ]
        ),
        st.text(max_size=20) | st.sampled_from([CONTENT_TYPE, str(NOW), "v1,", "v1,AAAA"]),
    ),
    st.binary(max_size=40),
)
def test_nobody_without_the_key_is_heard(headers: dict[str, str], body: bytes) -> None:
    """Whatever an outsider sends is refused with 401, and never raises."""
    reaction = handle(headers, body, keys=[KEY], now=NOW)

    assert isinstance(reaction, Refused)
    assert reaction.status == 401
