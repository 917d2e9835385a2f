"""Reading a provider's change feed: places that have an object now, and places that have none any more.

A feed goes on from a token.  The token moves when what it covers is in the log, so a walk that breaks off is simply
done again from the same token: what the log has already falls away by its fingerprint, made of an object's version
and its place.  One poller reads one instance, its resources in turn, so no feed is ever walked twice at a time.

    an unknown id                           CREATED
    a known id, another version or place    UPDATED: a move is an update
    the same version at the same place      nothing
    a place that is empty now               DELETED for what is known there and below it, at the end of the walk
    a place that another id has             DELETED for what was there, at the end of the walk

A feed tells a move as an empty place and an object that comes, in either order, and the pages between them may be
many.  So what has to be deleted is held until the walk has ended, and is then what the log still has at those
places, unless the walk has put it there since.  While something is held the token does not move.

A provider that has lost the token is read from the beginning, and what is known and did not come is gone.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b

import orjson
import structlog

from daemon.dates import EPOCH
from daemon.elements.base import Element, Http, Settings
from daemon.errors import TokenLost, Transient
from daemon.model import Change, ChangeType, FeedEntry, FeedPage, Query
from daemon.plans import ResourcePlan
from daemon.poller.reading import LONGEST_ID, heard
from daemon.poller.sweep import brake, deleted
from daemon.store import objects
from daemon.store.database import Pool
from daemon.store.writer import Intake, Unit, Writer

log = structlog.get_logger()

HELD_MOST = 100_000
"""So much may be held of a walk; beyond it is settled early, and a move may be told as a deletion and a creation."""

DELETE_AT_ONCE = 1000  # objects that one transaction deletes


Opened = Callable[[str | None], AsyncGenerator[FeedPage]]
"""Starts to read a feed from a token, or from the beginning."""


def opener(element: Element, http: Http, settings: Settings, query: Query) -> Opened | None:
    """What starts to read the provider's feed of *query*; None where there is none."""
    if element.feed(http, settings, query, None) is None:
        return None

    def opened(token: str | None) -> AsyncGenerator[FeedPage]:
        pages = element.feed(http, settings, query, token)
        assert pages is not None  # noqa: S101 — it was not a moment ago; for the type checker
        return pages

    return opened


@dataclass(frozen=True, slots=True)
class Followed:
    """How a walk ended: the token to go on from, and when the provider was first asked.

    *told* is true when the feed said anything, *changes* how much of it was news.  *began* is true when a baseline
    was taken, *compared* when all that is known was held against all that there is.
    """

    token: str
    asked: datetime
    told: bool
    changes: int
    began: bool
    compared: bool


