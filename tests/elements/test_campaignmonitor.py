"""The campaignmonitor element: its settings by themselves, its credentials and its reading against the simulator."""

import asyncio
import base64
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from elements.campaignmonitor.account import KEY, OAUTH, START, collect, connected, element
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from daemon.elements.campaignmonitor import api as createsend
from daemon.elements.connection import Connection
from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor
from daemon.elements.simulators.ledger import Clock
from daemon.errors import Invalid, Refused, Transient, Unauthorized
from daemon.model import Condition, Page, Query, Request
from daemon.outbound.client import Client
from daemon.plans import compile_plans

BODIES = Path(__file__).parent / "campaignmonitor"
ONE = "96c0bbdaa54760c8d9e62a2b7ffa2e13"
ELEMENT = element("http://127.0.0.1:1")
Run = Callable[..., Any]


def of(method: str) -> Any:
    """The mark that a test proves a cell of the table of elements."""
    return pytest.mark.element("campaignmonitor", method)


def addresses(records: list[dict[str, Any]]) -> list[str]:
    """Whom they are about."""
    return [record["EmailAddress"] for record in records]


def since(moment: datetime) -> Query:
    """What a poll asks for."""
    return Query("subscribers", (Condition("Date", ">=", moment.strftime("%Y-%m-%dT%H:%M:%SZ")),))


# Settings.


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, {"oauth.api.key", "oauth.api.secret", "oauth.callback.url"}),
        ({**OAUTH, "oauth.api.key": "<CONSUMER_KEY>"}, {"oauth.api.key"}),
        ({"authentication.type": "apiKey"}, {"api.key"}),
        ({"authentication.type": "apiKey", "api.key": "<KEY>"}, {"api.key"}),
        ({"authentication.type": "kerberos"}, {"authentication.type"}),
        ({**KEY, "list.ids": f"{ONE}, nonsense"}, {"list.ids"}),
        ({**KEY, "events.list.ids": "x"}, {"events.list.ids"}),
        (OAUTH, set()),
        (KEY, set()),
        ({"api.key": "k"}, set()),
        ({"authentication.type": "basic", "username": "k"}, set()),
        ({**KEY, "list.ids": f"{ONE},{ONE.upper()}"}, set()),
        ({**KEY, "events.list.ids": "<LIST_IDS>"}, set()),
    ],
)
def test_settings_are_checked(settings: dict[str, str], wrong: set[str]):
    """What is missing or cannot be is named by its key; OAuth, an API key, and the platform's own names will do."""
    problems: dict[str, str] = {}
    try:
        ELEMENT.check_settings(settings)
    except Invalid as error:
        problems = error.problems

    assert {f"configuration.{key}" for key in wrong} == set(problems)


@of("API key")
@pytest.mark.parametrize("settings", [KEY, {"api.key": KEY["api.key"]}, {"authentication.type": "basic", "username": KEY["api.key"]}])  # fmt: skip
def test_an_api_key_is_the_user_of_a_basic_authentication(settings: dict[str, str]):
    """Key and any password; the provider takes it, and nothing is refreshed for its sake."""
    signed = ELEMENT.sign(Request("GET", "https://x.example"), settings)
    said = signed.headers["Authorization"].removeprefix("Basic ")

    assert b"campaignmonitor-key:x" == base64.b64decode(said)

    async def test(provider: CampaignMonitor, one: Any, connection: Connection) -> None:
        assert await one.refresh(connection, settings) is None
        assert [] == await collect(one.read(connection, settings, Query("subscribers")))

    connected(test, **{key.replace(".", "__"): value for key, value in settings.items()})


