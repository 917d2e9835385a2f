"""Settling what is in doubt by asking the receiver: which of these ids have you got?

    wanted    where to ask, if at all        problem   what is wrong with the setting
    headers   those of one question          judge     what an answer means
    ask       all of it, once

docs/receipts.md specifies the protocol.  The rule that everything here keeps: only a whole and right answer
settles anything; all else is `NoAnswer`, which is neither a yes nor a no.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from daemon.backoff import retry_after
from daemon.dispatcher.sending import RETRY_AFTER_MOST, Answer, Sender, credentials, shown
from daemon.errors import Invalid, NotSent, Unanswered
from daemon.notifications.signing import Seal
from daemon.receipts import (
    CONTENT_TYPE,
    ID_PREFIX,
    IDS_MOST,
    Question,
    Receipts,
    is_receipts,
    problem,
    read_answer,
    write_question,
)

__all__ = ["IDS_MOST", "SETTLE", "NoAnswer", "Receipts", "ask", "problem", "wanted"]

SETTING = "event.notification.receipts"

SETTLE = 5.0
"""Seconds from the end of an attempt in doubt, whose connection is gone then, to the first question about it.

A request that is still being worked on mostly ends within them; what does not costs a repeat, and the receiver's
inbox sees to it that nothing happens twice.
"""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The receiver did not say: ask again later.  *quiet*: seconds for which it wants to be left alone."""

    error: str
    quiet: float = 0.0


def wanted(settings: Mapping[str, str | None], callback_url: str | None) -> str | None:
    """The URL to ask: the setting's own, or with `true` that of the callback; None when nobody is to be asked."""
    value = (settings.get(SETTING) or "").strip()
    if value.lower() in {"", "false"}:
        return None
    return callback_url if value.lower() == "true" else value


def headers(
    body: bytes, settings: Mapping[str, str], *, message_id: str, now: float
) -> list[tuple[str, str]]:
    """The headers of the question in *body*, signed and authenticated as a notification's; *message_id* is its own.

    Raises `ValueError` for a signature key that cannot be one.
    """
    sent = [
        ("content-type", CONTENT_TYPE),
        ("accept", CONTENT_TYPE),
        ("Elements-Webhook-Id", message_id),
        ("webhook-id", message_id),
        ("webhook-timestamp", str(int(now))),
    ]
    return [
        *sent,
        *Seal(settings).signatures(body, message_id=message_id, now=now),
        *credentials(settings),
    ]


def judge(answer: Answer, asked: Collection[str], *, now: float) -> Receipts | NoAnswer:
    """Only a 200 of the right content type with a right body says anything."""
    if answer.status != HTTPStatus.OK:
        quiet = 0.0
        if answer.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            at = datetime.fromtimestamp(now, UTC)
            quiet = retry_after(answer.headers, now=at, most=RETRY_AFTER_MOST) or 0.0
        return NoAnswer(f"the question for receipts was answered {answer.status}", quiet)
    if not is_receipts(answer.headers.get("content-type")):
        return NoAnswer(f"the question for receipts was answered, but not as {CONTENT_TYPE}")
    try:
        return read_answer(answer.body, asked)
    except ValueError as error:
        return NoAnswer(shown(f"the question for receipts was answered wrongly: {error}"))


async def ask(
    sender: Sender,
    url: str,
    settings: Mapping[str, str],
    ids: Sequence[str],
    *,
    since: float,
    now: float,
) -> Receipts | NoAnswer:
    """Ask once at *url* for *ids*, at most `IDS_MOST`; never raises for what the outside does.

    *since* is a moment before any request with one of *ids* was sent: the oldest of the notifications'
    `appended`.  Both times are in seconds since 1970.  Raises `ValueError` for ids that cannot be asked for.
    """
    body = write_question(Question(tuple(ids), int(since)))
    message_id = ID_PREFIX + uuid.uuid4().hex
    try:
        sent = headers(body, settings, message_id=message_id, now=now)
        answer = await sender.post(url, headers=sent, body=body)
    except (NotSent, Unanswered, Invalid, ValueError) as error:
        return NoAnswer(shown(f"no answer to the question for receipts: {error}"))
    return judge(answer, ids, now=now)
