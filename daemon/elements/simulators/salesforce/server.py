"""A simulated Salesforce: OAuth, the REST API with SOQL, outbound messages, and the traps of the real one.

    …    /services/oauth2/{authorize,token}    codes, refresh tokens (rotated on request), client credentials
    GET  /services/data                        versions 31.0 to 67.0; older ones are gone (410)
    GET  /services/data/vN/{query,queryAll}    batches of 2,000, locators that expire
    …    /services/data/vN/sobjects/…          create, read, update, delete, describe, getUpdated, getDeleted
    …    /simulator/…                          change records, commit late, expire, fail, post: without any token

Stamps are whole seconds; getDeleted cuts the seconds off its times.  The facts: docs/elements/salesforce.md.
"""

import asyncio
import base64
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from aiohttp import web

from daemon.elements.simulators import beside, serving
from daemon.elements.simulators.ledger import Now, moment, system_clock
from daemon.elements.simulators.salesforce.messages import Messages
from daemon.elements.simulators.salesforce.org import Org, OrgError
from daemon.elements.simulators.salesforce.query import (
    Fields,
    QueryError,
    Row,
    Selection,
    select,
    stamped,
)
from daemon.elements.simulators.salesforce.sessions import ORGANIZATION, USER, Sessions
from daemon.elements.simulators.tokens import Grant
from daemon.model import Json

