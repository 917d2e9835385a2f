"""What an instance's configuration becomes: texts, checked, its secrets apart.

what was sent ──► texts ──► check ──► exchange of the code ──► split ──► configuration (masked)
                                                                   └───► secrets for the vault
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from daemon import receipts, webhook_urls
from daemon.api.context import Context
from daemon.api.parameters import known
from daemon.elements.base import Element
from daemon.elements.watching import pollable
from daemon.errors import Invalid
from daemon.model import MASK
from daemon.notifications import FORMATS, signing
from daemon.plans import (
    VENDOR,
    ResourcePlan,
    backfill_from,
    refresh_interval,
    sweep_interval,
    unfilled,
)
from daemon.signatures import signing_key

TOKEN = "element.token"  # noqa: S105 — the name under which the vault has the element token
CALLBACK = "event.notification.callback.url"
ENABLED = "event.notification.enabled"

RATE_MOST = 10_000  # deliveries a second
CONCURRENCY_MOST = 100  # deliveries to one callback at once

LARGEST = 1024 * 1024  # bytes of a configuration; every entry about the instance holds all of it
MOST_KEYS = 1000
LONGEST_KEY = 255

# Fails closed: whatever has such a word in its name is a secret, unless its end says otherwise.
_SECRET = re.compile(
    r"pass(?:word|wd|phrase|code)|pwd|secret|token|apikey|credential|cookie|callback\.headers|authorization"
    r"|(?:api|signature|subscription|private|access|shared|encryption|consumer|session)[._-]?key",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(
    r"(?:url|uri|type|scope|enabled|expir\w*|interval|time|method|header[._]?name)$", re.IGNORECASE
)
_CREDENTIALS_IN_URL = re.compile(r"://[^/?#@\s:]*:[^/?#@\s]+@")
_VENDORS = ("polling", "webhook", "webhooks", "both")


@dataclass(frozen=True, slots=True)
class Provision:
    """What is stored of an instance's settings.

    *configuration* has `********` where a secret is; *secrets* are those, in clear; *resources* are polled;
    *callback* is where notifications go, None while events are off.
    """

    configuration: dict[str, str | None]
    secrets: dict[str, str]
    resources: tuple[str, ...]
    callback: str | None


def texts(configuration: Mapping[str, Any]) -> dict[str, str | None]:
    """*configuration* with every value a text or None, as the API shows it; raises `Invalid`."""
    problems: dict[str, str] = {}
    if len(configuration) > MOST_KEYS:
        raise Invalid({"configuration": f"should have at most {MOST_KEYS} keys"})
    found: dict[str, str | None] = {}
    size = 0
    for key, value in configuration.items():
        name = f"configuration.{key[:LONGEST_KEY]}"
        if not key.strip() or len(key) > LONGEST_KEY:
            problems[name] = f"should be under a key of 1 to {LONGEST_KEY} characters"
        elif key == TOKEN:
            problems[name] = "is reserved"
        else:
            try:
                found[key] = _text(value)
            except TypeError:
                problems[name] = "is nested too deeply"
            else:
                size += len(key) + len((found[key] or "").encode())
    if size > LARGEST:
        problems["configuration"] = f"should have at most {LARGEST} bytes"
    if problems:
        raise Invalid(problems)
    return found


def refuse_masks(configuration: Mapping[str, str | None], masked: Mapping[str, str | None]) -> None:
    """Raise `Invalid` for a `********` that stands for no secret of *masked*, the configuration there is."""
    problems = {
        f"configuration.{key}": f"is {MASK}, as a secret is shown; it should be the secret itself"
        for key, value in configuration.items()
        if value == MASK and masked.get(key) != MASK
    }
    if problems:
        raise Invalid(problems)


async def provision(
    context: Context,
    element: Element,
    configuration: Mapping[str, str | None],
    granted: Mapping[str, object],
) -> Provision:
    """Check *configuration* (secrets in clear), exchange the code in *granted* where the element wants one, and split it.

    *granted* is what a person's grant brought (`providerData`), empty where there was none.  Raises `Invalid` with every problem, and whatever the exchange raises.
    """
    settings = {key: value for key, value in configuration.items() if value is not None}
    plans = check(context, element, settings)
    whole = dict(configuration)
    if element.oauth and granted:
        code = granted.get("code")
        if not isinstance(code, str) or not code:
            raise Invalid({"providerData.code": "should be the authorization code, a text"})
        given = {key: _text(value) or "" for key, value in granted.items()}
        whole |= await element.exchange(context.http, settings, code, given)
    if element.unguessable and not whole.get(webhook_urls.SECRET):
        whole[webhook_urls.SECRET] = webhook_urls.new_secret()
    shown: dict[str, str | None] = {}
    secrets: dict[str, str] = {}
    for key, value in whole.items():
        if value and is_secret(element, key, value):
            shown[key], secrets[key] = MASK, value
        else:
            shown[key] = value
    notifies = settings.get(ENABLED, "").lower() == "true"
    url = settings.get(CALLBACK)
    return Provision(
        configuration=shown,
        secrets=secrets,
        resources=tuple(plan.resource for plan in plans) if notifies else (),
        callback=url if notifies and url and url != "false" else None,
    )


def is_secret(element: Element, key: str, value: str) -> bool:
    """Whether *value* belongs in the vault: the element says so, its name sounds so, or it is a URL with a password.

    Never what webhooks are routed by, which has to be compared, nor when the signature key was replaced.
    """
    if key in {element.routing_key, signing.ROTATED}:
        return False
    if key in element.secrets or any(one.secret for one in known(element) if one.key == key):
        return True
    if _SECRET.search(key) and not _NO_SECRET.search(key):
        return True
    return _CREDENTIALS_IN_URL.search(value) is not None


def check(
    context: Context, element: Element, settings: Mapping[str, str]
) -> tuple[ResourcePlan, ...]:
    """The plans of what *settings* ask to poll; raises `Invalid` with every problem."""
    problems: dict[str, str] = {}
    for key, value in settings.items():
        sentence = _CHECKS[key](context, element, value) if key in _CHECKS else None
        if sentence is not None:
            problems[f"configuration.{key}"] = sentence
    plans: tuple[ResourcePlan, ...] = ()
    for setting in (refresh_interval, backfill_from, sweep_interval):
        with _Gather(problems):
            setting(settings)
    with _Gather(problems):
        plans = pollable(element, settings)
    now = datetime.now(UTC)
    for plan in plans:
        # What is left to be filled in ({calendarId}) is no mistake yet: until it is, its polls say what is missing.
        if not plan.unfilled:
            with _Gather(problems):
                element.check_query(plan.query(now, now))
    with _Gather(problems):
        element.check_settings(settings)
    if problems:
        raise Invalid(problems)
    return plans


def _text(value: object) -> str | None:
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case _:  # a number, an object, a list
            return orjson.dumps(value).decode()


class _Gather:
    """Collects what `Invalid` is raised with, under the names that the caller wrote."""

    def __init__(self, problems: dict[str, str]) -> None:
        self._problems = problems

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Invalid):
            return False
        for key, sentence in error.problems.items():
            self._problems.setdefault(
                key if key.startswith("configuration") else f"configuration.{key}", sentence
            )
        return True


def _check_callback(context: Context, element: Element, value: str) -> str | None:
    # "false" is what the documented API itself shows where there is no callback.
    if value in {"", "false"} or unfilled(value):
        return None
    problem = context.addresses.check_url(value)
    if problem is not None:
        return f"the URL {problem}"
    if _CREDENTIALS_IN_URL.search(value):
        return (
            "the URL should hold no password: give it as event.notification.basic.username and "
            "event.notification.basic.password"
        )
    return None


def _check_enabled(context: Context, element: Element, value: str) -> str | None:
    return None if value.lower() in {"true", "false", ""} else "should be true or false"


def _check_vendor(context: Context, element: Element, value: str) -> str | None:
    vendor = value.strip().lower()
    if not vendor or unfilled(value):
        return None
    if vendor not in _VENDORS:
        return f"should be one of {', '.join(_VENDORS)}"
    can = {"polling": element.polls, "both": element.polls and element.hooks}
    if not can.get(vendor, element.hooks):
        return f"is {vendor}, which {element.key} cannot: it has {_methods(element)}"
    return None


def _check_type(context: Context, element: Element, value: str) -> str | None:
    return None if value in {"", "webhook"} or unfilled(value) else "should be webhook"


def _check_format(context: Context, element: Element, value: str) -> str | None:
    known_ones = ", ".join(sorted(FORMATS))
    return None if not value or value in FORMATS else f"should be one of {known_ones}"


def _check_redelivery(context: Context, element: Element, value: str) -> str | None:
    return None if value.lower() in {"", "resend", "hold"} else "should be resend or hold"


def _check_receipts(context: Context, element: Element, value: str) -> str | None:
    wrong = receipts.problem(value)
    if wrong is not None or value.strip().lower() in {"", "true", "false"}:
        return wrong
    problem = context.addresses.check_url(value.strip())
    return None if problem is None else f"the URL {problem}"


def _check_rate(context: Context, element: Element, value: str) -> str | None:
    try:
        usable = not value or 0 <= float(value) <= RATE_MOST
    except ValueError:
        usable = False
    sentence = f"should be deliveries a second, 0 (no limit) to {RATE_MOST}"
    return None if usable else sentence


def _check_concurrency(context: Context, element: Element, value: str) -> str | None:
    whole = value.isascii() and value.isdecimal() and len(value) <= len(str(CONCURRENCY_MOST))
    usable = not value or (whole and 1 <= int(value) <= CONCURRENCY_MOST)
    return None if usable else f"should be a whole number, 1 to {CONCURRENCY_MOST}"


def _check_key(context: Context, element: Element, value: str) -> str | None:
    try:
        signing_key(value or "none")
    except ValueError as error:
        return str(error)
    return None


def _check_overlap(context: Context, element: Element, value: str) -> str | None:
    return signing.overlap_problem(value)


def _check_rotated(context: Context, element: Element, value: str) -> str | None:
    return signing.rotated_problem(value)


def _methods(element: Element) -> str:
    names: Sequence[str] = [
        n for n, has in (("polling", element.polls), ("webhooks", element.hooks)) if has
    ]
    return " and ".join(names) or "no events"


_CHECKS = {
    CALLBACK: _check_callback,
    ENABLED: _check_enabled,
    VENDOR: _check_vendor,
    "event.notification.type": _check_type,
    "filter.response.nulls": _check_enabled,
    "event.notification.format": _check_format,
    "event.notification.redelivery": _check_redelivery,
    "event.notification.receipts": _check_receipts,
    "event.notification.rate": _check_rate,
    "event.notification.concurrency": _check_concurrency,
    signing.KEY: _check_key,
    signing.OVERLAP: _check_overlap,
    signing.ROTATED: _check_rotated,
}
