"""The sfdc element against a simulated Salesforce: what a poll reads, and what it does when things go wrong."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from elements.organization import START, Account, collect, ids, names, with_account

from daemon.api.asking import refuse_unsaid
from daemon.elements import load
from daemon.elements.salesforce.api import sobject
from daemon.elements.simulators.salesforce.org import SYSTEM
from daemon.errors import DeletionsLost, Invalid, Refused, Transient
from daemon.model import Condition, Page, Query
from daemon.plans import compile_plans

STAMP = "SystemModstamp"


def test_a_poll_reads_what_changed_in_order():
    """Stamps at the moment itself are read, oldest first and by id where they are equal, with all their fields."""

    async def test(account: Account) -> None:
        simulated = account.simulated
        before = simulated.create("Contact", LastName="before")
        account.clock.advance(1)
        made = [simulated.create("Contact", LastName=name) for name in "abc"]
        account.clock.advance(1)
        simulated.update("Contact", before["Id"], Email="b@example.com")
        [page] = await account.read("Contact", (STAMP, ">=", "2026-11-20T10:00:01Z"))
        assert [*[one["Id"] for one in made], before["Id"]] == ids([page])
        assert page.last
        last = page.records[-1]
        assert "b@example.com" == last["Email"]
        assert {"type": "Contact"} == last["attributes"]
        assert "Phone" not in last
        assert last["IsDeleted"] is False

    with_account(test)


def test_aliases_and_custom_objects_are_resources():
    """The hub's names and Salesforce's own lead to the same object; a custom object needs no description."""

    async def test(account: Account) -> None:
        account.simulated.create("Contact", LastName="Ann")
        account.simulated.create("Invoice__c", Name="I-1", Total__c=12.5)
        assert ids(await account.read("contacts")) == ids(await account.read("Contact"))
        [page] = await account.read("Invoice__c", ("Total__c", ">", "12"))
        assert 12.5 == page.records[0]["Total__c"]
        with pytest.raises(Refused):
            await account.read("Nothing__c")

    with_account(test)


@pytest.mark.parametrize(
    ("resource", "name"),
    [("contacts", "Contact"), ("contact", "Contact"), ("OPPORTUNITIES", "Opportunity"), ("incidents", "Case"),
     ("Product2", "Product2"), ("Invoice__c", "Invoice__c"), ("npsp__Allocation__c", "npsp__Allocation__c")],
)  # fmt: skip
def test_names_of_resources(resource: str, name: str):
    """The hub's word for an object, or Salesforce's own, however it is written."""
    assert name == sobject(resource)


@pytest.mark.parametrize(
    "resource", ["contcts", "unheard_of", "contacts/003", "__c", "Contact; x", ""]
)
def test_what_names_no_object_is_refused_at_once(resource: str):
    """A misspelt resource is said when the instance is made, not with every poll."""
    with pytest.raises(Invalid, match="is no object's name"):
        load().get("sfdc").check_query(Query(resource))


def test_the_elements_own_configuration_polls():
    """Without a poller configuration accounts, contacts, leads and opportunities are polled, or those of event.objects."""

    async def test(account: Account) -> None:
        account.simulated.create("Account", Name="Acme")
        defaults = account.element.poller_defaults
        plans = compile_plans({}, defaults)
        assert ["Account", "Contact", "Lead", "Opportunity"] == [one.resource for one in plans]
        plans = compile_plans({"event.objects": "Contact,Account"}, defaults)
        assert ["Contact", "Account"] == [one.resource for one in plans]
        query = plans[1].query(START, START)
        account.element.check_query(query)
        [page] = await collect(
            account.element.read(account.connection, account.connection.settings, query)
        )
        assert page.records[0]["Id"] == plans[1].object_id(page.records[0])
        assert START == plans[1].updated(page.records[0]) == plans[1].created(page.records[0])

    with_account(test)


def test_batches_are_followed_and_a_forgotten_query_goes_on():
    """nextRecordsUrl leads through equal stamps; a locator that expires half-way costs nothing and repeats nothing."""

    async def test(account: Account) -> None:
        made = [account.simulated.create("Lead", LastName=f"l{n}")["Id"] for n in range(700)]
        seen: list[str] = []
        query = Query("Lead", (Condition(STAMP, ">=", "2026-11-20T10:00:00Z"),), since=START)
        pages = account.element.read(account.connection, account.connection.settings, query)
        async for page in pages:
            seen += ids([page])
            account.simulated.expire_locators()
        assert made == seen
        again = [path for path in account.asked("queryAll") if "Id%20%3E" in path]
        assert 3 == len(again), "each batch but the first was asked for behind the last record"

    with_account(test, batch=200)


@pytest.mark.element("sfdc", "refresh")
def test_a_session_that_ends_in_the_middle_of_a_walk_is_renewed():
    """401 INVALID_SESSION_ID: refreshed, saved, and the same batch asked for again; a rotated token is kept."""

    async def test(account: Account) -> None:
        made = [account.simulated.create("Lead", LastName=f"l{n}")["Id"] for n in range(5)]
        seen: list[str] = []
        query = Query("Lead", since=START)
        pages = account.element.read(account.connection, account.connection.settings, query)
        async for page in pages:
            seen += ids([page])
            account.simulated.expire_access()
        assert made == seen
        assert 4 == len(account.saved), "four more batches, each in a session of its own"
        tokens = [one["oauth.user.refresh_token"] for one in account.saved]
        assert 4 == len(set(tokens))

    with_account(test, batch=1, rotate=True)


def test_more_fields_than_an_address_holds_are_all_read():
    """An object with hundreds of custom fields is read by FIELDS(ALL), 200 records at a time, none twice."""
    many = {f"A_rather_long_name_of_a_field_{n}__c": "string" for n in range(400)}

    async def test(account: Account) -> None:
        made = [account.simulated.create("Wide__c", Name=f"w{n}")["Id"] for n in range(450)]
        account.simulated.update("Wide__c", made[0], **{next(iter(many)): "there"})
        pages = await account.read("Wide__c", (STAMP, ">=", "2026-11-20T10:00:00Z"))
        assert made == ids(pages)
        assert "there" == pages[0].records[0][next(iter(many))]
        assert [200, 200, 50] == [len(page.records) for page in pages]
        assert [False, False, True] == [page.last for page in pages]

    with_account(test, objects={"Wide__c": ("a01", SYSTEM | {"Name": "string"} | many)})


def test_fields_says_what_a_record_holds():
    """fields= narrows the record to those and the ones that polling needs; a field that is not there is named."""

    async def test(account: Account) -> None:
        account.simulated.create("Contact", LastName="Ann", Email="a@example.com", Phone="1")
        [page] = await account.read("contacts", fields="email")
        assert {
            "attributes",
            "Id",
            "CreatedDate",
            "LastModifiedDate",
            STAMP,
            "IsDeleted",
            "Email",
        } == set(page.records[0])
        with pytest.raises(Refused, match="there is no field Nothing"):
            await account.read("contacts", fields="Nothing")

    with_account(test)


def test_empty_fields_are_kept_where_they_are_wanted():
    """filter.response.nulls false keeps what is null."""

    async def test(account: Account) -> None:
        account.simulated.create("Contact", LastName="Ann")
        [page] = await account.read("contacts")
        assert page.records[0]["Phone"] is None

    with_account(test, settings={"filter__response__nulls": "false"})


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([("LastName", "=", "O'Neill")], ["O'Neill"]),
        ([("LastName", "=", "x' OR Id != '")], []),
        ([("LastName", "=", "\\' OR Id != null OR LastName = \\'")], []),
        ([("LastName", "LIKE", "O%")], ["O'Neill", "Otto"]),
        ([("LastName", "IN", "'Otto','O''Neill'")], ["O'Neill", "Otto"]),
        ([("LastName", "NOT IN", "'Otto'")], ["O'Neill", "5"]),
        ([("LastName", "=", "5")], ["5"]),
        ([("Rating__c", ">=", "4.5")], ["Otto"]),
        ([("HasOptedOutOfEmail", "=", "true")], ["Otto"]),
        ([("Birthdate", "<", "1980-01-01")], ["O'Neill"]),
        ([("Birthdate", "IS NULL", "")], ["Otto", "5"]),
        ([("lastmodifieddate", ">", "1795168800000")], []),
        ([("LastModifiedDate", ">=", "2026-11-20T11:00:00+01:00")], ["O'Neill", "Otto", "5"]),
    ],
)  # fmt: skip
def test_conditions_become_soql_of_the_right_types(conditions: Any, found: list[str]):
    """Each value is written as its field's type wants it, and stays a value whatever it holds."""

    async def test(account: Account) -> None:
        create = account.simulated.create
        create("Contact", LastName="O'Neill", Birthdate="1952-10-20", Rating__c=1)
        create("Contact", LastName="Otto", Rating__c=4.5, HasOptedOutOfEmail=True)
        create("Contact", LastName="5")
        assert found == names(await account.read("contacts", *conditions))

    with_account(test)


