"""Accounts are kept: one connection each, tokens alive, webhooks registered; a grant that is lost ends the work aloud."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from heart import opening, until, until_row, writing
from structlog.testing import capture_logs

from daemon import caretaker, webhook_urls
from daemon.caretaker import Caretaker
from daemon.connections import Connections
from daemon.elements import Registry, built_in
from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.elements.simulators.sageone import Sage
from daemon.errors import Transient, Unauthorized
from daemon.model import Instance, Request
from daemon.outbound.client import Client
from daemon.store import database, instances, objects, vault
from daemon.store.directory import Directory
from daemon.store.log import SELF
from daemon.store.writer import Unit, Writer

Run = Callable[..., Any]
PUBLIC = "https://tidings.example.com"
PATCHED = "/v3.1/contacts"


class Tended(Defined):
    """Sage, as if it had webhooks that somebody has to register."""

    tend_interval = 0.02
    tended: list[str]
    fails = 0

    asks = ""
    answered: list[int]

    async def tend(self, http: Http, settings: Settings, address: str) -> Mapping[str, str]:  # type: ignore[override]  # a test's
        """Note the address, or that none is wanted; say an id the first time."""
        wanted = settings.get("event.notification.enabled") == "true"
        self.tended.append(address if wanted else f"not {address}")
        if self.asks:
            self.answered.append((await http.send(Request("GET", self.asks))).status)
        if self.fails:
            self.fails -= 1
            raise Transient("not now")
        return {} if "sage.webhook.id" in settings else {"sage.webhook.id": "w1"}


class World:
    """An account at a simulated Sage, and what keeps it."""

    def __init__(
        self, sage: Sage, element: Tended, directory: Directory, writer: Writer, client: Client
    ) -> None:
        self.sage, self.element, self.directory, self.writer = sage, element, directory, writer
        self.client = client
        registry = Registry([element])
        self.connections = Connections(
            http=client, elements=registry, directory=directory, writer=writer
        )
        self.caretaker = Caretaker(
            directory=directory,
            elements=registry,
            connections=self.connections,
            public_url=PUBLIC,
            chance=lambda: 0.0,
        )
        self.instance: Instance

    async def create(self) -> Instance:
        """An instance whose tokens are good."""
        tokens = await self.element.exchange(self.client, {}, self.sage.grant(), {})
        entry = instances.entry(
            "instance.created",
            instance_id=SELF, organization_id=2, user_id=2, element_key="sageone", hub="finance", name="Sage", tags=(),
            configuration={
                "event.notification.enabled": "true",
                "event.notification.callback.url": "https://app.test/hook",
                **dict.fromkeys(tokens, "********"),
            },
            token_digest=instances.digest(instances.new_token()), disabled=False, callback="https://app.test/hook", resources=("customers",),
        )  # fmt: skip
        receipt = await self.writer.append(Unit([entry], secrets=tokens))
        await self.directory.refresh()
        found = self.directory.get(receipt.position)
        assert found is not None
        self.instance = found
        return found

    def now(self) -> Instance:
        """The instance as the directory has it."""
        found = self.directory.get(self.instance.id)
        assert found is not None
        return found

    async def ask(self) -> int:
        """The status of a request to Sage by the instance's connection."""
        connection = await self.connections.of(self.now())
        url = f"{self.element.definition.connection.base}/contacts"  # type: ignore[union-attr]  # Sage has one
        return (await connection.send(Request("GET", url))).status

    @asynccontextmanager
    async def caring(self) -> AsyncIterator[None]:
        """The caretaker at work; an error that ends it fails the test."""
        task = asyncio.create_task(self.caretaker.run())
        try:
            yield
        finally:
            ended = task.done()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert not ended, "the caretaker ended by itself"


@asynccontextmanager
async def world(
    dsn: str, keys: vault.Keys, *, keep_alive: float = 0.0, tend: float = 0.0
) -> AsyncIterator[World]:
    """An account's surroundings: Sage, a database, a client."""
    sage = Sage()
    async with (
        sage.running() as origin,
        database.open_pool(dsn, size=4) as pool,
        writing(dsn, keys) as writer,
        Client() as client,
    ):
        await writer.append(opening())
        element = Tended(built_in("sageone")._written, stand_in=origin)
        element.answered = []
        element.tended, element.keep_alive, element.tend_interval = [], keep_alive, tend
        directory = Directory(pool=pool, keys=keys)
        await directory.load()
        yield World(sage, element, directory, writer, client)


def test_one_connection_for_all(dsn: str, keys: vault.Keys, run: Run) -> None:
    """Requests of everybody at once refresh an expired token once, for a refresh token is good for one use."""

    async def main() -> None:
        async with world(dsn, keys) as w:
            await w.create()
            w.sage.expire_access()
            assert [200] * 8 == await asyncio.gather(*[w.ask() for _ in range(8)])
            assert 2 == sum(path == "/token" for _, path in w.sage.requests)
            w.sage.expire_access()
            assert 200 == await w.ask()

    run(main())


