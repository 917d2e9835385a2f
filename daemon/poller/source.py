"""One resource at its provider, as an instance's connection reads it.

Everything that is asked of an element while it is polled is asked here, so its errors come out as one kind: a
connection that fails is `Transient`, and is not taken for the one to the database, which looks the same.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import datetime
from typing import TypeVar

import structlog

from daemon.dates import EPOCH
from daemon.elements.base import Element, Http, Settings
from daemon.errors import Transient
from daemon.model import FeedPage, Json, Page
from daemon.plans import ResourcePlan

log = structlog.get_logger()

LONGEST_ID = 1000
"""Characters of an id: a longer one does not fit into PostgreSQL's indexes."""

Pages = TypeVar("Pages", Page, FeedPage)

Opened = Callable[[str | None], AsyncGenerator[FeedPage]]
"""Starts to read a change feed from a token, or from the beginning."""


class Source:
    """The resource that *plan* describes, read through *http* with the instance's *settings*."""

    def __init__(
        self, element: Element, http: Http, settings: Settings, plan: ResourcePlan
    ) -> None:
        self.element = element
        self.plan = plan
        self._http = http
        self._settings = settings
        self._path = plan.path  # what the provider calls it: the plan's name is the customer's

    def read(self, since: datetime, now: datetime) -> AsyncGenerator[Page]:
        """The pages of what was changed since, as the plan asks for it; raises `Invalid` while that is unfilled."""
        query = self.plan.query(since, now)
        return heard(self.element.read(self._http, self._settings, query))

    def feed(self, now: datetime) -> Opened | None:
        """What starts to read the provider's own feed of changes; None where the resource has none."""
        query = self.plan.query(EPOCH, now)
        if self.element.feed(self._http, self._settings, query, None) is None:
            return None

        def opened(token: str | None) -> AsyncGenerator[FeedPage]:
            pages = self.element.feed(self._http, self._settings, query, token)
            assert pages is not None  # noqa: S101 — it was not a moment ago; for the type checker
            return heard(pages)

        return opened

    def deletions(self, since: datetime) -> AsyncGenerator[list[str]] | None:
        """Ids that the provider's own channel names as deleted after *since*, a page at a time; None without one."""
        pages = self.element.deletions(self._http, self._settings, self._path, since)
        if pages is None:
            return None

        async def ids() -> AsyncGenerator[list[str]]:
            async with aclosing(heard(pages)) as answers:
                async for page in answers:
                    yield [object_id for object_id, _ in identified(self.plan, page)]

        return ids()

    def inventory(self) -> AsyncGenerator[Page] | None:
        """The pages of all that exists; None where that cannot be asked for."""
        pages = self.element.inventory(self._http, self._settings, self._path)
        return None if pages is None else heard(pages)

    def reread(self, ids: Sequence[str]) -> AsyncGenerator[Page] | None:
        """The objects *ids* as they are now; None where they cannot be asked for one by one."""
        pages = self.element.reread(self._http, self._settings, self._path, ids)
        return None if pages is None else heard(pages)

    async def gone(self, object_id: str) -> bool | None:
        """Whether the provider says that there is no such object; None where it cannot be asked."""
        with elements_fault():
            return await self.element.gone(self._http, self._settings, self._path, object_id)

    def deleted(self, record: Json) -> bool:
        """Whether *record* carries the provider's mark of a deleted one."""
        return self.element.deleted(self._path, record)


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


def fits(object_id: str) -> bool:
    """Whether the log can hold that id."""
    # PostgreSQL's text holds no NUL.
    return "\0" not in object_id and len(object_id) <= LONGEST_ID


def identified(plan: ResourcePlan, page: Page) -> list[tuple[str, Json]]:
    """The records of *page* with their ids; one without an id that can be kept is left out and logged."""
    named: list[tuple[str, Json]] = []
    for record in page.records:
        object_id = plan.object_id(record)
        if object_id is not None and fits(object_id):
            named.append((object_id, record))
    if nameless := len(page.records) - len(named):
        log.warning(
            "records without an id", resource=plan.resource, records=nameless,
            remedy=f"idField of {plan.resource} in event.poller.configuration leads to no id in them",
        )  # fmt: skip
    return named