def test_or_and_and_do_not_mix():
    """SOQL refuses AND beside OR without parentheses: alternatives are put into them."""

    async def test(account: Account) -> None:
        for name, rating in (("a", 1), ("a", 2), ("b", 1)):
            account.simulated.create("Contact", LastName=name, Rating__c=rating)
        query = Query(
            "contacts",
            (Condition("LastName", "=", "a"), Condition("Rating__c", "=", "2"), Condition("LastName", "=", "b", "OR")),
        )  # fmt: skip
        pages = await collect(
            account.element.read(account.connection, account.connection.settings, query)
        )
        assert ["a", "b"] == names(pages)

    with_account(test)


def test_what_cannot_be_asked_is_said_before_it_is_asked():
    """Unknown parameters, names that are none and operators that are none are refused with a sentence each."""
    sfdc = load().get("sfdc")
    with pytest.raises(Invalid) as caught:
        sfdc.check_query(
            Query(
                "contacts/17",
                (Condition("Name) FROM User--", "=", "x"),),
                (("fields", "Id FROM User"), ("search", "x"), ("orderBy", "Name sideways")),
            )
        )

    assert {"resource", "fields", "search", "orderBy"} <= set(caught.value.problems)
    with pytest.raises(Invalid, match="cannot be the name of a field"):
        sfdc.check_query(Query("contacts", (Condition("Name) FROM User--", "=", "x"),)))


