"""HubSpot's webhooks: whether one is HubSpot's, whose events it holds, and what they say.  Pure.

A webhook is a list of up to 100 events of any of the accounts that installed the app, in no order.  An event's type
(`contact.creation`) stands under `subscriptionType` or `eventType`.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from daemon.elements.hubspot.search import KINDS
from daemon.elements.paths import text
from daemon.errors import BadSignature, Invalid
from daemon.model import ChangeType, Incoming, Json, WebhookEvent

V3 = "X-HubSpot-Signature-v3"
OLDER = "X-HubSpot-Signature"
VERSION = "X-HubSpot-Signature-Version"

_DECODED = re.compile("%(?:3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)
"""What HubSpot undoes of the percent-encoding in an address before it signs it: `: / ? @ ! $ ' ( ) * , ;`."""

_PLURALS = {
    "company": "companies", "line_item": "line_items",
    "0-1": "contacts", "0-2": "companies", "0-3": "deals", "0-5": "tickets", "0-7": "products", "0-8": "line_items",
}  # fmt: skip
_CHANGES = {
    "creation": ChangeType.CREATED,
    "restore": ChangeType.CREATED,
    "propertychange": ChangeType.UPDATED,
    "associationchange": ChangeType.UPDATED,
    "deletion": ChangeType.DELETED,
    "privacydeletion": ChangeType.DELETED,
}
_LATEST = 253402300799000  # milliseconds: the end of the year 9999


def signed_address(url: str) -> str:
    """*url* as HubSpot signs it in version 3."""
    return _DECODED.sub(lambda found: chr(int(found[0][1:], 16)), url)


def verify_older(incoming: Incoming, secret: str) -> None:
    """Return where version 1 or 2 of the signature is right; raise `BadSignature`.

    Both are plain SHA-256 over the secret and what follows it.  They carry no time: a webhook can be repeated by
    whoever has seen it, and is then recognised by its events.
    """
    given = incoming.headers.get(OLDER)
    if not given:
        raise BadSignature(f"there is neither {V3} nor {OLDER}")
    version = incoming.headers.get(VERSION, "v1").strip().lower()
    signed = secret.encode()
    if version == "v2":
        signed += incoming.method.encode() + incoming.url.encode("utf-8", "surrogateescape")
    elif version != "v1":
        raise BadSignature(f"{VERSION} should be v1 or v2")
    mine = hashlib.sha256(signed + incoming.body).hexdigest()
    if not hmac.compare_digest(mine.encode(), given.lower().encode("utf-8", "surrogateescape")):
        raise BadSignature(f"{OLDER} does not fit the body")


def items(value: Any) -> list[Json]:
    """The events in a body; raises `Invalid` for what holds none."""
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(one, dict) for one in found):
        raise Invalid({"body": "should be a list of events"})
    return found


def portals(events: list[Json]) -> tuple[str, ...]:
    """The accounts that *events* are of, each once, in order."""
    found = (text(one.get("portalId")) for one in events)
    return tuple(dict.fromkeys(one for one in found if one))


def told(events: list[Json], *, name: Callable[[str], str]) -> tuple[WebhookEvent, ...]:
    """What *events* say, by object; *name* is what the instance calls a kind.

    An event about no object (a completed custom event) says nothing here.
    """
    return tuple(one for event in events for one in _told(event, name))


def _told(event: Json, name: Callable[[str], str]) -> Iterator[WebhookEvent]:
    kind, _, what = (text(event.get("subscriptionType") or event.get("eventType")) or "").partition(
        "."
    )
    what = what.lower()
    for object_id, change in _objects(event, what):
        yield WebhookEvent(
            object_type=name(_plural(event, kind)),
            object_id=object_id,
            change=change,
            changed=_moment(event.get("occurredAt")),
            identity=_identity(event, kind, what),
            route=text(event.get("portalId")),
        )


def _objects(event: Json, what: str) -> Iterator[tuple[str, ChangeType]]:
    """The objects that *event* is about, and what became of each."""
    if what == "merge" and event.get("mergedObjectIds"):
        yield from _merged(event)
        return
    key = (
        "fromObjectId" if what == "associationchange" and event.get("fromObjectId") else "objectId"
    )
    if object_id := text(event.get(key)):
        yield object_id, _CHANGES.get(what, ChangeType.UNKNOWN)


def _merged(event: Json) -> Iterator[tuple[str, ChangeType]]:
    """Of a merge: what is left of the records is one, old or new; the others are no more."""
    given = event["mergedObjectIds"]
    ended = [text(one) for one in (given if isinstance(given, list) else [given])]
    primary = text(event.get("primaryObjectId")) or text(event.get("objectId"))
    left = text(event.get("newObjectId")) or primary
    if left is not None and left != primary:
        yield left, ChangeType.CREATED
        ended.append(primary)
    elif left is not None:
        yield left, ChangeType.UPDATED
    for one in dict.fromkeys(ended):
        if one is not None and one != left:
            yield one, ChangeType.DELETED


def _plural(event: Json, kind: str) -> str:
    """The kind of record as HubSpot's API calls it; a custom one by its type id."""
    if kind in ("object", ""):
        kind = text(event.get("objectTypeId")) or text(event.get("fromObjectTypeId")) or "object"
    if kind in _PLURALS:
        return _PLURALS[kind]
    return kind if kind in KINDS or kind[:1].isdigit() else f"{kind}s"


def _identity(event: Json, kind: str, what: str) -> str:
    """A name for the event: `eventId` alone is not unique, and `attemptNumber` is another at every attempt."""
    keys = ("portalId", "subscriptionId", "eventId", "objectId", "occurredAt", "propertyName")
    named = [text(event.get(key)) or "" for key in keys]
    if what == "associationchange":
        sides = ("associationType", "fromObjectId", "toObjectId", "associationRemoved")
        named += [str(event.get(key, "")) for key in sides]
    return "\x1f".join([kind, what, *named])


def _moment(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LATEST:
        return None
    return datetime.fromtimestamp(value / 1000, UTC)
