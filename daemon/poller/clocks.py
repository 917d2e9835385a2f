"""A provider's clock, held against one that only goes forward, so that one that is put back loses nothing.

A cursor is the provider's time.  Once its clock is put back, what changes is dated before the cursor, where no poll
looks.  But a clock that goes by itself shows what it showed when it was last looked at, and the time since.  So the
moment of the last look, as the clock goes *now*, is a lower bound of what everything since was dated.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(slots=True)
class ProviderClock:
    """What a provider's clock showed when it was last looked at, and when that was by the monotonic clock (seconds)."""

    shown: datetime | None = None
    at: float = 0.0

    def recall(self, shown: datetime | None, at: float) -> None:
        """Go on from what was written down, unless this process has looked itself."""
        if self.shown is None:
            self.shown, self.at = shown, at

    def look(self, asked: datetime, now: float) -> datetime:
        """It shows *asked*.  Returns what it would have shown at the last look, had it gone then as it goes now."""
        before = asked
        if self.shown is not None:
            before = asked - timedelta(seconds=max(now - self.at, 0.0))
        self.shown, self.at = asked, now
        return before