def test_a_poll_sees_the_recycle_bin_and_a_person_does_not():
    """With `since` deleted records come marked, from queryAll; a question without it gets what exists."""

    async def test(account: Account) -> None:
        kept = account.simulated.create("Contact", LastName="kept")
        gone = account.simulated.create("Contact", LastName="gone")
        account.simulated.delete("Contact", gone["Id"])
        [page] = await account.read("Contact")
        marks = {one["Id"]: account.element.deleted("Contact", one) for one in page.records}
        assert {kept["Id"]: False, gone["Id"]: True} == marks
        assert [kept["Id"]] == ids(await account.read("Contact", since=None))
        account.clock.advance(1)
        account.simulated.undelete("Contact", gone["Id"])
        [page] = await account.read("Contact", (STAMP, ">", "2026-11-20T10:00:00Z"))
        assert not account.element.deleted("Contact", page.records[0])

    with_account(test)


def test_what_is_deleted_for_good_comes_from_the_log():
    """getDeleted knows what never was in the recycle bin; nothing from before the moment asked for is told."""

    async def test(account: Account) -> None:
        old, hard, soft = (account.simulated.create("Contact", LastName=name) for name in "abc")
        account.simulated.delete("Contact", old["Id"], hard=True)
        account.clock.advance(30)
        since = account.clock()
        account.simulated.delete("Contact", hard["Id"], hard=True)
        account.simulated.delete("Contact", soft["Id"])
        assert [] == await account.deletions("Contact", since), (
            "less than two minutes cannot be asked for"
        )
        account.clock.advance(120)
        assert {hard["Id"], soft["Id"]} == set(ids(await account.deletions("Contact", since)))
        account.simulated.undelete("Contact", soft["Id"])
        assert [hard["Id"]] == ids(await account.deletions("Contact", since))

    with_account(test)


