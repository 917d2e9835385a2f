"""The clocks of the dispatcher, and its dice."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """*wall* tells the time of day, for what is sent and written; every wait is by *monotonic*; *chance* in 0..1."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]
    chance: Callable[[], float]

    @property
    def later(self) -> int:
        """Milliseconds by which the time of day is later than the monotonic clock, now."""
        return round((self.wall() - self.monotonic()) * 1000)
