"""The workshop, the example that operators copy: its element, its API and its webhooks, end to end."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from servers import serving

from daemon.elements import built_in
from daemon.elements.connection import Connection
from daemon.elements.defined import Defined
from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.workshop import Workshop
from daemon.errors import BadSignature, Unauthorized
from daemon.model import ChangeType, Incoming, Page
from daemon.outbound.client import Client
from daemon.plans import compile_plans

START = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
SETTINGS = {
    "api.key": "workshop-key",
    "signature.secret": "workshop-secret",
    "workshop.account": "acme",
}


async def collect(pages: AsyncGenerator[Page] | None) -> list[Page]:
    """All pages."""
    assert pages is not None
    async with aclosing(pages):
        return [page async for page in pages]


def ids(pages: list[Page]) -> list[str]:
    """The ids of all records, in order."""
    return [record["id"] for page in pages for record in page.records]


async def save(settings: dict[str, str]) -> None:
    """Nothing is refreshed here."""
    raise AssertionError


def running(test: Any, **options: Any) -> Any:
    """Run *test* with a workshop, its element, its clock and an HTTP connection."""

    async def main() -> Any:
        clock = Clock(START)
        workshop = Workshop(now=clock, **options)
        async with workshop.running() as origin, Client() as client:
            element = built_in("workshop", now=clock).beside(origin)
            connection = Connection(http=client, element=element, settings=SETTINGS, save=save)
            return await test(workshop, element, clock, connection)

    return asyncio.run(main())


def test_its_own_configuration_polls_it():
    """Customers and orders changed since are read, over several pages, oldest change first."""

    async def test(
        workshop: Workshop, element: Defined, clock: Clock, http: Connection
    ) -> list[list[str]]:
        workshop.create("orders", id="old")
        clock.advance(60)
        for number in range(150):
            workshop.create("orders", id=f"o{number:03}")
        workshop.create("customers", id="c1")
        plans = compile_plans({}, element.poller_defaults)
        return [
            ids(
                await collect(
                    element.read(http, SETTINGS, plan.query(START + timedelta(seconds=1), clock()))
                )
            )
            for plan in plans
        ]

    assert [["c1"], [f"o{number:03}" for number in range(150)]] == running(test)


def test_deletes_show_by_absence():
    """The inventory lacks what was deleted, and asking for it says that it is gone."""

    async def test(
        workshop: Workshop, element: Defined, clock: Clock, http: Connection
    ) -> tuple[list[str], list[Any]]:
        for name in ("a", "b", "c"):
            workshop.create("orders", id=name)
        workshop.delete("orders", "b")
        found = ids(await collect(element.inventory(http, SETTINGS, "orders")))
        return found, [await element.gone(http, SETTINGS, "orders", name) for name in ("a", "b")]

    assert (["a", "c"], [False, True]) == running(test)


def test_a_wrong_key_is_unauthorized():
    """Without the API key nothing is shown."""

    async def test(workshop: Workshop, element: Defined, clock: Clock, http: Connection) -> None:
        wrong = Connection(http=http._http, element=element, settings={"api.key": "x"}, save=save)
        with pytest.raises(Unauthorized):
            await collect(element.inventory(wrong, SETTINGS, "orders"))

    running(test)


class Receiver:
    """An address that takes webhooks, refusing the first *refusals*."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.requests: list[Incoming] = []

    async def take(self, request: web.Request) -> web.Response:
        """Answer a post, or echo a challenge."""
        if request.method == "GET":
            return web.Response(text=request.query["challenge"])
        body = await request.read()
        self.requests.append(
            Incoming("POST", request.path, str(request.url), request.headers, request.query, body)
        )
        if len(self.requests) <= self.refusals:
            return web.Response(status=503)
        return web.Response()