def test_after_a_long_absence_the_inventory_decides():
    """Past 14 days the log is not relied on: what it has is told, and that all ids have to be compared as well."""

    async def test(account: Account) -> None:
        element, settings = account.element, account.connection.settings
        made = {account.simulated.create("Contact", LastName=f"c{n}")["Id"] for n in range(450)}
        long_ago = START - timedelta(days=20)
        pages = await collect(element.inventory(account.connection, settings, "Contact"))
        assert made == set(ids(pages))
        assert 3 == len(pages)
        without = {**settings, "sfdc.inventory": "false"}
        assert element.inventory(account.connection, without, "Contact") is None
        one = made.pop()
        account.simulated.delete("Contact", one, hard=True)
        account.clock.advance(60)
        pages, lost = await until_lost(account, long_ago)
        assert [one] == ids(pages)
        assert "log of deletions begins at" in lost
        assert await element.gone(account.connection, settings, "Contact", one)
        assert not await element.gone(account.connection, settings, "Contact", made.pop())

    with_account(test, batch=200)


def test_a_log_that_was_purged_is_read_from_where_it_begins():
    """INVALID_REPLICATION_DATE: what the log still has is told, and that it is not all."""

    async def test(account: Account) -> None:
        one = account.simulated.create("Contact", LastName="one")
        account.simulated.delete("Contact", one["Id"], hard=True)
        account.clock.advance(600)
        account.simulated.org.log_begins = lambda: START - timedelta(hours=1)
        pages, lost = await until_lost(account, START - timedelta(days=3))
        assert [one["Id"]] == ids(pages)
        assert "log of deletions begins at" in lost

    with_account(test)


async def until_lost(account: Account, since: datetime) -> tuple[list[Page], str]:
    """What the log of deletions tells before it says that it is not all, and how it says that."""
    pages: list[Page] = []
    told = account.element.deletions(
        account.connection, account.connection.settings, "Contact", since
    )
    assert told is not None
    try:
        async for page in told:
            pages.append(page)  # noqa: PERF401 — what came before the error counts
    except DeletionsLost as error:
        return pages, str(error)
    pytest.fail("it does not say so")


def test_a_long_transaction_holds_the_cursor_back():
    """While the log is complete only up to long ago the poll counts as broken off, after what it found was told."""

    async def test(account: Account) -> None:
        gone = account.simulated.create("Contact", LastName="gone")
        account.clock.advance(60)
        account.simulated.delete("Contact", gone["Id"])
        account.simulated.create("Contact", LastName="late", late=7200)
        account.clock.advance(3600)
        told = account.element.deletions(
            account.connection, account.connection.settings, "Contact", START
        )
        assert told is not None
        page = await anext(told)
        assert [gone["Id"]] == ids([page])
        with pytest.raises(Transient, match="a long transaction is open"):
            await anext(told)

    with_account(test)


@pytest.mark.element("sfdc", "rate limit")
def test_the_limit_of_requests_is_waited_for():
    """REQUEST_LIMIT_EXCEEDED is no refusal but a wait of a quarter of an hour; so is the share that is left to others."""

    async def test(account: Account) -> None:
        account.simulated.used = 1000
        with pytest.raises(Transient) as caught:
            await account.read("Contact")
        assert 900.0 == caught.value.retry_after
        account.simulated.used = 960
        with pytest.raises(Transient, match="961 of the organization's 1000") as caught:
            await account.read("Contact")
        assert 900.0 == caught.value.retry_after
        account.use({**account.connection.settings, "sfdc.api.limit": "100"})
        await account.read("Contact")

    with_account(test, allowance=1000)


