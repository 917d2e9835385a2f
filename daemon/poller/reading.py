"""What a poll is asked to read by the instance's configuration, and what it makes of the answer."""

import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime

import structlog

from daemon.dates import DatePattern
from daemon.errors import Invalid, Transient
from daemon.model import Json, Page
from daemon.plans import ResourcePlan

log = structlog.get_logger()

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

BACKFILL = "event.poller.backfill"
SWEEP_INTERVAL = "event.poller.sweep_interval"

LONGEST_ID = 1000
"""Characters of an id: a longer one does not fit into PostgreSQL's indexes."""


async def heard(pages: AsyncGenerator[Page]) -> AsyncGenerator[Page]:
    """*pages*, as the element reads them; its errors are those of `elements_fault`."""
    async with aclosing(pages):
        with elements_fault():
            async for page in pages:
                yield page


@contextmanager
def elements_fault() -> Iterator[None]:
    """Tell an element's failing connection from that to the database, which looks the same: it is `Transient`."""
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise Transient(
            f"the provider cannot be reached: {str(error) or type(error).__name__}"
        ) from error


def identified(plan: ResourcePlan, page: Page) -> list[tuple[str, Json]]:
    """The records of *page* with their ids; one without an id that can be kept is left out and logged."""
    named: list[tuple[str, Json]] = []
    for record in page.records:
        object_id = plan.object_id(record)
        # PostgreSQL's text holds no NUL.
        if object_id is not None and "\0" not in object_id and len(object_id) <= LONGEST_ID:
            named.append((object_id, record))
    if nameless := len(page.records) - len(named):
        log.warning(
            "records without an id", resource=plan.resource, records=nameless,
            remedy=f"idField of {plan.resource} in event.poller.configuration leads to no id in them",
        )  # fmt: skip
    return named


def backfill_from(configuration: Mapping[str, str | None]) -> datetime | None:
    """From when the first poll tells, None when it only sets the baseline; raises `Invalid`."""
    wanted = (configuration.get(BACKFILL) or "").strip()
    if wanted.lower() in {"", "false"}:
        return None
    if wanted.lower() == "true":
        return EPOCH
    for form in ("yyyy-MM-dd'T'HH:mm:ssXXX", "yyyy-MM-dd"):
        try:
            return DatePattern.compile(form).parse(wanted)
        except ValueError:
            continue
    raise Invalid(
        {BACKFILL: f"is {wanted!r}, but should be true, false or a date such as 2026-01-31"}
    )


def sweep_interval(configuration: Mapping[str, str | None]) -> float:
    """Seconds from one sweep to the next; 0, with every poll, unless it is given.  Raises `Invalid`."""
    text = (configuration.get(SWEEP_INTERVAL) or "").strip()
    try:
        minutes = float(text or 0)
    except ValueError:
        minutes = -1.0
    if not (math.isfinite(minutes) and minutes >= 0):
        raise Invalid({SWEEP_INTERVAL: f"is {text!r}, but should be a number of minutes"})
    return minutes * 60
