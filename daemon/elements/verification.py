"""Whether a webhook is from whom it says: over the raw bytes, before anything in them is believed."""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import datetime

from daemon.elements.base import Settings
from daemon.elements.hook_definition import Signature
from daemon.elements.paths import places
from daemon.errors import BadSignature
from daemon.model import Incoming
from daemon.signatures import verify_hmac

MOST_SIGNATURES = 10  # in one header; during a rotation there are two


class Verifier:
    """The `[webhook.signature]` table at work; *secret* is what its `secret_file` held."""

    def __init__(
        self, signature: Signature, *, secret: str | None, now: Callable[[], datetime]
    ) -> None:
        self._signature = signature
        self._secret = secret
        self._now = now

    def verify(self, incoming: Incoming, settings: Settings | None) -> None:
        """Return if one signature of *incoming* is right; raise `BadSignature` with the reason."""
        told = self._signature
        header = incoming.headers.get(told.header)
        if not header:
            raise BadSignature(f"there is no {told.header} header")
        key = self._key(settings)
        fields = _fields(header) if told.field else {}
        given = fields.get(told.field, []) if told.field else _split(header, told.separator)
        message = self._message(incoming, fields)
        right = [
            verify_hmac(
                one,
                algorithm=told.algorithm,
                encoding=told.encoding,
                key=key,
                message=message,
                prefix=told.prefix,
            )
            for one in given[:MOST_SIGNATURES]
        ]
        if not any(right):
            raise BadSignature(f"{told.header} does not fit the body")

    def _key(self, settings: Settings | None) -> bytes:
        text = self._secret
        if text is None:
            if settings is None:
                raise BadSignature("only an instance knows the key: post to an instance's address")
            text = settings.get(self._signature.key)
        if not text:
            raise BadSignature(f"the instance has no {self._signature.key}")
        return decoded(text.removeprefix(self._signature.key_prefix), self._signature.key_encoding)

    def _message(self, incoming: Incoming, fields: Mapping[str, list[str]]) -> bytes:
        told = self._signature
        values = {
            "body": incoming.body,
            "url": incoming.url.encode(),
            "path": incoming.path.encode(),
            "method": incoming.method.encode(),
        }
        used = set(places(told.text))
        if "id" in used and told.id_header:
            values["id"] = self._header(incoming, told.id_header)
        if told.timestamp_header or told.timestamp_field:
            stamp = (
                self._header(incoming, told.timestamp_header)
                if told.timestamp_header
                else "".join(fields.get(told.timestamp_field, [])[:1]).encode()
            )
            self._fresh(stamp)
            values["timestamp"] = stamp
        # Not str.replace one after the other: the body may hold the text {timestamp}.
        message, rest = b"", told.text
        while rest:
            before, brace, rest = rest.partition("{")
            message += before.encode()
            if brace:
                name, _, rest = rest.partition("}")
                message += values.get(name, b"{" + name.encode() + b"}")
        return message

    @staticmethod
    def _header(incoming: Incoming, name: str) -> bytes:
        value = incoming.headers.get(name)
        if not value:
            raise BadSignature(f"there is no {name} header")
        return value.encode("utf-8", "surrogateescape")

    def _fresh(self, stamp: bytes) -> None:
        """Raise unless *stamp* is a time near now: a request recorded long ago is not to be believed again."""
        told = self._signature
        if not stamp.isdigit() or len(stamp) > len("253402300799000"):
            raise BadSignature("the timestamp is not a number")
        seconds = int(stamp) / (1000 if told.timestamp_unit == "milliseconds" else 1)
        if abs(self._now().timestamp() - seconds) > told.tolerance:
            raise BadSignature(f"the timestamp is more than {told.tolerance} s away from now")


def decoded(text: str, encoding: str) -> bytes:
    """The bytes of a key; raises `BadSignature` where *text* is not in its encoding."""
    try:
        match encoding:
            case "base64":
                return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            case "hex":
                return bytes.fromhex(text)
            case _:
                return text.encode()
    except (ValueError, binascii.Error):
        # The text of the error would quote the key.
        raise BadSignature(f"the key is not {encoding}") from None


def _split(header: str, separator: str) -> list[str]:
    return header.split(separator) if separator else [header]


def _fields(header: str) -> dict[str, list[str]]:
    """`t=1700000000,v1=abc,v1=def` as its fields."""
    fields: dict[str, list[str]] = {}
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        fields.setdefault(name, []).append(value)
    return fields
