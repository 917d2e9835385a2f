"""How far one resource is read: a row of `cursors`, followed in memory.

What is stored comes first; what stands below it is this process's own, and lost with it.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from daemon.poller.clocks import ProviderClock
from daemon.poller.hints import Hints

STORED = (
    "cursor", "baseline", "swept", "failures", "retry", "disabled", "allow_sweep", "polled", "token",
)  # fmt: skip
"""The columns of `cursors` that a poller follows."""

RETRY_MOST = 86_400.0
"""Seconds that a wait which was written down is believed to last, whatever the clocks say: none is longer."""


@dataclass(slots=True)
class Progress:
    """How far a resource is, and what stands in its way.  `…_at` are seconds of the monotonic clock."""

    cursor: datetime | None = None
    baseline: datetime | None = None
    swept: datetime | None = None
    failures: int = 0
    retry: datetime | None = None
    disabled: bool = False
    allow_sweep: bool = False
    polled: datetime | None = None
    token: str | None = None  # of a change feed

    hints: Hints = field(default_factory=Hints)
    provider: ProviderClock = field(default_factory=ProviderClock)
    compared: bool = False  # whole, by this poller
    read_at: float = -math.inf  # as a question by date would be asked
    # What `retry` and `swept` say by clocks that can be set.
    retry_at: float = 0.0
    swept_at: float = -math.inf

    def load(self, row: asyncpg.Record, *, now: datetime, monotonic: float) -> None:
        """Take the state of a stored row; *now* and *monotonic* are our own clocks."""
        retry = self.retry
        for name in STORED:
            setattr(self, name, row[name])
        if self.retry is not None and self.retry != retry:
            # Another process wrote it, perhaps by a clock that has been set since.
            wait = (self.retry - now).total_seconds()
            self.retry_at = monotonic + min(max(wait, 0.0), RETRY_MOST)
        if self.swept is not None and self.swept_at == -math.inf:
            ago = (now - self.swept).total_seconds()
            self.swept_at = monotonic - ago if ago >= 0 else -math.inf
        if row["age"] is not None:
            self.provider.recall(row["polled"], monotonic - max(row["age"], 0.0))

    def is_due(self, monotonic: float, *, hurry: bool, retries_only: bool) -> bool:
        """Whether it is to be polled now; with *hurry* though it waits, with *retries_only* only if its wait is over."""
        if self.disabled:
            return False
        if self.retry is None:
            return not retries_only
        return hurry or self.retry_at <= monotonic

    def works(self) -> None:
        """A poll has come to its end."""
        self.failures, self.retry = 0, None
