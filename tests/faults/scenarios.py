"""What is done to tidings.  Each scenario plays on a `stage` and gives its outcome."""

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from faults.postgres import Postgres, joined, kill_in
from faults.stage import SETTLED, Outcome, Say, Size, Stage, staged

STARTS_HIT = 0.125
"""The share of kills that hit a daemon on its way up, whose recovery is then recovered from."""

SHOWN = 15.0  # seconds

LIVES, LONG_LIVES = (0.3, 2.0), (4.0, 8.0)
"""Seconds from ready to the kill; every tenth life is long, so that not only what was left over is ever done."""

HOURS = 3 * 3600.0
"""By how much clocks jump, in seconds."""


@dataclass(frozen=True, slots=True)
class Given:
    """What every scenario is given.  *faults* is how many, or how many seconds where one lasts."""

    postgres: Postgres
    directory: Path
    seed: int
    say: Say
    faults: int
    size: Size = field(default_factory=Size)
    without: str | None = None
    patience: float = SETTLED

    @asynccontextmanager
    async def stage(self, scenario: str, **more: Any) -> AsyncGenerator[Stage]:
        """A stage for *scenario*, with a database of its own."""
        name = re.sub(r"\W", "_", f"{scenario}_{self.seed}_{uuid.uuid4().hex[:6]}")
        async with staged(
            name, postgres=self.postgres, seed=self.seed, directory=self.directory / name, say=self.say,
            size=more.pop("size", self.size), without=self.without, **more,
        ) as stage:  # fmt: skip
            yield stage


async def kills(given: Given) -> Outcome:
    """SIGKILL of the daemon at random instants, some while it starts; started again at once."""
    outcome = Outcome("kills", given.seed, given.without)
    async with given.stage("kills") as stage:
        await stage.begin()
        for number in range(1, given.faults + 1):
            if stage.chance.random() < STARTS_HIT:
                await asyncio.sleep(stage.chance.uniform(0.05, 1.5))
            else:
                await stage.daemon.ready()
                await asyncio.sleep(stage.chance.uniform(*(LIVES if number % 10 else LONG_LIVES)))
            await stage.daemon.kill()
            await stage.daemon.start()
            if number % 10 == 0 or number == given.faults:
                given.say(f"{number} kills, {await stage.load.tell('count')}")
        outcome.facts["kills of the daemon"] = given.faults
        await stage.daemon.ready()
        await _finish(given, stage, outcome)
    return outcome


async def postgres(given: Given) -> Outcome:
    """SIGKILL of PostgreSQL at random instants; the daemon lives on, and owes everything it acknowledged."""
    outcome = Outcome("postgres", given.seed, given.without)
    async with given.stage("postgres") as stage:
        await stage.begin()
        for number in range(1, given.faults + 1):
            await asyncio.sleep(stage.chance.uniform(1.0, 4.0))
            given.postgres.kill()
            await asyncio.sleep(stage.chance.uniform(0.0, 1.5))
            await given.postgres.start()
            given.say(f"{number} kills of PostgreSQL, {await stage.load.tell('count')}")
        outcome.facts["kills of PostgreSQL"] = given.faults
        await asyncio.sleep(2.0)
        outcome.count("daemons that ended", stage.ended())
        await _finish(given, stage, outcome)
    return outcome


async def embedded(given: Given) -> Outcome:
    """SIGKILL of the PostgreSQL that the daemon brought along; nobody but the daemon starts it again."""
    outcome = Outcome("embedded", given.seed, given.without)
    async with given.stage("embedded", embedded=True) as stage:
        await stage.begin()
        for number in range(1, given.faults + 1):
            await asyncio.sleep(stage.chance.uniform(1.0, 3.0))
            kill_in(stage.directory / "postgres")
            async with asyncio.timeout(30):
                await _answers(stage.dsn)
            given.say(f"{number} kills of its PostgreSQL, {await stage.load.tell('count')}")
        outcome.facts["kills of its PostgreSQL"] = given.faults
        await asyncio.sleep(1.0)
        outcome.count("daemons that ended", stage.ended())
        await stage.end(outcome)
        await stage.settle(outcome, within=given.patience)
        # It says aloud that its database ended: that is as it should be.
        del stage.daemon.troubles["the embedded PostgreSQL has ended"]
        async with joined(stage.directory):
            await stage.judge(outcome)
    return outcome