@of("OAuth")
def test_a_person_grants_access():
    """The address has type=web_server and scopes joined by commas; the code that comes back is exchanged for tokens."""
    import aiohttp

    async def main() -> None:
        provider = CampaignMonitor(client_id=OAUTH["oauth.api.key"], client_secret=OAUTH["oauth.api.secret"])  # fmt: skip
        async with (
            provider.running() as origin,
            Client() as client,
            aiohttp.ClientSession() as browser,
        ):
            one = element(origin)
            url = one.authorize_url(OAUTH, state="s1")
            asked = URL(url).query
            assert {"type", "client_id", "redirect_uri", "scope", "state"} == set(asked)
            assert ("web_server", "ManageLists,ImportSubscribers") == (
                asked["type"],
                asked["scope"],
            )
            async with browser.get(url, allow_redirects=False) as answer:
                back = URL(answer.headers["Location"])
            assert "s1" == back.query["state"]
            tokens = await one.exchange(client, OAUTH, back.query["code"], {})
            assert "1209600" == tokens["oauth.user.refresh_interval"]
            with pytest.raises(Unauthorized, match="invalid_grant"):
                await one.exchange(client, OAUTH, back.query["code"], {})
            with pytest.raises(Refused, match="cannot be read"):
                await one.exchange(client, {**OAUTH, "oauth.api.key": "other"}, "c", {})

    asyncio.run(main())


@of("refresh")
def test_tokens_are_refreshed_in_the_middle_of_a_walk():
    """401 with code 121: the refresh token is sent alone, the new one kept, and the walk goes on."""
    provider = CampaignMonitor(page_most=10, now=Clock(START))
    for number in range(25):
        provider.create(f"s{number}@example.com")

    async def main() -> None:
        async with provider.running() as origin, Client() as client:
            one = element(origin)
            code = provider.grant(OAUTH["oauth.callback.url"])
            settings = {**OAUTH, **await one.exchange(client, OAUTH, code, {})}
            saved: list[dict[str, str]] = []

            async def save(new: dict[str, str]) -> None:
                saved.append(new)

            connection = Connection(http=client, element=one, settings=settings, save=save)
            seen: list[str] = []
            async with aclosing(one.read(connection, settings, Query("subscribers"))) as pages:
                async for page in pages:
                    seen += addresses(list(page.records))
                    provider.expire_access()
            assert 25 == len(set(seen))
            assert {"grant_type", "refresh_token"} == set(provider.forms[-1])
            assert len({one["oauth.user.refresh_token"] for one in saved}) == len(saved) >= 3
            provider.revoke()
            with pytest.raises(Unauthorized):
                await collect(one.read(connection, settings, Query("subscribers")))

    asyncio.run(main())


def test_a_401_about_a_list_is_not_one_about_the_token():
    """Code 101 says that the list is not ours: no token is spent on it, and the message says so."""

    async def test(provider: CampaignMonitor, one: Any, connection: Connection) -> None:
        settings = {**connection.settings, "list.ids": "f" * 32}
        with pytest.raises(Refused, match="Invalid ListID") as caught:
            await collect(one.read(connection, settings, Query("subscribers")))
        assert not isinstance(caught.value, Unauthorized)
        assert not one.renewable(Unauthorized("x", status=401, body=b'{"Code": 101}'))
        assert one.renewable(Unauthorized("x", status=401, body=b'{"Code": 121}'))
        assert one.renewable(Unauthorized("x", status=401, body=b"<html>"))

    connected(test)


# Reading.


@of("polling")
def test_a_poll_asks_every_list_for_its_five_states():
    """The default configuration reads who came into a state since, of all lists of all clients, by its own id."""
    provider = CampaignMonitor(now=Clock(START))
    other = provider.client("Two")
    second = provider.mailing_list("Second", client_id=other)
    provider.create("Ann@Example.com", name="Ann")
    provider.create("ann@example.com", name="Ann", list_id=second)
    for state in ("Unconfirmed", "Unsubscribed", "Bounced", "Deleted"):
        provider.create(f"{state}@example.com")
        provider.update(f"{state}@example.com", state=state)

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        [plan] = compile_plans({}, one.poller_defaults)
        query = plan.query(START - timedelta(minutes=1), START)
        one.check_query(query)
        records = await collect(one.read(connection, connection.settings, query))
        assert 6 == len(records)
        assert {"Active", "Unconfirmed", "Unsubscribed", "Bounced", "Deleted"} == {
            record["State"] for record in records
        }
        ids = [plan.object_id(record) for record in records]
        assert len(set(ids)) == 6
        assert {f"{provider.list_id}/ann@example.com", f"{second}/ann@example.com"} <= set(ids)
        assert ["Deleted"] == [r["State"] for r in records if one.deleted("subscribers", r)]
        asked = [URL(path) for _, path in provider.requests if "active.json" in path]
        assert {"date", "1000", "asc", "true"} <= set(asked[0].query.values())

    connected(test, provider)


