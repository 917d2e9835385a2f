"""How a described provider is told whose request it is."""

import asyncio
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from elements.files import API, element
from servers import serving

from daemon.elements import load
from daemon.elements.defined import Defined
from daemon.errors import Invalid, Refused, Unauthorized
from daemon.model import Request
from daemon.outbound.client import Client

KEY = {"api.key": "k&y"}
BASIC = "Basic " + b64encode("ann:p:wö".encode()).decode()


@pytest.mark.parametrize(
    ("auth", "settings", "headers", "url"),
    [
        ("", KEY, {}, "https://x/?a=1"),
        ("kind = 'basic'", {"username": "ann", "password": "p:wö"}, {"Authorization": BASIC}, "https://x/?a=1"),
        ("kind = 'basic'\nusername = 'x'\npassword = '{api.key}'", KEY, {"Authorization": "Basic " + b64encode(b"x:k&y").decode()}, "https://x/?a=1"),
        ("kind = 'header'\nname = 'X-Key'", KEY, {"X-Key": "k&y"}, "https://x/?a=1"),
        ("kind = 'header'\nname = 'X-Key'\nvalue = 'key={api.key}'", KEY, {"X-Key": "key=k&y"}, "https://x/?a=1"),
        ("kind = 'header'\nname = 'X-Key'", {}, {}, "https://x/?a=1"),
        ("kind = 'query'\nname = 'a'", KEY, {}, "https://x/?a=k%26y"),
        ("kind = 'query'\nname = 'key'", KEY, {}, "https://x/?a=1&key=k%26y"),
        ("kind = 'bearer'", KEY, {"Authorization": "Bearer k&y"}, "https://x/?a=1"),
        ("kind = 'setting'", KEY, {}, "https://x/?a=1"),
        ("kind = 'setting'", {"authentication.type": "bearer", **KEY}, {"Authorization": "Bearer k&y"}, "https://x/?a=1"),
        ("kind = 'setting'", {"authentication.type": "basic", "username": "ann", "password": "p:wö"}, {"Authorization": BASIC}, "https://x/?a=1"),
        ("kind = 'setting'", {"authentication.type": "header", "api.key.name": "X-K", **KEY}, {"X-K": "k&y"}, "https://x/?a=1"),
        ("kind = 'setting'", {"authentication.type": "query", "api.key.name": "k", **KEY}, {}, "https://x/?a=1&k=k%26y"),
    ],
)  # fmt: skip
def test_each_kind_signs_in_its_way(
    auth: str, settings: dict[str, str], headers: dict[str, str], url: str
):
    """Header, query or neither: what the definition says, with the instance's credentials, beside what was there."""
    shop = element(API, "[auth]", auth)
    signed = shop.sign(Request("GET", "https://x/?a=1", {"Accept": "a"}), settings)

    assert {"Accept": "a", **headers} == signed.headers
    assert url == signed.url


def test_credentials_belong_in_the_vault():
    """Whatever a kind signs with is a secret parameter, also where the definition does not describe it."""
    for kind, secrets in (
        ("basic", {"password"}), ('header"\nname = "X', {"api.key"}), ('bearer"\nvalue = "{token}', {"token"}),
        ("setting", {"password", "api.key"}),
    ):  # fmt: skip
        shop = element(API, "[auth]", f'kind = "{kind}"')

        assert secrets == shop.secrets


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"authentication.type": "digest"}, "authentication.type"),
        ({"authentication.type": "header", **KEY}, "api.key.name"),
        ({"authentication.type": "header", "api.key.name": "Host", **KEY}, "api.key.name"),
        ({"authentication.type": "header", "api.key.name": "a: b\r\nc", **KEY}, "api.key.name"),
        ({"authentication.type": "bearer"}, "api.key"),
        ({"authentication.type": "basic"}, "username"),
        ({"base.url": ""}, "base.url"),
    ],
)
def test_the_rest_element_checks_its_choice(settings: dict[str, str], key: str):
    """A choice that cannot work is named by its configuration key when the instance is created."""
    known = {"base.url": "https://api.example.com", **settings}
    with pytest.raises(Invalid) as caught:
        load().get("rest").check_settings(known)

    assert [f"configuration.{key}"] == list(caught.value.problems)


OAUTH = """
[auth]
kind = "oauth2"
authorize_url = "https://shop.example/authorize"
token_url = "https://shop.example/token"
scope = "read write"
authorize_parameters = { access_type = "offline", country = "{country}" }
"""
CLIENT = {
    "oauth.api.key": "id 1",
    "oauth.api.secret": "s&cret",
    "oauth.callback.url": "https://my.app/cb",
}


