"""The first round of a resource: what it finds becomes known and nobody is told.

Unless the instance asks for a backfill (`event.poller.backfill`: true, or a date to begin at): then what was changed
since is told as if it had been polled.
"""

from contextlib import aclosing
from datetime import datetime, timedelta

import structlog

from daemon.model import Page
from daemon.plans import backfill_from
from daemon.poller.judging import silently
from daemon.poller.reach import Reach
from daemon.poller.rounds import Round
from daemon.poller.source import identified

log = structlog.get_logger()

CLOCKS_DIFFER = timedelta(seconds=2)
"""By less than this a provider's `Date`, in whole seconds and from a moment ago, may be behind a clock that is right."""


async def take_baseline(one: Round) -> None:
    """Read what there is, and write down from where on changes are told; raises what the element raises."""
    hinted = one.progress.hints.look()
    start = backfill_from(one.configuration)
    if start is None:
        asked, objects = await _know_recent(one)
        cursor = asked
    else:
        asked, objects, cursor = await _tell_since(one, start)
    if not one.plan.complete:
        # What the question does not show is known by its id, so that its end can be noticed.
        objects += await _know_inventory(one)
    progress = one.progress
    progress.cursor, progress.baseline = cursor, asked if start is None else start
    progress.swept, progress.swept_at = asked, one.polling.monotonic()
    await one.ended(
        "poll.baseline",
        cursor=progress.cursor,
        baseline=progress.baseline,
        polled=asked,
        swept=asked,
    )
    progress.works()
    progress.compared, progress.read_at = True, one.polling.monotonic()
    progress.hints.done(hinted)
    log.info(
        "baseline taken", resource=one.plan.resource, objects=objects, backfill=start is not None
    )


async def _tell_since(one: Round, start: datetime) -> tuple[datetime, int, datetime]:
    """Tell what was changed since *start*; when the provider was asked, how many changes, and how far that reaches."""
    asked: datetime | None = None
    told, reach = 0, Reach(one.plan)
    judge = one.judge(since=start, baseline=start)
    async with aclosing(one.source.read(start, one.polling.clock())) as pages:
        async for page in pages:
            asked = asked or _look(one, page)
            reach.take(page)
            told += await judge.take(page)
    asked = asked or one.polling.clock()
    return asked, told, reach.upto(asked) or start


async def _know_recent(one: Round) -> tuple[datetime, int]:
    """Make known what a question from a little before now shows; when the provider was asked, and how many.

    A little, as every round asks: what changed just before is not taken for new then.  Where the provider's
    clock turns out to be behind ours, the question is put once more by its own.
    """
    since = one.polling.clock() - one.margin
    asked, found = await _know_since(one, since)
    if asked is not None and not one.plan.complete and asked - one.margin < since - CLOCKS_DIFFER:
        asked, found = await _know_since(one, asked - one.margin)
    return asked or one.polling.clock(), found


async def _know_since(one: Round, since: datetime) -> tuple[datetime | None, int]:
    asked: datetime | None = None
    found = 0
    async with aclosing(one.source.read(since, one.polling.clock())) as pages:
        async for page in pages:
            asked = asked or _look(one, page)
            # What is marked as deleted already never was there, as far as anybody here knows.
            records = [
                (i, record)
                for i, record in identified(one.plan, page)
                if not one.source.deleted(record)
            ]
            await one.ledger.know(silently(one.plan, records))
            found += len(records)
    return asked, found


async def _know_inventory(one: Round) -> int:
    """Make known what an inventory shows and no question has; how many those were."""
    pages, count = one.source.inventory(), 0
    if pages is None:
        return 0
    async with aclosing(pages) as answers:
        async for page in answers:
            found = identified(one.plan, page)
            there = await one.ledger.known([object_id for object_id, _ in found])
            fresh = [(i, record) for i, record in found if i not in there]
            await one.ledger.know(silently(one.plan, fresh))
            count += len(fresh)
    return count


def _look(one: Round, page: Page) -> datetime:
    """The provider's clock, as the first page of a round shows it."""
    one.progress.provider.look(page.asked, one.polling.monotonic())
    return page.asked
