"""The sageone element, and the mission's example body, against a simulated Sage."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.elements import HERE, built_in, load
from daemon.elements.connection import Connection
from daemon.elements.defined import Defined
from daemon.elements.loading import parse
from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.sageone import Sage
from daemon.errors import Refused, Transient, Unauthorized
from daemon.model import Condition, Page, Query
from daemon.outbound.client import Client
from daemon.plans import compile_plans, fingerprint

START = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
CODE = "1c6ff4089d58d80e86482ab7d5b97f15dd7b041d"
# The body of the documents' example, its unbalanced quote included.
EXAMPLE = json.loads(r"""
{"element": {"key": "sageone"}, "providerData": {"code": "1c6ff4089d58d80e86482ab7d5b97f15dd7b041d"},
 "configuration": {
   "oauth.api.key": "xxxxxxxxxxxxxxxxxx", "oauth.api.secret": "xxxxxxxxxxxxxxxxxxxxxx",
   "signature.secret": "xxxxxxxxxxxxxxxxxxxxxxxxx", "apim.subscription.key": "xxxxxxxxxxxxxxxxxxxxxxxxx",
   "country": "US", "oauth.callback.url": "https://mycoolapp.com",
   "event.notification.enabled": true, "event.notification.callback.url": "http://mycoolapp.com",
   "event.poller.refresh_interval": "15",
   "event.poller.configuration": {"customers": {
     "url": "/hubs/finance/customers?where=lastModifiedDate>='${date:yyyy-MM-dd'T'HH:mm:ss'Z'}' and attributes='created_at,updated_at",
     "idField": "id",
     "datesConfiguration": {
       "updatedDateField": "updated_at", "updatedDateFormat": "yyyy-MM-dd'T'HH:mm:ss'Z'", "updatedDateTimezone": "GMT",
       "createdDateField": "created_at", "createdDateFormat": "yyyy-MM-dd'T'HH:mm:ss'Z'", "createdDateTimezone": "GMT"}}}},
 "tags": ["Test"], "name": "API_Polling"}
""")


async def collect(pages: AsyncGenerator[Page] | None) -> list[Page]:
    """All pages."""
    assert pages is not None
    async with aclosing(pages):
        return [page async for page in pages]


def names(pages: list[Page]) -> list[str]:
    """The names of all records, in order."""
    return [record["displayed_as"] for page in pages for record in page.records]


class Account:
    """A simulated Sage with a clock, the element that speaks to it, and a connected instance."""

    def __init__(
        self, sage: Sage, clock: Clock, element: Defined, connection: Connection, origin: str
    ) -> None:
        self.sage, self.clock, self.element, self.connection = sage, clock, element, connection
        self.origin = origin
        self.saved: list[dict[str, str]] = []
        self.seen: list[Page] = []

    async def read(self, query: Query) -> list[Page]:
        """All pages."""
        return await collect(self.element.read(self.connection, self.connection.settings, query))

    async def walk(self, query: Query, between: Callable[[], Any]) -> None:
        """Read, and let something happen after each page; the pages are in `seen`."""
        pages = self.element.read(self.connection, self.connection.settings, query)
        async with aclosing(pages):
            async for page in pages:
                self.seen.append(page)
                between()


def with_account(test: Any, **options: Any) -> Any:
    """Run *test* with an `Account` made of the documents' example."""

    async def main() -> Any:
        clock = Clock(START)
        settings = {
            key: value for key, value in EXAMPLE["configuration"].items() if isinstance(value, str)
        }
        sage = Sage(
            client_id=settings["oauth.api.key"],
            client_secret=settings["oauth.api.secret"],
            subscription_key=settings["apim.subscription.key"],
            now=clock,
            **options,
        )
        sage.honour(CODE)
        async with sage.running() as origin, Client() as client:
            element = built_in("sageone").beside(origin)
            element.check_settings(settings)
            tokens = await element.exchange(client, settings, EXAMPLE["providerData"]["code"], {})
            saved: list[dict[str, str]] = []

            async def save(new: dict[str, str]) -> None:
                saved.append(new)

            connection = Connection(
                http=client, element=element, settings={**settings, **tokens}, save=save
            )
            account = Account(sage, clock, element, connection, origin)
            account.saved = saved
            return await test(account)

    return asyncio.run(main())


