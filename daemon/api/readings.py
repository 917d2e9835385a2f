"""Lists of providers that are read page by page: those under way, and those that may be gone on with.

A provider's list can only be read from its beginning.  So that a client which asks for page after page does not
make us read everything before each of them again, a list that was answered in part stays open for a while: its next page
token names it.  What is not open any more is read again from the beginning: slower, and otherwise the same.
"""

import asyncio
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from daemon.api.arrivals import TooManyWaiting
from daemon.model import Json, Page

KEPT = 32
"""Lists that stay open; each holds what is left of one page of its provider."""

KEPT_OF_ONE = 4
"""… of one instance."""

KEPT_FOR = 120.0
"""Seconds that a list stays open after it was last asked for."""

READERS = 64
"""Requests that may read providers at once."""

READERS_OF_ONE = 8
"""… one instance's, so that its consumers do not keep those of others out."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is read: of which instance, as it is at which revision, and the question."""

    instance_id: int
    revision: int
    question: object


class Reading:
    """One list, from its beginning on."""

    def __init__(self, subject: Subject, pages: AsyncGenerator[Page]) -> None:
        self.subject = subject
        self._pages = pages
        self._rest: deque[Json] = deque()
        self.position = 0
        self.ended = False
        """Whether the provider has no more than what came: what is left here may still follow."""

    @property
    def over(self) -> bool:
        """Whether nothing follows; false also where the provider has not said."""
        return self.ended and not self._rest

    async def take(self, count: int) -> list[Json]:
        """The next *count* records, fewer at the end; raises what the provider's pages raise."""
        await self._have(count)
        taken = [self._rest.popleft() for _ in range(min(count, len(self._rest)))]
        self.position += len(taken)
        return taken

    async def skip(self, position: int) -> None:
        """Go on to *position*, or to the end where the list is shorter."""
        while self.position < position:
            await self._have(1)
            if not self._rest:
                return
            for _ in range(min(position - self.position, len(self._rest))):
                self._rest.popleft()
                self.position += 1

    async def close(self) -> None:
        """Let go of what is left."""
        await self._pages.aclose()

    async def _have(self, count: int) -> None:
        while len(self._rest) < count and not self.ended:
            page = await anext(self._pages, None)
            if page is not None:
                self._rest.extend(page.records)
            self.ended = page is None or page.last


class Readings:
    """All lists that are being read, or stay open."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[Reading, float]] = OrderedDict()
        self._under_way: Counter[int] = Counter()

    @contextmanager
    def turn(self, instance_id: int) -> Iterator[None]:
        """Be one of those who read; raises `TooManyWaiting`."""
        if self._under_way.total() >= READERS or self._under_way[instance_id] >= READERS_OF_ONE:
            raise TooManyWaiting("too many requests read from providers; try later")
        self._under_way[instance_id] += 1
        try:
            yield
        finally:
            self._under_way[instance_id] -= 1
            self._under_way += Counter()  # drops the zeroes

    def resume(self, name: str, subject: Subject, position: int) -> Reading | None:
        """Take out the list *name*, if it is still open, is one of *subject*, and stands at *position*."""
        found = self._open.get(name)
        if found is None or found[0].subject != subject or found[0].position != position:
            return None
        del self._open[name]
        return found[0]

    async def keep(self, reading: Reading) -> str:
        """Leave *reading* open; returns its name."""
        name = secrets.token_urlsafe(9)
        now = asyncio.get_running_loop().time()
        self._open[name] = reading, now + KEPT_FOR
        await self._let_go([one for one, (_, until) in self._open.items() if until <= now])
        await self._let_go(self._of(reading.subject.instance_id)[:-KEPT_OF_ONE])
        await self._let_go(list(self._open)[:-KEPT])
        return name

    async def close(self) -> None:
        """Close every list."""
        while self._open:
            await self._let_go(list(self._open))

    def _of(self, instance_id: int) -> list[str]:
        return [
            name for name, (one, _) in self._open.items() if one.subject.instance_id == instance_id
        ]

    async def _let_go(self, names: Sequence[str]) -> None:
        for name in names:
            found = self._open.pop(name, None)  # another request may have been faster
            if found is not None:
                await found[0].close()
