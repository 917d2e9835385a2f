"""Servers that behave like providers, on this machine: for tests, `tidings simulate` and `tidings demo`.

    ledger      the records of a simulated provider, in memory
    tokens      its OAuth token endpoint
    sageone     Sage Business Cloud Accounting: OAuth with rotating tokens, contacts, odd paging
    workshop    nobody's: an API key, customers and orders, webhooks about tickets

They keep nothing, and they are no place for real data: whoever reaches their port may change it.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

ELEMENTS = Path(__file__).parent.parent


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


def replacement(key: str, changes: Mapping[str, str]) -> str:
    """The text of the built-in definition *key* with *changes* made, to stand in for it.

    Raises `ValueError` for a change whose text is not there.
    """
    text = (ELEMENTS / f"{key}.toml").read_text(encoding="utf-8")
    for old, new in {f'key = "{key}"': f'key = "{key}"\nreplaces = true', **changes}.items():
        if old not in text:
            raise ValueError(f"{key}.toml does not hold {old!r}")
        text = text.replace(old, new, 1)
    return text