def test_the_documents_example_polls_customers():
    """Its poller configuration, compiled, reads the customers changed since, with their dates, and no suppliers."""

    async def test(account: Account) -> tuple[list[Page], set[str]]:
        account.sage.create("Before")
        account.clock.advance(3600)
        account.sage.create("Cust & Co")
        account.sage.create("Supplier", kind="VENDOR")
        [plan] = compile_plans(EXAMPLE["configuration"], account.element.poller_defaults)
        query = plan.query(START + timedelta(seconds=1), START + timedelta(hours=2))
        account.element.check_query(query)
        pages = await account.read(query)
        assert plan.object_id(pages[0].records[0])
        assert (
            plan.updated(pages[0].records[0])
            == plan.created(pages[0].records[0])
            == account.clock()
        )
        return pages, {path for method, path in account.sage.requests if method == "GET"}

    pages, paths = with_account(test)

    assert ["Cust & Co"] == names(pages)
    assert {"id", "displayed_as", "$path", "created_at", "updated_at"} == set(pages[0].records[0])
    [path] = paths
    assert "contact_type_id=CUSTOMER" in path
    assert (
        "attributes=created_at%2Cupdated_at" in path or "attributes=created_at,updated_at" in path
    )
    assert "updated_or_created_since=2026-11-20T10:00:01Z" in path.replace("%3A", ":")


@pytest.mark.element("sageone", "polling")
def test_the_elements_own_configuration_polls_too():
    """An instance without a poller configuration reads customers and suppliers with all their attributes."""

    async def test(account: Account) -> list[list[str]]:
        account.sage.create("Customer", reference="C1")
        account.sage.create("Supplier", kind="VENDOR")
        plans = compile_plans({}, account.element.poller_defaults)
        read = [await account.read(plan.query(START, START)) for plan in plans]
        assert "C1" == read[0][0].records[0]["reference"]
        return [names(pages) for pages in read]

    assert [["Customer"], ["Supplier"]] == with_account(test)


def test_changes_at_the_moment_itself_are_read():
    """updated_or_created_since is inclusive: a change within the second of the last poll is not lost."""

    async def test(account: Account) -> list[str]:
        account.sage.create("Now")
        return names(
            await account.read(
                Query("customers", (Condition("lastModifiedDate", ">=", "2026-11-20T10:00:00Z"),))
            )
        )

    assert ["Now"] == with_account(test)


@pytest.mark.element("sageone", "refresh")
def test_tokens_expire_and_rotate_in_the_middle_of_a_walk():
    """Five-minute tokens: the walk refreshes, saves the rotated token first, and goes on with the same page."""

    async def test(account: Account) -> tuple[list[str], int]:
        for number in range(7):
            account.sage.create(f"c{number}")
        account.clock.advance(2)
        seen: list[str] = []
        pages = account.element.read(
            account.connection, account.connection.settings, Query("customers", page_size=2)
        )
        async with aclosing(pages):
            async for page in pages:
                seen += [record["displayed_as"] for record in page.records]
                account.clock.advance(301)
        return seen, len(account.saved)

    seen, refreshes = with_account(test)

    assert [f"c{number}" for number in range(7)] == seen
    assert 3 == refreshes


def test_a_page_past_the_end_does_not_repeat():
    """Sage answers a number past the end with the last page again; without its $next and $total the walk ends too."""

    async def test(account: Account) -> list[str]:
        for number in range(4):
            account.sage.create(f"c{number}")
        text = (HERE / "sageone" / "definition.toml").read_text(encoding="utf-8")
        blind = parse(
            text.replace(', more = "$next", total = "$total"', "", 1), Path("sageone.toml")
        ).beside(account.origin)
        settings = account.connection.settings
        return names(
            await collect(blind.read(account.connection, settings, Query("customers", page_size=2)))
        )

    assert ["c0", "c1", "c2", "c3"] == with_account(test)


@pytest.mark.element("sageone", "deleted")
def test_deleted_customers_come_from_their_channel():
    """deleted_since names what was deleted, of the right type; a second of overlap makes up for its being exclusive."""

    async def test(account: Account) -> tuple[list[str], bool | None, bool | None]:
        kept, gone = account.sage.create("Kept"), account.sage.create("Gone")
        account.sage.delete(account.sage.create("Supplier", kind="VENDOR")["id"])
        account.clock.advance(60)
        account.sage.delete(gone["id"])
        pages = await collect(
            account.element.deletions(
                account.connection,
                account.connection.settings,
                "customers",
                START + timedelta(seconds=59),
            )
        )
        asked = [
            await account.element.gone(
                account.connection, account.connection.settings, "customers", one["id"]
            )
            for one in (gone, kept)
        ]
        return names(pages), asked[0], asked[1]

    assert (["Gone"], True, False) == with_account(test)


