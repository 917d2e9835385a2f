"""The aiohttp application and its listening site.

    request ─► named and logged ─► CORS ─► errors become answers ─► body read, bounded ─► handler

What is here holds for every route: those of the API, and those that the composition root adds (webhooks).
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from structlog.contextvars import bound_contextvars

from daemon import api
from daemon.api import cors, errors
from daemon.api.context import Context
from daemon.api.requests import name_request, request_id
from daemon.config import Server
from daemon.errors import ConfigError, Invalid

log = structlog.get_logger()

BACKLOG = 1024
"""Connections that the kernel holds for us."""

_TIMEOUT = web.AppKey("body_timeout", float)


def make_app(
    context: Context, *, extra_routes: Iterable[web.RouteDef] = (), server: Server | None = None
) -> web.Application:
    """The application: the API, and *extra_routes*.  *server* says how large and slow a body may be."""
    limits = server or Server()
    app = web.Application(
        client_max_size=limits.body_limit,
        middlewares=[_named, cors.middleware, errors.middleware, _read],
    )
    app[_TIMEOUT] = limits.body_timeout
    app.on_response_prepare.append(_sign)
    api.install(app, context, version=_version())
    app.add_routes(extra_routes)
    return app


@asynccontextmanager
async def open_site(server: Server, app: web.Application) -> AsyncGenerator[str]:
    """Listen; yields `host:port` as it was bound.  Leaving lets requests end for `stop_grace` seconds.

    Raises `ConfigError` when the address cannot be listened on.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=server.idle_timeout,
        shutdown_timeout=server.stop_grace,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.listen.host, server.listen.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"server: [server] listen: {server.listen} cannot be listened on: {error.strerror or error}"
            ) from error
        host, port = runner.addresses[0][:2]
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        await runner.cleanup()


@web.middleware
async def _named(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, which every log line about it has, and tell of it when it is over.

    Logged is the route, not the path: a path may hold what must not be known.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    with bound_contextvars(request_id=name_request(request)):
        response = await handler(request)
        resource = request.match_info.route.resource
        tell = log.debug if response.status < 400 else log.info  # noqa: PLR2004 — HTTP's errors
        tell(
            "request",
            method=request.method,
            route=resource.canonical if resource is not None else None,
            status=response.status,
            ms=round((loop.time() - began) * 1000, 1),
        )
        return response


@web.middleware
async def _read(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Read the whole body before the handler begins, within the limits."""
    if request.match_info.http_exception is None and request.can_read_body:
        try:
            async with asyncio.timeout(request.app[_TIMEOUT]):
                await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise Invalid(
                {"body": "cannot be read: it breaks off, or is not encoded as it says"}
            ) from error
    return await handler(request)


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer names its request, and does not say more of the server than it must."""
    response.headers["Elements-Request-Id"] = request_id(request)
    response.headers["Server"] = "tidings"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


def _version() -> str:
    try:
        return version_of("tidings")
    except PackageNotFoundError:  # a checkout that nobody installed
        return "0"
