"""Who sends: for each origin a crew, no larger than the connections that may be open there.

Many callbacks are at one origin: an application has an instance for each of its customers.  So the lanes there take
turns, a notification each, and a lane that waits for nothing but its turn holds no task, no rendered body and no
place among the connections.  A crew's worker ends when no lane of it has anything to send.
"""

from collections.abc import Iterable

from daemon.dispatcher.lane import Lane


class Crew:
    """The workers of one origin, at most *most*, and the lanes that may have something for them."""

    __slots__ = ("_most", "_ready", "workers")

    def __init__(self, most: int) -> None:
        self._most = most
        self._ready: dict[int, Lane] = {}
        self.workers = 0

    def add(self, lane: Lane) -> bool:
        """*lane* may have something to send; whether another worker is to be begun for it."""
        new = lane.id not in self._ready
        self._ready[lane.id] = lane
        return new and self.workers < self._most

    def next(self) -> Lane | None:
        """The lane whose turn it is; it has another when it is added again."""
        if not self._ready:
            return None
        return self._ready.pop(next(iter(self._ready)))


class Crews:
    """All crews by origin; *most* is for each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_origin: dict[object, Crew] = {}
        self._by_lane: dict[int, Crew] = {}

    def assign(self, lane_id: int, origin: object) -> None:
        """The lane's callback is at *origin* from now on."""
        self._by_lane[lane_id] = self._by_origin.setdefault(origin, Crew(self._most))

    def of(self, lane: Lane) -> Crew:
        """The crew that sends for *lane*."""
        return self._by_lane[lane.id]

    def keep(self, lanes: Iterable[int]) -> None:
        """Forget all but *lanes*, and the origins that none of them is at."""
        self._by_lane = {one: self._by_lane[one] for one in lanes if one in self._by_lane}
        used = set(map(id, self._by_lane.values()))
        self._by_origin = {
            origin: crew
            for origin, crew in self._by_origin.items()
            if crew.workers or id(crew) in used
        }