def test_only_the_lists_that_are_named():
    """list.ids leaves the others alone, under the platform's name too, and asks for no list of lists."""
    provider = CampaignMonitor(now=Clock(START))
    second = provider.mailing_list("Second")
    provider.create("one@example.com")
    provider.create("two@example.com", list_id=second)

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        for key in ("list.ids", "events.list.ids"):
            settings = {**connection.settings, key: second.upper()}
            assert ["two@example.com"] == addresses(
                await collect(one.read(connection, settings, Query("subscribers")))
            )
        assert not any("clients" in path for _, path in provider.requests)

    connected(test, provider)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ((Condition("State", "=", "bounced"),), {"b@example.com"}),
        ((Condition("State", "=", "Deleted"),), {"d@example.com"}),
        ((Condition("EmailAddress", "=", "A@example.com"),), {"a@example.com"}),
        ((Condition("EmailAddress", "=", "d@example.com"),), set()),
        ((Condition("EmailAddress", "=", "nobody@example.com"),), set()),
        ((Condition("ListID", "=", "f" * 32),), set()),
        ((), {"a@example.com", "b@example.com"}),
    ],
)
def test_conditions(where: tuple[Condition, ...], found: set[str]):
    """State, list and address can be asked for; without a date nobody who was deleted is shown unless asked for."""
    provider = CampaignMonitor(now=Clock(START))
    for name in "abd":
        provider.create(f"{name}@example.com")
    provider.update("b@example.com", state="Bounced")
    provider.delete("d@example.com")

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        query = Query("subscribers", where)
        one.check_query(query)
        records = await collect(one.read(connection, connection.settings, query))
        assert found == set(addresses(records))

    connected(test, provider)


