"""One round of reading one resource: what it works with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.plans import ResourcePlan
from daemon.poller.judging import Judge
from daemon.poller.ledger import Ledger
from daemon.poller.polling import Polling
from daemon.poller.progress import Progress
from daemon.poller.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Reads from *source*, tells *ledger*, and leaves in *progress* how far it came.

    *configuration* is the instance's, *interval* the seconds between two of its rounds.
    """

    polling: Polling
    configuration: Mapping[str, str | None]
    interval: float
    source: Source
    ledger: Ledger
    progress: Progress

    @property
    def plan(self) -> ResourcePlan:
        """The resource's plan."""
        return self.source.plan

    @property
    def overlap(self) -> timedelta:
        """How long before the cursor a question begins: providers show changes late (indexes, long transactions)."""
        return timedelta(seconds=self.source.element.overlap)

    @property
    def margin(self) -> timedelta:
        """The same, and a whole unit where the question names only a day: it would lose what is younger."""
        return max(self.overlap, self.plan.grain)

    @property
    def sweep_limit(self) -> float:
        """The share of what is known that may be missing at once; a person may have allowed any."""
        return math.inf if self.progress.allow_sweep else self.polling.sweep_limit

    def judge(self, *, since: datetime, baseline: datetime) -> Judge:
        """Who tells what is news of what this round reads."""
        return Judge(source=self.source, ledger=self.ledger, since=since, baseline=baseline)

    async def ended(self, kind: str = "poll.completed", **facts: object) -> None:
        """Write down that the round came to its end; as *kind*, unless it is the first after a failure."""
        if kind == "poll.completed" and self.progress.failures:
            kind = "poll.recovered"
        await self.ledger.note(kind, **facts)
