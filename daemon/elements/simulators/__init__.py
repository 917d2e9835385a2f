"""Servers that behave like providers, on this machine: for tests, `tidings simulate` and `tidings demo`.

    ledger      the records of a simulated provider, in memory
    tokens      its OAuth token endpoint
    sageone     Sage Business Cloud Accounting: OAuth with rotating tokens, contacts, odd paging
    workshop    nobody's: an API key, customers and orders, webhooks about tickets

They keep nothing, and they are no place for real data: whoever reaches their port may change it.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


@asynccontextmanager
async def serving(
    application: web.Application, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[str]:
    """Serve *application*; the value is its origin, without a slash at its end.  Port 0: the system chooses.

    Raises `OSError` when the port is taken.
    """
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Have *work*, which has no end, done until the block ends; what the block raises comes out as it is."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        except Exception as error:  # noqa: BLE001 — raised again below: a TaskGroup would wrap it
            failure = error
        finally:
            task.cancel()
    if failure is not None:
        raise failure
