"""The quickbooks element against a simulated company: access, reading, deletes, limits."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import aiohttp
import orjson
import pytest
from elements.quickbooks.books import LINE, SETTINGS, START, Books, ids, sample, with_books

from daemon.elements import built_in, load
from daemon.elements.quickbooks.language import entity, resource_of, terms
from daemon.elements.simulators.quickbooks.company import Fault
from daemon.elements.simulators.quickbooks.server import REALM
from daemon.errors import DeletionsLost, Invalid, Refused, Transient, Unauthorized
from daemon.model import Condition, Query, Request, Response
from daemon.plans import compile_plans, fingerprint

SINCE = Query("customers", (Condition("lastModifiedDate", ">=", "2026-11-20T10:00:00Z"),))


def asked(books: Books, what: str) -> list[str]:
    """The queries that reached the API at *what*, as they were meant."""
    return [
        unquote_plus(urlsplit(path).query.replace("+", "%2B"))
        for _, path in books.server.requests
        if f"/{what}?" in path
    ]


class Recorded:
    """A connection that gives one recorded answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.urls: list[str] = []

    async def send(self, request: Request) -> Response:
        """The answer."""
        self.urls.append(request.url)
        return Response(200, {}, self.body, request.url)


# Access.


@pytest.mark.element("quickbooks", "OAuth")
def test_a_person_grants_access_and_the_realm_comes_with_the_code():
    """The code is exchanged with HTTP Basic; the realmId that came beside it is kept, and webhooks are routed by it."""

    async def test(books: Books) -> dict[str, str]:
        url = books.element.authorize_url(SETTINGS, state="s1")
        async with (
            aiohttp.ClientSession() as browser,
            browser.get(url, allow_redirects=False) as answer,
        ):
            back = parse_qs(urlsplit(answer.headers["Location"]).query)
        given = {name: values[0] for name, values in back.items()}
        assert "s1" == given["state"]
        assert "com.intuit.quickbooks.accounting" in url
        wrong = {**SETTINGS, "oauth.api.secret": "wrong"}
        with pytest.raises(Unauthorized):
            await books.element.exchange(books.client, wrong, given["code"], given)
        return await books.element.exchange(books.client, SETTINGS, given["code"], given)

    kept = with_books(test)

    assert REALM == kept["realm.id"]
    assert "realm.id" == built_in("quickbooks").routing_key
    assert {"oauth.user.token", "oauth.user.refresh_token"} <= set(kept)


@pytest.mark.parametrize(
    ("given", "configured"),
    [({"realm_id": "77"}, {}), ({}, {"realm.id": "77"}), ({}, {"quickbooks.realm.id": "77"})],
)
def test_the_realm_may_be_given_in_other_ways(given: dict[str, str], configured: dict[str, str]):
    """`realm_id` in providerData, or the configuration, will do; nothing at all is said before the code is used up."""

    async def test(books: Books) -> str:
        code = books.server.grant()
        settings = {**SETTINGS, "realm.id": "<REALM_ID>"}
        with pytest.raises(Invalid, match="realmId"):
            await books.element.exchange(books.client, settings, code, {})
        kept = await books.element.exchange(books.client, settings | configured, code, given)
        return kept["realm.id"]

    assert "77" == with_books(test)


@pytest.mark.element("quickbooks", "refresh")
def test_tokens_are_refreshed_in_the_middle_of_a_walk_and_the_rotated_one_is_kept():
    """After a day the refresh token is another; the walk goes on with the page at which the access token expired."""

    async def test(books: Books) -> tuple[list[str], list[dict[str, str]], str]:
        for number in range(5):
            books.server.create("Customer", DisplayName=f"c{number}")
            books.clock.advance(1)
        first = books.connection.settings["oauth.user.refresh_token"]
        seen: list[str] = []
        query = Query("customers", page_size=2)
        async for page in books.element.read(books.connection, books.connection.settings, query):
            seen += ids([page])
            books.clock.advance(20 * 3600)
        return seen, books.saved, first

    seen, saved, first = with_books(test)

    assert ["1", "2", "3", "4", "5"] == seen
    assert saved[0]["oauth.user.refresh_token"] == first
    assert saved[-1]["oauth.user.refresh_token"] != first


def test_a_grant_that_was_taken_back_is_unauthorized():
    """When nothing can be refreshed, a person has to grant access again."""

    async def test(books: Books) -> None:
        books.server.revoke()
        with pytest.raises(Unauthorized, match="invalid_grant"):
            await books.read(SINCE)

    with_books(test)


