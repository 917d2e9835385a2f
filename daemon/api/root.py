"""What stands at the root: where to go, whether all is well, and the description of everything."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from aiohttp import web

from daemon.api import blocks
from daemon.api.bodies import Health, Index
from daemon.api.context import CONTEXT
from daemon.api.errors import answer
from daemon.api.operations import Authorization, Operation
from daemon.store import database
from daemon.store.database import OUTAGE
from daemon.webhook_urls import PREFIX


class Document:
    """The OpenAPI document, made when it is first asked for: that takes a tenth of a second, and few ask."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make

    @cached_property
    def body(self) -> bytes:
        """The document, ready to send."""
        return self._make()


DOCUMENT = web.AppKey("document", Document)


async def index(request: web.Request) -> web.Response:
    """GET /."""
    return blocks.respond(
        {"name": "tidings", "documentation": "/openapi.json", "api": PREFIX, "health": "/health"}
    )


async def health(request: web.Request) -> web.Response:
    """GET /health: 200 while PostgreSQL answers, else 503."""
    try:
        await database.ping(request.app[CONTEXT].pool)
    except OUTAGE:
        return answer(request, 503, "the database does not answer")
    return blocks.respond({"status": "ok"})


async def openapi(request: web.Request) -> web.Response:
    """GET /openapi.json."""
    return web.Response(body=request.app[DOCUMENT].body, content_type="application/json")


def _at_root(path: str, **more: Any) -> Operation:
    return Operation(
        method="GET", path=path, tag="root", root=True, authorization=Authorization.NONE, **more
    )


OPERATIONS = (
    _at_root("/", handler=index, name="getIndex", summary="Where to go from here.", block=Index),
    _at_root(
        "/health",
        handler=health,
        name="getHealth",
        summary="Whether the daemon can do its work.",
        block=Health,
        statuses=(503,),
    ),
    _at_root(
        "/openapi.json",
        handler=openapi,
        name="getOpenApi",
        summary="This description.",
        block=dict,
    ),
    _at_root(
        f"{PREFIX}/openapi.json",
        handler=openapi,
        name="getOpenApiBelowPrefix",
        summary="This description.",
        block=dict,
    ),
)
