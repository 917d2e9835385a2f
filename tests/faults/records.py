"""What tidings' own log says of itself: counted after a scenario, with the daemon stopped."""

import asyncpg

from daemon.store import database, projections

SECOND = """
SELECT count(*) FROM (
       SELECT o->>0, o->>1 FROM log, json_array_elements(data->'outcomes') AS o
        WHERE kind = 'delivery' AND o->>2 = 'delivered'
        GROUP BY o->>0, o->>1 HAVING count(*) > 1) AS again
"""

# A rebuild may put a cursor back: fingerprints make reading again harmless.  It never puts one forward.
MAY_FALL_BACK = {"cursors": frozenset({"cursor", "polled", "swept"})}

PRIMARY_KEY = """
SELECT attname FROM pg_index, unnest(indkey) WITH ORDINALITY AS key (number, place)
  JOIN pg_attribute ON attnum = number
 WHERE indrelid = $1::regclass AND attrelid = indrelid AND indisprimary
 ORDER BY place
"""

Rows = dict[tuple[object, ...], dict[str, object]]


async def second_accepted(dsn: str) -> int:
    """Notifications that the log says were accepted twice by one callback."""
    conn = await database.connect(dsn, role=None)
    try:
        found: int = await conn.fetchval(SECOND)
        return found
    finally:
        await conn.close()


async def differing(dsn: str) -> list[str]:
    """Rows of projections that a rebuild makes otherwise than they were."""
    conn = await database.connect(dsn, role=None)
    try:
        before = await _dump(conn)
        async with conn.transaction():
            async for _ in projections.rebuild(conn):
                pass
        after = await _dump(conn)
    finally:
        await conn.close()
    return [line for table in before for line in compare(table, before[table], after[table])]


def compare(table: str, before: Rows, after: Rows) -> list[str]:
    """The rows of *table* that differ, one sentence each."""
    found: list[str] = []
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            found.append(
                f"{table} {key}: {'only after' if old is None else 'gone after'} the rebuild"
            )
            continue
        for column, value in old.items():
            same = new[column] == value
            back = column in MAY_FALL_BACK.get(table, ()) and _not_later(new[column], value)
            if not same and not back:
                found.append(f"{table} {key}: {column} was {value}, is {new[column]}")
    return found


def _not_later(new: object, old: object) -> bool:
    return new is None or (old is not None and new <= old)  # type: ignore[operator]  # both are timestamps


async def _dump(conn: "asyncpg.Connection[asyncpg.Record]") -> dict[str, Rows]:
    dump: dict[str, Rows] = {}
    for table in [table for one in projections.PROJECTIONS for table in one.tables]:
        names = [row["attname"] for row in await conn.fetch(PRIMARY_KEY, table)]
        rows = [dict(row) for row in await conn.fetch(f"SELECT * FROM {table}")]  # noqa: S608 — our own names
        dump[table] = {tuple(row[name] for name in names): row for row in rows}
    return dump
