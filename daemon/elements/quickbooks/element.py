"""QuickBooks Online (Intuit): a company's names and transactions, by query, by change data capture, by webhook.

A poll reads what changed by a query, in the order of the changes, and asks change data capture (CDC) what was deleted:
no query shows that.  Webhooks say only which record changed, so they wake the poller.  What Intuit does, and where it
says so: docs/elements/quickbooks.md.

    definition.toml       what is plain: addresses, OAuth, resources
    language   names and the query language
    hooks      what webhooks say
"""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from daemon.elements import hooks
from daemon.elements.address import with_query
from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.elements.quickbooks.hooks import told
from daemon.elements.quickbooks.language import (
    NOT_CAPTURED,
    Term,
    changed_since,
    count_statement,
    entity,
    inactive,
    quoted,
    read_time,
    statement,
    terms,
    written,
)
from daemon.errors import DeletionsLost, Invalid, Refused, Transient
from daemon.model import Incoming, Json, Page, Query, Received, Request, Response
from daemon.plans import compile_plans, unfilled

SANDBOX = "https://sandbox-quickbooks.api.intuit.com"
MINOR_VERSION = "75"  # the least that Intuit still supports
REALM = "realm.id"
OTHER_REALM = "quickbooks.realm.id"
VERIFIER = "quickbooks.verifier.token"
IN_SANDBOX = "quickbooks.sandbox"
VERSIONED = "quickbooks.id.version"
MOST = 1000  # records on a page, and objects in a capture
RETRIES = 5  # of a walk within one second's changes, when they move
TOO_MANY = 429
THROTTLED = 60.0  # seconds: Intuit names this wait, and no header
LOOK_BACK = timedelta(days=30) - timedelta(minutes=10)
"""How far back the CDC sees; a little less, for a poll takes time and clocks differ."""

_DIGITS = re.compile(r"[0-9]{1,30}")
# What the platform itself understood in a poller's url; none of it means anything to Intuit.
_OURS = frozenset({"where", "fields", "orderBy", "page", "pageSize", "nextPage"})


