"""Access to Salesforce: codes, addresses that come with tokens, rotation, credentials of the application's own."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from elements.organization import SETTINGS, START, Account, ids, with_account
from yarl import URL

from daemon.elements import load
from daemon.errors import Invalid, Refused, Transient, Unauthorized
from daemon.model import Query, Request, Response

TOKEN = (Path(__file__).parent / "salesforce" / "token.json").read_bytes()


class Recorded:
    """Answers every request with one body, and keeps what it was asked."""

    def __init__(self, body: bytes, error: Exception | None = None) -> None:
        self.body, self.error = body, error
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        """Answer."""
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return Response(200, {}, self.body, request.url)


def exchanged(
    settings: dict[str, str], body: bytes = TOKEN, **given: str
) -> tuple[dict[str, str], Recorded]:
    """What an exchange brings, and what was asked for it."""
    http = Recorded(body)
    sfdc = load().get("sfdc")
    return asyncio.run(sfdc.exchange(http, SETTINGS | settings, "the code", given)), http


@pytest.mark.element("sfdc", "OAuth")
def test_a_token_brings_the_address_and_the_organization():
    """instance_url is where the API is; the organization stands in the identity's address; all of it is kept."""
    kept, http = exchanged({})

    assert "https://acme.my.salesforce.com" == kept["sfdc.session.instance.url"]
    assert ("00Dd0000000dtDqEAI", "005d0000000TeSTAA0") == (
        kept["sfdc.organization.id"],
        kept["sfdc.user.id"],
    )
    assert {"oauth.user.token", "oauth.user.refresh_token"} <= set(kept)
    assert "https://login.salesforce.com/services/oauth2/token" == http.requests[0].url


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, "login.salesforce.com"),
        ({"base.url": "https://test.salesforce.com"}, "test.salesforce.com"),
        ({"site.address": "http://test.salesforce.com"}, "test.salesforce.com"),
        ({"base.url": "https://acme.my.salesforce.com/"}, "acme.my.salesforce.com"),
    ],
)
def test_people_log_in_where_the_instance_says(settings: dict[str, str], host: str):
    """Production, a sandbox or My Domain: as base.url, or as siteAddress in the question for the address."""
    sfdc = load().get("sfdc")
    url = URL(sfdc.authorize_url(SETTINGS | settings, state="s1"))
    _, http = exchanged(settings)

    assert ("https", host, "/services/oauth2/authorize") == (url.scheme, url.host, url.path)
    assert {"response_type": "code", "client_id": "the id", "scope": "api refresh_token", "state": "s1",
            "redirect_uri": "https://mycoolapp.com/auth"} == dict(url.query)  # fmt: skip
    assert f"https://{host}/services/oauth2/token" == http.requests[0].url


def test_who_asks_for_a_code_can_prove_it():
    """code_challenge goes out with the question, code_verifier with the exchange (RFC 7636)."""
    sfdc = load().get("sfdc")
    url = URL(sfdc.authorize_url({**SETTINGS, "code_challenge": "c"}, state=None))
    _, http = exchanged({}, code_verifier="v")

    assert ("c", "S256") == (url.query["code_challenge"], url.query["code_challenge_method"])
    assert b"code_verifier=v" in (http.requests[0].body or b"")


@pytest.mark.parametrize(
    "address",
    ["https://evil.example", "http://acme.my.salesforce.com", "https://salesforce.com.evil.example",
     "https://evilsalesforce.com", "https://a@acme.my.salesforce.com", "https://acme.my.salesforce.com/path", "x"],
)  # fmt: skip
def test_a_token_goes_nowhere_but_to_salesforce(address: str):
    """An instance_url that is not an address at Salesforce is refused, from a token and from the configuration."""
    body = orjson.dumps({**orjson.loads(TOKEN), "instance_url": address})
    with pytest.raises(Refused, match=r"sfdc\.session\.instance\.url"):
        exchanged({}, body)
    settings = {**SETTINGS, "sfdc.session.instance.url": address}
    with pytest.raises(Refused, match=r"sfdc\.session\.instance\.url"):
        load().get("sfdc").read(Recorded(b"{}"), settings, Query("Contact"))
    with pytest.raises(Invalid):
        load().get("sfdc").check_settings(settings)


