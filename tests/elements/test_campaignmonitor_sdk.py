"""Campaign Monitor's own SDK against the simulated Campaign Monitor: the judge of its shapes, codes and webhooks."""

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
from aiohttp import web
from createsend import (
    BadRequest,
    Client,
    CreateSend,
    ExpiredOAuthToken,
    List,
    Subscriber,
    Unauthorized,
)
from servers import serving

from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning"  # the SDK leaves sockets to the garbage collector
)

AUTH = {"api_key": "campaignmonitor-key"}


@pytest.fixture
def _plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK speaks TLS with certificates of its own only; the simulator listens without."""
    import createsend.createsend

    monkeypatch.setattr(createsend.createsend, "VerifiedHTTPSConnection", HTTPConnection)


def judged(judge: Callable[[CampaignMonitor], Any], provider: CampaignMonitor | None = None) -> Any:
    """What *judge*, which blocks, makes of a simulator that serves meanwhile."""
    provider = provider or CampaignMonitor(gather=0.0, waits=(0.01, 0.01))

    async def main() -> Any:
        async with provider.running() as origin:
            before = CreateSend.base_uri, CreateSend.oauth_uri, CreateSend.oauth_token_uri
            CreateSend.base_uri = f"{origin}/api/v3.3"
            CreateSend.oauth_uri = f"{origin}/oauth"
            CreateSend.oauth_token_uri = f"{origin}/oauth/token"
            try:
                return await asyncio.to_thread(judge, provider)
            finally:
                CreateSend.base_uri, CreateSend.oauth_uri, CreateSend.oauth_token_uri = before

    return asyncio.run(main())


@pytest.mark.usefixtures("_plainly")
def test_a_subscribers_life():
    """Add, read, edit, rename, unsubscribe and delete: each list shows the address in one state, with its envelope."""

    def judge(provider: CampaignMonitor) -> None:
        one = Subscriber(AUTH)
        fields = [{"Key": "website", "Value": "http://example.org"}]
        assert "ann@example.com" == one.add(
            provider.list_id,
            "ann@example.com",
            "Ann",
            fields,
            resubscribe=True,
            consent_to_track="yes",
        )
        found = one.get(provider.list_id, "ann@example.com", include_tracking_preference=True)
        assert ("Ann", "Active", "yes") == (found.Name, found.State, found.ConsentToTrack)
        assert found.Date == found.ListJoinedDate

        ann = Subscriber(AUTH, provider.list_id, "ann@example.com")
        ann.update("anna@example.com", "Anna", [], resubscribe=True, consent_to_track="unchanged")
        with pytest.raises(BadRequest) as caught:
            one.get(provider.list_id, "ann@example.com")
        assert 203 == caught.value.data.Code

        mailing = List(AUTH, provider.list_id)
        page = mailing.active()
        assert ["anna@example.com"] == [row.EmailAddress for row in page.Results]
        assert (1, 1000, 1, 1, 1) == (
            page.PageNumber,
            page.PageSize,
            page.RecordsOnThisPage,
            page.TotalNumberOfRecords,
            page.NumberOfPages,
        )
        ann.unsubscribe()
        assert ["Unsubscribed"] == [row.State for row in mailing.unsubscribed().Results]
        assert 0 == mailing.active().TotalNumberOfRecords
        ann.delete()
        assert ["anna@example.com"] == [row.EmailAddress for row in mailing.deleted().Results]
        with pytest.raises(BadRequest) as caught:
            one.add(
                provider.list_id,
                "anna@example.com",
                "Anna",
                [],
                resubscribe=False,
                consent_to_track="yes",
            )
        assert 205 == caught.value.data.Code

    judged(judge)


@pytest.mark.usefixtures("_plainly")
def test_an_import_and_its_pages():
    """An import reports what it did, and its rows come in pages of the size asked for, ordered as asked."""

    def judge(provider: CampaignMonitor) -> None:
        rows = [
            {"EmailAddress": f"s{number:02}@example.com", "Name": str(number)}
            for number in range(25)
        ]
        done = Subscriber(AUTH).import_subscribers(
            provider.list_id, [*rows, {"EmailAddress": "nobody"}], resubscribe=True
        )
        assert (25, 1) == (done.TotalNewSubscribers, done.FailureDetails[0].Code)
        mailing = List(AUTH, provider.list_id)
        pages = [mailing.active(page=number, page_size=10) for number in (1, 2, 3)]
        assert [10, 10, 5] == [page.RecordsOnThisPage for page in pages]
        assert 3 == pages[0].NumberOfPages
        addresses = [row.EmailAddress for page in pages for row in page.Results]
        assert sorted(addresses) == addresses
        latest = mailing.active(order_field="date", order_direction="desc").Results[0]
        assert "s24@example.com" == latest.EmailAddress
        for wrong, code in (({"page_size": 9}, 801), ({"page": 0}, 800), ({"date": "now"}, 5)):
            with pytest.raises(BadRequest) as caught:
                mailing.active(**wrong)
            assert code == caught.value.data.Code

    judged(judge)


@pytest.mark.usefixtures("_plainly")
def test_clients_lists_and_the_systems_date():
    """Clients, their lists and time zones; ids that are nobody's are 401 with their own codes."""

    def judge(provider: CampaignMonitor) -> None:
        account = CreateSend(AUTH)
        [client] = account.clients()
        assert 19 == len(account.systemdate())
        one = Client(AUTH, client.ClientID)
        assert one.details().BasicDetails.TimeZone.startswith("(GMT+10:00)")
        made = List(AUTH).create(
            client.ClientID, "Another", "", confirmed_opt_in=False, confirmation_success_page=""
        )
        assert {"List One", "Another"} == {each.Name for each in one.lists()}
        assert "Another" == List(AUTH, made).details().Title
        List(AUTH, made).delete()
        for call, code in ((List(AUTH, made).details, 101), (Client(AUTH, "x" * 32).lists, 102)):
            with pytest.raises(Unauthorized) as caught:
                call()
            assert code == caught.value.data.Code
        with pytest.raises(Unauthorized) as caught:
            CreateSend({"api_key": "wrong"}).clients()
        assert 100 == caught.value.data.Code

    judged(judge)


