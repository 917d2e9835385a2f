"""The API of a simulated Campaign Monitor, once a request is let in: clients, lists, webhooks, subscribers.

What cannot be done is raised: `Unfit` for a 400 with a code, `KeyError` for an id that is nobody's ("client" for one of
a client).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from aiohttp import web

from daemon.elements.simulators.campaignmonitor.lists import (
    STATES,
    Hook,
    MailingList,
    Subscriber,
    Unfit,
    stamp,
)
from daemon.elements.simulators.campaignmonitor.posts import Posts
from daemon.elements.simulators.ledger import Now
from daemon.model import Json

API = "/api/v3.3"
EVENTS = ("Subscribe", "Update", "Deactivate")
PAGE_LEAST, PAGE_MOST = 10, 1000


@dataclass(frozen=True, slots=True)
class ClientAccount:
    """A client: what its details say of its time, and how far ahead of UTC its clocks are."""

    name: str
    timezone: str
    offset: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The handlers; *make_list* makes a list of a title and a client's id and returns its id."""

    clients: dict[str, ClientAccount]
    lists: dict[str, MailingList]
    posts: Posts
    api_key: str
    offset: timedelta
    page_most: int
    make_list: Callable[[str, str], str]
    now: Now

    def routes(self, guarded: Callable[[Any], Any]) -> list[web.RouteDef]:
        """All addresses, each handler behind *guarded*."""
        states = "|".join(state.lower() for state in STATES)
        hooks, people = f"{API}/lists/{{id}}/webhooks", f"{API}/subscribers/{{id}}"
        return [
            web.get(f"{API}/clients.json", guarded(self._list_clients)),
            web.get(f"{API}/clients/{{id}}.json", guarded(self._get_client)),
            web.get(f"{API}/clients/{{id}}/lists.json", guarded(self._list_lists)),
            web.get(f"{API}/systemdate.json", guarded(self._system_date)),
            web.post(f"{API}/lists/{{id}}.json", guarded(self._create_list)),
            web.get(f"{API}/lists/{{id}}.json", guarded(self._get_list)),
            web.delete(f"{API}/lists/{{id}}.json", guarded(self._delete_list)),
            web.get(f"{API}/lists/{{id}}/{{state:{states}}}.json", guarded(self._in_state)),
            web.get(f"{hooks}.json", guarded(self._list_hooks)),
            web.post(f"{hooks}.json", guarded(self._create_hook)),
            web.delete(f"{hooks}/{{hook}}.json", guarded(self._delete_hook)),
            web.get(f"{hooks}/{{hook}}/test.json", guarded(self._test_hook)),
            web.put(f"{hooks}/{{hook}}/{{do:activate|deactivate}}.json", guarded(self._switch)),
            web.post(f"{people}.json", guarded(self._add)),
            web.get(f"{people}.json", guarded(self._get)),
            web.put(f"{people}.json", guarded(self._edit)),
            web.delete(f"{people}.json", guarded(self._delete)),
            web.post(f"{people}/unsubscribe.json", guarded(self._unsubscribe)),
            web.post(f"{people}/import.json", guarded(self._import)),
            web.route("*", f"{API}/{{rest:.*}}", guarded(_nowhere)),
        ]

    # Clients and lists.

    async def _list_clients(self, request: web.Request) -> web.Response:
        clients = self.clients.items()
        return web.json_response([{"ClientID": one, "Name": facts.name} for one, facts in clients])

    async def _get_client(self, request: web.Request) -> web.Response:
        found = self._client(request)
        basics = {
            "ClientID": request.match_info["id"],
            "CompanyName": found.name,
            "TimeZone": found.timezone,
        }
        return web.json_response({"ApiKey": self.api_key, "BasicDetails": basics})

    async def _list_lists(self, request: web.Request) -> web.Response:
        self._client(request)
        owner = request.match_info["id"]
        mine = [one for one in self.lists.values() if one.client_id == owner]
        return web.json_response([{"ListID": one.id, "Name": one.title} for one in mine])

    async def _system_date(self, request: web.Request) -> web.Response:
        return web.json_response({"SystemDate": stamp(self.now() + self.offset)})

    async def _create_list(self, request: web.Request) -> web.Response:
        self._client(request)
        title = str((await object_of(request)).get("Title") or "")
        made = self.make_list(title, request.match_info["id"])
        return web.json_response(made, status=201)

    async def _get_list(self, request: web.Request) -> web.Response:
        one = self._list(request)
        return web.json_response({"ListID": one.id, "Title": one.title, "ConfirmedOptIn": False})

    async def _delete_list(self, request: web.Request) -> web.Response:
        del self.lists[self._list(request).id]
        return web.Response()

    async def _in_state(self, request: web.Request) -> web.Response:
        one, query = self._list(request), request.query
        state = request.match_info["state"].title()
        size, number = _number(query.get("pagesize"), 1000), _number(query.get("page"), 1)
        field, direction = query.get("orderfield") or "date", query.get("orderdirection") or "asc"
        if number < 1:
            raise Unfit(800, "Invalid Page Number")
        if not PAGE_LEAST <= size <= PAGE_MOST:
            raise Unfit(801, "Invalid Page Size")
        if field not in ("email", "name", "date") or direction not in ("asc", "desc"):
            raise Unfit(802, "Invalid Order")
        size = min(size, self.page_most)
        found = one.in_state(state, _date(query.get("date"), one.offset, self.now()))
        if field != "date":
            found.sort(key=lambda each: (each.address if field == "email" else each.name).lower())
        if direction == "desc":
            found.reverse()
        rows = [_row(one, each, request) for each in found[(number - 1) * size : number * size]]
        return web.json_response(
            {
                "Results": rows,
                "ResultsOrderedBy": field,
                "OrderDirection": direction,
                "PageNumber": number,
                "PageSize": size,
                "RecordsOnThisPage": len(rows),
                "TotalNumberOfRecords": len(found),
                "NumberOfPages": -(-len(found) // size),
            }
        )

    # Webhooks.

    async def _list_hooks(self, request: web.Request) -> web.Response:
        return web.json_response([hook.shown() for hook in self._list(request).hooks.values()])

    async def _create_hook(self, request: web.Request) -> web.Response:
        one, body = self._list(request), await object_of(request)
        url, kind, events = body.get("Url"), body.get("PayloadFormat"), body.get("Events")
        if not isinstance(url, str) or not re.match(r"https?://[^/\s]+", url):
            raise Unfit(601, "Invalid Webhook URL")
        if str(kind).lower() not in ("json", "xml"):
            raise Unfit(602, "Invalid Webhook Format")
        if not isinstance(events, list) or not events or set(events) - set(EVENTS):
            raise Unfit(603, "Invalid Webhook Event")
        hook = Hook(events, url, str(kind))
        one.hooks[hook.id] = hook
        return web.json_response(hook.id, status=201)

    async def _delete_hook(self, request: web.Request) -> web.Response:
        one, hook = self._hook(request)
        del one.hooks[hook.id]
        return web.Response()

    async def _switch(self, request: web.Request) -> web.Response:
        _, hook = self._hook(request)
        hook.status = "Active" if request.match_info["do"] == "activate" else "Inactive"
        hook.failing_since = None
        return web.Response()

    async def _test_hook(self, request: web.Request) -> web.Response:
        one, hook = self._hook(request)
        sample = {
            "CustomFields": [{"Key": "website", "Value": "http://example.org"}],
            "Date": stamp(self.now() + one.offset),
            "EmailAddress": "test@example.org",
            "Name": "Test Subscriber",
            "SignupIPAddress": "53.78.123.243",
            "Type": "Subscribe",
        }
        outcome = await self.posts.once(one, hook, [sample])
        if not isinstance(outcome, int) or outcome not in range(200, 300):
            raise Unfit(610, f"The webhook request has failed: {outcome}")
        return web.Response()

    # Subscribers.

    async def _add(self, request: web.Request) -> web.Response:
        body = await object_of(request)
        address = str(body.get("EmailAddress") or "")
        again = bool(body.get("Resubscribe"))
        self._list(request).add(address, resubscribe=again, **facts_of(body))
        return web.json_response(address, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        one = self._list(request)
        found = one.seen(request.query.get("email", ""))
        if found is None:
            raise Unfit(203, "Subscriber Not In List")
        # Here the mobile number needs no flag.
        return web.json_response(_row(one, found, request, sms=True))

    async def _edit(self, request: web.Request) -> web.Response:
        one, body = self._list(request), await object_of(request)
        address, new = request.query.get("email", ""), str(body.get("EmailAddress") or "")
        facts = facts_of(body)
        there = one.get(address)
        if there is not None and there.state != "Active" and body.get("Resubscribe"):
            facts["state"] = "Active"
        if new and new != address:
            one.rename(address, new)
        if any(value is not None for value in facts.values()):
            one.change(new or address, **facts)
        return web.Response()

    async def _delete(self, request: web.Request) -> web.Response:
        self._list(request).change(request.query.get("email", ""), state="Deleted")
        return web.Response()

    async def _unsubscribe(self, request: web.Request) -> web.Response:
        address = str((await object_of(request)).get("EmailAddress") or "")
        self._list(request).change(address, state="Unsubscribed")
        return web.Response()

    async def _import(self, request: web.Request) -> web.Response:
        one, body = self._list(request), await object_of(request)
        failures, new, existing = [], 0, 0
        for row in body.get("Subscribers") or []:
            address = str(row.get("EmailAddress") or "")
            known = one.get(address) is not None
            try:
                one.add(address, resubscribe=bool(body.get("Resubscribe")), **facts_of(row))
            except Unfit as error:
                said = {"EmailAddress": address, "Code": error.code, "Message": str(error)}
                failures.append(said)
            else:
                new, existing = new + (not known), existing + known
        result = {
            "FailureDetails": failures,
            "TotalUniqueEmailsSubmitted": new + existing + len(failures),
            "TotalExistingSubscribers": existing,
            "TotalNewSubscribers": new,
            "DuplicateEmailsInSubmission": [],
        }
        if failures:
            said = {"Code": 210, "Message": "Subscriber Import had some failures"}
            return web.json_response({**said, "ResultData": result}, status=400)
        return web.json_response(result, status=201)

    def _client(self, request: web.Request) -> ClientAccount:
        found = self.clients.get(request.match_info["id"])
        if found is None:
            raise KeyError("client")
        return found

    def _list(self, request: web.Request) -> MailingList:
        return self.lists[request.match_info["id"]]

    def _hook(self, request: web.Request) -> tuple[MailingList, Hook]:
        one = self._list(request)
        hook = one.hooks.get(request.match_info["hook"])
        if hook is None:
            # The number is not published.
            raise Unfit(604, "Invalid WebhookID")
        return one, hook


def _row(
    one: MailingList, found: Subscriber, request: web.Request, *, sms: bool | None = None
) -> Json:
    asked = {name.lower(): value.lower() == "true" for name, value in request.query.items()}
    sms = asked.get("includesmspreference", False) if sms is None else sms
    return found.row(one.offset, tracking=asked.get("includetrackingpreference", False), sms=sms)


def facts_of(body: Json) -> dict[str, Any]:
    """What a body says of a subscriber; None where it says nothing."""
    fields = body.get("CustomFields")
    if fields is not None:
        fields = tuple((str(one["Key"]).strip("[]"), str(one["Value"])) for one in fields)
    consent = body.get("ConsentToTrack")
    return {
        "name": body.get("Name"),
        "fields": fields,
        "consent": None if str(consent).lower() == "unchanged" else consent,
        "mobile": body.get("MobileNumber") or None,
    }


def _date(text: str | None, offset: timedelta, now: datetime) -> datetime | None:
    """The moment that a `date` of a query names in the client's time; raises `Unfit`."""
    if not text:
        return None
    for form in ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"):
        try:
            local = datetime.strptime(text, form).replace(tzinfo=now.tzinfo)
        except ValueError:
            continue
        return local - offset
    raise Unfit(5, "Invalid Date")


def _number(text: str | None, default: int) -> int:
    try:
        return int(text) if text else default
    except ValueError:
        return -1


async def object_of(request: web.Request) -> Json:
    """The object in a body; a 400 for something else."""
    try:
        body = await request.json(loads=orjson.loads)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(
            text='{"Code": 400, "Message": "An object is expected"}',
            content_type="application/json",
        )
    return body


def problem(code: int, message: str, *, status: int = 400) -> web.Response:
    """An error as the API writes it."""
    return web.json_response({"Code": code, "Message": message}, status=status)


async def _nowhere(request: web.Request) -> web.Response:
    return problem(404, "Not Found", status=404)
