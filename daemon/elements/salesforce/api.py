"""Reading an organization: SOQL queries, their batches, the log of deletions.

A poll reads in the order of `SystemModstamp` and `Id`, all fields by name; a person's question reads by `Id`, whatever
fields there are.  A query that Salesforce forgets half-way (its locator
expires) goes on behind the last record that was seen; records with equal stamps are told apart by their ids.

Whatever goes wrong comes with a code of Salesforce's own, which says more than the HTTP status.
"""

import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import orjson

from daemon.elements.address import following, segment, with_query
from daemon.elements.base import Http
from daemon.elements.paths import find, text
from daemon.elements.salesforce import soql
from daemon.elements.salesforce.soql import CREATED, DELETED, ID, MODIFIED, STAMP, SYSTEM, Types
from daemon.errors import DeletionsLost, Invalid, Refused, Transient
from daemon.model import Json, Page, Query, Request, Response

OVERLAP = 900.0
"""Seconds that a poll asks again: a transaction takes ten minutes at most, and dates what it writes before its commit."""

ALIASES = {
    "accounts": "Account", "attachments": "Attachment", "campaigns": "Campaign", "cases": "Case",
    "contacts": "Contact", "contracts": "Contract", "events": "Event", "incidents": "Case", "leads": "Lead",
    "notes": "Note", "opportunities": "Opportunity", "orders": "Order", "products": "Product2",
    "tasks": "Task", "users": "User",
}  # fmt: skip
"""The hub's resources and the objects that they are; any other is named as Salesforce names it."""
_NAMED = ALIASES | {name.lower(): name for name in ALIASES.values()}

LONGEST_QUERY = (
    12_000  # characters as quoted; Salesforce takes 16,384 for address and headers together
)
MOST_OF_ALL = 200  # records that a query for FIELDS(ALL) may give
SMALLEST_BATCH, LARGEST_BATCH = 200, 2000
MOST_BATCHES = 1_000_000
FARTHEST = 2000  # records that an OFFSET may pass over
LIMIT_PAUSE = (
    900.0  # seconds: the limit counts the last 24 hours, so some requests come free all the time
)

_OURS = frozenset({"where", "fields", "orderBy", "page", "pageSize", "nextPage"})
_UNREAD = frozenset({"base64"})
"""Types of fields that a list does not hold: contents of files."""
_SORT = re.compile(r"[a-z0-9]__[a-z]{1,10}\Z", re.IGNORECASE)
_USAGE = re.compile(r"\bapi-usage=([0-9]{1,12})/([0-9]{1,12})")
_CODE = re.compile(rb'"errorCode"\s*:\s*"([A-Z_]{1,80})"')
_SOON = frozenset(
    {"SERVER_UNAVAILABLE", "QUERY_TIMEOUT", "UNABLE_TO_LOCK_ROW", "UNKNOWN_EXCEPTION"}
)
_NO_LOG = frozenset(
    {"NOT_FOUND", "METHOD_NOT_ALLOWED", "INVALID_TYPE", "INVALID_TYPE_FOR_OPERATION"}
)
_MINUTE = timedelta(minutes=1)

Asked = Callable[["Mark | None"], str]
"""The query for what comes behind a record, or for all."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A record's place in the order: its stamp, where it has one, and its id."""

    stamp: str | None
    id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """One answer to a query.  *fresh* is true of the first answer to a query, *done* of the last."""

    records: tuple[Json, ...]
    asked: datetime
    total: int | None
    fresh: bool
    done: bool


def sobject(resource: str) -> str:
    """The object that *resource* is; raises `Invalid` for what is none.

    A standard object begins with a capital, any other ends in two underscores and its sort: `__c`, `__mdt`, `__x`.
    """
    name = _NAMED.get(resource.lower(), resource)
    if not soql.is_name(name) or not (name[0].isupper() or _SORT.search(name)):
        problem = f"{resource[:80]!r} is no object's name: write it as Salesforce does, such as Contact or Invoice__c"
        raise Invalid({"resource": problem})
    return name


