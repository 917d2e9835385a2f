"""Signatures over bodies, made and verified: pure, no clock, no I/O.

Three kinds.  *Elements*: the header `Elements-Webhook-Signature` of the Cloud Elements Events framework,
`sha256=` and the base64 HMAC-SHA256 of the body; it covers neither time nor id.  *Standard Webhooks*
(github.com/standard-webhooks/standard-webhooks, spec): `webhook-signature`, HMAC-SHA256 over
`id.timestamp.body`, one `v1,…` per key.  *Generic*: what a provider's own webhook needs.

One text is the instance's signing key and signs both.  Elements signs with the text as it stands.  Standard
Webhooks signs with bytes: those that `whsec_<base64>` encodes, else the UTF-8 bytes of the text.  The
`standardwebhooks` packages accept only base64, so a receiver whose key is not a `whsec_` text gives them
`standard_secret(signing_key(text))`: `whsec_` and the base64 of the bytes.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal, assert_never

Algorithm = Literal["sha1", "sha256", "sha512"]
Encoding = Literal["hex", "base64", "base64url"]

PREFIX = "whsec_"


_BLOCK = 64  # bytes that SHA-256 takes in at a time
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class Signer:
    """One signing key, for many bodies: `elements_signature` and `standard_signature` in half the time.

    What HMAC makes of the key alone is made once, as RFC 2104 advises (section 4).  Raises `ValueError` for a text
    that cannot be a key.
    """

    __slots__ = ("_elements", "_standard")

    def __init__(self, text: str) -> None:
        self._elements = _begun(text.encode())
        self._standard = _begun(signing_key(text))

    def elements(self, body: bytes) -> str:
        """The value of `Elements-Webhook-Signature` for *body*."""
        begun, end = self._elements
        inner, outer = begun.copy(), end.copy()
        inner.update(body)
        outer.update(inner.digest())
        return "sha256=" + _base64(outer.digest())

    def standard(self, message_id: str, timestamp: int, body: bytes) -> str:
        """The key's part of the value of `webhook-signature`."""
        begun, end = self._standard
        inner, outer = begun.copy(), end.copy()
        inner.update(f"{message_id}.{timestamp}.".encode())
        inner.update(body)
        outer.update(inner.digest())
        return "v1," + _base64(outer.digest())


def _begun(key: bytes) -> tuple[Any, Any]:
    """The two hashes of HMAC-SHA256, begun with *key*."""
    padded = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return sha256(padded.translate(_INNER)), sha256(padded.translate(_OUTER))


def elements_signature(key: str, body: bytes) -> str:
    """The value of `Elements-Webhook-Signature` for *body*."""
    return "sha256=" + _base64(hmac.digest(key.encode(), body, "sha256"))


def verify_elements(key: str, body: bytes, signature: str) -> bool:
    """Whether *signature* is the `Elements-Webhook-Signature` of *body* under *key*."""
    return _equal(elements_signature(key, body), signature)


def signing_key(text: str) -> bytes:
    """The bytes that *text*, a signing key, stands for; raises `ValueError` for a key that cannot be one."""
    if not text.startswith(PREFIX):
        key = text.encode()
    else:
        encoded = text.removeprefix(PREFIX).rstrip("=")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except ValueError as error:
            raise ValueError(f"what follows {PREFIX} in a signing key must be base64") from error
    if not key:
        raise ValueError("a signing key must not be empty")
    return key


def standard_secret(key: bytes) -> str:
    """*key* as the `standardwebhooks` packages take it: `whsec_` and base64."""
    return PREFIX + _base64(key)


def standard_signature(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each of *keys*, in order, apart by a space.

    While a key is rotated both the new and the old one sign, so that a receiver may change at any moment
    of the overlap.  *timestamp* is in seconds since 1970, the value of `webhook-timestamp`.
    """
    message = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return " ".join(["v1," + _base64(hmac.digest(key, message, "sha256")) for key in keys])


def verify_standard(
    keys: Sequence[bytes],
    *,
    message_id: str,
    timestamp: str,
    body: bytes,
    signature: str,
    now: float,
    tolerance: float = 300.0,
) -> bool:
    """Whether one of the signatures in *signature* was made with one of *keys*, at a time near *now*.

    *message_id*, *timestamp* and *signature* are the three headers as received; *tolerance* is in seconds,
    300 as in the reference implementations.  Versions other than `v1` are skipped.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len("253402300799")):
        return False
    if abs(now - int(timestamp)) > tolerance:
        return False
    given = [value for value in signature.split(" ") if value.startswith("v1,")]
    # Signed is what was received: `007` and `7` are different texts of one number.
    message = b"%s.%s.%s" % (_bytes(message_id), timestamp.encode(), body)
    mine = ["v1," + _base64(hmac.digest(key, message, "sha256")) for key in keys]
    return any(_equal(one, other) for one in mine for other in given)


def hmac_digest(algorithm: Algorithm, encoding: Encoding, key: bytes, message: bytes) -> str:
    """The HMAC of *message* under *key* as text; hex is in lower case, base64url without padding."""
    digest = hmac.digest(key, message, algorithm)
    match encoding:
        case "hex":
            return digest.hex()
        case "base64":
            return _base64(digest)
        case "base64url":
            return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        case _:
            assert_never(encoding)


def verify_hmac(
    signature: str,
    *,
    algorithm: Algorithm,
    encoding: Encoding,
    key: bytes,
    message: bytes,
    prefix: str = "",
) -> bool:
    """Whether *signature* is *prefix* and the HMAC of *message* under *key*, compared in constant time.

    Hex may be in either case and base64url may be padded; base64 must be padded.
    """
    if not signature.startswith(prefix):
        return False
    given = signature[len(prefix) :]
    if encoding == "hex":
        given = given.lower()
    elif encoding == "base64url":
        given = given.rstrip("=")
    return _equal(hmac_digest(algorithm, encoding, key, message), given)


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _equal(mine: str, given: str) -> bool:
    return hmac.compare_digest(mine.encode(), _bytes(given))


def _bytes(text: str) -> bytes:
    # A header that is not UTF-8 arrives with lone surrogates; it cannot equal any signature of ours, but
    # it must not raise either.
    return text.encode("utf-8", "surrogateescape")
