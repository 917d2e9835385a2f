"""What a request to a callback is: a notification, a question for receipts, or nothing to listen to.  Pure."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from daemon.receipts import ID_LENGTH_MOST, Question, is_receipts, read_question
from daemon.signatures import signing_key, verify_elements, verify_standard


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification, verified: see `first` of an inbox, then answer any 2xx after the commit.

    *id* is what an inbox stores.  *repeat* says that tidings does not know whether it came before; one without it
    may be known all the same (a request that was long on its way), so only the inbox decides.
    """

    id: str
    body: bytes
    repeat: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Not to be acted on: answer *status*; *reason* is for the receiver's own log."""

    status: int
    reason: str


Reaction: TypeAlias = Notification | Question | Refused


def handle(
    headers: Mapping[str, str],
    body: bytes,
    *,
    keys: Collection[str],
    now: float | None = None,
    tolerance: float = 300.0,
) -> Reaction:
    """What to do with a request.

    *headers* may be in any case, *body* must be the bytes as they came.  *keys* are the values of
    `event.notification.signature.key` that are taken: one, or while it is changed the old and the new; none is a
    `ValueError`, because then anybody could write here.  *now* is in seconds since 1970, the present where not
    given; *tolerance* in seconds is how far from it a request may have been signed.
    """
    if isinstance(keys, str) or not keys:
        raise ValueError("keys must be a list of at least one signature key")
    signing = [signing_key(key) for key in keys]
    given = {name.lower(): value for name, value in headers.items()}
    signature, message_id = given.get("webhook-signature"), given.get("webhook-id", "")
    if signature is None:
        # Elements-Webhook-Signature alone is not enough: it covers neither the id nor the time.
        return Refused(HTTPStatus.UNAUTHORIZED, "webhook-signature is missing")
    if not verify_standard(
        signing,
        message_id=message_id,
        timestamp=given.get("webhook-timestamp", ""),
        body=body,
        signature=signature,
        now=time.time() if now is None else now,
        tolerance=tolerance,
    ):
        return Refused(HTTPStatus.UNAUTHORIZED, "webhook-signature is wrong, or too old")
    elements = given.get("elements-webhook-signature")
    if elements is not None and not any(verify_elements(key, body, elements) for key in keys):
        return Refused(HTTPStatus.UNAUTHORIZED, "Elements-Webhook-Signature is wrong")
    if is_receipts(given.get("content-type")):
        try:
            return read_question(body)
        except ValueError as error:
            return Refused(HTTPStatus.BAD_REQUEST, f"the question for receipts is none: {error}")
    if not 0 < len(message_id) <= ID_LENGTH_MOST or not (
        message_id.isascii() and message_id.isprintable()
    ):
        return Refused(HTTPStatus.BAD_REQUEST, "webhook-id is no id")
    return Notification(message_id, body, "webhook-redelivery" in given)
