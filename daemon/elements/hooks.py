"""What a described webhook says: bodies, challenges, routes and events.  Pure.

A body is JSON, a form, or (for a GET) the query.  A *source* names a value: a path into the event, `$.path` into
the whole body, `header:NAME`, `query:NAME`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

import orjson

from daemon.dates import DatePattern, find_zone
from daemon.elements.hook_definition import Events, Match, Webhook
from daemon.elements.paths import MISSING, find, text
from daemon.errors import Invalid
from daemon.model import ChangeType, Incoming, Json, WebhookEvent

MOST_FIELDS = 1000  # of a form or a query
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Body:
    """A webhook's body: parsed, and as the JSON that is kept."""

    value: Any
    raw: bytes


def parse(webhook: Webhook, incoming: Incoming) -> Body:
    """The body of *incoming*; raises `Invalid` for one that cannot be read."""
    if incoming.method not in webhook.methods:
        raise Invalid({"method": f"should be {' or '.join(webhook.methods)}"})
    if incoming.method == "GET":
        return _fields(webhook, list(incoming.query.items()))
    kind = incoming.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        try:
            form = incoming.body.decode()
            pairs = parse_qsl(
                form, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
            )
        except ValueError as error:
            raise Invalid({"body": "is not a form that can be read"}) from error
        return _fields(webhook, pairs)
    raw = incoming.body.removeprefix(_BOM)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid({"body": f"is not JSON: {error}"}) from error
    return Body(_opened(webhook, value), raw)


def _fields(webhook: Webhook, pairs: Sequence[tuple[str, str]]) -> Body:
    """Form fields as an object; a name that comes more than once is a list."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    value = _opened(webhook, fields)
    return Body(value, orjson.dumps(value))


def _opened(webhook: Webhook, value: Any) -> Any:
    """*value* with the JSON texts in `json_fields` parsed."""
    if not isinstance(value, dict) or not webhook.json_fields:
        return value
    value = dict(value)
    for name in webhook.json_fields:
        if isinstance(value.get(name), str):
            try:
                value[name] = orjson.loads(value[name])
            except orjson.JSONDecodeError as error:
                raise Invalid({name: f"is not JSON: {error}"}) from error
    return value


def at(source: str, incoming: Incoming, body: Any, event: Any = None) -> Any:
    """The value that *source* names; None where there is none."""
    if source.startswith("header:"):
        return incoming.headers.get(source.removeprefix("header:"))
    if source.startswith("query:"):
        return incoming.query.get(source.removeprefix("query:"))
    if source.startswith("$."):
        return find(body, source.removeprefix("$."))
    return find(body if event is None else event, source)


def matches(match: Match, incoming: Incoming, body: Any) -> bool:
    """Whether the request holds what *match* names."""
    found = at(match.source, incoming, body)
    return (
        str(found).lower() == match.equals
        if isinstance(found, bool)
        else text(found) == match.equals
    )


def routes(webhook: Webhook, incoming: Incoming, body: Body) -> tuple[str, ...]:
    """The accounts that the events speak of, each once, in order."""
    source = webhook.events.route
    if source is None:
        return ()
    found = [
        route
        for item in _items(webhook.events, body.value)
        for route in _routed(at(source, incoming, body.value, item))
    ]
    return tuple(dict.fromkeys(found))


def events(webhook: Webhook, incoming: Incoming, body: Body) -> tuple[WebhookEvent, ...]:
    """The events in *body*; raises `Invalid` for one without an id or an object type."""
    if any(matches(one, incoming, body.value) for one in webhook.ignore):
        return ()
    return tuple(
        event
        for number, item in enumerate(_items(webhook.events, body.value))
        for event in _event(webhook.events, incoming, body.value, item, number)
    )


def _items(told: Events, body: Any) -> list[Any]:
    found = find(body, told.items, MISSING)
    if found is MISSING or found is None:
        return []
    return found if isinstance(found, list) else [found]


def _event(
    told: Events, incoming: Incoming, body: Any, item: Any, number: int
) -> Iterator[WebhookEvent]:
    def value(source: str | None) -> Any:
        return at(source, incoming, body, item) if source else None

    kind, date = text(value(told.type)), value(told.date)
    object_type = told.object_type or text(value(told.object_type_source))
    object_id = text(value(told.id))
    if object_id is None:
        raise Invalid({f"events[{number}]": f"has no id at {told.id!r}"})
    if object_type is None:
        raise Invalid({f"events[{number}]": f"has no object type at {told.object_type_source!r}"})
    event = WebhookEvent(
        object_type=_mapped(told.object_types, object_type) or object_type,
        object_id=object_id,
        change=ChangeType(_mapped(told.types, kind) or told.default_type),
        changed=_moment(told, date),
        identity=text(value(told.identity)) or _identity(item, kind, date),
    )
    if told.route is None:
        yield event
        return
    for route in _routed(value(told.route)) or (None,):
        yield WebhookEvent(
            object_type=event.object_type,
            object_id=event.object_id,
            change=event.change,
            changed=event.changed,
            identity=event.identity,
            route=route,
        )


def _mapped(table: Mapping[str, str], value: str | None) -> str | None:
    """What *table* says of *value*: by its name, else by the first pattern (`contact.*`) that fits."""
    if value is None:
        return None
    if value in table:
        return table[value]
    return next((to for pattern, to in table.items() if fnmatchcase(value, pattern)), None)


def _routed(value: Any) -> tuple[str, ...]:
    """One account or a list of them: box names every user concerned."""
    found = value if isinstance(value, list) else [value]
    return tuple(route for one in found if (route := text(one)))


def _moment(told: Events, value: Any) -> datetime | None:
    """The provider's time; one that cannot be read is as good as none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        return None
    try:
        return DatePattern.compile(told.date_format).parse(value, find_zone(told.timezone))
    except ValueError:
        return None


def _identity(item: Json, kind: str | None, date: Any) -> str:
    """A name for an event that has none: what it says, in canonical JSON."""
    canonical = orjson.dumps([item, kind, date], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()