def test_idle_tokens_are_kept_alive():
    """A refresh token dies after 100 days without use: it is used every week."""
    assert timedelta(days=7).total_seconds() == built_in("quickbooks").keep_alive


def test_a_sandbox_company_has_its_own_host():
    """quickbooks.sandbox chooses the host; every request asks for JSON in the least version that is supported."""
    import asyncio

    async def urls(sandbox: str) -> list[str]:
        recorded = Recorded(sample("query.json"))
        element = built_in("quickbooks")
        settings = {"realm.id": "310687", "quickbooks.sandbox": sandbox}
        [_ async for _ in element.read(recorded, settings, Query("invoices"))]
        return recorded.urls

    [sandbox], [production] = asyncio.run(urls("true")), asyncio.run(urls("false"))

    assert sandbox.startswith("https://sandbox-quickbooks.api.intuit.com/v3/company/310687/query?")
    assert production.startswith("https://quickbooks.api.intuit.com/v3/company/310687/query?")
    assert "minorversion=75" in sandbox


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"realm.id": "../1"}, "realm.id"),
        ({"quickbooks.sandbox": "perhaps"}, "quickbooks.sandbox"),
        (
            {
                "quickbooks.id.version": "true",
                "event.poller.configuration": '{"invoices":{"url":"/hubs/finance/invoices","idField":"id"}}',
            },
            "invoices.idField",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, str], key: str):
    """Each with the key at fault: a realm that is no number, a flag that is none, an id that changes with the version."""
    with pytest.raises(Invalid, match=re.escape(key)):
        built_in("quickbooks").check_settings({**SETTINGS, **settings})


# Reading.


def test_a_record_is_as_the_platform_wrote_it():
    """Names begin small, printStatus is NOT_SET, systemId is the id; with quickbooks.id.version the id has its version."""
    import asyncio

    async def read(versioned: str) -> dict[str, Any]:
        settings = {"realm.id": "310687", "quickbooks.id.version": versioned}
        element = built_in("quickbooks")
        pages = element.read(Recorded(sample("query.json")), settings, Query("invoices"))
        [page] = [page async for page in pages]
        assert page.last
        assert "2020-02-21T16:43:39.123000+00:00" == page.asked.isoformat()
        return page.records[0]

    record = asyncio.run(read("true"))

    # What the facts show of a real notification of the platform, 2020.
    shown = {
        "balance": 10000, "id": "2|0", "allowIPNPayment": False, "systemId": "2", "printStatus": "NOT_SET",
        "salesTermRef": {"value": "3"},
    }  # fmt: skip
    assert shown.items() <= record.items()
    assert 1 == record["line"][0]["salesItemLineDetail"]["qty"]
    assert "2" == asyncio.run(read("false"))["id"]


@pytest.mark.element("quickbooks", "polling")
def test_the_elements_own_configuration_reads_what_changed():
    """Without a poller configuration six resources are polled; ids and both dates are found, dates in UTC."""

    async def test(books: Books) -> list[list[str]]:
        books.server.create("Customer", DisplayName="Before")
        books.clock.advance(3600)
        books.server.create("Customer", DisplayName="New & Co")
        books.invoice()
        plans = {p.resource: p for p in compile_plans({}, books.element.poller_defaults)}
        assert ["customers", "vendors", "products", "invoices", "bills", "payments"] == list(plans)
        read = []
        for plan in (plans["customers"], plans["invoices"], plans["bills"]):
            query = plan.query(START + timedelta(seconds=1), START + timedelta(hours=2))
            books.element.check_query(query)
            pages = await books.read(query)
            for record in pages[0].records:
                assert plan.updated(record) == plan.created(record) == books.clock()
            read.append([plan.object_id(record) or "" for record in pages[0].records])
        return read

    assert [["2"], ["1"], []] == with_books(test)


def test_a_plus_in_a_date_reaches_intuit_as_a_plus():
    """A date with an offset is the same moment at Intuit: the + is escaped, and the moment written in UTC."""

    async def test(books: Books) -> tuple[list[str], list[str]]:
        books.server.create("Customer", DisplayName="A")
        query = Query(
            "customers", (Condition("metaData.lastUpdateTime", ">=", "2026-11-20T15:30:00+05:30"),)
        )
        found = ids(await books.read(query))
        query = Query("customers", (Condition("displayName", "=", "A+B & 'C'"),))
        await books.read(query)
        return found, asked(books, "query")

    found, queries = with_books(test)

    assert ["1"] == found
    assert "MetaData.LastUpdatedTime >= '2026-11-20T10:00:00Z'" in queries[0]
    assert r"DisplayName = 'A+B & \'C\''" in queries[1]