def test_its_webhooks_are_understood():
    """A ticket's life arrives as three signed events with their account, type, date and identity."""
    receiver = Receiver()

    async def test(
        workshop: Workshop, element: Defined, clock: Clock, http: Connection
    ) -> list[Any]:
        async with serving(receiver.take) as origin:
            workshop.hook = f"{origin}/events/workshop"
            workshop.create("tickets", id="t1", title="Ü")
            clock.advance(5)
            workshop.update("tickets", "t1", title="x")
            workshop.delete("tickets", "t1")
            workshop.create("orders", id="o1")
            await workshop.posted()
        with pytest.raises(BadSignature):
            element.receive(receiver.requests[0], {"signature.secret": "another"})
        assert ("acme",) == element.routes(receiver.requests[0])
        return [element.receive(one, SETTINGS) for one in receiver.requests]

    received = running(test)
    events = [one.events[0] for one in received]

    assert [ChangeType.CREATED, ChangeType.UPDATED, ChangeType.DELETED] == [
        one.change for one in events
    ]
    assert {("tickets", "t1", "acme")} == {
        (one.object_type, one.object_id, one.route) for one in events
    }
    assert [START, START + timedelta(seconds=5), START + timedelta(seconds=5)] == [
        one.changed for one in events
    ]
    assert 3 == len({one.identity for one in events})


def test_it_posts_again_until_it_is_accepted():
    """A 503 is tried again, with the same event; what is never accepted is given up after the waits, in order."""
    receiver = Receiver(refusals=2)

    async def test(
        workshop: Workshop, element: Defined, clock: Clock, http: Connection
    ) -> tuple[list[Any], int]:
        async with serving(receiver.take) as origin:
            workshop.hook = f"{origin}/events/workshop"
            workshop.create("tickets", id="t1")
            await workshop.posted()
        workshop.update("tickets", "t1")
        await workshop.posted()
        events = {element.receive(one, SETTINGS).events[0].identity for one in receiver.requests}
        return [one.outcome for one in workshop.deliveries], len(events)

    outcomes, events = running(test, waits=(0.001, 0.001))

    assert [503, 503, 200] == outcomes[:3]
    assert 1 == events
    assert ["ClientConnectorError"] * 3 == outcomes[3:]


def test_it_asks_an_address_before_it_posts():
    """Registering needs the challenge's echo, which the element gives."""

    async def test(
        workshop: Workshop, element: Defined, clock: Clock, http: Connection
    ) -> tuple[int, int, str | None]:
        async def ours(request: web.Request) -> web.Response:
            incoming = Incoming(
                "GET", request.path, str(request.url), request.headers, request.query, b""
            )
            reply = element.handshake(incoming, None)
            assert reply is not None
            return web.Response(body=reply.body, content_type=reply.content_type)

        async def other(request: web.Request) -> web.Response:
            return web.Response(text="hello")

        place = f"{element.parameters[-1].default}".removesuffix("/v1") + "/simulator/webhook"
        async with serving(ours) as good, serving(other) as bad, aiohttp.ClientSession() as session:
            async with session.put(place, json={"url": bad}) as answer:
                refused = answer.status
            async with session.put(place, json={"url": good}) as answer:
                return refused, answer.status, workshop.hook and workshop.hook.replace(good, "good")

    assert (422, 200, "good") == running(test)


def test_records_change_by_http_as_well():
    """`curl` is enough for a demonstration: create, change and delete without a key; what is not there is 404."""

    async def test(
        workshop: Workshop, element: Defined, clock: Clock, http: Connection
    ) -> list[int]:
        place = f"{element.parameters[-1].default}".removesuffix("/v1") + "/simulator/orders"
        statuses = []
        async with aiohttp.ClientSession() as session:
            for method, path, body in (
                ("POST", "", {"id": "o1", "status": "open"}), ("PUT", "/o1", {"status": "paid"}),
                ("DELETE", "/o1", None), ("DELETE", "/o1", None), ("PUT", "/o1", {}),
            ):  # fmt: skip
                async with session.request(method, place + path, json=body) as answer:
                    statuses.append(answer.status)
        return statuses

    assert [201, 200, 204, 404, 404] == running(test)
