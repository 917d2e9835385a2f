"""When a receiver is asked what it has: at once while it answers, more and more rarely while it does not.

Without I/O, and the time is passed in: seconds of a clock that nobody sets.
"""

from dataclasses import dataclass, field

from daemon.backoff import Chance
from daemon.dispatcher.items import Item, Rules, State


@dataclass(slots=True)
class Questions:
    """The questions about one lane's notifications that are in doubt."""

    silent: int = 0  # questions in a row that nobody answered
    ask_at: float = 0.0  # while nobody does, the next goes then
    _under_way: int = 0
    _waiting: list[Item] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """*item* is to be asked about."""
        item.state = State.ASKING
        self._waiting.append(item)

    def take(self, now: float, most: int) -> list[Item]:
        """What to ask about now, in one question; while nobody answers there is one question at a time."""
        if not self._waiting or (self.silent and (self._under_way or now < self.ask_at)):
            return []
        waiting = [item for item in self._waiting if item.state is State.ASKING]
        taken, self._waiting = waiting[:most], waiting[most:]
        self._under_way += bool(taken)
        return taken

    def next_time(self) -> float | None:
        """When `take` has something that it has not now for the time alone."""
        return self.ask_at if self._waiting and self.silent and not self._under_way else None

    def ended(
        self, now: float, rules: Rules, *, heard: bool, chance: Chance, quiet: float = 0.0
    ) -> bool:
        """A question has ended, *heard* when there was an answer to it; whether that ended a silence.

        *quiet*: seconds for which the receiver wants not to be asked.
        """
        self._under_way -= 1
        if not heard:
            self.silent += 1
            self.ask_at = now + max(rules.asking.delay(self.silent, chance), quiet)
            return False
        was_silent, self.silent, self.ask_at = self.silent > 0, 0, 0.0
        return was_silent

    def again(self, item: Item, now: float, rules: Rules) -> float:
        """When to ask about *item* again, of which the receiver could not say whether it has it."""
        item.asked += not self.silent
        pause = rules.asking.delay(max(item.asked, 1), lambda: 0.0)
        return self.ask_at if self.silent else now + pause

    def follow(self, before: "Questions") -> None:
        """Go on as *before*: as patient."""
        self.silent, self.ask_at = before.silent, before.ask_at
