"""A simulated Sage Business Cloud Accounting v3.1: what its documentation says, and its traps.

    GET  /oauth2/auth/central    a person who grants access at once
    POST /token                  codes (60 s), access tokens (300 s), refresh tokens (31 days, one use each)
    …    /v3.1/{list}[/{id}]     contacts, sales_invoices, purchase_invoices, contact_payments, products: with
                                 `updated_or_created_since` (inclusive), `deleted_since` (not inclusive, and not for
                                 every list), `attributes`; a page past the end is the last page again
    GET  /v3.1/businesses
    …    /simulator/…            change records, expire tokens, ask for faults, see the requests: without any token

The facts and where they come from: docs/elements/sageone.md.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from daemon.elements.simulators import serving
from daemon.elements.simulators.ledger import Ledger, Now, moment, system_clock
from daemon.elements.simulators.tokens import Tokens
from daemon.model import Json

ACCESS_SECONDS = 300.0
PAGE = 20
LARGEST_PAGE = 200
LISTS = ("contacts", "sales_invoices", "purchase_invoices", "contact_payments", "products")
# The documentation of the others knows no `deleted_since`.
TELL_DELETED = frozenset({"contacts", "sales_invoices", "purchase_invoices"})
# The parameter is not known to contacts: they come by name.
SORTED = frozenset({"sales_invoices", "purchase_invoices"})
KINDS = {"customers": "CUSTOMER", "suppliers": "VENDOR"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens to one request: a *status* instead of the answer, or a *wait* before it."""

    status: int = 0
    retry_after: str | None = None
    wait: float = 0.0


