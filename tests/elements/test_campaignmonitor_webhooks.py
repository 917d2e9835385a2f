"""The campaignmonitor element's webhooks: what they say, having them, and what they are to a poll."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from elements.campaignmonitor.account import KEY, START, connected, element, incoming, opened
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from daemon.elements.connection import Connection
from daemon.elements.simulators.campaignmonitor.lists import Hook
from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor
from daemon.elements.simulators.ledger import Clock
from daemon.errors import Invalid, Refused, Transient
from daemon.model import ChangeType
from daemon.store import vault

BODIES = Path(__file__).parent / "campaignmonitor"
ONE = "96c0bbdaa54760c8d9e62a2b7ffa2e13"
ELEMENT = element("http://127.0.0.1:1")
Run = Callable[..., Any]


def of(column: str) -> Any:
    """The mark that a test proves a cell of the table of elements."""
    return pytest.mark.element("campaignmonitor", column)


@of("webhook")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("subscribe", [(ChangeType.CREATED, "test@example.org")]),
        ("update", [(ChangeType.UPDATED, "test@example.org")]),
        ("deactivate", [(ChangeType.UPDATED, "example@example.com")]),
    ],
)
def test_recorded_webhooks(name: str, expected: list[tuple[ChangeType, str]]):
    """The documents' bodies: what they say of whom; they are hints, and their dates without a zone are none."""
    body = (BODIES / f"{name}.json").read_bytes()
    received = ELEMENT.receive(incoming(body), KEY)

    assert received.hint
    assert body == received.raw
    assert [(c, f"{ONE}/{who}") for c, who in expected] == [
        (event.change, event.object_id) for event in received.events
    ]
    assert {(None, None, "subscribers")} == {
        (event.changed, event.route, event.object_type) for event in received.events
    }
    assert received == ELEMENT.receive(incoming(body), None)


def made(**facts: Any) -> bytes:
    """A webhook with one event."""
    event = {"Type": "Update", "EmailAddress": "a@example.com", "State": "Active", **facts}
    return json.dumps({"Events": [event], "ListID": ONE}).encode()


def test_events_by_themselves():
    """A changed address is one gone and one come, however it is written; deleted is deleted; each event has its identity."""

    def told(**facts: Any) -> list[tuple[str, str]]:
        events = ELEMENT.receive(incoming(made(**facts)), None).events
        return [(event.change.value, event.object_id.partition("/")[2]) for event in events]

    assert [("DELETED", "old@example.com"), ("CREATED", "a@example.com")] == told(
        OldEmailAddress="Old@example.com"
    )
    assert [("UPDATED", "a@example.com")] == told(OldEmailAddress="A@Example.com")
    assert [("DELETED", "a@example.com")] == told(Type="Deactivate", State="Deleted")
    assert [("UPDATED", "a@example.com")] == told(Type="Deactivate", State="Bounced")
    assert [("UNKNOWN", "a@example.com")] == told(Type="Opened")
    identities = {
        event.identity
        for facts in ({}, {"Name": "x"}, {"Date": "2026-11-20 10:00:00"})
        for event in ELEMENT.receive(incoming(made(**facts)), None).events
    }
    assert 3 == len(identities)


def test_a_list_that_is_not_watched_is_not_heard():
    """With list.ids, what a webhook says of another list is left out."""
    settings = {**KEY, "list.ids": "f" * 32}

    assert () == ELEMENT.receive(incoming(made()), settings).events
    assert 1 == len(ELEMENT.receive(incoming(made()), {**KEY, "list.ids": ONE.upper()}).events)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"{}", b'{"Events": {}, "ListID": "x"}', b'{"Events": [], "ListID": "../.."}',
        b'{"Events": []}', made(EmailAddress=""), made(EmailAddress=None), made(EmailAddress=7),
        json.dumps({"Events": [7], "ListID": ONE}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_webhook_is_refused(body: bytes):
    """A body without events, list or address cannot be read; nothing of it is taken."""
    with pytest.raises(Invalid):
        ELEMENT.receive(incoming(body), KEY)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["Events", "ListID", "EmailAddress", "Type", "State", "OldEmailAddress"]), inner | st.just(ONE))))  # fmt: skip