def test_new_settings_are_used_at_once(dsn: str, keys: vault.Keys, run: Run) -> None:
    """A token that a person puts into the instance is what the next request is signed with."""

    async def main() -> None:
        async with world(dsn, keys) as w:
            instance = await w.create()
            assert 200 == await w.ask()
            w.sage.revoke()
            tokens = await w.element.exchange(w.client, {}, w.sage.grant(), {})
            entry = instances.changed("instance.configured", instance, resources=(), name="again")
            await w.writer.append(Unit([entry], instance_id=instance.id, secrets=tokens))
            await w.directory.refresh()
            assert 200 == await w.ask()
            assert not w.now().disabled

    run(main())


def test_a_grant_that_is_lost_disables_the_instance(dsn: str, keys: vault.Keys, run: Run) -> None:
    """A refresh that is refused for good switches the instance off, with the reason, in the log and for its owner."""

    async def main() -> None:
        async with world(dsn, keys) as w:
            await w.create()
            w.sage.revoke()
            with pytest.raises(Unauthorized):
                await w.ask()
            await w.directory.refresh()
            assert w.now().disabled
            assert "access was not granted" in (w.now().reason or "")
            entry = instances.changed("instance.enabled", w.now(), resources=(), disabled=False)
            await w.writer.append(Unit([entry]))
            await w.directory.refresh()
            assert (False, None) == (w.now().disabled, w.now().reason)

    with capture_logs() as logs:
        run(main())
    [told] = [one for one in logs if one["event"] == "instance disabled"]
    path = f"/elements/api-v2/instances/{told['instance']}"
    assert f"PATCH {path} with a new providerData.code" in told["remedy"]
    assert f"PUT {path}/enabled" in told["remedy"]


def test_who_is_disabled_keeps_what_is_known(dsn: str, keys: vault.Keys, run: Run) -> None:
    """An instance that its element does not understand any more is disabled, and still known is how far it is polled."""

    async def main() -> None:
        async with world(dsn, keys) as w:
            made = await w.create()
            strange = {**made.configuration, "event.objects": "nothing"}
            entry = instances.changed(
                "instance.configured", made, resources=("customers",), configuration=strange
            )
            polled = objects.poll_entry(
                "poll.baseline", made.id, "customers", cursor=made.created, baseline=made.created
            )
            await w.writer.append(Unit([entry, polled], instance_id=made.id))
            await w.connections.disable(made.id, "access was not granted")
            await w.directory.refresh()
            assert w.now().disabled
            assert ["customers"] == await w.directory.polled_so_far(made.id)

    run(main())


def test_a_provider_that_is_away_disables_nobody(dsn: str, keys: vault.Keys, run: Run) -> None:
    """A token address that answers 503 is trouble for now: the instance stays, and the next try may work."""

    async def main() -> None:
        async with world(dsn, keys) as w:
            await w.create()
            w.sage.expire_access()
            refresh, w.element.refresh = w.element.refresh, _away  # type: ignore[method-assign]  # a provider that is away
            with pytest.raises(Transient):
                await w.ask()
            await w.directory.refresh()
            assert not w.now().disabled
            w.element.refresh = refresh  # type: ignore[method-assign]  # it is back
            assert 200 == await w.ask()

    run(main())


async def _away(http: Http, settings: Settings) -> dict[str, str] | None:
    raise Transient("503")


def test_idle_tokens_are_kept_alive(dsn: str, keys: vault.Keys, run: Run) -> None:
    """Tokens that nothing needs are refreshed at the element's interval, and what comes back is kept."""

    async def main() -> None:
        async with world(dsn, keys, keep_alive=0.05) as w:
            async with w.caring():
                await w.create()
                await until(lambda: sum(path == "/token" for _, path in w.sage.requests) >= 4)
            w.sage.tokens.access.clear()
            assert 200 == await w.ask()

    run(main())


def test_a_lost_grant_is_noticed_while_idle(dsn: str, keys: vault.Keys, run: Run) -> None:
    """An account whose grant was taken back is switched off by the caretaker, before anybody misses its changes."""

    async def main() -> None:
        async with world(dsn, keys, keep_alive=0.05) as w:
            await w.create()
            w.sage.revoke()
            async with w.caring():
                await until_row(
                    w.directory._pool, "SELECT disabled FROM instances WHERE id = $1", w.instance.id
                )
            await w.directory.refresh()
            assert "access was not granted" in (w.now().reason or "")

    run(main())