def test_inactive_names_are_read_unless_the_question_says_which():
    """A customer made inactive is an update that a poll sees; `active = true` in the where leaves it out."""

    async def test(books: Books) -> list[list[str]]:
        books.server.create("Customer", DisplayName="On")
        books.server.create("Customer", DisplayName="Off")
        books.server.update("Customer", "2", Active=False)
        active = Query("customers", (Condition("active", "=", "true"),))
        return [ids(await books.read(one)) for one in (SINCE, active)] + [
            await books.inventory("customers")
        ]

    assert [["1", "2"], ["1"], ["1", "2"]] == with_books(test)


def test_records_that_move_while_they_are_read_are_not_missed():
    """A record that changes during the walk goes to its end; the next page begins at a time, not at a position."""

    async def test(books: Books) -> list[str]:
        for number in range(7):
            books.server.create("Customer", DisplayName=f"c{number}")
            books.clock.advance(1)
        seen: list[str] = []
        query = Query("customers", SINCE.conditions, page_size=3)
        async for page in books.element.read(books.connection, books.connection.settings, query):
            if not seen:
                books.server.update("Customer", "1", Notes="moved")
                books.server.update("Customer", "2", Notes="moved")
            seen += ids([page])
        return seen

    seen = with_books(test)

    assert {"1", "2", "3", "4", "5", "6", "7"} == set(seen)
    assert ["1", "2"] == seen[-2:]


def test_equal_times_are_read_through_even_when_they_move():
    """More records of one second than a page holds are read by position; when one leaves, the second is read again."""

    async def test(books: Books) -> tuple[list[str], int]:
        for number in range(8):
            books.server.create("Customer", DisplayName=f"c{number}")
        books.clock.advance(5)
        seen: list[str] = []
        query = Query("customers", SINCE.conditions, page_size=3)
        async for page in books.element.read(books.connection, books.connection.settings, query):
            if not seen:
                books.server.update("Customer", "2", Notes="moved")
            seen += ids([page])
        return seen, len(asked(books, "query"))

    seen, requests = with_books(test)

    assert {str(number) for number in range(1, 9)} == set(seen)
    assert 9 == len(seen)  # the second time the one that changed
    assert requests < 12


def test_a_second_change_within_the_same_second_is_read():
    """Times are whole seconds: the question includes the second itself, and the record is another than before."""

    async def test(books: Books) -> tuple[bytes, bytes]:
        books.server.create("Customer", DisplayName="A")
        [first] = await books.read(SINCE)
        books.server.update("Customer", "1", Notes="again")
        [second] = await books.read(SINCE)
        return fingerprint(first.records[0]), fingerprint(second.records[0])

    first, second = with_books(test)

    assert first != second


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (Query("unicorns"), "quickbooks has no 'unicorns'"),
        (Query("invoices", (Condition("a", "=", "1"), Condition("b", "=", "2", "OR"))), "OR"),
        (Query("invoices", (Condition("a", "!=", "1"),)), "no operator"),
        (Query("invoices", (Condition("lastModifiedDate", ">=", "soon"),)), "no date"),
        (Query("invoices", (Condition("a b", "=", "1"),)), "no name"),
        (Query("invoices", parameters=(("minorversion", "4"),)), "minorversion"),
    ],
)
def test_what_intuits_language_cannot_say_is_refused(query: Query, sentence: str):
    """When it is configured, with a sentence; and a poll that asks all the same is refused."""
    quickbooks = load().get("quickbooks")

    with pytest.raises(Invalid, match=sentence):
        quickbooks.check_query(query)
    with pytest.raises(Refused):
        quickbooks.read(Recorded(b"{}"), {}, query)


def test_conditions_are_written_in_intuits_language():
    """Fields in the platform's spelling, lists, flags and numbers."""
    found = terms(
        (
            Condition("balance", ">", "0"),
            Condition("active", "IN", "true, false"),
            Condition("docNumber", "IN", "'a','it''s'"),
            Condition("billAddr.city", "LIKE", "San%"),
            Condition("createdDate", "<", "1795168800000"),
        )
    )

    assert [
        "Balance > '0'",
        "Active IN (true, false)",
        r"DocNumber IN ('a', 'it\'s')",
        "BillAddr.City LIKE 'San%'",
        "MetaData.CreateTime < '2026-11-20T10:00:00Z'",
    ] == [str(one) for one in found]


def test_resources_and_entities_have_one_anothers_names():
    """Every described resource leads to an entity and back, and the entity's own name is understood too."""
    for resource in built_in("quickbooks").resources:
        assert resource == resource_of(entity(resource).lower())
        assert entity(resource) == entity(entity(resource))
    assert "Item" == entity("items")
    assert "Account" == entity("accounts")