OLDEST, NEWEST = 31, 67
BATCH = 2000
SMALLEST_BATCH = 200
SESSION_SECONDS = 7200.0
LOCATOR_SECONDS = 2 * 86400.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Salesforce:
    """The simulated server; see `running`.

    *client_id* and *client_secret* are held to when they are given.  With *rotate* a refresh token is good for one
    use, and its use a second time ends the session.  *batch* is the most that one answer of a query holds,
    *allowance* the requests of a day, *scale* shortens the waits between attempts to post.
    """

    def __init__(
        self,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        rotate: bool = False,
        session_seconds: float = SESSION_SECONDS,
        batch: int = BATCH,
        allowance: int = 100_000,
        objects: Mapping[str, tuple[str, Fields]] | None = None,
        scale: float = 1.0,
        now: Now = system_clock,
    ) -> None:
        self.org = Org(now=now, user=USER, objects=objects)
        self.messages = Messages(self.org, organization=ORGANIZATION, scale=scale)
        self.org.told = self.messages.changed
        self.requests: deque[tuple[str, str]] = deque(maxlen=1000)
        """Method and path with query of the latest requests to the API and the token address."""
        self.used = 0
        self.allowance = allowance
        self._now = now
        self.sessions = Sessions(
            now=now, seconds=session_seconds, rotate=rotate, client=(client_id, client_secret)
        )
        self._batch = batch
        self._locators: dict[str, tuple[datetime, Selection, list[Row]]] = {}
        self.seen = 0
        """Requests to the API, refused ones too."""
        self._due: list[tuple[int, Callable[[], None]]] = []
        self._failures: deque[tuple[int, str, float, str | None]] = deque()
        self.app = self._application()

    @asynccontextmanager
    async def running(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
        """Serve and post; the value is the origin.  Raises `OSError` when the port is taken."""
        async with serving(self.app, host=host, port=port) as origin, beside(self.messages.run()):
            yield origin

    def grant(self, redirect: str = "") -> str:
        """An authorization code, good once within 15 minutes, and only with *redirect* where that is given."""
        return self.sessions.grant(redirect)

    def honour(self, code: str) -> None:
        """Take *code* (the one in an example) for a granted one, for as long as the server runs."""
        self.sessions.codes[code] = Grant(self._in(365 * 86400.0))

    def session(self) -> str:
        """An access token."""
        return self.sessions.session()

    def expire_access(self) -> None:
        """Let every session be over."""
        self.sessions.access.clear()

    def revoke(self) -> None:
        """Let a person take the grant back: no token is any good."""
        self.sessions.access.clear()
        self.sessions.refresh.clear()

    def expire_locators(self) -> None:
        """Let every query that is not read to its end be forgotten."""
        self._locators.clear()

    def after(self, requests: int, happens: Callable[[], None]) -> None:
        """Let something happen (`expire_access`, `expire_locators`) once so many more requests to the API have come."""
        self._due.append((self.seen + requests, happens))

    def fail(
        self,
        status: int,
        *,
        code: str = "UNKNOWN_EXCEPTION",
        times: int = 1,
        slow: float = 0.0,
        retry_after: str | None = None,
    ) -> None:
        """Answer the next *times* requests to the API with *status* and the error *code*, after *slow* seconds.

        A status of 200 answers them as usual, but slowly.
        """
        self._failures.extend([(status, code, slow, retry_after)] * times)

    def create(self, kind: str, *, late: float = 0.0, **fields: Any) -> Json:
        """Insert a record, committed *late* seconds after its date."""
        return self.org.create(kind, fields, late=late)

    def update(self, kind: str, record_id: str, *, late: float = 0.0, **fields: Any) -> Json:
        """Change a record."""
        return self.org.update(kind, record_id, fields, late=late)

    def delete(self, kind: str, record_id: str, *, hard: bool = False, late: float = 0.0) -> None:
        """Delete a record; with *hard* past the recycle bin."""
        if hard:
            self.org.purge(kind, record_id)
        else:
            self.org.delete(kind, record_id, late=late)

    def undelete(self, kind: str, record_id: str) -> Json:
        """Take a record out of the recycle bin."""
        return self.org.undelete(kind, record_id)

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        data = r"/services/data/v{version:\d+\.0}"
        routes = [
            web.get("/services/oauth2/authorize", self._authorize),
            web.post("/services/oauth2/token", self._token),
            web.get("/services/data", self._versions),
            web.get("/services/data/", self._versions),
        ]
        for method, path, handler in (
            ("GET", "/{which:query|queryAll}", self._query),
            ("GET", "/{which:query|queryAll}/", self._query),
            ("GET", "/{which:query|queryAll}/{locator}", self._more),
            ("GET", "/limits", self._limits),
            ("GET", "/limits/", self._limits),
            ("GET", "/sobjects", self._describe_all),
            ("POST", "/sobjects/{kind}", self._create),
            ("POST", "/sobjects/{kind}/", self._create),
            ("GET", "/sobjects/{kind}/describe", self._describe),
            ("GET", "/sobjects/{kind}/{log:deleted|updated}", self._changes),
            ("GET", "/sobjects/{kind}/{log:deleted|updated}/", self._changes),
            ("GET", "/sobjects/{kind}/{id}", self._get),
            ("PATCH", "/sobjects/{kind}/{id}", self._patch),
            ("DELETE", "/sobjects/{kind}/{id}", self._delete),
        ):
            routes.append(web.route(method, data + path, self._guarded(handler)))
        for method, path, handler in (
            ("POST", "/{kind:[A-Z][A-Za-z0-9_]*}", self._create),
            ("PATCH", "/{kind:[A-Z][A-Za-z0-9_]*}/{id}", self._patch),
            ("DELETE", "/{kind:[A-Z][A-Za-z0-9_]*}/{id}", self._delete),
            ("POST", "/{kind:[A-Z][A-Za-z0-9_]*}/{id}/undelete", self._undelete),
            ("POST", "/expire", self._expire),
            ("POST", "/fail", self._fail),
            ("PUT", "/outbound", self._outbound),
            ("PUT", "/apex", self._apex),
            ("GET", "/deliveries", self._delivered),
            ("GET", "/requests", self._seen),
        ):
            routes.append(web.route(method, "/simulator" + path, _stating(handler)))
        app.add_routes(routes)
        return app

    # OAuth.

    async def _authorize(self, request: web.Request) -> web.Response:
        redirect = request.query.get("redirect_uri", "")
        if not redirect or request.query.get("response_type") != "code":
            return web.Response(
                status=400, text="error=invalid_request: redirect_uri and response_type=code"
            )
        answer = {"code": self.grant(redirect), "state": request.query.get("state", "")}
        given = urlencode({name: value for name, value in answer.items() if value})
        raise web.HTTPFound(f"{redirect}{'&' if '?' in redirect else '?'}{given}")

    async def _token(self, request: web.Request) -> web.Response:
        self.requests.append(("POST", "/services/oauth2/token"))
        form = dict(await request.post())
        given = request.headers.get("Authorization", "")
        if given.startswith("Basic "):  # a client may say who it is in the body or so
            basic = aiohttp.BasicAuth.decode(given)
            form |= {"client_id": basic.login, "client_secret": basic.password}
        return self.sessions.answer(form, f"{request.scheme}://{request.host}")

    # The REST API.

    def _guarded(self, handler: Handler) -> Handler:
        """*handler* behind the version, the session, the allowance and whatever failure was asked for."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.method, request.path_qs))
            self._happen()
            version = float(request.match_info["version"])
            if version < OLDEST:
                return _problem(410, "UNSUPPORTED_API_VERSION", f"API version {version} is retired")
            if version > NEWEST:
                return _problem(404, "NOT_FOUND", "The requested resource does not exist")
            if self._failures:
                status, code, slow, retry_after = self._failures.popleft()
                await asyncio.sleep(slow)
                if status != 200:  # noqa: PLR2004 — HTTP's OK
                    answer = _problem(status, code, "asked for")
                    if retry_after is not None:
                        answer.headers["Retry-After"] = retry_after
                    return answer
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not self.sessions.good(token):
                return _problem(401, "INVALID_SESSION_ID", "Session expired or invalid")
            if self.used >= self.allowance:
                return _problem(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
            self.used += 1
            response = await _stating(handler)(request)
            response.headers["Sforce-Limit-Info"] = f"api-usage={self.used}/{self.allowance}"
            response.headers["Date"] = format_datetime(self._now().astimezone(UTC), usegmt=True)
            return response

        return guarded

    def _happen(self) -> None:
        """Count a request, and let happen what waits for it."""
        self.seen += 1
        now = [happens for at, happens in self._due if at < self.seen]
        self._due = [one for one in self._due if one[0] >= self.seen]
        for happens in now:
            happens()

    async def _versions(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"label": f"v{n}", "url": f"/services/data/v{n}.0", "version": f"{n}.0"}
                for n in range(OLDEST, NEWEST + 1)
            ]
        )

    async def _query(self, request: web.Request) -> web.Response:
        try:
            selection = select(request.query.get("q", ""), self.org.fields)
        except QueryError as error:
            return _problem(400, error.code, str(error))
        records = self.org.records(
            selection.kind, deleted=request.match_info["which"] == "queryAll"
        )
        rows = selection.rows(records, self.org.fields[selection.kind])
        if selection.fields is None:
            return web.json_response({"totalSize": len(rows), "done": True, "records": []})
        # What was selected is fixed now; the locator only leads on through it.
        locator = f"01g{base64.b32encode(secrets.token_bytes(9)).decode()[:15]}"
        self._locators[locator] = (self._in(LOCATOR_SECONDS), selection, rows)
        return self._rows(request, locator, 0)

    async def _more(self, request: web.Request) -> web.Response:
        locator, _, start = request.match_info["locator"].rpartition("-")
        if locator not in self._locators or not start.isdecimal():
            return _problem(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        return self._rows(request, locator, int(start))

    def _rows(self, request: web.Request, locator: str, start: int) -> web.Response:
        until, selection, rows = self._locators[locator]
        if until < self._now():
            return _problem(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        data = f"/services/data/v{request.match_info['version']}"
        asked = request.headers.get("Sforce-Query-Options", "").partition("batchSize=")[2]
        size = int(asked) if asked.isdecimal() else BATCH
        size = min(max(size, SMALLEST_BATCH), BATCH, self._batch)
        end = start + size
        answer: Json = {"totalSize": len(rows), "done": end >= len(rows)}
        if end < len(rows):
            which = request.match_info["which"]
            answer["nextRecordsUrl"] = f"{data}/{which}/{locator}-{end}"
        else:
            del self._locators[locator]
        answer["records"] = [
            _record(data, selection.kind, row, selection.fields or ()) for row in rows[start:end]
        ]
        return web.json_response(answer)

    async def _limits(self, request: web.Request) -> web.Response:
        left = self.allowance - self.used
        return web.json_response({"DailyApiRequests": {"Max": self.allowance, "Remaining": left}})

    async def _describe_all(self, request: web.Request) -> web.Response:
        kinds = [self._about(name) for name in self.org.objects]
        return web.json_response({"maxBatchSize": SMALLEST_BATCH, "sobjects": kinds})

    async def _describe(self, request: web.Request) -> web.Response:
        kind = self.org.kind(request.match_info["kind"])
        fields = [
            {"name": name, "type": type_, "nillable": type_ != "boolean"}
            for name, type_ in self.org.fields[kind].items()
        ]
        return web.json_response({**self._about(kind), "fields": fields})

    def _about(self, kind: str) -> Json:
        deletable = "IsDeleted" in self.org.fields[kind]
        flags = {"queryable": True, "replicateable": True, "undeletable": deletable}
        return {
            "name": kind,
            "keyPrefix": self.org.objects[kind][0],
            "custom": kind.endswith("__c"),
            **flags,
        }

    async def _changes(self, request: web.Request) -> web.Response:
        """getDeleted and getUpdated."""
        kind = self.org.kind(request.match_info["kind"])
        try:
            start, end = (
                moment(request.query[name]).replace(second=0, microsecond=0)
                for name in ("start", "end")
            )
        except (KeyError, ValueError):
            return _problem(400, "INVALID_FIELD", "start and end should be dates")
        if end - start < timedelta(minutes=1):
            message = "endDate must follow startDate by more than one minute"
            return _problem(400, "INVALID_REPLICATION_DATE", message)
        begins = self.org.log_begins()
        if start < begins:
            message = f"startDate before the data that is available: {stamped(begins)}"
            return _problem(400, "INVALID_REPLICATION_DATE", message)
        until = min(end, self.org.covered())
        if request.match_info["log"] == "updated":
            ids = self.org.changed(kind, start, end)
            return web.json_response({"ids": ids, "latestDateCovered": stamped(until)})
        gone = [
            {"id": record_id, "deletedDate": stamped(when)}
            for record_id, when in self.org.gone(kind, start, end)
        ]
        return web.json_response(
            {
                "deletedRecords": gone,
                "earliestDateAvailable": stamped(begins),
                "latestDateCovered": stamped(until),
            }
        )

    async def _get(self, request: web.Request) -> web.Response:
        kind = self.org.kind(request.match_info["kind"])
        record = self.org.record(kind, request.match_info["id"])
        data = f"/services/data/v{request.match_info['version']}"
        asked = request.query.get("fields", "")
        fields = tuple(asked.split(",")) if asked else tuple(self.org.fields[kind])
        return web.json_response(_record(data, kind, record, fields))

    async def _create(self, request: web.Request) -> web.Response:
        fields = await _fields(request)
        late = float(request.query.get("late", 0))
        record = self.org.create(request.match_info["kind"], fields, late=late)
        return web.json_response({"id": record["Id"], "success": True, "errors": []}, status=201)

    async def _patch(self, request: web.Request) -> web.Response:
        late = float(request.query.get("late", 0))
        self.org.update(
            request.match_info["kind"],
            request.match_info["id"],
            await _fields(request),
            late=late,
        )
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        self.delete(
            request.match_info["kind"],
            request.match_info["id"],
            hard=request.query.get("hard") == "true",
        )
        return web.Response(status=204)

    # What only a simulator has.

    async def _undelete(self, request: web.Request) -> web.Response:
        self.undelete(request.match_info["kind"], request.match_info["id"])
        return web.Response(status=204)

    async def _expire(self, request: web.Request) -> web.Response:
        self.expire_access()
        if request.query.get("locators") == "true":
            self.expire_locators()
        return web.Response(status=204)

    async def _fail(self, request: web.Request) -> web.Response:
        given = await _fields(request)
        self.fail(
            int(given.get("status", 500)),
            code=str(given.get("code", "UNKNOWN_EXCEPTION")),
            times=int(given.get("times", 1)),
            slow=float(given.get("slow", 0)),
            retry_after=given.get("retry_after"),
        )
        return web.Response(status=204)

    async def _outbound(self, request: web.Request) -> web.Response:
        given = await _fields(request)
        self.messages.url = given.get("url")
        self.messages.objects = tuple(given.get("objects", ()))
        self.messages.duplicate = bool(given.get("duplicate"))
        self.messages.reverse = bool(given.get("reverse"))
        return web.json_response({"url": self.messages.url})

    async def _apex(self, request: web.Request) -> web.Response:
        given = await _fields(request)
        self.messages.apex_url = given.get("url")
        instances = str(given.get("instances", ""))
        self.messages.apex_headers = {"Element-Instances": instances} if instances else {}
        return web.json_response({"url": self.messages.apex_url})

    async def _delivered(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "ids": one.ids,
                    "attempt": one.attempt,
                    "outcome": one.outcome,
                    "accepted": one.accepted,
                }
                for one in self.messages.deliveries
            ]
        )

    async def _seen(self, request: web.Request) -> web.Response:
        return web.json_response(
            [{"method": method, "path": path} for method, path in self.requests]
        )

    def _in(self, seconds: float) -> datetime:
        return self._now() + timedelta(seconds=seconds)


def _record(data: str, kind: str, row: Mapping[str, Any], fields: tuple[str, ...]) -> Json:
    attributes = {"type": kind, "url": f"{data}/sobjects/{kind}/{row['Id']}"}
    return {"attributes": attributes, **{name: row.get(name) for name in fields}}


def _stating(handler: Handler) -> Handler:
    """*handler*, with what the organization refuses as Salesforce writes it."""

    async def stating(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except OrgError as error:
            return _problem(error.status, error.code, str(error))

    return stating


async def _fields(request: web.Request) -> dict[str, Any]:
    body = await request.json(loads=orjson.loads)
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="a record is an object")
    return body


def _problem(status: int, code: str, message: str) -> web.Response:
    return web.json_response([{"message": message, "errorCode": code}], status=status)
