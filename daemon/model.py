"""The words of tidings: values without behaviour, frozen, used by every layer.

    provider ── Record ──► Poller ─┐
                                   ├─► Change ─► Entry in the log ─► Notification ─► callback
    provider ── webhook ───────────┘

An *element* is a kind of provider, an *instance* an authenticated account at one.  A *change* is one
record created, changed or deleted.  A *notification* is what one POST to a callback carries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

Json = dict[str, Any]

MASK = "********"
"""What stands in the log, in answers and on pages where a secret would."""


class Secret:
    """A text that must not be shown: `repr` and `str` say *shown*, only `reveal` says the text."""

    __slots__ = ("_shown", "_text")

    def __init__(self, text: str, *, shown: str = MASK) -> None:
        self._text, self._shown = text, shown

    def reveal(self) -> str:
        """Return the text, for the one who must send or compare it."""
        return self._text

    def __repr__(self) -> str:
        return self._shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class ChangeType(StrEnum):
    """What happened to a record; `eventType` in a notification."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Change:
    """One record created, changed or deleted, as a poll or a webhook showed it.

    *changed* is the provider's own time of the change where it gives one (aware, UTC).
    *fingerprint* (16 bytes) names this version of this object: the same version seen twice has the same
    fingerprint.  *data* is JSON: of a poll, the record; of a webhook, empty unless it holds the whole body.
    *place* is where the object is, at a provider whose objects have places; None where they have none, or it has
    no place any more.
    """

    object_type: str
    object_id: str
    change: ChangeType
    changed: datetime | None
    fingerprint: bytes
    data: bytes = b""
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One term of a `where`: *attribute* *operator* *value*, operators as in CEQL (`=`, `>=`, `IN`, …).

    *joined* is AND, or OR where this term begins an alternative to all the terms before it.
    """

    attribute: str
    operator: str
    value: str
    joined: str = "AND"


@dataclass(frozen=True, slots=True)
class Query:
    """What to read from a provider: placeholders filled in, the `where` taken apart.

    *resource* is the path below the hub (`customers`, `calendars/primary/changed-events`);
    *conditions* are the terms of `where`, all of which must hold unless one is joined by OR; *where* is
    the same as text, for an element that passes it on; *parameters* are the other query parameters, in
    order; *since* is the moment that the placeholders stand for.
    """

    resource: str
    conditions: tuple[Condition, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    page_size: int | None = None
    since: datetime | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of records from a provider.

    *asked* is the provider's own clock (its `Date` header) when it answered, or ours where it gave none.
    *last* is true when the provider said, or the element knows, that no page follows.
    """

    records: tuple[Json, ...]
    asked: datetime
    last: bool = False


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """What a change feed says of one place: the object that is there now, or that what was there is gone.

    *place* is a path whose parts are divided by `/`.  *object_id* and *record* are those of the object that is there
    now; both are empty where there is none.  Whatever else was at the place is no longer there, nor what was below
    it, unless *keeps_below* is true (a folder that comes where a folder was).  *version* names what the object holds;
    its place is not part of it, so a *version* seen at another place is a move.
    """

    place: str
    object_id: str = ""
    version: str = ""
    record: Json | None = None
    keeps_below: bool = False


@dataclass(frozen=True, slots=True)
class FeedPage:
    """One page of a provider's change feed: what is said to be, in the order in which it is to be believed.

    *token* is the provider's word for having read up to the end of this page.  *last* is true when nothing follows
    for now.  The feed speaks of all that is at or below *root*.  *place_field* is the field in which a record says
    its place.  *asked* is the provider's own clock when it answered, or ours where it gave none.
    """

    entries: tuple[FeedEntry, ...]
    token: str
    asked: datetime
    last: bool = False
    root: str = ""
    place_field: str = "place"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request that a provider sent to `/events/…`, as it arrived."""

    method: str
    path: str
    url: str
    headers: Mapping[str, str]  # case-insensitive
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer to a provider instead of the usual 200: a challenge, an acknowledgement."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """One change that a webhook speaks of, with the value that routes it to its instance(s).

    *route* is the value to compare with the instances' configuration (see `Element.routing_key`); None
    when the path or a header names the instance.  *identity* names this event for recognising a repeat:
    the provider's event id, or whatever makes the event unique.
    """

    object_type: str
    object_id: str
    change: ChangeType
    changed: datetime | None
    identity: str
    route: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What an element made of a webhook.

    *raw* is the provider's body as JSON (bytes), kept whole in the log.  With *hint* true the events say
    only that something changed: the instances' pollers are woken and the entry is what they then read.
    """

    events: tuple[WebhookEvent, ...] = ()
    raw: bytes = b"{}"
    reply: Reply = field(default_factory=Reply)
    hint: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a provider.  *url* is absolute; *body* is ready to send."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A provider's answer, whole.  *headers* is case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """Who makes a request: a user of an organization."""

    user_id: int
    organization_id: int
    name: str
    organization: str


@dataclass(frozen=True, slots=True)
class Instance:
    """An authenticated account at a provider.

    *configuration* is as the API shows it: every value a string or None, secrets masked.  *revision* is the
    position of the log entry that made the instance what it is.  *reason* says why it is off, where tidings itself
    switched it off.
    """

    id: int
    organization_id: int
    user_id: int
    element_key: str
    hub: str
    name: str
    tags: tuple[str, ...]
    configuration: Mapping[str, str | None]
    token_digest: bytes
    disabled: bool
    created: datetime
    updated: datetime
    revision: int
    reason: str | None = None

    @property
    def notifies(self) -> bool:
        """Whether events are switched on."""
        return (self.configuration.get("event.notification.enabled") or "").lower() == "true"

    @property
    def callback_url(self) -> str | None:
        """Where notifications go; None when events are off or no address is given."""
        url = self.configuration.get("event.notification.callback.url")
        return url if self.notifies and url and url != "false" else None
