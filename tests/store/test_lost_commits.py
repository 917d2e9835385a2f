"""What became of a COMMIT whose answer was lost is told by the log itself, whatever the server has forgotten in a crash."""

from typing import Any

from heart import connected, opening, writing

from daemon.store import log
from daemon.store.log import Entry
from daemon.store.vault import Keys


def test_what_became_of_a_commit(dsn: str, keys: Keys, run: Any) -> None:
    """Committed is what left its entry; rolled back, never heard of, or another's number since then, is not."""

    async def main() -> None:
        async with writing(dsn, keys) as w:
            await w.append(opening())
        async with connected(dsn) as conn, connected(dsn) as other:
            entry = Entry("log.opened", data="{}")
            async with conn.transaction():
                first, xid = await log.append(conn, [entry, entry])
            assert await log.was_committed(other, xid, first + 1)
            undone = conn.transaction()
            await undone.start()
            lost, gone = await log.append(conn, [entry])
            await undone.rollback()
            assert not await log.was_committed(other, gone, lost)
            # The server has crashed, and begins again with a number that was given already.
            assert not await log.was_committed(other, str(int(gone) + 1_000_000), lost)
            assert not await log.was_committed(other, xid, lost)
            assert not await log.was_committed(other, gone, first)

    run(main())
