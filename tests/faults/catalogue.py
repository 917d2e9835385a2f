"""The scenarios by name, and how much of each makes the short form and the long one."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from faults import hostile, scenarios
from faults.postgres import Postgres
from faults.scenarios import Given
from faults.stage import SETTLED, Outcome, Say, Size

SCENARIOS: dict[str, Callable[[Given], Awaitable[Outcome]]] = {
    "kills": scenarios.kills,
    "postgres": scenarios.postgres,
    "embedded": scenarios.embedded,
    "commits": scenarios.commits,
    "held": scenarios.held,
    "hostile": hostile.hostile,
    "clock": scenarios.clock,
    "provider_clock": scenarios.provider_clock,
    "both_clocks": scenarios.both_clocks,
}

SHORT = {
    "kills": 15, "postgres": 1, "embedded": 1, "commits": 4, "held": 5, "hostile": 10,
    "clock": 2, "provider_clock": 1, "both_clocks": 1,
}  # fmt: skip
LONG = {
    "kills": 200, "postgres": 25, "embedded": 10, "commits": 150, "held": 240, "hostile": 60,
    "clock": 15, "provider_clock": 15, "both_clocks": 15,
}  # fmt: skip
"""Kills, kills, cuts; seconds held, of hostility, from one jump of a clock to the next."""

SWITCHED = {"kills": 6, "commits": 20}
"""The same where a mechanism is switched off: enough to be found out."""


async def play(
    name: str,
    *,
    server: Postgres,
    directory: Path,
    seed: int,
    say: Say,
    faults: int,
    size: Size | None = None,
    without: str | None = None,
    patience: float = SETTLED,
) -> Outcome:
    """Play the scenario *name*."""
    given = Given(server, directory, seed, say, faults, size or Size(), without, patience)
    return await SCENARIOS[name](given)
