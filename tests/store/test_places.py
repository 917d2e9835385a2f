"""Objects by their place: what is at one, below one, and in another's way."""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
from heart import connected, mark
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.store import objects, projections
from daemon.store.log import append

# Wildcards, neighbours of the slash, capitals, accents, and what is longer than the index looks.
PARTS = ["a", "a0", "a.txt", "a-b", "A", "%", "_", "ä", "\\", "x" * 600, "x" * 600 + "y"]
places = st.builds(
    lambda parts: "/" + "/".join(parts), st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)
)


async def known(conn: Any, there: list[str]) -> None:
    """Objects 0, 1, … at those places, of instance 7; another's at the same."""
    await conn.execute("DELETE FROM objects")
    rows = [(str(n), mark(str(n)), None) for n in range(len(there))]
    at = {str(n): place for n, place in enumerate(there)}
    async with conn.transaction():
        for instance in (7, 8):
            entry = objects.known_entry(instance, "files", rows, places=at)
            first, _ = await append(conn, [entry])
            await projections.fold(conn, first, [entry.kind])


def is_below(place: str, above: str) -> bool:
    """As anybody would say it."""
    return place.startswith(f"{above}/")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(there=st.lists(places, max_size=12), asked=places, limit=st.integers(1, 20))
def test_what_is_at_a_place_and_below_it(
    desk: tuple[asyncio.Runner, Any], there: list[str], asked: str, limit: int
) -> None:
    """Whatever characters are in a place, and however long it is, exactly what is there and below it is found."""

    async def main(conn: Any) -> None:
        await known(conn, there)
        at = {(str(n), place) for n, place in enumerate(there) if place == asked}
        below = {(str(n), place) for n, place in enumerate(there) if is_below(place, asked)}
        for deep, wanted in ((False, at), (True, at | below)):
            found = await objects.at_or_below(conn, 7, "files", asked, below=deep, limit=100)
            assert wanted == set(found)
            assert len(wanted) == len(found)
            few = await objects.at_or_below(conn, 7, "files", asked, below=deep, limit=limit)
            assert set(few) <= wanted
            assert len(few) >= min(limit, len(wanted))
        assert {i for i, _ in at | below} == await objects.present(
            conn, 7, "files", root=asked, chunk=2
        )
        assert len(there) == len(await objects.present(conn, 7, "files"))

    runner, conn = desk
    runner.run(main(conn))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    there=st.lists(places, max_size=10),
    wanted=st.lists(
        st.tuples(places, st.sampled_from(["", "0", "1", "new"]), st.booleans()), max_size=6
    ),
)
def test_what_stands_in_the_way(
    desk: tuple[asyncio.Runner, Any], there: list[str], wanted: list[tuple[str, str, bool]]
) -> None:
    """A place is in another's way that has another object at it, or, unless what is below may stay, one below it."""

    async def main(conn: Any) -> None:
        await known(conn, there)
        expected = [
            n
            for n, (place, i, keeps) in enumerate(wanted)
            if any(
                (one == place and str(m) != i) or (not keeps and is_below(one, place))
                for m, one in enumerate(there)
            )
        ]
        assert expected == sorted(await objects.displaced(conn, 7, "files", wanted))

    runner, conn = desk
    runner.run(main(conn))


def test_the_index_serves_a_table_that_nobody_has_analysed(dsn: str, run: Any) -> None:
    """A first baseline fills the table faster than it is analysed: places are found by their index all the same."""

    async def main() -> None:
        async with connected(dsn, role=None) as conn:
            await known(conn, [f"/{n % 7}/{n}" for n in range(2000)])
            for mode in ("force_custom_plan", "force_generic_plan"):
                await conn.execute(f"SET plan_cache_mode = {mode}")
                for statement, arguments in (
                    (objects.AT, (7, "files", "/1/8", 10)),
                    (objects.BELOW, (7, "files", "/1", 10)),
                    (objects.DISPLACED, (7, "files", ["/1/8", "/2"], ["", ""], [True, False])),
                ):
                    rows = await conn.fetch("EXPLAIN " + statement, *arguments)
                    plan = "\n".join(row[0] for row in rows)
                    assert "objects_place" in plan, plan
                    assert "objects_pkey" not in plan, plan

    run(main())


def test_an_entry_of_many_objects_is_parsed_once(dsn: str, run: Any) -> None:
    """What stands once in a baseline's entry is not taken out of the whole of it again for every object."""

    async def main() -> None:
        async with connected(dsn, role=None) as conn:
            await known(conn, [f"/{n}" for n in range(2000)])
            told = await conn.fetchval(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + projections.FOLD_OBJECTS, 1, 10
            )
            [read] = nodes(orjson.loads(told)[0]["Plan"], "Append")
            # A block for every object would be four thousand, for there are two entries.
            assert 4000 == read["Actual Rows"]
            assert 400 > read["Shared Hit Blocks"] + read["Shared Read Blocks"]

    run(main())


def nodes(plan: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The nodes of that kind."""
    if plan["Node Type"] == kind:
        yield plan
    for one in plan.get("Plans", ()):
        yield from nodes(one, kind)
