"""Every table but the log and the vault is folded from the log: live and in a rebuild alike."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import uvloop
from databases import copied
from heart import (
    change,
    connected,
    create_instance,
    dumped,
    hook,
    mark,
    opening,
    poll,
    state,
    writing,
)
from histories import KINDS, History, Step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.store import deliveries, objects, projections
from daemon.store.database import schema_sql
from daemon.store.deliveries import Outcome, Progress
from daemon.store.vault import Keys
from daemon.store.writer import Unit, Writer

steps = st.tuples(
    st.integers(0, KINDS - 1), st.integers(0, 7), st.integers(0, 9), st.integers(0, 5)
)
histories = st.lists(st.lists(steps, min_size=1, max_size=7), min_size=1, max_size=12)


async def rebuilt(conn: Any, chunk: int) -> dict[str, list[str]]:
    """Every projection after a rebuild."""
    async with conn.transaction():
        async for _ in projections.rebuild(conn, chunk=chunk):
            pass
    return await dumped(conn)


async def wiped(conn: Any) -> None:
    """Empty the log as well: only a superuser with all triggers off can."""
    await conn.execute("SET session_replication_role = replica")
    await conn.execute(projections.EMPTY + ", log, vault")
    await conn.execute("RESET session_replication_role")
    await conn.execute("SELECT setval('log_position', 1, false)")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(groups=histories, chunk=st.integers(1, 40))
def test_a_rebuild_finds_every_row_equal(
    desk: tuple[asyncio.Runner, Any], groups: list[list[Step]], chunk: int
) -> None:
    """Whatever happened, in whatever groups, a rebuild in chunks of any size gives every table row for row."""

    async def main(conn: Any) -> None:
        await wiped(conn)
        await History(conn, Keys([("k1", bytes(32))])).run(groups)
        live = await dumped(conn)
        assert await rebuilt(conn, chunk) == live
        assert await rebuilt(conn, 1_000_000) == live

    runner, conn = desk
    runner.run(main(conn))


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(groups=st.lists(st.lists(steps, min_size=1, max_size=9), min_size=6, max_size=12))
def test_the_log_is_enough(server: str, template: str, groups: list[list[Step]]) -> None:
    """A database that is given nothing but the log's rows comes to the same tables."""

    async def main(dsn: str, empty: str) -> None:
        async with connected(dsn, role=None) as conn, connected(empty, role=None) as new:
            await History(conn, Keys([("k1", bytes(32))])).run(groups)
            rows = await conn.fetch("SELECT * FROM log ORDER BY position")
            await new.copy_records_to_table("log", records=rows, columns=list(rows[0].keys()))
            assert await rebuilt(new, 17) == await dumped(conn)

    with copied(server, template) as dsn, copied(server, template) as empty:
        uvloop.run(main(dsn, empty))


def test_every_projection_is_rebuilt(dsn: str, run: Any) -> None:
    """Each table is the log, the vault, or one that a rebuild empties and folds again."""
    tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND NOT relispartition AND relnamespace = 'public'::regnamespace"

    async def main() -> None:
        async with connected(dsn, role=None) as conn:
            folded = {table for p in projections.PROJECTIONS for table in p.tables}
            found = {row[0] for row in await conn.fetch(tables)}
            assert found == folded | {"vault"}
            emptied = projections.EMPTY.removeprefix("TRUNCATE ").split(", ")
            assert set(emptied) == folded

    run(main())


def test_every_kind_of_entry_is_folded_or_known_not_to_be() -> None:
    """A kind that the schema allows shapes a projection, is the log's own first entry, or says how far alerts are told."""
    text = schema_sql()
    listed = text[text.index("kind IN (") : text.index("CONSTRAINT change_whole")]
    kinds = set(
        listed.replace("'", " ").replace(",", " ").replace("(", " ").replace(")", " ").split()
    )
    kinds = {kind for kind in kinds if "." in kind or kind in {"change", "delivery"}}
    shaping = {kind for p in projections.PROJECTIONS for kind in p.kinds}
    assert kinds - shaping == {"log.opened", "alert.began", "alert.sent", "alert.ended"}
    assert shaping <= kinds


async def delivering(w: Writer) -> tuple[int, int]:
    """An instance with one notification."""
    await w.append(opening())
    instance = await create_instance(w)
    return instance, (await w.append(hook(instance, change(1)))).position


def outcome(callback: int, notification: int, what: str, **chosen: Any) -> Outcome:
    """One outcome; of a retry due in 2001."""
    fields = {
        "attempts": 1,
        "due": 10**12 if what == "retrying" else None,
        "settled": 1,
        "status": None,
    }
    fields |= {"error": None, "doubtful": False, **chosen}
    return Outcome(callback, notification, what, **fields)


