"""Signatures: the documented vector, an independent judge, and the laws of verifying."""

import base64
import hashlib
import hmac
import json
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from daemon.signatures import (
    Signer,
    elements_signature,
    hmac_digest,
    signing_key,
    standard_secret,
    standard_signature,
    verify_elements,
    verify_hmac,
    verify_standard,
)

BODY = json.dumps({"eventId": "evt_1", "name": "Zoë"}, ensure_ascii=False).encode()
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PLAIN = "MySecretEventSignatureKey"


def standard_headers(keys, *, body=BODY, message_id="msg_1", at=None):
    at = int(time.time()) if at is None else at
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": standard_signature(keys, message_id, at, body),
    }


@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=150),
    message_id=st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True),
    timestamp=st.integers(0, 2**40),
    body=st.binary(max_size=300),
)
def test_a_signer_signs_as_the_functions_do(
    key: str, message_id: str, timestamp: int, body: bytes
) -> None:
    """What is made of a key once and used for many bodies gives the signatures that HMAC gives each time."""
    assume(not key.startswith("whsec_"))
    signer = Signer(key)
    for _ in range(2):
        assert signer.elements(body) == elements_signature(key, body)
        expected = standard_signature([signing_key(key)], message_id, timestamp, body)
        assert signer.standard(message_id, timestamp, body) == expected


def test_the_documented_elements_vector():
    """The signature of the documentation's example body is the one printed there."""
    body = b"<INSERT_EVENT_NOTIFICATION_RESPONSE_BODY>"
    signature = "sha256=jHdbRx5EZAsOfTwAPJOGkNUzQMVVdu5VJlxcsk+G6jQ="

    assert signature == elements_signature(PLAIN, body)
    assert verify_elements(PLAIN, body, signature)
    assert not verify_elements(PLAIN, body + b"\n", signature)
    assert not verify_elements(PLAIN, body, "sha256=é\udcff")


@pytest.mark.parametrize("text", [WHSEC, PLAIN, "schlüssel"])
def test_the_standardwebhooks_package_accepts_our_headers(text):
    """The package of the Standard Webhooks project verifies what we sign, with both forms of key."""
    key = signing_key(text)
    secret = text if text.startswith("whsec_") else standard_secret(key)

    assert json.loads(BODY) == Webhook(secret).verify(BODY, standard_headers([key]))


def test_the_standardwebhooks_package_rejects_a_changed_body():
    """The judge is not one that accepts everything."""
    with pytest.raises(WebhookVerificationError):
        Webhook(WHSEC).verify(BODY + b" ", standard_headers([signing_key(WHSEC)]))


def test_two_keys_satisfy_receivers_of_either():
    """While a key is rotated, receivers with the old and with the new key both accept."""
    headers = standard_headers([signing_key(WHSEC), signing_key(PLAIN)])

    for secret in (WHSEC, standard_secret(PLAIN.encode())):
        assert json.loads(BODY) == Webhook(secret).verify(BODY, headers)
    assert 2 == len(headers["webhook-signature"].split(" "))


@given(st.binary(min_size=1, max_size=80))
def test_secret_text_and_key_are_each_other(key):
    """A key survives the way to `whsec_` text and back, with or without padding."""
    assert key == signing_key(standard_secret(key))
    assert key == signing_key(standard_secret(key).rstrip("="))


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_not base64", "whsec_A", "whsec_ä"])
def test_a_key_that_cannot_sign_is_refused(text):
    """An empty key, or one that pretends to be base64 and is not, raises."""
    with pytest.raises(ValueError, match="signing key"):
        signing_key(text)


@given(
    body=st.binary(max_size=200),
    at=st.integers(0, 4_000_000_000),
    drift=st.integers(-1000, 1000),
    old=st.booleans(),
)
def test_verify_standard_accepts_within_the_tolerance_only(body, at, drift, old):
    """A good signature counts exactly as long as its time is within the tolerance."""
    made = standard_signature([b"old", b"new"], "m", at, body)

    accepted = verify_standard(
        [b"old" if old else b"new"],
        message_id="m",
        timestamp=str(at),
        body=body,
        signature="v1a,xyz " + made,
        now=at + drift,
    )

    assert accepted == (abs(drift) <= 300)


@pytest.mark.parametrize(
    "change",
    [
        {"message_id": "n"},
        {"timestamp": "1001"},
        {"timestamp": "01000"},
        {"timestamp": ""},
        {"timestamp": "-1000"},
        {"timestamp": "٣"},
        {"timestamp": "9" * 5000},
        {"body": b"b"},
        {"signature": ""},
        {"signature": "v1,"},
        {"signature": "v1,\udcff"},
        {"message_id": "\udcff"},
        {"keys": [b"other"]},
        {"keys": []},
    ],
)
def test_verify_standard_rejects_any_change(change):
    """Whatever is changed after signing, the signature no longer counts, and nothing is raised."""
    good = {
        "keys": [b"k"],
        "message_id": "m",
        "timestamp": "1000",
        "body": b"a",
        "signature": standard_signature([b"k"], "m", 1000, b"a"),
    }

    assert verify_standard(**good, now=1000)
    assert not verify_standard(**good | change, now=1000)


@given(
    algorithm=st.sampled_from(["sha1", "sha256", "sha512"]),
    encoding=st.sampled_from(["hex", "base64", "base64url"]),
    key=st.binary(max_size=150),
    message=st.binary(max_size=300),
    prefix=st.sampled_from(["", "sha256=", "v0="]),
)
def test_generic_hmac(algorithm, encoding, key, message, prefix):
    """Any algorithm and encoding gives the digest of the standard library and verifies, only unchanged."""
    digest = hmac.new(key, message, getattr(hashlib, algorithm)).digest()
    text = hmac_digest(algorithm, encoding, key, message)
    decoded = {
        "hex": bytes.fromhex,
        "base64": lambda value: base64.b64decode(value, validate=True),
        "base64url": lambda value: base64.urlsafe_b64decode(value + "=="),
    }[encoding](text)

    def verify(signature, message=message):
        return verify_hmac(
            signature,
            algorithm=algorithm,
            encoding=encoding,
            key=key,
            message=message,
            prefix=prefix,
        )

    assert digest == decoded
    assert verify(prefix + text)
    assert not verify(prefix + text, message + b".")
    assert not verify(prefix + text[:-3])
    assert not verify(prefix)
    assert not verify("\udcff" + text)
    assert not prefix or not verify(text)


def test_hex_in_upper_case_and_padded_base64url_verify():
    """Providers write hex in either case and base64url with or without padding."""
    upper = hmac_digest("sha1", "hex", b"k", b"m").upper()
    padded = base64.urlsafe_b64encode(hmac.digest(b"k", b"m", "sha256")).decode()

    assert verify_hmac(upper, algorithm="sha1", encoding="hex", key=b"k", message=b"m")
    assert verify_hmac(padded, algorithm="sha256", encoding="base64url", key=b"k", message=b"m")