def test_failures_are_told_apart():
    """A busy server and a locked row pass; a person must look at the rest; Retry-After is obeyed."""

    async def test(account: Account) -> None:
        account.simulated.fail(503, code="SERVER_UNAVAILABLE", retry_after="7")
        with pytest.raises(Transient) as caught:
            await account.read("Contact")
        assert 7.0 == caught.value.retry_after
        account.simulated.fail(400, code="QUERY_TIMEOUT")
        with pytest.raises(Transient):
            await account.read("Contact")
        account.simulated.fail(403, code="API_DISABLED_FOR_ORG")
        with pytest.raises(Refused, match="API_DISABLED_FOR_ORG"):
            await account.read("Contact")

    with_account(test)


def test_orders_of_a_persons_own_are_kept():
    """orderBy is passed on; such a query cannot go on where it was forgotten, and says so."""

    async def test(account: Account) -> None:
        for name in "bca":
            account.simulated.create("Contact", LastName=name)
        assert ["c", "b", "a"] == names(await account.read("contacts", orderBy="LastName desc"))
        query = Query("contacts", (), (("orderBy", "LastName"),))
        pages = account.element.read(account.connection, account.connection.settings, query)
        await anext(pages)
        account.simulated.expire_locators()
        with pytest.raises(Transient, match="forgotten"):
            await anext(pages)

    with_account(test, batch=1)


def test_a_persons_question_is_the_first_request():
    """Without describe: an unfit value is found out by Salesforce, and then written as its field's type wants it."""

    async def test(account: Account) -> None:
        for name in ("5", "7"):
            account.simulated.create("Contact", LastName=name)
        assert ["5"] == names(await account.read("contacts", ("LastName", "=", "5"), since=None))
        assert ["query", "describe", "query"] == [
            path.split("?")[0].rpartition("/")[2] for path in account.asked("/services/data")
        ]
        account.simulated.requests.clear()
        assert ["7"] == names(
            await account.read("contacts", ("LastName", "LIKE", "7%"), since=None)
        )
        assert 1 == len(account.asked("/services/data"))
        with pytest.raises(Refused, match="No such column"):
            await account.read("contacts", ("Nothing", "=", "x"), since=None)
        await refuse_unsaid(
            account.element,
            account.connection.settings,
            Query("contacts", (Condition("LastName", "!=", "x"),), (("orderBy", "LastName"),)),
        )

    with_account(test)


def test_a_persons_question_reads_to_the_end():
    """By id, 200 records at a time, or in an order of its own as far as Salesforce can pass over."""

    async def test(account: Account) -> None:
        made = [account.simulated.create("Lead", LastName=f"{n:04}")["Id"] for n in range(2500)]
        assert made == ids(await account.read("leads", since=None))
        query = Query("leads", (), (("orderBy", "LastName desc"),))
        seen: list[str] = []
        pages = account.element.read(account.connection, account.connection.settings, query)
        for _ in range(11):
            seen += ids([await anext(pages)])
        with pytest.raises(Refused, match="ask for less"):
            await anext(pages)
        assert made[::-1][:2200] == seen

    with_account(test)


def test_two_readers_do_not_meet():
    """Walks through two objects at a time keep to themselves."""

    async def test(account: Account) -> None:
        for number in range(9):
            account.simulated.create("Contact", LastName=f"c{number}")
            account.simulated.create("Lead", LastName=f"l{number}")
        contacts, leads = await asyncio.gather(account.read("Contact"), account.read("Lead"))
        assert {"Contact"} == {
            one["attributes"]["type"] for page in contacts for one in page.records
        }
        assert 9 == len(ids(leads))

    with_account(test, batch=2)


def test_a_page_is_dated_by_the_provider():
    """A page says when Salesforce answered, by its own clock."""

    async def test(account: Account) -> None:
        [page] = await account.read("Contact")
        assert START == page.asked

    with_account(test)
