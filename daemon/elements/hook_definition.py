"""The `[webhook]` table of an element's file: who posts, how it is verified, where its events stand.

Values are named by *sources*: a path into the event, `$.path` into the whole body, `header:NAME`,
`query:NAME`.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from daemon.elements.paths import places
from daemon.elements.tables import DateFormat, HeaderName, Table, Zone

Change = Literal["CREATED", "UPDATED", "DELETED", "UNKNOWN"]
Source = Annotated[str, Field(min_length=1)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
SIGNED = frozenset({"body", "timestamp", "id", "url", "method", "path"})
CONTENT_TYPES = Literal["text/plain", "application/json", "text/xml"]


class Signature(Table):
    """`[webhook.signature]`: how a request proves who sent it."""

    header: HeaderName
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64", "base64url"] = "hex"
    prefix: str = ""
    separator: str = ""
    field: str = ""
    text: str = "{body}"
    key: Key = "signature.secret"
    secret_file: str | None = None
    key_prefix: str = ""
    key_encoding: Literal["text", "base64", "hex"] = "text"
    id_header: HeaderName | None = None
    timestamp_header: HeaderName | None = None
    timestamp_field: str = ""
    timestamp_unit: Literal["seconds", "milliseconds"] = "seconds"
    tolerance: Annotated[int, Field(ge=1, le=86400)] = 300

    @model_validator(mode="after")
    def _fits(self) -> Self:
        used = set(places(self.text))
        if "body" not in used:
            raise ValueError("text should hold {body}: what is not signed can be forged")
        if used - SIGNED:
            raise ValueError(
                f"text: {{{min(used - SIGNED)}}} is unknown; there are {', '.join(sorted(SIGNED))}"
            )
        if "id" in used and self.id_header is None:
            raise ValueError("id_header is missing: text holds {id}")
        if "timestamp" in used and not (self.timestamp_header or self.timestamp_field):
            raise ValueError("timestamp_header is missing: text holds {timestamp}")
        if bool(self.timestamp_field) and not self.field:
            raise ValueError("field is missing: timestamp_field is read from the same header")
        if "key" in self.model_fields_set and self.secret_file is not None:
            raise ValueError("key and secret_file exclude one another: remove one")
        return self


class Match(Table):
    """A value that stands somewhere in the request."""

    source: Source
    equals: str


class Challenge(Table):
    """`[[webhook.challenge]]`: a request that only asks whether the address is ours."""

    source: Source
    method: Literal["GET", "POST"] | None = None
    when: Match | None = None
    answer: Literal["echo", "hmac"] = "echo"
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64", "base64url"] = "hex"
    key: Key | None = None
    secret_file: str | None = None
    verify_source: Source | None = None
    verify_key: Key | None = None
    reply: str = "{answer}"
    content_type: CONTENT_TYPES = "text/plain"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.answer == "hmac" and (self.key is None) == (self.secret_file is None):
            raise ValueError('answer = "hmac" needs key or secret_file, one of them')
        if (self.verify_source is None) != (self.verify_key is None):
            raise ValueError("verify_source and verify_key belong together")
        if set(places(self.reply)) - {"answer", "value"}:
            raise ValueError("reply may hold {answer} and {value} only")
        return self


class Events(Table):
    """`[webhook.events]`: where the events stand in the body."""

    items: str = ""
    id: Source
    object_type: str = ""
    object_type_source: Source | None = None
    object_types: dict[str, str] = Field(default_factory=dict)
    type: Source | None = None
    types: dict[str, Change] = Field(default_factory=dict)
    default_type: Change = "UNKNOWN"
    date: Source | None = None
    date_format: DateFormat = "yyyy-MM-dd'T'HH:mm:ss'Z'"
    timezone: Zone = "GMT"
    identity: Source | None = None
    route: Source | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.object_type) == (self.object_type_source is not None):
            raise ValueError(
                "give object_type (a name) or object_type_source (where the name stands), one of them"
            )
        if self.types and self.type is None:
            raise ValueError("type is missing: types says what its values mean")
        return self


class Acknowledgement(Table):
    """`[webhook.reply]`: what the provider wants to hear."""

    status: Annotated[int, Field(ge=200, le=299)] = 200
    body: str = ""
    content_type: CONTENT_TYPES = "text/plain"


class Webhook(Table):
    """`[webhook]`."""

    methods: list[Literal["POST", "GET"]] = Field(default=["POST"])
    hint: bool = False
    unsigned: bool = False
    unguessable: bool = False
    signature: Signature | None = None
    routing_key: Key | None = None
    json_fields: list[str] = Field(default_factory=list)
    ignore: list[Match] = Field(default_factory=list)
    challenge: list[Challenge] = Field(default_factory=list)
    events: Events
    reply: Acknowledgement = Acknowledgement()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        proven = self.signature is not None or self.unguessable
        if not proven and not self.unsigned:
            raise ValueError(
                "signature is missing: give [webhook.signature], or unguessable = true for a provider that does not "
                "sign, or unsigned = true where everybody who knows the address may post"
            )
        if proven and self.unsigned:
            raise ValueError("unsigned = true contradicts signature and unguessable: remove it")
        if (self.routing_key is None) != (self.events.route is None):
            raise ValueError("routing_key and events.route belong together")
        for source in (self.events.route, self.events.id, *(one.source for one in self.ignore)):
            if source and re.match(r"header:(?![\w-]+$)", source):
                raise ValueError(f"{source!r}: after header: comes a header's name")
        return self
