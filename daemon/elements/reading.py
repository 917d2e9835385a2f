"""Reading a described REST API: a query becomes requests, their answers become pages.

A condition of the `where` becomes a query parameter by the resource's `where` table.  One that the table does not
know is passed through where the definition says so.  Else, if it compares with a date, it is left out: the
poller filters by date again, so that costs bytes and nothing more.  Any other is refused: left out in silence it
would let records through that the owner of the instance filtered away.  So is OR, which query parameters cannot say.
"""

import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from daemon.dates import DatePattern, find_zone
from daemon.elements.address import Pairs, below, segment, whole, with_query
from daemon.elements.base import Http, Settings
from daemon.elements.definition import Definition, Place, Resource, Scalar, Where
from daemon.elements.paging import Walk
from daemon.elements.paths import MISSING, fill, find, text
from daemon.errors import Invalid, Refused, Transient
from daemon.model import Condition, Json, Page, Query, Request, Response

GONE = frozenset({404, 410})
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*|-?\d{9,19}(\.\d+)?|[A-Z][a-z]{2},? .*\d\d:\d\d.*")
_ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ss'Z'")
# What the platform itself understood in a poller's url; none of it means anything to a provider.
_OURS = frozenset({"where", "fields", "orderBy", "page", "pageSize", "nextPage"})


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the resources of one definition."""

    definition: Definition
    now: Callable[[], datetime]

    def resource(self, name: str) -> Resource:
        """The resource *name*; raises `Invalid`."""
        found = self.definition.resource(name)
        if found is None or self.definition.connection is None:
            known = ", ".join(sorted(self.definition.resources)) or "nothing"
            raise Invalid({"resource": f"{self.definition.key} has no {name!r}; there is {known}"})
        return found

    def check(self, query: Query) -> None:
        """Raise `Invalid` for a query that `read` would refuse."""
        parameters(self.resource(query.resource), query)

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages that answer *query*."""
        with _refusing():
            resource = self.resource(query.resource)
            pairs = parameters(resource, query)
        return self._walk(http, settings, query.resource, resource, pairs, size=query.page_size)

    def deletions(
        self, http: Http, settings: Settings, name: str, since: datetime
    ) -> AsyncGenerator[Page] | None:
        """Yield what the provider's own channel says was deleted; None where it has none."""
        with _refusing():
            resource = self.resource(name)
        if resource.deletes != "channel":
            return None
        deleted = resource.deleted
        pattern = DatePattern.compile(deleted.date)
        pairs = [*_written(deleted.parameters), (deleted.parameter, pattern.format(since))]
        path = resource.path if deleted.path is None else deleted.path
        resource = resource.model_copy(update={"path": path})
        return self._walk(http, settings, name, resource, pairs)

    def inventory(self, http: Http, settings: Settings, name: str) -> AsyncGenerator[Page] | None:
        """Yield all that exists; None where the definition does not say `deletes = "sweep"`."""
        with _refusing():
            resource = self.resource(name)
        if resource.deletes != "sweep":
            return None
        pairs = _written(resource.parameters | resource.deleted.parameters)
        return self._walk(http, settings, name, resource, pairs, complete=True)

    async def gone(self, http: Http, settings: Settings, name: str, object_id: str) -> bool | None:
        """Whether the provider says that there is no such object; None where the definition has no `item`."""
        with _refusing():
            resource = self.resource(name)
        if resource.item is None or self.definition.connection is None:
            return None
        place = self.definition.connection
        path = fill(resource.item, {**settings, "id": object_id}, segment)
        if path is None:
            raise Refused(f"{name}: a setting that {resource.item!r} needs is empty")
        with _refusing():
            url = below(base(place, settings), path)
        try:
            answer = await http.send(Request("GET", url, _headers(place, settings)))
        except Refused as error:
            if error.status in GONE:
                return True
            raise
        record = _json(answer) if answer.body else {}
        return isinstance(record, dict) and self.deleted(name, record)

    def deleted(self, name: str, record: Json) -> bool:
        """Whether *record* carries the mark of a deleted one."""
        resource = self.definition.resource(name)
        if resource is None or resource.deletes != "marker":
            return False
        found = find(record, resource.deleted.field)
        if resource.deleted.values:
            # 1 == True in Python, but not in JSON.
            return any(found == one and type(found) is type(one) for one in resource.deleted.values)
        return bool(found)

    async def _walk(
        self,
        http: Http,
        settings: Settings,
        name: str,
        resource: Resource,
        pairs: Pairs,
        *,
        size: int | None = None,
        complete: bool = False,
    ) -> AsyncGenerator[Page]:
        if self.definition.connection is None:
            raise Refused(f"{self.definition.key} has no API to read from")
        place = self.definition.connection
        with _refusing():
            root = base(place, settings)
        walk = Walk(resource.paging, base=root, id_path=resource.id, size=size)
        path = name if resource.path is None else fill(resource.path, settings, segment)
        if path is None:
            raise Refused(f"{name}: a setting that the path {resource.path!r} needs is empty")
        with _refusing():
            url = walk.first(with_query(below(root, path), pairs))
        census = Census() if complete else None
        for _ in range(resource.paging.max_pages):
            answer = await http.send(Request("GET", url, _headers(place, settings)))
            body = _json(answer)
            records = _records(name, resource, body)
            if census is not None:
                census.count(walk.total(answer.headers, body), records, resource.id)
            if walk.repeated(records):
                break
            there = walk.after(url, answer.headers, body, records)
            yield Page(records, self._asked(answer), last=there is None)
            if there is None:
                break
            url = there
        else:
            raise Refused(
                f"{name} has more than {resource.paging.max_pages} pages: raise max_pages, or ask for larger ones"
            )
        if census is not None:
            census.close(name)

    def _asked(self, answer: Response) -> datetime:
        try:
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError, TypeError):
            return self.now()


