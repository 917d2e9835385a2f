"""Answers to providers that ask, before they post, whether the address is ours.

An HMAC is answered only over a short token, never over anything that could be a body: else whoever asks could have
a forged webhook signed by us with the very key that proves one.
"""

import hmac
import re

import orjson

from daemon.elements.base import Settings
from daemon.elements.hook_definition import Challenge, Webhook
from daemon.elements.hooks import at, matches, parse
from daemon.elements.paths import fill, text
from daemon.errors import BadSignature, Invalid
from daemon.model import Incoming, Reply
from daemon.signatures import hmac_digest

LONGEST = 4096  # characters of a challenge
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}")


def answer(
    webhook: Webhook, incoming: Incoming, settings: Settings | None, secrets: dict[int, str]
) -> Reply | None:
    """The reply to a challenge, None where *incoming* is none.

    *secrets* holds, by the challenge's number, what its `secret_file` held.  Raises `BadSignature` for one that
    we must not answer.
    """
    if not webhook.challenge:
        return None
    try:
        # A challenge may come by a method that events do not come by.
        body = parse(webhook.model_copy(update={"methods": ["GET", "POST"]}), incoming).value
    except Invalid:
        body = None
    for number, challenge in enumerate(webhook.challenge):
        if challenge.method not in (None, incoming.method):
            continue
        if challenge.when is not None and not matches(challenge.when, incoming, body):
            continue
        value = text(at(challenge.source, incoming, body))
        if value is not None:
            _verify(challenge, incoming, body, settings or {})
            return _reply(challenge, value, secrets.get(number), settings or {})
    return None


def _verify(challenge: Challenge, incoming: Incoming, body: object, settings: Settings) -> None:
    """Raise `BadSignature` for a challenge that does not know what it should."""
    if challenge.verify_source is None or challenge.verify_key is None:
        return
    given = text(at(challenge.verify_source, incoming, body)) or ""
    wanted = settings.get(challenge.verify_key, "")
    if not wanted or not hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), wanted.encode("utf-8", "surrogateescape")
    ):
        raise BadSignature(f"the challenge does not know the instance's {challenge.verify_key}")


def _reply(challenge: Challenge, value: str, secret: str | None, settings: Settings) -> Reply:
    if len(value) > LONGEST:
        raise BadSignature("the challenge is too long to be one")
    said = value
    if challenge.answer == "hmac":
        key = secret or settings.get(challenge.key or "", "")
        if not key:
            raise BadSignature("the challenge needs a key that is not there")
        if not _TOKEN.fullmatch(value):
            raise BadSignature("the challenge is not a plain token: it is not signed")
        said = hmac_digest(challenge.algorithm, challenge.encoding, key.encode(), value.encode())
    quoted = _in_json if challenge.content_type == "application/json" else str
    filled = fill(challenge.reply, {"answer": said, "value": value}, quoted)
    return Reply(200, (filled or "").encode(), challenge.content_type)


def _in_json(value: str) -> str:
    """*value* as it stands between the quotes of a JSON text."""
    return orjson.dumps(value).decode()[1:-1]
