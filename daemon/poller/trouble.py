"""What goes wrong while a resource is polled: written down with it, and a wait before it is tried again.

The wait grows, and a provider that says when to come back is obeyed.  After many failures in a row the resource is
given up until a person resumes it.
"""

from datetime import timedelta

import structlog

from daemon.backoff import Exponential
from daemon.errors import Transient
from daemon.poller.ledger import Ledger
from daemon.poller.polling import Polling
from daemon.poller.progress import Progress
from daemon.poller.sweep import SweepRefused

log = structlog.get_logger()

ERROR_MOST = 500  # characters of an error that the log keeps

BACKOFF = Exponential(base=15.0, most=3600.0, jitter=0.2)


async def write_down(
    error: Exception, *, polling: Polling, ledger: Ledger, progress: Progress, interval: float
) -> None:
    """Write down that a poll failed by *error* and when the next may be; *interval* is the usual one, in seconds."""
    progress.failures += 1
    message = (str(error) or type(error).__name__)[:ERROR_MOST]
    if progress.failures == 1:
        log.warning("poll failed", resource=ledger.resource, error=message)
    kind = "poll.failed"
    # A refused sweep asks a person; what the polls themselves find goes on meanwhile.
    if progress.failures >= polling.disable_after_failures and not isinstance(error, SweepRefused):
        kind, progress.disabled = "poll.disabled", True
        log.error(
            "polling disabled",
            resource=ledger.resource,
            failures=progress.failures,
            error=message,
        )
    pause = _pause(error, interval, BACKOFF.delay(progress.failures, polling.chance))
    progress.retry = polling.clock() + timedelta(seconds=pause)
    progress.retry_at = polling.monotonic() + pause
    await ledger.note(kind, failures=progress.failures, error=message, retry=progress.retry)


def _pause(error: Exception, interval: float, growing: float) -> float:
    """Seconds until a resource is tried again that failed by *error*."""
    if isinstance(error, SweepRefused):
        return interval
    if isinstance(error, Transient):
        return max(growing, error.retry_after or 0.0)
    # Trying again soon does not help; the usual interval is often enough to see that somebody mended it.
    return max(growing, interval)