class QuickBooks(Defined):
    """The element; what is plain about it is in definition.toml."""

    def check_settings(self, settings: Settings) -> None:
        """Raise `Invalid` for settings that cannot work."""
        super().check_settings(settings)
        realm = _realm(settings)
        if realm and not _DIGITS.fullmatch(realm):
            raise Invalid({f"configuration.{REALM}": "should be digits: Intuit's realmId"})
        for key in (IN_SANDBOX, VERSIONED):
            if settings.get(key, "").lower() not in ("", "true", "false"):
                raise Invalid({f"configuration.{key}": "should be true or false"})
        if _is_true(settings, VERSIONED):
            wrong = {
                f"event.poller.configuration.{plan.resource}.idField": "should be systemId: with "
                f"{VERSIONED} a record's id is another after every change"
                for plan in compile_plans(settings, self.poller_defaults)
                if plan.id_path is None or plan.id_path.text == "id"
            }
            if wrong:
                raise Invalid(wrong)

    def check_query(self, query: Query) -> None:
        """Raise `Invalid` for a query that Intuit's language cannot say."""
        problems = {
            name: f"is not a parameter of {query.resource}; write conditions into where"
            for name, _ in query.parameters
            if name not in _OURS
        }
        try:
            entity(query.resource)
            terms(query.conditions)
        except Invalid as error:
            problems |= error.problems
        if problems:
            raise Invalid(problems)

    async def exchange(
        self, http: Http, settings: Settings, code: str, given: Mapping[str, str]
    ) -> dict[str, str]:
        """The settings that an authorization code brings, with the company's; raises `Invalid` without a realmId."""
        realm = given.get("realmId") or given.get("realm_id") or _realm(settings)
        if not _DIGITS.fullmatch(realm):
            # Said before the code is used up: it is good once.
            raise Invalid(
                {
                    "providerData.realmId": "is missing: Intuit gives it beside the code, as digits, when a person "
                    f"has granted access (or give {REALM} in the configuration)"
                }
            )
        tokens = await super().exchange(http, settings, code, given)
        return {**tokens, REALM: realm}

    # Reading.

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages that answer *query*, in the order of the changes."""
        try:
            self.check_query(query)
        except Invalid as error:
            raise Refused(str(error)) from error
        size = max(2, min(query.page_size or MOST, MOST))  # one to go by and one to go on
        return self._walk(http, settings, entity(query.resource), terms(query.conditions), size)

    def inventory(
        self, http: Http, settings: Settings, resource: str
    ) -> AsyncGenerator[Page] | None:
        """Yield all that exists, what is inactive included."""
        return self._walk(http, settings, _known(resource), [], MOST)

    def deletions(
        self, http: Http, settings: Settings, resource: str, since: datetime
    ) -> AsyncGenerator[Page] | None:
        """Yield what the CDC says was deleted; None for what it does not know."""
        name = _known(resource)
        return None if name in NOT_CAPTURED else self._captured(http, settings, name, since)

    async def gone(
        self, http: Http, settings: Settings, resource: str, object_id: str
    ) -> bool | None:
        """Whether no query finds the record; *object_id* may have its version behind it, `2|0`."""
        name = _known(resource)
        wanted = [Term("Id", "=", quoted(object_id.partition("|")[0])), *inactive(name, [])]
        body, _ = await self._asked(http, settings, statement(name, wanted, 1, 1))
        return not _rows(body, name)

    def deleted(self, resource: str, record: Json) -> bool:
        """Whether *record* carries Intuit's mark of a deleted one."""
        return _is_deleted(record)

    async def _walk(
        self, http: Http, settings: Settings, name: str, wanted: list[Term], size: int
    ) -> AsyncGenerator[Page]:
        """Pages in the order of the changes, each beginning at the second in which the last one ended.

        A record that changes during the walk moves to its end, and all behind it move up: by position, one of them
        would be missed.  Only what changed within one second is read by position, and there the last record of a page
        must be the first of the next.
        """
        wanted = [*wanted, *inactive(name, wanted)]
        floor: str | None = None
        edge: set[tuple[str, str]] = (
            set()
        )  # records of the second at *floor* that were there already
        start, anchor, retries = 1, "", 0
        while True:
            moved = [] if floor is None else [changed_since(_moment(floor))]
            body, asked = await self._asked(
                http, settings, statement(name, [*wanted, *moved], start, size)
            )
            rows = _rows(body, name)
            if anchor and (not rows or _id(rows[0]) != anchor):
                retries += 1
                if retries > RETRIES:
                    raise Transient(f"{name}: records moved {retries} times while they were read")
                start, anchor = 1, ""
                continue
            last = len(rows) < size
            fresh = [row for row in rows if _version(row) not in edge]
            yield Page(tuple(self._record(row, settings) for row in fresh), asked, last=last)
            if last:
                return
            stamps = [_stamp(row) for row in rows]
            ordered = all(stamps) and stamps == sorted(stamps, key=_moment)
            if ordered and (floor is None or _moment(stamps[-1]) > _moment(floor)):
                floor, start, anchor, retries = stamps[-1], 1, "", 0
                edge = {_version(row) for row in rows if _moment(_stamp(row)) == _moment(floor)}
                if len(edge) < size:
                    continue
            # One second, or an order that is none: by position, from the last record on.
            edge |= {_version(row) for row in rows}
            anchor = _id(rows[-1])
            start += size - 1

    async def _captured(
        self, http: Http, settings: Settings, name: str, since: datetime
    ) -> AsyncGenerator[Page]:
        """What was deleted since, for as long as the CDC's answers are full from the last change on.

        It is not documented which 1,000 it answers where there are more.  Are they the latest, then those before
        them are never shown, whatever is asked.
        """
        if self._now() - since > LOOK_BACK:
            raise DeletionsLost(f"{name}: the CDC looks back 30 days")
        seen: set[str] = set()
        live: set[str] = set()
        shown: set[tuple[str, str]] = set()
        start = since
        while True:
            pairs = [("entities", name), ("changedSince", written(start))]
            body, asked = await self._get(http, settings, "cdc", pairs)
            rows = [row for answer in _captures(body) for row in answer.get(name) or []]
            gone = [row for row in rows if _is_deleted(row) and _id(row) not in seen]
            live |= {_id(row) for row in rows if not _is_deleted(row)}
            seen |= {_id(row) for row in gone}
            versions = {(_id(row), _stamp(row)) for row in rows}
            if start != since and versions <= shown:
                raise DeletionsLost(f"{name}: the CDC shows its latest {MOST} changes only")
            shown |= versions
            full = len(rows) >= MOST
            latest = max((_moment(_stamp(row)) for row in rows if _stamp(row)), default=start)
            yield Page(tuple(self._record(row, settings) for row in gone), asked, last=not full)
            if not full:
                break
            if latest <= start:
                raise DeletionsLost(
                    f"{name}: {MOST} records changed within one second, more than the CDC shows"
                )
            start = latest
        if start != since:
            await self._complete(http, settings, name, since, live)

    async def _complete(
        self, http: Http, settings: Settings, name: str, since: datetime, live: set[str]
    ) -> None:
        """Raise `DeletionsLost` when the CDC showed fewer records that changed *since* than a query finds."""
        wanted = [changed_since(since), *inactive(name, [])]
        count = count_statement(name, wanted)
        body, _ = await self._asked(http, settings, count)
        found = body["QueryResponse"].get("totalCount") or 0
        if found > len(live):
            raise DeletionsLost(f"{name}: of {found} changed records the CDC shows {len(live)}")

    async def _asked(self, http: Http, settings: Settings, query: str) -> tuple[Json, datetime]:
        body, asked = await self._get(http, settings, "query", [("query", query)])
        if not isinstance(body.get("QueryResponse"), dict):
            raise Refused("QuickBooks answered a query without a QueryResponse")
        return body, asked

    async def _get(
        self, http: Http, settings: Settings, what: str, pairs: list[tuple[str, str]]
    ) -> tuple[Json, datetime]:
        """The JSON of an answer, and Intuit's time when it was given."""
        realm = _realm(settings)
        if not _DIGITS.fullmatch(realm):
            raise Refused(f"the instance has no {REALM}: grant access again, with realmId")
        origin = self.definition.connection.base if self.definition.connection else ""
        if _is_true(settings, IN_SANDBOX):
            origin = self.at(SANDBOX)
        url = with_query(
            f"{origin}/v3/company/{realm}/{what}", [*pairs, ("minorversion", MINOR_VERSION)]
        )
        try:
            answer = await http.send(Request("GET", url, {"Accept": "application/json"}))
        except Transient as error:
            if error.retry_after is None and (
                error.status == TOO_MANY or b"ThrottleExceeded" in error.body
            ):
                raise Transient(str(error), retry_after=THROTTLED, body=error.body) from error
            raise
        try:
            body = orjson.loads(answer.body)
        except orjson.JSONDecodeError as error:
            raise Transient(f"QuickBooks answered {answer.status} without JSON") from error
        if not isinstance(body, dict) or "Fault" in body:
            raise Refused(f"QuickBooks answered a fault: {_fault(body)}")
        return body, self._time(answer, body)

    def _time(self, answer: Response, body: Json) -> datetime:
        try:
            return read_time(body["time"])
        except (KeyError, ValueError):
            pass  # no body without it is known; the header is as good but for the fraction
        try:
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError, TypeError):
            return self._now()

    def _record(self, row: Json, settings: Settings) -> Json:
        """*row* as the platform wrote it: names with a small letter first, `systemId` beside `id`."""
        record: Json = _lowered(row)
        status = record.get("printStatus")
        if isinstance(status, str):
            record["printStatus"] = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", status).upper()
        record["systemId"] = record.get("id")
        if _is_true(settings, VERSIONED) and "syncToken" in record:
            record["id"] = f"{record['id']}|{record['syncToken']}"
        return record

    # Webhooks.

    def routes(self, incoming: Incoming) -> tuple[str, ...]:
        """The companies that a webhook speaks of, unverified."""
        return tuple(
            dict.fromkeys(one.route for one in told(self._parsed(incoming).value) if one.route)
        )

    def receive(self, incoming: Incoming, settings: Settings | None) -> Received:
        """Verify a webhook, in either format, and say which records it speaks of."""
        if self._verifier is not None:
            known = settings
            if settings is not None and not settings.get(VERIFIER):
                known = {**settings, VERIFIER: settings.get("signature.secret", "")}
            self._verifier.verify(incoming, known)
        body = self._parsed(incoming)
        return Received(events=tuple(told(body.value)), raw=body.raw, hint=True)

    def _parsed(self, incoming: Incoming) -> hooks.Body:
        if self.definition.webhook is None:
            raise Invalid({"element": f"{self.key} has no webhooks"})
        return hooks.parse(self.definition.webhook, incoming)