class Census:
    """Counts a whole walk, where the provider says how many there are.

    Pages shift when a record comes or goes during the walk, and one may then be seen twice or not at all.  That
    shows as a total that changes or is not reached.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._totals: set[int] = set()

    def count(self, total: int | None, records: tuple[Json, ...], id_path: str) -> None:
        """Take in a page."""
        if total is not None:
            self._totals.add(total)
        self._ids.update(found for one in records if (found := text(find(one, id_path))))

    def close(self, name: str) -> None:
        """Raise `Transient` when what was seen is not all."""
        if self._totals and self._totals != {len(self._ids)}:
            said = " and then ".join(str(total) for total in sorted(self._totals))
            raise Transient(
                f"{name} changed while it was counted: of {said} records {len(self._ids)} came"
            )


@contextmanager
def _refusing() -> Generator[None]:
    """What was `Invalid` when it was configured is `Refused` when it is used all the same."""
    try:
        yield
    except Invalid as error:
        raise Refused(str(error)) from error


def base(place: Place, settings: Settings) -> str:
    """The address below which an instance's resources are; raises `Invalid`."""
    return whole(place.base, settings, override="base.url" if place.override else None)


def parameters(resource: Resource, query: Query) -> Pairs:
    """The query parameters that ask for *query*; raises `Invalid` for what cannot be asked."""
    asked: Pairs = []
    problems: dict[str, str] = {}
    for name, value in query.parameters:
        if name in resource.passes or (resource.pass_through and name not in _OURS):
            asked.append((name, value))
        elif name not in _OURS:
            known = ", ".join(resource.passes) or "none"
            problems[name] = f"is not a parameter of {query.resource}; there are: {known}"
    try:
        asked += _where(resource, query)
    except ValueError as error:
        problems["where"] = str(error)
    if problems:
        raise Invalid(problems)
    names = {name for name, _ in asked}
    return [pair for pair in _written(resource.parameters) if pair[0] not in names] + asked


def _where(resource: Resource, query: Query) -> Pairs:
    if resource.where_parameter and query.conditions:
        return [(resource.where_parameter, query.where)]
    if any(condition.joined.upper() == "OR" for condition in query.conditions):
        if all(_DATE.fullmatch(condition.value) for condition in query.conditions):
            return []
        raise ValueError("joins conditions by OR, which query parameters cannot: leave one of them")
    return [pair for condition in query.conditions for pair in _condition(resource, condition)]


def _condition(resource: Resource, condition: Condition) -> Pairs:
    for key, target in resource.where.items():
        if key.replace(" ", "") == f"{condition.attribute}{condition.operator}":
            if isinstance(target, str):
                return [(target, condition.value)]
            value = _dated(target, condition.value)
            return [(target.parameter, target.template.replace("{value}", value))]
    said = f"{condition.attribute} {condition.operator}"
    if resource.pass_through:
        if "NULL" in condition.operator.upper():
            raise ValueError(f"{said} cannot be a query parameter")
        return [(condition.attribute, condition.value)]
    if _DATE.fullmatch(condition.value):
        return []
    known = ", ".join(key for key in resource.where) or "none"
    raise ValueError(f"{said} is no filter of this provider; there are: {known}")


def _dated(target: Where, value: str) -> str:
    """*value* in the provider's date format, where the definition names one."""
    if target.date is None:
        return value
    if re.fullmatch(r"-?\d{9,19}", value):
        unit = "seconds" if len(value.lstrip("-")) < len("100000000000") else "milliseconds"
        moment = DatePattern.compile(unit).parse(value)
    else:
        moment = _ISO.parse(value)
    return DatePattern.compile(target.date).format(moment, find_zone(target.timezone))


def _written(values: Mapping[str, Scalar]) -> Pairs:
    return [(name, _scalar(value)) for name, value in values.items()]


def _scalar(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _headers(place: Place, settings: Settings) -> dict[str, str]:
    """The fixed headers of a request; one whose setting is empty is left out."""
    headers = {"Accept": "application/json"}
    for name, template in place.headers.items():
        value = fill(template, settings)
        if value is not None:
            headers[name] = value
    return headers


def _json(answer: Response) -> Any:
    try:
        return orjson.loads(answer.body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        # A page for people instead of JSON is what gateways answer while the provider is being repaired.
        raise Transient(f"the provider answered {answer.status} without JSON") from error


def _records(name: str, resource: Resource, body: Any) -> tuple[Json, ...]:
    found = find(body, resource.items, MISSING)
    if found is None or (found is MISSING and resource.items_optional):
        return ()
    if not isinstance(found, list):
        shape = (
            f"an object with {', '.join(sorted(body)[:10])}" if isinstance(body, dict) else "a list"
        )
        where = f"at {resource.items!r}" if resource.items else "as the whole answer"
        raise Refused(f"{name}: there is no list {where}; the provider answered {shape}")
    return tuple(one if isinstance(one, dict) else {"id": one} for one in found)
