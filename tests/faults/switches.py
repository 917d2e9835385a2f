"""The mechanisms that keep the promises, each with a way to switch it off: what is then found proves the checks.

The daemon's code knows nothing of this; `launcher` replaces a function before the daemon starts.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Switch:
    """One mechanism.  Without it, under *scenario*, the count *check* must not be 0."""

    off: Callable[[], None]
    scenario: str
    check: str
    mechanism: str


def _early_answer() -> None:
    from daemon.store.writer import Receipt, Unit, Writer

    append = Writer.append

    async def at_once(self: Writer, unit: Unit, *, patient: bool = False) -> Receipt:
        if patient or not unit.intakes or unit.intakes[0].polled is not None:
            return await append(self, unit, patient=patient)
        later = asyncio.get_running_loop().create_task(_late(append(self, unit)))
        _KEPT.add(later)
        later.add_done_callback(_KEPT.discard)
        return Receipt(0, 0, 0)

    Writer.append = at_once  # type: ignore[method-assign]  # that is the switch


_KEPT: set[Any] = set()


async def _late(append: Any) -> None:
    from daemon.errors import Outage

    await asyncio.sleep(0.05)
    with contextlib.suppress(Outage):  # it was answered already: that is the fault
        await append


def _no_recognition() -> None:
    from daemon.store import writer

    writer._is_new = lambda *args: True


def _no_reservation() -> None:
    from daemon.dispatcher import lane

    take = lane.Lane.take

    def unreserved(self: Any, now: float) -> Any:
        kept, self.reserved = self.reserved, 2**62
        try:
            return take(self, now)
        finally:
            self.reserved = kept

    progress = lane.Progress

    def nothing_reserved(callback: int, cursor: int, reserved: int, **more: Any) -> Any:
        return progress(callback, cursor, cursor, **more)

    lane.Lane.take = unreserved  # type: ignore[method-assign]  # that is the switch
    lane.Lane._reserve = _straight  # type: ignore[method-assign]  # likewise: a retry goes without its row
    lane.Progress = nothing_reserved  # type: ignore[misc,assignment]  # likewise


def _straight(self: Any, item: Any) -> None:
    from daemon.dispatcher.items import State

    item.state = State.RESERVING
    self._ready.append(item)


def _no_recovery() -> None:
    from daemon.store import deliveries

    async def none(*args: Any, **named: Any) -> list[tuple[int, int, int]]:
        return []

    deliveries.unanswered = none


def _no_order() -> None:
    from daemon.dispatcher import lane

    def enter(self: Any, item: Any) -> None:
        self._items[item.position] = item

    def leave(self: Any, item: Any) -> None:
        del self._items[item.position]
        self._left += item.position in self._fresh

    lane.Lane._enter = enter  # type: ignore[method-assign]  # that is the switch
    lane.Lane._leave = leave  # type: ignore[method-assign]  # likewise


def _no_skip() -> None:
    from daemon.store import database, deliveries

    async def none(*args: Any) -> set[int]:
        return set()

    deliveries.rows_above = none
    schema = database.schema_sql
    # The database would refuse a second acceptance by itself, so its trigger goes as well.
    database.schema_sql = lambda: schema().replace(
        "WHEN (OLD.state = 'delivered')", "WHEN (OLD.state = 'never')"
    )


def _no_question() -> None:
    from daemon.store import log

    async def committed(*args: Any) -> bool:
        return True

    log.was_committed = committed


def _no_receipts() -> None:
    from daemon.dispatcher import receipts

    async def unknown(*args: Any, **named: Any) -> Any:
        answer = await ask(*args, **named)
        if isinstance(answer, receipts.NoAnswer):
            return answer
        both = answer.received | answer.unknown
        return receipts.Receipts(received=frozenset(), unknown=both)

    ask = receipts.ask
    receipts.ask = unknown


def _no_fold() -> None:
    from daemon.store import projections

    fold = projections._fold

    async def without_seen(conn: Any, first: int, last: int, kinds: Any, entries: Any) -> None:
        await fold(conn, first, last, kinds - {"poll.completed"}, [e for e in entries if e[1] != "poll.completed"])  # fmt: skip

    projections._fold = without_seen


SWITCHES = {
    "late answer": Switch(
        _early_answer,
        "kills",
        "changes lost",
        "a webhook is answered only after its changes are committed",
    ),
    "recognition": Switch(
        _no_recognition,
        "kills",
        "changes told in two notifications",
        "a change that the log has is left out",
    ),
    "reservation": Switch(
        _no_reservation, "kills", "unmarked repeats", "an attempt is durable before it is made"
    ),
    "recovery": Switch(
        _no_recovery,
        "kills",
        "unmarked repeats",
        "what a crash left without an outcome is marked as a possible repeat",
    ),
    "order": Switch(
        _no_order, "kills", "order violations", "an object's next change waits for the one before"
    ),
    "skip": Switch(
        _no_skip,
        "kills",
        "second accepted deliveries recorded",
        "what has an outcome above the cursor is passed over after a restart",
    ),
    "question": Switch(
        _no_question,
        "commits",
        "changes lost",
        "after a lost connection the server is asked what became of a COMMIT",
    ),
    "receipts": Switch(
        _no_receipts,
        "kills",
        "repeats at receivers with receipts",
        "a receiver that says that it has a notification is believed",
    ),
    "fold": Switch(
        _no_fold,
        "kills",
        "projection rows that differ after a rebuild",
        "every entry is folded in the transaction that appends it",
    ),
}
