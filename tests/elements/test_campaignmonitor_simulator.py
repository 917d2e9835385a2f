"""The simulated Campaign Monitor itself: its faults, its posts, and what can be done to it by HTTP."""

import asyncio
import base64
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from elements.campaignmonitor.account import START
from servers import serving

from daemon.elements.simulators.campaignmonitor.lists import Hook
from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor
from daemon.elements.simulators.ledger import Clock

EVERY = ["Subscribe", "Update", "Deactivate"]
AUTH = {"Authorization": "Basic " + base64.b64encode(b"campaignmonitor-key:x").decode()}


class Listener:
    """An address that webhooks are posted to."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.bodies: list[Any] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Keep what came."""
        self.bodies.append(await request.json())
        return web.Response(status=self.status)


def hooked(provider: CampaignMonitor, url: str) -> Hook:
    """A webhook for everything, at *url*."""
    hook = Hook(EVERY, url, "json")
    provider.lists[provider.list_id].hooks[hook.id] = hook
    return hook


def test_a_webhook_that_fails_for_a_week_is_given_up():
    """Posts are tried again; after the patience they are not, the webhook is inactive, and what comes then is not kept."""
    clock = Clock(START)
    provider = CampaignMonitor(gather=0.0, waits=(0.0, 0.0), now=clock)
    listener = Listener(503)

    async def main() -> None:
        async with serving(listener.answer) as origin, provider.running():
            hook = hooked(provider, origin)
            provider.create("a@example.com")
            await provider.posts.posted()
            assert (3, "Active") == (len(listener.bodies), hook.status)
            clock.advance(7 * 86400 + 1)
            provider.update("a@example.com", name="A")
            await provider.posts.posted()
            assert (4, "Inactive") == (len(listener.bodies), hook.status)
            provider.update("a@example.com", name="B")
            await provider.posts.posted()
            assert 4 == len(listener.bodies)
            assert {503} == {one.outcome for one in provider.posts.deliveries}

    asyncio.run(main())


def test_an_import_comes_in_batches_of_a_thousand():
    """2,500 subscribed at once are three posts, of at most a thousand events each, of one list."""
    provider = CampaignMonitor(gather=0.01)
    listener = Listener()

    async def main() -> None:
        async with serving(listener.answer) as origin, provider.running():
            hooked(provider, origin)
            for number in range(2500):
                provider.create(f"s{number}@example.com")
            await provider.posts.posted()
            assert [1000, 1000, 500] == [len(body["Events"]) for body in listener.bodies]
            assert {provider.list_id} == {body["ListID"] for body in listener.bodies}

    asyncio.run(main())


def test_posts_come_twice_and_shuffled_on_request():
    """The latest event first, each by itself, the first of them twice."""
    provider = CampaignMonitor(gather=0.01)
    provider.posts.twice, provider.posts.shuffled = 1, True
    listener = Listener()

    async def main() -> None:
        async with serving(listener.answer) as origin, provider.running():
            hooked(provider, origin)
            for name in "abc":
                provider.create(f"{name}@example.com")
            await provider.posts.posted()
            who = [event["EmailAddress"][0] for body in listener.bodies for event in body["Events"]]
            assert ["c", "c", "b", "a"] == who

    asyncio.run(main())


@pytest.mark.parametrize("lag", [0, 30])
def test_readers_see_changes_after_the_lag(lag: float):
    """Whoever came, was edited, renamed or left is seen so much later, and by the dates of when it happened."""
    clock = Clock(START)
    provider = CampaignMonitor(now=clock)
    one = provider.lists[provider.list_id]
    provider.create("a@example.com", name="1")
    provider.create("b@example.com")
    clock.advance(60)
    provider.lag(lag)
    provider.update("a@example.com", name="2")
    provider.update("b@example.com", address="c@example.com")

    def seen() -> list[tuple[str, str]]:
        return [(who.address[0], who.name) for who in one.in_state("Active", None)]

    late = [("a", "1"), ("b", "")]
    now = [("a", "2"), ("c", "")]
    assert (late if lag else now) == seen()
    assert bool(lag) == (one.seen("b@example.com") is not None)
    clock.advance(lag)
    assert now == seen()
    assert one.seen("b@example.com") is None
    provider.create("b@example.com", name="again")
    clock.advance(lag)
    assert {*now, ("b", "again")} == set(seen())


def test_it_is_ruled_by_http():
    """Create, edit, rename, delete and every fault, without credentials; what cannot be done says so."""
    provider = CampaignMonitor(gather=0.0)

    async def main() -> None:
        async with provider.running() as origin, aiohttp.ClientSession(origin) as session:

            async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
                async with session.request(method, f"/simulator/{path}", json=body) as answer:
                    return answer.status, await answer.json() if answer.status != 204 else None

            async def api(path: str) -> int:
                async with session.get(f"/api/v3.3/{path}", headers=AUTH) as answer:
                    return answer.status

            made = {"EmailAddress": "a@example.com", "Name": "A", "CustomFields": [{"Key": "[k]", "Value": "v"}]}  # fmt: skip
            assert (200, {"EmailAddress": "a@example.com", "State": "Active"}) == await call("POST", "subscribers", made)  # fmt: skip
            there = provider.lists[provider.list_id].get("a@example.com")
            assert there is not None
            assert ("A", (("k", "v"),)) == (there.name, there.fields)
            status, shown = await call("PUT", "subscribers/a@example.com", {"EmailAddress": "b@example.com", "State": "Bounced"})  # fmt: skip
            assert (200, "b@example.com", "Bounced") == (status, *shown.values())
            assert 200 == (await call("DELETE", "subscribers/b@example.com"))[0]
            assert (400, 203) == ((answer := await call("PUT", "subscribers/x@y", {"Name": "N"}))[0], answer[1]["Code"])  # fmt: skip
            assert 404 == (await call("POST", "subscribers", {**made, "ListID": "nobody's"}))[0]
            assert 400 == (await call("POST", "subscribers", [1]))[0]

            await call("POST", "fault", {"fail": 429, "times": 2, "retry_after": "1"})
            assert [429, 429, 200] == [await api("clients.json") for _ in range(3)]
            await call("POST", "fault", {"slow": 0.0, "lag": 5, "twice": 1, "shuffled": True, "expire": True, "revoke": True, "deactivate": True})  # fmt: skip
            assert 5 == provider.lists[provider.list_id].lag.total_seconds()
            assert [404, 401] == [await api(path) for path in ("nowhere.json", f"lists/{'f' * 32}.json")]  # fmt: skip
            assert {"GET"} == {one["method"] for one in (await call("GET", "requests"))[1]}
            assert [] == (await call("GET", "deliveries"))[1]

    asyncio.run(main())
