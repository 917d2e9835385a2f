"""The lanes that there are, by callback and by the instance whose changes they deliver."""

from collections.abc import Iterator, Sequence

from daemon.dispatcher.lane import Lane


class Lanes:
    """All lanes of this process."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._by_instance: dict[int, list[Lane]] = {}

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def __contains__(self, lane: Lane) -> bool:
        return self._lanes.get(lane.id) is lane

    def get(self, callback_id: int) -> Lane | None:
        """The callback's lane; None when it has none."""
        return self._lanes.get(callback_id)

    def ids(self) -> list[int]:
        """The callbacks that have a lane."""
        return list(self._lanes)

    def fed_by(self, instance_id: int) -> Sequence[Lane]:
        """The lanes that are given what comes for the instance; replays read the log by themselves."""
        return self._by_instance.get(instance_id, ())

    def add(self, lane: Lane) -> None:
        """Have a new lane."""
        self._lanes[lane.id] = lane
        if lane.replay is None:
            self._by_instance.setdefault(lane.instance_id, []).append(lane)

    def drop(self, lane: Lane) -> None:
        """Have it no more; nothing leaves it from here on."""
        lane.paused = True
        del self._lanes[lane.id]
        if lane.replay is None:
            self._by_instance[lane.instance_id].remove(lane)
            if not self._by_instance[lane.instance_id]:
                del self._by_instance[lane.instance_id]
