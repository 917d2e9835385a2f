"""A simulated Sage Business Cloud Accounting v3.1: what its documentation says, and its traps.

    GET  /oauth2/auth/central    a person who grants access at once
    POST /token                  codes (60 s), access tokens (300 s), refresh tokens (one use each)
    …    /v3.1/contacts[/{id}]   lists with `updated_or_created_since` (inclusive), `deleted_since` (not inclusive),
                                 `contact_type_id`, `attributes`; a page past the end is the last page again
    GET  /v3.1/businesses
    …    /simulator/…            change records, expire tokens, answer errors, see the requests: without any token

The facts and where they come from: docs/elements/sageone.md.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from daemon.elements.simulators import replacement, serving
from daemon.elements.simulators.ledger import Ledger, Now, moment, system_clock
from daemon.elements.simulators.tokens import Grant, Tokens
from daemon.model import Json

ACCESS_SECONDS = 300.0
PAGE = 20
LARGEST_PAGE = 200
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sage:
    """The simulated server; see `running`.

    *client_id*, *client_secret* and *subscription_key* are held to when they are given.
    """

    def __init__(
        self,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        subscription_key: str | None = None,
        access_seconds: float = ACCESS_SECONDS,
        now: Now = system_clock,
    ) -> None:
        self.contacts = Ledger(now=now)
        self.requests: deque[tuple[str, str]] = deque(maxlen=1000)
        """Method and path with query of the latest requests to the API and the token address."""
        self.tokens = Tokens(
            now=now, access_seconds=access_seconds, client=(client_id, client_secret)
        )
        self._subscription_key = subscription_key
        self._now = now
        self._failures: deque[tuple[int, str | None]] = deque()
        self.app = self._application()

    def running(
        self, *, host: str = "127.0.0.1", port: int = 0
    ) -> AbstractAsyncContextManager[str]:
        """Serve; the value is the origin.  Raises `OSError` when the port is taken."""
        return serving(self.app, host=host, port=port)

    def grant(self, redirect: str = "") -> str:
        """An authorization code, as if a person had just granted access.

        It is good for one exchange within 60 seconds, and only with *redirect* where that is given.
        """
        return self.tokens.grant(redirect)

    def honour(self, code: str) -> None:
        """Take *code* (the one in an example) for a granted one, for as long as the server runs."""
        self.tokens.codes[code] = Grant(self._now() + timedelta(days=365))

    def expire_access(self) -> None:
        """Let every access token be too old from now on."""
        self.tokens.access.clear()

    def revoke(self) -> None:
        """Let a person take the grant back: no token is any good."""
        self.tokens.access.clear()
        self.tokens.refresh.clear()

    def fail(self, status: int, *, times: int = 1, retry_after: str | None = None) -> None:
        """Answer the next *times* requests to the API with *status*."""
        self._failures.extend([(status, retry_after)] * times)

    def create(self, name: str, *, kind: str = "CUSTOMER", **fields: Any) -> Json:
        """Add a contact."""
        return self.contacts.create({"name": name, "displayed_as": name, "kind": kind, **fields})

    def update(self, contact_id: str, **fields: Any) -> Json:
        """Change a contact; raises `KeyError` where there is none."""
        return self.contacts.update(contact_id, fields)

    def delete(self, contact_id: str) -> None:
        """Delete a contact; raises `KeyError` where there is none."""
        self.contacts.delete(contact_id)

    def definition(self, origin: str) -> str:
        """The TOML text of an element that stands in for `sageone` and speaks to this server at *origin*."""
        return replacement(
            "sageone",
            {
                "https://api.accounting.sage.com/v3.1": f"{origin}/v3.1",
                "https://www.sageone.com/oauth2/auth/central": f"{origin}/oauth2/auth/central",
                "https://oauth.accounting.sage.com/token": f"{origin}/token",
                "pace = 0.5": "pace = 0",
            },
        )

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/oauth2/auth/central", self._authorize),
                web.post("/token", self._token),
                web.get("/v3.1/businesses", self._guarded(self._businesses)),
                web.get("/v3.1/contacts", self._guarded(self._list)),
                web.post("/v3.1/contacts", self._guarded(self._post)),
                web.get("/v3.1/contacts/{id}", self._guarded(self._get)),
                web.put("/v3.1/contacts/{id}", self._guarded(self._put)),
                web.delete("/v3.1/contacts/{id}", self._guarded(self._delete)),
                web.post("/simulator/customers", self._post),
                web.put("/simulator/customers/{id}", self._put),
                web.delete("/simulator/customers/{id}", self._delete),
                web.post("/simulator/expire", self._expire),
                web.get("/simulator/requests", self._seen),
            ]
        )
        return app

    async def _authorize(self, request: web.Request) -> web.Response:
        redirect = request.query.get("redirect_uri", "")
        if not redirect or request.query.get("response_type") != "code":
            return _problem(
                400, "ParameterMissing", "redirect_uri and response_type=code are needed"
            )
        answer = {"code": self.grant(redirect), "state": request.query.get("state", "")}
        given = urlencode({name: value for name, value in answer.items() if value})
        raise web.HTTPFound(f"{redirect}{'&' if '?' in redirect else '?'}{given}")

    async def _token(self, request: web.Request) -> web.Response:
        self.requests.append(("POST", "/token"))
        return self.tokens.answer(await request.post())

    def _guarded(self, handler: Handler) -> Handler:
        """*handler* behind the token, the subscription key and whatever failure was asked for."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.method, request.path_qs))
            if self._failures:
                status, retry_after = self._failures.popleft()
                answer = _problem(status, "Simulated", "asked for")
                if retry_after is not None:
                    answer.headers["Retry-After"] = retry_after
                return answer
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not self.tokens.good(token):
                return _problem(401, "AuthorizationFailure", "the access token is wrong or too old")
            key = request.headers.get("Ocp-Apim-Subscription-Key")
            if self._subscription_key is not None and key != self._subscription_key:
                return _problem(401, "AuthorizationFailure", "the subscription key is wrong")
            return await handler(request)

        return guarded

    async def _businesses(self, request: web.Request) -> web.Response:
        business = {"id": "b1", "displayed_as": "The leading business", "$path": "/businesses/b1"}
        return web.json_response(_page(request, [business]))

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        if "updated_or_created_since" in query and "deleted_since" in query:
            return _problem(
                400, "InvalidParameters", "one list cannot be of changed and of deleted"
            )
        try:
            if "deleted_since" in query:
                found = self.contacts.deleted_after(moment(query["deleted_since"]))
            else:
                since = query.get("updated_or_created_since")
                found = self.contacts.since(moment(since) if since else None)
            # Sage's contacts cannot be sorted; they come by name.
            found = sorted(found, key=lambda one: (one["displayed_as"], one["id"]))
            kind = query.get("contact_type_id")
            rows = [
                _row(one, query.get("attributes", ""))
                for one in found
                if kind is None or one["kind"] == kind
            ]
            return web.json_response(_page(request, rows))
        except ValueError as error:
            return _problem(400, "InvalidParameters", str(error))

    async def _get(self, request: web.Request) -> web.Response:
        found = self.contacts.records.get(request.match_info["id"])
        return web.json_response(_row(found, "all")) if found else _missing()

    async def _post(self, request: web.Request) -> web.Response:
        fields = await _fields(request)
        name, kind = fields.pop("name", "Unnamed"), fields.pop("kind", "CUSTOMER")
        return web.json_response(_row(self.create(name, kind=kind, **fields), "all"), status=201)

    async def _put(self, request: web.Request) -> web.Response:
        fields = await _fields(request)
        if "name" in fields:
            fields["displayed_as"] = fields["name"]
        try:
            return web.json_response(_row(self.update(request.match_info["id"], **fields), "all"))
        except KeyError:
            return _missing()

    async def _delete(self, request: web.Request) -> web.Response:
        try:
            self.delete(request.match_info["id"])
        except KeyError:
            return _missing()
        return web.Response(status=204)

    async def _expire(self, request: web.Request) -> web.Response:
        self.expire_access()
        return web.Response(status=204)

    async def _seen(self, request: web.Request) -> web.Response:
        return web.json_response(
            [{"method": method, "path": path} for method, path in self.requests]
        )


