"""A random history of subscribers, with faults, polls and webhooks, told into a real log: nothing lost, invented or twice.

`HISTORY=2000` in the environment makes it so many changes long.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from elements.campaignmonitor.account import START, Account, opened

from daemon.elements.campaignmonitor.api import record
from daemon.elements.simulators.campaignmonitor.lists import Subscriber, Unfit
from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor
from daemon.elements.simulators.ledger import Clock
from daemon.store import vault

Run = Callable[..., Any]
LENGTH = int(os.environ.get("HISTORY", "300"))
GONE: dict[str, Any] = {}


class History:
    """Changes at the provider, and what each made of whom."""

    def __init__(self, account: Account, seed: int) -> None:
        self.account, self.provider = account, account.provider
        self.rng = random.Random(seed)  # noqa: S311 — a history that can be told again, not a secret
        self.made = self.polls = self.failed = 0
        self.versions: dict[str, list[dict[str, Any]]] = {}
        self.before: dict[str, dict[str, Any]] = {}

    def version(self, list_id: str, found: Subscriber | None) -> dict[str, Any]:
        """What a subscriber is, as it should be told."""
        if found is None or found.state == "Deleted":
            return GONE
        offset = self.provider.lists[list_id].offset
        return record(list_id, found.row(offset, tracking=True, sms=True))

    def note(self, list_id: str, *addresses: str) -> None:
        """Remember what became of *addresses*."""
        for address in addresses:
            found = self.provider.lists[list_id].get(address)
            name = f"{list_id}/{address.lower()}"
            self.versions.setdefault(name, []).append(self.version(list_id, found))

    def change(self) -> None:
        """One change."""
        rng, provider = self.rng, self.provider
        list_id = rng.choice(list(provider.lists))
        one = provider.lists[list_id]
        there = [each.address for each in one.all() if each.state != "Deleted"]
        number = self.made
        what = rng.choice(
            ["add", "name", "name", "field", "rename", "leave", "bounce", "back", "delete"]
        )
        if not there or what == "add":
            address = f"Person{rng.randrange(60)}@example.com"
            one.add(address, name=f"n{number}", consent=rng.choice(["Yes", "No"]))
            self.note(list_id, address)
        elif what == "rename":
            address, new = rng.choice(there), f"person{rng.randrange(60)}@example.com"
            try:
                one.rename(address, new)
            except Unfit:
                return
            self.note(list_id, address, new)
        else:
            address = rng.choice(there)
            facts: dict[str, Any] = {
                "name": {"name": f"n{number}"},
                "field": {
                    "fields": (("z", str(number)), ("a", "x")),
                    "mobile": rng.choice(["", "+4412"]),
                },
                "leave": {"state": "Unsubscribed"},
                "bounce": {"state": "Bounced"},
                "back": {"state": "Active"},
                "delete": {"state": "Deleted"},
            }[what]
            one.change(address, **facts)
            self.note(list_id, address)
        self.made += 1

    def trouble(self) -> None:
        """Something that goes wrong."""
        provider, rng = self.provider, self.rng
        match rng.randrange(8):
            case 0 | 1:
                provider.fail(rng.choice([500, 502, 503]), times=rng.randint(1, 3))
            case 2:
                provider.fail(429, retry_after=rng.choice([None, "1"]))
            case 3:
                provider.before(*[rng.choice([self.change, lambda: None]) for _ in range(20)])
            case 4:
                provider.lag(rng.choice([0, 20, 50, 300]))
            case 5:
                provider.expire_access()
            case 6:
                provider.posts.twice, provider.posts.shuffled = 2, rng.random() < 0.5
            case 7:
                self.account.restart()

    async def poll(self) -> None:
        """One poll."""
        self.polls += 1
        await self.account.poll()
        self.failed += bool(await self.account.trouble())
        self.provider._before.clear()
        self.provider._failures.clear()

    async def live(self, length: int) -> None:
        """Set a baseline, go through it all, poll without trouble."""
        for _ in range(40):
            self.change()
        clock, rng = self.account.clock, self.rng
        clock.advance(120)
        await self.account.tend()
        await self.poll()
        self.made = 0
        self.versions = {name: versions[-1:] for name, versions in self.versions.items()}
        self.before = {name: versions[-1] for name, versions in self.versions.items()}
        while self.made < length:
            for _ in range(rng.randint(0, 4)):
                self.change()
                clock.advance(rng.choice([0, 0, 1, 30]))
            if rng.random() < 0.5:
                self.trouble()
            clock.advance(rng.choice([0, 5, 61, 900]))
            if rng.random() < 0.7:
                await self.provider.posts.posted()
            await self.poll()
            if rng.random() < 0.05:
                self.provider.deactivate()
            if rng.random() < 0.1:
                self.provider.lag(0)
                await self.account.tend()
        self.provider.lag(0)
        await self.provider.posts.posted()
        for _ in range(2):
            clock.advance(3700)
            await self.poll()

    async def judge(self) -> dict[str, list[Any]]:
        """Hold what was told against what was."""
        verdict: dict[str, list[Any]] = {"lost": [], "invented": [], "twice": []}
        latest = dict(self.before)
        for change, name, data in await self.account.changes():
            version = GONE if change == "DELETED" else data
            before = latest.get(name, GONE)
            if version == before:
                verdict["twice"].append((change, name, data))
            elif version not in self.versions.get(name, []) and version != GONE:
                verdict["invented"].append((change, name, data))
            elif (change == "CREATED") != (before == GONE):
                verdict["invented"].append((change, "is not so", name))
            latest[name] = version
        for name, versions in self.versions.items():
            if latest.get(name, GONE) != versions[-1]:
                verdict["lost"].append((name, latest.get(name), versions[-1]))
        return verdict


@pytest.mark.element("campaignmonitor", "both at once")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_history_is_told_once(
    dsn: str, keys: vault.Keys, run: Run, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Through faults, lag, expired tokens, moving pages, doubled, shuffled and lost webhooks: lost 0, invented 0, twice 0."""
    clock = Clock(START)
    provider = CampaignMonitor(gather=0.0, waits=(), page_most=10, now=clock)
    provider.mailing_list("List Two")

    async def main() -> None:
        async with opened(dsn, keys, provider, clock, authentication__type="oauth2") as account:
            history = History(account, seed)
            await history.live(LENGTH)
            verdict = await history.judge()
            told = len(await account.changes())
            record_property(
                "figures", f"{history.made} changes, {history.polls} polls, {told} told"
            )
            assert {"lost": [], "invented": [], "twice": []} == verdict
            assert account.knocks, "no webhook came"
            assert history.failed, "no poll failed"

    run(main(), limit=30 + LENGTH / 5)
