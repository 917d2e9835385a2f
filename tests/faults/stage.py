"""A scenario's stage: database, load, daemon, instances; and the verdict at its end."""

import asyncio
import os
import random
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults import checks, records
from faults.instances import create
from faults.ledger import Ledger
from faults.postgres import Postgres, dsn_in
from faults.provider import ELEMENT
from faults.running import Daemon, Load, loading
from journey.running import API
from proxy import Proxy

Say = Callable[[str], None]

SETTLED = 150.0
"""Seconds for everything to arrive after the last fault; a breaker's longest pause is half of it."""

RETRIES = ", ".join(["1s"] * 20 + ["2s"] * 80)
"""Waits between attempts: many, so that nothing is given up while a scenario lasts."""

MISBEHAVING = (
    ("slow",) * 4 + ("flaky",) * 4 + ("outage",) * 2 + ("closing",) * 3 + ("forgetful",) * 3
)
"""How some of the callbacks behave under load; the others are well."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is going on: accounts told by webhook, of which *shared* have two instances, accounts that are
    polled, changes a second."""

    hooked: int = 24
    shared: int = 6
    polled: int = 20
    rate: float = 320.0

    @property
    def callbacks(self) -> int:
        """How many callbacks there are."""
        return self.hooked + self.shared + self.polled


@dataclass(slots=True)
class Outcome:
    """What a scenario came to.  *counts* must all be 0; *facts* are told."""

    scenario: str
    seed: int
    without: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether every count is 0."""
        return not any(self.counts.values())

    def count(self, name: str, found: list[str] | int) -> None:
        """Write a count down, with a few examples."""
        self.counts[name] = found if isinstance(found, int) else len(found)
        if isinstance(found, list) and found:
            self.examples[name] = found[:: max(len(found) // 5, 1)][:6]

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {**asdict(self), "good": self.good}


@dataclass(slots=True)
class Stage:
    """What a scenario plays on."""

    directory: Path
    dsn: str
    load: Load
    daemon: Daemon
    proxy: Proxy | None
    size: Size
    say: Say
    instances: list[int]
    chance: random.Random
    began: float = field(default_factory=time.monotonic)
    _loaded: float = 0.0

    async def begin(self) -> None:
        """Let the changes begin."""
        host, port = self.daemon.address.split(":")
        path = f"{API}/events/faulty"
        await self.load.tell("target", host=host, port=int(port), path=path)
        await self.load.tell("rate", value=self.size.rate)
        self._loaded = time.monotonic()

    async def end(self, outcome: Outcome) -> None:
        """End the changes, and what ails the callbacks."""
        seconds = time.monotonic() - self._loaded
        await self.load.tell("rate", value=0)
        await self.load.tell("mend")
        counted = await self.load.tell("count")
        outcome.facts["changes"] = counted["changes"]
        outcome.facts["changes a second"] = round(counted["changes"] / seconds, 1)

    def set_clock(self, seconds: float) -> None:
        """Make the daemon's clock wrong by *seconds*."""
        with (self.directory / "clock").open(
            "r+b"
        ) as file:  # in place: it is mapped, and must not shrink
            file.write(struct.pack("d", seconds))

    def ended(self) -> list[str]:
        """The last lines of a daemon that ended though nobody killed it; nothing of one that runs."""
        return [] if self.daemon.running else ["".join(list(self.daemon.lines)[-30:])]

    async def settle(self, outcome: Outcome, *, within: float) -> None:
        """Wait until everything has arrived, at most *within* seconds: what is missing then is lost."""
        began = time.monotonic()
        while True:
            asked = time.monotonic()
            left = await self.load.tell("missing")
            cost = time.monotonic() - asked
            seconds = time.monotonic() - began
            if not left["missing"] and not left["unacknowledged"]:
                break
            if seconds > within:
                self.say(f"  after {seconds:.0f} s still missing: {left}")
                self.say("the daemon's last lines:\n" + "".join(list(self.daemon.lines)[-30:]))
                break
            # Who counts does not receive meanwhile: a large ledger is counted less often.
            await asyncio.sleep(max(0.5, 4 * cost))
        outcome.facts["seconds until all had arrived"] = round(seconds, 1)

    async def judge(self, outcome: Outcome) -> Ledger:
        """Stop the daemon and count."""
        if self.daemon.running:
            status = await self.daemon.stop()
            outcome.count("exits with another status than 0", [] if status == 0 else [str(status)])
        ledger = await self.load.ledger(self.directory)
        for name, check in checks.CHECKS.items():
            outcome.count(name, check(ledger))
        outcome.count(
            "second accepted deliveries recorded", await records.second_accepted(self.dsn)
        )
        outcome.count(
            "projection rows that differ after a rebuild", await records.differing(self.dsn)
        )
        outcome.count(
            "errors in the daemon's log",
            [f"{n} times {t}" for t, n in self.daemon.troubles.items()],
        )
        if missing := checks.lost(ledger):
            outcome.facts["lost of polls"] = sum(": p" in line for line in missing)
            outcome.facts["callbacks that lack something"] = len(
                {line.partition(":")[0] for line in missing}
            )
        outcome.facts["notifications accepted"] = sum(one.accepted for one in ledger.arrivals)
        outcome.facts["marked repeats"] = len(checks.marked_repeats(ledger))
        outcome.facts["marked and no repeat"] = checks.needless_marks(ledger)
        outcome.facts["questions for receipts"] = ledger.queried.get("questions for receipts", 0)
        outcome.count(
            "questions that nobody should ask",
            ledger.queried.get("questions that nobody should ask", 0),
        )
        outcome.facts["seconds"] = round(time.monotonic() - self.began, 1)
        return ledger


