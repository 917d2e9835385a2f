"""What an element's TOML file may say: its tables, their keys, and which belong together.

The tables of a webhook are in `hook_definition`.  `docs/elements.md` explains every key; a test holds the two
together.  Unknown keys are errors: a misspelt filter must not become a missing one.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from daemon.elements.hook_definition import Webhook
from daemon.elements.paths import places
from daemon.elements.tables import DateFormat, HeaderName, Table, Zone, belong

Scalar = str | int | float | bool
CONDITION = re.compile(r"([^\s<>=!]+)\s*(>=|<=|!=|=|>|<|LIKE|IN)")


def _address(value: str) -> str:
    if not re.match(r"https?://[^/?#@\s]+(/[^?#\s]*)?$|\{[\w.-]+\}$", value):
        raise ValueError(
            'it should be an address such as "https://api.example.com/v1" or "https://{site}.example.com", '
            "without user, query and fragment"
        )
    return value.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]


def moved(address: str, origin: str) -> str:
    """*address* with *origin* for its scheme, host and port; raises `ValueError` for one without any."""
    _, there, rest = address.partition("://")
    if not there:
        raise ValueError(f"{address} has no host that another could stand in for")
    _, slash, path = rest.partition("/")
    return f"{origin}{slash}{path}"


class Setting(Table):
    """`[[parameters]]`: one configuration key of an instance."""

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
    name: str
    description: str = ""
    type: Literal["TEXTFIELD_32", "TEXTFIELD_1000", "PASSWORD", "BOOLEAN", "NUMBER", "TEXTAREA"] = (
        "TEXTFIELD_1000"
    )
    default: str | None = None
    required: bool = False
    secret: bool = False


class Place(Table):
    """`[connection]`: where the API is."""

    base: Address
    override: bool = False
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    pace: Annotated[float, Field(ge=0, le=60, strict=False)] = 0.0


AUTH_KEYS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # kind: (keys that it needs, keys that it may have)
    "none": (frozenset(), frozenset()),
    "basic": (frozenset(), frozenset({"username", "password"})),
    "header": (frozenset({"name"}), frozenset({"value"})),
    "query": (frozenset({"name"}), frozenset({"value"})),
    "bearer": (frozenset(), frozenset({"value"})),
    "setting": (frozenset(), frozenset()),
    "oauth2": (
        frozenset({"authorize_url", "token_url"}),
        frozenset({"scope", "client", "authorize_parameters", "token_headers", "keep_alive"}),
    ),
}


class Auth(Table):
    """`[auth]`: how a request proves whose it is."""

    kind: Literal["none", "basic", "header", "query", "bearer", "oauth2", "setting"] = "none"
    username: str = "{username}"
    password: str = "{password}"  # noqa: S105 — the name of a setting
    name: str = ""
    value: str = "{api.key}"
    authorize_url: Address = ""
    token_url: Address = ""
    scope: str = ""
    client: Literal["body", "basic"] = "body"
    authorize_parameters: dict[str, str] = Field(default_factory=dict)
    token_headers: dict[HeaderName, str] = Field(default_factory=dict)
    keep_alive: Annotated[float, Field(ge=0, strict=False)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needed, allowed = AUTH_KEYS[self.kind]
        belong(self, f'kind = "{self.kind}"', needed, allowed | {"kind"})
        return self


PAGING_KEYS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "none": (frozenset(), frozenset()),
    "page": (frozenset({"parameter"}), frozenset({"first", "more", "short_is_last"})),
    "offset": (frozenset({"parameter"}), frozenset({"first", "more", "short_is_last"})),
    "token": (frozenset({"parameter", "next"}), frozenset()),
    "next_link": (frozenset({"next"}), frozenset({"relative_to"})),
    "link_header": (frozenset(), frozenset()),
}


class Paging(Table):
    """`paging`: how one answer leads to the next."""

    kind: Literal["none", "page", "offset", "token", "next_link", "link_header"] = "none"
    parameter: str = ""
    first: int | None = None
    next: str = ""
    more: str = ""
    relative_to: Literal["request", "base"] = "request"
    short_is_last: bool = False
    total: str = ""
    size_parameter: str = ""
    size: Annotated[int, Field(ge=1)] | None = None
    size_max: Annotated[int, Field(ge=1)] | None = None
    max_pages: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needed, allowed = PAGING_KEYS[self.kind]
        common = {"kind", "total", "size_parameter", "size", "size_max", "max_pages"}
        belong(self, f'kind = "{self.kind}"', needed, allowed | common)
        if self.short_is_last and self.size is None:
            raise ValueError("short_is_last needs size: what a full page holds")
        if self.size and self.size_max and self.size > self.size_max:
            raise ValueError(f"size {self.size} is more than size_max {self.size_max}")
        return self


class Where(Table):
    """What becomes of one condition of a `where`."""

    parameter: Annotated[str, Field(min_length=1)]
    date: DateFormat | None = None
    timezone: Zone = "GMT"
    template: str = "{value}"


class Deleted(Table):
    """`deleted`: how deleted records are told from others."""

    field: str = ""
    values: list[Scalar] = Field(default_factory=list)
    path: str | None = None
    parameter: str = ""
    date: DateFormat = "yyyy-MM-dd'T'HH:mm:ss'Z'"
    parameters: dict[str, Scalar] = Field(default_factory=dict)


class Resource(Table):
    """`[resources.NAME]` and `[defaults]`: one list of records."""

    path: str | None = None
    item: str | None = None
    items: str = ""
    items_optional: bool = False
    id: str = "id"
    updated: str = ""
    created: str = ""
    date_format: DateFormat = "yyyy-MM-dd'T'HH:mm:ss'Z'"
    timezone: Zone = "GMT"
    created_tolerance: Annotated[int, Field(ge=0)] | None = None
    polled: bool = True
    poll: str | None = None
    parameters: dict[str, Scalar] = Field(default_factory=dict)
    where: dict[str, str | Where] = Field(default_factory=dict)
    where_parameter: str = ""
    pass_through: bool = False
    passes: list[str] = Field(default_factory=list)
    paging: Paging = Paging()
    deletes: Literal["none", "marker", "channel", "sweep"] = "none"
    deleted: Deleted = Deleted()

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for key in self.where:
            if not CONDITION.fullmatch(key):
                raise ValueError(
                    f"where.{key}: the key should be an attribute and an operator, such as "
                    '"lastModifiedDate>="; operators are = != > >= < <= LIKE IN'
                )
        return self

    def over(self, defaults: "Resource") -> "Resource":
        """This resource where it says something, else *defaults*; `where` and `parameters` add up."""
        mine = {name: getattr(self, name) for name in self.model_fields_set}
        mine["where"] = defaults.where | self.where
        mine["parameters"] = defaults.parameters | self.parameters
        return defaults.model_copy(update=mine)


class Definition(Table):
    """The whole file."""

    id: Annotated[int, Field(ge=1, lt=2**31)]
    key: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    hub: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")] = "general"
    description: str = ""
    replaces: bool = False
    any_resource: bool = False
    parameters: list[Setting] = Field(default_factory=list)
    connection: Place | None = None
    auth: Auth = Auth()
    defaults: Resource = Resource()
    resources: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")], Resource] = Field(
        default_factory=dict
    )
    webhook: Webhook | None = None

    def at(self, origin: str) -> "Definition":
        """The same provider at *origin*: every address keeps its path, and requests need not be paced.

        Raises `ValueError` where an address is not known before an instance names it.
        """
        place, auth = self.connection, self.auth
        if place is not None:
            place = place.model_copy(update={"base": moved(place.base, origin), "pace": 0.0})
        if auth.kind == "oauth2":
            urls = {
                name: moved(getattr(auth, name), origin) for name in ("authorize_url", "token_url")
            }
            auth = auth.model_copy(update=urls)
        return self.model_copy(update={"connection": place, "auth": auth})

    def resource(self, name: str) -> Resource | None:
        """The resource with the defaults filled in; None where the element has none of that name."""
        if name in self.resources:
            return self.resources[name].over(self.defaults)
        return self.defaults if self.any_resource else None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.connection is None and self.webhook is None:
            raise ValueError(
                "connection is missing: give [connection] for polling, or [webhook], or both"
            )
        if self.connection is None and (self.resources or self.any_resource):
            raise ValueError("connection is missing: resources are read from its base address")
        for name in self.resources:
            self._check(f"resources.{name}", self.resources[name].over(self.defaults))
        keys = [one.key for one in self.parameters]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"parameters: {key} stands there more than once")
        return self

    def _check(self, at: str, resource: Resource) -> None:
        deleted = resource.deleted
        needs = {"marker": "field", "channel": "parameter"}.get(resource.deletes)
        if needs and not getattr(deleted, needs):
            raise ValueError(
                f'{at}.deleted.{needs} is missing: deletes = "{resource.deletes}" needs it'
            )
        if resource.item is not None and "id" not in places(resource.item):
            raise ValueError(f'{at}.item should hold {{id}}, such as "orders/{{id}}"')
