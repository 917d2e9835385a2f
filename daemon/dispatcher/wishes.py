"""What a callback wants: read from its instance's configuration, and from the replay where it is one."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import asyncpg

from daemon.dispatcher import receipts
from daemon.dispatcher.items import Doubt, Replay, Rules
from daemon.model import Instance

REPLAY_CONCURRENCY = 2
REPLAY_RATE = 200.0
"""A replay has at most so many attempts at once and a second, unless it asks for another rate: live traffic goes first."""

Origin = tuple[str, str | None, int | None]

_FOR_ITS_OWN_HOST = frozenset(
    {
        "event.notification.basic.username",
        "event.notification.basic.password",
        "event.notification.callback.headers",
    }
)


def replay_of(row: asyncpg.Record) -> Replay | None:
    """What the callback *row* replays; None for a callback that is an instance's own."""
    asked = row["replay"]
    if asked is None:
        return None
    return Replay(
        # Up to its own entry all is visible; what came later was not there when it was asked for.
        until=min(row["until"], row["id"]),
        object_type=asked.get("type"),
        object_id=asked.get("object"),
        url=asked.get("url"),
        to=asked.get("to_instance"),
        as_new=bool(asked.get("as_new")),
    )


def rules_of(row: asyncpg.Record, base: Rules, instance: Instance | None) -> Rules:
    """The operator's rules *base*, with what the *instance* to which the callback *row* sends wants of it."""
    if instance is None:
        return base
    replay = replay_of(row)
    wanted = instance.configuration
    doubt = doubt_of(instance, replay)
    rules = replace(
        base,
        doubt=doubt,
        # What is reserved and not sent is in doubt after a crash: where doubt costs a person's or the
        # receiver's time, only what is about to be sent is reserved.
        ahead=base.ahead if doubt is Doubt.RESEND else 0,
        ask_after=receipts.SETTLE,
        rate=rate_of(instance),
        concurrency=int(_number(wanted.get("event.notification.concurrency"), base.concurrency))
        or base.concurrency,
    )
    if replay is None:
        return rules
    rate = float(row["replay"].get("rate") or REPLAY_RATE)
    return replace(
        rules,
        concurrency=min(rules.concurrency, REPLAY_CONCURRENCY),
        rate=min(rate, rules.rate or rate),
    )


def doubt_of(instance: Instance, replay: Replay | None) -> Doubt:
    """What *instance* wants to be done about what may have been accepted."""
    if asked_at(instance, replay) is not None:
        return Doubt.ASK
    hold = (instance.configuration.get("event.notification.redelivery") or "").lower() == "hold"
    return Doubt.HOLD if hold else Doubt.RESEND


def rate_of(instance: Instance) -> float:
    """Attempts a second at most; 0 for no limit."""
    return _number(instance.configuration.get("event.notification.rate"), 0.0)


def address_of(instance: Instance, replay: Replay | None) -> str | None:
    """Where to: the replay's own address, or the instance's callback; None when there is none."""
    own = replay.url if replay is not None else None
    return own or instance.callback_url


def asked_at(instance: Instance, replay: Replay | None) -> str | None:
    """The URL that says what became of a notification; None when nobody is to be asked.

    Of what a replay sent to another address, only that address knows: an inbox with a URL of its own would answer
    for what it once got itself.
    """
    own = instance.callback_url
    if replay is None or replay.url is None or replay.url == own:
        return receipts.wanted(instance.configuration, own)
    told = (instance.configuration.get(receipts.SETTING) or "").strip().lower()
    return replay.url if told == "true" else None


def shown_settings(
    settings: Mapping[str, str], instance: Instance, replay: Replay | None
) -> Mapping[str, str]:
    """*settings* (in clear) without what only the host of the instance's own callback may see."""
    if replay is None or replay.url is None:
        return settings
    own = instance.callback_url
    if own is not None and origin_of(own) == origin_of(replay.url):
        return settings
    return {name: value for name, value in settings.items() if name not in _FOR_ITS_OWN_HOST}


def origin_of(url: str) -> Origin:
    """Scheme, host and port of *url*."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


def _number(text: str | None, default: float) -> float:
    """A number of an instance's configuration, which was checked when it was stored."""
    try:
        return float(text) if text else default
    except ValueError:
        return default
