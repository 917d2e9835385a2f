"""One instance's poller: what it tells, and what it does not."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest
from poller.polled import World
from poller.shop import half_body, page_for_people, status

from daemon.model import Instance

Open = Callable[..., AbstractAsyncContextManager[World]]
Run = Callable[..., Any]


async def baseline(w: World, *resources: str, **settings: str | None) -> tuple[Instance, Any]:
    """An instance whose baseline is taken a minute and a half ago, and its poller."""
    instance = await w.create(*resources, **settings)
    poller = w.poller(instance)
    assert await poller.poll_once()
    w.advance(90)
    return instance, poller


def test_the_first_poll_is_silent(open_world: Open, run: Run) -> None:
    """The first poll makes what it finds known, tells nobody, and takes the provider's time as its cursor."""

    async def main() -> None:
        async with open_world() as w:
            for number in range(5):
                w.shop.put("contacts", number)
            instance, _ = await baseline(w)
            assert [] == await w.told(instance)
            row = await w.cursor(instance, "contacts")
            assert (row["cursor"], row["baseline"]) == (w.shop.now.replace(minute=0, second=0),) * 2
            assert 5 == await w.polling.pool.fetchval("SELECT count(*) FROM objects")

    run(main())


def test_created_updated_and_deleted(open_world: Open, run: Run) -> None:
    """What was created, changed and deleted since the last poll is told, each once, and never again."""

    async def main() -> None:
        async with open_world() as w:
            for number in range(3):
                w.shop.put("contacts", number)
            w.advance(3600)
            instance, poller = await baseline(w)
            w.shop.put("contacts", 1)
            w.shop.put("contacts", 7)
            w.shop.drop("contacts", 2)
            for _ in range(3):
                await poller.poll_once()
                w.advance(90)
            assert [("UPDATED", "1"), ("CREATED", "7"), ("DELETED", "2")] == await w.told(instance)

    run(main())


def test_created_and_edited_between_polls_is_created(open_world: Open, run: Run) -> None:
    """A record that is new since the baseline is CREATED though it was edited long after it was made."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w)
            w.shop.put("contacts", 1)
            w.advance(300)
            w.shop.put("contacts", 1)
            await poller.poll_once()
            assert [("CREATED", "1", 2)] == await w.versions(instance)

    run(main())


def test_equal_timestamps_at_the_cursor(open_world: Open, run: Run) -> None:
    """A record changed in the very second of the cursor, after it was read, is told by the next poll."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w)
            w.shop.put("contacts", 1)
            await poller.poll_once()
            w.shop.put("contacts", 2)
            w.shop.put("contacts", 1)
            await poller.poll_once()
            expected = [("CREATED", "1", 1), ("UPDATED", "1", 3), ("CREATED", "2", 2)]
            assert expected == await w.versions(instance)

    run(main())


def test_late_visible_record(open_world: Open, run: Run) -> None:
    """A record that the provider shows late, with a date before the cursor, is found within the overlap."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w)
            w.shop.put("contacts", "late")
            w.shop.hidden.add("late")
            w.advance(50)
            w.shop.put("contacts", "early")
            await poller.poll_once()
            w.shop.hidden.clear()
            await poller.poll_once()
            assert [("CREATED", "early"), ("CREATED", "late")] == await w.told(instance)

    run(main())


def test_record_dated_in_the_future(open_world: Open, run: Run) -> None:
    """A record dated years ahead moves the cursor neither there nor to now: what shows late is still found."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w)
            w.shop.put("orders", 1)
            instance, poller = await baseline(w, "orders")
            w.shop.put("orders", "real")
            real = w.shop.now
            w.advance(3600)
            w.shop.put("orders", "ahead", updated="2046-01-01T00:00:00Z")
            await poller.poll_once()
            assert real == (await w.cursor(instance, "orders"))["cursor"]
            w.advance(90)
            w.shop.put("orders", "after")
            await poller.poll_once()
            expected = [("CREATED", "ahead"), ("CREATED", "real"), ("CREATED", "after")]
            assert expected == await w.told(instance)

    run(main())


@pytest.mark.parametrize("hours", [-7, 7])
def test_clock_of_the_provider(open_world: Open, run: Run, hours: int) -> None:
    """A provider whose clock is hours off from ours is read by its own clock."""

    async def main() -> None:
        async with open_world(skew=hours * 3600) as w:
            w.shop.put("orders", 1)
            w.advance(300)
            instance, poller = await baseline(w, "orders")
            w.shop.put("orders", 2)
            await poller.poll_once()
            w.advance(90)
            w.shop.put("orders", 1)
            w.shop.put("orders", 3)
            await poller.poll_once()
            expected = [("CREATED", "2"), ("UPDATED", "1"), ("CREATED", "3")]
            assert expected == await w.told(instance)
            assert w.shop.now == (await w.cursor(instance, "orders"))["cursor"]

    run(main())


