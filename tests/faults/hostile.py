"""Receivers at their worst, side by side with good ones, which must not notice."""

import asyncio
import math

from faults import checks
from faults.ledger import Arrival, Ledger
from faults.receiver import RETRY_AFTER
from faults.scenarios import Given
from faults.stage import Outcome, Size, Stage

from daemon.store import database

HOSTILE = ("hang", "500", "302", "410", "429", "drip", "flood", "half", "nobody")

SIZE = Size(hooked=20, shared=0, polled=0, rate=120.0)

MEMORY = 300 * 1024 * 1024
"""Bytes that the daemon may have resident, whatever it is answered."""

DELAY = 3.0
"""Seconds within which 99 of 100 changes must reach a good callback."""

IN_FLIGHT = 1.0
"""Seconds after an answer within which requests that had left before it may still come in."""

STATE = (
    "SELECT count(*) FROM callbacks WHERE id = $1 AND state = 'disabled' AND reason LIKE '%410%'"
)


async def hostile(given: Given) -> Outcome:
    """Callbacks that hang, fail, redirect, are gone, ask for quiet, drip, flood, close half-way, or have no one listening."""
    outcome = Outcome("hostile", given.seed, given.without)
    settings = {"TIDINGS_DELIVERY_TOTAL_TIMEOUT": "3s", "TIDINGS_DELIVERY_CONNECT_TIMEOUT": "1s"}
    async with given.stage("hostile", size=SIZE, modes=HOSTILE, **settings) as stage:
        await stage.begin()
        most = 0
        for second in range(given.faults):
            await asyncio.sleep(1)
            most = max(most, stage.daemon.memory())
            if second % 10 == 9:
                given.say(f"{second + 1} s, {most >> 20} MiB, {await stage.load.tell('count')}")
        outcome.count("daemons that ended", stage.ended())
        outcome.count("MiB of memory above the limit", max(most - MEMORY, 0) >> 20)
        outcome.facts["MiB of memory"] = most >> 20
        ledger = await stage.load.ledger(stage.directory)
        await stage.end(outcome)
        _behaved(ledger, outcome)
        gone = next(n for n, one in enumerate(ledger.callbacks) if one.mode == "410")
        outcome.count(
            "callbacks that answered 410 and are not disabled", 1 - await _disabled(stage, gone)
        )
        await stage.daemon.tidings("instances", "resume", str(stage.instances[gone]))
        await stage.settle(outcome, within=given.patience)
        del stage.daemon.troubles["callback disabled"]  # the one that answered 410: as it should
        await stage.judge(outcome)
    return outcome


def _behaved(ledger: Ledger, outcome: Outcome) -> None:
    """What can be said while they are hostile."""
    outcome.count("redirects followed", ledger.queried.get("trap", 0))
    outcome.count("requests before Retry-After was over", too_early(ledger))
    outcome.count("requests after 410", after_gone(ledger))
    deaf = next(n for n, one in enumerate(ledger.callbacks) if one.mode == "nobody")
    outcome.count(
        "requests where nobody listens", sum(one.callback == deaf for one in ledger.arrivals)
    )
    good = {n for n, one in enumerate(ledger.callbacks) if one.mode == "ok"}
    delays = checks.delays(ledger, good) or [math.inf]
    slowest = delays[len(delays) * 99 // 100]
    outcome.facts["p99 delay at good callbacks, s"] = round(slowest, 2)
    outcome.count(
        "hundredths of changes that were late at good callbacks", 0 if slowest <= DELAY else 1
    )


def too_early(ledger: Ledger) -> list[str]:
    """Requests that came though the callback had asked for quiet."""
    asked: dict[int, float] = {}
    found: list[str] = []
    for one in ledger.arrivals:
        began = asked.get(one.callback)
        if began is not None and began + IN_FLIGHT < one.at < began + RETRY_AFTER:
            found.append(_after(one, began))
        if one.status == 429 and (began is None or one.at > began + IN_FLIGHT):
            asked[one.callback] = one.at
    return found


def after_gone(ledger: Ledger) -> list[str]:
    """Requests to a callback that had said that it is no more."""
    gone: dict[int, float] = {}
    found: list[str] = []
    for one in ledger.arrivals:
        began = gone.get(one.callback)
        if began is not None and one.at > began + IN_FLIGHT:
            found.append(_after(one, began))
        if one.status == 410 and began is None:
            gone[one.callback] = one.at
    return found


def _after(one: Arrival, began: float) -> str:
    return f"callback {one.callback}: {one.id} {one.at - began:.2f} s after"


async def _disabled(stage: Stage, number: int) -> int:
    conn = await database.connect(stage.dsn, role=None)
    try:
        found: int = await conn.fetchval(STATE, stage.instances[number])
        return found
    finally:
        await conn.close()
