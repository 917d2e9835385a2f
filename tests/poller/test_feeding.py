"""Following a change feed: files and folders that come, change, move and go; told once, none lost."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from typing import Any

import orjson
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from poller.fed import Fed, advance, fed, status

from daemon.model import FeedEntry, FeedPage
from daemon.plans import compile_plans
from daemon.poller import feeding
from daemon.poller import walk as walk_module
from daemon.poller.ledger import Ledger
from daemon.poller.walk import Walk
from daemon.store import vault

Run = Callable[..., Any]
Open = Callable[..., AbstractAsyncContextManager[Fed]]

pytestmark = pytest.mark.element("dropbox", "polling")


@pytest.fixture
def open_fed(dsn: str, keys: vault.Keys) -> Open:
    """Start everything on this test's database."""

    def opened(**chosen: Any) -> AbstractAsyncContextManager[Fed]:
        return fed(dsn, keys, **chosen)

    return opened


def furnish(w: Fed) -> None:
    """Two folders, three files."""
    for path in ("/a/one.txt", "/a/two.txt", "/b/three.txt"):
        w.edit("upload", path)


def test_a_baseline_tells_nobody(open_fed: Open, run: Run) -> None:
    """What is there at first becomes known with its place, page after page, and nobody is told."""

    async def main() -> None:
        async with open_fed(page=2) as w:
            furnish(w)
            instance = await w.create()
            assert await w.poller(instance).poll_once()
            assert [] == await w.told(instance)
            row = await w.cursor(instance)
            assert row["baseline"] is not None
            assert row["token"]
            places = await w.polling.pool.fetch("SELECT object_id, place FROM objects")
            assert w.ids() == {row["place"]: row["object_id"] for row in places}

    run(main())


@pytest.mark.element("dropbox", "created")
@pytest.mark.element("dropbox", "updated")
@pytest.mark.element("dropbox", "deleted")
def test_what_comes_changes_and_goes_is_told(open_fed: Open, run: Run) -> None:
    """A new file and its folder are CREATED, a new revision is UPDATED, a deleted file DELETED; then there is silence."""

    async def main() -> None:
        async with open_fed() as w:
            furnish(w)
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            w.edit("upload", "/c/four.txt")
            w.edit("upload", "/a/one.txt")
            two = w.ids()["/a/two.txt"]
            w.edit("delete", "/a/two.txt")
            for _ in range(2):
                await poller.poll_once()
            assert [
                ("CREATED", "/c"),
                ("CREATED", "/c/four.txt"),
                ("UPDATED", "/a/one.txt"),
                ("DELETED", "/a/two.txt"),
            ] == await w.told(instance)
            gone = (await w.rows(instance))[-1]
            assert {"id": two, "path_lower": "/a/two.txt"} == orjson.loads(gone["data"])
            assert gone["place"] is None

    run(main())


@pytest.mark.parametrize("end_first", [False, True])
@pytest.mark.parametrize("page", [1, 2000])
def test_a_move_is_one_update(open_fed: Open, run: Run, page: int, *, end_first: bool) -> None:
    """A moved file, and a folder with all in it, is UPDATED and not deleted and created, in whatever order it is told."""

    async def main() -> None:
        async with open_fed(page=page) as w:
            furnish(w)
            w.dropbox.tree.moves_end_first = end_first
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            w.edit("move", "/b/three.txt", "/a/third.txt")
            w.edit("move", "/a", "/z")
            await poller.poll_once()
            assert [
                ("UPDATED", "/z"),
                ("UPDATED", "/z/one.txt"),
                ("UPDATED", "/z/third.txt"),
                ("UPDATED", "/z/two.txt"),
            ] == sorted(await w.told(instance))

    run(main())


