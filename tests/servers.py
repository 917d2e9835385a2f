"""Servers for tests: aiohttp applications on 127.0.0.1, port chosen by the system."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(application: web.Application | Handler) -> AsyncGenerator[str]:
    """Serve *application*, or one handler for every path; the value is its origin, without a slash at its end."""
    if not isinstance(application, web.Application):
        handler, application = application, web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
    # A handler that a client left is cancelled, so that no test waits for a server that was told to hang.
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