# Deletes.


@pytest.mark.element("quickbooks", "deleted")
def test_deleted_transactions_come_from_change_data_capture():
    """The CDC names what was deleted, of the right kind and since the moment; what merely changed is not among it."""

    async def test(books: Books) -> tuple[list[str], list[str]]:
        early, late, kept = books.invoice(), books.invoice(), books.invoice()
        books.server.delete("Invoice", early)
        books.clock.advance(60)
        books.server.delete("Invoice", late)
        books.server.update("Invoice", kept, DocNumber="7")
        found = await books.deleted("invoices", START + timedelta(seconds=30))
        return found, asked(books, "cdc")

    found, questions = with_books(test)

    assert ["2"] == found
    assert "changedSince=2026-11-20T10:00:30Z" in questions[0]


def test_a_recorded_capture_is_read():
    """Deleted objects have no creation time and no version; an empty answer for an entity is {}."""
    import asyncio

    async def read() -> list[tuple[str, bool]]:
        element = built_in("quickbooks", now=lambda: START)
        pages = element.deletions(
            Recorded(sample("cdc.json")), {"realm.id": "1"}, "payments", START - timedelta(days=1)
        )
        assert pages is not None
        return [
            (one["id"], element.deleted("payments", one))
            async for page in pages
            for one in page.records
        ]

    assert [("2359", True)] == asyncio.run(read())


def test_a_full_capture_is_followed_to_its_end():
    """1,000 objects may not be all: the CDC is asked again from the latest that it showed."""

    async def test(books: Books) -> tuple[list[str], int]:
        for number in range(1200):
            books.invoice(DocNumber=str(number))
            if number % 100 == 99:
                books.clock.advance(1)
        books.server.delete("Invoice", "1150")
        found = await books.deleted("invoices", START)
        return found, len(asked(books, "cdc"))

    assert (["1150"], 2) == with_books(test)


def test_a_capture_that_left_out_its_beginning_is_not_taken_for_whole():
    """Where the CDC keeps the latest 1,000 it shows nothing new when asked again: deleted ones may be missing."""

    async def test(books: Books) -> None:
        # What it leaves out are deletions and nothing else: no count of a query could give that away.
        early = [books.invoice() for _ in range(200)]
        for one in early:
            books.server.delete("Invoice", one)
        for number in range(1000):
            if number % 100 == 0:
                books.clock.advance(1)
            books.invoice(DocNumber=str(number))
        books.server.newest_first = True
        with pytest.raises(DeletionsLost, match="its latest 1000 changes only"):
            await books.deleted("invoices", START)

    with_books(test)


def test_what_the_capture_does_not_show_is_found_by_an_inventory():
    """Beyond 30 days the channel says that it is not all, five entities it does not know: there is a complete list."""

    async def test(books: Books) -> list[str]:
        settings = books.connection.settings
        for resource in ("time-activities", "tax-agencies"):
            found = books.element.deletions(books.connection, settings, resource, START)
            assert found is None, resource
        with pytest.raises(DeletionsLost, match="30 days"):
            await books.deleted("invoices", START - timedelta(days=31))
        with pytest.raises(Fault, match="Unsupported"):
            books.server.company.captured("Invoice", "2026-10-01T00:00:00Z")
        with pytest.raises(Fault, match="Invalid Reference"):
            books.server.company.captured("TimeActivity", "2026-11-20T00:00:00Z")
        books.invoice()
        books.server.delete("Invoice", books.invoice())
        return await books.inventory("invoices")

    assert ["1"] == with_books(test)


def test_one_record_can_be_asked_for():
    """Whether it is there is a query by id, inactive or not, with or without the version behind the id."""

    async def test(books: Books) -> list[bool | None]:
        books.invoice()
        books.server.create("Customer", DisplayName="A")
        books.server.update("Customer", "1", Active=False)
        return [
            await books.element.gone(books.connection, books.connection.settings, *one)
            for one in (("invoices", "1"), ("invoices", "2"), ("customers", "1|1"))
        ]

    assert [False, True, False] == with_books(test)


# Limits and faults.


@pytest.mark.element("quickbooks", "rate limit")
def test_throttled_the_poller_waits_a_minute():
    """429 comes without Retry-After and means 60 seconds; a Retry-After is obeyed, and other trouble has no time."""

    async def test(books: Books) -> list[float | None]:
        waits = []
        for status, retry_after in ((429, None), (429, "7"), (500, None)):
            books.server.fail(status, retry_after=retry_after)
            with pytest.raises(Transient) as caught:
                await books.read(SINCE)
            waits.append(caught.value.retry_after)
        return waits

    assert [60.0, 7.0, None] == with_books(test)


