"""The hubspot element against a simulated HubSpot: credentials, searches and their traps, deletions."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.elements import built_in
from daemon.elements.connection import Connection
from daemon.elements.hubspot.element import HubSpot as Element
from daemon.elements.simulators.hubspot.server import PRIVATE_TOKEN, HubSpot
from daemon.elements.simulators.ledger import Clock
from daemon.errors import Invalid, Refused, Transient, Unauthorized
from daemon.model import Condition, Json, Page, Query
from daemon.outbound.client import Client
from daemon.plans import compile_plans

START = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
TOKEN = {"hubspot.access.token": PRIVATE_TOKEN}
APP = {
    "oauth.api.key": "client",
    "oauth.api.secret": "hubspot-secret",
    "oauth.callback.url": "https://app.example/back",
}
UNFILLED = {
    "authentication.type": "oauth2 OR apiKey",
    "oauth.callback.url": "<OAUTH2_ONLY_CALLBACK_URL>",
    "oauth.api.key": "<OAUTH2_ONLY_CONSUMER_KEY>",
    "oauth.api.secret": "<OAUTH2_ONLY_CONSUMER_SECRET>",
    "hubspot.authorization.apikey": "<API_KEY_ONLY_HAPIKEY>",
    "create.bulk.properties": "false",
    "filter.response.nulls": "true",
}
# The configuration of the mission's example: contacts, under another name.
EXAMPLE = {
    "event.poller.configuration": {
        "accounts": {
            "url": "/hubs/crm/contacts?where=lastmodifieddate='${date}'",
            "idField": "vid",
            "filterByUpdatedDate": True,
            "datesConfiguration": {
                "updatedDateField": "properties.lastmodifieddate",
                "updatedDateFormat": "milliseconds",
                "createdDateField": "properties.createdate",
                "createdDateFormat": "milliseconds",
                "createdCheckTolerance": 10,
            },
        }
    }
}


async def collect(pages: AsyncGenerator[Page] | None) -> list[Page]:
    """All pages."""
    assert pages is not None
    async with aclosing(pages):
        return [page async for page in pages]


def records(pages: list[Page]) -> list[Json]:
    """The records of all pages, in order."""
    return [record for page in pages for record in page.records]


def ids(pages: list[Page]) -> list[str]:
    """The ids of all records, in order."""
    return [record["id"] for record in records(pages)]


class Account:
    """A simulated HubSpot with a clock, the element that speaks to it, and a connected instance."""

    def __init__(
        self,
        simulated: HubSpot,
        clock: Clock,
        element: Element,
        connection: Connection,
        client: Client,
    ) -> None:
        self.simulated, self.clock, self.element = simulated, clock, element
        self.connection, self.client = connection, client
        self.saved: list[dict[str, str]] = []

    def polled(self, resource: str = "contacts", *, seconds: float = 3600.0) -> Query:
        """What a poll asks for that reaches back so many *seconds*."""
        [plan] = compile_plans(
            {
                "event.poller.configuration": {
                    resource: {"url": f"/hubs/crm/{resource}?where=lastmodifieddate='${{date}}'"}
                }
            }
        )
        return plan.query(self.clock() - timedelta(seconds=seconds), self.clock())

    async def read(self, query: Query) -> list[Page]:
        """All pages."""
        return await collect(self.element.read(self.connection, self.connection.settings, query))

    async def deleted(self, resource: str = "contacts", *, seconds: float = 3600.0) -> list[str]:
        """The ids of what was deleted in the latest *seconds*."""
        since = self.clock() - timedelta(seconds=seconds)
        settings = self.connection.settings
        return ids(
            await collect(self.element.deletions(self.connection, settings, resource, since))
        )


def with_account(
    test: Callable[[Account], Any], settings: dict[str, str] | None = None, **options: Any
) -> Any:
    """Run *test* with an `Account` that has a private app's token, unless *settings* say otherwise."""

    async def main() -> Any:
        clock = Clock(START)
        simulated = HubSpot(now=clock, **options)
        async with simulated.running() as origin, Client() as client:
            element = built_in("hubspot", now=clock).beside(origin)
            assert isinstance(element, Element)
            saved: list[dict[str, str]] = []

            async def save(new: dict[str, str]) -> None:
                saved.append(new)

            connection = Connection(
                http=client, element=element, settings=settings or TOKEN, save=save
            )
            account = Account(simulated, clock, element, connection, client)
            account.saved = saved
            return await test(account)

    return asyncio.run(main())