def test_a_deleted_folder_takes_all_in_it(open_fed: Open, run: Run, monkeypatch: Any) -> None:
    """One entry without children deletes the folder and what is below it, however much, and no neighbour of like name."""
    monkeypatch.setattr(walk_module, "DELETE_AT_ONCE", 2)

    async def main() -> None:
        async with open_fed() as w:
            for n in range(7):
                w.edit("upload", f"/100%_a/deep/{n}.txt")
            for path in ("/100%_a.txt", "/100%_a0", "/100%_a-b/x", "/100xxa/y"):
                w.edit("upload", path)
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            inside = sorted(p for p in w.ids() if p == "/100%_a" or p.startswith("/100%_a/"))
            assert 9 == len(inside)
            w.edit("delete", "/100%_a")
            await poller.poll_once()
            assert [("DELETED", path) for path in inside] == sorted(await w.told(instance))

    run(main())


def test_a_file_takes_the_place_of_another(open_fed: Open, run: Run) -> None:
    """Where a file comes the one before it, and the folder before it with all in it, are gone, though no entry says so."""

    async def main() -> None:
        async with open_fed() as w:
            furnish(w)
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            before = w.ids()
            w.edit("delete", "/a")
            w.edit("delete", "/b/three.txt")
            w.edit("upload", "/a")
            w.edit("upload", "/b/three.txt")
            journal = w.dropbox.tree._journal
            kept = [one for one in journal if one[1]]
            journal.clear()
            journal.extend(kept)  # as if Dropbox had left the deletions out
            await poller.poll_once()
            rows = [(row["change"], row["object_id"]) for row in await w.rows(instance)]
            gone = {before[p] for p in ("/a", "/a/one.txt", "/a/two.txt", "/b/three.txt")}
            assert gone == {i for change, i in rows if change == "DELETED"}
            assert {w.ids()["/a"], w.ids()["/b/three.txt"]} == {
                i for change, i in rows if change == "CREATED"
            }
            assert 6 == len(rows)

    run(main())


def test_a_lost_cursor_loses_nothing(open_fed: Open, run: Run) -> None:
    """After a reset all is listed again: what changed and went meanwhile is told, what did not is not."""

    async def main() -> None:
        async with open_fed(page=2) as w:
            furnish(w)
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            w.edit("upload", "/new.txt")
            w.edit("delete", "/a/one.txt")
            w.edit("upload", "/a/two.txt")
            w.edit("move", "/b", "/bb")
            w.dropbox.lose_cursors()
            for _ in range(2):
                await poller.poll_once()
            assert [
                ("CREATED", "/new.txt"),
                ("DELETED", "/a/one.txt"),
                ("UPDATED", "/a/two.txt"),
                ("UPDATED", "/bb"),
                ("UPDATED", "/bb/three.txt"),
            ] == sorted(await w.told(instance))

    run(main())


def test_a_reset_that_would_delete_too_much_asks(open_fed: Open, run: Run) -> None:
    """A listing after a reset that lacks more than the allowed share stops, until a person allows it."""
    from daemon.store import objects
    from daemon.store.writer import Unit

    async def main() -> None:
        async with open_fed() as w:
            for n in range(20):
                w.edit("upload", f"/{n}.txt")
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            for n in range(15):
                w.edit("delete", f"/{n}.txt")
            w.dropbox.lose_cursors()
            await poller.poll_once()
            assert [] == await w.told(instance)
            assert "allow-sweep" in (await w.cursor(instance))["error"]
            allowed = objects.poll_entry("sweep.allowed", instance.id, "files")
            await w.writer.append(Unit([allowed]))
            await poller.poll_once(hurry=True)
            assert 15 == len(await w.told(instance))
            row = await w.cursor(instance)
            assert (False, 0) == (row["allow_sweep"], row["failures"])

    run(main())


def test_another_folder_is_another_baseline(open_fed: Open, run: Run) -> None:
    """When the watched folder changes, what is in the new one becomes known, and what is in the old one is not deleted."""

    async def main() -> None:
        async with open_fed() as w:
            furnish(w)
            instance = await w.create(dropbox__path="/A")
            await w.poller(instance).poll_once()
            instance = await w.configure(instance, dropbox__path="b/")
            poller = w.poller(instance)
            await poller.poll_once()
            assert [] == await w.told(instance)
            w.edit("upload", "/b/three.txt")
            w.edit("upload", "/a/one.txt")
            w.edit("upload", "/bb/elsewhere.txt")
            await poller.poll_once()
            assert [("UPDATED", "/b/three.txt")] == await w.told(instance)
            w.dropbox.lose_cursors()
            await poller.poll_once()
            assert 1 == len(await w.told(instance))

    run(main())


