"""An inbox without a database, for development: what it holds ends with the process."""

import time
from collections import OrderedDict
from collections.abc import Callable

from daemon.receipts import Question, Receipts
from daemon.receiver.answers import checked


class MemoryInbox:
    """The ids of the last *most* notifications since it was made.

    Ids that it may have forgotten, or that were sent before it was there, it says nothing of.
    *clock* is in seconds since 1970 and must be the clock of the one who asks, or close to it.
    """

    def __init__(self, *, most: int = 100_000, clock: Callable[[], float] = time.time) -> None:
        self._most, self._clock = most, clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._since = int(clock())  # whole seconds, as the question's moment

    def first(self, message_id: str) -> bool:
        """Whether *message_id* is new; it is remembered from here."""
        if checked(message_id) in self._seen:
            return False
        self._seen[message_id] = self._clock()
        while len(self._seen) > self._most:
            _, at = self._seen.popitem(last=False)
            self._since = max(self._since, int(at) + 1)
        return True

    def receipts(self, question: Question) -> Receipts:
        """The answer to *question*."""
        asked = frozenset(question.ids)
        received = asked & self._seen.keys()
        certain = question.since is not None and question.since >= self._since
        return Receipts(received, asked - received if certain else frozenset())