def _row(record: Json, attributes: str) -> Json:
    """*record* as a list shows it: name and path, and the attributes that were asked for."""
    path = f"/contacts/{record['id']}"
    base = {"id": record["id"], "displayed_as": record["displayed_as"], "$path": path}
    kind = record["kind"]
    rest = {name: value for name, value in record.items() if name not in ("kind", *base)}
    rest["contact_types"] = [
        {"id": kind, "displayed_as": kind.title(), "$path": f"/contact_types/{kind}"}
    ]
    wanted = [name.strip() for name in attributes.split(",")]
    shown = {name: value for name, value in rest.items() if "all" in wanted or name in wanted}
    return {**base, **shown}


def _page(request: web.Request, rows: list[Json]) -> Json:
    """One page of *rows* as Sage writes it; a number past the end is the last page."""
    size = min(int(request.query.get("items_per_page", PAGE)), LARGEST_PAGE)
    number = int(request.query.get("page", 1))
    if size < 1 or number < 1:
        raise ValueError("page and items_per_page count from 1")
    last = max(1, -(-len(rows) // size))
    number = min(number, last)
    path = request.path.removeprefix("/v3.1")
    links = {
        name: f"{path}?page={to}&items_per_page={size}" if 1 <= to <= last else None
        for name, to in (("$next", number + 1), ("$back", number - 1))
    }
    return {
        "$total": len(rows),
        "$page": number,
        **links,
        "$itemsPerPage": size,
        "$items": rows[(number - 1) * size : number * size],
    }


async def _fields(request: web.Request) -> dict[str, Any]:
    """The fields of a contact, alone or inside `contact` as Sage takes them."""
    body = await request.json(loads=orjson.loads)
    inner = body.get("contact", body) if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        raise web.HTTPBadRequest(text="a contact is an object")
    return {name: value for name, value in inner.items() if name.isidentifier()}


def _problem(status: int, code: str, message: str) -> web.Response:
    body = [{"$severity": "error", "$dataCode": code, "$message": message, "$source": ""}]
    return web.json_response(body, status=status)


def _missing() -> web.Response:
    return _problem(404, "RecordNotFound", "there is no such record")
