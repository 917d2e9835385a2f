"""A simulated Campaign Monitor v3.3: OAuth, clients, lists, subscribers, webhooks, and their traps.

    GET  /oauth                              a person who grants access at once
    POST /oauth/token                        codes (60 s), tokens (14 days); a refresh wants nothing but its token
    …    /api/v3.3/clients…, lists…          by token, or with the API key as the user of basic authentication
    …    /api/v3.3/subscribers/{list}.json   add, read, edit, delete; unsubscribe, import
    …    /simulator/…                        change subscribers, expire tokens, answer errors: without any credentials

Dates are in the client's time and say no zone; pages go by number while rows move; nothing but `Date` tells when, and
an edit does not move it; webhooks are not signed.  The facts and their sources: docs/elements/campaignmonitor.md.
"""

import asyncio
import base64
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from daemon.elements.simulators import serving
from daemon.elements.simulators.campaignmonitor.api import (
    PAGE_MOST,
    ClientAccount,
    Resources,
    facts_of,
    object_of,
    problem,
)
from daemon.elements.simulators.campaignmonitor.lists import MailingList, Subscriber, Unfit
from daemon.elements.simulators.campaignmonitor.posts import Posts
from daemon.elements.simulators.ledger import Now, system_clock
from daemon.elements.simulators.tokens import Tokens

