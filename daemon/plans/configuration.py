"""An instance's configuration, compiled to the plans of its resources, or refused with every problem at once.

Which resources there are:

- `event.poller.configuration` (an object, or the same as JSON text), else the element's defaults;
- `event.poller.urls`, when it holds lines of the old format
  `resource|url|xPath|updated field|format|zone|created field|format|zone`, adds those;
- `event.poller.urls`, when it holds names (joined by `|` or newlines), and `event.objects` (joined by commas)
  select among all of these, the defaults included.

A resource needs a `url`.  Everything else has a default; keys that mean nothing here are kept and ignored.
Of a date without a field its format does not matter; a field without a format is read as ISO 8601.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, tzinfo
from types import MappingProxyType
from typing import Any

import orjson

from daemon.dates import DatePattern, find_zone
from daemon.errors import Invalid
from daemon.plans.address import compile_address
from daemon.plans.fields import FieldPath
from daemon.plans.placeholders import Template
from daemon.plans.resource import DateField, ResourcePlan
from daemon.plans.values import Values

CONFIGURATION = "event.poller.configuration"
URLS = "event.poller.urls"
OBJECTS = "event.objects"
INTERVAL = "event.poller.refresh_interval"

_DEFAULT_TOLERANCE = 10.0  # seconds; Cloud Elements names no default, its successor does
_ISO = "yyyy-MM-dd'T'HH:mm:ssXXX"
_DAY = 86_400.0  # seconds
_MOST_RESOURCES = 500
_MOST_MINUTES = 999_999_999.0  # about 1,900 years: how customers switch polling off
_LEAST_MINUTES = 1 / 60
_LEGACY = (
    "url", "xPath", "updatedDateField", "updatedDateFormat", "updatedDateTimezone",
    "createdDateField", "createdDateFormat", "createdDateTimezone",
)  # fmt: skip
_NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})

_Entries = dict[str, tuple[str, Any]]
"""Resource → the dotted name of its entry, for problems, and the entry."""


def compile_plans(
    configuration: Mapping[str, Any], defaults: Mapping[str, Any] = _NO_DEFAULTS
) -> tuple[ResourcePlan, ...]:
    """The plans of all resources that *configuration* asks to poll, in its order.

    *defaults* is the element's own `event.poller.configuration`.  A `{name}` in a url is filled in from
    *configuration*, unless the name is that of a credential.  Raises `Invalid` with all problems.
    """
    problems: dict[str, str] = {}
    available: _Entries = {
        name: (f"{CONFIGURATION}.{name}", entry) for name, entry in defaults.items()
    }
    own = _own_entries(configuration, problems)
    lines, names = _urls(configuration, {*available, *own}, problems)
    own = {**lines, **own}
    available |= own
    chosen = own or dict(available)
    for key, wanted in ((URLS, names), (OBJECTS, _list(configuration, OBJECTS, ",", problems))):
        if wanted and available:
            chosen = _select(
                wanted, chosen if key == OBJECTS and names else available, key, problems
            )
    if len(chosen) > _MOST_RESOURCES:
        problems[CONFIGURATION] = (
            f"has {len(chosen):,} resources, but should have at most {_MOST_RESOURCES}"
        )
        chosen = {}
    plans = [
        _resource(name, at, entry, configuration, problems) for name, (at, entry) in chosen.items()
    ]
    if problems:
        raise Invalid(problems)
    return tuple(plan for plan in plans if plan is not None)


def refresh_interval(configuration: Mapping[str, Any]) -> float:
    """Seconds from one poll to the next: `event.poller.refresh_interval` is minutes, 15 where not given.

    Raises `Invalid` for what is no number of minutes from a sixtieth to 999,999,999.
    """
    problems: dict[str, str] = {}
    minutes = Values(configuration, at="", problems=problems).number(
        INTERVAL, default=15.0, low=_LEAST_MINUTES, high=_MOST_MINUTES, unit="minutes"
    )
    if problems:
        raise Invalid(problems)
    return minutes * 60


def _own_entries(configuration: Mapping[str, Any], problems: dict[str, str]) -> _Entries:
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
) -> tuple[_Entries, list[str]]:
    """The entries of `event.poller.urls` that are lines of the old format, and those that are names."""
    lines: _Entries = {}
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
    if value is None:
        return []
    if not isinstance(value, str):
        problems[key] = "should be a text that names resources"
        return []
    return [item.strip() for item in value.split(separator) if item.strip()]


def _select(wanted: list[str], entries: _Entries, key: str, problems: dict[str, str]) -> _Entries:
    by_case = {name.lower(): name for name in entries}
    selected: _Entries = {}
    unknown: list[str] = []
    for name in wanted:
        found = name if name in entries else by_case.get(name.lower())
        if found is None:
            unknown.append(repr(name))
        else:
            selected[found] = entries[found]
    if unknown:
        names = ", ".join(sorted(entries))
        problems[key] = (
            f"names {', '.join(unknown)}, which cannot be polled here: choose among {names}"
        )
    return selected


def _resource(
    name: str, at: str, entry: Any, settings: Mapping[str, Any], problems: dict[str, str]
) -> ResourcePlan | None:
    """The plan of one entry; None when something in it, now told in *problems*, leaves no plan."""
    if not isinstance(entry, Mapping):
        problems[at] = "should be an object with a url, an idField and so on"
        return None
    if not name.strip():
        problems[at] = "should be under the name of a resource, which is empty"
        return None
    before = len(problems)
    values = Values(entry, at=at, problems=problems)
    dates = _dates(values)
    notes: list[str] = []
    holes: list[str] = []
    updated = _date_field(dates, "updated", settings, notes, holes)
    created = _date_field(dates, "created", settings, notes, holes)
    tolerance = dates.number(
        "createdCheckTolerance", default=_DEFAULT_TOLERANCE, low=0, high=366 * _DAY, unit="seconds"
    )
    size = values.number("pageSize", default=0, low=1, high=1_000_000, unit="records")
    if size != int(size):
        values.problem("pageSize", f"is {size:g}, but should be a whole number of records")
    misspelt = values.flag("filterByUpdateDate", default=True)  # as the guide's own prose has it
    id_path = _path(values, "idField")
    url = values.text("url")
    address = None
    if not url:
        values.problem(
            "url", f"is missing: write the address to poll, such as /hubs/crm/{name.strip('/')}"
        )
    else:
        try:
            address = compile_address(url, settings)
        except ValueError as error:
            values.problem("url", str(error))
    filter_updated = values.flag("filterByUpdatedDate", default=misspelt)
    filter_current = values.flag("filterByCurrentDate", default=False)
    tolerance = values.number(
        "createdCheckTolerance", default=tolerance, low=0, high=366 * _DAY, unit="seconds"
    )
    delay = values.number("pollDelay", default=0, low=0, high=31 * _DAY, unit="seconds")
    if address is None or len(problems) > before:
        return None
    holes += [hole for template in address.templates for hole in template.holes]
    return ResourcePlan(
        resource=name,
        url=url.strip(),
        address=address,
        id_path=id_path,
        updated_field=updated,
        created_field=created,
        filter_by_updated_date=filter_updated,
        filter_by_current_date=filter_current,
        created_check_tolerance=tolerance,
        poll_delay=delay,
        page_size=int(size) or None,
        unfilled=tuple(dict.fromkeys(holes)),
        notes=tuple(dict.fromkeys([*address.notes, *notes])),
        extra=values.rest()
        | {f"datesConfiguration.{key}": value for key, value in dates.rest().items()},
    )


def _dates(values: Values) -> Values:
    entry = values.value("datesConfiguration")
    if entry is not None and not isinstance(entry, Mapping):
        values.problem("datesConfiguration", "should be an object with updatedDateField and so on")
        entry = None
    return Values(entry or {}, at=values.name("datesConfiguration"), problems=values.problems)


def _date_field(
    dates: Values, kind: str, settings: Mapping[str, Any], notes: list[str], holes: list[str]
) -> DateField | None:
    form = dates.text(f"{kind}DateFormat")
    zone = _zone(dates, f"{kind}DateTimezone", settings, holes)
    path = _path(dates, f"{kind}DateField")
    if path is None:
        if form:
            notes.append(
                f"without a {kind}DateField the {kind}DateFormat {form!r} has nothing to read"
            )
        return None
    try:
        pattern = DatePattern.compile(form or _ISO)
    except ValueError as error:
        dates.problem(f"{kind}DateFormat", str(error))
        return None
    if not pattern.dated:
        dates.problem(f"{kind}DateFormat", f"{form!r} should have a year, a month and a day in it")
    if pattern.repair:
        notes.append(f"{kind}DateFormat: {pattern.repair}")
    return DateField(path, pattern, zone)


def _zone(dates: Values, key: str, settings: Mapping[str, Any], holes: list[str]) -> tzinfo:
    """The zone, UTC where none is given; a `{name}` that *settings* do not fill in is one of the *holes*."""
    filled = Template.compile(dates.text(key).replace("${", "{"), settings)
    if filled.holes:
        holes += filled.holes
        return UTC
    try:
        return find_zone("".join(part for part in filled.parts if isinstance(part, str)))
    except ValueError as error:
        dates.problem(key, str(error))
        return UTC


def _path(values: Values, key: str) -> FieldPath | None:
    text = values.text(key)
    if not text:
        return None
    try:
        return FieldPath.compile(text)
    except ValueError as error:
        values.problem(key, str(error))
        return None