def test_folders_alone(open_fed: Open, run: Run) -> None:
    """The resource `folders` tells of folders only, also where a file comes in a folder's place."""

    async def main() -> None:
        async with open_fed() as w:
            furnish(w)
            wanted = '{"folders": {"url": "/hubs/documents/folders", "idField": "id"}}'
            instance = await w.create(event__poller__configuration=wanted)
            poller = w.poller(instance)
            await poller.poll_once()
            w.edit("upload", "/c/deep/four.txt")
            w.edit("upload", "/a/five.txt")
            await poller.poll_once()
            w.edit("delete", "/c/deep")
            w.edit("upload", "/c/deep")
            await poller.poll_once()
            assert [("CREATED", "/c"), ("CREATED", "/c/deep"), ("DELETED", "/c/deep")] == (
                await w.told(instance)
            )

    run(main())


def test_a_backfill_tells_what_is_there(open_fed: Open, run: Run) -> None:
    """With a backfill everything is CREATED; with a date, the files since."""

    async def main() -> None:
        async with open_fed() as w:
            w.edit("upload", "/old/one.txt")
            advance(w, 86400 * 3)
            w.edit("upload", "/new/two.txt")
            for backfill, wanted in (
                ("true", ["/new", "/new/two.txt", "/old", "/old/one.txt"]),
                ("2026-03-06", ["/new/two.txt"]),
            ):
                instance = await w.create(event__poller__backfill=backfill)
                poller = w.poller(instance)
                for _ in range(2):
                    await poller.poll_once()
                told = await w.told(instance)
                assert [("CREATED", path) for path in wanted] == sorted(told)

    run(main())


def test_a_long_baseline_goes_on_where_it_broke_off(open_fed: Open, run: Run) -> None:
    """A baseline that fails in its middle is not read from the beginning again, and tells nobody either."""

    async def main() -> None:
        async with open_fed(page=2) as w:
            for n in range(9):
                w.edit("upload", f"/{n}.txt")
            instance = await w.create()
            poller = w.poller(instance)
            w.happenings += [None, None, status(500)]
            await poller.poll_once()
            row = await w.cursor(instance)
            assert row["baseline"] is None
            assert row["failures"] == 1
            w.dropbox.requests.clear()
            await poller.poll_once(hurry=True)
            assert {"/2/files/list_folder/continue"} == {path for _, path in w.dropbox.requests}
            assert [] == await w.told(instance)
            assert (await w.cursor(instance))["baseline"] is not None
            w.edit("delete", "/0.txt")
            await poller.poll_once()
            assert [("DELETED", "/0.txt")] == await w.told(instance)

    run(main())


def test_a_walk_that_breaks_off_with_deletions_in_it_is_read_again(
    open_fed: Open, run: Run
) -> None:
    """The token does not pass a deletion that is not in the log: a move whose second half failed is one update."""

    async def main() -> None:
        async with open_fed(page=1) as w:
            furnish(w)
            instance = await w.create()
            await w.poller(instance).poll_once()
            token = (await w.cursor(instance))["token"]
            w.edit("move", "/b/three.txt", "/moved.txt")
            w.happenings += [None, status(500)]
            await w.poller(instance).poll_once()
            assert token == (await w.cursor(instance))["token"]
            assert [] == await w.told(instance)
            await w.poller(instance).poll_once(hurry=True)
            assert [("UPDATED", "/moved.txt")] == await w.told(instance)

    run(main())


def test_watching_again_finds_what_went(open_fed: Open, run: Run) -> None:
    """An instance that stopped watching and begins again is told of what went meanwhile, and nothing else."""

    async def main() -> None:
        async with open_fed() as w:
            furnish(w)
            instance = await w.create()
            await w.poller(instance).poll_once()
            instance = await w.configure(instance, event__notification__enabled="false")
            assert await w.cursor(instance) is None
            w.edit("delete", "/a/one.txt")
            w.edit("upload", "/a/new.txt")
            instance = await w.configure(instance)
            await w.poller(instance).poll_once()
            assert [("DELETED", "/a/one.txt")] == await w.told(instance)

    run(main())


