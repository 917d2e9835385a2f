"""What an inbox may say of an id that it does not hold: pure, the same for every database."""

from collections.abc import Mapping
from datetime import timedelta

from daemon.receipts import Question, Receipts

HORIZON = ""
"""The id of the row that tells up to when ids may have been forgotten.  No notification has it."""

SKEW = 300
"""Seconds by which the clocks of tidings and the receiver may differ: signatures allow no more."""

KEEP = timedelta(days=30)
"""How long ids are kept by default: longer than any schedule of deliveries lasts."""


def answer(question: Question, found: Mapping[str, int]) -> Receipts:
    """What to answer when of the ids asked, and `HORIZON`, the inbox holds *found*: id → seconds since 1970.

    An id that is not there was either never done or has been forgotten.  Only if no request with it was sent before
    the horizon is the first certain, and only then is it unknown; else nothing is said of it.
    """
    asked = frozenset(question.ids)
    received = asked & found.keys()
    horizon = found.get(HORIZON)
    certain = horizon is None or (question.since is not None and question.since > horizon + SKEW)
    return Receipts(received, asked - received if certain else frozenset())


def checked(message_id: str) -> str:
    """*message_id*, if it can be stored; else `ValueError`."""
    if not message_id or "\0" in message_id:
        raise ValueError("a notification without an id cannot be remembered")
    return message_id


def horizon(now: float, keep: timedelta) -> int:
    """The moment before which ids are to be forgotten, in seconds since 1970."""
    if keep <= timedelta():
        raise ValueError("ids must be kept for longer than no time")
    return int(now - keep.total_seconds())