def check(query: Query) -> None:
    """Raise `Invalid` for a query that can be seen to be none; the types of fields are Salesforce's to know."""
    problems: dict[str, str] = {}
    for name, value in query.parameters:
        try:
            if name not in _OURS:
                raise ValueError("is not a parameter of Salesforce; there are: fields, orderBy")  # noqa: TRY301 — one list of problems
            if name == "fields":
                _fields(value)
            elif name == "orderBy":
                _order(value)
        except ValueError as error:
            problems[name] = str(error)
    try:
        sobject(query.resource)
        soql.conditions(query.conditions, {})
    except Invalid as error:
        problems |= error.problems
    except ValueError as error:
        problems["where"] = str(error)
    if problems:
        raise Invalid(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One organization's API at *root*, with the version.

    *share* is the percentage of the day's requests at which it waits; *nulls* says whether empty fields are kept.
    """

    http: Http
    root: str
    share: int
    nulls: bool
    now: Callable[[], datetime]

    async def poll(self, query: Query) -> AsyncGenerator[Page]:
        """Yield the records that *query* asks for, the oldest change first; those in the recycle bin, too."""
        name = sobject(query.resource)
        known = await self._describe(name)
        types = {field.lower(): kind for field, kind in known.items()}
        asked = dict(query.parameters).get("fields", "")
        stamp = next((one for one in (STAMP, MODIFIED, CREATED) if one.lower() in types), None)
        with _refusing(name):
            own = _order(dict(query.parameters).get("orderBy", ""))
            fields = _selected(asked, known)
            wanted = soql.conditions(query.conditions, types)
        order = own or ([stamp, ID] if stamp else [ID])

        def ask(mark: Mark | None) -> str:
            where = [wanted] if wanted else []
            if mark is not None:
                where.append(_behind(stamp, mark))
            whole = soql.select(fields, name, where=where, order=order)
            if asked or own or len(quote(whole, safe="")) <= LONGEST_QUERY:
                return whole
            # Too many fields for an address: all of them have a short name, but then come few at a time.
            return soql.select(["FIELDS(ALL)"], name, where=where, order=order, limit=MOST_OF_ALL)

        batches = self._batches(
            "queryAll" if DELETED.lower() in types else "query",
            ask,
            stamp=stamp,
            resumes=not own,
            limit=MOST_OF_ALL if "FIELDS(" in ask(None) else None,
            size=query.page_size,
        )
        async for batch in batches:
            yield self._page(batch)

    async def browse(self, query: Query) -> AsyncGenerator[Page]:
        """Yield the records that exist and that *query* asks for, by id or in an order of its own.

        The first request is the query itself; only if Salesforce finds a value of the wrong type in it, the types are
        asked for.
        """
        name, types = sobject(query.resource), SYSTEM
        with _refusing(name):
            own = _order(dict(query.parameters).get("orderBy", ""))
        seen = 0

        def ask(mark: Mark | None) -> str:
            with _refusing(name):
                wanted = soql.conditions(query.conditions, types)
            where = [wanted] if wanted else []
            if mark is not None and not own:
                where.append(_behind(None, mark))
            if own and seen > FARTHEST:
                raise Refused(
                    f"{name}: only the first {FARTHEST} can be had in an order: ask for less"
                )
            order, offset = own or [ID], seen if own else 0
            return soql.select(
                ["FIELDS(ALL)"], name, where=where, order=order, limit=MOST_OF_ALL, offset=offset
            )

        while True:
            try:
                async for batch in self._batches(
                    "query", ask, stamp=None, resumes=not own, limit=MOST_OF_ALL
                ):
                    seen += len(batch.records)
                    yield self._page(batch)
                return
            except Refused as error:
                if seen or types is not SYSTEM or _code(error) != "INVALID_FIELD":
                    raise
            types = {field.lower(): kind for field, kind in (await self._describe(name)).items()}

    async def inventory(self, name: str) -> AsyncGenerator[Page]:
        """Yield the ids of all records; raises `Transient` where fewer came than there are."""

        def ask(mark: Mark | None) -> str:
            where = [_behind(None, mark)] if mark is not None else []
            return soql.select([ID], name, where=where, order=[ID])

        counted, queries, total = 0, 0, None
        async for batch in self._batches("query", ask, stamp=None, resumes=True):
            counted += len(batch.records)
            queries += batch.fresh
            total = batch.total if total is None else total
            yield Page(tuple({ID: one[ID]} for one in batch.records), batch.asked, last=batch.done)
        if queries == 1 and total is not None and counted != total:
            raise Transient(f"{name}: of {total} records {counted} came")

    async def deletions(
        self, name: str, since: datetime, *, begins: datetime
    ) -> AsyncGenerator[Page]:
        """Yield what was deleted at *since* or later, past the recycle bin or not.

        Salesforce cuts the seconds off both ends, and wants more than a minute between them.  Raises `Transient`
        while transactions are open for longer than `OVERLAP`: what they delete is not in the log yet.  Raises
        `DeletionsLost`, after what there is, where *since* is before the log *begins*, or before it was purged.
        """
        wanted = since.replace(second=0, microsecond=0)
        start, end = max(wanted, begins.replace(second=0, microsecond=0)), self.now()
        if end.replace(second=0, microsecond=0) - start < 2 * _MINUTE:
            return
        answer, start = await self._log(name, start, end)
        if answer is not None:
            async with aclosing(self._logged(name, answer, since)) as pages:
                async for page in pages:
                    yield page
        if start > wanted:
            raise DeletionsLost(
                f"{name}: Salesforce's log of deletions begins at {soql.moment(start)}"
            )

    async def _logged(self, name: str, answer: Response, since: datetime) -> AsyncGenerator[Page]:
        """What *answer*, of the log of deletions, tells from *since* on; `Transient` where more is still to come."""
        body, asked = _json(answer), self._asked(answer)
        from_ = since.replace(microsecond=0)
        rows = find(body, "deletedRecords")
        if not isinstance(rows, list):
            raise Refused(f"{name}: Salesforce's log of deletions has no deletedRecords")
        records = [
            {ID: row["id"], "id": row["id"], STAMP: row.get("deletedDate")}
            for row in rows
            if isinstance(row, dict) and text(row.get("id")) and _since(row, from_)
        ]
        yield Page(tuple(records), asked, last=True)
        covered = _moment(find(body, "latestDateCovered"))
        if covered is not None and (asked - covered).total_seconds() > OVERLAP:
            raise Transient(
                f"{name}: a long transaction is open at Salesforce; its log of deletions is complete up to "
                f"{soql.moment(covered)}, and changes after that may still come to light"
            )

    async def gone(self, name: str, record_id: str) -> bool:
        """Whether there is no such record, or it is in the recycle bin."""
        try:
            await self._send(f"{self.root}/sobjects/{name}/{segment(record_id)}")
        except Refused as error:
            if error.status == 404:  # noqa: PLR2004 — HTTP's Not Found; of the recycle bin, too
                return True
            raise
        return False

    async def _describe(self, name: str) -> Types:
        """The object's fields that can be read, in Salesforce's order, and their types."""
        body = _json(await self._send(f"{self.root}/sobjects/{name}/describe"))
        fields = find(body, "fields")
        if not isinstance(fields, list):
            raise Refused(f"{name}: Salesforce's description of it has no fields")
        return {
            one["name"]: str(one.get("type", ""))
            for one in fields
            if isinstance(one, dict) and soql.is_name(str(one.get("name", "")))
        }

    async def _log(
        self, name: str, start: datetime, end: datetime
    ) -> tuple[Response | None, datetime]:
        """The log of deletions, None for an object that has none; and from when on: from *start*, or where it begins."""
        address = f"{self.root}/sobjects/{name}/deleted/"
        for _ in range(2):
            pairs = [("start", _written(start)), ("end", _written(end))]
            try:
                return await self._send(with_query(address, pairs)), start
            except Refused as error:
                code = _code(error)
                if code in _NO_LOG:
                    return None, start
                if code != "INVALID_REPLICATION_DATE":
                    raise
            # What there is of it is told by any answer.
            recent = [("start", _written(end - 5 * _MINUTE)), ("end", _written(end))]
            told = _json(await self._send(with_query(address, recent)))
            begins = _moment(find(told, "earliestDateAvailable"))
            if begins is None:
                break
            start = max(start, begins + _MINUTE)
        raise Transient(f"{name}: Salesforce's log of deletions cannot be asked for this time")

    async def _batches(
        self,
        endpoint: str,
        ask: Asked,
        *,
        stamp: str | None,
        resumes: bool,
        limit: int | None = None,
        size: int | None = None,
    ) -> AsyncGenerator[Batch]:
        """Walk through a query to its end; one that is forgotten half-way is asked anew from there."""
        size = min(max(size or LARGEST_BATCH, SMALLEST_BATCH), LARGEST_BATCH)
        headers = {"Sforce-Query-Options": f"batchSize={size}"}
        mark: Mark | None = None
        url, fresh, count = self._first(endpoint, ask(None)), True, 0
        for _ in range(MOST_BATCHES):
            try:
                answer = await self._send(url, headers)
            except Refused as error:
                if _code(error) != "INVALID_QUERY_LOCATOR" or fresh:
                    raise
                if not resumes or mark is None:
                    raise Transient(
                        "Salesforce has forgotten the query; it is begun anew"
                    ) from error
                url, fresh, count = self._first(endpoint, ask(mark)), True, 0
                continue
            body = _json(answer)
            records = find(body, "records")
            if not isinstance(records, list):
                raise Refused("Salesforce's answer to a query has no records")
            if records:
                mark = _mark(records[-1], stamp)
            count += len(records)
            link = text(find(body, "nextRecordsUrl"))
            full = limit is not None and count >= limit
            done = link is None and not full
            total = find(body, "totalSize")
            whole = total if isinstance(total, int) else None
            yield Batch(tuple(records), self._asked(answer), whole, fresh, done)
            if done:
                return
            fresh = link is None
            if link is None:
                url, count = self._first(endpoint, ask(mark)), 0
            else:
                url = following(link, here=url, base=self.root, relative_to="request")
        raise Refused("a query has no end: its batches go on and on")

    def _first(self, endpoint: str, query: str) -> str:
        return with_query(f"{self.root}/{endpoint}", [("q", query)])

    async def _send(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        """An answer; `Transient` for what is only not possible now, and where the day's requests are nearly used up."""
        request = Request("GET", url, {"Accept": "application/json", **(headers or {})})
        try:
            answer = await self.http.send(request)
        except Refused as error:
            code = _code(error)
            if code == "REQUEST_LIMIT_EXCEEDED":
                raise Transient(
                    "the organization has used up its API requests of the last 24 hours",
                    retry_after=LIMIT_PAUSE,
                ) from error
            if code in _SOON:
                raise Transient(str(error)) from error
            raise
        usage = _USAGE.search(answer.headers.get("Sforce-Limit-Info", ""))
        if usage is not None:
            used, most = int(usage[1]), int(usage[2])
            if self.share < 100 and most and used * 100 > most * self.share:  # noqa: PLR2004 — percent
                raise Transient(
                    f"{used} of the organization's {most} API requests of the last 24 hours are used, more than the "
                    f"{self.share} % of sfdc.api.limit",
                    retry_after=LIMIT_PAUSE,
                )
        return answer

    def _asked(self, answer: Response) -> datetime:
        try:
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError, TypeError):
            return self.now()

    def _page(self, batch: Batch) -> Page:
        records = tuple(self._record(one) for one in batch.records)
        return Page(records, batch.asked, last=batch.done)

    def _record(self, value: Json) -> Json:
        """*value* without its address, which changes with the version, and without what is empty."""
        kept: Json = {}
        for name, one in value.items():
            if name == "attributes" and isinstance(one, dict):
                kept[name] = {"type": one.get("type")}
            elif isinstance(one, dict):
                kept[name] = self._record(one)
            elif one is not None or self.nulls:
                kept[name] = one
        return kept


