"""What a poll makes of what it reads."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

import structlog

from daemon.errors import Transient
from daemon.model import FeedPage, Json, Page
from daemon.plans import ResourcePlan

log = structlog.get_logger()

LONGEST_ID = 1000
"""Characters of an id: a longer one does not fit into PostgreSQL's indexes."""


Pages = TypeVar("Pages", Page, FeedPage)


async def heard(pages: AsyncGenerator[Pages]) -> AsyncGenerator[Pages]:
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
