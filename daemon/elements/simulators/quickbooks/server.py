"""A simulated QuickBooks Online: its OAuth, its accounting API for one company, and its webhooks.

    GET  /.well-known/openid_configuration     where everything is, as the SDK asks
    GET  /connect/oauth2                       a person who grants access at once: code, state and realmId
    POST /oauth2/v1/tokens/bearer              HTTP Basic; the refresh token changes about every 24 hours
    …    /v3/company/{realm}/{entity}[/{id}]   create, read, update (whole or sparse), void, delete
    …    /v3/company/{realm}/query             the query language, GET or POST
    GET  /v3/company/{realm}/cdc               change data capture: 30 days back, 1,000 objects
    …    /simulator/…                          change records, ask for faults, set the webhook: without any token

The facts and where they come from: docs/elements/quickbooks.md.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from daemon.elements.simulators import beside, serving
from daemon.elements.simulators.ledger import Now, system_clock
from daemon.elements.simulators.quickbooks.company import ENTITIES, MOST_CAPTURED, Company, Fault
from daemon.elements.simulators.quickbooks.hooks import PATIENCE, Posting
from daemon.elements.simulators.quickbooks.tokens import IntuitTokens
from daemon.model import Json

REALM = "4620816365291273850"
VERIFIER = "quickbooks-verifier"
PER_MINUTE = 500
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens to one request: a *status* instead of the answer, or a *wait* before it."""

    status: int = 0
    retry_after: str | None = None
    wait: float = 0.0


