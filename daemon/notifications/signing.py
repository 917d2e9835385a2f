"""Signing what goes to a callback, and changing the key without a gap.

    key changed ──► previous, rotated ──► both sign ── overlap ends ──► the new one alone

A receiver cannot take a new key over at the very moment at which the sender does.  So the key that was replaced
goes on signing beside the new one for a while: in `webhook-signature`, which may hold several signatures
(Standard Webhooks, `spec/standard-webhooks.md`), and in a header of its own for `Elements-Webhook-Signature`,
which may hold one.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from daemon.dates import iso_seconds
from daemon.signatures import Signer

KEY = "event.notification.signature.key"
PREVIOUS = "event.notification.signature.key.previous"
ROTATED = "event.notification.signature.key.rotated"
OVERLAP = "event.notification.signature.overlap"
"""Settings of an instance: its key, the one before (a secret too), when that was replaced, hours that it still signs."""

HEADERS = ("Elements-Webhook-Signature", "Elements-Webhook-Signature-Previous")

OVERLAP_HOURS = 24.0
"""A working day wherever the receiver's people are, and not so long that a key that leaked lives on unnoticed."""

OVERLAP_MOST = 720.0  # hours: a month


def overlap_problem(value: str) -> str | None:
    """What is wrong with *value* as `event.notification.signature.overlap`; None when it can be taken."""
    try:
        usable = not value or 0 <= float(value) <= OVERLAP_MOST
    except ValueError:
        usable = False
    return None if usable else f"should be hours, 0 to {OVERLAP_MOST:.0f}"


def rotated_problem(value: str) -> str | None:
    """What is wrong with *value* as `event.notification.signature.key.rotated`; None when it can be taken."""
    usable = not value or _moment(value) is not None
    return None if usable else "should be a time with its zone, such as 2026-11-20T08:00:00Z"


def rotate(
    before: Mapping[str, str], wanted: Mapping[str, str | None], now: datetime
) -> dict[str, str | None]:
    """*wanted*, all in clear, with the key before kept where *wanted* replaces that of *before*.

    Whatever *wanted* says of the previous key does not count: it is the one that was replaced, until its
    overlap ends, the key is replaced again, or there is none any more.
    """
    made = {name: value for name, value in wanted.items() if name not in {PREVIOUS, ROTATED}}
    key, had = wanted.get(KEY), before.get(KEY)
    if not key:
        return made
    previous, since = (
        (had, iso_seconds(now))
        if had and had != key
        else (
            before.get(PREVIOUS),
            before.get(ROTATED),
        )
    )
    if previous and _overlaps(since, wanted.get(OVERLAP), now.timestamp()):
        made |= {PREVIOUS: previous, ROTATED: since}
    return made


def keys_at(settings: Mapping[str, str], now: float) -> tuple[str, ...]:
    """The keys that sign at *now*, seconds since 1970: none, the key, or the key and the one before."""
    key, previous = settings.get(KEY), settings.get(PREVIOUS)
    if not key:
        return ()
    if previous and _overlaps(settings.get(ROTATED), settings.get(OVERLAP), now):
        return key, previous
    return (key,)


class Seal:
    """What signs the requests to a callback with these *settings*, secrets in clear: nothing, one key or two.

    The keys are read once; a time at which the old one ends is looked at with each request.
    """

    __slots__ = ("_rotating", "_settings", "_signers")

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._rotating = bool(settings.get(KEY) and settings.get(PREVIOUS))
        self._signers: list[Signer] = []

    def signatures(self, body: bytes, *, message_id: str, now: float) -> list[tuple[str, str]]:
        """The headers that sign *body*; none without a key.  Raises `ValueError` for a key that cannot be one."""
        signers = self._signers_at(now)
        if not signers:
            return []
        signed: list[tuple[str, str]] = []
        standard = ""
        for name, signer in zip(HEADERS, signers, strict=False):
            signed.append((name, signer.elements(body)))
            standard += (" " if standard else "") + signer.standard(message_id, int(now), body)
        signed.append(("webhook-signature", standard))
        return signed

    def _signers_at(self, now: float) -> Sequence[Signer]:
        if self._rotating or not self._signers:
            keys = keys_at(self._settings, now)
            if len(keys) != len(self._signers):
                self._signers = [Signer(key) for key in keys]
        return self._signers


def _overlaps(since: str | None, hours: str | None, now: float) -> bool:
    began = _moment(since or "")
    try:
        lasts = float(hours) if hours else OVERLAP_HOURS
    except ValueError:
        lasts = OVERLAP_HOURS  # it was stored before it was checked
    return began is not None and now < began.timestamp() + lasts * 3600


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.astimezone(UTC)
