"""The checks of the fault harness find what they look for, each in a ledger that was right and is spoilt."""

from collections.abc import Callable
from pathlib import Path

import pytest
from faults import checks, hostile, records
from faults.ledger import GONE, Account, Arrival, Callback, Event, Ledger
from faults.receiver import told


def arrival(callback: int, name: str, *versions: tuple[str, int], **more: object) -> Arrival:
    """A notification that was accepted, unless *more* says otherwise."""
    said: dict[str, object] = {
        "marked": False, "digest": name, "accepted": True, "signed": True, "status": 200, "at": 0.0,
    }  # fmt: skip
    return Arrival(callback=callback, id=name, told=list(versions), **(said | more))  # type: ignore[arg-type]  # by name


def event(account: str, name: str, version: int, *, deleted: bool = False) -> Event:
    """A change at the provider."""
    return Event(account, name, version, deleted, 0.0)


def right() -> Ledger:
    """Two callbacks hear of account h by webhook, one, with receipts, of account p by poll; all went well."""
    return Ledger(
        accounts={
            "h": Account("h", polled=False, callbacks=[0, 1]),
            "p": Account("p", polled=True, callbacks=[2]),
        },
        callbacks=[Callback("h"), Callback("h"), Callback("p", receipts=True)],
        events=[
            *(event("h", "h-1", version) for version in (1, 2, 3)),
            *(event("p", "p-1", version, deleted=version == 4) for version in (1, 2, 3, 4)),
            event("p", "p-2", 1),
            # Made and gone between two polls: nobody can have seen it.
            event("p", "p-3", 1),
            event("p", "p-3", 2, deleted=True),
        ],
        arrivals=[
            arrival(0, "a", ("h-1", 1), ("h-1", 2)),
            arrival(1, "b", ("h-1", 1), ("h-1", 2), accepted=False, status=500),
            arrival(1, "b", ("h-1", 1), ("h-1", 2)),
            arrival(1, "b", ("h-1", 1), ("h-1", 2), marked=True),
            arrival(0, "c", ("h-1", 3)),
            arrival(1, "d", ("h-1", 3)),
            arrival(2, "e", ("p-1", 2), ("p-2", 1)),
            arrival(2, "f", ("p-1", GONE)),
        ],
    )


def test_a_ledger_that_is_right_passes_every_check() -> None:
    """Retries after a refusal, marked repeats, and versions that a poll saw as one are nothing to complain of."""
    assert {} == {name: found for name, check in checks.CHECKS.items() if (found := check(right()))}
    assert ["callback 1: b"] == checks.marked_repeats(right())


def _drop(name: str) -> Callable[[Ledger], object]:
    def spoil(ledger: Ledger) -> None:
        ledger.arrivals = [one for one in ledger.arrivals if one.id != name]

    return spoil


def _add(*added: Arrival) -> Callable[[Ledger], object]:
    return lambda ledger: ledger.arrivals.extend(added)


def _swap(one: int, other: int) -> Callable[[Ledger], object]:
    def spoil(ledger: Ledger) -> None:
        ledger.arrivals[one], ledger.arrivals[other] = ledger.arrivals[other], ledger.arrivals[one]

    return spoil


def _refuse(ledger: Ledger) -> None:
    ledger.arrivals[4].accepted = False


def _unsign(ledger: Ledger) -> None:
    ledger.arrivals[0].signed = False


def _refused_again(ledger: Ledger) -> None:
    ledger.arrivals.append(arrival(0, "a", ("h-1", 1), accepted=False, status=500))


@pytest.mark.parametrize(
    ("spoil", "check", "number"),
    [
        (_drop("c"), "changes lost", 1),
        (_drop("a"), "changes lost", 2),
        (_drop("e"), "changes lost", 1),
        (_drop("f"), "changes lost", 1),
        (_refuse, "changes lost", 1),
        (_add(arrival(0, "g", ("h-1", 3))), "changes told in two notifications", 1),
        (_add(arrival(0, "a", ("h-1", 1), ("h-1", 2))), "unmarked repeats", 1),
        (_refused_again, "unmarked repeats", 1),
        (
            _add(arrival(2, "f", ("p-1", GONE), marked=True)),
            "repeats at receivers with receipts",
            1,
        ),
        (_swap(0, 4), "order violations", 2),
        (_swap(6, 7), "order violations", 1),
        (
            _add(arrival(0, "a", ("h-1", 1), marked=True, digest="x")),
            "repeats with another body",
            1,
        ),
        (_unsign, "wrong signatures", 1),
        (_add(arrival(2, "g", ("h-1", 3))), "changes invented", 1),
        (_add(arrival(0, "g", ("h-1", 4))), "changes invented", 1),
        (_add(arrival(2, "g", ("p-2", GONE))), "changes invented", 1),
    ],
)
def test_a_ledger_that_is_spoilt_is_found_out(
    spoil: Callable[[Ledger], object], check: str, number: int
) -> None:
    """Each way of going wrong is counted by the check that watches over it."""
    ledger = right()
    spoil(ledger)
    assert number == len(checks.CHECKS[check](ledger))


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What the load's process saw is what the checks see."""
    path = tmp_path / "ledger.json"
    right().write(path)
    assert right() == Ledger.read(path)


def test_requests_within_the_quiet_that_was_asked_for_are_found() -> None:
    """After a 429 with Retry-After: 4 nothing may come for four seconds, but for what was under way already."""
    said = [(0.0, 429), (0.2, 429), (2.0, 200), (4.1, 429), (6.0, 429), (10.5, 200)]
    ledger = Ledger(arrivals=[arrival(0, str(at), status=status, at=at) for at, status in said])
    assert ["callback 0: 2.0 2.00 s after", "callback 0: 6.0 1.90 s after"] == hostile.too_early(
        ledger
    )


def test_requests_after_410_are_found() -> None:
    """After a 410 nothing may come, but for what was under way already."""
    said = [(0.0, 200), (1.0, 410), (1.5, 410), (7.0, 200)]
    ledger = Ledger(arrivals=[arrival(0, str(at), status=status, at=at) for at, status in said])
    assert ["callback 0: 7.0 6.00 s after"] == hostile.after_gone(ledger)


def test_rows_that_a_rebuild_changes_are_found() -> None:
    """Missing, added and changed rows count; a cursor that falls back does not, one that moves forward does."""
    before: records.Rows = {(1,): {"cursor": 5, "failures": 0}, (2,): {"cursor": 5, "failures": 0}}
    assert [] == records.compare("cursors", before, {**before, (1,): {"cursor": 4, "failures": 0}})
    assert 1 == len(
        records.compare("cursors", before, {**before, (1,): {"cursor": 6, "failures": 0}})
    )
    assert 1 == len(
        records.compare("cursors", before, {**before, (1,): {"cursor": 5, "failures": 1}})
    )
    assert 1 == len(
        records.compare("objects", before, {**before, (1,): {"cursor": 4, "failures": 0}})
    )
    assert 2 == len(records.compare("cursors", before, {(1,): before[1,], (3,): before[2,]}))


def test_versions_are_read_from_what_the_provider_wrote() -> None:
    """A notification of a webhook holds the provider's body, one of a poll its records, a deleted one without version."""
    hook = b'{"message": {"events": [{"objectId": "x"}], "raw": {"events": [{"object": "x", "version": 3}]}}}'
    poll = (
        b'{"message": {"events": [{"objectId": "x"}, {"objectId": "y"}],'
        b' "raw": {"things": [{"id": "x", "version": 2}, {"id": "y"}]}}}'
    )
    assert [("x", 3)] == told(hook)
    assert [("x", 2), ("y", GONE)] == told(poll)
