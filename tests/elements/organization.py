"""A simulated Salesforce with a clock, the element that speaks to it, and a connected instance."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.elements import built_in
from daemon.elements.connection import Connection
from daemon.elements.defined import Defined
from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.salesforce.server import Salesforce
from daemon.model import Condition, Page, Query
from daemon.outbound.client import Client

START = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
SETTINGS = {
    "oauth.api.key": "the id",
    "oauth.api.secret": "the secret",
    "oauth.callback.url": "https://mycoolapp.com/auth",
}


async def collect(pages: AsyncGenerator[Page] | None) -> list[Page]:
    """All pages."""
    assert pages is not None
    async with aclosing(pages):
        return [page async for page in pages]


def ids(pages: list[Page]) -> list[str]:
    """The ids of all records, in order."""
    return [record["Id"] for page in pages for record in page.records]


def names(pages: list[Page], field: str = "LastName") -> list[str]:
    """A field of all records, in order."""
    return [record.get(field) for page in pages for record in page.records]


class Account:
    """An instance of the element at a simulated Salesforce."""

    def __init__(
        self, simulated: Salesforce, clock: Clock, element: Defined, client: Client
    ) -> None:
        self.simulated, self.clock, self.element, self.client = simulated, clock, element, client
        self.saved: list[dict[str, str]] = []
        self.connection: Connection
        self.origin = ""

    async def connect(self, **settings: str) -> None:
        """Exchange a code; `__` in a setting's name is a dot."""
        whole = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
        code = self.simulated.grant(whole["oauth.callback.url"])
        self.element.check_settings(whole)
        tokens = await self.element.exchange(self.client, whole, code, {"code": code})
        self.use({**whole, **tokens})

    def use(self, settings: dict[str, str]) -> None:
        """Go on with *settings*."""

        async def save(new: dict[str, str]) -> None:
            self.saved.append(new)

        self.connection = Connection(
            http=self.client, element=self.element, settings=settings, save=save
        )

    async def read(
        self,
        resource: str,
        *conditions: tuple[str, str, str],
        since: datetime | None = START - timedelta(hours=1),
        page_size: int | None = None,
        **parameters: str,
    ) -> list[Page]:
        """All pages of a query."""
        query = Query(
            resource,
            tuple(Condition(*one) for one in conditions),
            tuple(parameters.items()),
            page_size=page_size,
            since=since,
        )
        self.element.check_query(query)
        return await collect(self.element.read(self.connection, self.connection.settings, query))

    async def deletions(self, resource: str, since: datetime) -> list[Page]:
        """All pages of the log of deletions."""
        return await collect(
            self.element.deletions(self.connection, self.connection.settings, resource, since)
        )

    def asked(self, part: str) -> list[str]:
        """The requests whose path holds *part*."""
        return [path for _, path in self.simulated.requests if part in path]


def with_account(
    test: Callable[[Account], Coroutine[Any, Any, Any]],
    *,
    settings: dict[str, str] | None = None,
    **options: Any,
) -> Any:
    """Run *test* with an `Account`."""

    async def main() -> Any:
        clock = Clock(START)
        simulated = Salesforce(client_id="the id", client_secret="the secret", now=clock, **options)
        async with simulated.running() as origin, Client() as client:
            element = built_in("sfdc", now=clock).beside(origin)
            account = Account(simulated, clock, element, client)
            account.origin = origin
            await account.connect(**(settings or {}))
            async with asyncio.timeout(30):
                return await test(account)

    return asyncio.run(main())