@asynccontextmanager
async def staged(
    name: str,
    *,
    postgres: Postgres,
    seed: int,
    directory: Path,
    say: Say,
    size: Size,
    modes: tuple[str, ...] = MISBEHAVING,
    without: str | None = None,
    proxied: bool = False,
    embedded: bool = False,
    clock: bool = False,
    **settings: str,
) -> AsyncGenerator[Stage]:
    """Set everything up, and take it down.

    *modes* are those of the first callbacks, before they are shuffled; the others are `ok`.  *proxied*: the
    daemon reaches its database through a `Proxy`.  *embedded*: it has its own PostgreSQL.  *clock*: its clock can
    be set.
    """
    os.makedirs(directory, exist_ok=True)  # noqa: PTH103 — a path's own is refused in a coroutine
    database_dsn = "" if embedded else await postgres.create(name)
    chance = random.Random(seed)  # noqa: S311 — what it draws must come again
    spread = [*modes, *(["ok"] * (size.callbacks - len(modes)))]
    chance.shuffle(spread)
    chosen = {
        "seed": seed,
        "accounts": _accounts(size),
        "modes": spread,
        "receipts": list(range(0, size.callbacks, 2)),
    }
    arguments = ["--without", without] if without else []
    if clock:
        (directory / "clock").write_bytes(struct.pack("d", 0.0))
        arguments += ["--clock", str(directory / "clock")]
    (directory / "faulty.toml").write_text(ELEMENT)
    async with AsyncExitStack() as stack:
        load = await stack.enter_async_context(loading(chosen))
        proxy = await stack.enter_async_context(Proxy(database_dsn)) if proxied else None
        daemon = Daemon(
            dsn=None if embedded else proxy.dsn if proxy else database_dsn,
            directory=directory,
            port=_free_port(),
            arguments=arguments,
            **{
                "TIDINGS_ELEMENTS_DIRECTORIES": str(directory / "faulty.toml"),
                "TIDINGS_DELIVERY_RETRIES": RETRIES,
                "TIDINGS_DELIVERY_CONCURRENCY": "6",
                **settings,
            },
        )
        try:
            await daemon.start()
            await daemon.ready()
            database_dsn = database_dsn or dsn_in(directory)
            instances = await create(
                database_dsn,
                directory,
                daemon,
                load,
                accounts=chosen["accounts"],
                modes=spread,
            )
            yield Stage(
                directory=directory,
                dsn=database_dsn,
                load=load,
                daemon=daemon,
                proxy=proxy,
                size=size,
                say=say,
                instances=instances,
                chance=chance,
            )
        except Exception:
            say("the daemon's last lines:\n" + "".join(list(daemon.lines)[-30:]))
            raise
        finally:
            await daemon.kill()


def _accounts(size: Size) -> list[tuple[str, bool, list[int]]]:
    numbers = iter(range(size.callbacks))
    hooked = [
        (f"h{n}", False, [next(numbers) for _ in range(1 + (n < size.shared))])
        for n in range(size.hooked)
    ]
    return hooked + [(f"p{n}", True, [next(numbers)]) for n in range(size.polled)]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