@pytest.mark.parametrize("fault", [status(500), half_body, page_for_people])
def test_walk_that_breaks_off(open_world: Open, run: Run, fault: Any) -> None:
    """When the second page does not come, the first is told, the cursor stays, and the next poll tells the rest."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w, "orders")
            before = (await w.cursor(instance, "orders"))["cursor"]
            for number in range(5):
                w.shop.put("orders", number)
            w.shop.faults = [None, fault]
            await poller.poll_once()
            row = await w.cursor(instance, "orders")
            assert (before, 1) == (row["cursor"], row["failures"])
            assert [("CREATED", "0"), ("CREATED", "1")] == await w.told(instance)
            w.advance(15)
            w.shop.put("orders", 0)
            await poller.poll_once()
            expected = [("CREATED", str(n)) for n in range(2)] + [("UPDATED", "0")]
            assert expected + [("CREATED", str(n)) for n in range(2, 5)] == await w.told(instance)
            row = await w.cursor(instance, "orders")
            assert (0, None, w.shop.now) == (row["failures"], row["error"], row["cursor"])

    run(main())


def test_same_record_twice_on_a_page(open_world: Open, run: Run) -> None:
    """A page that shows a new record in two versions tells it CREATED once, then UPDATED."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w, "orders")
            first = dict(w.shop.put("orders", 1))
            second = dict(w.shop.put("orders", 1))

            def both(request: Any) -> Any:
                from aiohttp import web

                return web.json_response({"data": [first, second]})

            w.shop.faults = [both]
            await poller.poll_once()
            assert [("CREATED", "1", 1), ("UPDATED", "1", 2)] == await w.versions(instance)

    run(main())


def test_backfill_tells_everything(open_world: Open, run: Run) -> None:
    """With backfill true the first poll tells all that there is, also when it breaks off and begins again."""

    async def main() -> None:
        async with open_world() as w:
            for number in range(4):
                w.shop.put("orders", number)
            w.advance(9000)
            instance = await w.create("orders", event__poller__backfill="true")
            poller = w.poller(instance)
            w.shop.faults = [None, status(503)]
            await poller.poll_once()
            assert 2 == len(await w.told(instance))
            await poller.poll_once(hurry=True)
            assert [("CREATED", str(n)) for n in range(4)] == await w.told(instance)
            w.advance(90)
            w.shop.put("orders", 3)
            await poller.poll_once()
            assert ("UPDATED", "3") == (await w.told(instance))[-1]

    run(main())


@pytest.mark.parametrize("date", ["2026-03-04", "2026-03-04T00:00:00Z"])
def test_backfill_from_a_date(open_world: Open, run: Run, date: str) -> None:
    """With a date the first poll tells what changed since, and what is older is not told until it changes."""

    async def main() -> None:
        async with open_world() as w:
            old = "2025-01-01T00:00:00Z"
            w.shop.put("orders", "old", created=old, updated=old)
            w.shop.put("orders", "edited", created=old)
            w.shop.put("orders", "new")
            w.advance(3600)
            instance, poller = await baseline(w, "orders", event__poller__backfill=date)
            assert [("UPDATED", "edited"), ("CREATED", "new")] == await w.told(instance)
            w.shop.put("orders", "old")
            await poller.poll_once()
            assert ("UPDATED", "old") == (await w.told(instance))[-1]

    run(main())


def test_settings_that_cannot_be_read(open_world: Open, run: Run) -> None:
    """A backfill or sweep interval that means nothing is a failure of the poll that says what should be there."""

    async def main() -> None:
        async with open_world() as w:
            for key, value in (("backfill", "yesterday"), ("sweep_interval", "nan")):
                instance = await w.create(**{f"event__poller__{key}": value})
                poller = w.poller(instance)
                for _ in range(2):
                    await poller.poll_once(hurry=True)
                error = (await w.cursor(instance, "contacts"))["error"]
                assert f"event.poller.{key}: is '{value}', but should be" in error

    run(main())


