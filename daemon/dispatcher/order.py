"""Order per object: of the unsettled notifications about one object only the first may go."""

from collections import deque

from daemon.dispatcher.items import Item, Object


class Order:
    """A line for each object that something unsettled is about.

    Nearly always only one stands there, and is the line itself: a queue is made for the second.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[Object, Item | deque[Item]] = {}

    def enter(self, item: Item) -> None:
        """Put *item* last in the lines of all its objects; its `blockers` are those in which it is not alone."""
        lines = self._lines
        for key in item.objects:
            line = lines.get(key)
            if line is None:
                lines[key] = item
                continue
            item.blockers += 1
            if isinstance(line, deque):
                line.append(item)
            else:
                lines[key] = deque((line, item))

    def leave(self, item: Item) -> list[Item]:
        """Take *item*, the first in all its lines, away; return those that nothing blocks any more."""
        free: list[Item] = []
        lines = self._lines
        for key in item.objects:
            line = lines[key]
            if not isinstance(line, deque):
                del lines[key]
                continue
            line.popleft()
            follower = line[0]
            if len(line) == 1:
                lines[key] = follower
            follower.blockers -= 1
            if not follower.blockers:
                free.append(follower)
        return free

    def firsts(self, item: Item) -> list[Item]:
        """Who is first in each of the lines in which *item* stands."""
        found = [self._lines[key] for key in item.objects]
        return [line[0] if isinstance(line, deque) else line for line in found]
