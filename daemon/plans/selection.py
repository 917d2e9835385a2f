"""Which resources an instance polls.

- `event.poller.configuration` (an object, or the same as JSON text), else the element's defaults;
- `event.poller.urls`, when it holds lines of the old format
  `resource|url|xPath|updated field|format|zone|created field|format|zone`, adds those;
- `event.poller.urls`, when it holds names (joined by `|` or newlines), and `event.objects` (joined by commas)
  select among all of these, the defaults included.  Of an instance with webhooks, `event.objects` may name
  others as well: objects that its provider posts.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from daemon.plans.values import unfilled

CONFIGURATION = "event.poller.configuration"
URLS = "event.poller.urls"
OBJECTS = "event.objects"
ANY = "{objectName}"
"""Under this name an element's defaults have the entry of every object that they do not name (facts, 3.1)."""

_LEGACY = (
    "url", "xPath", "updatedDateField", "updatedDateFormat", "updatedDateTimezone",
    "createdDateField", "createdDateFormat", "createdDateTimezone",
)  # fmt: skip

Entries = dict[str, tuple[str, Any]]
"""Resource → the dotted name of its entry, for problems, and the entry as it was given."""


def select_entries(
    configuration: Mapping[str, Any], defaults: Mapping[str, Any], problems: dict[str, str]
) -> Entries:
    """The entries of the resources to poll, in the order of the configuration.

    What is wrong goes into *problems*; of a configuration that cannot be read nothing is returned.
    """
    available: Entries = {
        name: (f"{CONFIGURATION}.{name}", entry) for name, entry in defaults.items() if name != ANY
    }
    own = _own_entries(configuration, problems)
    lines, names = _urls(configuration, {*available, *own}, problems)
    own = {**lines, **own}
    available |= own
    if problems:
        return {}  # which resources there are is not known: the rest would be guesses
    chosen = own or dict(available)
    if names:
        chosen = _select(names, available, URLS, problems)
    objects = _list(configuration, OBJECTS, ",", problems)
    if objects and chosen:
        pool = chosen if names else available
        if str(configuration.get("event.vendor.type", "")).strip().lower().startswith("webhook"):
            # There the objects are those of webhooks; what is polled, if anything, is what a hint points at.
            objects = [name for name in objects if _find(name, pool) is not None]
        pool = _any(objects, defaults.get(ANY), pool)
        chosen = _select(objects, pool, OBJECTS, problems) if objects else chosen
    return chosen


def _own_entries(configuration: Mapping[str, Any], problems: dict[str, str]) -> Entries:
    value = configuration.get(CONFIGURATION)
    for _ in range(2):  # some send the text of the text
        if isinstance(value, str):
            if not value.strip():
                return {}
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError as error:
                problems[CONFIGURATION] = (
                    f"is no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
                )
                return {}
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        problems[CONFIGURATION] = (
            "should be an object with one entry per resource, or the same as JSON text"
        )
        return {}
    return {str(name): (f"{CONFIGURATION}.{name}", entry) for name, entry in value.items()}


def _urls(
    configuration: Mapping[str, Any], known: Iterable[str], problems: dict[str, str]
) -> tuple[Entries, list[str]]:
    """The entries of `event.poller.urls` that are lines of the old format, and those that are names."""
    lines: Entries = {}
    names: list[str] = []
    for number, line in enumerate(_list(configuration, URLS, "\n", problems), 1):
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 2 or "/" not in cells[1] or cells[1] in known:  # noqa: PLR2004 — name and url
            names += [cell for cell in cells if cell]
        elif len(cells) > 1 + len(_LEGACY):
            problems[URLS] = (
                f"line {number} has {len(cells)} parts between |, but should have at most 9"
            )
        elif not cells[0]:
            problems[URLS] = f"line {number} should begin with the name of a resource, then |"
        else:
            parts = dict(zip(_LEGACY, cells[1:], strict=False))
            url, x_path = parts.pop("url"), parts.pop("xPath", "")
            entry = {"url": url, "datesConfiguration": parts} | (
                {"xPath": x_path} if x_path else {}
            )
            lines[cells[0]] = (f"{URLS}.{cells[0]}", entry)
    return lines, names


def _list(
    configuration: Mapping[str, Any], key: str, separator: str, problems: dict[str, str]
) -> list[str]:
    value = configuration.get(key)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = separator.join(value)
    if value is None or (isinstance(value, str) and unfilled(value)):
        return []
    if not isinstance(value, str):
        problems[key] = "should be a text that names resources"
        return []
    return [item.strip() for item in value.split(separator) if item.strip()]


def _select(wanted: list[str], entries: Entries, key: str, problems: dict[str, str]) -> Entries:
    selected: Entries = {}
    unknown: list[str] = []
    for name in wanted:
        if (found := _find(name, entries)) is None:
            unknown.append(repr(name))
        else:
            selected[found] = entries[found]
    if unknown:
        names = ", ".join(sorted(entries)) or f"none: add them under {CONFIGURATION}"
        problems[key] = (
            f"names {', '.join(unknown)}, which cannot be polled here; what can be polled: {names}"
        )
    return selected


def _any(wanted: list[str], entry: Any, entries: Entries) -> Entries:
    """*entries*, and *entry* under each name of *wanted* that they do not have, if there is one for such."""
    if entry is None:
        return entries
    return entries | {
        name: (f"{CONFIGURATION}.{name}", {**entry, "url": entry["url"].replace(ANY, name)})
        for name in wanted
        if _find(name, entries) is None and re.fullmatch(r"\w{1,100}", name, re.ASCII)
    }


def _find(name: str, entries: Entries) -> str | None:
    """The name under which *entries* have *name*, in whatever case."""
    if name in entries:
        return name
    return next((other for other in entries if other.lower() == name.lower()), None)
