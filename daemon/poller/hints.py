"""What webhooks spoke of and no poll has looked at yet.

It is kept in memory only: whoever loses it begins with a sweep, which finds the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

MOST = 200
"""Objects that are asked for one by one; where there are more, a sweep costs less."""


@dataclass(frozen=True, slots=True)
class Look:
    """What there was to look at: some objects, or too *many* to name; good *until* that mark."""

    ids: tuple[str, ...]
    many: bool
    until: int


class Hints:
    """The hints about one resource."""

    def __init__(self) -> None:
        self._mark = 0
        self._ids: dict[str, int] = {}
        self._many = 0

    def add(self, ids: Iterable[str]) -> None:
        """Take note of objects."""
        self._mark += 1
        for object_id in ids:
            self._ids[object_id] = self._mark
        if len(self._ids) > MOST:
            self._ids.clear()
            self._many = self._mark

    def look(self) -> Look:
        """All that there is to look at now."""
        return Look(tuple(self._ids), bool(self._many), self._mark)

    def done(self, look: Look) -> None:
        """Forget what *look* named, but for what was named again since: that may be another change."""
        self._ids = {one: mark for one, mark in self._ids.items() if mark > look.until}
        if self._many <= look.until:
            self._many = 0
