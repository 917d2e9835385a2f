"""One instance's connection: signing, and refreshing in every order of events, against a simulated Sage."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.elements import built_in
from daemon.elements.connection import Connection
from daemon.elements.defined import Defined
from daemon.elements.loading import parse
from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.sageone import Sage
from daemon.errors import Outage, Transient, Unauthorized
from daemon.model import Request, Response
from daemon.outbound.client import Client


class Vault:
    """Where tokens are kept; remembers what was saved and the requests the provider had seen by then."""

    def __init__(self, sage: Sage) -> None:
        self.saved: list[dict[str, str]] = []
        self.seen: list[int] = []
        self.down = False
        self.asked = asyncio.Event()
        self._sage = sage

    async def save(self, settings: dict[str, str]) -> None:
        """Keep, or fail while *down*."""
        if self.down:
            raise Outage("the database is away")
        self.asked.set()
        await asyncio.sleep(0)
        self.saved.append(settings)
        self.seen.append(len(self._sage.requests))


Test = Callable[[Connection, Sage, Vault, str], Awaitable[Any]]


def connected(test: Test, **options: Any) -> Any:
    """Run *test* with a connection to a simulated Sage whose code was exchanged."""

    async def main() -> Any:
        sage = Sage()
        async with sage.running() as origin, Client() as client:
            element = built_in("sageone").beside(origin)
            settings = {"oauth.api.key": "id", "oauth.api.secret": "secret"}
            settings |= await element.exchange(client, settings, sage.grant(), {})
            vault = Vault(sage)
            connection = Connection(
                http=options.get("http", client),
                element=element,
                settings=settings,
                save=vault.save,
            )
            return await test(connection, sage, vault, f"{origin}/v3.1/contacts")

    return asyncio.run(main())


def test_requests_are_signed():
    """With a good token a request needs nothing else."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> int:
        return (await connection.send(Request("GET", url))).status

    assert 200 == connected(test)


def test_an_expired_token_is_refreshed_once_and_saved_before_use():
    """The rotated tokens are durable before any request carries them; the caller sees only the answer."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> tuple[Any, ...]:
        before = connection.settings["oauth.user.refresh_token"]
        sage.expire_access()
        status = (await connection.send(Request("GET", url))).status
        return status, before, connection.settings, vault, list(sage.requests)

    status, before, settings, vault, requests = connected(test)

    assert 200 == status
    assert (
        [vault.saved[0]["oauth.user.refresh_token"]]
        == [settings["oauth.user.refresh_token"]]
        != [before]
    )
    # code exchange, the refused GET, the refresh; and only then the GET with the new token
    assert [3] == vault.seen
    assert ["/token", "/v3.1/contacts", "/token", "/v3.1/contacts"] == [
        path for _, path in requests
    ]


def test_many_requests_share_one_refresh():
    """A refresh token is good for one use: whoever finds the token expired waits for the one refresh."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> tuple[Any, ...]:
        sage.expire_access()
        answers = await asyncio.gather(*(connection.send(Request("GET", url)) for _ in range(8)))
        return {answer.status for answer in answers}, vault, list(sage.requests)

    statuses, vault, requests = connected(test)

    assert {200} == statuses
    assert 1 == len(vault.saved)
    assert 2 == [path for _, path in requests].count("/token")


def test_a_grant_taken_back_is_unauthorized():
    """When the refresh is refused for good, the caller hears that a person must act, once, and nothing is saved."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> Vault:
        sage.revoke()
        with pytest.raises(Unauthorized, match="access was not granted"):
            await connection.send(Request("GET", url))
        return vault

    assert [] == connected(test).saved


def test_a_token_that_does_not_help_is_unauthorized():
    """One refresh, one more try, then the error; no loop."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> int:
        sage.fail(401, times=2)
        with pytest.raises(Unauthorized):
            await connection.send(Request("GET", url))
        return len(sage.requests)

    assert 4 == connected(test)


def test_what_cannot_be_saved_is_not_used_and_not_lost():
    """With the database away the new tokens wait here, and are saved, not refreshed again, when it is back."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> tuple[Any, ...]:
        sage.expire_access()
        vault.down = True
        for _ in range(2):
            with pytest.raises(Outage):
                await connection.send(Request("GET", url))
        vault.down = False
        status = (await connection.send(Request("GET", url))).status
        return status, vault, [path for _, path in sage.requests].count("/token")

    status, vault, refreshes = connected(test)

    assert 200 == status
    assert 1 == len(vault.saved)
    assert 2 == refreshes  # the code exchange and one refresh


def test_a_cancelled_caller_leaves_no_token_behind():
    """Cancelled in the middle of a refresh, the caller ends cancelled, and the rotated token is saved all the same."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> tuple[Any, ...]:
        sage.expire_access()
        used = connection.settings
        task = asyncio.create_task(connection.send(Request("GET", url)))
        await vault.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        saved, newer = len(vault.saved), connection.settings != used
        return saved, newer, (await connection.send(Request("GET", url))).status

    saved, newer, status = connected(test)

    assert 1 == saved
    assert newer
    assert 200 == status


def test_other_errors_pass_through():
    """What is not about credentials is not the connection's business."""

    async def test(connection: Connection, sage: Sage, vault: Vault, url: str) -> float | None:
        sage.fail(429, retry_after="30")
        with pytest.raises(Transient) as caught:
            await connection.send(Request("GET", url))
        return caught.value.retry_after

    assert 30.0 == connected(test)


class Slow:
    """An Http that notes when each request was sent."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def send(self, request: Request) -> Response:
        """Answer at once."""
        self.times.append(asyncio.get_running_loop().time())
        return Response(200, {}, b"[]")


def test_requests_keep_the_elements_pace():
    """Requests of one instance take turns `pace` seconds apart, however many ask at once; none leaves before its turn."""
    shop = parse(
        'id = 1000\nkey = "shop"\nname = "Shop"\n[connection]\nbase = "https://x.example"\npace = 0.03',
        Path("shop.toml"),
    )
    http = Slow()

    async def save(settings: dict[str, str]) -> None:
        raise AssertionError

    async def main(element: Defined) -> None:
        connection = Connection(http=http, element=element, settings={}, save=save)
        await asyncio.gather(
            *(connection.send(Request("GET", "https://x.example/a")) for _ in range(4))
        )

    asyncio.run(main(shop))

    assert 4 == len(http.times)
    assert all(at - http.times[0] >= turn * 0.03 - 0.001 for turn, at in enumerate(http.times))


def test_a_clock_decides_when_sages_tokens_expire():
    """The simulator's own clock: 300 seconds are good, 301 are not; a refresh makes good again."""

    async def main() -> list[int]:
        clock = Clock(datetime(2026, 11, 20, 10, tzinfo=UTC))
        sage = Sage(now=clock)
        async with sage.running() as origin, Client() as client:
            element = built_in("sageone").beside(origin)
            tokens = await element.exchange(client, {}, sage.grant(), {})
            vault = Vault(sage)
            connection = Connection(http=client, element=element, settings=tokens, save=vault.save)
            saved = []
            for seconds in (300, 1, 300, 1):
                clock.advance(seconds)
                await connection.send(Request("GET", f"{origin}/v3.1/contacts"))
                saved.append(len(vault.saved))
            return saved

    assert [0, 1, 1, 2] == asyncio.run(main())
