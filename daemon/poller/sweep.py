"""Finding what is no more.

An object is deleted when the provider says so: by its own channel of deletions where it has one, else by not
being in a complete inventory, and then, where the provider can be asked for one object, by its answer to that
as well.  What would delete too much of what is known stops and asks: a provider that answers with half its
data, or an account that lost a permission, looks just like a mass deletion.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from daemon.errors import Refused
from daemon.model import Page
from daemon.plans import ResourcePlan, sweep_interval
from daemon.poller.judging import Judge, deleted
from daemon.poller.rounds import Round
from daemon.poller.source import identified

BRAKE_LEAST = 10
"""So few deletions at once are never too many."""

ASK_MOST = 200
"""Objects for which the provider is asked one by one; beyond, the inventory's word is taken."""


class SweepRefused(Refused):
    """A sweep would delete more than a person allowed: look at the provider, then allow it or leave it."""


def brake(plan: ResourcePlan, *, left: int, known: int, limit: float) -> None:
    """Raise `SweepRefused` when *left* objects to delete are more than the share *limit* of those *known*."""
    if left > BRAKE_LEAST and left > limit * known:
        raise SweepRefused(
            f"a sweep of {plan.resource} found {left} of {known} known objects gone, more than the share "
            f"{limit:g} that [polling] sweep_limit lets pass; if that is right, say `tidings instances resume <id> --allow-sweep`"
        )


async def tell_deleted(one: Round, told: AsyncGenerator[list[str]], live: set[str]) -> int:
    """Append the deletions that the provider tells; how many.  Raises what the element raises, `DeletionsLost` too.

    Those *live* in the same round came back since, or went only now: then the next round is told so again.
    One that is not known may be older than the baseline, whose rounds showed only what was new.
    """
    count = 0
    async with aclosing(told):
        async for ids in told:
            known = await one.ledger.known(ids)
            news = [
                i
                for i in ids
                if i not in live
                and (not known[i]["deleted"] if i in known else not one.plan.complete)
            ]
            count += await _delete(one, news)
    return count


async def sweep(one: Round, judge: Judge, *, now: bool) -> tuple[int, bool]:
    """Append what an inventory shows to be gone, or edited; how many, and whether one was taken.

    *now* and not only at its interval, and so is the first of this poller where hints may have been lost.  Raises
    what the element raises, and `SweepRefused`.
    """
    progress, whole = one.progress, one.source.element.edits_undated
    every = sweep_interval(one.configuration, one.source.element.sweep_interval)
    now = now or (whole and not progress.compared)
    if not now and one.polling.monotonic() - progress.swept_at < every:
        return 0, False
    edited = 0

    async def compare(page: Page) -> None:
        nonlocal edited
        edited += await judge.take(page)

    left = await _missing(one, see=compare if whole else None)
    if left is None:
        return 0, False
    progress.compared = True
    return edited + await _delete(one, left), True


async def _missing(
    one: Round, *, see: Callable[[Page], Awaitable[None]] | None
) -> list[str] | None:
    """What is known and no more, by a complete inventory; None where there is none.  *see* is shown every page."""
    pages = one.source.inventory()
    if pages is None:
        return None
    # Read before the inventory begins: what is created meanwhile is not missing.
    left = await one.ledger.present()
    known = len(left)
    async with aclosing(pages) as answers:
        async for page in answers:
            left.difference_update(object_id for object_id, _ in identified(one.plan, page))
            if see is not None:
                await see(page)
    brake(one.plan, left=len(left), known=known, limit=one.sweep_limit)
    if len(left) > ASK_MOST:
        return sorted(left)
    return [
        object_id for object_id in sorted(left) if await one.source.gone(object_id) is not False
    ]


async def _delete(one: Round, ids: list[str]) -> int:
    """Append that *ids* are no more; how many of them were there."""
    changes = [deleted(one.plan, object_id) for object_id in ids]
    return await one.ledger.tell(changes, one.polling.clock())
