"""Whether a record that a poll brought is a change, and which.

The rule of the documentation: created and updated equal (within a tolerance) → created; updated later →
updated; updated not later than the last poll → nothing.  Two things are added.  What has been seen before is
never created again, and what was created after the baseline and never reported is created even if it
has been edited since (the rule alone would call it updated).

C, U: the created and the updated date, as far as they are configured and can be read.

    known   C                U                          filtered     not filtered
    ─────   ──────────────   ────────────────────────   ──────────   ────────────
    yes     any              older than the last poll   nothing      UPDATED
    yes     any              not older, or none         UPDATED      UPDATED
    no      since baseline   any                        CREATED      CREATED
    no      before, none     older than the last poll   nothing      if since baseline, as below
    no      before           not older, near C          CREATED      CREATED
    no      before           not older, away from C     UPDATED      UPDATED
    no      before           none                       UPDATED      UPDATED
    no      none             not older                  UPDATED or, when polls read everything, CREATED
    no      none             none                       CREATED      CREATED

*Filtered* is `filterByUpdatedDate`.  Without it dates drop only what was last changed before the baseline and has
never been seen: that is history, not news.  With `filterByCurrentDate` whatever is dated after the start
of the poll waits for the next one.

Dates are as precise as they are written.  `2018-08-20` may be any moment of that day, so it is *older* only
when the whole day is; a fingerprint keeps what is seen twice from being told twice.  The last poll and the
baseline count from `pollDelay` before them, as in the question that was asked.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.dates import Reading
from daemon.model import ChangeType


@dataclass(frozen=True, slots=True)
class Rules:
    """What a configuration says about judging.  *complete*: each poll reads all records, not only new ones."""

    filter_by_updated_date: bool
    filter_by_current_date: bool
    tolerance: timedelta
    poll_delay: timedelta
    complete: bool


@dataclass(frozen=True, slots=True)
class Dates:
    """The dates of one record.  *unreadable* names the fields that hold something that is no date."""

    updated: Reading | None
    created: Reading | None
    unreadable: tuple[str, ...] = ()


def judge(
    dates: Dates,
    rules: Rules,
    *,
    known: bool,
    baseline: datetime,
    last_poll: datetime,
    poll_started: datetime,
) -> ChangeType | None:
    """The change that a new version of a record is, or None where there is nothing to tell.

    *known*: this object was in the baseline or has been reported since.
    """
    updated, created = dates.updated, dates.created
    latest = updated or created
    if rules.filter_by_current_date and latest is not None and latest.moment > poll_started:
        return None
    stale = updated is not None and _older(updated, last_poll - rules.poll_delay)
    if known:
        return None if stale and rules.filter_by_updated_date else ChangeType.UPDATED
    start = baseline - rules.poll_delay
    if created is not None and not _older(created, start):
        return ChangeType.CREATED
    if updated is None:
        return ChangeType.CREATED if created is None else ChangeType.UPDATED
    if stale and (rules.filter_by_updated_date or _older(updated, start)):
        return None
    if created is None:
        return ChangeType.CREATED if rules.complete else ChangeType.UPDATED
    near = abs(updated.moment - created.moment) <= rules.tolerance
    return ChangeType.CREATED if near else ChangeType.UPDATED


def _older(date: Reading, moment: datetime) -> bool:
    """Whether all that the date may stand for lies before *moment*."""
    return date.moment + date.precision <= moment
