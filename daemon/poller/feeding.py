"""Following a provider's change feed, where a resource has one: it goes on from a token.

The token moves when what it covers is in the log, so a walk that breaks off is simply done again from the same
token: what the log has already falls away by its fingerprint.  One poller reads one instance, its resources in turn,
so no feed is ever walked twice at a time.

A provider that has lost the token is read from the beginning, and what is known and did not come is gone.
"""

from datetime import datetime, timedelta

import structlog

from daemon.errors import TokenLost, Transient
from daemon.plans import backfill_from
from daemon.poller.rounds import Round
from daemon.poller.source import Opened
from daemon.poller.walk import Walk, Walked

log = structlog.get_logger()

TOKEN_KEPT = timedelta(hours=1)
"""So long a feed's token is kept that has brought nothing: a provider forgets tokens that are not used."""


async def follow_feed(one: Round, opened: Opened) -> None:
    """Read what happened since the token, to the feed's end; raises what the element raises, and `SweepRefused`.

    Without a baseline what is found becomes known and nobody is told, but of what a backfill asks for.
    """
    progress = one.progress
    backfill = backfill_from(one.configuration)
    went, began = await _walk(one, opened, backfill)
    news = began or went.told or progress.failures or went.compared
    if news or (went.token != progress.token and _old(progress.polled, went.asked)):
        await one.ended(
            "poll.baseline" if began else "poll.completed",
            token=went.token,
            cursor=went.asked,
            polled=went.asked,
            baseline=(backfill or went.asked) if began else None,
            swept=went.asked if went.compared else None,
        )
    progress.works()
    if began:
        log.info("baseline taken", resource=one.plan.resource, backfill=backfill is not None)
    elif went.changes:
        log.info("poll found changes", resource=one.plan.resource, changes=went.changes)


async def _walk(one: Round, opened: Opened, backfill: datetime | None) -> tuple[Walked, bool]:
    """Walk from the token, or from the beginning; how that ended, and whether it was a baseline."""
    token, silent = one.progress.token, one.progress.baseline is None

    async def walk(token: str | None) -> Walked:
        walk = Walk(
            ledger=one.ledger, plan=one.plan, silent=silent, since=backfill, limit=one.sweep_limit
        )
        return await walk.follow(opened, token)

    if token is not None:
        try:
            return await walk(token), silent
        except TokenLost as error:
            log.warning("change feed begins again", resource=one.plan.resource, reason=str(error))
            silent = silent or error.elsewhere
    try:
        return await walk(None), silent
    except TokenLost as error:
        raise Transient(f"the feed broke off while it was read: {error}") from error


def _old(written: datetime | None, now: datetime) -> bool:
    """Whether a token that was *written* then, and leads to nothing new, should be written anew."""
    return written is None or now - written > TOKEN_KEPT
