"""A random history of a Dropbox account, followed with faults: nothing lost, invented or told twice."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from elements.changes_of_providers import LENGTH
from poller.fed import Fed, advance, fed, status

from daemon.store import vault

Run = Callable[..., Any]

NAMES = ["a", "b", "c", "Notes", "übung", "100%_x", "x-1", "x", "x.txt"]
SEED = 11


class Account:
    """One account: what happens to it, and to whoever reads it."""

    def __init__(self, world: Fed) -> None:
        self.w = world
        self.dice = random.Random(SEED)  # noqa: S311 — it must be the same every time
        self.changes = 0

    def path(self) -> str:
        """Somewhere, at most three folders deep."""
        return "".join(f"/{self.dice.choice(NAMES)}" for _ in range(self.dice.randint(1, 4)))

    def some(self) -> str:
        """Something that is there."""
        return self.dice.choice(sorted(self.w.ids()) or ["/a"])

    def change(self) -> None:
        """One change, if the account allows it: a file or a folder that comes, changes, moves or goes."""
        dice, before = self.dice, list(self.w.there())
        match dice.choices(["upload", "rewrite", "folder", "move", "delete"], [4, 5, 1, 3, 1])[0]:
            case "upload":
                self.w.edit("upload", self.path())
            case "rewrite":
                self.w.edit("upload", self.some())
            case "folder":
                self.w.edit("folder", self.path())
            case "move":
                self.w.edit("move", self.some(), self.path())
            case "delete":
                self.w.edit("delete", self.some())
        self.changes += before != self.w.there()

    def fault(self) -> Any:
        """What happens to one request."""
        tree, dropbox = self.w.dropbox.tree, self.w.dropbox
        happenings: list[Any] = [
            self.change,
            self.change,
            dropbox.expire_access,
            dropbox.lose_cursors,
            lambda: setattr(tree, "moves_end_first", not tree.moves_end_first),
            lambda: setattr(dropbox, "page", self.dice.choice([1, 2, 5, 2000])),
            lambda: dropbox.fail(429, retry_after=1, plain=self.dice.random() < 0.5),
            status(500),
            status(503),
            None,
        ]
        what = self.dice.choice(happenings)
        answer = what if what is None else what()
        return answer if hasattr(answer, "status") else None


@pytest.mark.element("dropbox", "polling")
@pytest.mark.element("dropbox", "created")
@pytest.mark.element("dropbox", "updated")
@pytest.mark.element("dropbox", "deleted")
def test_a_random_history_is_told_once(dsn: str, keys: vault.Keys, run: Run) -> None:
    """Files and folders come, change, move and go while polls fail, tokens expire and cursors are lost."""

    async def history() -> None:
        async with fed(dsn, keys, page=3, sweep_limit=1.0, disable_after_failures=10**9) as w:
            account = Account(w)
            while account.changes < 30:
                account.change()
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            before, account.changes, polls, worst = set(w.there()), 0, 0, 0
            while account.changes < LENGTH:
                for _ in range(account.dice.randint(0, 4)):
                    account.change()
                w.happenings[:] = [account.fault for _ in range(account.dice.randint(0, 12))]
                advance(w, 30)
                assert await poller.poll_once(hurry=True)
                w.happenings.clear()
                polls += 1
                if account.dice.random() < 0.1:
                    poller = w.poller(instance)
                if account.dice.random() < 0.05:
                    # Often, for what was lost here may change again, and be told, before the end.
                    w.dropbox._failures.clear()
                    for _ in range(2):
                        await poller.poll_once(hurry=True)
                    counts = await w.judge(instance, before)
                    worst = max(worst, counts["lost"], counts["invented"], counts["twice"])
            w.dropbox._failures.clear()
            for _ in range(2):
                await poller.poll_once(hurry=True)
            counts = await w.judge(instance, before)
            print(f"\ndropbox: {account.changes} changes, {polls} polls, {counts}")  # noqa: T201 — pytest shows it with -s
            assert 0 == worst
            assert (0, 0, 0) == (counts["lost"], counts["invented"], counts["twice"])
            assert counts["told"] > LENGTH / 2

    run(history(), limit=30 + LENGTH / 5)
