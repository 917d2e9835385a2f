"""How an instance is polled, beyond what each of its resources says.

`refresh_interval` in `configuration` is one of these settings too.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from daemon.dates import EPOCH, DatePattern
from daemon.errors import Invalid
from daemon.plans.values import Values, unfilled

VENDOR = "event.vendor.type"
BACKFILL = "event.poller.backfill"
SWEEP_INTERVAL = "event.poller.sweep_interval"

_MOST_MINUTES = 999_999_999.0  # about 1,900 years: as with the refresh interval


def leaves_to_polls(configuration: Mapping[str, str | None]) -> bool:
    """Whether `event.vendor.type` leaves the finding of changes to polls: unless it says that webhooks tell of them."""
    vendor = (configuration.get(VENDOR) or "").strip()
    return vendor.lower() in {"", "polling", "both"} or unfilled(vendor)


def backfill_from(configuration: Mapping[str, str | None]) -> datetime | None:
    """From when the first poll tells, None when it only sets the baseline; raises `Invalid`."""
    wanted = (configuration.get(BACKFILL) or "").strip()
    if wanted.lower() in {"", "false"} or unfilled(wanted):
        return None
    if wanted.lower() == "true":
        return EPOCH
    for form in ("yyyy-MM-dd'T'HH:mm:ssXXX", "yyyy-MM-dd"):
        try:
            return DatePattern.compile(form).parse(wanted)
        except ValueError:
            continue
    raise Invalid(
        {BACKFILL: f"is {wanted[:40]!r}, but should be true, false or a date such as 2026-01-31"}
    )


def sweep_interval(configuration: Mapping[str, Any], usual: float = 0.0) -> float:
    """Seconds from one sweep to the next; *usual*, or 0 with every poll, unless it is given.  Raises `Invalid`."""
    problems: dict[str, str] = {}
    minutes = Values(configuration, at="", problems=problems).number(
        SWEEP_INTERVAL, default=usual / 60, low=0, high=_MOST_MINUTES, unit="minutes"
    )
    if problems:
        raise Invalid(problems)
    return minutes * 60
