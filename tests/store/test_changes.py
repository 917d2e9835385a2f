"""One change, one entry: however often, by whichever way and in whatever company it is seen."""

import asyncio
from itertools import chain
from typing import Any

import uvloop
from databases import copied
from heart import (
    POLLED,
    change,
    connected,
    create_instance,
    hook,
    opening,
    poll,
    state,
    until,
    writing,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy import Proxy

from daemon.store import objects
from daemon.store.vault import Keys
from daemon.store.writer import Intake, Unit, Writer, _compose

TOLD = "SELECT array_agg(data->>'version' ORDER BY position) FROM log WHERE kind = 'change' AND object_id = $1"


def test_a_version_that_comes_back_is_told(dsn: str, keys: Keys, run: Any) -> None:
    """Polls that show A, A, B, B, A of an object without dates are three changes: A, B and A again."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w)
            receipts = [await w.append(poll(instance, change(1, v))) for v in "AABBA"]
            assert [r.appended for r in receipts] == [1, 0, 1, 0, 1]
            assert [r.duplicates for r in receipts] == [0, 1, 0, 1, 0]
            assert await conn.fetchval(TOLD, "1") == ["A", "B", "A"]

    run(main())


def test_a_webhook_is_told_once(dsn: str, keys: Keys, run: Any) -> None:
    """A webhook that is sent again, alone, doubled in one body, at once on many connections or later, is one entry."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w)
            other = await create_instance(w, token="other")
            twice = hook(instance, change(1, "A"), change(1, "A"), change(1, "B"))
            receipts = await asyncio.gather(*[w.append(twice) for _ in range(20)])
            assert sum(r.appended for r in receipts) == 2
            assert (await w.append(hook(instance, change(1, "A")))).appended == 0
            assert (await w.append(hook(other, change(1, "A")))).appended == 1
            count = "SELECT count(*) FROM log WHERE kind = 'change' AND instance_id = $1"
            assert await conn.fetchval(count, instance) == 2

    run(main())


def test_a_known_object_is_news_only_when_it_differs(dsn: str, keys: Keys, run: Any) -> None:
    """What a baseline knows is not told, until a poll shows another version of it."""

    async def main() -> None:
        async with writing(dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            # A page may show an object twice: the later one counts.
            known = [("1", change(1, v).fingerprint, None) for v in "XA"]
            await w.append(Unit([objects.known_entry(instance, "contacts", known)]))
            assert (await w.append(poll(instance, change(1, "A")))).appended == 0
            assert (await w.append(poll(instance, change(1, "B")))).appended == 1

    run(main())


def test_a_webhook_does_not_hide_the_version_that_a_poll_saw(
    dsn: str, keys: Keys, run: Any
) -> None:
    """Of an instance that polls and has webhooks: a poll that overlaps does not tell a version again; after DELETED it does."""

    async def main() -> None:
        async with writing(dsn, keys) as w:
            await w.append(opening())
            instance = await create_instance(w)
            assert (await w.append(poll(instance, change(1, "A")))).appended == 1
            assert (await w.append(hook(instance, change(1, "event")))).appended == 1
            assert (await w.append(poll(instance, change(1, "A")))).appended == 0
            gone = change(1, "gone", kind="DELETED")
            assert (await w.append(hook(instance, gone))).appended == 1
            assert (await w.append(poll(instance, change(1, "A")))).appended == 1
            # The same in one transaction.
            both = Unit(
                intakes=[
                    Intake(instance, [change(2, "A")], polled=POLLED),
                    Intake(instance, [change(2, "event")], raw="{}"),
                    Intake(instance, [change(2, "A")], polled=POLLED),
                    Intake(instance, [change(2, "gone", kind="DELETED")], raw="{}"),
                    Intake(instance, [change(2, "A")], polled=POLLED),
                ]
            )
            receipt = await w.append(both)
            assert (receipt.appended, receipt.duplicates) == (4, 1)

    run(main())


sightings = st.tuples(
    st.sampled_from(["poll", "hook"]), st.integers(0, 2), st.sampled_from("ABD"), st.integers(0, 1)
)


Sighting = tuple[str, int, str, int]


def news(pages: list[list[Sighting]]) -> list[tuple[int, str, str]]:
    """What of the sightings is a change, by the rules as one would say them."""
    told: list[tuple[int, str, str]] = []
    versions: dict[tuple[int, int], str] = {}
    events: set[tuple[int, int, str]] = set()
    for way, number, version, whose in chain.from_iterable(pages):
        if way == "poll" and versions.get((whose, number)) != version:
            versions[whose, number] = version
        elif way == "hook" and (whose, number, version) not in events:
            events.add((whose, number, version))
            if version == "D":
                versions[whose, number] = "D"
        else:
            continue
        told.append((whose, str(number), version))
    return told


def unit_of(page: list[Sighting], instances: list[int]) -> Unit:
    """The sightings as what the writer is given."""
    intakes = []
    for way, number, version, whose in page:
        seen = [change(number, version, kind="DELETED" if version == "D" else "UPDATED")]
        if way == "poll":
            intakes.append(Intake(instances[whose], seen, polled=POLLED))
        else:
            intakes.append(Intake(instances[whose], seen, raw=f'{{"version": "{version}"}}'))
    return Unit(intakes=intakes)


async def together(proxy: Proxy, w: Writer, units: list[Unit]) -> None:
    """Append *units*: the first alone, and the others, which wait for its COMMIT, in one transaction."""
    asked = proxy.watch_commit()
    holds = asyncio.create_task(asked.happened.wait())
    first = asyncio.create_task(w.append(units[0]))
    await asyncio.wait([first, holds], return_when="FIRST_COMPLETED")
    rest = [asyncio.create_task(w.append(unit)) for unit in units[1:]]
    await until(lambda: first.done() or len(w._waiting) == len(rest))
    proxy.resume()
    await asyncio.gather(first, holds, *rest)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(sightings, min_size=1, max_size=6), min_size=1, max_size=8),
    st.lists(st.integers(1, 4), min_size=8, max_size=8),
)
def test_the_log_holds_what_was_news(
    server: str, template: str, pages: list[list[Sighting]], groups: list[int]
) -> None:
    """Any pages and webhooks, grouped in any way, leave the entries that a plain memory of the rules gives."""

    async def main(dsn: str) -> None:
        keys = Keys([("k1", bytes(32))])
        async with Proxy(dsn) as proxy, writing(proxy.dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instances = [await create_instance(w, token=str(n)) for n in range(2)]
            left = [unit_of(page, instances) for page in pages]
            for size in groups:
                if left:
                    await together(proxy, w, left[:size])
                    del left[:size]
            rows = await conn.fetch(
                "SELECT instance_id, object_id, data->>'version' AS v FROM log"
                " WHERE kind = 'change' ORDER BY position"
            )
            assert [(instances.index(r[0]), r[1], r[2]) for r in rows] == news(pages)

    with copied(server, template) as dsn:
        uvloop.run(main(dsn))


@given(
    found=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 99)), max_size=70, unique=True
    ),
    polled=st.booleans(),
)
def test_notifications_are_cut_as_documented(found: list[tuple[str, int]], *, polled: bool) -> None:
    """A notification is consecutive changes of one type, 10 of a poll or 20 of a webhook; a webhook's body stands once."""
    most = 10 if polled else 20
    changes = [change(number, object_type=kind) for kind, number in found]
    page = poll(7, *changes) if polled else hook(7, *changes)
    rows, _ = _compose([Unit([state()]), page], {}, set(), set())
    rows = rows[1:]
    assert [(r.object_type, r.object_id) for r in rows] == [(k, str(n)) for k, n in found]
    members: dict[int, list[int]] = {}
    for offset, row in enumerate(rows, 1):
        assert row.notification is not None
        members.setdefault(row.notification, []).append(offset)
        assert (row.source is None) == polled
        assert polled or row.source == 1
        assert polled or (row.data is not None) == (offset == 1)
    for first, those in members.items():
        assert those == list(range(first, first + len(those)))
        assert len(those) <= most
        assert len({rows[offset - 1].object_type for offset in those}) == 1
    for one, following in zip(members.values(), list(members.values())[1:], strict=False):
        same = rows[one[0] - 1].object_type == rows[following[0] - 1].object_type
        assert not same or len(one) == most, "not cut before it must be"