def test_an_accepted_delivery_is_recorded_once(dsn: str, keys: Keys, run: Any) -> None:
    """For a notification and a callback the database refuses to record anything after an accepted delivery."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            callback, notification = await delivering(w)
            done = outcome(callback, notification, "delivered", status=204)
            await w.append(Unit([deliveries.entry([], [done])]))
            for what, status in (("delivered", 200), ("retrying", None), ("dead", 500)):
                again = outcome(callback, notification, what, status=status)
                with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="already"):
                    await w.append(Unit([deliveries.entry([], [again])]))
            assert await conn.fetchval("SELECT status FROM deliveries") == 204

    run(main())


def test_a_callback_that_is_taken_away_sends_nothing_more(dsn: str, keys: Keys, run: Any) -> None:
    """Taking the address away closes what is open there; given again it begins anew, whatever is still written about before."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            callback, notification = await delivering(w)
            open_row = deliveries.entry(
                [Progress(callback, notification, 99, finished=False, failing=5)],
                [outcome(callback, notification, "retrying")],
            )
            await w.append(Unit([open_row]))
            await w.append(Unit([state("instance.configured", instance_id=callback, url=None)]))
            assert [
                tuple(r) for r in await conn.fetch("SELECT state, due, error FROM deliveries")
            ] == [("dead", None, "the callback was taken away")]
            # An attempt that was under way then.
            await w.append(Unit([open_row]))
            begun = await w.append(Unit([state("instance.configured", instance_id=callback)]))
            await w.append(Unit([open_row]))
            row = await conn.fetchrow(
                "SELECT state, since, cursor, reserved, failing FROM callbacks"
            )
            assert tuple(row) == ("active", begun.position, begun.position, begun.position, None)
            assert await deliveries.open_of(conn, callback, 10) == []
            assert await deliveries.unanswered(conn, 10, 2**40) == []

    run(main())


def test_enabling_gives_a_callback_its_time_again(dsn: str, keys: Keys, run: Any) -> None:
    """Since when a callback fails is forgotten when it is enabled, and not when it is disabled."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            callback, _ = await delivering(w)
            progress = [Progress(callback, callback, callback, finished=False, failing=10**12)]
            await w.append(Unit([deliveries.entry(progress, [])]))
            seen = []
            for kind, reason in (("callback.disabled", "gone"), ("callback.enabled", None)):
                await w.append(Unit([deliveries.callback_entry(kind, callback, callback, reason)]))
                seen.append(await conn.fetchval("SELECT failing IS NOT NULL FROM callbacks"))
            assert seen == [True, False]

    run(main())


def test_an_object_is_where_its_latest_entry_says(dsn: str, keys: Keys, run: Any) -> None:
    """Known at a place, moved, deleted and so nowhere, back at another: after each the row says where, live and rebuilt."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn, role=None) as conn:
            await w.append(opening())
            instance = await create_instance(w)
            known = [("1", mark("1"), None)]
            steps = (
                (
                    Unit([objects.known_entry(instance, "contacts", known, places={"1": "/a"})]),
                    "/a",
                ),
                (poll(instance, replace(change(1, 1, kind="UPDATED"), place="/b")), "/b"),
                (poll(instance, change(1, 2, kind="DELETED")), None),
                (poll(instance, replace(change(1, 3), place="/c")), "/c"),
            )
            for unit, place in steps:
                await w.append(unit)
                assert place == await conn.fetchval("SELECT place FROM objects")
            live = await dumped(conn)
            for chunk in (1, 2, 100):
                assert live == await rebuilt(conn, chunk)

    run(main())


def test_a_token_stays_until_another_comes(dsn: str, keys: Keys, run: Any) -> None:
    """A poll that failed, or told no token, does not take the feed's token away; unwatching the resource does."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w)
            for kind, facts, token in (
                ("poll.baseline", {"token": "one"}, "one"),
                ("poll.failed", {"failures": 1, "error": "no"}, "one"),
                ("poll.recovered", {}, "one"),
                ("poll.completed", {"token": "two"}, "two"),
            ):
                entry = objects.poll_entry(kind, instance, "contacts", **facts)
                await w.append(Unit([entry]))
                [row] = await objects.cursors(conn, instance)
                assert token == row["token"]
            await w.append(Unit([state("instance.configured", instance_id=instance, resources=[])]))
            assert [] == await objects.cursors(conn, instance)

    run(main())


def test_a_resource_that_is_not_watched_begins_anew(dsn: str, keys: Keys, run: Any) -> None:
    """An instance that stops watching a resource forgets its cursor, and keeps those of the others."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w, resources=["contacts", "orders"])
            for resource in ("contacts", "orders"):
                await w.append(
                    Unit(
                        [
                            objects.poll_entry(
                                "poll.baseline", instance, resource, cursor="2026-01-01"
                            )
                        ]
                    )
                )
            await w.append(poll(instance, change(1)))
            await w.append(
                Unit([state("instance.configured", instance_id=instance, resources=["orders"])])
            )
            assert [r[0] for r in await conn.fetch("SELECT resource FROM cursors")] == ["orders"]
            assert await conn.fetchval("SELECT count(*) FROM objects") == 1

    run(main())
