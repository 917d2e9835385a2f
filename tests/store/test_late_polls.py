"""What a poller still writes when nobody watches any more leaves nothing behind."""

from typing import Any

import pytest
from heart import connected, create_instance, dumped, opening, state, writing

from daemon.store import objects, projections
from daemon.store.vault import Keys
from daemon.store.writer import Unit, append_once

CURSORS = "SELECT resource, cursor::date::text AS cursor, noted FROM cursors ORDER BY resource"


async def rebuilt(dsn: str) -> dict[str, list[str]]:
    """All rows, folded from the log anew."""
    async with connected(dsn, role=None) as conn:
        async with conn.transaction():
            async for _ in projections.rebuild(conn):
                pass
        return await dumped(conn)


@pytest.mark.parametrize(
    "kind", ["poll.completed", "poll.failed", "poll.disabled", "poll.set_back"]
)
@pytest.mark.parametrize("end", ["deleted", "configured"])
def test_a_poll_that_is_late(dsn: str, keys: Keys, run: Any, kind: str, end: str) -> None:
    """An entry of a poll that comes after its instance has gone, or has stopped watching, makes no cursor, live or rebuilt."""
    facts: dict[str, Any] = {"cursor": "2026-02-02", "polled": "2026-02-02"}
    if kind in {"poll.failed", "poll.disabled"}:
        facts = {"failures": 3, "error": "no"}

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w, resources=["contacts", "orders"])
            other = await create_instance(w, token="other", resources=["contacts"])
            for one in (instance, other):
                late = objects.poll_entry("poll.baseline", one, "contacts", cursor="2026-01-01")
                await w.append(Unit([late]))
            gone = state(f"instance.{end}", instance_id=instance, resources=["orders"])
            await w.append(Unit([gone]))
            # Another process than the one whose writer knows that the instance has gone.
            entry = objects.poll_entry(kind, instance, "contacts", **facts)
            await append_once(conn, keys, Unit([entry]))
            assert [("contacts", "2026-01-01")] == [
                (row["resource"], row["cursor"]) for row in await conn.fetch(CURSORS)
            ]
            before = await dumped(conn)
        assert before == await rebuilt(dsn)

    run(main())


def test_a_resource_that_is_watched_again(dsn: str, keys: Keys, run: Any) -> None:
    """A resource that is watched again begins anew, whatever came late while it was not; a rebuild says the same."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w, resources=["contacts"])
            for resources in (["orders"], ["contacts"]):
                if resources == ["contacts"]:
                    late = objects.poll_entry(
                        "poll.completed", instance, "contacts", cursor="2026-02-02"
                    )
                    await w.append(Unit([late]))
                again = state("instance.configured", instance_id=instance, resources=resources)
                await w.append(Unit([again]))
            assert [] == await conn.fetch(CURSORS)
            before = await dumped(conn)
        assert before == await rebuilt(dsn)

    run(main())


def test_a_cursor_falls_back_when_the_log_says_so(dsn: str, keys: Keys, run: Any) -> None:
    """`poll.set_back` puts a cursor back, and the time at which the provider's clock was looked at is the database's."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            await w.append(opening())
            instance = await create_instance(w, resources=["contacts"])
            for kind, day in (("poll.baseline", "2026-03-03"), ("poll.set_back", "2026-02-02")):
                entry = objects.poll_entry(kind, instance, "contacts", cursor=day, polled=day)
                await w.append(Unit([entry]))
            (row,) = await conn.fetch(CURSORS)
            assert row["cursor"] == "2026-02-02"
            last = await conn.fetchval("SELECT appended FROM log ORDER BY position DESC LIMIT 1")
            assert row["noted"] == last
            failed = objects.poll_entry(
                "poll.failed", instance, "contacts", failures=1, error="no", retry=None
            )
            await w.append(Unit([failed]))
            (row,) = await conn.fetch(CURSORS)
            assert row["noted"] == last

    run(main())