def test_ids_that_cannot_be_kept(open_world: Open, run: Run) -> None:
    """A record whose id holds NUL or is endless is left out, and those beside it are told."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w, "orders")
            for object_id in ("a", "b\0b", "c" * 9000, "d"):
                w.shop.put("orders", object_id)
            await poller.poll_once()
            assert [("CREATED", "a"), ("CREATED", "d")] == await w.told(instance)
            assert 0 == (await w.cursor(instance, "orders"))["failures"]

    run(main())


def test_marker(open_world: Open, run: Run) -> None:
    """A record that is marked as deleted is DELETED once, unless it was so at the baseline; unmarked it is back."""

    async def main() -> None:
        async with open_world() as w:
            w.shop.put("notes", "there")
            w.shop.put("notes", "gone", gone=True)
            instance, poller = await baseline(w, "notes")
            for _ in range(2):
                await poller.poll_once()
            assert [] == await w.told(instance)
            w.shop.put("notes", "there", gone=True)
            w.shop.put("notes", "brief", gone=True)
            for _ in range(2):
                await poller.poll_once()
            assert [("DELETED", "there")] == await w.told(instance)
            w.advance(90)
            w.shop.put("notes", "there", gone=False)
            await poller.poll_once()
            assert [("DELETED", "there"), ("CREATED", "there")] == await w.told(instance)

    run(main())


def test_channel_of_deletions(open_world: Open, run: Run) -> None:
    """What the provider's channel names is DELETED once, also when no poll ever showed it; not what went before the baseline."""

    async def main() -> None:
        async with open_world() as w:
            for object_id in ("old", "gone"):
                w.shop.put("tickets", object_id)
            w.advance(3600)
            w.shop.drop("tickets", "gone")
            w.advance(5)
            instance, poller = await baseline(w, "tickets")
            w.shop.put("tickets", 1)
            await poller.poll_once()
            w.advance(30)
            w.shop.drop("tickets", 1)
            w.shop.drop("tickets", "old")
            for _ in range(2):
                await poller.poll_once()
            expected = [("CREATED", "1"), ("DELETED", "1"), ("DELETED", "old")]
            assert expected == await w.told(instance)

    run(main())


def test_marker_on_what_no_poll_showed(open_world: Open, run: Run) -> None:
    """Where polls show only what is new, an old record that is deleted is DELETED though it was never seen."""

    async def main() -> None:
        async with open_world() as w:
            for object_id in ("old", "gone"):
                w.shop.put("drafts", object_id)
            w.advance(3600)
            w.shop.put("drafts", "gone", gone=True)
            w.advance(5)
            instance, poller = await baseline(w, "drafts")
            w.shop.put("drafts", "old", gone=True)
            w.shop.put("drafts", "brief", gone=True)
            for _ in range(2):
                await poller.poll_once()
            assert [("DELETED", "old")] == await w.told(instance)

    run(main())


def test_recreated_within_the_overlap(open_world: Open, run: Run) -> None:
    """An object that came back under its id is CREATED, and the old deletion, read again, does not take it away."""

    async def main() -> None:
        async with open_world() as w:
            instance, poller = await baseline(w, "tickets")
            w.shop.put("tickets", 1)
            await poller.poll_once()
            w.advance(20)
            w.shop.drop("tickets", 1)
            await poller.poll_once()
            w.advance(20)
            w.shop.put("tickets", 1)
            for _ in range(3):
                await poller.poll_once()
                w.advance(10)
            expected = [("CREATED", "1"), ("DELETED", "1"), ("CREATED", "1")]
            assert expected == await w.told(instance)

    run(main())


def test_recreated_after_a_sweep(open_world: Open, run: Run) -> None:
    """An object that a sweep found gone and that comes back with the same content is CREATED."""

    async def main() -> None:
        async with open_world() as w:
            same = w.shop.put("contacts", 1)
            instance, poller = await baseline(w)
            w.shop.drop("contacts", 1)
            await poller.poll_once()
            w.shop.put("contacts", 1, v=same["v"], created=same["created"])
            await poller.poll_once()
            assert [("DELETED", "1"), ("CREATED", "1")] == await w.told(instance)

    run(main())


def test_data_of_a_deletion(open_world: Open, run: Run) -> None:
    """Of a deleted record the log has the id, under the name that it has at the provider."""

    async def main() -> None:
        async with open_world() as w:
            w.shop.put("contacts", 1)
            instance, poller = await baseline(w)
            w.shop.drop("contacts", 1)
            await poller.poll_once()
            assert [{"id": "1"}] == [orjson.loads(r["data"]) for r in await w.changes(instance)]

    run(main())
