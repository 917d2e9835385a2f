"""A simulated QuickBooks company with a clock that the test moves, the element beside it, and a connected instance."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

from elements.changes_of_providers import START
from multidict import CIMultiDict

from daemon.elements import built_in
from daemon.elements.connection import Connection
from daemon.elements.quickbooks.element import QuickBooks as Element
from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.quickbooks.server import REALM, QuickBooks
from daemon.model import Incoming, Page, Query
from daemon.outbound.client import Client

HERE = Path(__file__).parent
SETTINGS = {
    "oauth.api.key": "client",
    "oauth.api.secret": "s3cret",
    "oauth.callback.url": "https://mycoolapp.com",
}
LINE = [{"Amount": 100, "DetailType": "SalesItemLineDetail"}]


def sample(name: str) -> bytes:
    """A recorded body."""
    return (HERE / name).read_bytes()


def incoming(body: bytes, **headers: str) -> Incoming:
    """A webhook; `_` in a header's name is a hyphen."""
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    path = "/events/quickbooks"
    return Incoming("POST", path, f"https://tidings.example{path}", named, {}, body)


async def collect(pages: AsyncGenerator[Page] | None) -> list[Page]:
    """All pages."""
    assert pages is not None
    async with aclosing(pages):
        return [page async for page in pages]


def ids(pages: list[Page]) -> list[str]:
    """The ids of all records, in order."""
    return [record["systemId"] for page in pages for record in page.records]


class Books:
    """What a test needs."""

    def __init__(
        self,
        server: QuickBooks,
        clock: Clock,
        element: Element,
        connection: Connection,
        client: Client,
    ) -> None:
        self.server, self.clock, self.element = server, clock, element
        self.connection, self.client = connection, client
        self.saved: list[dict[str, str]] = []

    async def read(self, query: Query) -> list[Page]:
        """All pages of a query."""
        return await collect(self.element.read(self.connection, self.connection.settings, query))

    async def deleted(self, resource: str, since: datetime) -> list[str]:
        """The ids of what was deleted since."""
        settings = self.connection.settings
        found = self.element.deletions(self.connection, settings, resource, since)
        return ids(await collect(found))

    async def inventory(self, resource: str) -> list[str]:
        """The ids of all that is there."""
        found = self.element.inventory(self.connection, self.connection.settings, resource)
        return ids(await collect(found))

    def invoice(self, **fields: Any) -> str:
        """A new invoice's id."""
        made = self.server.create("Invoice", CustomerRef={"value": "1"}, Line=LINE, **fields)
        return str(made["Id"])


def with_books(test: Callable[[Books], Awaitable[Any]], **options: Any) -> Any:
    """Run *test* with a connected instance."""

    async def main() -> Any:
        clock = Clock(START)
        server = QuickBooks(
            client_id="client", client_secret="s3cret", now=clock, **{"per_minute": 0, **options}
        )
        async with server.running() as origin, Client() as client:
            element = built_in("quickbooks", now=clock).beside(origin)
            assert isinstance(element, Element)
            element.check_settings(SETTINGS)
            code = server.grant("https://mycoolapp.com")
            tokens = await element.exchange(
                client, SETTINGS, code, {"code": code, "realmId": REALM}
            )

            async def save(new: dict[str, str]) -> None:
                books.saved.append(new)

            connection = Connection(
                http=client, element=element, settings={**SETTINGS, **tokens}, save=save
            )
            books = Books(server, clock, element, connection, client)
            return await test(books)

    return asyncio.run(main())