def test_the_token_of_a_silent_feed_is_renewed_now_and_then(
    open_fed: Open, run: Run, monkeypatch: Any
) -> None:
    """A newer token without any news is not written with every poll, but when the written one has become old."""

    async def main() -> None:
        async with open_fed() as w:
            furnish(w)
            instance = await w.create(dropbox__path="/a")
            poller = w.poller(instance)
            await poller.poll_once()
            first = await w.cursor(instance)
            w.edit("upload", "/b/elsewhere.txt")  # moves the cursor of /a on, without any entry
            await poller.poll_once()
            assert first["token"] == (await w.cursor(instance))["token"]
            monkeypatch.setattr(feeding, "TOKEN_KEPT", timedelta(seconds=-10))
            await poller.poll_once()
            assert first["token"] != (await w.cursor(instance))["token"]
            assert [] == await w.told(instance)

    run(main())


def test_what_is_held_is_bounded(open_fed: Open, run: Run, monkeypatch: Any) -> None:
    """A walk that would hold too much settles early: then a move may be told as two, and still nothing is lost."""
    monkeypatch.setattr(walk_module, "HELD_MOST", 0)

    async def main() -> None:
        async with open_fed(page=1) as w:
            furnish(w)
            instance = await w.create()
            poller = w.poller(instance)
            await poller.poll_once()
            before = set(w.there())
            w.edit("move", "/a", "/z")
            await poller.poll_once()
            counts = await w.judge(instance, before)
            assert {"told": 6, "lost": 0, "invented": 0, "twice": 0} == counts

    run(main())


PATHS = ["/a", "/b", "/a/x", "/a/y", "/b/x", "/a/b", "/a/b/z", "/B/Q"]
paths = st.sampled_from(PATHS)
edits = st.one_of(
    st.tuples(st.just("upload"), paths),
    st.tuples(st.just("upload"), paths),
    st.tuples(st.just("folder"), paths),
    st.tuples(st.just("delete"), paths),
    st.tuples(st.just("move"), paths, paths),
)
faults = st.sampled_from([500, 429, 503])
steps = st.lists(
    st.one_of(
        edits,
        edits,
        st.tuples(st.just("poll"), st.lists(st.one_of(st.none(), faults, edits), max_size=6)),
        st.tuples(st.just("reset")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("order")),
    ),
    max_size=25,
)


async def live(w: Fed, start: list[Any], history: list[Any]) -> dict[str, int]:
    """One account through a list of steps, polled; then polled without trouble, and judged."""
    tree = w.dropbox.tree
    tree.nodes.clear()
    tree._journal.clear()
    w.existed.clear()
    for how, *given_paths in start:
        w.edit(how, *given_paths)
    instance = await w.create()
    poller = w.poller(instance)
    await poller.poll_once()
    before = set(w.there())

    def happening(one: Any) -> Any:
        if isinstance(one, tuple):
            return lambda: w.edit(*one)
        return None if one is None else status(one)

    for what, *rest in history:
        match what:
            case "poll":
                w.happenings[:] = [happening(one) for one in rest[0]]
                assert await poller.poll_once(hurry=True)
                w.happenings.clear()
            case "reset":
                w.dropbox.lose_cursors()
            case "restart":
                poller = w.poller(instance)
            case "order":
                tree.moves_end_first = not tree.moves_end_first
            case _:
                w.edit(what, *rest)
    for _ in range(2):
        assert await poller.poll_once(hurry=True)
    assert 0 == (await w.cursor(instance))["failures"]
    return await w.judge(instance, before)