async def _answers(dsn: str) -> None:
    """Return when a PostgreSQL takes connections there."""
    while True:
        try:
            conn = await asyncpg.connect(dsn, timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            await asyncio.sleep(0.1)
        else:
            await conn.close()
            return


async def commits(given: Given) -> Outcome:
    """The connection to PostgreSQL cut: before a COMMIT arrives, after it is done, while it is on its way."""
    outcome = Outcome("commits", given.seed, given.without)
    async with given.stage("commits", proxied=True) as stage:
        proxy = stage.proxy
        assert proxy is not None
        ways = {
            "COMMIT lost": proxy.lose_commit,
            "answer to COMMIT lost": proxy.lose_answer,
            "cut during COMMIT": proxy.race_commit,
        }
        await stage.begin()
        for number in range(1, given.faults + 1):
            await asyncio.sleep(stage.chance.uniform(0.1, 1.2))
            way = stage.chance.choice(sorted(ways))
            cut = ways[way]()
            async with asyncio.timeout(30):
                await cut.happened.wait()
            outcome.facts[way] = outcome.facts.get(way, 0) + 1
            if number % 10 == 0 or number == given.faults:
                given.say(f"{number} cuts, {await stage.load.tell('count')}")
        outcome.count("daemons that ended", stage.ended())
        await _finish(given, stage, outcome)
    return outcome


async def held(given: Given) -> Outcome:
    """A transaction elsewhere in the database holds its snapshot and its read lock for *faults* seconds."""
    outcome = Outcome("held", given.seed, given.without)
    async with given.stage("held") as stage:
        conn = await asyncpg.connect(stage.dsn)
        try:
            await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await conn.fetchval("SELECT pg_current_xact_id()::text || count(*) FROM log")
            await stage.begin()
            await asyncio.sleep(given.faults)
            counted = await stage.load.tell("count")
            given.say(f"held for {given.faults} s, {counted}")
            outcome.count(
                "webhooks that nobody took meanwhile", max(counted["unacknowledged"] - 500, 0)
            )
            outcome.facts["seconds held"] = given.faults
            await conn.execute("ROLLBACK")
        finally:
            await conn.close()
        await _finish(given, stage, outcome)
    return outcome


async def clock(given: Given) -> Outcome:
    """The daemon's clock jumps by three hours forwards and backwards, and returns, for *faults* seconds each."""
    return await _clocks("clock", given, daemon=True, provider=False)


async def provider_clock(given: Given) -> Outcome:
    """The provider's clock, which dates its records and answers, jumps so."""
    return await _clocks("provider_clock", given, daemon=False, provider=True)


async def both_clocks(given: Given) -> Outcome:
    """Both clocks jump so, together."""
    return await _clocks("both_clocks", given, daemon=True, provider=True)


async def _clocks(name: str, given: Given, *, daemon: bool, provider: bool) -> Outcome:
    outcome = Outcome(name, given.seed, given.without)
    async with given.stage(name, clock=True) as stage:
        await stage.load.tell("forgive time")
        await stage.begin()
        for offset in (HOURS, 0.0, -HOURS, 0.0):
            await asyncio.sleep(given.faults)
            if daemon:
                stage.set_clock(offset)
            if provider:
                await stage.load.tell("skew", seconds=offset)
                # One that goes and comes back between two looks is seen by nobody.
                async with asyncio.timeout(30):
                    while (await stage.load.tell("count"))["unpolled"]:  # noqa: ASYNC110 — another process's count sets no event
                        await asyncio.sleep(0.1)
            given.say(f"now {offset / 3600:+.0f} h, {await stage.load.tell('count')}")
        await asyncio.sleep(given.faults)
        outcome.facts["jumps"] = 4
        outcome.count("daemons that ended", stage.ended())
        await _finish(given, stage, outcome)
    return outcome


async def _finish(given: Given, stage: Stage, outcome: Outcome) -> None:
    await stage.end(outcome)
    # With a mechanism switched off something is lost for good: enough to have shown it.
    await stage.settle(outcome, within=SHOWN if given.without else given.patience)
    await stage.judge(outcome)