def _known(resource: str) -> str:
    try:
        return entity(resource)
    except Invalid as error:
        raise Refused(str(error)) from error


def _realm(settings: Settings) -> str:
    """The company's id; empty where there is none, or the documents' placeholder."""
    found = (settings.get(key) or "" for key in (REALM, OTHER_REALM))
    return next((one for one in found if one and not unfilled(one)), "")


def _rows(body: Json, name: str) -> list[Json]:
    found = body["QueryResponse"].get(name) or []
    return [row for row in found if isinstance(row, dict)]


def _captures(body: Json) -> Iterator[Json]:
    """Every `QueryResponse` of a CDC answer; an empty one is `{}`."""
    for response in body.get("CDCResponse") or []:
        yield from response.get("QueryResponse") or []


def _is_true(settings: Settings, key: str) -> bool:
    return settings.get(key, "").lower() == "true"


def _id(row: Json) -> str:
    return str(row.get("Id", ""))


def _version(row: Json) -> tuple[str, str]:
    return _id(row), str(row.get("SyncToken", ""))


def _stamp(row: Json) -> str:
    meta = row.get("MetaData")
    return str(meta.get("LastUpdatedTime") or "") if isinstance(meta, dict) else ""


def _is_deleted(row: Json) -> bool:
    return row.get("status") == "Deleted"


def _moment(stamp: str) -> datetime:
    """The moment of a stamp; raises `Refused` for one that cannot be read."""
    try:
        return read_time(stamp)
    except ValueError as error:
        raise Refused(f"QuickBooks wrote a time that cannot be read: {error}") from error


def _fault(body: Any) -> str:
    """What a fault says, for people."""
    try:
        error = body["Fault"]["Error"][0]
        return f"{error.get('code')}: {error.get('Message')}: {error.get('Detail')}"[:300]
    except (KeyError, IndexError, TypeError, AttributeError):
        return "which cannot be read"


def _lowered(value: Any) -> Any:
    """*value* with a small letter at the beginning of every name in it."""
    if isinstance(value, dict):
        return {name[:1].lower() + name[1:]: _lowered(one) for name, one in value.items()}
    return [_lowered(one) for one in value] if isinstance(value, list) else value
