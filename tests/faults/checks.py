"""The invariants, as functions over a ledger: each gives what violates it, one sentence for each case.

What a receiver *has* is what it accepted first, in the order in which it came; what comes again is a repeat.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator

from faults.ledger import GONE, Arrival, Event, Ledger

Check = Callable[[Ledger], list[str]]


def lost(ledger: Ledger) -> list[str]:
    """Changes that a callback never had.

    Of a webhook every change must come.  Of a poll the last version of each object must, because what changed
    twice between two polls is one change to a poller; and a deletion, if the callback ever heard of the object.
    """
    told = [set[tuple[str, int]]() for _ in ledger.callbacks]
    for arrival in _first(ledger):
        told[arrival.callback].update(arrival.told)
    heard = [{name for name, _ in versions} for versions in told]
    missing: list[str] = []
    for event in _owed(ledger):
        polled = ledger.accounts[event.account].polled
        version = GONE if polled and event.deleted else event.version
        for callback in ledger.accounts[event.account].callbacks:
            if version == GONE and event.object not in heard[callback]:
                continue
            if (event.object, version) not in told[callback]:
                ailed = ledger.callbacks[callback].ailed
                missing.append(
                    f"callback {callback}{f' ({ailed})' if ailed else ''}: {event.object} version {event.version}"
                )
    return missing


def told_twice(ledger: Ledger) -> list[str]:
    """Changes that a callback had in two notifications."""
    seen: dict[tuple[int, str, int], str] = {}
    found: list[str] = []
    for arrival in _first(ledger):
        for name, version in arrival.told:
            before = seen.setdefault((arrival.callback, name, version), arrival.id)
            if before != arrival.id:
                found.append(
                    f"callback {arrival.callback}: {name} version {version} in {before} and {arrival.id}"
                )
    return found


def unmarked_repeats(ledger: Ledger) -> list[str]:
    """Notifications that came after they had been accepted, without saying that they may be repeats."""
    return [_name(one) for one in _repeats(ledger) if not one.marked]


def repeats_with_receipts(ledger: Ledger) -> list[str]:
    """Notifications that were sent again to a receiver that can be asked what it has."""
    return [_name(one) for one in _repeats(ledger) if ledger.callbacks[one.callback].receipts]


def marked_repeats(ledger: Ledger) -> list[str]:
    """Repeats that said so: allowed where the receiver cannot be asked; counted to be known."""
    return [_name(one) for one in _repeats(ledger) if one.marked]


def needless_marks(ledger: Ledger) -> int:
    """How many notifications said that they may be repeats when they first came."""
    return sum(one.marked for one in _first(ledger))


def out_of_order(ledger: Ledger) -> list[str]:
    """Changes of an object that a callback had after a later one of the same object."""
    latest: dict[tuple[int, str], int] = {}
    found: list[str] = []
    for arrival in _first(ledger):
        for name, version in arrival.told:
            key = (arrival.callback, name)
            # A deletion is the last there is: whatever comes after it is out of order.
            number = 2**62 if version == GONE else version
            if number < latest.get(key, 0):
                found.append(f"{_name(arrival)}: {name} version {version} after {latest[key]}")
            latest[key] = max(number, latest.get(key, 0))
    return found


def altered(ledger: Ledger) -> list[str]:
    """Notifications that came again with another body."""
    bodies: dict[tuple[int, str], str] = {}
    return [
        _name(one)
        for one in ledger.arrivals
        if bodies.setdefault((one.callback, one.id), one.digest) != one.digest
    ]


def unsigned(ledger: Ledger) -> list[str]:
    """Requests with a signature that is missing or wrong."""
    return [_name(one) for one in ledger.arrivals if not one.signed]


def invented(ledger: Ledger) -> list[str]:
    """Changes that were told and never happened, or not in that account."""
    happened: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for event in ledger.events:
        happened[event.account].add((event.object, event.version))
        if event.deleted:
            happened[event.account].add((event.object, GONE))
    return [
        f"{_name(one)}: {name} version {version}"
        for one in ledger.arrivals
        for name, version in one.told
        if (name, version) not in happened[ledger.callbacks[one.callback].account]
    ]


CHECKS: dict[str, Check] = {
    "changes lost": lost,
    "changes told in two notifications": told_twice,
    "unmarked repeats": unmarked_repeats,
    "repeats at receivers with receipts": repeats_with_receipts,
    "order violations": out_of_order,
    "repeats with another body": altered,
    "wrong signatures": unsigned,
    "changes invented": invented,
}
"""All that must find nothing."""


def delays(ledger: Ledger, callbacks: set[int]) -> list[float]:
    """Seconds from each change by webhook to its first acceptance at each of *callbacks*, sorted."""
    happened = {(event.object, event.version): event.at for event in ledger.events}
    found: list[float] = []
    for arrival in _first(ledger):
        if arrival.callback in callbacks:
            found += [arrival.at - happened[one] for one in arrival.told if one in happened]
    return sorted(found)


def _owed(ledger: Ledger) -> Iterator[Event]:
    """The changes that must come: all of webhooks, the last of each polled object."""
    last = {event.object: event for event in ledger.events if ledger.accounts[event.account].polled}
    yield from last.values()
    yield from (one for one in ledger.events if not ledger.accounts[one.account].polled)


def _first(ledger: Ledger) -> Iterator[Arrival]:
    """Each notification's first acceptance at each callback."""
    seen: set[tuple[int, str]] = set()
    for arrival in ledger.arrivals:
        if arrival.accepted and (arrival.callback, arrival.id) not in seen:
            seen.add((arrival.callback, arrival.id))
            yield arrival


def _repeats(ledger: Ledger) -> Iterator[Arrival]:
    """Whatever came to a callback that had accepted it before, accepted again or not."""
    seen: set[tuple[int, str]] = set()
    for arrival in ledger.arrivals:
        key = (arrival.callback, arrival.id)
        if key in seen:
            yield arrival
        elif arrival.accepted:
            seen.add(key)


def _name(arrival: Arrival) -> str:
    return f"callback {arrival.callback}: {arrival.id}"