@pytest.mark.parametrize(
    "query",
    [
        Query("campaigns"),
        Query("subscribers", (Condition("State", "=", "Happy"),)),
        Query("subscribers", (Condition("ListID", "=", "../x"),)),
        Query("subscribers", (Condition("Name", "=", "Ann"),)),
        Query("subscribers", (Condition("Date", ">=", "yesterday"),)),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(query: Query):
    """Another resource, a state, a list id or a date that is none, a field that is no filter."""
    with pytest.raises(Invalid):
        ELEMENT.check_query(query)
    with pytest.raises(Refused):
        ELEMENT.read(None, {}, query)  # type: ignore[arg-type] # it is refused before anything is sent


@pytest.mark.parametrize(
    ("zone", "hours"),
    [
        ("(GMT+10:00) Canberra, Melbourne, Sydney", 9),
        ("(GMT) Casablanca", -1),
        ("(GMT+05:45) Kathmandu", 4.75),
        ("(GMT-03:30) Newfoundland", -4.5),
        ("(GMT-12:00) International Date Line West", -12),
        ("(UTC+01:00) Paris", 0),
        ("Mars", -12),
        ("", -12),
    ],
)
def test_how_far_clocks_are_ahead_of_utc_at_the_least(zone: str, hours: float):
    """By a zone's name, an hour less for daylight saving that goes the other way; by nothing, as the last place on earth."""
    assert timedelta(hours=hours) == createsend.ahead_of_utc(zone)


@given(st.integers(-12 * 4, 14 * 4), st.integers(0, 3600 * 48), st.booleans())
def test_no_zone_hides_a_change(quarters: int, age: int, known: bool):  # noqa: FBT001 — hypothesis draws it
    """Whatever the client's zone, and whether or not it is known: the local time asked from is not after the change."""
    offset = timedelta(minutes=15 * quarters)
    sign, minutes = "-" if quarters < 0 else "+", abs(15 * quarters)
    zone = f"(GMT{sign}{minutes // 60:02}:{minutes % 60:02}) Somewhere" if known else "unheard of"
    changed = START + timedelta(seconds=age)

    asked = changed + createsend.ahead_of_utc(zone)

    assert asked <= changed + offset


def test_dates_are_asked_for_in_the_clients_time():
    """The client's zone is 11 hours ahead, in summer: who came a minute ago is found, and who came a day ago is not."""
    clock = Clock(START)
    provider = CampaignMonitor(now=clock)
    provider.create("old@example.com")
    clock.advance(86400)
    provider.create("new@example.com")

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        query = since(clock() - timedelta(minutes=1))
        assert ["new@example.com"] == addresses(
            await collect(one.read(connection, connection.settings, query))
        )

    connected(test, provider)


def test_rows_that_move_while_they_are_read_are_not_missed():
    """Before every page somebody who was read leaves the list, and all others move up: everybody else is still met."""
    clock = Clock(START)
    provider = CampaignMonitor(page_most=10, now=clock)
    for number in range(45):
        provider.create(f"s{number:02}@example.com")
        clock.advance(1)
    leavers = iter(range(45))

    def leave() -> None:
        provider.update(f"s{next(leavers):02}@example.com", state="Unsubscribed")

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        mailing = createsend.MailingList(provider.list_id)
        api = createsend.Api(connection, one._api(connection).base)
        provider.before(*[leave] * 6)
        records = await collect(createsend.walk(api, mailing, "active", None))
        left = next(leavers)
        assert 6 == left
        assert {f"s{number:02}@example.com" for number in range(left, 45)} <= set(
            addresses(records)
        )

    connected(test, provider)


def test_who_changes_sides_while_all_are_read_is_not_missing():
    """Subscribed again after the active were read and before the unsubscribed are: asked for once more, by date."""
    clock = Clock(START)
    provider = CampaignMonitor(now=clock)
    provider.create("ann@example.com")
    provider.update("ann@example.com", state="Unsubscribed")
    clock.advance(86400)

    def nothing() -> None:
        pass

    def back() -> None:
        clock.advance(1)
        provider.update("ann@example.com", state="Active")

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        # Clients, lists, the client, unconfirmed, active; then unsubscribed.
        provider.before(*[nothing] * 5, back)
        records = await collect(one.inventory(connection, connection.settings, "subscribers"))
        assert ["ann@example.com"] == addresses(records)
        assert "unsubscribed" in [path for _, path in provider.requests][5]

    connected(test, provider)


def test_pages_that_do_not_add_up_are_read_again():
    """Where as many came as went and a row is missing, the walk is done again; at last it says so."""
    rows = [{"EmailAddress": f"s{number}@example.com", "Date": ""} for number in range(15)]

    class Shuffled:
        """Answers the first page whatever is asked, *wrong* times."""

        def __init__(self, wrong: int) -> None:
            self.wrong = wrong

        async def get(self, path: str, query: dict[str, str]) -> createsend.Answer:
            number = int(query["page"])
            if number == 2 and self.wrong:
                self.wrong -= 1
                number = 1
            page = rows[10 * (number - 1) : 10 * number]
            body = {"Results": page, "TotalNumberOfRecords": 15, "NumberOfPages": 2}
            return createsend.Answer(body, START)

    async def main(wrong: int) -> int:
        walk = createsend.walk(Shuffled(wrong), createsend.MailingList(ONE), "active", None)  # type: ignore[arg-type] # like an Api
        return len({record["id"] for record in await collect(walk)})

    assert 15 == asyncio.run(main(1))
    with pytest.raises(Transient, match="of 15 active subscribers 10 came"):
        asyncio.run(main(99))


def test_who_is_back_was_not_deleted():
    """Deleted and added again within one poll's reach: the later state counts, wherever the other is still listed."""
    back = {"id": "x", "Date": "2026-11-20 21:00:05", "State": "Deleted"}
    page = Page((back,), START)
    from daemon.elements.campaignmonitor.element import _without_returned

    assert () == _without_returned(page, {"x": "2026-11-20 21:00:05"}).records
    assert (back,) == _without_returned(page, {"x": "2026-11-20 21:00:04"}).records
    assert (back,) == _without_returned(page, {}).records


def test_a_record_is_the_same_from_a_list_and_by_itself():
    """Mobile number and consents included; the order of custom fields and the mail program do not matter."""
    provider = CampaignMonitor(now=Clock(START))
    fields = (("z", "1"), ("a", "2"), ("a", "1"))
    provider.create("Ann@Example.com", name="Ann", fields=fields, mobile="+44", consent="Yes")
    provider.create("bob@example.com", reads_with="Gmail")

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        settings = connection.settings
        listed = await collect(one.read(connection, settings, Query("subscribers")))
        by_one = await collect(
            one.reread(connection, settings, "subscribers", [record["id"] for record in listed])
        )
        assert listed == by_one
        provider.update("bob@example.com", reads_with="Outlook")
        provider.update("ann@example.com", fields=fields[::-1])
        whole = await collect(one.inventory(connection, settings, "subscribers"))
        assert listed == whole[:2]

    connected(test, provider)


@of("deleted")
def test_who_is_gone_is_known_to_be():
    """Deleted, renamed away or of a list that is no more: gone; unsubscribed: not.  Read again, the state says so."""
    provider = CampaignMonitor(now=Clock(START))
    for name in ("there", "deleted", "left", "old"):
        provider.create(f"{name}@example.com")
    provider.delete("deleted@example.com")
    provider.update("left@example.com", state="Unsubscribed")
    provider.update("old@example.com", address="new@example.com")
    ids = {
        f"{provider.list_id}/{name}@example.com": gone
        for name, gone in (
            ("there", False), ("deleted", True), ("left", False), ("old", True), ("new", False), ("never", True),
        )
    }  # fmt: skip
    ids[f"{'f' * 32}/there@example.com"] = True

    async def test(_: CampaignMonitor, one: Any, connection: Connection) -> None:
        for name, gone in ids.items():
            assert gone == await one.gone(connection, connection.settings, "subscribers", name), (
                name
            )
        again = await collect(
            one.reread(connection, connection.settings, "subscribers", [*ids, "nonsense"])
        )
        assert ids == {record["id"]: one.deleted("subscribers", record) for record in again}
        assert await one.gone(connection, {}, "campaigns", "x") is None
        assert await one.gone(connection, {}, "subscribers", "x") is None
        assert one.inventory(connection, {}, "campaigns") is None
        assert one.reread(connection, {}, "campaigns", []) is None

    connected(test, provider)


def test_what_an_account_key_may_not_read_is_done_without():
    """Without the list of clients named lists are read all the same; without names the message says what to do."""

    async def test(provider: CampaignMonitor, one: Any, connection: Connection) -> None:
        provider.create("ann@example.com")
        settings = {**connection.settings, "list.ids": provider.list_id}
        provider.fail(403)
        records = await collect(one.read(connection, settings, since(START)))
        assert ["ann@example.com"] == addresses(records)
        provider.fail(403)
        with pytest.raises(Refused, match=r"name them in list\.ids"):
            await collect(one.read(connection, connection.settings, since(START)))

    connected(test)


@of("rate limit")
def test_trouble_is_told_apart():
    """429 and 5xx are to be tried again, not before Retry-After where it is given; what is no JSON, too."""

    async def test(provider: CampaignMonitor, one: Any, connection: Connection) -> None:
        query = Query("subscribers")
        provider.fail(429, retry_after="7")
        with pytest.raises(Transient) as caught:
            await collect(one.read(connection, connection.settings, query))
        assert 7.0 == caught.value.retry_after
        provider.fail(500)
        with pytest.raises(Transient):
            await collect(one.read(connection, connection.settings, query))

    connected(test)
    for body in (None, [], {}, {"Results": [{}], "TotalNumberOfRecords": 1, "NumberOfPages": 1}):
        with pytest.raises(Transient):
            createsend._rows(body)
