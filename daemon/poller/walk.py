"""One walk through a change feed: places that have an object now, and places that have none any more.

What is known is known by a fingerprint made of an object's version and its place.

    an unknown id                           CREATED
    a known id, another version or place    UPDATED: a move is an update
    the same version at the same place      nothing
    a place that is empty now               DELETED for what is known there and below it, at the end of the walk
    a place that another id has             DELETED for what was there, at the end of the walk

A feed tells a move as an empty place and an object that comes, in either order, and the pages between them may be
many.  So what has to be deleted is held until the walk has ended, and is then what the log still has at those
places, unless the walk has put it there since.  While something is held the token does not move.
"""

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b

import orjson
import structlog

from daemon.dates import EPOCH
from daemon.errors import Transient
from daemon.model import Change, ChangeType, FeedEntry, FeedPage
from daemon.plans import ResourcePlan
from daemon.poller.judging import deleted
from daemon.poller.ledger import Ledger, Silent
from daemon.poller.source import Opened, fits
from daemon.poller.sweep import brake

log = structlog.get_logger()

HELD_MOST = 100_000
"""So much may be held of a walk; beyond it is settled early, and a move may be told as a deletion and a creation."""

DELETE_AT_ONCE = 1000  # objects that one transaction deletes


@dataclass(frozen=True, slots=True)
class Walked:
    """How a walk ended: the token to go on from, and when the provider was first asked.

    *told* is true when the feed said anything, *changes* how much of it was news.  *compared* is true when all that
    is known was held against all that there is.
    """

    token: str
    asked: datetime
    told: bool
    changes: int
    compared: bool