def test_any_json_is_read_or_refused(body: Any):
    """Whatever stands in the body, the answer is events or Invalid."""
    with suppress(Invalid):
        ELEMENT.receive(incoming(json.dumps(body).encode()), KEY)


def hooks(provider: CampaignMonitor) -> dict[str, list[tuple[str, str, str]]]:
    """(address, status, events) of each list's webhooks."""
    return {
        one.id: [(hook.url, hook.status, ",".join(hook.events)) for hook in one.hooks.values()]
        for one in provider.lists.values()
    }


def test_tending_has_one_webhook_for_every_list(dsn: str, keys: vault.Keys, run: Run):
    """Registered where missing, revived where deactivated, once where twice, moved when the address is, others' left alone."""
    clock = Clock(START)
    provider = CampaignMonitor(now=clock)

    async def main() -> None:
        async with opened(dsn, keys, provider, clock) as account:
            every = "Subscribe,Update,Deactivate"
            kept = await account.tend()
            assert {provider.list_id: [(account.address, "Active", every)]} == hooks(provider)
            assert provider.list_id in kept["webhook.ids"]
            assert {} == await account.tend()

            provider.deactivate()
            second = provider.mailing_list("Second")
            [one] = (each for each in provider.lists.values() if each.id == second)
            others = Hook(["Subscribe"], "https://elsewhere.example/hook", "json")
            partly = Hook(["Subscribe"], account.address, "json")
            xml = Hook(every.split(","), account.address, "xml")
            stale = Hook(every.split(","), account.address + "x", "json")
            one.hooks |= {hook.id: hook for hook in (others, partly, xml, stale)}
            await account.tend()
            assert [(account.address, "Active", every)] == hooks(provider)[provider.list_id]
            assert {(others.url, "Active", "Subscribe"), (account.address, "Active", every)} == set(
                hooks(provider)[second]
            )

            # A daemon that has moved knows its own by their ids.
            account.address = "https://new.example/events/campaignmonitor/MQ==.s"
            await account.tend()
            assert [(account.address, "Active", every)] == hooks(provider)[provider.list_id]
            known = {**(await account.connection()).settings, "event.vendor.type": "polling"}
            connection = await account.connection()
            assert {"webhook.ids": ""} == await account.element.tend(connection, known, account.address)  # fmt: skip
            assert [[], [(others.url, "Active", "Subscribe")]] == list(hooks(provider).values())

    run(main())


def test_a_list_that_refuses_does_not_keep_the_others_from_theirs():
    """An address that the provider refuses is named with its list and its code; trouble that passes is raised as such."""

    async def test(provider: CampaignMonitor, one: Any, connection: Connection) -> None:
        settings = {**connection.settings, "event.notification.enabled": "true"}
        with pytest.raises(Refused, match=rf"list {provider.list_id}.*601"):
            await one.tend(connection, settings, "nowhere/x.y")
        provider.fail(503)
        with pytest.raises(Transient):
            await one.tend(connection, settings, "https://t.example/x.y")

    connected(test)


# Polls and webhooks together.


@of("created")
@of("updated")
def test_a_webhook_has_the_next_poll_read_whom_it_names(dsn: str, keys: vault.Keys, run: Run):
    """An edit and a changed address leave no date: the webhook makes the next poll read them, once, and nothing else."""
    clock = Clock(START)
    provider = CampaignMonitor(gather=0.0, now=clock)
    for name in ("ann", "bob"):
        provider.create(f"{name}@example.com", name=name)

    async def main() -> None:
        async with opened(dsn, keys, provider, clock) as account:
            clock.advance(4 * 3600)
            await account.tend()
            await account.poll()
            clock.advance(60)
            provider.requests.clear()
            provider.update("ann@example.com", name="Ann")
            provider.update("bob@example.com", address="rob@example.com")
            await provider.posts.posted()
            assert account.knocks
            await account.poll()
            assert {
                ("UPDATED", "ann@example.com"), ("DELETED", "bob@example.com"), ("CREATED", "rob@example.com"),
            } == set(await account.told())  # fmt: skip
            paths = [path for _, path in provider.requests]
            assert 3 == len(paths)
            assert all("/subscribers/" in path for path in paths)
            provider.requests.clear()
            await account.poll()
            assert not [path for _, path in provider.requests if "/subscribers/" in path]
            assert 3 == len(await account.told())

    run(main())


