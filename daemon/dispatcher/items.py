"""What a lane handles: one unsettled notification, where it is, and the rules that hold for it."""

from dataclasses import dataclass
from enum import Enum, auto

from daemon.backoff import Exponential
from daemon.notifications import Notification

Object = tuple[str, str]
"""The type and the id of a provider's object."""

ASKING = Exponential(base=5.0, most=900.0)


class State(Enum):
    """Where a notification is, as this process sees it."""

    FRESH = auto()
    RETRYING = auto()
    RESERVING = auto()
    WAITING = auto()
    IN_FLIGHT = auto()
    IN_DOUBT = auto()
    ASKING = auto()
    HELD = auto()
    SETTLED = auto()


class Doubt(Enum):
    """What is done about a notification that may have been accepted: `event.notification.redelivery`, `…receipts`."""

    RESEND = auto()
    ASK = auto()
    HOLD = auto()


@dataclass(slots=True, eq=False)
class Item:
    """One unsettled notification.  *notification* is None when it must be read from the log again."""

    position: int
    objects: tuple[Object, ...]
    notification: Notification | None = None
    state: State = State.FRESH
    attempts: int = 0
    due: float = 0.0
    doubtful: bool = False
    blockers: int = 0  # objects of which an earlier notification is unsettled
    parked: bool = False  # has a row of its own
    probe: bool = False
    asked: int = 0  # questions about it that were answered, and not with yes or no
    overruled: bool = False  # a person settled it while it was in flight


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a lane."""

    window: int = 256
    """Fresh notifications that may be out of the log and without a row."""
    ahead: int = 10_000
    """Positions reserved beyond the log's head, so that one row serves many notifications."""
    parked: int = 5_000
    """Unsettled notifications with a row that are kept in mind; when there are more, the lane stops reading."""
    concurrency: int = 8
    breaker: int = 10
    """Failures in a row, with nothing accepted between, that open the breaker."""
    probe_first: float = 1.0
    probe_most: float = 300.0
    """Seconds between probes of an open breaker: doubling from the first to the most."""
    rate: float = 0.0
    """Attempts a second at most; 0 for no limit."""
    doubt: Doubt = Doubt.RESEND
    ask_after: float = 2.0
    """Seconds from an attempt without an answer to the question what became of it."""
    asking: Exponential = ASKING
    """Between two questions about the same."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay's lane sends again: of its instance, up to *until*, of one type or object where that is given.

    *url* is where to, None for a callback: that of the instance *to*, or else the instance's own; with *as_new*
    under new ids.
    """

    until: int
    object_type: str | None = None
    object_id: str | None = None
    url: str | None = None
    to: int | None = None
    as_new: bool = False

    def selects(self, notification: Notification) -> bool:
        """Whether *notification* is about what is wanted."""
        return any(
            self.object_type in {None, kind} and self.object_id in {None, object_id}
            for kind, object_id in notification.objects
        )
