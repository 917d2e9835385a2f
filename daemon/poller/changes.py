"""Every later round of a resource: what changed since the cursor, and what is gone.

It asks from a little before the cursor, and what is known already falls away by its fingerprint.  The cursor moves
with the entry that ends the round, after all pages are in the log: a round that breaks off is simply done again.  How
far it goes is for `reach` to say; that a provider whose clock is put back has its cursor put back too, for `clocks`.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import structlog

from daemon.errors import DeletionsLost
from daemon.model import Page
from daemon.poller.baseline import CLOCKS_DIFFER
from daemon.poller.judging import Judge
from daemon.poller.reach import Reach, taken_along
from daemon.poller.rounds import Round
from daemon.poller.sweep import sweep, tell_deleted

log = structlog.get_logger()


@dataclass(slots=True)
class _Read:
    """What the pages of a round showed, and will show; *live* are the ids that exist, where somebody wants to know."""

    judge: Judge
    reach: Reach
    told: AsyncGenerator[list[str]] | None  # the provider's channel of deletions
    live: set[str] | None
    asked: datetime | None = None
    changes: int = 0
    clock_went_back: bool = False


async def read_changes(one: Round) -> None:
    """Read, tell, and move the cursor; raises what the element raises, and `SweepRefused`."""
    progress = one.progress
    hinted = progress.hints.look()
    read = await _read(one, live=bool(hinted.ids))
    if read.clock_went_back:
        # Once: a clock that jumps about is looked at again by the next round.
        read = await _read(one, live=bool(hinted.ids), look=False)
    unseen = [i for i in hinted.ids if read.live is None or i not in read.live]
    changes = read.changes + await _reread(one, read.judge, unseen)
    gone, swept = await _gone(one, read, now=hinted.many)
    changes += gone
    progress.hints.done(hinted)
    progress.read_at = one.polling.monotonic()
    await _move(one, read, changes=changes, swept=swept)
    if changes:
        log.info("poll found changes", resource=one.plan.resource, changes=changes)
    if progress.failures:
        log.info("poll works again", resource=one.plan.resource, after_failures=progress.failures)
    progress.works()


async def heed_hints(one: Round) -> bool:
    """Read what webhooks named and nothing else; false where everything is due, or not enough is known for that."""
    progress = one.progress
    hinted = progress.hints.look()
    fresh = one.polling.monotonic() - progress.read_at < one.interval / 2
    if not (fresh and hinted.ids) or hinted.many or progress.failures:
        return False
    cursor, baseline = _since_then(one)
    judge = one.judge(since=cursor - one.overlap, baseline=baseline)
    changes = await _reread(one, judge, hinted.ids)
    progress.hints.done(hinted)
    if changes:
        log.info("poll found changes", resource=one.plan.resource, changes=changes)
    return True


async def _read(one: Round, *, live: bool, look: bool = True) -> _Read:
    """Tell what changed since the cursor; with *look*, break off at the first page where the clock went back."""
    cursor, baseline = _since_then(one)
    asked_since = cursor - one.margin
    judge = one.judge(since=max(asked_since, baseline), baseline=baseline)
    told = one.source.deletions(judge.since)
    read = _Read(judge, Reach(one.plan), told, set() if live or told is not None else None)
    async with aclosing(one.source.read(asked_since, one.polling.clock())) as pages:
        async for page in pages:
            if read.asked is None and look and await _set_back(one, page):
                read.clock_went_back = True
                return read
            read.asked = read.asked or page.asked
            read.reach.take(page)
            read.changes += await judge.take(page, live=read.live)
    return read


async def _set_back(one: Round, page: Page) -> bool:
    """Look at the provider's clock, and put the cursor back where that was put back; whether it was so.

    Whatever was changed since the last look is dated after the new cursor, and whatever was changed before it
    and is not read yet after the old one.  What is known and read again falls away by its fingerprint.
    """
    progress = one.progress
    cursor, baseline = _since_then(one)
    low = progress.provider.look(page.asked, one.polling.monotonic())
    # What it was put back by, if it was, the overlap may cover; but what is older than the baseline is not told.
    if low >= cursor - one.overlap / 2 and low >= baseline - CLOCKS_DIFFER:
        return False
    log.warning(
        "the provider's clock went back",
        resource=one.plan.resource,
        cursor=cursor.isoformat(),
        reads_again_from=low.isoformat(),
    )
    progress.cursor = min(cursor, low)
    # A little before, as every round asks: no moment here is exact, and what is older is never told.
    progress.baseline = min(baseline, low - one.overlap)
    await one.ledger.note(
        "poll.set_back", cursor=progress.cursor, baseline=progress.baseline, polled=page.asked
    )
    return True


async def _gone(one: Round, read: _Read, *, now: bool) -> tuple[int, bool]:
    """Append what is gone: how many, and whether an inventory was taken for it (*now* and not only when due)."""
    if read.told is None:
        return await sweep(one, read.judge, now=now)
    try:
        return await tell_deleted(one, read.told, read.live or set()), False
    except DeletionsLost as error:
        # The cursor will go on, and no later round asks again for what is missing here.
        gone, swept = await sweep(one, read.judge, now=True)
        log.info(
            "the provider does not tell all deletions",
            resource=one.plan.resource, reason=str(error), found_by_inventory=swept,
        )  # fmt: skip
        return gone, swept


async def _reread(one: Round, judge: Judge, ids: Sequence[str]) -> int:
    """Append what has become of the objects *ids*; how many changes that were."""
    pages = one.source.reread(ids) if ids else None
    if pages is None:
        return 0
    changes = 0
    async with aclosing(pages) as answers:
        async for page in answers:
            changes += await judge.take(page)
    return changes


async def _move(one: Round, read: _Read, *, changes: int, swept: bool) -> None:
    """Write down how far the round came, where it is worth a row: it brought something, or the cursor is old."""
    progress = one.progress
    cursor, _ = _since_then(one)
    moment = read.asked or one.polling.clock()
    news = changes or progress.failures or (swept and progress.allow_sweep)
    reached = max(cursor, read.reach.upto(moment) or cursor) if news else cursor
    reached = taken_along(reached, moment)
    if news or reached != cursor:
        await one.ended(cursor=reached, polled=moment, swept=moment if swept else None)
        progress.cursor = reached
    if swept:
        progress.swept, progress.swept_at = moment, one.polling.monotonic()
        progress.allow_sweep = False


def _since_then(one: Round) -> tuple[datetime, datetime]:
    """The cursor and the baseline, which are set together."""
    cursor, baseline = one.progress.cursor, one.progress.baseline
    assert cursor is not None and baseline is not None  # noqa: S101, PT018 — only what has a baseline is read here; for the type checker
    return cursor, baseline