@contextmanager
def _refusing(name: str) -> Generator[None]:
    """What cannot be asked of the object *name* is `Refused`."""
    try:
        yield
    except ValueError as error:
        raise Refused(f"{name}: {error}") from error


def _selected(asked: str, known: Types) -> list[str]:
    """The fields to ask for: those *asked* for, or all that a list can hold, and those that polling needs."""
    spelling = {name.lower(): name for name in known}
    needed = [name for name in (ID, CREATED, MODIFIED, STAMP, DELETED) if name.lower() in spelling]
    if not asked:
        rest = [name for name, kind in known.items() if kind not in _UNREAD]
    else:
        rest = [spelling.get(one.lower(), one) for one in _fields(asked)]
        unknown = [one for one in rest if "." not in one and one.lower() not in spelling]
        if unknown:
            raise ValueError(f"there is no field {', '.join(unknown)}, or it may not be read")
    return list(dict.fromkeys([*needed, *rest]))


def _fields(asked: str) -> list[str]:
    return [soql.field(one.strip()) for one in asked.split(",") if one.strip()]


def _order(asked: str) -> list[str]:
    """`Name desc, Id` as SOQL has it; raises `ValueError`."""
    order = []
    for part in asked.split(","):
        name, _, way = part.strip().partition(" ")
        if not name:
            continue
        way = way.strip().upper()
        if way not in ("", "ASC", "DESC"):
            raise ValueError(f"{part.strip()[:80]!r} should be a field, then asc or desc")
        order.append(f"{soql.field(name)} {way}".strip())
    return order


def _behind(stamp: str | None, mark: Mark) -> str:
    if stamp is None or mark.stamp is None:
        return f"{ID} > {soql.text(mark.id)}"
    return soql.after(stamp, soql.literal(mark.stamp, "datetime"), mark.id)


def _mark(record: Any, stamp: str | None) -> Mark:
    found = text(find(record, ID))
    if found is None:
        raise Refused("Salesforce's answer has a record without an Id")
    return Mark(text(find(record, stamp)) if stamp else None, found)


def _since(row: Json, start: datetime) -> bool:
    """Whether a deletion is not older than *start*: seconds that were cut off made the question wider."""
    when = _moment(row.get("deletedDate"))
    return when is None or when >= start


def _moment(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, TypeError):
        return None


def _written(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00}"


def _code(error: Refused) -> str:
    """Salesforce's own code for what went wrong, or nothing."""
    found = _CODE.search(error.body)
    return found[1].decode() if found else ""


def _json(answer: Response) -> Any:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise Transient(f"Salesforce answered {answer.status} without JSON") from error
