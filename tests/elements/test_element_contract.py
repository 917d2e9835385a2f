"""What holds for every element in the registry, and for the replacements that the simulators give."""

import asyncio

import pytest
from multidict import CIMultiDict

from daemon.elements import built_in, load
from daemon.elements.base import Element
from daemon.errors import BadSignature, Invalid
from daemon.model import Incoming, Query, Request
from daemon.outbound.client import Client
from daemon.plans import compile_plans

ELEMENTS = [
    *load().all(),
    built_in("sageone").beside("http://127.0.0.1:1"),
    built_in("workshop").beside("http://127.0.0.1:1"),
]
TYPES = {"TEXTFIELD_32", "TEXTFIELD_1000", "PASSWORD", "BOOLEAN", "NUMBER", "TEXTAREA"}
each = pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.key)


def filled(element: Element) -> dict[str, str]:
    """A value for every parameter that has a usual one, is required, an address or a secret."""
    given = {
        one.key: one.default or "https://value.example"
        for one in element.parameters
        if one.default or one.required or one.secret or one.key.endswith(".url")
    }
    return {"authentication.type": "none", **given} if element.key == "rest" else given


@each
def test_it_is_described(element: Element):
    """An integrator can choose it: name, hub and description; every parameter named once, with a known type."""
    keys = [one.key for one in element.parameters]

    assert element.name
    assert element.hub
    assert element.description
    assert len(set(keys)) == len(keys)
    assert {one.type for one in element.parameters} <= TYPES
    assert all(one.name for one in element.parameters)
    assert element.polls or element.hooks


@each
def test_its_secrets_are_secret(element: Element):
    """What is called password, token, secret or key is kept in the vault, and has no default."""
    for one in element.parameters:
        if one.key.rpartition(".")[2] in ("password", "token", "secret", "key"):
            assert one.secret, one.key
        assert not (one.secret and one.default), one.key
    assert {one.key for one in element.parameters if one.secret} <= element.secrets
    assert not element.oauth or {"oauth.user.token", "oauth.user.refresh_token"} <= element.secrets


@each
def test_its_settings_are_checked(element: Element):
    """With what is required filled in nothing is wrong; without the required ones each is named."""
    element.check_settings(filled(element))
    required = {
        f"configuration.{one.key}" for one in element.parameters if one.required and not one.default
    }
    if required:
        with pytest.raises(Invalid) as caught:
            element.check_settings({})

        assert required == set(caught.value.problems)


@each
def test_its_own_poller_configuration_can_be_asked(element: Element):
    """The defaults compile, and the element can answer every query that they make."""
    for plan in compile_plans({}, element.poller_defaults):
        from datetime import UTC, datetime

        moment = datetime(2026, 11, 20, 10, tzinfo=UTC)
        element.check_query(plan.query(moment, moment))
    assert set(element.poller_defaults) <= set(element.resources)


@each
def test_signing_changes_no_more_than_it_must(element: Element):
    """Method and body stay; without credentials nothing is added."""
    request = Request("GET", "https://api.example/x?a=1", {"Accept": "application/json"}, b"body")
    signed = element.sign(request, filled(element))

    assert (request.method, request.body) == (signed.method, signed.body)
    assert request.headers.items() <= signed.headers.items()
    assert request == element.sign(request, {})


@each
def test_a_webhook_without_proof_is_refused(element: Element):
    """Whoever does not sign is not believed, with and without an instance; an element without webhooks takes none.

    Where the provider does not sign the proof is the address, and that is the intake's to see (tests/webhooks).
    """
    if element.unguessable:
        return
    incoming = Incoming(
        "POST", "/events/x", "https://t.example/events/x", CIMultiDict(), {}, b'{"events": []}'
    )
    for settings in (None, {}, filled(element)):
        with pytest.raises(BadSignature if element.hooks else Invalid):
            element.receive(incoming, settings)
    assert element.handshake(incoming, None) is None


@each
def test_what_it_cannot_find_out_it_says(element: Element):
    """For a resource that is not described: no inventory, no channel, no mark, and no request for any of it."""

    async def main() -> None:
        if not element.polls:
            return
        async with Client() as client:
            try:
                element.check_query(Query("unheard_of"))
            except Invalid:
                return
            known = filled(element)
            assert element.inventory(client, known, "unheard_of") is None
            assert await element.gone(client, known, "unheard_of", "1") is None
            assert element.deleted("unheard_of", {"deleted": True}) is False

    asyncio.run(main())
