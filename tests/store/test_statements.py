"""Every statement fits the schema, and those on the hot path use the index that was made for them."""

import importlib
import pkgutil
import re
from typing import Any

import pytest
from heart import connected

import daemon.store
from daemon.store import alerts, deliveries, events, log, objects, projections, writer

STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|TRUNCATE|WITH)\b")


def statements() -> dict[str, str]:
    """Every constant of the package that is a statement, by module and name."""
    found = {}
    for module in pkgutil.iter_modules(daemon.store.__path__, "daemon.store."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.isupper() and isinstance(value, str) and STATEMENT.match(value):
                found[f"{module.name.removeprefix('daemon.store.')}.{name}"] = value
    return found


def test_every_statement_prepares(dsn: str, run: Any) -> None:
    """PostgreSQL parses and plans each SQL constant against the schema, as the daemon's role."""

    async def main() -> None:
        found = statements()
        assert len(found) > 40
        async with connected(dsn) as conn:
            for name, statement in found.items():
                try:
                    await conn.prepare(statement)
                except Exception as error:
                    error.add_note(name)
                    raise

    run(main())


# Two hundred instances with forty changes each, one partition more than needed, and a callback for each.
SEED = """
INSERT INTO log (position, appended, kind, instance_id, object_type, object_id, change, fingerprint, notification, polled, data)
SELECT n, now(), 'change', 1 + n % 200, 'contacts', n::text, 'CREATED', decode(md5(n::text), 'hex'), n, now(), '{}'
  FROM generate_series(201, 8200) AS n;
INSERT INTO log (position, appended, kind, instance_id, data)
SELECT n, now(), CASE n % 2 WHEN 0 THEN 'instance.configured' ELSE 'poll.completed' END, 1 + n % 200, '{}'
  FROM generate_series(8201, 9000) AS n;
INSERT INTO log (position, appended, kind, data)
SELECT n, now(), 'delivery', '{}' FROM generate_series(9001, 14000) AS n;
INSERT INTO objects SELECT instance_id, object_type, object_id, fingerprint, NULL, false, position FROM log WHERE kind = 'change';
INSERT INTO objects (instance_id, object_type, object_id, deleted, position, place)
SELECT 1 + n % 20, 'files', n::text, false, n, '/' || n % 50 || '/' || n FROM generate_series(1, 8000) AS n;
INSERT INTO seen SELECT instance_id, fingerprint, position FROM log WHERE kind = 'change';
INSERT INTO callbacks (id, instance_id, state, since, cursor, reserved)
SELECT n, n, 'active', n, 8000, 9000 FROM generate_series(1, 200) AS n;
INSERT INTO deliveries (callback_id, notification, state, attempts, due, settled, status, doubtful)
SELECT instance_id, position, CASE WHEN position % 50 = 0 THEN 'retrying' ELSE 'delivered' END, 1,
       CASE WHEN position % 50 = 0 THEN now() END, now(), CASE WHEN position % 50 = 0 THEN 500 ELSE 200 END, false
  FROM log WHERE kind = 'change' AND position < 8000;
SELECT log_extend(25000000);
"""

ANALYZE = "ANALYZE log; ANALYZE objects; ANALYZE seen; ANALYZE callbacks; ANALYZE deliveries;"

FINGERPRINT = bytes(16)

HOT = {
    "CHANGES_AFTER": (log.CHANGES_AFTER, (8150, 1000), "log_0_pkey"),
    "CHANGES_AFTER far": (log.CHANGES_AFTER, (13990, 1000), "log_0_pkey"),
    "CHANGES_OF_INSTANCE": (
        log.CHANGES_OF_INSTANCE,
        (7, 100, 10**12, 256),
        "log_0_instance_id_position_idx",
    ),
    "CHANGES_OF_NOTIFICATIONS": (log.CHANGES_OF_NOTIFICATIONS, ([500, 700],), "log_0_pkey"),
    "LIFE_OF_INSTANCE": (log.LIFE_OF_INSTANCE, (7,), "log_0_instance_id_position_idx1"),
    "SOURCES": (log.SOURCES, ([500, 700],), "log_0_pkey"),
    "HEAD": (log.HEAD, (), "log_0_pkey"),
    "KNOWN": (writer.KNOWN, ([7], ["contacts"], ["7"]), "objects_pkey"),
    "AT": (objects.AT, (7, "files", "/7/507", 100), "objects_place"),
    "BELOW": (objects.BELOW, (7, "files", "/7", 100), "objects_place"),
    "DISPLACED": (
        objects.DISPLACED,
        (7, "files", ["/7/507", "/8"], ["", "1"], [True, False]),
        "objects_place",
    ),
    "SEEN": (writer.SEEN, ([7], [FINGERPRINT]), "seen_pkey"),
    "OPEN": (deliveries.OPEN, (1, 5000), "deliveries_open"),
    "OPEN_SOME": (deliveries.OPEN_SOME, (1, [500, 700]), "deliveries_(open|pkey)"),
    "SOME": (deliveries.SOME, (1, [500, 700]), "deliveries_pkey"),
    "UNSETTLED": (
        deliveries.UNSETTLED,
        (1, 100, ["dead", "held"], None, 500),
        "deliveries_open",
    ),
    "BACKLOG": (deliveries.BACKLOG, (7, 100, 10**12, 256), "log_0_instance_id_position_idx"),
    "NEXT_EVENTS": (events.NEXT_EVENTS, (7, 100, 20), "log_0_instance_id_position_idx"),
    "HAVE_NEXT": (
        events.HAVE_NEXT,
        ([7, 8], [100, 100]),
        "log_0_instance_id_position_idx",
    ),
    "ATTEMPTS": (deliveries.ATTEMPTS, (7, 500), "attempts_pkey"),
    "FOLD_PROGRESS": (projections.FOLD_PROGRESS, (9100, 9100), "log_0_pkey"),
    "FOLD_OUTCOMES": (projections.FOLD_OUTCOMES, (9100, 9100), "log_0_pkey"),
    "FOLD_ASKED": (projections.FOLD_ASKED, (9100, 9100), "deliveries_pkey"),
    "FOLD_CURSOR": (projections.FOLD_CURSOR, (8301, 8301), "log_0_instance_id_position_idx1"),
    "IN_FLIGHT": (deliveries.IN_FLIGHT, (), "deliveries_open"),
    "ROWS_ABOVE": (deliveries.ROWS_ABOVE, (7, 7900), "deliveries_pkey"),
    "UNANSWERED": (deliveries.UNANSWERED, (256, 10**12), "log_0_instance_id_position_idx"),
    "NEXT alert": (alerts.NEXT, (100,), "log_0_position_idx"),
    "LAST alert": (alerts.LAST, (), "log_0_position_idx"),
    "EVENTS": (events.EVENTS, (7, 10**12, 20), "log_0_instance_id_position_idx"),
}


@pytest.fixture(scope="module", params=["analysed", "never analysed"])
def seeded(server: str, template: str, request: Any) -> Any:
    """A database with some thousand rows, of which the planner knows all, or nothing but their size."""
    import asyncio

    from databases import copied

    async def fill(dsn: str) -> None:
        async with connected(dsn, role=None) as owner:
            await owner.execute(SEED)
            if request.param == "analysed":
                await owner.execute(ANALYZE)

    with copied(server, template) as dsn:
        asyncio.run(fill(dsn))
        yield dsn


NEEDS_STATISTICS = {"CHANGES_AFTER", "CHANGES_AFTER far", "IN_FLIGHT"}
"""How much of a table these want, only statistics say; autovacuum brings them within a minute.  IN_FLIGHT runs once, at a start."""


@pytest.mark.parametrize("name", HOT)
def test_the_hot_path_uses_its_index(seeded: str, run: Any, name: str) -> None:
    """The plan of a statement that runs all the time names its index and reads no large table from end to end."""
    statement, arguments, index = HOT[name]

    async def main() -> None:
        async with connected(seeded) as conn:
            analysed = await conn.fetchval(
                "SELECT reltuples >= 0 FROM pg_class WHERE oid = 'log_0'::regclass"
            )
            if not analysed and name in NEEDS_STATISTICS:
                return
            for mode in ("force_custom_plan", "force_generic_plan"):
                await conn.execute(f"SET plan_cache_mode = {mode}")
                rows = await conn.fetch("EXPLAIN " + statement, *arguments)
                plan = "\n".join(row[0] for row in rows)
                assert re.search(rf"\b{index}\b", plan), f"{mode}\n{plan}"
                scanned = re.findall(r"Seq Scan on (\w+)", plan)
                # The partitions to come are empty, and every callback is looked at on purpose.
                assert set(scanned) <= {"callbacks", "log_1", "log_2"}, f"{mode}\n{plan}"

    run(main())
