"""`/hubs/{hub}/{resource}`: the records of an account, read from its provider while the caller waits.

The element reads as it does for a poller, over the same connection.  The hub in the path says nothing, and may be missing
with its `/hubs` (facts, 4.2): the element token names the account.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web

from daemon.api import asking, blocks, paging
from daemon.api.asking import MOST, Fields, Part
from daemon.api.auth import instance_of
from daemon.api.context import CONTEXT
from daemon.api.errors import answer
from daemon.api.operations import Authorization, Operation, Parameter
from daemon.api.readings import Reading, Readings, Subject
from daemon.elements.base import Element, Http, Settings
from daemon.errors import ConfigError, Invalid, NotFound, Refused, Transient, Unauthorized
from daemon.model import Instance, Json, Query, Request, Response
from daemon.plans.fields import identify

READINGS = web.AppKey("readings", Readings)

LIMIT = 50.0
"""Seconds that a provider has for one answer, all its pages together: proxies give up after 60."""

NULLS = "filter.response.nulls"

_TOKEN = re.compile(r"(?:^|[,\s])element\s", re.IGNORECASE)
_PLATFORM = "instances|elements|events|notifications|hubs"
"""What stands below the prefix and is no resource of an account."""
_SAME = frozenset({403, 404})
"""A provider's statuses that the API has too, with the same meaning."""


async def records(request: web.Request) -> web.Response:
    """GET [/hubs/{hub}]/{resource}[/…]: a list, or one record where the last part of the path is its id."""
    in_hub = "hub" in request.match_info
    if not in_hub and not _TOKEN.search(request.headers.get("Authorization", "")):
        raise NotFound("there is no such address; an Element token would make it a resource")
    _, instance = await instance_of(request)
    if instance.disabled:
        why = f": {instance.reason}" if instance.reason else ""
        raise web.HTTPForbidden(text=f"instance {instance.id} is disabled{why}")
    limit = asyncio.timeout(LIMIT)
    try:
        with request.app[READINGS].turn(instance.id):
            async with limit:
                return await _read(request, instance)
    except TimeoutError:
        if not limit.expired():
            raise  # the database's
        return answer(request, 502, f"the provider did not give all this within {LIMIT:g} s")
    except Unauthorized as error:
        # 401 would speak of the caller's own secrets.
        message = (
            "the provider does not accept the account's credentials any more: "
            f"PATCH /instances/{instance.id} with new ones, or a new providerData.code"
        )
        return answer(request, 502, message, provider=str(error))
    except Refused as error:
        status = error.status if error.status in _SAME else 502
        return answer(request, status, "the provider refused this", provider=str(error))
    except ConfigError as error:
        return answer(request, 502, f"the account's credentials cannot be opened: {error}")


async def _read(request: web.Request, instance: Instance) -> web.Response:
    context = request.app[CONTEXT]
    element = context.elements.get(instance.element_key)
    http = await context.connections.of(instance)
    parts = asking.path_of(request)
    fields = asking.fields(request)
    with_nulls = (instance.configuration.get(NULLS) or "").strip().lower() == "false"
    headers = {"Elements-Element-Instance-Id": str(instance.id)}
    if len(parts) > 1 and "/".join(parts) not in element.resources:
        resource, object_id = "/".join(parts[:-1]), unquote(parts[-1])
        record = await _one(element, http, http.settings, resource, object_id)
        if record is not None:
            if others := sorted(request.query.keys() - {"fields"}):
                raise Invalid(dict.fromkeys(others, "means nothing where one record is asked for"))
            shown = _shown(record, fields, with_nulls=with_nulls)
            return blocks.respond(shown, headers=headers)
    wanted = asking.part(request)
    query = asking.question(request, "/".join(parts))
    await _check(element, http.settings, query)
    subject = Subject(instance.id, instance.revision, query)
    reading = request.app[READINGS].resume(wanted.reading, subject, wanted.after)
    if reading is None:
        sized = replace(query, page_size=wanted.size)
        reading = Reading(subject, element.read(http, http.settings, sized))
    async with _whole_or_closed(reading):
        await reading.skip(wanted.after)
        taken = await reading.take(wanted.size)
    total = token = None
    if reading.over:
        total = reading.position
        await reading.close()
    else:
        name = await request.app[READINGS].keep(reading)
        token = Part(reading.position, wanted.size, name).token
    return blocks.respond(
        [_shown(record, fields, with_nulls=with_nulls) for record in taken],
        headers={**headers, **paging.headers(returned=len(taken), total=total, token=token)},
    )