def test_without_webhooks_a_sweep_finds_edits(dsn: str, keys: vault.Keys, run: Run):
    """An edit is found when the hour is over, and at once by a poller that has just begun, for hints are not kept."""
    clock = Clock(START)
    provider = CampaignMonitor(now=clock)
    provider.create("ann@example.com", name="ann")

    async def main() -> None:
        async with opened(dsn, keys, provider, clock) as account:
            clock.advance(4 * 3600)
            await account.poll()
            provider.update("ann@example.com", name="Ann")
            clock.advance(600)
            await account.poll()
            assert [] == await account.told()
            clock.advance(3600)
            await account.poll()
            assert [("UPDATED", "ann@example.com")] == await account.told()
            provider.update("ann@example.com", name="Anna")
            account.restart()
            await account.poll()
            assert 2 == len(await account.told())

    run(main())


def test_more_hints_than_are_worth_asking_for_become_a_sweep(dsn: str, keys: vault.Keys, run: Run):
    """Three hundred edited in one import: nobody is asked for by himself, all are found in a few pages."""
    clock = Clock(START)
    provider = CampaignMonitor(gather=0.0, now=clock)
    people = [f"s{number}@example.com" for number in range(300)]
    for address in people:
        provider.create(address)

    async def main() -> None:
        async with opened(dsn, keys, provider, clock) as account:
            clock.advance(4 * 3600)
            await account.tend()
            await account.poll()
            clock.advance(60)
            for address in people:
                provider.update(address, name="edited")
            await provider.posts.posted()
            provider.requests.clear()
            await account.poll()
            assert {("UPDATED", address) for address in people} == set(await account.told())
            assert not [path for _, path in provider.requests if "/subscribers/" in path]

    run(main())


def test_a_failed_poll_keeps_its_hints(dsn: str, keys: vault.Keys, run: Run):
    """What a webhook named is still named when the provider could not answer."""
    clock = Clock(START)
    provider = CampaignMonitor(gather=0.0, now=clock)
    provider.create("ann@example.com", name="ann")

    async def main() -> None:
        async with opened(dsn, keys, provider, clock) as account:
            clock.advance(4 * 3600)
            await account.tend()
            await account.poll()
            provider.update("ann@example.com", name="Ann")
            await provider.posts.posted()
            provider.fail(500)
            await account.poll()
            assert await account.trouble()
            await account.poll()
            assert [("UPDATED", "ann@example.com")] == await account.told()

    run(main())


def test_webhooks_alone_are_taken_as_they_are(dsn: str, keys: vault.Keys, run: Run):
    """With event.vendor.type webhooks nothing is polled: the events are told, each once, however often it comes."""
    clock = Clock(START)
    provider = CampaignMonitor(gather=0.0, now=clock)

    async def main() -> None:
        async with opened(dsn, keys, provider, clock, event__vendor__type="webhooks") as account:
            await account.tend()
            provider.posts.twice = 3
            provider.create("ann@example.com")
            await provider.posts.posted()
            provider.update("ann@example.com", address="anna@example.com")
            await provider.posts.posted()
            provider.delete("anna@example.com")
            await provider.posts.posted()
            assert [
                ("CREATED", "ann@example.com"), ("DELETED", "ann@example.com"),
                ("CREATED", "anna@example.com"), ("DELETED", "anna@example.com"),
            ] == await account.told()  # fmt: skip
            assert 0 == account.knocks

    run(main())


def test_an_address_without_the_secret_only_knocks(dsn: str, keys: vault.Keys, run: Run):
    """Whoever guesses the id wakes the poller, names nobody to read, and adds nothing."""
    clock = Clock(START)
    provider = CampaignMonitor(now=clock)

    async def main() -> None:
        async with (
            opened(dsn, keys, provider, clock) as account,
            aiohttp.ClientSession() as session,
        ):
            await account.poll()
            body = made().replace(ONE.encode(), provider.list_id.encode())
            bare = account.address.rpartition(".")[0]
            async with session.post(URL(bare, encoded=True), data=body) as answer:
                assert 200 == answer.status
            provider.requests.clear()
            await account.poll()
            assert 1 == account.knocks
            assert not [path for _, path in provider.requests if "/subscribers/" in path]
            assert [] == await account.told()

    run(main())
