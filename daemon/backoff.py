"""How long to wait before trying again: pure, the caller brings the chance and the clock.

`Schedule` is a list of waits that ends (deliveries); `Exponential` doubles up to a bound and never ends
(pollers).  Jitter only ever shortens: a wait of *d* seconds with jitter *j* lies in `[d * (1 - j), d]`, so
that what failed together does not come back together and the documented times are upper bounds.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Self

Chance = Callable[[], float]
"""Returns a number in [0, 1): `random.random`."""

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DELAY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(ms|s|m|h|d|)")
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LONGEST = 30 * 86400.0  # seconds; a longer wait is a slip of the pen
_MOST = 100  # waits in one schedule


@dataclass(frozen=True, slots=True)
class Schedule:
    """The waits in seconds between attempts; when they are used up there is no further attempt.

    Raises `ValueError` for a wait that is not in (0, 30 days], for more than 100 waits and for a jitter
    outside [0, 1).  A schedule without waits means that nothing is ever tried again.
    """

    delays: tuple[float, ...]
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if len(self.delays) > _MOST:
            raise ValueError(f"a schedule has at most {_MOST} waits, not {len(self.delays)}")
        for delay in self.delays:
            if not 0 < delay <= _LONGEST:
                raise ValueError(f"a wait must be more than 0 and at most 30d, not {delay:g} s")
        _check_jitter(self.jitter)

    @classmethod
    def parse(cls, source: str | Iterable[str | float], *, jitter: float = 0.1) -> Self:
        """A schedule from `"5s, 30s, 2m, 1h"` or a list of such; a number without unit is seconds.

        Raises `ValueError` with a sentence that names the wait at fault.
        """
        parts = source.split(",") if isinstance(source, str) else source
        return cls(tuple(_seconds(part) for part in parts), jitter)

    @classmethod
    def at(cls, moments: Sequence[float], *, jitter: float = 0.1) -> Self:
        """A schedule from moments, in seconds after the first failure, instead of waits."""
        return cls(tuple(late - early for early, late in pairwise((0.0, *moments))), jitter)

    def delay(self, attempt: int, chance: Chance) -> float | None:
        """How long to wait after attempt number *attempt* (the first is 1) failed; None: give up."""
        if attempt < 1:
            raise ValueError("attempts are counted from 1")
        if attempt > len(self.delays):
            return None
        return _jittered(self.delays[attempt - 1], self.jitter, chance)

    @property
    def span(self) -> float:
        """The longest time in seconds from the first failure to the last attempt."""
        return math.fsum(self.delays)

    def __str__(self) -> str:
        return ", ".join(_text(delay) for delay in self.delays)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Waits that double from *base* seconds up to *most* seconds and stay there."""

    base: float
    most: float
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.base <= self.most < math.inf:
            raise ValueError("a backoff needs 0 < base <= most")
        _check_jitter(self.jitter)

    def delay(self, failures: int, chance: Chance) -> float:
        """How long to wait after *failures* failures in a row (at least 1)."""
        if failures < 1:
            raise ValueError("failures are counted from 1")
        # 2**1023 is the largest power that a float holds.
        longest = min(self.most, self.base * 2.0 ** min(failures - 1, 1000))
        return _jittered(longest, self.jitter, chance)


def retry_after(headers: Mapping[str, str], *, now: datetime, most: float) -> float | None:
    """The seconds that a `Retry-After` header asks for, at most *most*; None when it says nothing usable.

    RFC 9110, 10.2.3: seconds or an HTTP date; fractions of a second, which some servers send, are taken
    too.  A date gone by is 0.  It is by the server's clock, so it counts from the answer's own `Date`; from *now*
    (aware) where that is missing.  *headers* has lower-case or case-insensitive keys.
    """
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), most)
    date = _date(value)
    if date is None:
        return None
    sent = _date(headers.get("date", "")) or now
    return min(max(0.0, (date - sent).total_seconds()), most)


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    # `-0000`, and the asctime form, which names no zone: both mean UTC.
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _jittered(delay: float, jitter: float, chance: Chance) -> float:
    return delay * (1.0 - jitter * chance())


def _check_jitter(jitter: float) -> None:
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter is a share from 0 to below 1, not {jitter:g}")


def _seconds(part: str | float) -> float:
    if not isinstance(part, str):
        return float(part)
    found = _DELAY.fullmatch(part.strip())
    if not found:
        raise ValueError(f"`{part.strip()}` is not a wait; write 30s, 10m, 1h or 2d")
    return float(found[1]) * _UNITS[found[2]]


def _text(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        size = _UNITS[unit]
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.10g}s"


ELEMENTS = Schedule.at([2.0 ** (2 * x) for x in range(1, 10)])
"""`notification.webhook.failure.policy: retry` as the Cloud Elements portal documented it.

Nine retries, retry x at `2^(2x)` seconds.  The documentation puts the last "a little under 73 hours after
the original failed attempt", so the times count from the first failure, not from one another.
"""

OPEN_CONNECTORS = Schedule.at([2.0 ** (3 * x) for x in range(1, 6)])
"""The same policy as SAP documented it: five retries at `2^(3x)` seconds, the last after 9.1 hours."""