def problems(**settings: str) -> dict[str, str]:
    """What the element finds wrong with *settings*; `__` in a name is a dot."""
    try:
        built_in("hubspot").check_settings(
            {name.replace("__", "."): value for name, value in settings.items()}
        )
    except Invalid as error:
        return error.problems
    return {}


# Credentials.


def test_an_api_key_is_refused_with_what_to_use_instead():
    """An old hapikey cannot work: the sentence names the private app's token and where to put it."""
    for kind in ("apiKey", "", "oauth2 OR apiKey"):
        [(key, sentence)] = problems(
            authentication__type=kind,
            hubspot__authorization__apikey="7d0a5f9c-0f3f-4a9b-8f27-8d5c1d2e3f40",
        ).items()
        assert "configuration.hubspot.authorization.apikey" == key
        assert "30 November 2022" in sentence
        assert "hubspot.access.token" in sentence


@pytest.mark.element("hubspot", "API key")
@pytest.mark.parametrize("key", ["hubspot.access.token", "hubspot.authorization.apikey"])
@pytest.mark.parametrize("kind", ["", "apiKey", "token", "oauth2 OR apiKey"])
def test_a_private_apps_token_reads(key: str, kind: str):
    """A token pat-… under the new key or under the old one is the bearer of every request, and needs no code."""
    settings = {**UNFILLED, key: PRIVATE_TOKEN, "authentication.type": kind}

    async def test(account: Account) -> None:
        account.element.check_settings(settings)
        made = account.simulated.create("contacts", email="ann@example.com")
        assert [made["id"]] == ids(await account.read(account.polled()))
        brought = await account.element.exchange(account.client, settings, "some code", {})
        assert {} == brought
        account.simulated.private_tokens.clear()
        with pytest.raises(Unauthorized):
            await account.read(account.polled())

    with_account(test, settings)


def test_what_is_still_a_placeholder_is_asked_for_by_the_polls():
    """The example's body as it stands is taken; until it is filled in, reading says what is missing."""
    assert {} == problems(**{key.replace(".", "__"): value for key, value in UNFILLED.items()})

    async def test(account: Account) -> None:
        brought = await account.element.exchange(
            account.client, UNFILLED, "<AUTHORIZATION_GRANT_CODE>", {}
        )
        assert {} == brought
        with pytest.raises(Refused, match=r"providerData\.code.*hubspot\.access\.token"):
            await account.read(account.polled())
        with pytest.raises(Refused, match="no access"):
            await account.deleted()

    with_account(test, UNFILLED)


def test_missing_credentials_are_named():
    """Nothing at all, half an app, a token that was chosen and not given, webhooks without a secret: each has its sentence."""
    assert {"configuration.hubspot.access.token"} == problems().keys()
    assert {"configuration.hubspot.access.token"} == problems(authentication__type="token").keys()
    assert {"configuration.oauth.api.secret", "configuration.oauth.callback.url"} == problems(
        oauth__api__key="client"
    ).keys()
    assert {"configuration.signature.secret"} == problems(
        hubspot__access__token="pat-1", event__vendor__type="webhooks"
    ).keys()
    assert {} == problems(signature__secret="s", event__vendor__type="webhooks")
    assert {"configuration.authentication.type"} == problems(authentication__type="basic").keys()
    assert {"configuration.hubspot.portal.id"} == problems(
        hubspot__access__token="pat-1", hubspot__portal__id="mine"
    ).keys()
    assert {"configuration.filter.response.nulls"} == problems(
        hubspot__access__token="pat-1", filter__response__nulls="maybe"
    ).keys()


@pytest.mark.element("hubspot", "OAuth")
def test_a_code_brings_tokens_and_the_hub_id():
    """The code is traded at the dated token address, and the account's number is kept for webhooks."""

    async def test(account: Account) -> None:
        redirect = APP["oauth.callback.url"]
        url = account.element.authorize_url(APP, state="s1")
        assert "crm.objects.contacts.read" in url
        code = account.simulated.grant(redirect)
        kept = await account.element.exchange(account.client, APP, code, {})
        assert "62515" == kept["hubspot.portal.id"]
        assert {"oauth.user.token", "oauth.user.refresh_token"} < kept.keys()
        assert ("POST", "/oauth/2026-03/token") in account.simulated.requests

    with_account(test, APP)


