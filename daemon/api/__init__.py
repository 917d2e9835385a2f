"""The REST API: instances of elements, their configuration, what they told.

    auth           who makes a request           context     what the handlers work with
    instances      configuration  events  deliveries  queue  elements  hubs  root   the handlers, by what they are about
    redelivery     arrivals       readings                   what deliveries are made to do; who waits for events, who reads
    bodies         requests  parameters  markup  asking      what comes in, and how it is read
    changes        provision                                 what an instance becomes: checks, secrets, entries
    blocks         paging  errors  cors                      what goes out
    operations     openapi                                   the routes, and their description

Paths, bodies, headers and statuses are those of the Cloud Elements platform API, so that what was written for
it goes on working; `docs/api.md` says where tidings does otherwise.
"""

from collections.abc import Iterable

import orjson
from aiohttp import web

from daemon.api import configuration, deliveries, elements, events, hubs, instances, queue, root
from daemon.api.arrivals import Arrivals
from daemon.api.context import CONTEXT, Context
from daemon.api.openapi import document
from daemon.api.readings import Readings
from daemon.webhook_urls import PREFIX

OPERATIONS = (
    *instances.OPERATIONS,
    *configuration.OPERATIONS,
    *events.OPERATIONS,
    *deliveries.OPERATIONS,
    *queue.OPERATIONS,
    *elements.OPERATIONS,
    *root.OPERATIONS,
    *hubs.OPERATIONS,
)

__all__ = ["CONTEXT", "OPERATIONS", "PREFIX", "Arrivals", "Context", "install", "routes"]


def routes() -> Iterable[web.RouteDef]:
    """The routes of every operation."""
    return [operation.route() for operation in OPERATIONS]


def install(app: web.Application, context: Context, *, version: str) -> None:
    """Put the API into *app*: its context, its routes and their description."""
    app[CONTEXT] = context
    app[root.DOCUMENT] = root.Document(
        lambda: orjson.dumps(document(OPERATIONS, version=version, url=context.public_url))
    )
    app.add_routes(routes())

    async def let_go(app: web.Application) -> None:
        """Answer the long polls: the server must not wait for them when it stops."""
        context.arrivals.close()

    app.on_shutdown.append(let_go)
    readings = app[hubs.READINGS] = Readings()

    async def close(app: web.Application) -> None:
        await readings.close()

    app.on_cleanup.append(close)