def test_the_authorize_url_holds_what_a_person_grants():
    """Client, redirect address, scope, state and the definition's own; what is empty is left out; the secret stays."""
    shop = element(API, OAUTH)
    url = urlsplit(shop.authorize_url(CLIENT, state="xyz"))

    assert "https://shop.example/authorize" == f"{url.scheme}://{url.netloc}{url.path}"
    assert {
        "response_type": ["code"],
        "client_id": ["id 1"],
        "redirect_uri": ["https://my.app/cb"],
        "scope": ["read write"],
        "access_type": ["offline"],
        "state": ["xyz"],
    } == parse_qs(url.query)
    with pytest.raises(Invalid, match=r"configuration\.oauth\.api\.key"):
        shop.authorize_url({}, state=None)
    with pytest.raises(Invalid, match="does not use OAuth 2"):
        element(API).authorize_url(CLIENT, state=None)


def token(shop: Defined, answer: Any, *, refresh: bool = False, status: int = 200):
    """What an exchange or a refresh against a token endpoint with this *answer* gives, and the form it was sent."""
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(await request.post(), authorization=request.headers.get("Authorization"))
        if isinstance(answer, str):
            return web.Response(text=answer, status=status)
        return web.json_response(answer, status=status)

    async def main() -> dict[str, str] | None:
        async with serving(handler) as origin, Client() as client:
            known = {
                **CLIENT,
                "oauth.token.url": f"{origin}/token",
                "oauth.user.refresh_token": "old",
            }
            if refresh:
                return await shop.refresh(client, known)
            return await shop.exchange(client, known, "c0de", {})

    return asyncio.run(main()), seen


ANSWER = {
    "access_token": "a1",
    "token_type": "Bearer",
    "expires_in": 300,
    "refresh_token": "r1",
    "scope": "less",
}


def test_a_code_is_exchanged():
    """The form holds client, code and redirect address; tokens and their life come back as settings."""
    kept, sent = token(element(API, OAUTH), ANSWER)

    assert {
        "oauth.user.token": "a1",
        "oauth.user.refresh_token": "r1",
        "oauth.user.refresh_interval": "300",
    } == kept
    assert {
        "grant_type": "authorization_code",
        "code": "c0de",
        "redirect_uri": "https://my.app/cb",
        "client_id": "id 1",
        "client_secret": "s&cret",
        "authorization": None,
    } == sent


def test_a_client_may_prove_itself_by_basic():
    """client = "basic": the secret stands in the header and not in the form."""
    _, sent = token(element(API, OAUTH, 'client = "basic"'), ANSWER)

    assert "client_secret" not in sent
    assert "Basic " + b64encode(b"id 1:s&cret").decode() == sent["authorization"]


def test_a_refresh_keeps_the_old_token_where_no_new_one_comes():
    """A provider that does not rotate sends none: the one there is stays."""
    kept, sent = token(
        element(API, OAUTH), {"access_token": "a2", "token_type": "bearer"}, refresh=True
    )

    assert {"oauth.user.token": "a2"} == kept
    assert ("refresh_token", "old") == (sent["grant_type"], sent["refresh_token"])


@pytest.mark.parametrize("refresh", [False, True])
def test_what_the_token_endpoint_refuses_is_unauthorized(refresh: bool):  # noqa: FBT001 — pytest gives it by name
    """invalid_grant means that a person must grant access again, and the provider's words say so."""
    answer = {"error": "invalid_grant", "error_description": "used before"}
    with pytest.raises(Unauthorized, match="used before"):
        token(element(API, OAUTH), answer, refresh=refresh, status=400)


@pytest.mark.parametrize(
    "answer",
    ["<html>", {"token": "x-secret"}, {"access_token": "", "id": "x-secret"}, '{"error": "x"}'],
)
def test_an_answer_without_tokens_is_refused(answer: Any):
    """What cannot be read is not quoted: it may hold a token."""
    with pytest.raises(Refused) as caught:
        token(element(API, OAUTH), answer)

    assert "x-secret" not in str(caught.value)


def test_without_a_refresh_token_nothing_is_refreshed():
    """None: there is nothing to be had, and the `Unauthorized` stands."""

    async def main() -> tuple[Any, Any]:
        async with Client() as client:
            return (
                await element(API, OAUTH).refresh(client, CLIENT),
                await element(API).refresh(client, {"oauth.user.refresh_token": "r"}),
            )

    assert (None, None) == asyncio.run(main())