def test_requests_go_to_the_instance():
    """The API is asked at instance_url, with the version that the instance names."""
    settings = {
        **SETTINGS,
        "sfdc.session.instance.url": "https://acme.my.salesforce.com",
        "sfdc.api.version": "59.0",
    }
    http = Recorded(b'{"fields": []}')

    async def main() -> None:
        await anext(load().get("sfdc").read(http, settings, Query("Contact")), None)

    with pytest.raises(Refused, match="no records"):
        asyncio.run(main())
    assert http.requests[0].url.startswith(
        "https://acme.my.salesforce.com/services/data/v59.0/query?q="
    )


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"base.url": "https://x.example/path"}, "base.url"),
        ({"base.url": "https://user@x.example"}, "base.url"),
        ({"site.address": "a..b"}, "site.address"),
        ({"authentication.type": "apiKey"}, "authentication.type"),
        ({"authentication.type": "client_credentials"}, "base.url"),
        ({"oauth.callback.url": ""}, "oauth.callback.url"),
        ({"sfdc.api.version": "v67"}, "sfdc.api.version"),
        ({"sfdc.api.limit": "0"}, "sfdc.api.limit"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, str], key: str):
    """Each has its key and a sentence."""
    with pytest.raises(Invalid) as caught:
        load().get("sfdc").check_settings(SETTINGS | settings)

    assert [f"configuration.{key}"] == list(caught.value.problems)


def test_a_code_is_good_once_and_for_its_address():
    """A second exchange, and one for another redirect address, are refused for a person to look at."""

    async def test(account: Account) -> None:
        code = account.simulated.grant("https://mycoolapp.com/auth")
        await account.element.exchange(account.client, SETTINGS, code, {})
        with pytest.raises(Unauthorized, match="invalid_grant"):
            await account.element.exchange(account.client, SETTINGS, code, {})
        code = account.simulated.grant("https://elsewhere.example")
        with pytest.raises(Unauthorized, match="redirect_uri"):
            await account.element.exchange(account.client, SETTINGS, code, {})

    with_account(test)


def test_without_rotation_the_refresh_token_stays():
    """An answer without a refresh token leaves the one there is; it goes on being good."""

    async def test(account: Account) -> None:
        for _ in range(3):
            account.simulated.expire_access()
            await account.read("Contact")
        assert 3 == len(account.saved)
        assert not any("oauth.user.refresh_token" in one for one in account.saved)

    with_account(test)


def test_a_rotated_token_that_is_used_again_ends_the_session():
    """What Salesforce does with a token that was stolen, or stored too late: both are refused from then on."""

    async def test(account: Account) -> None:
        old = account.connection.settings
        new = await account.element.refresh(account.client, old)
        assert new is not None
        for settings in (old, {**old, **new}):
            with pytest.raises(Unauthorized, match="expired access/refresh token"):
                await account.element.refresh(account.client, settings)

    with_account(test, rotate=True)


@pytest.mark.parametrize(
    "body",
    [b'{"error":"unknown_error","error_description":"retry your request"}',
     b'{"error":"invalid_grant","error_description":"login rate exceeded"}',
     b'{"error":"invalid_grant","error_description":"token request is already being processed"}'],
)  # fmt: skip
def test_a_login_that_is_only_too_busy_is_tried_again(body: bytes):
    """Salesforce says "retry" with a 400: that must not take an instance's access away for good."""
    http = Recorded(b"", Refused("400", status=400, body=body))
    settings = {**SETTINGS, "oauth.user.refresh_token": "r"}
    with pytest.raises(Transient):
        asyncio.run(load().get("sfdc").refresh(http, settings))


def test_an_application_with_a_user_of_its_own_needs_nobody():
    """client_credentials: the first request fetches a token, and every one that ends is followed by another."""

    async def test(account: Account) -> None:
        one = account.simulated.create("Contact", LastName="Ann")
        settings = {
            "oauth.api.key": "the id",
            "oauth.api.secret": "the secret",
            "authentication.type": "client_credentials",
            "base.url": "https://acme.my.salesforce.com",
        }
        account.element.check_settings(settings)
        account.use(settings)
        assert [one["Id"]] == ids(await account.read("Contact"))
        account.simulated.expire_access()
        assert [one["Id"]] == ids(await account.read("Contact"))
        assert 2 == len(account.saved)
        assert {"oauth.user.token", "sfdc.organization.id", "sfdc.user.id"} <= set(account.saved[0])

    with_account(test)


def test_both_keys_are_the_same_element():
    """sfdc and salesforce differ in key and id only."""
    one, other = load().get("sfdc"), load().get("salesforce")

    assert one.id != other.id
    assert (one.parameters, one.poller_defaults, one.resources, one.hub) == (
        other.parameters, other.poller_defaults, other.resources, other.hub,
    )  # fmt: skip


def test_an_answer_that_cannot_be_read_is_not_quoted():
    """It may hold the tokens."""
    with pytest.raises(Refused) as caught:
        exchanged({}, b'{"access_tokem": "a secret"}')

    assert "a secret" not in str(caught.value)


def test_a_revoked_grant_is_for_a_person():
    """When a person takes the grant back, refreshing is refused and the read says so."""

    async def test(account: Account) -> Any:
        account.simulated.revoke()
        with pytest.raises(Unauthorized, match="access was not granted"):
            await account.read("Contact")

    with_account(test)
    assert START
