"""What a request to a hub asks for, and whether its provider can be asked all of it.

A poller forgives: it filters again what a condition was to leave out.  Whoever calls a hub takes the answer for
filtered, so each condition has to change what the provider is asked, and so has its operator.  That is found out by
having the element write its request without sending it.
"""

import base64
import re
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web

from daemon.api.paging import whole
from daemon.elements.base import Element, Settings
from daemon.errors import Invalid, NotFound, Refused
from daemon.model import Condition, Query, Request, Response
from daemon.plans.where import parse_clause
from daemon.webhook_urls import PREFIX

MOST = 200
"""Records in one answer, and in one where nothing else is asked for."""

FIELDS_MOST = 200

_OURS = frozenset({"where", "fields", "orderBy", "page", "pageSize", "nextPage"})
_ORDER = re.compile(r"\s*[^\s,'\"]+(?:\s+(?:asc|desc))?\s*", re.IGNORECASE)
_FARTHEST = 2**62

Fields = tuple[tuple[str, ...], ...]
"""The paths of the fields to answer; none: all."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a list: *size* records after the first *after*; *reading* names a list that may still be open."""

    after: int
    size: int
    reading: str = ""

    @property
    def token(self) -> str:
        """What leads here, as `nextPage`: base64url of JSON, as the documented API's are (facts, 4.5)."""
        raw = orjson.dumps({"pageSize": self.size, "after": self.after, "reading": self.reading})
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def path_of(request: web.Request) -> tuple[str, ...]:
    """The parts of the path below the hub, as they were sent; raises `NotFound` for one that climbs out of it."""
    parts = request.rel_url.raw_path.removeprefix(f"{PREFIX}/").strip("/").split("/")
    below = tuple(parts[2:] if "hub" in request.match_info else parts)
    if any(unquote(part) in {"", ".", ".."} for part in below):
        raise NotFound("the path has an empty part, '.' or '..' in it")
    return below


def question(request: web.Request, resource: str) -> Query:
    """What to ask the provider; raises `Invalid`."""
    repeated = [name for name in _OURS if len(request.query.getall(name, [])) > 1]
    if repeated:
        raise Invalid(dict.fromkeys(sorted(repeated), "stands there more than once"))
    clause = parse_clause(request.query.get("where", ""))
    parameters = [(name, value) for name, value in request.query.items() if name not in _OURS]
    if order := request.query.get("orderBy", "").strip():
        if not all(_ORDER.fullmatch(part) for part in order.split(",")):
            raise Invalid({"orderBy": "should be a field, and asc or desc, such as: name asc"})
        parameters.append(("orderBy", order))
    return Query(
        resource=resource,
        conditions=clause.conditions,
        parameters=tuple(parameters),
        where=clause.text,
    )


def part(request: web.Request) -> Part:
    """Which part of the list; raises `Invalid`."""
    given = request.query
    token = given.get("nextPage")
    found = _opened(token) if token else Part(0, MOST)
    if (text := given.get("pageSize")) is not None:
        size = whole(text)
        if size is None or not 1 <= size <= MOST:
            raise Invalid({"pageSize": f"should be a whole number from 1 to {MOST}"})
        found = replace(found, size=size)
    if (text := given.get("page")) is not None and not token:
        number = whole(text)
        if not number:
            raise Invalid({"page": "should be a whole number; the first page is 1"})
        found = replace(found, after=(number - 1) * found.size)
    return found


def fields(request: web.Request) -> Fields:
    """Which fields of each record; raises `Invalid`."""
    text = request.query.get("fields", "").strip()
    paths = [tuple(name.strip().split(".")) for name in text.split(",")] if text else []
    if len(paths) > FIELDS_MOST or not all(step for path in paths for step in path):
        raise Invalid({"fields": f"should be up to {FIELDS_MOST} names joined by commas"})
    return tuple(paths)


def _opened(token: str) -> Part:
    try:
        held: Any = orjson.loads(
            base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        )
        size, after, reading = held["pageSize"], held["after"], held["reading"]
        fits = (type(size), type(after), type(reading)) == (int, int, str)
        fits = fits and 1 <= size <= MOST and 0 <= after < _FARTHEST
    except (ValueError, TypeError, KeyError):
        size, after, reading, fits = 0, 0, "", False
    if not fits:
        raise Invalid(
            {"nextPage": "should be an Elements-Next-Page-Token of an earlier answer, or left out"}
        )
    return Part(after, size, reading)


class _Written(Exception):
    """No error: it brings the request out of the element."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request


class _Unsent:
    """An `Http` that sends nothing."""

    async def send(self, request: Request) -> Response:
        raise _Written(request)


async def refuse_unsaid(element: Element, settings: Settings, query: Query) -> None:
    """Raise `Invalid` where a condition, its operator or an order makes no difference to what the provider is asked."""
    ordered = [pair for pair in query.parameters if pair[0] == "orderBy"]
    if not query.conditions and not ordered:
        return
    asked = await _written(element, settings, _conditioned(query, query.conditions))
    problems: dict[str, str] = {}
    if ordered:
        plain = tuple(pair for pair in query.parameters if pair not in ordered)
        without = replace(_conditioned(query, query.conditions), parameters=plain)
        if asked == await _written(element, settings, without):
            problems["orderBy"] = f"cannot be asked of {element.key}: leave it out"
    for number, one in enumerate(query.conditions):
        before, behind = query.conditions[:number], query.conditions[number + 1 :]
        for other in _others(one):
            varied = _conditioned(query, (*before, *other, *behind))
            if asked == await _written(element, settings, varied):
                problems["where"] = (
                    f"{one.attribute} {one.operator} cannot be asked of {element.key} here: "
                    "the answer would be the same without it, or with another operator"
                )
    if problems:
        raise Invalid(problems)


async def _written(element: Element, settings: Settings, query: Query) -> Request | str | None:
    """The first request that asks *query*; what the element says where it refuses, None where it needs no request."""
    try:
        element.check_query(query)
        async with aclosing(element.read(_Unsent(), settings, query)) as pages:
            await anext(pages, None)
    except _Written as written:
        return written.request
    except (Invalid, Refused) as error:
        return str(error)
    return None


def _others(one: Condition) -> Sequence[tuple[Condition, ...]]:
    """What must not ask the same as *one* in its place: nothing, another value, the commonest operator."""
    if one.operator.endswith("NULL"):
        return ((),)
    another = (replace(one, value=_another(one.value)),)
    return (another,) if one.operator == "=" else (another, (replace(one, operator="="),))


def _another(value: str) -> str:
    """A value of the same shape: a date stays one."""
    found = re.search(r"[0-9]", value)
    if found is None:
        return f"{value}x"
    return f"{value[: found.start()]}{(int(found[0]) + 1) % 10}{value[found.end() :]}"


def _conditioned(query: Query, conditions: Sequence[Condition]) -> Query:
    """*query* with *conditions*, and with them as the text of its `where`."""
    text = ""
    for one in conditions:
        said = f"`{one.attribute}` {one.operator}"
        if one.operator.endswith("IN"):
            said += f" ({one.value})"
        elif not one.operator.endswith("NULL"):
            quoted = one.value.replace("'", "''")
            said += f" '{quoted}'"
        text += f" {one.joined} {said}" if text else said
    return replace(query, conditions=tuple(conditions), where=text)