@pytest.mark.element("hubspot", "refresh")
@pytest.mark.parametrize("options", [{}, {"rotating": True}])
def test_tokens_expire_in_the_middle_of_a_walk(options: dict[str, bool]):
    """After 30 minutes the token is refreshed, kept before it is used, and the walk goes on with the same page."""

    async def test(account: Account) -> None:
        code = account.simulated.grant()
        kept = await account.element.exchange(account.client, APP, code, {})
        account.connection.adopt({**APP, **kept})
        made = [account.simulated.create("contacts")["id"] for _ in range(7)]
        seen: list[str] = []
        pages = account.element.read(
            account.connection, account.connection.settings, Query("contacts", page_size=2)
        )
        async with aclosing(pages):
            async for page in pages:
                seen += [record["id"] for record in page.records]
                account.clock.advance(1801)
        assert made == seen
        assert 3 == len(account.saved)
        account.simulated.revoke()
        with pytest.raises(Unauthorized):
            await account.read(Query("contacts"))

    with_account(test, APP, **options)


# Reading.


@pytest.mark.element("hubspot", "polling")
def test_the_documents_example_polls_contacts():
    """`=` means since, the id is read from vid, and ISO dates where the configuration says milliseconds."""

    async def test(account: Account) -> None:
        old = account.simulated.create("contacts", email="old@example.com")
        account.clock.advance(7200)
        new = account.simulated.create("contacts", email="new@example.com")
        account.simulated.update("contacts", old["id"], firstname="Ann")
        account.simulated.create("companies", name="Acme")
        [plan] = compile_plans(EXAMPLE, account.element.poller_defaults)
        query = plan.query(START + timedelta(seconds=1), START + timedelta(hours=3))
        account.element.check_query(query)
        found = {plan.object_id(one): one for one in records(await account.read(query))}
        assert {old["id"], new["id"]} == found.keys()
        assert int(old["id"]) == found[old["id"]]["vid"]
        assert account.clock() == plan.updated(found[old["id"]])
        assert START == plan.created(found[old["id"]])
        assert "accounts" == plan.resource

    with_account(test)


@pytest.mark.parametrize(
    ("resource", "kind", "old_id"),
    [
        ("accounts", "companies", "companyId"),
        ("companies", "companies", "companyId"),
        ("opportunities", "deals", "dealId"),
        ("deals", "deals", "dealId"),
        ("tickets", "tickets", None),
        ("products", "products", None),
        ("line_items", "line_items", None),
    ],
)
def test_every_resource_is_read_by_its_own_date(resource: str, kind: str, old_id: str | None):
    """Contacts have lastmodifieddate, all others hs_lastmodifieddate: either name in a `where` means the right one."""

    async def test(account: Account) -> None:
        account.simulated.create(kind)
        account.clock.advance(7200)
        made = account.simulated.create(kind)
        for name in ("lastmodifieddate", "hs_lastmodifieddate", "properties.updatedAt"):
            moment = (START + timedelta(seconds=1)).isoformat()
            conditions = (Condition(name, ">=", moment),)
            [record] = records(await account.read(Query(resource, conditions, since=START)))
            assert made["id"] == record["id"]
            assert record["properties"]["hs_lastmodifieddate"]
            assert old_id is None or int(made["id"]) == record[old_id]

    with_account(test)


def test_the_elements_own_configuration_polls_too():
    """An instance without a poller configuration polls contacts, accounts and deals."""

    async def test(account: Account) -> None:
        made = [account.simulated.create(one)["id"] for one in ("contacts", "companies", "deals")]
        plans = compile_plans({}, account.element.poller_defaults)
        assert ["contacts", "accounts", "deals"] == [plan.resource for plan in plans]
        for plan, wanted in zip(plans, made, strict=True):
            [record] = records(await account.read(plan.query(START, START)))
            assert wanted == plan.object_id(record)
            assert account.clock() == plan.updated(record) == plan.created(record)

    with_account(test)


def test_more_than_ten_thousand_that_share_one_moment_are_all_read():
    """A bulk update gives 10,200 records one timestamp: each is read once, though a search ends at 10,000."""

    async def test(account: Account) -> None:
        made = [account.simulated.create("contacts")["id"] for _ in range(10_200)]
        assert made == ids(await account.read(Query("contacts", since=START)))

    with_account(test)