class Sage:
    """The simulated server; see `running`.

    *client_id*, *client_secret* and *subscription_key* are held to when they are given.  *size_name* is how the size
    of a page is called in an answer: Sage's own pages have `$itemsPerPage` and `$items_per_page`.
    """

    def __init__(
        self,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        subscription_key: str | None = None,
        access_seconds: float = ACCESS_SECONDS,
        size_name: str = "$itemsPerPage",
        now: Now = system_clock,
    ) -> None:
        self.ledgers = {name: Ledger(now=now) for name in LISTS}
        self.requests: deque[tuple[str, str]] = deque(maxlen=1000)
        """Method and path with query of the latest requests to the API and the token address."""
        self.tokens = Tokens(
            now=now, access_seconds=access_seconds, client=(client_id, client_secret)
        )
        self._subscription_key = subscription_key
        self._size_name = size_name
        self._now = now
        self._troubles: deque[Trouble] = deque()
        self.app = self._application()

    def running(
        self, *, host: str = "127.0.0.1", port: int = 0
    ) -> AbstractAsyncContextManager[str]:
        """Serve; the value is the origin.  Raises `OSError` when the port is taken."""
        return serving(self.app, host=host, port=port)

    @property
    def contacts(self) -> Ledger:
        """Customers and suppliers."""
        return self.ledgers["contacts"]

    def grant(self, redirect: str = "") -> str:
        """An authorization code, as if a person had just granted access.

        It is good for one exchange within 60 seconds, and only with *redirect* where that is given.
        """
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

    def create(self, name: str, *, kind: str = "CUSTOMER", **fields: Any) -> Json:
        """Add a contact."""
        return self.contacts.create({"name": name, "displayed_as": name, "kind": kind, **fields})

    def update(self, contact_id: str, **fields: Any) -> Json:
        """Change a contact; raises `KeyError` where there is none."""
        return self.contacts.update(contact_id, fields)

    def delete(self, contact_id: str) -> None:
        """Delete a contact; raises `KeyError` where there is none."""
        self.contacts.delete(contact_id)

    def add(self, resource: str, **fields: Any) -> Json:
        """Add a record to any list, or to `customers` or `suppliers`; it is displayed as its reference, or its name."""
        shown = str(fields.get("name") or fields.get("reference") or "Unnamed")
        if resource in KINDS:
            fields.pop("name", None)
            return self.create(shown, kind=KINDS[resource], **fields)
        return self.ledgers[resource].create({"displayed_as": shown, **fields})

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application()
        lists = f"{{list:{'|'.join(LISTS)}}}"
        changed = f"{{list:{'|'.join((*LISTS, *KINDS))}}}"
        app.add_routes(
            [
                web.get("/oauth2/auth/central", self._authorize),
                web.post("/token", self._token),
                web.get("/v3.1/businesses", self._guarded(self._businesses)),
                web.get(f"/v3.1/{lists}", self._guarded(self._list)),
                web.post(f"/v3.1/{lists}", self._guarded(self._post)),
                web.get(f"/v3.1/{lists}/{{id}}", self._guarded(self._get)),
                web.put(f"/v3.1/{lists}/{{id}}", self._guarded(self._put)),
                web.delete(f"/v3.1/{lists}/{{id}}", self._guarded(self._delete)),
                web.post("/simulator/expire", self._expire),
                web.post("/simulator/fail", self._fail),
                web.get("/simulator/requests", self._seen),
                web.post(f"/simulator/{changed}", self._post),
                web.put(f"/simulator/{changed}/{{id}}", self._put),
                web.delete(f"/simulator/{changed}/{{id}}", self._delete),
            ]
        )
        app.on_response_prepare.append(self._dated)
        return app

    async def _dated(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let every answer carry the simulator's own time."""
        response.headers["Date"] = format_datetime(self._now(), usegmt=True)

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
        """*handler* behind the token, the subscription key and whatever trouble was asked for."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.method, request.path_qs))
            trouble = self._troubles.popleft() if self._troubles else Trouble()
            if trouble.wait:
                await asyncio.sleep(trouble.wait)
            if trouble.status:
                answer = _problem(trouble.status, "Simulated", "asked for")
                if trouble.retry_after is not None:
                    answer.headers["Retry-After"] = trouble.retry_after
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
        return web.json_response(self._page(request, [business]))

    async def _list(self, request: web.Request) -> web.Response:
        query, name = request.query, request.match_info["list"]
        ledger = self.ledgers[name]
        if "updated_or_created_since" in query and "deleted_since" in query:
            return _problem(
                400, "InvalidParameters", "one list cannot be of changed and of deleted"
            )
        if "deleted_since" in query and name not in TELL_DELETED:
            return _problem(400, "InvalidParameters", f"{name} cannot be asked for deleted_since")
        try:
            if "deleted_since" in query:
                found = ledger.deleted_after(moment(query["deleted_since"]))
            else:
                since = query.get("updated_or_created_since")
                found = ledger.since(moment(since) if since else None)
            if not (name in SORTED and query.get("sort") == "updated_at:asc"):
                found = sorted(found, key=lambda one: (one["displayed_as"], one["id"]))
            kind = query.get("contact_type_id")
            rows = [
                _row(name, one, query.get("attributes", ""))
                for one in found
                if kind is None or one.get("kind") == kind
            ]
            return web.json_response(self._page(request, rows))
        except ValueError as error:
            return _problem(400, "InvalidParameters", str(error))

    async def _get(self, request: web.Request) -> web.Response:
        name = request.match_info["list"]
        found = self.ledgers[name].records.get(request.match_info["id"])
        return web.json_response(_row(name, found, "all")) if found else _missing()

    async def _post(self, request: web.Request) -> web.Response:
        name, fields = request.match_info["list"], await _fields(request)
        if name == "contacts":
            shown, kind = fields.pop("name", "Unnamed"), fields.pop("kind", "CUSTOMER")
            made = self.create(shown, kind=kind, **fields)
        else:
            made = self.add(name, **fields)
        return web.json_response(_row(_path(name), made, "all"), status=201)

    async def _put(self, request: web.Request) -> web.Response:
        name, fields = _path(request.match_info["list"]), await _fields(request)
        if "name" in fields or "reference" in fields:
            fields["displayed_as"] = fields.get("name") or fields["reference"]
        try:
            changed = self.ledgers[name].update(request.match_info["id"], fields)
        except KeyError:
            return _missing()
        return web.json_response(_row(name, changed, "all"))

    async def _delete(self, request: web.Request) -> web.Response:
        try:
            self.ledgers[_path(request.match_info["list"])].delete(request.match_info["id"])
        except KeyError:
            return _missing()
        return web.Response(status=204)

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

    async def _seen(self, request: web.Request) -> web.Response:
        return web.json_response(
            [{"method": method, "path": path} for method, path in self.requests]
        )

    def _page(self, request: web.Request, rows: list[Json]) -> Json:
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
            self._size_name: size,
            "$items": rows[(number - 1) * size : number * size],
        }


def _path(name: str) -> str:
    """The list that *name* is kept in."""
    return "contacts" if name in KINDS else name


def _row(name: str, record: Json, attributes: str) -> Json:
    """*record* as a list shows it: name and path, and the attributes that were asked for."""
    path = f"/{name}/{record['id']}"
    base = {"id": record["id"], "displayed_as": record["displayed_as"], "$path": path}
    kind = record.get("kind")
    rest = {field: value for field, value in record.items() if field not in ("kind", *base)}
    if kind is not None:
        rest["contact_types"] = [
            {"id": kind, "displayed_as": kind.title(), "$path": f"/contact_types/{kind}"}
        ]
    wanted = [field.strip() for field in attributes.split(",")]
    shown = {field: value for field, value in rest.items() if "all" in wanted or field in wanted}
    return {**base, **shown}


async def _fields(request: web.Request) -> dict[str, Any]:
    """The fields of a record, alone or inside its name (`contact`, `sales_invoice`) as Sage takes them."""
    body = await request.json(loads=orjson.loads)
    singular = _path(request.match_info.get("list", "")).removesuffix("s")
    inner = body.get(singular, body) if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        raise web.HTTPBadRequest(text="a record is an object")
    return {name: value for name, value in inner.items() if name.isidentifier()}


def _problem(status: int, code: str, message: str) -> web.Response:
    body = [{"$severity": "error", "$dataCode": code, "$message": message, "$source": ""}]
    return web.json_response(body, status=status)


def _missing() -> web.Response:
    return _problem(404, "RecordNotFound", "there is no such record")