def test_any_other_list_can_be_polled():
    """The documents say to copy the configuration for other resources: any list below the base is one."""
    sageone = load().get("sageone")
    sageone.check_query(
        Query("ledger_accounts", (Condition("updated_at", ">=", "2026-11-20T10:00:00Z"),))
    )

    assert "ledger_accounts" not in sageone.resources


def test_a_code_is_good_once():
    """The second exchange of one code is refused, as Sage does."""

    async def main() -> None:
        sage = Sage()
        async with sage.running() as origin, Client() as client:
            element = built_in("sageone").beside(origin)
            code = sage.grant()
            await element.exchange(client, {}, code, {})
            with pytest.raises(Unauthorized, match="used before"):
                await element.exchange(client, {}, code, {})

    asyncio.run(main())


@pytest.mark.element("sageone", "OAuth")
def test_a_person_grants_access_and_the_application_gets_the_code():
    """The authorize address redirects to the application with a code that the exchange accepts for it only."""
    import aiohttp

    async def main() -> dict[str, str]:
        sage = Sage()
        async with sage.running() as origin, Client() as client, aiohttp.ClientSession() as browser:
            element = built_in("sageone").beside(origin)
            settings = {
                "oauth.api.key": "id",
                "oauth.callback.url": f"{origin}/back",
                "country": "US",
            }
            url = element.authorize_url(settings, state="s1")
            async with browser.get(url, allow_redirects=False) as answer:
                back = aiohttp.client.URL(answer.headers["Location"])
            assert {
                "filter": "apiv3.1",
                "country": "US",
                "scope": "readonly",
            }.items() <= aiohttp.client.URL(url).query.items()
            assert "s1" == back.query["state"]
            with pytest.raises(Unauthorized):
                await element.exchange(
                    client, {"oauth.callback.url": "https://other"}, back.query["code"], {}
                )
            async with browser.get(url, allow_redirects=False) as answer:
                back = aiohttp.client.URL(answer.headers["Location"])
            return await element.exchange(client, settings, back.query["code"], {})

    assert {"oauth.user.token", "oauth.user.refresh_token", "oauth.user.refresh_interval"} == set(
        asyncio.run(main())
    )


def test_a_wrong_subscription_key_is_unauthorized():
    """The Ocp-Apim-Subscription-Key header carries the instance's key."""

    async def test(account: Account) -> None:
        settings = {**account.connection.settings, "apim.subscription.key": "wrong"}
        with pytest.raises(Unauthorized, match="subscription key"):
            await collect(account.element.read(account.connection, settings, Query("customers")))

    with_account(test)


@pytest.mark.element("sageone", "rate limit")
def test_sages_refusals_are_told_apart():
    """429 waits as long as Sage says; a bad request is for a person."""

    async def test(account: Account) -> float | None:
        account.sage.fail(429, retry_after="7")
        with pytest.raises(Transient) as caught:
            await account.read(Query("customers"))
        account.sage.fail(400)
        with pytest.raises(Refused):
            await account.read(Query("customers"))
        return caught.value.retry_after

    assert 7.0 == with_account(test)


@pytest.mark.parametrize(
    "resource", ["contacts", "sales_invoices", "purchase_invoices", "contact_payments", "products"]
)
def test_every_described_list_is_read(resource: str):
    """Invoices, payments and products are read as contacts are: since a moment, with all their attributes."""

    async def test(account: Account) -> list[str]:
        account.sage.add(resource, reference="old", name="old")
        account.clock.advance(60)
        account.sage.add(resource, reference="new", name="new")
        condition = Condition("lastModifiedDate", ">=", "2026-11-20T10:00:30Z")
        [page] = await account.read(Query(resource, (condition,)))
        return [record["reference"] for record in page.records]

    assert ["new"] == with_account(test)


@pytest.mark.parametrize("resource", ["products", "contact_payments", "ledger_accounts"])
def test_lists_that_cannot_be_asked_have_no_deletes(resource: str):
    """Not every list knows deleted_since: where it does not, no channel is asked and no inventory taken."""

    async def test(account: Account) -> tuple[object, object]:
        settings = account.connection.settings
        return (
            account.element.deletions(account.connection, settings, resource, START),
            account.element.inventory(account.connection, settings, resource),
        )

    assert (None, None) == with_account(test)


