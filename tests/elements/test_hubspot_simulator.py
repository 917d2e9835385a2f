"""What the simulated HubSpot does on request, by HTTP, as somebody at a command line uses it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from servers import serving

from daemon.elements.simulators.hubspot.filters import (
    test_of as fits,
)  # its name looks like a test's
from daemon.elements.simulators.hubspot.server import CLIENT_SECRET, PRIVATE_TOKEN, HubSpot

BEARER = {"Authorization": f"Bearer {PRIVATE_TOKEN}"}


class Caller:
    """A client of the simulator."""

    def __init__(self, origin: str, session: aiohttp.ClientSession) -> None:
        self.origin, self.session = origin, session

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Status and JSON of one request."""
        async with self.session.request(
            method, self.origin + path, json=body, headers=headers, allow_redirects=False
        ) as answer:
            data = await answer.json() if answer.content_type == "application/json" else None
            return answer.status, data, answer.headers


def with_caller(test: Any) -> None:
    """Run *test* with a client, and an address that takes webhooks."""
    seen: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.Response()

    async def main() -> None:
        simulated = HubSpot(waits=[0.01])
        async with (
            simulated.running() as origin,
            serving(take) as there,
            aiohttp.ClientSession() as session,
        ):
            await test(Caller(origin, session), simulated, there, seen)

    asyncio.run(main())


def test_records_live_and_die_by_http():
    """Create, change, merge, delete and restore without a token; webhooks go where they are sent."""

    async def test(call: Caller, simulated: HubSpot, there: str, seen: list[Any]) -> None:
        hook = {"url": there, "duplicates": 1}
        assert 200 == (await call("PUT", "/simulator/webhook", hook))[0]
        status, one, _ = await call("POST", "/simulator/deals", {"dealname": "One", "kind": "x"})
        assert (201, "One") == (status, one["properties"]["dealname"])
        _, two, _ = await call("POST", "/simulator/deals", {"dealname": "Two"})
        path = f"/simulator/deals/{one['id']}"
        assert 200 == (await call("PUT", path, {"amount": 5}))[0]
        assert 204 == (await call("DELETE", path))[0]
        assert 200 == (await call("POST", f"{path}/restore"))[0]
        assert 404 == (await call("POST", f"{path}/restore"))[0]
        merge = {"primaryObjectId": one["id"], "objectIdToMerge": two["id"], "asNew": True}
        _, left, _ = await call("POST", "/simulator/deals/merge", merge)
        assert left["id"] not in (one["id"], two["id"])
        assert 404 == (await call("POST", "/simulator/deals/merge", merge))[0]
        assert 404 == (await call("PUT", path, {"amount": 6}))[0]
        await simulated.webhooks.posted()
        kinds = [event["subscriptionType"] for batch in seen for event in batch]
        assert {"creation", "propertyChange", "deletion", "restore", "merge"} == {
            kind.partition(".")[2] for kind in kinds
        }
        _, told, _ = await call("GET", "/simulator/deliveries")
        assert len(seen) == len(told)
        assert {"attempt": 0, "events": 1, "outcome": 200} == told[0] == told[1]

    with_caller(test)


def test_faults_by_http():
    """Failures, slowness, a lagging index, limits with their headers, expired tokens: all on request."""

    async def test(call: Caller, simulated: HubSpot, there: str, seen: list[Any]) -> None:
        contacts = "/crm/v3/objects/contacts"
        status, _, headers = await call("GET", contacts, **BEARER)
        assert (200, "110") == (status, headers["X-HubSpot-RateLimit-Max"])
        faults = {"status": 429, "times": 1, "retryAfter": 7, "slow": 0.001, "lag": 60, "limit": 2}
        assert 204 == (await call("PUT", "/simulator/faults", faults))[0]
        status, said, headers = await call("GET", contacts, **BEARER)
        assert (429, "7", "RATE_LIMIT") == (status, headers["Retry-After"], said["errorType"])
        await call("POST", "/simulator/contacts", {"email": "ann@example.com"})
        search = {"limit": 10}
        assert 0 == (await call("POST", f"{contacts}/search", search, **BEARER))[1]["total"]
        left = [(await call("GET", contacts, **BEARER)) for _ in range(3)]
        assert [200, 200, 429] == [one[0] for one in left]
        assert "0" == left[1][2]["X-HubSpot-RateLimit-Remaining"]
        assert "TEN_SECONDLY_ROLLING" == left[2][1]["policyName"]

        simulated.limit = None
        code = simulated.grant()
        form = {"grant_type": "authorization_code", "code": code, "client_secret": "hubspot-secret"}
        async with call.session.post(f"{call.origin}/oauth/2026-03/token", data=form) as answer:
            token = (await answer.json())["access_token"]
        mine = {"Authorization": f"Bearer {token}"}
        assert 200 == (await call("GET", "/crm/objects/2026-03/contacts", **mine))[0]
        assert 204 == (await call("POST", "/simulator/expire"))[0]
        assert 401 == (await call("GET", contacts, **mine))[0]
        assert 401 == (await call("GET", f"{contacts}?hapikey=x", **BEARER))[0]
        assert {"method": "GET", "path": contacts} in (await call("GET", "/simulator/requests"))[1]

    with_caller(test)


