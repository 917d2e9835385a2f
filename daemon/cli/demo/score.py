"""What was done at the providers, and what of it was told: the demo's bookkeeping.

did() ──► expected ──told()──► delivered        not expected: told twice, or out of nowhere
             └── at the end: lost
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

CHANGES = ("CREATED", "UPDATED", "DELETED")
WAYS = ("poll", "webhook")


@dataclass(frozen=True, slots=True)
class Deed:
    """One change at a provider, which is to be told once: *way* is how the daemon hears of it."""

    instance: int
    way: str
    change: str
    object_type: str
    object_id: str

    @property
    def key(self) -> tuple[int, str, str, str]:
        """What a notification says of it."""
        return self.instance, self.object_type, self.object_id, self.change


@dataclass(slots=True)
class Score:
    """Counts by change and way; times are seconds of one clock."""

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    delivered: Counter[tuple[str, str]] = field(default_factory=Counter)
    latencies: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    twice: int = 0
    unverified: int = 0
    surprises: int = 0
    _waiting: dict[tuple[int, str, str, str], tuple[Deed, float]] = field(default_factory=dict)
    _told: set[tuple[int, str, str, str]] = field(default_factory=set)

    def did(self, deed: Deed, at: float) -> None:
        """A change was made."""
        self.done[deed.change, deed.way] += 1
        self._waiting[deed.key] = (deed, at)

    def told(self, key: tuple[int, str, str, str], at: float) -> tuple[Deed, float] | None:
        """A verified notification speaks of a change: that, and after how many seconds; None if none was expected."""
        found = self._waiting.pop(key, None)
        if found is None:
            if key in self._told:
                self.twice += 1
            else:
                self.surprises += 1
            return None
        deed, since = found
        self._told.add(key)
        self.delivered[deed.change, deed.way] += 1
        self.latencies[deed.way].append(at - since)
        return deed, at - since

    def expects(self, deed: Deed | None) -> bool:
        """Whether *deed* is still to be told."""
        return deed is not None and deed.key in self._waiting

    @property
    def lost(self) -> int:
        """How many changes were not told (yet)."""
        return len(self._waiting)

    @property
    def waiting(self) -> list[Deed]:
        """The changes that were not told (yet), oldest first."""
        return [deed for deed, _ in self._waiting.values()]

    @property
    def missing(self) -> list[str]:
        """What has not been seen at all: `CREATED by poll`, …"""
        return [
            f"{change} by {way}" for change, way in self._cells() if not self.delivered[change, way]
        ]

    @property
    def good(self) -> bool:
        """Whether every change was told once, verified, and each kind by each way."""
        return not (self.missing or self.lost or self.wrong)

    @property
    def wrong(self) -> bool:
        """Whether anything was told that should not have been, or not be believed."""
        return bool(self.twice or self.unverified or self.surprises)

    def _cells(self) -> Iterator[tuple[str, str]]:
        for way in WAYS:
            for change in CHANGES:
                yield change, way