ACCESS_SECONDS = 1_209_600.0
TIME_ZONE = "(GMT+10:00) Canberra, Melbourne, Sydney"
OFFSET = timedelta(hours=11)  # what that name means in the southern summer
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CampaignMonitor:
    """The simulated server; see `running`.

    It has one client with one list; `client` and `mailing_list` make more.  *client_id*, *client_secret* and
    *api_key* are held to when they are given.  *timezone* is what the client's details say, *offset* what its clocks
    do.  *waits*, *gather* and *patience* (seconds) are those of `Posts`.  *page_most* makes pages smaller than was asked
    for, to see paging with few subscribers.
    """

    def __init__(
        self,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        api_key: str = "campaignmonitor-key",
        access_seconds: float = ACCESS_SECONDS,
        timezone: str = TIME_ZONE,
        offset: timedelta = OFFSET,
        waits: Sequence[float] = WAITS,
        gather: float = 0.05,
        patience: float = 7 * 86400.0,
        timeout: float = 10.0,
        page_most: int = PAGE_MOST,
        now: Now = system_clock,
    ) -> None:
        self.tokens = Tokens(now=now, access_seconds=access_seconds)
        self.requests: deque[tuple[str, str]] = deque(maxlen=10_000)
        """Method and path with query of the latest requests to the API and the token address."""
        self.forms: deque[dict[str, str]] = deque(maxlen=100)
        """The latest requests for tokens."""
        self.posts = Posts(now=now, waits=waits, gather=gather, patience=patience, timeout=timeout)
        self.lists: dict[str, MailingList] = {}
        self._clients: dict[str, ClientAccount] = {}
        self._application_of = (client_id, client_secret)
        self._api_key = api_key
        self._page_most = page_most
        self._now = now
        self._offset = offset
        self._expired: set[str] = set()
        self._failures: deque[tuple[int, str | None]] = deque()
        self._slow: deque[float] = deque()
        self._before: deque[Callable[[], None]] = deque()
        first = self.client("Client One", timezone=timezone, offset=offset)
        self.list_id = self.mailing_list("List One", client_id=first)
        """The first list."""
        self.app = self._application()

    @asynccontextmanager
    async def running(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
        """Serve and post; the value is the origin.  Raises `OSError` when the port is taken."""
        async with (
            serving(self.app, host=host, port=port) as origin,
            self.posts.posting(self.lists.values()),
        ):
            yield origin

    # What a person does in the account.

    def client(self, name: str, *, timezone: str = TIME_ZONE, offset: timedelta = OFFSET) -> str:
        """Add a client; its id."""
        client_id = secrets.token_hex(16)
        self._clients[client_id] = ClientAccount(name, timezone, offset)
        return client_id

    def mailing_list(self, title: str, *, client_id: str | None = None) -> str:
        """Add a list to a client, the first unless another is named; its id."""
        owner = client_id or next(iter(self._clients))
        made = MailingList(owner, title, self._clients[owner].offset, self._now, self.posts.tell)
        self.lists[made.id] = made
        return made.id

    def create(self, address: str, /, *, list_id: str | None = None, **facts: Any) -> Subscriber:
        """Subscribe *address*; *facts* are those of `Subscriber`.  Raises `Unfit`."""
        return self._of(list_id).add(address, **facts)

    def update(self, address: str, /, *, list_id: str | None = None, **facts: Any) -> Subscriber:
        """Edit a subscriber; a new `state` moves it there, a new `address` renames it.  Raises `Unfit`."""
        new = facts.pop("address", None)
        kept = self._of(list_id).rename(address, new) if new else None
        if kept is None or facts:
            kept = self._of(list_id).change(new or address, **facts)
        return kept

    def delete(self, address: str, /, *, list_id: str | None = None) -> Subscriber:
        """Delete a subscriber; raises `Unfit`."""
        return self._of(list_id).change(address, state="Deleted")

    def grant(self, redirect: str = "") -> str:
        """An authorization code, as if a person had just granted access."""
        return self.tokens.grant(redirect)

    def honour(self, code: str) -> None:
        """Take *code* (the one in an example) for a granted one, for as long as the server runs."""
        self.tokens.honour(code)

    # What goes wrong.

    def expire_access(self) -> None:
        """Let every access token be too old from now on."""
        self._expired.update(self.tokens.access)
        self.tokens.access.clear()

    def revoke(self) -> None:
        """Let a person take the grant back: no token is any good."""
        self.expire_access()
        self.tokens.refresh.clear()

    def fail(self, status: int, *, times: int = 1, retry_after: str | None = None) -> None:
        """Answer the next *times* requests to the API with *status*."""
        self._failures.extend([(status, retry_after)] * times)

    def slow(self, seconds: float, *, times: int = 1) -> None:
        """Let the next *times* requests wait so long."""
        self._slow.extend([seconds] * times)

    def before(self, *changes: Callable[[], None]) -> None:
        """Make one of *changes* just before each of the next requests is answered."""
        self._before.extend(changes)

    def lag(self, seconds: float) -> None:
        """Let readers see every change so much later."""
        for one in self.lists.values():
            one.lag = timedelta(seconds=seconds)

    def deactivate(self) -> None:
        """Deactivate every webhook, as after a week of errors."""
        for one in self.lists.values():
            for hook in one.hooks.values():
                hook.status, hook.pending = "Inactive", []

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=16 * 1024**2)
        resources = Resources(
            clients=self._clients,
            lists=self.lists,
            posts=self.posts,
            api_key=self._api_key,
            offset=self._offset,
            page_most=self._page_most,
            make_list=lambda title, client_id: self.mailing_list(title, client_id=client_id),
            now=self._now,
        )
        app.add_routes(
            [
                web.get("/oauth", self._authorize),
                web.post("/oauth/token", self._token),
                *resources.routes(self._guarded),
                web.post("/simulator/subscribers", _told(self._simulate_create)),
                web.put("/simulator/subscribers/{address}", _told(self._simulate_update)),
                web.delete("/simulator/subscribers/{address}", _told(self._simulate_delete)),
                web.post("/simulator/fault", self._simulate_fault),
                web.get("/simulator/requests", self._seen),
                web.get("/simulator/deliveries", self._delivered),
            ]
        )
        return app

    async def _authorize(self, request: web.Request) -> web.Response:
        query = request.query
        redirect = query.get("redirect_uri", "")
        if query.get("type") != "web_server" or not redirect or not query.get("scope"):
            return web.json_response({"error": "invalid_request"}, status=400)
        answer = {"code": self.grant(redirect), "state": query.get("state", "")}
        given = urlencode({name: value for name, value in answer.items() if value})
        raise web.HTTPFound(f"{redirect}{'&' if '?' in redirect else '?'}{given}")

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append(("POST", "/oauth/token"))
        self.forms.append(form)
        if form.get("grant_type") == "authorization_code":
            given = (form.get("client_id"), form.get("client_secret"))
            wanted = zip(given, self._application_of, strict=True)
            if any(want is not None and have != want for have, want in wanted):
                return _oauth_problem("unknown_client", "The client is not registered")
        answer = self.tokens.answer(form)
        if answer.status != 200:  # noqa: PLR2004 — OK
            # Its errors come with 200: the SDK looks for them in the body.
            return _oauth_problem("invalid_grant", "Specified code was invalid or expired")
        body = orjson.loads(answer.body)  # type: ignore[arg-type] # json_response has a body of bytes
        names = ("access_token", "expires_in", "refresh_token")
        return web.json_response({name: body[name] for name in names})

    def _guarded(self, handler: Handler) -> Handler:
        """*handler* behind the credentials and whatever trouble was asked for."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.method, request.path_qs))
            if self._slow:
                await asyncio.sleep(self._slow.popleft())
            if self._before:
                self._before.popleft()()
            answer = await self._answer(handler, request)
            answer.headers["Date"] = format_datetime(self._now(), usegmt=True)
            return answer

        return guarded

    async def _answer(self, handler: Handler, request: web.Request) -> web.StreamResponse:
        if self._failures:
            status, retry_after = self._failures.popleft()
            if status == 429:  # noqa: PLR2004 — Too Many Requests
                answer = problem(429, "Rate limit exceeded", status=429)
                limit = {"Limit": "60", "Remaining": "0", "Reset": "348"}
                answer.headers.update({f"X-RateLimit-{name}": said for name, said in limit.items()})
            else:
                answer = problem(status, "Simulated", status=status)
            if retry_after is not None:
                answer.headers["Retry-After"] = retry_after
            return answer
        refusal = self._refusal(request.headers.get("Authorization", ""))
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except Unfit as error:
            return problem(error.code, str(error))
        except KeyError as error:
            client = error.args[0] == "client"
            code, name = (102, "ClientID") if client else (101, "ListID")
            return problem(code, f"Invalid {name}", status=401)

    def _refusal(self, authorization: str) -> web.Response | None:
        """The 401 for an *authorization* that is no good; None for one that is."""
        kind, _, given = authorization.partition(" ")
        if kind == "Bearer":
            if self.tokens.good(given):
                return None
            old = given in self._expired or given in self.tokens.access
            code, said = (121, "Expired OAuth Token") if old else (120, "Invalid OAuth Token")
            return problem(code, said, status=401)
        if kind == "Basic" and _user(given) == self._api_key:
            return None
        return problem(100, "Invalid API Key", status=401)

    # Without credentials.

    async def _simulate_create(self, request: web.Request) -> Subscriber:
        body = await object_of(request)
        address, facts = str(body.get("EmailAddress") or ""), facts_of(body)
        return self.create(address, list_id=body.get("ListID"), **facts)

    async def _simulate_update(self, request: web.Request) -> Subscriber:
        body = await object_of(request)
        facts = {**facts_of(body), "state": body.get("State"), "address": body.get("EmailAddress")}
        given = {name: value for name, value in facts.items() if value is not None}
        return self.update(request.match_info["address"], list_id=body.get("ListID"), **given)

    async def _simulate_delete(self, request: web.Request) -> Subscriber:
        return self.delete(request.match_info["address"], list_id=request.query.get("ListID"))

    async def _simulate_fault(self, request: web.Request) -> web.Response:
        """`{"fail": 500, "times": 2}`, `slow`, `lag` (seconds), `twice` (posts), `shuffled`, `expire`, `revoke`, `deactivate`."""
        body = await object_of(request)
        times = int(body.get("times", 1))
        if "fail" in body:
            self.fail(int(body["fail"]), times=times, retry_after=body.get("retry_after"))
        if "slow" in body:
            self.slow(float(body["slow"]), times=times)
        if "lag" in body:
            self.lag(float(body["lag"]))
        self.posts.twice = int(body.get("twice", self.posts.twice))
        self.posts.shuffled = bool(body.get("shuffled", self.posts.shuffled))
        doable = {
            "expire": self.expire_access,
            "revoke": self.revoke,
            "deactivate": self.deactivate,
        }
        for name, do in doable.items():
            if body.get(name):
                do()
        return web.Response(status=204)

    async def _seen(self, request: web.Request) -> web.Response:
        seen = [{"method": method, "path": path} for method, path in self.requests]
        return web.json_response(seen)

    async def _delivered(self, request: web.Request) -> web.Response:
        done = self.posts.deliveries
        return web.json_response(
            [
                {"webhook": one.webhook_id, "events": one.events, "outcome": one.outcome}
                for one in done
            ]
        )

    def _of(self, list_id: str | None) -> MailingList:
        return self.lists[list_id or self.list_id]


def _told(
    handler: Callable[[web.Request], Awaitable[Subscriber]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """*handler*'s subscriber as an answer, or what it cannot do."""

    async def told(request: web.Request) -> web.Response:
        try:
            found = await handler(request)
        except Unfit as error:
            return problem(error.code, str(error))
        except KeyError:
            return problem(101, "Invalid ListID", status=404)
        return web.json_response({"EmailAddress": found.address, "State": found.state})

    return told


def _user(encoded: str) -> str:
    """The user of a basic authentication."""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[0]
    except ValueError:
        return ""


def _oauth_problem(error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description})
