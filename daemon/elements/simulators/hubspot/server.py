"""A simulated HubSpot: the CRM API as HubSpot documents it, and its traps.

    GET  /oauth/authorize                    a person who grants access at once
    POST /oauth/{v1,v3,2026-03}/token        codes (60 s), access tokens (30 minutes), refresh tokens that stay
    …    /crm/v3/objects/{kind}[/{id}]       lists (`archived`, `after`), records; also as /crm/objects/2026-03/{kind}
    POST …/search                            five groups of six filters, one sort, 200 on a page, 10,000 in all; the index lags
    POST …/batch/{read,create,update,archive}, …/merge
    …    /simulator/…                        change records, let tokens expire, faults, webhooks: without any token

Kinds are contacts, companies, deals, tickets, products, line_items.  Changes are posted as webhooks once there is a
target.  The facts and where they come from: docs/elements/hubspot.md.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from daemon.elements.simulators import serving
from daemon.elements.simulators.hubspot.api import Api, Handler, body_of, limited, problem
from daemon.elements.simulators.hubspot.hooks import WAITS, Poster
from daemon.elements.simulators.hubspot.records import SINGULAR, TYPES, Records, Row
from daemon.elements.simulators.ledger import Now, system_clock
from daemon.elements.simulators.tokens import Tokens
from daemon.model import Json

ACCESS_SECONDS = 1800.0
REFRESH_SECONDS = 100 * 365 * 86400.0  # until the app is uninstalled
PRIVATE_TOKEN = "pat-na1-11111111-2222-3333-4444-555555555555"  # noqa: S105 — the simulator's, and in its documentation
CLIENT_SECRET = "hubspot-secret"  # noqa: S105 — likewise
PORTAL = 62515


class HubSpot:
    """The simulated server; see `running`.

    *client_id* is held to when it is given, *client_secret* always: webhooks are signed with it.  With *rotating*
    each refresh brings a new refresh token, which HubSpot does not promise not to do.  *waits* are the seconds
    between attempts to post a webhook.
    """

    def __init__(
        self,
        *,
        client_id: str | None = None,
        client_secret: str = CLIENT_SECRET,
        private_tokens: Sequence[str] = (PRIVATE_TOKEN,),
        portal: int = PORTAL,
        access_seconds: float = ACCESS_SECONDS,
        rotating: bool = False,
        waits: Sequence[float] = WAITS,
        now: Now = system_clock,
    ) -> None:
        self.records = {kind: Records(kind, now) for kind in TYPES}
        self.requests: deque[tuple[str, str]] = deque(maxlen=10_000)
        """Method and path with query of the latest requests to the API and the token addresses."""
        self.tokens = Tokens(
            now=now,
            access_seconds=access_seconds,
            refresh_seconds=REFRESH_SECONDS,
            client=(client_id, client_secret),
        )
        self.private_tokens = set(private_tokens)
        self.webhooks = Poster(
            secret=client_secret, portal=portal, app=1160452, now=now, waits=waits
        )
        self.search_limit: int | None = None
        """Searches in a second; None: as many as one likes.  HubSpot: 5."""
        self.limit: int | None = None
        """Other requests in ten seconds.  HubSpot: 100 to 190."""
        self._portal = portal
        self._rotating = rotating
        self._now = now
        self._failures: deque[tuple[int, str | None]] = deque()
        self._slow: deque[float] = deque()
        self._times: dict[str, deque[datetime]] = {"search": deque(), "other": deque()}
        self.app = self._application()

    @asynccontextmanager
    async def running(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
        """Serve and post; the value is the origin.  Raises `OSError` when the port is taken."""
        async with serving(self.app, host=host, port=port) as origin, self.webhooks.running():
            yield origin

    def grant(self, redirect: str = "") -> str:
        """An authorization code, as if a person had just granted access."""
        return self.tokens.grant(redirect)

    def honour(self, code: str) -> None:
        """Take *code* (the one in an example) for a granted one, for as long as the server runs."""
        self.tokens.honour(code)

    def expire_access(self) -> None:
        """Let every access token be too old from now on."""
        self.tokens.access.clear()

    def revoke(self) -> None:
        """Let the account uninstall the app: no token is any good."""
        self.tokens.access.clear()
        self.tokens.refresh.clear()

    def fail(self, status: int, *, times: int = 1, retry_after: str | None = None) -> None:
        """Answer the next *times* requests to the API with *status*."""
        self._failures.extend([(status, retry_after)] * times)

    def slow(self, seconds: float, *, times: int = 1) -> None:
        """Let the next *times* requests to the API wait."""
        self._slow.extend([seconds] * times)

    def lag(self, seconds: float) -> None:
        """Let what changes from now on be found by a search only after *seconds*."""
        for records in self.records.values():
            records.lag = seconds

    def create(self, kind: str, /, **fields: Any) -> Json:
        """Add a record."""
        row = self.records[kind].create(fields)
        return self._told(kind, "creation", row, changeFlag="NEW")

    def update(self, kind: str, record_id: str, /, **fields: Any) -> Json:
        """Change a record; raises `KeyError` where there is none.  Each property is an event of its own."""
        row = self.records[kind].update(int(record_id), fields)
        for name, value in fields.items():
            self._told(kind, "propertyChange", row, propertyName=name, propertyValue=str(value))
        return self.records[kind].shown(row)

    def delete(self, kind: str, record_id: str, *, privacy: bool = False) -> Json:
        """Archive a record; raises `KeyError` where there is none.  *privacy* is a deletion for good."""
        row = self.records[kind].delete(int(record_id))
        if privacy:
            del self.records[kind].archived[row.id]
            self._told(kind, "privacyDeletion", row)
        return self._told(kind, "deletion", row, changeFlag="DELETED")

    def restore(self, kind: str, record_id: str) -> Json:
        """Bring an archived record back; raises `KeyError` where there is none."""
        return self._told(kind, "restore", self.records[kind].restore(int(record_id)))

    def merge(self, kind: str, winner_id: str, loser_id: str, *, as_new: bool = False) -> Json:
        """Merge the second record into the first; raises `KeyError` where one is missing."""
        row = self.records[kind].merge(int(winner_id), int(loser_id), as_new=as_new)
        facts = {"primaryObjectId": int(winner_id), "mergedObjectIds": [int(loser_id)]}
        moved = {"newObjectId": row.id, "numberOfPropertiesMoved": len(row.fields)}
        return self._told(kind, "merge", row, **facts, **moved)

    def associate(
        self, kind: str, record_id: str, to_kind: str, to_id: str, *, removed: bool = False
    ) -> None:
        """Tell of an association, once from each side."""
        sides = ((kind, record_id, to_kind, to_id), (to_kind, to_id, kind, record_id))
        for one, one_id, other, other_id in sides:
            names = f"{SINGULAR[one]}_TO_{SINGULAR[other]}".upper()
            self.webhooks.tell(
                f"{SINGULAR[one]}.associationChange",
                self._now(),
                associationType=names,
                fromObjectId=int(one_id),
                toObjectId=int(other_id),
                associationRemoved=removed,
                isPrimaryAssociation=False,
                changeSource="USER",
            )

    def _told(self, kind: str, what: str, row: Row, **facts: object) -> Json:
        """Post what happened to *row*; the record as the API shows it."""
        at = row.archived or row.updated
        who = {"objectId": row.id, "changeSource": "CRM_UI", "sourceId": "userId:882761034"}
        self.webhooks.tell(f"{SINGULAR[kind]}.{what}", at, **who, **facts)
        return self.records[kind].shown(row)

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=10 * 1024 * 1024)
        routes = [web.get("/oauth/authorize", self._authorize)]
        routes += [web.post(f"/oauth/{one}/token", self._token) for one in ("v1", "v3", "2026-03")]
        routes.append(web.get("/oauth/v1/access-tokens/{token}", self._metadata))
        routes += Api(self, self._now).routes(self._guarded)
        routes += [
            web.put("/simulator/webhook", self._put_webhook),
            web.get("/simulator/deliveries", self._delivered),
            web.post("/simulator/expire", self._expire),
            web.put("/simulator/faults", self._put_faults),
            web.get("/simulator/requests", self._seen),
        ]
        app.add_routes(routes)
        app.on_response_prepare.append(self._dated)
        return app

    async def _dated(self, request: web.Request, answer: web.StreamResponse) -> None:
        answer.headers["Date"] = format_datetime(self._now(), usegmt=True)

    async def _authorize(self, request: web.Request) -> web.Response:
        redirect = request.query.get("redirect_uri", "")
        if not redirect or not request.query.get("scope"):
            return problem(400, "redirect_uri and scope are needed", "VALIDATION_ERROR")
        answer = {"code": self.grant(redirect), "state": request.query.get("state", "")}
        given = urlencode({name: value for name, value in answer.items() if value})
        raise web.HTTPFound(f"{redirect}{'&' if '?' in redirect else '?'}{given}")

    async def _token(self, request: web.Request) -> web.Response:
        self.requests.append(("POST", request.path))
        form = await request.post()
        old = str(form.get("refresh_token", ""))
        kept = self.tokens.refresh.get(old)
        answer = self.tokens.answer(form)
        if answer.status != 200 or not isinstance(answer.body, bytes):  # noqa: PLR2004 — HTTP's OK
            return answer
        told = orjson.loads(answer.body)
        if kept is not None and not self._rotating:
            del self.tokens.refresh[told["refresh_token"]]
            self.tokens.refresh[old], told["refresh_token"] = kept, old
        del told["refresh_token_expires_in"], told["scope"]
        told |= {"hub_id": self._portal, "user_id": 123, "scopes": ["oauth"]}
        return web.json_response(told)

    async def _metadata(self, request: web.Request) -> web.Response:
        token = request.match_info["token"]
        if not self.tokens.good(token):
            return problem(404, "the token is unknown", "OBJECT_NOT_FOUND")
        told = {"token": token, "hub_id": self._portal, "app_id": 1160452, "user_id": 123}
        rest = {"hub_domain": "demo.hubspot.com", "scopes": ["oauth"], "token_type": "access"}
        return web.json_response({**told, **rest, "expires_in": int(ACCESS_SECONDS)})

    def _guarded(self, handler: Handler, kind: str) -> Handler:
        """*handler* behind the token, the rate limits and whatever fault was asked for."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.method, request.path_qs))
            if self._slow:
                await asyncio.sleep(self._slow.popleft())
            if self._failures:
                status, retry_after = self._failures.popleft()
                answer = limited() if status == 429 else problem(status, "asked for", "SIMULATED")  # noqa: PLR2004 — Too Many Requests
                if retry_after is not None:
                    answer.headers["Retry-After"] = retry_after
                return answer
            if "hapikey" in request.query:
                return problem(401, "API keys are no longer supported", "INVALID_AUTHENTICATION")
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not self.tokens.good(token) and token not in self.private_tokens:
                return problem(401, "the OAuth token used is expired", "EXPIRED_AUTHENTICATION")
            left = self._take(kind)
            if left is not None and left < 0:
                return limited("SECONDLY" if kind == "search" else "TEN_SECONDLY_ROLLING")
            given = await handler(request)
            if kind != "search":
                given.headers["X-HubSpot-RateLimit-Max"] = str(self.limit or 110)
                given.headers["X-HubSpot-RateLimit-Remaining"] = str(109 if left is None else left)
                given.headers["X-HubSpot-RateLimit-Interval-Milliseconds"] = "10000"
            return given

        return guarded

    def _take(self, kind: str) -> int | None:
        """Count a request; how many more are free in this while, less than 0 for one too many."""
        limit, seconds = (self.search_limit, 1) if kind == "search" else (self.limit, 10)
        if limit is None:
            return None
        times, now = self._times[kind], self._now()
        while times and times[0] <= now - timedelta(seconds=seconds):
            times.popleft()
        if len(times) >= limit:
            return -1
        times.append(now)
        return limit - len(times)

    async def _put_webhook(self, request: web.Request) -> web.Response:
        """Take an address to post to; HubSpot asks it nothing."""
        body = await body_of(request)
        self.webhooks.target = str(body["url"]) if body.get("url") else None
        self.webhooks.duplicates = int(body.get("duplicates", 0))
        self.webhooks.reordered = bool(body.get("reordered", False))
        return web.json_response({"url": self.webhooks.target})

    async def _delivered(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"events": one.events, "attempt": one.attempt, "outcome": one.outcome}
                for one in self.webhooks.deliveries
            ]
        )

    async def _expire(self, request: web.Request) -> web.Response:
        self.expire_access()
        return web.Response(status=204)

    async def _put_faults(self, request: web.Request) -> web.Response:
        """`status` with `times` and `retryAfter`, `slow` with `times`, `lag`, `searchLimit`, `limit`."""
        body = await body_of(request)
        times = int(body.get("times", 1))
        if "status" in body:
            after = body.get("retryAfter")
            retry_after = None if after is None else str(after)
            self.fail(int(body["status"]), times=times, retry_after=retry_after)
        if "slow" in body:
            self.slow(float(body["slow"]), times=times)
        if "lag" in body:
            self.lag(float(body["lag"]))
        self.search_limit = body.get("searchLimit", self.search_limit)
        self.limit = body.get("limit", self.limit)
        return web.Response(status=204)

    async def _seen(self, request: web.Request) -> web.Response:
        return web.json_response(
            [{"method": method, "path": path} for method, path in self.requests]
        )
