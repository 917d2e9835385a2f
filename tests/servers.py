"""Servers for tests: aiohttp applications on 127.0.0.1, port chosen by the system."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

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


class Script:
    """A provider that gives recorded answers: path with query → JSON, or (status, JSON, headers)."""

    def __init__(self, answers: Mapping[str, Any], *, otherwise: Any = None) -> None:
        self.answers = dict(answers)
        self.otherwise = otherwise
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request; an address that is not in the script gets *otherwise*, or a 404."""
        asked = request.raw_path.partition("?")[0] + _query(request)
        self.asked.append(asked)
        self.headers.append(request.headers)
        missing = (404, {"error": "not in the script"}, {})
        answer = self.answers.get(asked, missing if self.otherwise is None else self.otherwise)
        status, body, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        origin = f"{request.scheme}://{request.host}"
        text = body if isinstance(body, str) else json.dumps(body)
        named = {name: value.replace("{origin}", origin) for name, value in headers.items()}
        return web.Response(status=status, text=text.replace("{origin}", origin), headers=named)


def _query(request: web.Request) -> str:
    """The query as a person would write it, without quoting."""
    pairs = "&".join(f"{name}={value}" for name, value in request.query.items())
    return f"?{pairs}" if pairs else ""