def test_a_person_installs_the_app():
    """The authorize address leads back with a code and the state; it wants scopes, as HubSpot does."""

    async def test(call: Caller, simulated: HubSpot, there: str, seen: list[Any]) -> None:
        ask = "/oauth/authorize?client_id=x&redirect_uri=https://app.example/back"
        assert 400 == (await call("GET", f"{ask}&state=s1"))[0]
        status, _, headers = await call("GET", f"{ask}&state=s1&scope=oauth")
        assert 302 == status
        assert headers["Location"].startswith("https://app.example/back?code=")
        assert headers["Location"].endswith("&state=s1")

    with_caller(test)


def test_a_refresh_token_outlives_an_absence():
    """HubSpot's refresh tokens last until the app is uninstalled: after two months of silence one still refreshes."""

    async def main() -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        simulated = HubSpot(now=lambda: moment)
        async with simulated.running() as origin, aiohttp.ClientSession() as session:
            form = {"client_id": "id", "client_secret": CLIENT_SECRET}
            asked = {
                **form,
                "grant_type": "authorization_code",
                "code": simulated.grant("https://a.test"),
            }
            asked["redirect_uri"] = "https://a.test"
            async with session.post(f"{origin}/oauth/v1/token", data=asked) as answer:
                given = await answer.json()
            for _ in range(3):
                moment += timedelta(days=60)
                asked = {
                    **form,
                    "grant_type": "refresh_token",
                    "refresh_token": given["refresh_token"],
                }
                async with session.post(f"{origin}/oauth/v1/token", data=asked) as answer:
                    assert answer.status == 200, await answer.text()
                    assert (await answer.json())["access_token"] != given["access_token"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 201},
        {"after": "9999", "limit": 2},
        {"sorts": [{"propertyName": "a"}, {"propertyName": "b"}]},
        {"filterGroups": [{"filters": [{"propertyName": "a", "operator": "EQ"}]}]},
        {"filterGroups": [{"filters": [{"propertyName": "a", "operator": "IS", "value": "1"}]}]},
        {"filterGroups": [{"filters": [{"propertyName": "a", "operator": "HAS_PROPERTY"}] * 7}]},
        {"filterGroups": [{"filters": []}] * 6},
        {"properties": ["p" * 3000]},
    ],
)
def test_searches_that_hubspot_refuses(body: dict[str, Any]):
    """Over the limits, or a filter without a value: 400, in HubSpot's words."""

    async def test(call: Caller, simulated: HubSpot, there: str, seen: list[Any]) -> None:
        simulated.create("contacts", a="1")
        status, said, _ = await call("POST", "/crm/v3/objects/contacts/search", body, **BEARER)
        assert (400, "VALIDATION_ERROR") == (status, said["category"])

    with_caller(test)


@pytest.mark.parametrize(
    ("value", "operator", "wanted", "right"),
    [
        ("2", "BETWEEN", {"value": "1", "highValue": "3"}, True),
        ("4", "BETWEEN", {"value": "1", "highValue": "3"}, False),
        ("10", "GT", {"value": "9"}, True),  # by number, not by text
        ("b", "LT", {"value": "C"}, True),
        ("a", "IN", {"values": ["A", "b"]}, True),
        (None, "NEQ", {"value": "a"}, True),
        ("Annabel", "CONTAINS_TOKEN", {"value": "*nab*"}, True),
        ("", "HAS_PROPERTY", {}, False),
        ("2026-01-31T12:00:00.000Z", "GTE", {"value": "1769860800000"}, True),
    ],
)
def test_filters(value: Any, operator: str, wanted: dict[str, Any], *, right: bool):
    """Numbers compare as numbers, texts without case, moments in Unix milliseconds."""

    class Row:
        def value(self, name: str, modified: str) -> Any:
            return value

    assert right is fits({"propertyName": "a", "operator": operator, **wanted}, "m")(Row())
