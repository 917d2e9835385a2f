"""How far a round has read: the moment that its cursor may go to.

The cursor is the provider's time, and never *now*: providers show changes late, and one that is dated before the
cursor, by more than the overlap, is not asked for again.  So it goes to the latest change that was seen.

A resource on which nothing changes would stay where it was for ever, and providers do not look back for ever: their
logs of deletions go back 15 days, or 30.  So a cursor that is days old is taken along (`taken_along`), but stays days
behind: by more than any change is late, and more than a time that was read in a wrong zone is wrong.
"""

from datetime import datetime, timedelta

from daemon.model import Page
from daemon.plans import ResourcePlan

BEHIND = timedelta(days=2)
"""A cursor that is taken along stays so far behind."""

TAKEN_AFTER = BEHIND + timedelta(days=1)
"""It is taken along once it is so old: each time by a day or more, so of a quiet resource the log has a row a day."""


class Reach:
    """The latest change that a round saw.

    A record dated in the future does not count: it must not carry the cursor past what is still to come.
    """

    def __init__(self, plan: ResourcePlan) -> None:
        self._plan = plan
        self._seen = False
        self._dated = False
        self._latest: datetime | None = None

    def take(self, page: Page) -> None:
        """Count the records of *page*."""
        dates = [date for date in map(self._plan.updated, page.records) if date is not None]
        self._seen = self._seen or bool(page.records)
        self._dated = self._dated or bool(dates)
        past = [date for date in dates if date <= page.asked]
        self._latest = max(past if self._latest is None else [self._latest, *past], default=None)

    def upto(self, asked: datetime) -> datetime | None:
        """The moment; *asked*, when the round began, of records without dates; None where nothing says one."""
        if self._latest is not None:
            return min(self._latest, asked)
        return asked if self._seen and not self._dated else None


def taken_along(cursor: datetime, asked: datetime) -> datetime:
    """*cursor*, or, where it is old, a later moment that a round which read everything at *asked* may go on from."""
    return asked - BEHIND if asked - cursor >= TAKEN_AFTER else cursor
