"""The CRM API of a simulated HubSpot: records, lists, searches, batches, merges, as HTTP."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import orjson
from aiohttp import web

from daemon.elements.simulators.hubspot.records import MERGED, TYPES, Records, iso
from daemon.elements.simulators.ledger import Now
from daemon.model import Json

LARGEST_LIST = 100
LARGEST_HISTORY = 50
LONGEST_SEARCH = 3000  # characters of a body
DEFAULT_PAGE = 10
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guarded = Callable[[Handler, str], Handler]
"""Puts a handler behind tokens and limits: those of searches, or of `other` requests."""


class Account(Protocol):
    """Whose records they are."""

    @property
    def records(self) -> Mapping[str, Records]: ...
    def create(self, kind: str, /, **fields: Any) -> Json: ...
    def update(self, kind: str, record_id: str, /, **fields: Any) -> Json: ...
    def delete(self, kind: str, record_id: str, *, privacy: bool = False) -> Json: ...
    def restore(self, kind: str, record_id: str) -> Json: ...
    def merge(self, kind: str, winner_id: str, loser_id: str, *, as_new: bool = False) -> Json: ...


class Api:
    """The addresses of the records of one account."""

    def __init__(self, account: Account, now: Now) -> None:
        self._account = account
        self._now = now

    def routes(self, guarded: Guarded) -> list[web.RouteDef]:
        """Those that HubSpot has, and those below /simulator, which want no token."""
        kinds = "|".join(TYPES)
        routes: list[web.RouteDef] = []
        for root in ("/crm/v3/objects", "/crm/objects/2026-03"):
            objects = f"{root}/{{kind:{kinds}}}"
            routes += [
                web.post(f"{objects}/search", guarded(self._search, "search")),
                web.post(f"{objects}/merge", guarded(self._post_merge, "other")),
                web.post(f"{objects}/gdpr-delete", guarded(self._forget, "other")),
                web.post(f"{objects}/batch/{{what}}", guarded(self._batch, "other")),
                web.get(objects, guarded(self._list, "other")),
                web.post(objects, guarded(self._post, "other")),
                web.get(f"{objects}/{{id:\\d+}}", guarded(self._get, "other")),
                web.patch(f"{objects}/{{id:\\d+}}", guarded(self._patch, "other")),
                web.delete(f"{objects}/{{id:\\d+}}", guarded(self._delete, "other")),
            ]
        there = f"/simulator/{{kind:{kinds}}}"
        return [
            *routes,
            web.post(there, self._post),
            web.put(f"{there}/{{id:\\d+}}", self._patch),
            web.delete(f"{there}/{{id:\\d+}}", self._delete),
            web.post(f"{there}/{{id:\\d+}}/restore", self._post_restore),
            web.post(f"{there}/merge", self._post_merge),
        ]

    def _of(self, request: web.Request) -> Records:
        return self._account.records[request.match_info["kind"]]

    async def _search(self, request: web.Request) -> web.Response:
        text, records = await request.text(), self._of(request)
        if len(text) > LONGEST_SEARCH:
            return problem(400, "the body is longer than 3000 characters", "VALIDATION_ERROR")
        try:
            asked = orjson.loads(text)
            total, rows, after = records.search(asked)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return problem(400, str(error), "VALIDATION_ERROR")
        names = asked.get("properties") or ()
        return web.json_response(
            {
                "total": total,
                "results": [records.shown(row, names) for row in rows],
                **paging(after),
            }
        )

    async def _list(self, request: web.Request) -> web.Response:
        query, records = request.query, self._of(request)
        try:
            limit, after = int(query.get("limit", DEFAULT_PAGE)), int(query.get("after", 0))
        except ValueError as error:
            return problem(400, str(error), "VALIDATION_ERROR")
        if not 1 <= limit <= LARGEST_LIST:
            return problem(400, f"limit must be from 1 to {LARGEST_LIST}", "VALIDATION_ERROR")
        archived = query.get("archived", "false").lower() == "true"
        rows, following = records.listed(archived=archived, after=after, limit=limit)
        results = [records.shown(row, _names(query.getall("properties", []))) for row in rows]
        return web.json_response({"results": results, **paging(following)})

    async def _get(self, request: web.Request) -> web.Response:
        records, query = self._of(request), request.query
        number = int(request.match_info["id"])
        archived = query.get("archived", "false").lower() == "true"
        row = records.archived.get(number) if archived else records.find(number)
        if row is None:
            return problem(404, "resource not found", "OBJECT_NOT_FOUND")
        shown = records.shown(row, _names(query.getall("properties", [])))
        wanted = _names(query.getall("propertiesWithHistory", []))
        if wanted:
            shown["propertiesWithHistory"] = records.history(row, wanted)
        return web.json_response(shown)

    async def _post(self, request: web.Request) -> web.Response:
        fields = await _fields(request)
        return web.json_response(
            self._account.create(request.match_info["kind"], **fields), status=201
        )

    async def _patch(self, request: web.Request) -> web.Response:
        kind, record_id = request.match_info["kind"], request.match_info["id"]
        try:
            return web.json_response(
                self._account.update(kind, record_id, **await _fields(request))
            )
        except KeyError:
            return problem(404, "resource not found", "OBJECT_NOT_FOUND")

    async def _delete(self, request: web.Request) -> web.Response:
        try:
            self._account.delete(request.match_info["kind"], request.match_info["id"])
        except KeyError:
            # HubSpot does not mind: what is archived already stays so.
            if not self._of(request).archived.get(int(request.match_info["id"])):
                return problem(404, "resource not found", "OBJECT_NOT_FOUND")
        return web.Response(status=204)

    async def _forget(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        try:
            self._account.delete(
                request.match_info["kind"], str(body.get("objectId")), privacy=True
            )
        except (KeyError, ValueError):
            return problem(404, "resource not found", "OBJECT_NOT_FOUND")
        return web.Response(status=204)

    async def _post_merge(self, request: web.Request) -> web.Response:
        body, kind = await body_of(request), request.match_info["kind"]
        ids = [str(body.get(name)) for name in ("primaryObjectId", "objectIdToMerge")]
        try:
            return web.json_response(
                self._account.merge(kind, *ids, as_new=bool(body.get("asNew")))
            )
        except (KeyError, ValueError):
            return problem(404, "resource not found", "OBJECT_NOT_FOUND")

    async def _post_restore(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(
                self._account.restore(request.match_info["kind"], request.match_info["id"])
            )
        except KeyError:
            return problem(404, "there is no such archived record", "OBJECT_NOT_FOUND")

    async def _batch(self, request: web.Request) -> web.Response:
        kind, body, what = (
            request.match_info["kind"],
            await body_of(request),
            request.match_info["what"],
        )
        inputs = [one for one in body.get("inputs", []) if isinstance(one, dict)]
        if len(inputs) > (LARGEST_HISTORY if body.get("propertiesWithHistory") else LARGEST_LIST):
            return problem(400, "too many inputs", "VALIDATION_ERROR")
        try:
            if what == "archive":
                for one in inputs:
                    self._account.delete(kind, one["id"])
                return web.Response(status=204)
            archived = request.query.get("archived", "false").lower() == "true"
            body["archived"] = archived
            results = [shown for one in inputs if (shown := self._one(kind, what, one, body))]
        except (KeyError, ValueError):
            return problem(404, "one of the records is not there", "OBJECT_NOT_FOUND")
        told: Json = {"status": "COMPLETE", "results": results}
        told |= {"startedAt": iso(self._now()), "completedAt": iso(self._now())}
        status = 201 if what == "create" else 200
        if len(results) < len(inputs):
            # HubSpot: a part of the batch went wrong, the rest is there.
            errors = [{"status": "error", "category": "OBJECT_NOT_FOUND", "message": "not found"}]
            told, status = {**told, "numErrors": len(errors), "errors": errors}, 207
        return web.json_response(told, status=status)

    def _one(self, kind: str, what: str, given: Json, body: Json) -> Json | None:
        """What a batch does with one of its inputs; None for a record that is not there to be read."""
        if what == "create":
            return self._account.create(kind, **_named(given["properties"]))
        if what == "update":
            return self._account.update(kind, given["id"], **_named(given["properties"]))
        records, number = self._account.records[kind], int(given["id"])
        row = records.archived.get(number) if body["archived"] else records.find(number)
        if row is None:
            return None
        shown = records.shown(row, body.get("properties") or ())
        if history := body.get("propertiesWithHistory"):
            shown["propertiesWithHistory"] = records.history(row, history)
        return shown


def paging(after: int | None) -> Json:
    """The `paging` of an answer; none on the last page."""
    return {} if after is None else {"paging": {"next": {"after": str(after), "link": "?after=…"}}}


def problem(status: int, message: str, category: str) -> web.Response:
    """An error as HubSpot writes it."""
    body = {"status": "error", "message": message, "correlationId": "0", "category": category}
    return web.json_response(body, status=status)


def limited(policy: str = "TEN_SECONDLY_ROLLING") -> web.Response:
    """The answer to one request too many."""
    body = {
        "status": "error",
        "message": f"You have reached your {policy.lower()} limit.",
        "errorType": "RATE_LIMIT",
        "correlationId": "0",
        "policyName": policy,
    }
    return web.json_response(body, status=429)


def _names(given: list[str]) -> list[str]:
    """The properties asked for: repeated, or joined by commas."""
    return [name for one in given for name in one.split(",") if name]


async def body_of(request: web.Request) -> Json:
    try:
        body = await request.json(loads=orjson.loads)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="an object is needed")
    return body


async def _fields(request: web.Request) -> Json:
    """The properties of a record, alone or inside `properties` as HubSpot takes them."""
    body = await body_of(request)
    inner = body.get("properties", body)
    if not isinstance(inner, dict):
        raise web.HTTPBadRequest(text="properties is an object")
    return _named(inner)


def _named(fields: Json) -> Json:
    """What may be written: what HubSpot keeps itself may not."""
    own = {MERGED, "hs_object_id", "createdate", "lastmodifieddate", "hs_lastmodifieddate"}
    return {
        name: value for name, value in fields.items() if name.isidentifier() and name not in own
    }