@pytest.mark.parametrize("page", [1, 3, 2000])
def test_nothing_is_lost_or_invented(open_fed: Open, page: int) -> None:
    """Whatever comes, changes, moves and goes between and during polls, and whatever fails, each object's last state is told, once."""
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # one loop for all examples
        w = runner.run(stack.enter_async_context(open_fed(page=page)))

        @settings(
            max_examples=40,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(start=st.lists(edits, max_size=8), history=steps)
        def holds(start: list[Any], history: list[Any]) -> None:
            async def bounded() -> dict[str, int]:
                async with asyncio.timeout(20):
                    return await live(w, start, history)

            counts = runner.run(bounded())
            assert {"lost": 0, "invented": 0, "twice": 0} == {
                name: counts[name] for name in ("lost", "invented", "twice")
            }

        try:
            holds()
        finally:
            runner.run(stack.aclose())


def entry(how: str, number: int, path: str, version: int) -> FeedEntry:
    """A file, a folder, or nothing any more."""
    if how == "gone":
        return FeedEntry(path)
    record = {"id": str(number), "path_lower": path, "v": version}
    return FeedEntry(path, str(number), str(version), record, keeps_below=how == "folder")


SCRIPTED = st.builds(
    entry,
    st.sampled_from(["file", "folder", "gone"]),
    st.integers(0, 5),
    st.sampled_from(["/a", "/a/b", "/a/b/c", "/a/c", "/a0", "/d"]),
    st.integers(0, 1),
)
WALKS = st.lists(st.lists(st.lists(SCRIPTED, max_size=4), min_size=1, max_size=4), max_size=4)


def believed(there: dict[str, tuple[str, str]], one: FeedEntry) -> None:
    """What Dropbox says that a reader does with an entry: *there* has place and version by id."""
    for i, (place, _) in list(there.items()):
        below = place.startswith(f"{one.place}/") and not one.keeps_below
        if i != one.object_id and (place == one.place or below):
            del there[i]
    if one.object_id:
        there[one.object_id] = (one.place, one.version)


async def scripted(w: Fed, walks: list[list[list[FeedEntry]]]) -> None:
    """Follow a feed of these walks, made of pages, and compare with the provider's own rules after each."""
    asked = w.clock[0]
    instance = await w.create()
    [plan] = compile_plans({}, w.registry.get("dropbox").poller_defaults)
    ledger = Ledger(
        pool=w.polling.pool, writer=w.writer, instance_id=instance.id, resource=plan.resource
    )
    told: dict[str, bool] = {}
    there: dict[str, tuple[str, str]] = {}
    for number, walk in enumerate(walks):

        async def pages(
            token: str | None, number: int = number, walk: list[list[FeedEntry]] = walk
        ) -> AsyncGenerator[FeedPage]:
            for n, entries in enumerate(walk, 1):
                name = f"{number}.{n}"
                yield FeedPage(tuple(entries), name, asked, last=n == len(walk))

        one_walk = Walk(ledger=ledger, plan=plan, silent=False, since=None, limit=1.0)
        for one in (one for page in walk for one in page):
            believed(there, one)
        await one_walk.follow(pages, "token")
        rows = await w.polling.pool.fetch(
            "SELECT object_id, place FROM objects WHERE instance_id = $1 AND NOT deleted",
            instance.id,
        )
        assert {i: place for i, (place, _) in there.items()} == {
            row["object_id"]: row["place"] for row in rows
        }
    last: dict[str, tuple[str, str]] = {}
    for row in await w.rows(instance):
        i, record = row["object_id"], orjson.loads(row["data"])
        assert told.get(i, False) == (row["change"] != "CREATED"), "told in a wrong order"
        told[i] = row["change"] != "DELETED"
        if told[i]:
            version = (record["path_lower"], str(record["v"]))
            assert last.get(i) != version, "told twice"
            last[i] = version
        else:
            last.pop(i, None)
    assert last == there


@pytest.mark.parametrize("at_once", [1, 1000])
def test_entries_are_believed_in_order(open_fed: Open, monkeypatch: Any, at_once: int) -> None:
    """Whatever a feed says, in whatever pages, what is known after a walk is what Dropbox's rules make of its entries."""
    monkeypatch.setattr(walk_module, "DELETE_AT_ONCE", at_once)
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        w = runner.run(stack.enter_async_context(open_fed()))

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(walks=WALKS)
        def holds(walks: list[list[list[FeedEntry]]]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(20):
                    await scripted(w, walks)

            runner.run(bounded())

        try:
            holds()
        finally:
            runner.run(stack.aclose())
