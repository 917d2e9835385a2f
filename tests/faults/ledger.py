"""What the provider and the receiver of the harness saw: the record that judges tidings, and none of its tables.

An object's versions count from 1 within its account; a version names one change.  Ids are not used again, so a
deletion is an object's last version.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

GONE = -1
"""The version in a notification that only says that an object is no more, as polls find out."""


@dataclass(slots=True)
class Account:
    """One account at the provider, and the numbers of the callbacks that hear of it."""

    name: str
    polled: bool
    callbacks: list[int]


@dataclass(slots=True)
class Callback:
    """One callback.  *receipts*: it answers what it has had already, so a repeat is never excused.

    *ailed*: its mode before it was mended.
    """

    account: str
    mode: str = "ok"
    receipts: bool = False
    ailed: str = ""


@dataclass(slots=True)
class Event:
    """One change at the provider; *at* in seconds of the harness's monotonic clock."""

    account: str
    object: str
    version: int
    deleted: bool
    at: float


@dataclass(slots=True)
class Arrival:
    """One request at a callback.

    *marked*: it said that it may be a repeat.  *accepted*: from here on the application has it, whether or not
    the sender hears so.  *told*: (object, version) of its events, in order.
    """

    callback: int
    id: str
    marked: bool
    digest: str
    accepted: bool
    signed: bool
    status: int
    at: float
    told: list[tuple[str, int]]


@dataclass(slots=True)
class Ledger:
    """All of it, in the order in which it happened."""

    accounts: dict[str, Account] = field(default_factory=dict)
    callbacks: list[Callback] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    queried: dict[str, int] = field(default_factory=dict)
    """What else was asked of the receiver, and how often: `receipt`, `trap`."""

    def write(self, path: Path) -> None:
        """Write it to *path* as JSON."""
        path.write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """What `write` wrote."""
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        return cls(
            accounts={name: Account(**one) for name, one in found["accounts"].items()},
            callbacks=[Callback(**one) for one in found["callbacks"]],
            events=[Event(**one) for one in found["events"]],
            arrivals=[
                Arrival(**{**one, "told": [(name, version) for name, version in one["told"]]})
                for one in found["arrivals"]
            ],
            queried=found["queried"],
        )