def test_webhooks_are_tended(dsn: str, keys: vault.Keys, run: Run) -> None:
    """An account's webhooks are registered when it comes, looked after at the interval, and what is to be kept is kept."""

    async def main() -> None:
        async with world(dsn, keys, tend=0.02) as w, w.caring():
            w.element.fails = 0
            instance = await w.create()
            await until(lambda: len(w.element.tended) >= 3)
            assert {
                f"{PUBLIC}/elements/api-v2/events/sageone/{webhook_urls.encode_id(instance.id)}"
            } == set(w.element.tended)
            assert "w1" == (await w.directory.settings(w.now()))["sage.webhook.id"]

    run(main())


def test_trouble_at_one_account(dsn: str, keys: vault.Keys, run: Run) -> None:
    """A provider that cannot now is asked again later; the caretaker goes on with the others."""

    async def main() -> None:
        async with world(dsn, keys, tend=3600) as w:
            w.element.fails = 1
            async with w.caring():
                await w.create()
                await until(lambda: len(w.element.tended) == 1)
                await w.create()
                await until(lambda: len(w.element.tended) == 2)

    run(main())


def address_of(instance: Instance) -> str:
    """Where its webhooks go."""
    return f"{PUBLIC}/elements/api-v2/events/sageone/{webhook_urls.encode_id(instance.id)}"


async def delete(w: World, instance: Instance) -> None:
    """What DELETE /instances/{id} appends: its secrets go with it."""
    entry = instances.changed("instance.deleted", instance, resources=())
    await w.writer.append(Unit([entry], instance_id=instance.id, forget=True))
    await w.directory.refresh()


def test_webhooks_of_a_deleted_instance_are_taken_back(
    dsn: str, keys: vault.Keys, run: Run
) -> None:
    """An instance that is deleted, disabled or not, has its webhooks removed once, by the credentials that it had."""

    async def main() -> None:
        async with world(dsn, keys, tend=3600) as w, w.caring():
            w.element.asks = f"{w.element.definition.connection.base}/contacts"  # type: ignore[union-attr]  # Sage has one
            first, second = await w.create(), await w.create()
            await until(lambda: len(w.element.answered) == 2)
            off = instances.changed("instance.disabled", second, resources=(), disabled=True)
            await w.writer.append(Unit([off], instance_id=second.id))
            await w.directory.refresh()
            await delete(w, first)
            await delete(w, second)
            await until(lambda: len(w.element.answered) == 4)
            unwanted = {f"not {address_of(one)}" for one in (first, second)}
            assert unwanted == set(w.element.tended[2:])
            assert [200] * 4 == w.element.answered
            assert 0 == await w.directory._pool.fetchval("SELECT count(*) FROM vault")
            assert {} == w.caretaker._tended

    run(main())


def test_a_provider_that_does_not_take_webhooks_back(
    dsn: str, keys: vault.Keys, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that fails, or does not answer in time, is asked once; it is logged, and others are looked after."""
    monkeypatch.setattr(caretaker, "LEAVE_MOST", 0.05)

    async def main() -> None:
        async with world(dsn, keys, tend=3600) as w, w.caring():
            first, second = await w.create(), await w.create()
            await until(lambda: len(w.element.tended) == 2)
            with capture_logs() as logs:
                w.element.fails = 1
                await delete(w, first)
                await until(lambda: len(w.element.tended) == 3)
                w.element.asks = f"{w.element.definition.connection.base}/contacts"  # type: ignore[union-attr]  # Sage has one
                w.sage.slow(0.5)
                await delete(w, second)
                await until(lambda: sum("may be left" in one["event"] for one in logs) == 2)
                w.element.asks = ""
                third = await w.create()
                await until(lambda: address_of(third) in w.element.tended)
            said = [one["instance"] for one in logs if "may be left" in one["event"]]
            assert [first.id, second.id] == said

    run(main())


def test_webhooks_are_taken_back_where_events_are_switched_off(
    dsn: str, keys: vault.Keys, run: Run
) -> None:
    """An instance whose events are switched off is tended once more, so that its webhooks go, and then no more."""

    async def main() -> None:
        async with world(dsn, keys, tend=0.02) as w, w.caring():
            instance = await w.create()
            await until(lambda: len(w.element.tended) >= 2)
            configuration = {**instance.configuration, "event.notification.enabled": "false"}
            entry = instances.changed(
                "instance.configured", instance, resources=(), configuration=configuration
            )
            await w.writer.append(Unit([entry], instance_id=instance.id))
            await w.directory.refresh()
            await until(lambda: f"not {address_of(instance)}" in w.element.tended)
            other = await w.create()
            for _ in range(3):
                before = len(w.element.tended)
                await until(lambda before=before: len(w.element.tended) > before)
            assert 1 == w.element.tended.count(f"not {address_of(instance)}")
            assert address_of(other) == w.element.tended[-1]

    run(main())