async def _check(element: Element, settings: Settings, query: Query) -> None:
    """Raise `NotFound` for a resource, `Invalid` for conditions that the element cannot ask for."""
    try:
        element.check_query(query)
    except Invalid as error:
        if set(error.problems) == {"resource"}:
            raise NotFound(error.problems["resource"]) from None
        raise
    await asking.refuse_unsaid(element, settings, query)


@asynccontextmanager
async def _whole_or_closed(reading: Reading) -> AsyncGenerator[None]:
    """A list that broke off cannot be gone on with."""
    try:
        yield
    except BaseException:
        await reading.close()
        raise


class _Overheard:
    """An `Http` that keeps the last answer."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.answer: Response | None = None

    async def send(self, request: Request) -> Response:
        self.answer = await self._http.send(request)
        return self.answer


async def _one(
    element: Element, http: Http, settings: Settings, resource: str, object_id: str
) -> Json | None:
    """The record of that id; None where the element cannot ask for one.  Raises `NotFound`, and what `send` raises.

    An element asks for one record to learn whether it is gone, and most providers answer that with the record.
    """
    if resource not in element.resources:
        return None
    heard = _Overheard(http)
    gone = await element.gone(heard, settings, resource, object_id)
    if gone:
        raise NotFound(f"the provider has nothing of that id in {resource}")
    if gone is None or heard.answer is None:
        return None
    try:
        record: Any = orjson.loads(heard.answer.body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise Transient("the provider answered without JSON") from error
    if not isinstance(record, dict) or identify(record, None) != object_id:
        # A provider that is asked otherwise wraps it up: what came is not to be taken for the record.
        raise NotFound(f"{element.key} cannot read one record of {resource}: read the list")
    return record


def _shown(record: Json, fields: Fields, *, with_nulls: bool) -> Json:
    """*record*, or those *fields* of it; without nulls, unless the instance wants them (facts, 3.1)."""
    if fields:
        record = _chosen(record, fields)
    shown: Json = record if with_nulls else _without_nulls(record)
    return shown


def _chosen(record: Json, fields: Fields) -> Json:
    chosen: Json = {}
    for path in fields:
        name = ".".join(path)
        if name in record:
            chosen[name] = record[name]
        else:
            _copy(record, chosen, path)
    return chosen


def _copy(source: Mapping[str, Any], into: Json, path: Sequence[str]) -> None:
    """Put what is at *path* in *source* at the same place of *into*, if there is anything."""
    first, *rest = path
    if first not in source:
        return
    inner = source[first]
    if not rest:
        into[first] = inner
    elif isinstance(inner, dict) and into.get(first) is not inner:  # else it is there whole
        _copy(inner, into.setdefault(first, {}), rest)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


_QUERY = (
    Parameter("where", "CEQL: conditions that the provider can be asked, such as status='open'."),
    Parameter("fields", "The fields of each record to answer, joined by commas."),
    Parameter("orderBy", "A field, and asc or desc, where the provider can be asked."),
    Parameter("page", "Which page; the first is 1.", "integer"),
    Parameter(
        "pageSize", f"How many records at most: 1 to {MOST}, {MOST} where not given.", "integer"
    ),
    Parameter("nextPage", "The Elements-Next-Page-Token of the answer before; the rest as then."),
)


def _at(path: str, name: str, form: str) -> tuple[Operation, Operation]:
    """What is at *path*, and below it."""
    common: dict[str, Any] = {
        "method": "GET",
        "handler": records,
        "tag": "hubs",
        "authorization": Authorization.ELEMENT,
        "query": _QUERY,
        "statuses": (403, 429, 502),
        "paged": True,
    }
    return (
        Operation(
            path=path,
            name=name,
            summary=f"The records of a resource, read from the provider{form}.",
            block=list[dict[str, Any]],
            **common,
        ),
        Operation(
            path=f"{path}/{{objectId:.+}}",
            name=f"{name}Below",
            summary=f"One record, or the records of a resource whose name has several parts{form}.",
            block=dict[str, Any] | list[dict[str, Any]],
            **common,
        ),
    )


OPERATIONS = (
    *_at("/hubs/{hub}/{resource}", "getHubRecords", ""),
    *_at(rf"/{{resource:(?!(?:{_PLATFORM})(?:/|$))[^/]+}}", "getRecords", "; the hub left out"),
)