def test_a_record_that_changes_during_the_walk_pushes_no_other_out():
    """What is edited or deleted between two pages does not shift the rest past the walk."""

    async def test(account: Account) -> None:
        made = [account.simulated.create("contacts")["id"] for _ in range(20)]
        seen: list[str] = []
        query = account.polled()
        pages = account.element.read(
            account.connection,
            account.connection.settings,
            Query(query.resource, query.conditions, page_size=5, since=query.since),
        )
        async with aclosing(pages):
            async for page in pages:
                seen += [record["id"] for record in page.records]
                account.clock.advance(1)
                if len(seen) == 5:
                    account.simulated.delete("contacts", made[0])
                    account.simulated.update("contacts", made[1], firstname="Ann")
        assert made == seen

    with_account(test)


def test_what_the_index_still_shows_though_it_is_deleted_is_left_out():
    """A lagging search does not make a deleted record look as if it were back."""

    async def test(account: Account) -> None:
        kept = account.simulated.create("contacts")
        gone = account.simulated.create("contacts")
        merged = account.simulated.create("contacts")
        account.simulated.lag(30)
        account.simulated.delete("contacts", gone["id"])
        account.simulated.merge("contacts", kept["id"], merged["id"])
        account.clock.advance(5)
        assert [kept["id"]] == ids(await account.read(account.polled()))
        assert {merged["id"], gone["id"]} != set(await account.deleted())
        account.clock.advance(30)
        assert {merged["id"], gone["id"]} == set(await account.deleted())

    with_account(test)


def test_what_the_index_still_shows_as_it_was_is_shown_as_it_is():
    """A lagging search finds a record by what it was; the poll tells what it is now, unless it asked for more than the time."""

    async def test(account: Account) -> list[str]:
        made = account.simulated.create("contacts", firstname="Ann")
        account.simulated.lag(30)
        account.simulated.update("contacts", made["id"], firstname="Bob")
        query = account.polled()
        more = Condition("firstname", "=", "Ann")
        narrower = Query("contacts", (*query.conditions, more), since=query.since)
        found = [records(await account.read(one))[0] for one in (query, narrower)]
        return [record["properties"]["firstname"] for record in found]

    assert ["Bob", "Ann"] == with_account(test)


def test_what_a_webhook_names_is_read_by_its_id():
    """Whatever the index shows: records as they are, with what the poll asks for, and those that ended marked as such."""
    [(name, entry)] = EXAMPLE["event.poller.configuration"].items()
    url = "/hubs/crm/contacts?where=lastmodifieddate='${date}'&properties=phone"
    narrower = url.replace("'${date}'", "'${date}' and firstname='Ann'")

    def configured(*urls: str) -> dict[str, str]:
        entries = {f"{name}{number}": {**entry, "url": one} for number, one in enumerate(urls)}
        return {**TOKEN, "event.poller.configuration": json.dumps(entries)}

    async def test(account: Account) -> None:
        account.simulated.lag(60)
        made = [account.simulated.create("contacts", phone="1")["id"] for _ in range(103)]
        account.simulated.merge("contacts", made[0], made[1])
        account.simulated.delete("contacts", made[2])

        def reread(settings: dict[str, str]) -> AsyncGenerator[Page] | None:
            return account.element.reread(account.connection, settings, "contacts", [*made, "x"])

        found = records(await collect(reread(configured(url))))
        assert made == [record["id"] for record in found]
        ended = {one["id"] for one in found if account.element.deleted("contacts", one)}
        assert {made[1], made[2]} == ended
        account.clock.advance(60)
        [plan] = compile_plans(configured(url))
        polled = records(await account.read(plan.query(START, START)))
        assert polled == [one for one in found if one["id"] not in ended]
        for settings in (
            configured(narrower),
            configured(url, url),
            {**TOKEN, "event.objects": "x"},
        ):
            assert reread(settings) is None

    with_account(test)


def test_properties_can_be_asked_for_and_nulls_left_out():
    """`properties` in a poller's url adds to the usual ones; filter.response.nulls says whether nulls are shown."""

    async def test(account: Account) -> tuple[Json, Json]:
        account.simulated.create("contacts", phone="1", email="ann@example.com")
        query = Query("contacts", parameters=(("properties", "phone,fax"),))
        [without] = records(await account.read(query))
        settings = {**TOKEN, "filter.response.nulls": "false"}
        [whole] = records(await collect(account.element.read(account.connection, settings, query)))
        return without["properties"], whole["properties"]

    without, whole = with_account(test)

    assert {"phone", "email", "createdate", "lastmodifieddate", "hs_object_id"} == without.keys()
    assert whole["fax"] is None
    assert whole["firstname"] is None


