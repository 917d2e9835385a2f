"""The workshop: a simulated provider with an API to poll and webhooks to receive, described by workshop.toml.

    …    /v1/{customers,orders,tickets}[/{id}]    lists with `updated_since`, `status`, `limit`, `cursor`; X-Api-Key
    …    /simulator/{customers,orders,tickets}    change records, without any key
    PUT  /simulator/webhook                       {"url": …}: where to post; asked with a challenge first
    GET  /simulator/deliveries                    what became of each post

A deleted record is simply no longer there.  A change of a ticket is posted, signed, until a 2xx answers or the
waits are used up; posts go one after the other, in order.
"""

import asyncio
import base64
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from daemon.dates import iso_seconds
from daemon.elements.simulators import beside, serving
from daemon.elements.simulators.ledger import Ledger, Now, moment, system_clock
from daemon.model import Json
from daemon.signatures import hmac_digest

RESOURCES = ("customers", "orders", "tickets")
ACTIONS = {"create": "ticket.opened", "update": "ticket.changed", "delete": "ticket.removed"}
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
PAGE = 20
LARGEST_PAGE = 100


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to post a webhook: its event, and the status that answered, or what went wrong."""

    event_id: str
    attempt: int
    outcome: int | str


class Workshop:
    """The simulated server; see `running`.

    *waits* are the seconds between attempts to post.  Where *hook* (the address to post to) is not given, tickets
    change in silence until one is set.
    """

    def __init__(
        self,
        *,
        api_key: str = "workshop-key",
        signing_secret: str = "workshop-secret",  # noqa: S107 — the simulator's, and in its documentation
        account: str = "acme",
        hook: str | None = None,
        waits: Sequence[float] = WAITS,
        timeout: float = 10.0,
        now: Now = system_clock,
    ) -> None:
        self.ledgers = {name: Ledger(now=now) for name in RESOURCES}
        self.deliveries: deque[Delivery] = deque(maxlen=1000)
        self.account = account
        self.hook = hook
        self._api_key = api_key
        self._secret = signing_secret.encode()
        self._waits = tuple(waits)
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._now = now
        self._posts: asyncio.Queue[Json] = asyncio.Queue(maxsize=10_000)
        self.app = self._application()

    @asynccontextmanager
    async def running(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
        """Serve and post; the value is the origin.  Raises `OSError` when the port is taken."""
        async with (
            aiohttp.ClientSession(timeout=self._timeout) as session,
            serving(self.app, host=host, port=port) as origin,
            beside(self._post_all(session)),
        ):
            yield origin

    def create(self, resource: str, **fields: Any) -> Json:
        """Add a record."""
        return self._changed("create", resource, self.ledgers[resource].create(fields))

    def update(self, resource: str, record_id: str, **fields: Any) -> Json:
        """Change a record; raises `KeyError` where there is none."""
        return self._changed("update", resource, self.ledgers[resource].update(record_id, fields))

    def delete(self, resource: str, record_id: str) -> Json:
        """Remove a record; raises `KeyError` where there is none."""
        return self._changed("delete", resource, self.ledgers[resource].delete(record_id))

    async def posted(self) -> None:
        """Return when every webhook so far was accepted or given up."""
        await self._posts.join()

    def signed(self, body: bytes, stamp: int) -> dict[str, str]:
        """The headers of a webhook."""
        digest = hmac_digest("sha256", "hex", self._secret, b"%d.%s" % (stamp, body))
        return {
            "Content-Type": "application/json",
            "X-Workshop-Timestamp": str(stamp),
            "X-Workshop-Signature": f"v1={digest}",
        }

    def _changed(self, how: str, resource: str, record: Json) -> Json:
        if resource == "tickets" and self.hook is not None:
            event = {
                "event_id": secrets.token_hex(8),
                "action": ACTIONS[how],
                "at": iso_seconds(self._now()),
                "ticket": record,
            }
            self._posts.put_nowait({"account": self.account, "type": "tickets", "events": [event]})
        return record

    # Posting.

    async def _post_all(self, session: aiohttp.ClientSession) -> None:
        while True:
            message = await self._posts.get()
            try:
                await self._post(session, message)
            finally:
                self._posts.task_done()

    async def _post(self, session: aiohttp.ClientSession, message: Json) -> None:
        """Post one message until it is accepted; each attempt is signed anew."""
        body = orjson.dumps(message)
        event_id = message["events"][0]["event_id"]
        for attempt, wait in enumerate((*self._waits, None), 1):
            outcome = await self._attempt(session, body)
            self.deliveries.append(Delivery(event_id, attempt, outcome))
            accepted = isinstance(outcome, int) and outcome in range(200, 300)
            if accepted or wait is None:
                return
            await asyncio.sleep(wait)

    async def _attempt(self, session: aiohttp.ClientSession, body: bytes) -> int | str:
        headers = self.signed(body, int(self._now().timestamp()))
        try:
            async with session.post(str(self.hook), data=body, headers=headers) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application()
        kinds = "|".join(RESOURCES)
        app.add_routes(
            [
                web.get(f"/v1/{{resource:{kinds}}}", self._list),
                web.get(f"/v1/{{resource:{kinds}}}/{{id}}", self._get),
                web.post(f"/simulator/{{resource:{kinds}}}", self._create),
                web.put(f"/simulator/{{resource:{kinds}}}/{{id}}", self._update),
                web.delete(f"/simulator/{{resource:{kinds}}}/{{id}}", self._delete),
                web.put("/simulator/webhook", self._register),
                web.get("/simulator/deliveries", self._delivered),
            ]
        )
        return app

    async def _list(self, request: web.Request) -> web.Response:
        self._admit(request)
        query = request.query
        try:
            size = min(int(query.get("limit", PAGE)), LARGEST_PAGE)
            start = _decoded(query["cursor"]) if "cursor" in query else 0
            since = moment(query["updated_since"]) if "updated_since" in query else None
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        status = query.get("status")
        found = [
            one
            for one in self.ledgers[request.match_info["resource"]].since(since)
            if status is None or one.get("status") == status
        ]
        end = start + max(1, size)
        paging = {"total": len(found), "next": _encoded(end) if end < len(found) else None}
        return web.json_response({"data": found[start:end], "paging": paging})

    async def _get(self, request: web.Request) -> web.Response:
        self._admit(request)
        records = self.ledgers[request.match_info["resource"]].records
        found = records.get(request.match_info["id"])
        return web.json_response(found) if found else _missing()

    async def _create(self, request: web.Request) -> web.Response:
        record = self.create(request.match_info["resource"], **await _fields(request))
        return web.json_response(record, status=201)

    async def _update(self, request: web.Request) -> web.Response:
        resource, record_id = request.match_info["resource"], request.match_info["id"]
        try:
            return web.json_response(self.update(resource, record_id, **await _fields(request)))
        except KeyError:
            return _missing()

    async def _delete(self, request: web.Request) -> web.Response:
        try:
            self.delete(request.match_info["resource"], request.match_info["id"])
        except KeyError:
            return _missing()
        return web.Response(status=204)

    async def _register(self, request: web.Request) -> web.Response:
        """Take an address to post to, once it has answered a challenge."""
        url = (await _fields(request)).get("url")
        challenge = secrets.token_hex(16)
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.get(str(url), params={"challenge": challenge}) as answer,
            ):
                echoed = (await answer.content.read(1024)).decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            echoed = type(error).__name__
        if echoed != challenge:
            problem = f"{url} did not answer the challenge: {echoed[:200]}"
            return web.json_response({"error": problem}, status=422)
        self.hook = str(url)
        return web.json_response({"url": self.hook})

    async def _delivered(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"event_id": one.event_id, "attempt": one.attempt, "outcome": one.outcome}
                for one in self.deliveries
            ]
        )

    def _admit(self, request: web.Request) -> None:
        if request.headers.get("X-Api-Key") != self._api_key:
            raise web.HTTPUnauthorized(
                text='{"error": "X-Api-Key is wrong"}', content_type="application/json"
            )


def _encoded(position: int) -> str:
    return base64.urlsafe_b64encode(str(position).encode()).decode()


def _decoded(cursor: str) -> int:
    return int(base64.urlsafe_b64decode(cursor))


async def _fields(request: web.Request) -> dict[str, Any]:
    body = await request.json(loads=orjson.loads)
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="a record is an object")
    return {name: value for name, value in body.items() if name.isidentifier()}


def _missing() -> web.Response:
    return web.json_response({"error": "there is no such record"}, status=404)
