"""How many notifications of a lane will soon go, as far as the last flushes show."""

from dataclasses import dataclass

from daemon.dispatcher.items import Rules

PERIOD = 1.0
"""Seconds for which a reservation that nothing used is kept."""


@dataclass(slots=True)
class Foresight:
    """Twice as many as were reserved where most of those went, else what a PERIOD shows."""

    soon: int = 0
    _taken: int = 0  # in this period
    _counted: int = 0  # of those, at the last flush
    _period: float = 0.0  # when it began

    def taken(self) -> None:
        """One went."""
        self._taken += 1

    def flush(self, now: float, rules: Rules) -> int:
        """How many will go before the next flush, asked for at a flush."""
        least = rules.concurrency
        self.soon = max(self.soon, least)
        if now - self._period >= PERIOD:
            self.soon = max(min(self.soon, 4 * self._taken), least)
            self._period, self._taken, self._counted = now, 0, 0
        if 2 * (self._taken - self._counted) >= self.soon:
            self.soon = min(2 * self.soon, max(rules.window, least))
        self._counted = self._taken
        return self.soon
