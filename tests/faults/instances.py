"""The harness's instances at tidings: made through its API, as an integrator makes them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
from faults.provider import SECRET
from faults.receiver import KEY
from faults.running import Daemon, Load
from journey.running import API, add_user

from daemon.store import database

BASELINES = "SELECT count(*) FROM cursors WHERE baseline IS NOT NULL"


async def create(
    dsn: str,
    directory: Path,
    daemon: Daemon,
    load: Load,
    *,
    accounts: Any,
    modes: Sequence[str],
) -> list[int]:
    """The instances, by number of their callback; returns when each polled one has its baseline."""
    user = {"Authorization": await add_user(dsn, directory, "faults")}
    made: dict[int, int] = {}
    async with aiohttp.ClientSession(daemon.origin, headers=user) as session:
        for account, polled, callbacks in accounts:
            for number in callbacks:
                configuration = {
                    "base.url": f"{load.origin}/{account}",
                    "faulty.account": account,
                    "signature.secret": SECRET,
                    "event.vendor.type": "polling" if polled else "webhooks",
                    "event.notification.enabled": "true",
                    "event.notification.callback.url": load.callback(number, modes[number]),
                    "event.notification.signature.key": KEY,
                    "event.notification.receipts": "false" if number % 2 else "true",
                    "event.poller.refresh_interval": "0.025",
                }
                body = {
                    "element": {"key": "faulty"},
                    "name": f"{account} at {number}",
                    "configuration": configuration,
                }
                async with session.post(f"{API}/instances", json=body) as answer:
                    said = await answer.text()
                    assert answer.status == 200, said
                    made[number] = (await answer.json())["id"]
    polled_count = sum(polled for _, polled, _ in accounts)
    await _baselines(dsn, polled_count)
    return [made[number] for number in sorted(made)]


async def _baselines(dsn: str, wanted: int) -> None:
    conn = await database.connect(dsn, role=None)
    try:
        async with asyncio.timeout(60):
            while await conn.fetchval(BASELINES) < wanted:  # noqa: ASYNC110 — another process's table sets no event
                await asyncio.sleep(0.1)
    finally:
        await conn.close()