@pytest.mark.parametrize("size_name", ["$itemsPerPage", "$items_per_page"])
def test_both_spellings_of_a_pages_size_are_read(size_name: str):
    """Sage's own pages have both; neither is needed to go on."""

    async def test(account: Account) -> list[str]:
        for number in range(5):
            account.sage.create(f"c{number}")
        account.clock.advance(2)
        return names(await account.read(Query("customers", page_size=2)))

    assert ["c0", "c1", "c2", "c3", "c4"] == with_account(test, size_name=size_name)


@pytest.mark.parametrize("what", ["delete", "rename", "both"])
def test_rows_that_slip_to_a_page_already_read_are_not_missed(what: str):
    """Pages are numbered: when one before is gone, or has another name, the next page begins a row too late."""

    async def test(account: Account) -> tuple[set[str], int]:
        made = [account.sage.create(f"c{number}") for number in range(6)]
        account.clock.advance(60)
        seen: list[str] = []
        query = Query("customers", page_size=2)
        async with aclosing(
            account.element.read(account.connection, account.connection.settings, query)
        ) as pages:
            async for page in pages:
                if not seen:
                    account.clock.advance(1)
                    if what != "rename":
                        account.sage.delete(made[0]["id"])
                    if what == "rename":
                        account.sage.update(made[0]["id"], name="z", displayed_as="z")
                    if what == "both":
                        account.sage.create("z")
                    account.clock.advance(2)
                seen += names([page])
        return set(seen), len([path for method, path in account.sage.requests if method == "GET"])

    seen, requests = with_account(test)

    assert {"c1", "c2", "c3", "c4", "c5"} <= seen
    assert 6 <= requests <= 10


def test_a_list_that_never_rests_is_left_to_the_next_poll():
    """After five walks the poll breaks off; it does not end as if all had been read."""

    async def test(account: Account) -> None:
        for number in range(6):
            account.sage.create(f"c{number}")
        account.clock.advance(60)
        with pytest.raises(Transient, match="moved 5 times"):
            await account.walk(
                Query("customers", page_size=2), lambda: account.sage.create("another")
            )

    with_account(test)


def test_a_second_change_within_a_second_shows_in_the_attributes_only():
    """Times are whole seconds: with the example's two attributes both versions look the same, with all they differ."""

    async def test(account: Account) -> list[bool]:
        made = account.sage.create("Cust", reference="one")
        equal = []
        for attributes in ("created_at,updated_at", "all"):
            query = Query("customers", (Condition("attributes", "=", attributes),))
            [first] = await account.read(query)
            account.sage.update(made["id"], reference=f"two {attributes}")
            [second] = await account.read(query)
            equal.append(fingerprint(first.records[0]) == fingerprint(second.records[0]))
        return equal

    assert [True, False] == with_account(test)


def test_a_token_taken_back_in_the_middle_of_a_walk_ends_it():
    """The walk breaks off: what it has read so far is not taken for all there is."""

    async def test(account: Account) -> list[str]:
        for number in range(5):
            account.sage.create(f"c{number}")
        with pytest.raises(Unauthorized):
            await account.walk(Query("customers", page_size=2), account.sage.revoke)
        return names(account.seen)

    assert ["c0", "c1"] == with_account(test)


def test_idle_tokens_are_kept_alive():
    """A refresh token dies after 31 days: it is used every week."""
    assert timedelta(days=7).total_seconds() == load().get("sageone").keep_alive


def test_faults_can_be_asked_for_over_http():
    """429 with Retry-After, 500 and slowness, as an integrator asks for them, each for so many requests."""
    import aiohttp

    async def main() -> list[tuple[int, str | None]]:
        sage = Sage()
        async with sage.running() as origin, aiohttp.ClientSession() as browser:
            for asked in (
                {"status": 429, "retry_after": "3"},
                {"status": 500, "times": 2},
                {"slow": 0},
            ):
                async with browser.post(f"{origin}/simulator/fail", json=asked) as answer:
                    assert 204 == answer.status
            async with browser.post(
                f"{origin}/simulator/suppliers", json={"name": "Sup"}
            ) as answer:
                supplier = await answer.json()
            async with browser.delete(f"{origin}/simulator/suppliers/{supplier['id']}") as answer:
                assert 204 == answer.status
            seen = []
            for _ in range(4):
                async with browser.get(f"{origin}/v3.1/contacts") as answer:
                    seen.append((answer.status, answer.headers.get("Retry-After")))
        assert "VENDOR" == supplier["contact_types"][0]["id"]
        return seen

    assert [(429, "3"), (500, None), (500, None), (401, None)] == asyncio.run(main())
