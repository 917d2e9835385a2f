"""Where a provider posts an instance's webhooks: `<public url>/elements/api-v2/events/<element>/<id>[.<secret>]`.

The id is base64 of the decimal id, as the platform writes it (facts, 5.1).  The secret is there for providers that
do not sign: whoever knows the address may post to it.
"""

import base64
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "/elements/api-v2"

SECRET = "webhook.secret"  # noqa: S105 — the name of the setting
"""The setting that holds the secret of an instance's address."""

MOST_DIGITS = 18  # of an id; PostgreSQL's bigint holds them


@dataclass(frozen=True, slots=True)
class Place:
    """The last part of an address: which instance it names, -1 for none, and the secret that it came with."""

    instance_id: int
    secret: str = ""

    def opens(self, settings: Mapping[str, str]) -> bool:
        """Whether the secret is the one of the instance with these *settings*, secrets in clear."""
        known = settings.get(SECRET, "")
        return bool(known) and hmac.compare_digest(self.secret.encode(), known.encode())


def new_secret() -> str:
    """A secret for an address: 192 bits, fit for a path."""
    return secrets.token_urlsafe(24)


def write(public_url: str, element: str, instance_id: int, settings: Mapping[str, str]) -> str:
    """The address of an instance with these *settings*, secrets in clear."""
    secret = settings.get(SECRET)
    place = encode_id(instance_id) + (f".{secret}" if secret else "")
    return f"{public_url}{PREFIX}/events/{element}/{place}"


def read(text: str) -> Place:
    """What the last part of an address says."""
    encoded, _, secret = text.strip().partition(".")
    return Place(decode_id(encoded), secret)


def encode_id(instance_id: int) -> str:
    """The id as it stands in an address."""
    return base64.b64encode(str(instance_id).encode()).decode()


def decode_id(text: str) -> int:
    """The instance id in an address: base64 of the decimal id, or the id itself; -1 for neither."""
    text = text.strip()
    if not text.isdecimal():
        try:
            text = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode("ascii")
        except ValueError:
            return -1
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else -1