class QuickBooks:
    """The simulated server; see `running`.

    *client_id* and *client_secret* are held to when they are given; *per_minute* requests are answered in a minute
    (0: as many as come).  *scale* shortens the waits between attempts to post a webhook.
    """

    def __init__(
        self,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        realm: str = REALM,
        verifier: str = VERIFIER,
        per_minute: int = PER_MINUTE,
        scale: float = 1.0,
        patience: float = PATIENCE,
        offset: timedelta = timedelta(hours=-8),
        now: Now = system_clock,
    ) -> None:
        self.realm = realm
        self.posting = Posting(
            verifier=verifier, realm=realm, now=now, scale=scale, patience=patience
        )
        self.company = Company(now=now, tell=self.posting.tell, offset=offset)
        self.tokens = IntuitTokens(now=now, client=(client_id, client_secret))
        self.requests: deque[tuple[str, str]] = deque(maxlen=1000)
        """Method and path with query of the latest requests to the API and the token address."""
        self.most_captured = MOST_CAPTURED
        self.newest_first = False
        """Whether a capture that is too long keeps its latest objects instead of its earliest."""
        self._per_minute = per_minute
        self._now = now
        self._recent: deque[datetime] = deque(maxlen=10_000)
        self._troubles: deque[Trouble] = deque()
        self.app = self._application()

    @asynccontextmanager
    async def running(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
        """Serve and post; the value is the origin.  Raises `OSError` when the port is taken."""
        async with serving(self.app, host=host, port=port) as origin, beside(self.posting.run()):
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
        """Let a person take the grant back: no token is any good."""
        self.tokens.access.clear()
        self.tokens.refresh.clear()

    def fail(self, status: int, *, times: int = 1, retry_after: str | None = None) -> None:
        """Answer the next *times* requests to the API with *status*."""
        self._troubles.extend([Trouble(status, retry_after)] * times)

    def slow(self, seconds: float, *, times: int = 1) -> None:
        """Let the next *times* requests to the API wait."""
        self._troubles.extend([Trouble(wait=seconds)] * times)

    def create(self, entity: str, **fields: Any) -> Json:
        """Add a record; raises `Fault` where QuickBooks would not."""
        return self.company.create(entity, fields)

    def update(self, entity: str, record_id: str, **fields: Any) -> Json:
        """Change fields of a record; raises `Fault`."""
        return self.company.update(entity, self._named(entity, record_id) | fields)

    def delete(self, entity: str, record_id: str) -> Json:
        """Delete a transaction; raises `Fault`."""
        return self.company.delete(entity, self._named(entity, record_id))

    def _named(self, entity: str, record_id: str) -> Json:
        token = self.company.get(entity, record_id)["SyncToken"]
        return {"Id": record_id, "SyncToken": token, "sparse": True}

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application()
        company = f"/v3/company/{{realm:{self.realm}}}"
        discovery = [
            web.get(f"/.well-known/{name}{slash}", self._discovery)
            for name in ("openid_configuration", "openid_sandbox_configuration")
            for slash in ("", "/")
        ]
        app.add_routes(
            [
                *discovery,
                web.get("/connect/oauth2", self._authorize),
                web.post("/oauth2/v1/tokens/bearer", self._token),
                web.post("/v2/oauth2/tokens/revoke", self._revoke),
                web.get(f"{company}/query", self._guarded(self._query)),
                web.post(f"{company}/query", self._guarded(self._query)),
                web.get(f"{company}/cdc", self._guarded(self._cdc)),
                web.get(f"{company}/{{entity}}/{{id}}", self._guarded(self._get)),
                web.post(f"{company}/{{entity}}", self._guarded(self._post)),
                web.post("/simulator/expire", self._expire),
                web.post("/simulator/fail", self._fail),
                web.put("/simulator/webhook", self._register),
                web.get("/simulator/deliveries", self._delivered),
                web.get("/simulator/requests", self._seen),
                web.post("/simulator/{entity}", self._change),
                web.put("/simulator/{entity}/{id}", self._change),
                web.delete("/simulator/{entity}/{id}", self._change),
            ]
        )
        return app

    async def _discovery(self, request: web.Request) -> web.Response:
        origin = f"{request.scheme}://{request.host}"
        return web.json_response(
            {
                "issuer": f"{origin}/op/v1",
                "authorization_endpoint": f"{origin}/connect/oauth2",
                "token_endpoint": f"{origin}/oauth2/v1/tokens/bearer",
                "revocation_endpoint": f"{origin}/v2/oauth2/tokens/revoke",
                "userinfo_endpoint": f"{origin}/v1/openid_connect/userinfo",
                "jwks_uri": f"{origin}/op/v1/jwks",
            }
        )

    async def _authorize(self, request: web.Request) -> web.Response:
        redirect = request.query.get("redirect_uri", "")
        if not redirect or request.query.get("response_type") != "code":
            return web.Response(status=400, text="redirect_uri and response_type=code are needed")
        answer = {"code": self.grant(redirect), "state": request.query.get("state", "")}
        given = urlencode({n: v for n, v in (answer | {"realmId": self.realm}).items() if v})
        raise web.HTTPFound(f"{redirect}{'&' if '?' in redirect else '?'}{given}")

    async def _token(self, request: web.Request) -> web.Response:
        self.requests.append(("POST", "/oauth2/v1/tokens/bearer"))
        form = {name: str(value) for name, value in (await request.post()).items()}
        return self.tokens.answer(form, request.headers)

    async def _revoke(self, request: web.Request) -> web.Response:
        body = await request.json(loads=orjson.loads)
        return self.tokens.revoked(str(body.get("token")), request.headers)

    def _guarded(self, handler: Handler) -> Handler:
        """*handler* behind the token, the rate limit and whatever trouble was asked for; faults become answers."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.method, request.path_qs))
            trouble = self._troubles.popleft() if self._troubles else Trouble()
            if trouble.wait:
                await asyncio.sleep(trouble.wait)
            if trouble.status or self._throttled():
                return self._refusal(trouble.status or 429, trouble.retry_after)
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not self.tokens.good(token):
                return self._unauthorized()
            try:
                return await handler(request)
            except Fault as fault:
                return self._fault(fault)

        return guarded

    def _throttled(self) -> bool:
        """Whether this request is one too many within a minute."""
        if not self._per_minute:
            return False
        now = self._now()
        while self._recent and now - self._recent[0] >= timedelta(minutes=1):
            self._recent.popleft()
        if len(self._recent) >= self._per_minute:
            return True
        self._recent.append(now)
        return False

    async def _query(self, request: web.Request) -> web.Response:
        text = await request.text() if request.method == "POST" else request.query.get("query", "")
        return self._answer({"QueryResponse": self.company.query(text)})

    async def _cdc(self, request: web.Request) -> web.Response:
        names, since = request.query.get("entities", ""), request.query.get("changedSince", "")
        found = self.company.captured(
            names, since, most=self.most_captured, newest_first=self.newest_first
        )
        return self._answer(found)

    async def _get(self, request: web.Request) -> web.Response:
        entity = _entity(request)
        return self._answer({entity: self.company.get(entity, request.match_info["id"])})

    async def _post(self, request: web.Request) -> web.Response:
        entity, fields = _entity(request), await _fields(request)
        operation = request.query.get("operation")
        if operation == "delete":
            made = self.company.delete(entity, fields)
        elif operation == "void" or request.query.get("include") == "void":
            made = self.company.void(entity, fields)
        elif fields.get("Id"):
            made = self.company.update(entity, fields)
        else:
            made = self.company.create(entity, fields)
        return self._answer({entity: made})

    async def _change(self, request: web.Request) -> web.Response:
        """What a person changes in the product; SyncToken is seen to."""
        try:
            entity = _entity(request)
            if request.method == "DELETE":
                return self._answer({entity: self.delete(entity, request.match_info["id"])})
            fields = await _fields(request)
            if request.method == "PUT":
                return self._answer(
                    {entity: self.update(entity, request.match_info["id"], **fields)}
                )
            return self._answer({entity: self.create(entity, **fields)})
        except Fault as fault:
            return self._fault(fault)

    async def _expire(self, request: web.Request) -> web.Response:
        self.expire_access()
        return web.Response(status=204)

    async def _fail(self, request: web.Request) -> web.Response:
        """`{"status": 429, "times": 2, "retry_after": "5"}` or `{"slow": 1.5}`."""
        asked = await _fields(request)
        times = int(asked.get("times", 1))
        if "slow" in asked:
            self.slow(float(asked["slow"]), times=times)
        else:
            self.fail(int(asked["status"]), times=times, retry_after=asked.get("retry_after"))
        return web.Response(status=204)

    async def _register(self, request: web.Request) -> web.Response:
        """`{"url": …, "legacy": false, "repeats": 0, "reversals": 0}`: where to post, how, and with what trouble."""
        asked = await _fields(request)
        self.posting.hook = str(asked["url"]) if asked.get("url") else self.posting.hook
        self.posting.legacy = bool(asked.get("legacy", self.posting.legacy))
        self.posting.repeats = int(asked.get("repeats", 0))
        self.posting.reversals = int(asked.get("reversals", 0))
        return web.json_response({"url": self.posting.hook, "legacy": self.posting.legacy})

    async def _delivered(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"events": one.events, "attempt": one.attempt, "outcome": one.outcome}
                for one in self.posting.deliveries
            ]
        )

    async def _seen(self, request: web.Request) -> web.Response:
        return web.json_response(
            [{"method": method, "path": path} for method, path in self.requests]
        )

    # The answers.

    def _time(self) -> str:
        return self.company.written(self._now(), fraction=True)

    def _answer(self, body: Json) -> web.Response:
        return web.json_response({**body, "time": self._time()}, dumps=_dumps)

    def _fault(self, fault: Fault) -> web.Response:
        error = {
            "Message": fault.message,
            "Detail": fault.detail,
            "code": fault.code,
            "element": "",
        }
        body = {"Fault": {"Error": [error], "type": fault.kind}, "time": self._time()}
        return web.json_response(body, status=fault.status)

    def _refusal(self, status: int, retry_after: str | None) -> web.Response:
        throttled = status == 429  # noqa: PLR2004 — HTTP's Too Many Requests
        words = "ThrottleExceeded" if throttled else "asked for"
        code = "3001" if throttled else "10000"
        fault = Fault(
            code, f"message={words}; errorCode=00{code}", kind="SystemFault", status=status
        )
        answer = self._fault(fault)
        if retry_after is not None:
            answer.headers["Retry-After"] = retry_after
        return answer

    def _unauthorized(self) -> web.Response:
        error = {
            "message": "message=AuthenticationFailed; errorCode=003200; statusCode=401",
            "detail": "Token expired: AB01",
            "code": "3200",
            "element": None,
        }
        milliseconds = int(self._now().astimezone(UTC).timestamp() * 1000)
        body = {"fault": {"error": [error], "type": "AUTHENTICATION"}, "time": milliseconds}
        return web.json_response(body, status=401)


def _entity(request: web.Request) -> str:
    name = request.match_info["entity"]
    found = ENTITIES.get(name.lower())
    if found is None:
        raise Fault("500", "Unsupported Operation", f"Operation {name} is not supported.")
    return found


async def _fields(request: web.Request) -> Json:
    try:
        body = await request.json(loads=orjson.loads)
    except orjson.JSONDecodeError as error:
        raise Fault("2010", "Request has invalid or unsupported property", str(error)) from error
    if not isinstance(body, dict):
        raise Fault("2010", "Request has invalid or unsupported property", "an object is expected")
    return body


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()