@pytest.mark.usefixtures("_plainly")
def test_tokens_expire_and_rotate():
    """A code brings tokens, an expired one is refreshed by nothing but its refresh token, and that is good once."""
    provider = CampaignMonitor(client_id="id", client_secret="secret")

    def judge(_: CampaignMonitor) -> None:
        account = CreateSend(None)
        code = provider.grant("https://mycoolapp.com")
        given = account.exchange_token("id", "secret", "https://mycoolapp.com", code)
        assert 1_209_600 == given[1]
        account.auth({"access_token": given[0], "refresh_token": given[2]})
        assert 1 == len(account.clients())
        provider.expire_access()
        with pytest.raises(ExpiredOAuthToken):
            account.clients()
        fresh = account.refresh_token()
        assert 1 == len(account.clients())
        assert {"grant_type", "refresh_token"} == set(provider.forms[-1])
        assert fresh[2] != given[2]
        with pytest.raises(Exception, match="invalid or expired"):
            account.exchange_token("id", "secret", "https://mycoolapp.com", code)

    judged(judge, provider)


class Listener:
    """An address that webhooks are posted to."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.status = 200

    async def answer(self, request: web.Request) -> web.Response:
        """Keep what came."""
        self.bodies.append(json.loads(await request.read()))
        return web.Response(status=self.status)


@asynccontextmanager
async def listening() -> Any:
    """A listener at an address."""
    listener = Listener()
    async with serving(listener.answer) as origin:
        yield listener, f"{origin}/hook"


@pytest.mark.usefixtures("_plainly")
def test_webhooks_are_registered_tested_and_posted():
    """Created, listed, tested, posted in a batch for their list, switched off, on and away; what is wrong has its code."""
    provider = CampaignMonitor(gather=0.05, waits=(0.01, 0.01))

    async def main() -> None:
        async with listening() as (listener, url), provider.running() as origin:
            CreateSend.base_uri, before = f"{origin}/api/v3.3", CreateSend.base_uri
            try:
                hook = await asyncio.to_thread(register, url)
                assert {"ListID", "Events"} == set(listener.bodies.pop())
                provider.create("ann@example.com", name="Ann", fields=(("website", "x"),))
                provider.update("ann@example.com", address="anna@example.com")
                provider.update("anna@example.com", state="Bounced")
                await provider.posts.posted()
                [body] = listener.bodies
                assert provider.list_id == body["ListID"]
                types = [
                    (event["Type"], event["EmailAddress"], event.get("OldEmailAddress"))
                    for event in body["Events"]
                ]
                assert [
                    ("Subscribe", "ann@example.com", None),
                    ("Update", "anna@example.com", "ann@example.com"),
                    ("Deactivate", "anna@example.com", None),
                ] == types
                assert "Bounced" == body["Events"][-1]["State"]
                listener.status = 500
                await asyncio.to_thread(broken, hook)
            finally:
                CreateSend.base_uri = before

    def register(url: str) -> str:
        mailing = List(AUTH, provider.list_id)
        for wrong, code in (
            ((["Subscribe"], "nowhere", "json"), 601),
            ((["Subscribe"], url, "yaml"), 602),
            ((["Open"], url, "json"), 603),
        ):
            with pytest.raises(BadRequest) as caught:
                mailing.create_webhook(*wrong)
            assert code == caught.value.data.Code
        hook = mailing.create_webhook(["Subscribe", "Update", "Deactivate"], url, "json")
        [shown] = mailing.webhooks()
        assert (hook, url, "Active", "Json") == (
            shown.WebhookID,
            shown.Url,
            shown.Status,
            shown.PayloadFormat,
        )
        assert mailing.test_webhook(hook)
        return hook

    def broken(hook: str) -> None:
        mailing = List(AUTH, provider.list_id)
        with pytest.raises(BadRequest) as caught:
            mailing.test_webhook(hook)
        assert 610 == caught.value.data.Code
        mailing.deactivate_webhook(hook)
        assert "Active" != mailing.webhooks()[0].Status
        mailing.activate_webhook(hook)
        assert "Active" == mailing.webhooks()[0].Status
        mailing.delete_webhook(hook)
        assert [] == mailing.webhooks()

    asyncio.run(main())
