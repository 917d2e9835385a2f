"""The receipt query as bytes: what tidings asks a receiver, and what it may answer.  Pure, no I/O.

    {"ids": ["…", …], "since": 1700000000}  ──►  {"received": ["…"], "unknown": ["…"]}

docs/receipts.md is the specification.  An id in neither list of an answer means that the receiver cannot say.
Whatever is not exactly an answer says nothing about any id: it is never taken for a no.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

CONTENT_TYPE = "application/webhook-receipts+json"
"""Of the question and of the answer."""

ID_PREFIX = "receipts_"
"""How the `webhook-id` of a question begins; that of a notification never does."""

IDS_MOST = 100
"""Ids in one question."""

ID_LENGTH_MOST = 200  # characters


@dataclass(frozen=True, slots=True)
class Question:
    """Which of *ids* has the receiver?

    *since*, seconds since 1970, is a moment before any request with one of these ids was sent; None when the
    asker does not know one.
    """

    ids: tuple[str, ...]
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Receipts:
    """An answer: the ids that the receiver has, and those that it certainly has not."""

    received: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if both := self.received & self.unknown:
            raise ValueError(f"{len(both)} ids are both received and unknown")


def problem(value: str) -> str | None:
    """What is wrong with *value* as `event.notification.receipts`; None when it can be taken.

    Whether a URL may be sent to is for the outbound policy to say, as with a callback's.
    """
    text = value.strip()
    if text.lower() in {"", "true", "false"}:
        return None
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        usable = usable and "@" not in parts.netloc  # a password stands in settings of its own
    except ValueError:
        usable = False
    return None if usable else "should be true, false or the URL (https://…) to ask"


def is_receipts(content_type: str | None) -> bool:
    """Whether a Content-Type is that of a question or an answer; parameters do not matter."""
    return (content_type or "").partition(";")[0].strip().lower() == CONTENT_TYPE


def write_question(question: Question) -> bytes:
    """The body that asks *question*.  Raises `ValueError` when it has no ids, too many or impossible ones."""
    _check(question.ids)
    since = {} if question.since is None else {"since": question.since}
    return orjson.dumps({"ids": question.ids, **since})


def read_question(body: bytes) -> Question:
    """What *body* asks.  Raises `ValueError` when it is no question; members that are not known are ignored."""
    read = _object(body)
    ids = _ids(read, "ids")
    _check(ids)
    since = read.get("since")
    if since is not None and (type(since) is not int or since < 0):
        raise ValueError("since must be whole seconds since 1970")
    return Question(ids, since)


def write_answer(receipts: Receipts) -> bytes:
    """The body that gives *receipts*."""
    return orjson.dumps(
        {"received": sorted(receipts.received), "unknown": sorted(receipts.unknown)}
    )


def read_answer(body: bytes, asked: Collection[str]) -> Receipts:
    """What *body* says of the ids *asked*.

    Raises `ValueError` when it is no answer: a list is missing, an id is in both, or one was not asked for,
    which is the answer to some other question.
    """
    read = _object(body)
    received, unknown = frozenset(_ids(read, "received")), frozenset(_ids(read, "unknown"))
    if not (received | unknown) <= frozenset(asked):
        raise ValueError("an id in the answer was not asked for")
    return Receipts(received, unknown)


def _object(body: bytes) -> dict[str, Any]:
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError("the body is not JSON") from error
    if not isinstance(read, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004 — what the outside wrote, no argument
    return read


def _ids(read: dict[str, Any], name: str) -> tuple[str, ...]:
    ids = read.get(name)
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise ValueError(f"{name} must be a list of strings")
    return tuple(ids)


def _check(ids: tuple[str, ...]) -> None:
    if not 0 < len(ids) <= IDS_MOST:
        raise ValueError(f"ids must be 1 to {IDS_MOST}, not {len(ids)}")
    for one in ids:
        if not 0 < len(one) <= ID_LENGTH_MOST or not (one.isascii() and one.isprintable()):
            raise ValueError(f"an id must be 1 to {ID_LENGTH_MOST} printable ASCII characters")
