"""A shop to poll: a provider over real HTTP whose clock, records and faults the test rules."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web

STAMP = "%Y-%m-%dT%H:%M:%SZ"
PAGE = 2  # records; a token leads on from the last id, so that no page shifts

ELEMENT = """
id = 1001
key = "shop"
name = "Shop"

[connection]
base = "ORIGIN"

[auth]
kind = "oauth2"
authorize_url = "ORIGIN/authorize"
token_url = "ORIGIN/token"

[defaults]
items = "data"
updated = "updated"
created = "created"
paging = { kind = "token", parameter = "after", next = "next" }

[defaults.where]
"updated>=" = "since"

[resources.contacts]
item = "contacts/{id}"
deletes = "sweep"

[resources.orders]

[resources.notes]
poll = "/hubs/general/notes"
deletes = "marker"
[resources.notes.deleted]
field = "gone"

[resources.drafts]
deletes = "marker"
[resources.drafts.deleted]
field = "gone"

[resources.tickets]
deletes = "channel"
[resources.tickets.deleted]
path = "tickets-deleted"
parameter = "since"
"""

Record = dict[str, Any]
Fault = Callable[[web.Request], Any]
"""What happens to one request: an answer, or None to let it be answered as usual."""


class Shop:
    """Answers `/{resource}?since=&after=`, `/{resource}/{id}`, `/{resource}-deleted?since=` and `/token`."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.records: dict[str, dict[str, Record]] = {}
        self.deleted: list[tuple[str, str, datetime]] = []
        self.faults: list[Fault | None] = []
        """Of the next requests in turn; used up by each."""
        self.broken: dict[str, Fault] = {}
        """By resource, until taken away."""
        self.hidden: set[str] = set()
        """Ids that no list shows yet."""
        self.incomplete = False
        """Whether lists end too early without saying so."""
        self.asked: list[str] = []
        self.token = "first"
        self.refreshed = 0
        self.version = 0
        self.arrived = asyncio.Event()

    def put(self, resource: str, object_id: object, **more: Any) -> Record:
        """Create or change a record, now."""
        self.version += 1
        kept = self.records.setdefault(resource, {})
        name = str(object_id)
        stamp = self.now.strftime(STAMP)
        record = {"created": stamp, **kept.get(name, {}), "id": name, "v": self.version}
        kept[name] = record | {"updated": stamp} | more
        return kept[name]

    def drop(self, resource: str, object_id: object) -> None:
        """Delete a record, now."""
        del self.records[resource][str(object_id)]
        self.deleted.append((resource, str(object_id), self.now))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append(request.path_qs)
        self.arrived.set()
        path = request.path.strip("/")
        resource, _, object_id = path.partition("/")
        fault = self.faults.pop(0) if self.faults else None
        fault = fault or self.broken.get(resource)
        if fault is not None:
            answer = fault(request)
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer is not None:
                return answer
        return self._json(request, resource, object_id)

    def _json(self, request: web.Request, resource: str, object_id: str) -> web.Response:
        headers = {"Date": format_datetime(self.now.astimezone(UTC), usegmt=True)}
        if resource == "token":
            self.refreshed += 1
            self.token = f"token-{self.refreshed}"
            body: Any = {"access_token": self.token, "refresh_token": f"r-{self.refreshed}"}
            return web.json_response(body | {"token_type": "bearer"}, headers=headers)
        if request.headers.get("Authorization") not in (f"Bearer {self.token}", None):
            return web.json_response({"error": "expired"}, status=401, headers=headers)
        since = datetime.strptime(
            request.query.get("since", "1970-01-01T00:00:00Z"), STAMP
        ).replace(tzinfo=UTC)
        if resource.endswith("-deleted"):
            of = resource.removesuffix("-deleted")
            gone = [{"id": i} for r, i, at in self.deleted if r == of and at >= since]
            return web.json_response({"data": gone}, headers=headers)
        kept = self.records.get(resource, {})
        if object_id:
            found = kept.get(object_id)
            return web.json_response(found or {}, status=200 if found else 404, headers=headers)
        after = request.query.get("after", "")
        there = [
            kept[i]
            for i in sorted(kept)
            if i > after and kept[i]["updated"] >= since.strftime(STAMP) and i not in self.hidden
        ]
        page = there[:PAGE]
        more = len(there) > PAGE and not self.incomplete
        return web.json_response(
            {"data": page, "next": page[-1]["id"] if more else None}, headers=headers
        )


def status(code: int, **headers: str) -> Fault:
    """Answer with that status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: web.Response(status=code, headers=named)


def page_for_people(request: web.Request) -> web.Response:
    """Answer what a gateway does while the provider is being repaired."""
    return web.Response(text="<h1>Back soon</h1>", content_type="text/html")


async def half_body(request: web.Request) -> web.StreamResponse:
    """Break off in the middle of the answer."""
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b'{"data": [{"id": "1", "na')
    assert request.transport is not None
    request.transport.close()
    return answer


def later(moment: datetime, seconds: float) -> datetime:
    """*moment*, so many seconds later."""
    return moment + timedelta(seconds=seconds)