def test_conditions_become_filters():
    """Each operator of a `where` has its filter; alternatives become groups."""

    async def test(account: Account) -> list[int]:
        for name, size in (("Ann", "1"), ("Bob", "2"), ("Cleo", "3"), ("", "4")):
            account.simulated.create("contacts", firstname=name or None, size=size)
        asked = [
            (Condition("firstname", "=", "ann"),),
            (Condition("firstname", "!=", "Ann"),),
            (Condition("size", ">", "1"), Condition("size", "<=", "3")),
            (Condition("firstname", "IN", "'Ann', \"Bob\""),),
            (Condition("firstname", "NOT IN", "'Ann','Bob'"),),
            (Condition("firstname", "LIKE", "%le%"),),
            (Condition("firstname", "IS NULL", ""),),
            (Condition("firstname", "IS NOT NULL", ""),),
            (Condition("firstname", "=", "Ann"), Condition("size", "=", "4", joined="OR")),
            (Condition("createdAt", "<", "2026-11-20T10:00:01Z"),),
            (Condition("vid", ">", "99"),),
        ]
        return [len(ids(await account.read(Query("contacts", one)))) for one in asked]

    assert [1, 3, 2, 2, 2, 1, 1, 3, 2, 4, 2] == with_account(test)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (Query("orders"), "resource"),
        (Query("contacts", (Condition("lastmodifieddate", ">=", "yesterday"),)), "where"),
        (Query("contacts", (Condition("name", "BETWEEN", "a"),)), "where"),
        (Query("contacts", tuple(Condition("a", "=", "b") for _ in range(6))), "where"),
        (Query("contacts", tuple(Condition("a", "=", "b", "OR") for _ in range(6))), "where"),
        (Query("contacts", (Condition("a", "=", "b" * 3000),)), "where"),
        (Query("contacts", (Condition("a", "IN", "'a' 'b'"),)), "where"),
        (Query("contacts", parameters=(("archived", "true"),)), "archived"),
        (Query("contacts", parameters=(("properties", "p" * 3000),)), "properties"),
    ],
)
def test_what_hubspot_cannot_search_for_is_refused_before_it_is_asked(query: Query, key: str):
    """An unknown resource, a date that is none, too many filters: said when the instance is configured."""
    with pytest.raises(Invalid) as caught:
        built_in("hubspot").check_query(query)
    assert {key} == caught.value.problems.keys()


def test_custom_objects_are_read_by_their_type_id():
    """2-123456 and p123_cars are custom objects: there is no telling whether they exist."""
    for name in ("2-123456", "p62515_cars"):
        built_in("hubspot").check_query(Query(name))


# Deletions.


def test_deletions_come_from_the_list_of_what_is_archived():
    """Of the archived records, page by page, those are told that were archived since."""

    async def test(account: Account) -> None:
        many = [account.simulated.create("contacts")["id"] for _ in range(230)]
        for one in many[:120]:
            account.simulated.delete("contacts", one)
        account.clock.advance(7200)
        for one in many[120:]:
            account.simulated.delete("contacts", one)
        assert many[120:] == await account.deleted()
        [record] = [
            record
            for page in await collect(
                account.element.deletions(account.connection, TOKEN, "contacts", account.clock())
            )
            for record in page.records
            if record["id"] == many[200]
        ]
        assert int(many[200]) == record["vid"]

    with_account(test)


@pytest.mark.parametrize("options", [{}, {"as_new": True}])
def test_records_that_were_merged_are_told_as_deleted(options: dict[str, bool]):
    """A merged id is in no list: the history of its winner says when it ended, and older merges are not told again."""

    async def test(account: Account) -> None:
        first, second, third, fourth = (account.simulated.create("companies")["id"] for _ in "1234")
        account.simulated.merge("companies", first, second)
        account.clock.advance(7200)
        assert [] == await account.deleted("accounts")
        # Its winner changed since, but the merge is old.
        account.simulated.update("companies", first, name="Acme")
        assert [] == await account.deleted("accounts")
        fifth = account.simulated.create("companies")["id"]
        account.simulated.merge("companies", first, fifth)
        assert [fifth] == await account.deleted("accounts")
        account.clock.advance(7200)
        merged = account.simulated.merge("companies", third, fourth, **options)
        ended = {third, fourth} if options else {fourth}
        assert ended == set(await account.deleted("accounts"))
        assert merged["id"] in ids(await account.read(account.polled("companies")))
        for one, gone in ((first, False), (second, True), (fourth, True), ("999999", True)):
            answer = await account.element.gone(account.connection, TOKEN, "companies", one)
            assert gone is answer

    with_account(test)


