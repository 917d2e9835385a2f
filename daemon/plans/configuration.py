"""An instance's configuration, compiled to the plans of its resources, or refused with every problem at once.

A resource needs a `url`.  Everything else has a default; keys that mean nothing here are kept and ignored.
Of a date without a field its format does not matter; a field without a format is read as ISO 8601.
"""

from collections.abc import Mapping
from datetime import UTC, tzinfo
from types import MappingProxyType
from typing import Any

from daemon.dates import DatePattern, find_zone
from daemon.errors import Invalid
from daemon.plans.address import compile_address
from daemon.plans.fields import FieldPath
from daemon.plans.placeholders import Template
from daemon.plans.resource import DateField, ResourcePlan
from daemon.plans.selection import CONFIGURATION, select_entries
from daemon.plans.values import Values

INTERVAL = "event.poller.refresh_interval"

_DEFAULT_TOLERANCE = 10.0  # seconds; Cloud Elements names no default, its successor does
_ISO = "yyyy-MM-dd'T'HH:mm:ssXXX"
_DAY = 86_400.0  # seconds
_MOST_RESOURCES = 500
_MOST_MINUTES = 999_999_999.0  # about 1,900 years: how customers switch polling off
_LEAST_MINUTES = 0.01
_NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})


def compile_plans(
    configuration: Mapping[str, Any], defaults: Mapping[str, Any] = _NO_DEFAULTS
) -> tuple[ResourcePlan, ...]:
    """The plans of all resources that *configuration* asks to poll, in its order.

    *defaults* is the element's own `event.poller.configuration`.  A `{name}` in a url is filled in from
    *configuration*, unless the name is that of a credential.  Raises `Invalid` with all problems.
    """
    problems: dict[str, str] = {}
    chosen = select_entries(configuration, defaults, problems)
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

    Raises `Invalid` for what is no number of minutes from 0.01 to 999,999,999.
    """
    problems: dict[str, str] = {}
    minutes = Values(configuration, at="", problems=problems).number(
        INTERVAL, default=15.0, low=_LEAST_MINUTES, high=_MOST_MINUTES, unit="minutes"
    )
    if problems:
        raise Invalid(problems)
    return minutes * 60


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
            notes.append(f"{kind}DateFormat {form!r} is of no use: {kind}DateField is not given")
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