@dataclass(slots=True, kw_only=True)
class Walk:
    """One walk: how it treats what it finds, and what it holds.

    A *silent* walk makes known what it finds and tells nobody, but of what was changed *since*.  A walk from the
    beginning that misses more than the share *limit* of what is known stops and asks.
    """

    ledger: Ledger
    plan: ResourcePlan
    silent: bool
    since: datetime | None
    limit: float

    # Of a walk from the beginning: what is known and has not come yet, and how many that were.
    missing: set[str] | None = None
    known: int = 0
    root: str = ""
    place_field: str = ""
    number: int = 0  # of the entries so far
    changes: int = 0
    told: bool = False
    # By place, and whether what is below is meant too: the number of the entry that emptied it.
    emptied: dict[tuple[str, bool], int] = field(default_factory=dict)
    # Objects that came to such a place, by the number of the entry that said so.
    came: dict[str, int] = field(default_factory=dict)

    async def follow(self, opened: Opened, token: str | None) -> Walked:
        """Walk from *token*, or from the beginning, to the end; raises what the element raises, and `SweepRefused`."""
        whole = token is None
        asked: datetime | None = None
        async with aclosing(opened(token)) as pages:
            async for page in pages:
                if asked is None:
                    asked = page.asked
                    self.root, self.place_field = page.root, page.place_field
                    if whole:
                        await self._expect()
                token = page.token
                await self._page(page)
        if asked is None or token is None:
            raise Transient("the feed ended without an answer")
        await self._settle(asked)
        compared = self.missing is not None
        if self.missing is not None:
            brake(self.plan, left=len(self.missing), known=self.known, limit=self.limit)
            await self._delete_missing(sorted(self.missing), asked)
        return Walked(token, asked, self.told, self.changes, compared)

    async def _expect(self) -> None:
        """Note what is known: as the walk begins, for what comes to be meanwhile is not missing."""
        found = await self.ledger.present(root=self.root)
        self.missing, self.known = found or None, len(found)

    async def _page(self, page: FeedPage) -> None:
        """Append what *page* brings, and hold what it takes away."""
        entries = [entry for entry in page.entries if self._fits(entry)]
        first, self.number = self.number, self.number + len(entries)
        self.told = self.told or bool(entries)
        await self._append(entries, page)
        if not entries:
            return
        for number in await self.ledger.displaced(
            [(entry.place, entry.object_id, entry.keeps_below) for entry in entries]
        ):
            entry = entries[number]
            key = (entry.place, not entry.keeps_below)
            self.emptied[key] = max(self.emptied.get(key, 0), first + number)
        if self.emptied:
            for number, entry in enumerate(entries, first):
                if entry.object_id and self._is_emptied(entry.place):
                    self.came[entry.object_id] = number
        if len(self.emptied) + len(self.came) > HELD_MOST:
            await self._settle(page.asked)
        if not (self.emptied or self.missing or page.last):
            # A long walk that breaks off goes on from here.
            await self.ledger.note("poll.completed", token=page.token, polled=page.asked)

    async def _append(self, entries: list[FeedEntry], page: FeedPage) -> None:
        """Append the objects of *entries* that are new, or not as they were; of each its last state."""
        latest = {entry.object_id: entry for entry in entries if entry.record is not None}
        rows = await self.ledger.known(list(latest))
        changes: list[Change] = []
        silent: list[Silent] = []
        for object_id, entry in latest.items():
            if self.missing is not None:
                self.missing.discard(object_id)
            mark = _mark(entry)
            row = rows.get(object_id)
            there = row if row is not None and not row["deleted"] else None
            if there is not None and there["fingerprint"] == mark:
                continue
            changed = self.plan.updated(entry.record or {})
            if not self._tells(entry):
                silent.append((object_id, mark, changed))
                continue
            change = ChangeType.UPDATED if there else ChangeType.CREATED
            data = orjson.dumps(entry.record)
            changes.append(
                Change(self.plan.resource, object_id, change, changed, mark, data, entry.place)
            )
        places = {object_id: latest[object_id].place for object_id, _, _ in silent}
        self.changes += await self.ledger.tell(changes, page.asked, silent=silent, places=places)

    def _tells(self, entry: FeedEntry) -> bool:
        """Whether somebody is told of a new version."""
        if not self.silent or self.since == EPOCH:
            return True
        if self.since is None or entry.record is None:
            return False
        changed = self.plan.updated(entry.record)
        return changed is not None and changed >= self.since

    def _is_emptied(self, place: str) -> bool:
        """Whether *place*, or one above it, was emptied."""
        return (place, False) in self.emptied or any(
            (above, True) in self.emptied for above in _upwards(place)
        )

    async def _settle(self, asked: datetime) -> None:
        """Delete what is still known at places that were emptied, but for what came there since."""
        for (place, below), number in self.emptied.items():
            limit = DELETE_AT_ONCE
            while True:
                found = await self.ledger.at_or_below(place, below=below, limit=limit)
                gone = {i: where for i, where in found if self.came.get(i, -1) < number}
                await self._delete(gone, asked)
                if len(found) < limit:
                    break
                # What is deleted has no place any more; the next look sees past what stays.
                limit = DELETE_AT_ONCE + len(found) - len(gone)
        self.emptied.clear()
        self.came.clear()

    async def _delete_missing(self, missing: list[str], asked: datetime) -> None:
        for start in range(0, len(missing), DELETE_AT_ONCE):
            rows = await self.ledger.known(missing[start : start + DELETE_AT_ONCE])
            gone = {i: row["place"] for i, row in rows.items() if not row["deleted"]}
            await self._delete(gone, asked)

    async def _delete(self, gone: Mapping[str, str | None], asked: datetime) -> None:
        """Append that objects are gone; *gone* has where each was."""
        changes = [
            deleted(self.plan, object_id, known={} if place is None else {self.place_field: place})
            for object_id, place in gone.items()
        ]
        self.changes += await self.ledger.tell(changes, asked)
        if self.missing is not None:
            self.missing.difference_update(gone)

    def _fits(self, entry: FeedEntry) -> bool:
        """Whether the log can hold what *entry* names."""
        fit = (
            fits(entry.object_id)
            and "\0" not in entry.place
            and (entry.record is None) == (not entry.object_id)
        )
        if not fit:
            log.warning("feed entry that cannot be kept", resource=self.plan.resource)
        return fit


def _mark(entry: FeedEntry) -> bytes:
    """The fingerprint of an object as *entry* shows it: what it holds, and where it is."""
    name = f"{entry.version}\0{entry.place}"
    return blake2b(name.encode(), digest_size=16).digest()


def _upwards(place: str) -> Iterator[str]:
    """*place* and every place above it."""
    while place:
        yield place
        place = place.rpartition("/")[0]