def test_five_hundred_requests_a_minute_are_answered():
    """The simulated company throttles as Intuit does, and the element leaves enough time between two requests."""

    async def test(books: Books) -> float | None:
        await books.read(SINCE)
        await books.read(SINCE)
        with pytest.raises(Transient) as caught:
            await books.read(SINCE)
        books.clock.advance(60)
        await books.read(SINCE)
        return caught.value.retry_after

    assert 60.0 == with_books(test, per_minute=2)
    assert 60 / built_in("quickbooks").pace <= 500


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        (
            b'{"Fault":{"Error":[{"Message":"m","Detail":"d","code":"4001"}]}}',
            Refused,
            "4001: m: d",
        ),
        (b'{"Fault":[]}', Refused, "cannot be read"),
        (b"<html>", Transient, "without JSON"),
        (b"{}", Refused, "QueryResponse"),
    ],
)
def test_answers_that_are_none_are_told_apart(body: bytes, error: type[Exception], sentence: str):
    """A fault in an answer of 200 is for a person; a page instead of JSON is a matter of time."""
    import asyncio

    async def read() -> None:
        element = built_in("quickbooks")
        async for _ in element.read(Recorded(body), {"realm.id": "1"}, Query("invoices")):
            pass

    with pytest.raises(error, match=sentence):
        asyncio.run(read())


def test_the_simulated_company_keeps_intuits_rules():
    """Stale versions, second names, names that cannot be deleted, statements with OR: each its own fault."""

    async def test(books: Books) -> list[str]:
        company = books.server.company
        company.create("Customer", {"DisplayName": "A"})
        tries: list[Any] = [
            lambda: company.create("Customer", {"DisplayName": "A"}),
            lambda: company.create("Customer", {}),
            lambda: company.create("Invoice", {"Line": LINE}),
            lambda: company.update("Customer", {"Id": "1", "SyncToken": "9"}),
            lambda: company.delete("Customer", {"Id": "1", "SyncToken": "0"}),
            lambda: company.get("Invoice", "1"),
            lambda: company.query("SELECT * FROM Invoice WHERE Id = '1' OR Id = '2'"),
            lambda: company.query("SELECT * FROM Unicorn"),
            lambda: company.query("SELECT * FROM Invoice MAXRESULTS 1001"),
        ]
        codes = []
        for one in tries:
            with pytest.raises(Fault) as caught:
                one()
            codes.append(caught.value.code)
        voided = company.create("Invoice", {"CustomerRef": {"value": "1"}, "Line": LINE})
        voided = company.void("Invoice", {"Id": voided["Id"], "SyncToken": "0"})
        assert (0, "1") == (voided["Balance"], voided["SyncToken"])
        return codes

    faults = with_books(test)

    assert ["6240", "2020", "2020", "5010", "500", "610", "4000", "4001", "4000"] == faults
    assert orjson.loads(sample("cdc.json"))["time"]


def test_everything_can_be_asked_for_over_http():
    """An integrator changes records, sets the webhook and asks for faults without Python and without a token."""

    async def test(books: Books) -> list[tuple[int, Any]]:
        origin = books.element.definition.connection.base
        seen = []
        async with aiohttp.ClientSession() as browser:
            for method, path, body in (
                ("POST", "Customer", {"DisplayName": "Ann"}),
                ("PUT", "customer/1", {"Active": False}),
                ("POST", "invoice", {"CustomerRef": {"value": "1"}, "Line": LINE}),
                ("DELETE", "invoice/1", None),
                ("DELETE", "customer/1", None),
                ("POST", "unicorn", {}),
                ("PUT", "webhook", {"url": "http://127.0.0.1:1/", "legacy": True}),
                ("POST", "fail", {"status": 500, "times": 2}),
                ("POST", "fail", {"slow": 0}),
                ("POST", "expire", None),
                ("GET", "deliveries", None),
            ):
                url = f"{origin}/simulator/{path}"
                async with browser.request(method, url, json=body) as answer:
                    seen.append((answer.status, await answer.text()))
        for _ in range(2):
            with pytest.raises(Transient):
                await books.read(SINCE)
        assert ["1"] == ids(await books.read(SINCE))
        assert books.server.posting.legacy
        return seen

    seen = with_books(test)

    assert [200, 200, 200, 200, 400, 400, 200, 204, 204, 204, 200] == [status for status, _ in seen]
    assert "Unsupported" in seen[5][1]