@dataclass(slots=True)
class _Walk:
    """One walk: how it treats what it finds, and what it holds."""

    silent: bool  # what is found becomes known and nobody is told …
    since: datetime | None  # … unless it was changed since then
    missing: set[str] | None = (
        None  # of a walk from the beginning: what is known and has not come yet
    )
    known: int = 0  # how many those were
    root: str = ""
    place_field: str = ""
    number: int = 0  # of the entries so far
    changes: int = 0
    told: bool = False
    # By place, and whether what is below is meant too: the number of the entry that emptied it.
    emptied: dict[tuple[str, bool], int] = field(default_factory=dict)
    # Objects that came to such a place, by the number of the entry that said so.
    came: dict[str, int] = field(default_factory=dict)

    def tells(self, plan: ResourcePlan, entry: FeedEntry) -> bool:
        """Whether somebody is told of a new version."""
        if not self.silent or self.since == EPOCH:
            return True
        if self.since is None or entry.record is None:
            return False
        changed = plan.updated(entry.record)
        return changed is not None and changed >= self.since

    def is_emptied(self, place: str) -> bool:
        """Whether *place*, or one above it, was emptied."""
        return (place, False) in self.emptied or any(
            (above, True) in self.emptied for above in _upwards(place)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The feed of one resource of one instance; *opened* starts to read it from a token.

    A reading from the beginning that misses more than the share *limit* of what is known stops and asks, unless a
    person *allowed* it.
    """

    pool: Pool
    writer: Writer
    instance_id: int
    plan: ResourcePlan
    opened: Opened
    limit: float
    allowed: bool = False

    async def follow(
        self,
        token: str | None,
        *,
        baseline: datetime | None,
        backfill: datetime | None,
    ) -> Followed:
        """Read what happened since *token*, to its end.

        Without *baseline* what is found becomes known and nobody is told, but of what was changed since *backfill*.
        Raises what the element raises, and `SweepRefused`.
        """
        silent = baseline is None
        if token is not None:
            try:
                return await self._walk(token, _Walk(silent, backfill))
            except TokenLost as error:
                log.warning(
                    "change feed begins again", resource=self.plan.resource, reason=str(error)
                )
                silent = silent or error.elsewhere
        try:
            return await self._walk(None, _Walk(silent, backfill))
        except TokenLost as error:
            raise Transient(f"the feed broke off while it was read: {error}") from error

    async def _walk(self, token: str | None, walk: _Walk) -> Followed:
        whole = token is None
        asked: datetime | None = None
        async with aclosing(heard(self.opened(token))) as pages:
            async for page in pages:
                if asked is None:
                    asked = page.asked
                    walk.root, walk.place_field = page.root, page.place_field
                    if whole:
                        await self._expect(walk)
                token = page.token
                await self._page(walk, page)
        if asked is None or token is None:
            raise Transient("the feed ended without an answer")
        await self._settle(walk, asked)
        compared = walk.missing is not None
        if walk.missing is not None:
            if not self.allowed:
                brake(self.plan, left=len(walk.missing), known=walk.known, limit=self.limit)
            await self._delete_missing(walk, sorted(walk.missing), asked)
        return Followed(token, asked, walk.told, walk.changes, began=walk.silent, compared=compared)

    async def _expect(self, walk: _Walk) -> None:
        """Note what is known: as the walk begins, for what comes to be meanwhile is not missing."""
        found = await objects.present(
            self.pool, self.instance_id, self.plan.resource, root=walk.root
        )
        walk.missing, walk.known = found or None, len(found)

    async def _page(self, walk: _Walk, page: FeedPage) -> None:
        """Append what *page* brings, and hold what it takes away."""
        entries = [entry for entry in page.entries if self._fits(entry)]
        first, walk.number = walk.number, walk.number + len(entries)
        walk.told = walk.told or bool(entries)
        await self._append(walk, entries, page)
        if not entries:
            return
        for number in await objects.displaced(
            self.pool,
            self.instance_id,
            self.plan.resource,
            [(entry.place, entry.object_id, entry.keeps_below) for entry in entries],
        ):
            entry = entries[number]
            key = (entry.place, not entry.keeps_below)
            walk.emptied[key] = max(walk.emptied.get(key, 0), first + number)
        if walk.emptied:
            for number, entry in enumerate(entries, first):
                if entry.object_id and walk.is_emptied(entry.place):
                    walk.came[entry.object_id] = number
        if len(walk.emptied) + len(walk.came) > HELD_MOST:
            await self._settle(walk, page.asked)
        if not (walk.emptied or walk.missing or page.last):
            # A long walk that breaks off goes on from here.
            kept = objects.poll_entry(
                "poll.completed",
                self.instance_id,
                self.plan.resource,
                token=page.token,
                polled=page.asked,
            )
            await self.writer.append(Unit([kept]))

    async def _append(self, walk: _Walk, entries: list[FeedEntry], page: FeedPage) -> None:
        """Append the objects of *entries* that are new, or not as they were; of each its last state."""
        latest = {entry.object_id: entry for entry in entries if entry.record is not None}
        rows = await objects.known(self.pool, self.instance_id, self.plan.resource, list(latest))
        changes: list[Change] = []
        quiet: list[tuple[str, bytes, datetime | None]] = []
        for object_id, entry in latest.items():
            if walk.missing is not None:
                walk.missing.discard(object_id)
            mark = _mark(entry)
            row = rows.get(object_id)
            there = row if row is not None and not row["deleted"] else None
            if there is not None and there["fingerprint"] == mark:
                continue
            changed = self.plan.updated(entry.record or {})
            if not walk.tells(self.plan, entry):
                quiet.append((object_id, mark, changed))
                continue
            change = ChangeType.UPDATED if there else ChangeType.CREATED
            data = orjson.dumps(entry.record)
            changes.append(
                Change(self.plan.resource, object_id, change, changed, mark, data, entry.place)
            )
        if changes or quiet:
            known = objects.known_entry(
                self.instance_id,
                self.plan.resource,
                quiet,
                places={object_id: latest[object_id].place for object_id, _, _ in quiet},
            )
            unit = Unit(
                [known] if quiet else [],
                intakes=[Intake(self.instance_id, changes, polled=page.asked)],
            )
            walk.changes += (await self.writer.append(unit)).appended

    async def _settle(self, walk: _Walk, asked: datetime) -> None:
        """Delete what is still known at places that were emptied, but for what came there since."""
        for (place, below), number in walk.emptied.items():
            limit = DELETE_AT_ONCE
            while True:
                found = await objects.at_or_below(
                    self.pool,
                    self.instance_id,
                    self.plan.resource,
                    place,
                    below=below,
                    limit=limit,
                )
                gone = {i: where for i, where in found if walk.came.get(i, -1) < number}
                await self._delete(walk, gone, asked)
                if len(found) < limit:
                    break
                # What is deleted has no place any more; the next look sees past what stays.
                limit = DELETE_AT_ONCE + len(found) - len(gone)
        walk.emptied.clear()
        walk.came.clear()

    async def _delete_missing(self, walk: _Walk, missing: list[str], asked: datetime) -> None:
        for start in range(0, len(missing), DELETE_AT_ONCE):
            ids = missing[start : start + DELETE_AT_ONCE]
            rows = await objects.known(self.pool, self.instance_id, self.plan.resource, ids)
            gone = {i: row["place"] for i, row in rows.items() if not row["deleted"]}
            await self._delete(walk, gone, asked)

    async def _delete(self, walk: _Walk, gone: Mapping[str, str | None], asked: datetime) -> None:
        """Append that objects are gone; *gone* has where each was."""
        if not gone:
            return
        changes = [
            deleted(self.plan, object_id, known={} if place is None else {walk.place_field: place})
            for object_id, place in gone.items()
        ]
        unit = Unit(intakes=[Intake(self.instance_id, changes, polled=asked)])
        walk.changes += (await self.writer.append(unit)).appended
        if walk.missing is not None:
            walk.missing.difference_update(gone)

    def _fits(self, entry: FeedEntry) -> bool:
        """Whether the log can hold what *entry* names."""
        # PostgreSQL's text holds no NUL.
        fits = (
            len(entry.object_id) <= LONGEST_ID
            and "\0" not in entry.object_id + entry.place
            and (entry.record is None) == (not entry.object_id)
        )
        if not fits:
            log.warning("feed entry that cannot be kept", resource=self.plan.resource)
        return fits


def _mark(entry: FeedEntry) -> bytes:
    """The fingerprint of an object as *entry* shows it: what it holds, and where it is."""
    name = f"{entry.version}\0{entry.place}"
    return blake2b(name.encode(), digest_size=16).digest()


def _upwards(place: str) -> Iterator[str]:
    """*place* and every place above it."""
    while place:
        yield place
        place = place.rpartition("/")[0]