def test_what_was_merged_into_a_record_that_is_archived_is_told_too():
    """The winner of a merge is archived before any poll: both ids end."""

    async def test(account: Account) -> set[str]:
        winner, loser = (account.simulated.create("contacts")["id"] for _ in "12")
        account.clock.advance(60)
        account.simulated.merge("contacts", winner, loser)
        account.simulated.delete("contacts", winner)
        assert {winner, loser} == set(await account.deleted(seconds=30))
        return set(await account.deleted(seconds=-30))

    assert set() == with_account(test)


def test_a_restored_record_is_no_longer_told_as_deleted():
    """Restoring changes the record, so that a poll shows it again, and takes it off the list."""

    async def test(account: Account) -> None:
        made = account.simulated.create("deals")["id"]
        account.simulated.delete("deals", made)
        assert [made] == await account.deleted("deals")
        account.clock.advance(60)
        account.simulated.restore("deals", made)
        assert [] == await account.deleted("deals")
        assert [made] == ids(await account.read(account.polled("deals", seconds=30)))

    with_account(test)


def test_deletions_can_be_left_alone():
    """hubspot.deletions.polled false: no channel, for accounts whose webhooks tell of deletions."""
    settings = {**TOKEN, "hubspot.deletions.polled": "false"}
    element = built_in("hubspot")

    async def main() -> None:
        async with Client() as client:
            assert element.deletions(client, settings, "contacts", START) is None

    asyncio.run(main())


# Trouble.


@pytest.mark.element("hubspot", "rate limit")
def test_too_many_requests_wait_as_long_as_hubspot_says():
    """A 429 is for later: after Retry-After where there is one, after an hour where the day's requests are used up."""

    async def test(account: Account) -> None:
        account.simulated.fail(429, retry_after="7")
        with pytest.raises(Transient) as caught:
            await account.read(account.polled())
        assert 7.0 == caught.value.retry_after
        account.simulated.search_limit = 1
        await account.read(account.polled())
        with pytest.raises(Transient, match="limit"):
            await account.read(account.polled())
        account.clock.advance(1.5)
        await account.read(account.polled())

    with_account(test)


def test_five_searches_a_second_are_kept_to():
    """Requests to HubSpot itself are a fifth of a second apart."""
    assert 0.2 == built_in("hubspot").pace


class Answers:
    """An `Http` that answers the same to everything, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def send(self, request: Any) -> Any:
        """The answer."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def recorded(body: Any, **headers: str) -> Answers:
    """HubSpot answering *body*."""
    from multidict import CIMultiDict

    from daemon.model import Response

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answers(Response(200, CIMultiDict(headers), data))


def read_with(http: Answers) -> list[Page]:
    """What the element reads of the contacts."""
    return asyncio.run(collect(built_in("hubspot").read(http, TOKEN, Query("contacts"))))


def test_limits_and_moves_that_http_has_no_words_for():
    """The day's requests used up, and an account that is moving, are both for later."""
    daily = Transient("429", body=b'{"policyName":"DAILY"}')
    for error in (daily, Refused("477", status=477)):
        with pytest.raises(Transient) as caught:
            read_with(Answers(error))
        assert 3600.0 == caught.value.retry_after


def test_the_documents_answer_is_read():
    """HubSpot's own example of a search's answer: ISO dates, a cursor, text ids."""
    from pathlib import Path

    body = json.loads((Path(__file__).parent / "hubspot" / "search.json").read_bytes())
    [page] = read_with(recorded(body, Date="Fri, 20 Nov 2026 10:00:00 GMT"))
    [record] = page.records
    assert (START, True) == (page.asked, page.last)
    assert 100451 == record["vid"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>", Transient),
        ({"results": [{"id": "2"}, {"id": "1"}]}, Transient),
        ({"results": [{"id": "a"}]}, Refused),
        ({"results": {"id": "1"}}, Refused),
        ([], Refused),
    ],
)
def test_answers_that_would_lose_something_are_not_believed(body: Any, error: type[Exception]):
    """No JSON, no list, ids that are none or out of order: the poll fails and is done again."""
    with pytest.raises(error):
        read_with(recorded(body))
