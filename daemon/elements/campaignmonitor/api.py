"""Campaign Monitor's API, which is called createsend: requests, pages of subscribers, records, ids, time zones.

What is said of it here is known from the sources in docs/elements/campaignmonitor.md.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from daemon.elements.address import segment, with_query
from daemon.elements.base import Http
from daemon.errors import Refused, Transient, Unauthorized
from daemon.model import Json, Page, Request

PAGE = 1000  # the largest there is
WALKS = 3  # attempts at a walk whose pages do not add up

NO_LIST = 101
NOT_IN_LIST = 203
CREDENTIALS = frozenset({None, 100, 120, 121, 122})
"""Codes of a 401 that are about the key or the token; the others are about an id or a permission."""

EARLIEST = timedelta(hours=-12)
"""No clock on earth is further behind UTC."""

DAYLIGHT = timedelta(hours=1)
"""A zone's name tells its offset but for this: asked so much earlier, nothing is lost where it is wrong."""

_LIST_ID = re.compile(r"[0-9A-Fa-f]{32}")
_ZONE = re.compile(r"\((?:GMT|UTC)(?:([+-])(\d\d):(\d\d))?\)")
# Which program a person reads mail with changes with the mail that is read, and says nothing of the subscriber.
_LEFT_OUT = frozenset({"ReadsEmailWith"})
# Only there where there is something to say; empty is as good as absent.
_OPTIONAL = frozenset({"MobileNumber", "ConsentToSendSms", "ConsentToTrack"})


@dataclass(frozen=True, slots=True)
class MailingList:
    """A list to read; its client's clocks are at least *ahead* of UTC."""

    id: str
    ahead: timedelta = EARLIEST


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON of an answer, and the provider's clock when it was given."""

    body: Any
    asked: datetime


@dataclass(frozen=True, slots=True)
class Api:
    """The API below *base*, in JSON."""

    http: Http
    base: str

    async def get(self, path: str, query: dict[str, str] | None = None) -> Answer:
        """The answer to a GET."""
        return await self.send("GET", path, query=query)

    async def send(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: Any = None
    ) -> Answer:
        """The answer to one request; raises what `Http.send` raises.

        A 401 that is about an id or a permission is `Refused`: new tokens would not help.
        """
        url = with_query(f"{self.base}/{path}", (query or {}).items())
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json; charset=utf-8"
        data = None if body is None else orjson.dumps(body)
        try:
            answer = await self.http.send(Request(method, url, headers, data))
        except Unauthorized as error:
            if code_of(error) in CREDENTIALS:
                raise
            raise Refused(str(error), status=error.status, body=error.body) from error
        try:
            found = orjson.loads(answer.body) if answer.body.strip() else None
        except orjson.JSONDecodeError as error:
            raise Transient(f"the provider answered {answer.status} without JSON") from error
        try:
            asked = parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError, TypeError):
            asked = datetime.now(UTC)
        return Answer(found, asked)


async def walk(
    api: Api, one: MailingList, state: str, since: datetime | None, size: int = PAGE
) -> AsyncGenerator[Page]:
    """Yield those in *state*, who came into it after *since*, the last page first.

    Ordered by when they came into the state, newcomers are added at the end and whoever leaves moves the rest
    forward.  So walking backwards meets a row that moves again, and walking forwards would miss it.  Rows of one
    date may still change places; then fewer come than there are, and the walk is done again.
    """
    path = f"lists/{segment(one.id)}/{state}.json"
    query = {
        "date": "" if since is None else (since + one.ahead).strftime("%Y-%m-%d %H:%M"),
        "pagesize": str(size),
        "orderfield": "date",
        "orderdirection": "asc",
        "includetrackingpreference": "true",
        "includesmspreference": "true",
    }
    said = ""
    for _ in range(WALKS):
        answer = await api.get(path, {**query, "page": "1"})
        rows, total, pages = _rows(answer.body)
        if pages <= 1:
            yield Page(tuple(record(one.id, row) for row in rows), answer.asked)
            return
        seen: set[str] = set()
        totals = {total}
        for number in range(pages, 0, -1):
            answer = await api.get(path, {**query, "page": str(number)})
            rows, total, _ = _rows(answer.body)
            totals.add(total)
            records = tuple(record(one.id, row) for row in rows)
            seen.update(each["id"] for each in records)
            yield Page(records, answer.asked)
        if len(totals) > 1 or len(seen) >= total:
            return
        said = f"of {total} {state} subscribers {len(seen)} came"
    raise Transient(f"list {one.id} changes while it is read: {said}")


def _rows(body: Any) -> tuple[list[Json], int, int]:
    """Rows, how many there are on all pages, and how many pages; raises `Transient` for something else."""
    try:
        rows = [row for row in body["Results"] if row["EmailAddress"]]
        return rows, int(body["TotalNumberOfRecords"]), int(body["NumberOfPages"])
    except (KeyError, TypeError, ValueError) as error:
        raise Transient("the provider did not answer with a page of subscribers") from error


async def subscriber(api: Api, list_id: str, address: str) -> tuple[Json, datetime | None]:
    """The subscriber as it is, and when the provider said so; a deleted one where the provider has none."""
    query = {"email": address, "includetrackingpreference": "true"}
    try:
        answer = await api.get(f"subscribers/{segment(list_id)}.json", query)
    except Refused as error:
        if code_of(error) not in (NOT_IN_LIST, NO_LIST):
            raise
        return record(list_id, {"EmailAddress": address, "State": "Deleted"}), None
    if not isinstance(answer.body, dict) or not answer.body.get("EmailAddress"):
        raise Transient("the provider answered without the subscriber")
    return record(list_id, answer.body), answer.asked


def record(list_id: str, row: Json) -> Json:
    """A row as it is kept: the same whether a list or the one subscriber was asked for."""
    kept = {
        name: value
        for name, value in row.items()
        if name not in _LEFT_OUT and value is not None and (value or name not in _OPTIONAL)
    }
    fields = kept.get("CustomFields") or []
    kept["CustomFields"] = sorted(fields, key=canonical)
    return {"id": object_id(list_id, str(row["EmailAddress"])), "ListID": list_id.lower(), **kept}


def object_id(list_id: str, address: str) -> str:
    """The id of a subscriber: an address names one person, however it is written."""
    return f"{list_id.lower()}/{address.strip().lower()}"


def named(subscriber_id: str) -> tuple[str, str] | None:
    """The list and the address in an object's id; None where it is none."""
    list_id, _, address = subscriber_id.partition("/")
    return (list_id.lower(), address) if is_list_id(list_id) and address else None


def is_list_id(text: str) -> bool:
    """Whether *text* can be the id of a list."""
    return _LIST_ID.fullmatch(text) is not None


def ahead_of_utc(zone: str) -> timedelta:
    """How far clocks in a zone such as `(GMT+10:00) Canberra, Melbourne, Sydney` are ahead of UTC, at the least."""
    found = _ZONE.match(zone)
    if found is None:
        return EARLIEST
    sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    return max((-offset if sign == "-" else offset) - DAYLIGHT, EARLIEST)


def code_of(error: Refused) -> int | None:
    """The number that Campaign Monitor gives an error."""
    try:
        said = orjson.loads(error.body)
    except orjson.JSONDecodeError:
        return None
    code = said.get("Code") if isinstance(said, dict) else None
    return code if isinstance(code, int) else None


def canonical(value: Any) -> bytes:
    """*value* as JSON that is the same for the same content."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
