"""Placeholders in a poller `url`: moments (`${gmtDate:…}`) and what a person fills in (`{calendarId}`).

    ${date:FMT}  ${gmtDate:FMT}          the moment of the last poll, UTC
    ${date}  ${milliseconds}  ${epoch}   the same in Unix milliseconds; ${epoch:s}, ${epoch:us}, ${seconds}
    ${dateTimeZone:ZONE:FMT}             the same in a zone: abbreviation, offset or Olson name
    ${nowTimeZone:ZONE:FMT}              the moment of this poll, for providers that want an upper bound
    ${epoch:0}                           the number 0: the beginning of time, so everything
    ${FMT}                               a bare date format is read as ${date:FMT}
    {name}                               the instance's configuration value `name`

Names of placeholders are the same in either case.  A `{name}` that the configuration does not have stays a
*hole*.  So does `{TimeZone}` as a zone: to put UTC there would ask accounts west of Greenwich for changes of
the future, and hear of none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

from daemon.dates import EPOCH, DatePattern, find_zone

_HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
# A url shows up in logs and on pages: what is filled into it must not be a credential.
_SECRET = re.compile(r"password|secret|token|api_?key", re.IGNORECASE)

_ZONE_AND_FORMAT = re.compile(
    r"\s*(?P<zone>(?:GMT|UTC)?[+-][0-9]{1,2}:[0-9]{2}|\{[^}]*\}|[^:]*?)\s*(?::(?P<format>.*))?",
    re.DOTALL,
)
_UNITS = {"": 1_000, "ms": 1_000, "s": 1, "us": 1_000_000}  # per second
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Moment:
    """A placeholder for a moment: Unix time in *ticks* per second, or *pattern* in *zone*.

    With *now* it is the time of this poll instead of the last.
    """

    ticks: int = 1_000
    pattern: DatePattern | None = None
    zone: tzinfo = UTC
    now: bool = False

    @property
    def precision(self) -> timedelta:
        return (
            self.pattern.precision
            if self.pattern is not None
            else timedelta(seconds=1) / self.ticks
        )

    def write(self, moment: datetime) -> str:
        if self.pattern is not None:
            return self.pattern.format(moment, self.zone)
        return str((moment - EPOCH) // _MICROSECOND * self.ticks // 1_000_000)


@dataclass(frozen=True, slots=True)
class Hole:
    """What a person has still to fill in; *text* is how it stands in the url."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Template:
    """A piece of a url, ready to be filled in.

    *notes* are sentences about what was read otherwise than written.
    """

    parts: tuple[str | Moment | Hole, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def compile(
        cls, text: str, settings: Mapping[str, Any], *, encode: Callable[[str], str] = str
    ) -> Self:
        """Take *text* apart; *encode* is applied to the values that *settings* fill in.

        Raises ValueError with a sentence for a placeholder that is not known, not closed, or holds no
        date format.
        """
        parts: list[str | Moment | Hole] = []
        notes: list[str] = []
        at = 0
        for start, end in spans(text):
            parts += _literals(text[at:start], settings, encode)
            parts.append(_placeholder(text[start:end], settings, notes))
            at = end
        parts += _literals(text[at:], settings, encode)
        return cls(tuple(parts), tuple(notes))

    def fill(self, *, since: datetime, now: datetime) -> str:
        """The text with *since* and *now* in it; a hole stays as it stands in the url."""
        written: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                written.append(part)
            elif isinstance(part, Hole):
                written.append(part.text)
            else:
                written.append(part.write(now if part.now else since))
        return "".join(written)

    @property
    def holes(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts if isinstance(part, Hole))

    @property
    def grain(self) -> timedelta:
        """The coarsest precision in which the last poll is written here; zero where it is not."""
        moments = [part for part in self.parts if isinstance(part, Moment) and not part.now]
        return max((moment.precision for moment in moments), default=timedelta())

    @property
    def moving(self) -> bool:
        """Whether the text depends on when the last poll was."""
        return any(isinstance(part, Moment) and not part.now for part in self.parts)


def spans(text: str) -> list[tuple[int, int]]:
    """Where the `${…}` of *text* begin and end; raises ValueError for one that is not closed."""
    found: list[tuple[int, int]] = []
    at = 0
    while (start := text.find("${", at)) >= 0:
        depth = 0
        for at in range(start + 1, len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                break
        else:
            raise ValueError(f"the placeholder {text[start : start + 20]!r} has no closing brace")
        at += 1
        found.append((start, at))
    return found


def mask(text: str) -> str:
    """*text* with each `${…}` blotted out, as long as before: quotes and braces inside mean nothing outside."""
    masked = text
    for start, end in spans(text):
        masked = masked[:start] + "\0" * (end - start) + masked[end:]
    return masked


def setting(name: str, settings: Mapping[str, Any]) -> str | None:
    """What the configuration has to fill into `{name}`; None where it has nothing, or a credential."""
    value = settings.get(name)
    if _SECRET.search(name) or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def _literals(
    text: str, settings: Mapping[str, Any], encode: Callable[[str], str]
) -> list[str | Moment | Hole]:
    parts: list[str | Moment | Hole] = []
    at = 0
    for hole in _HOLE.finditer(text):
        value = setting(hole[1], settings)
        parts.append(text[at : hole.start()])
        parts.append(Hole(hole[1], hole[0]) if value is None else encode(value))
        at = hole.end()
    parts.append(text[at:])
    return [part for part in parts if part != ""]


def _placeholder(text: str, settings: Mapping[str, Any], notes: list[str]) -> str | Moment | Hole:
    inside = text[2:-1]
    name, _, rest = inside.partition(":")
    match name.strip().lower():
        case "date":
            return _moment(text, rest, UTC, notes)
        case "gmtdate":
            return _moment(text, rest, find_zone("GMT"), notes)
        case "epoch" if rest.strip().lower() in _UNITS:
            return Moment(ticks=_UNITS[rest.strip().lower()])
        case "epoch" if rest.strip() == "0":
            notes.append(f"{text} is the number 0: every poll asks for everything")
            return "0"
        case "epoch":
            raise ValueError(f"{text}: the unit {rest!r} is not known: write s, ms or us")
        case "milliseconds" if not rest:
            return Moment()
        case "seconds" if not rest:
            return Moment(ticks=1)
        case "datetimezone" | "nowtimezone":
            return _zoned(text, name, rest, notes, settings)
        case _:
            return _bare(text, inside, notes)


def _zoned(
    text: str, name: str, rest: str, notes: list[str], settings: Mapping[str, Any]
) -> Moment | Hole:
    found = _ZONE_AND_FORMAT.fullmatch(rest)
    if found is None or not found["zone"] or found["format"] is None:
        raise ValueError(
            f"{text} needs a zone and a date format, such as "
            f"${{{name}:America/Denver:yyyy-MM-dd'T'HH:mm:ss}}"
        )
    zone, now = found["zone"], name.strip().lower() == "nowtimezone"
    if (hole := _HOLE.fullmatch(zone)) is not None:
        filled = setting(hole[1], settings)
        if filled is None:
            _moment(text, found["format"], UTC, notes)  # its format is judged all the same
            return Hole(hole[1], text)
        zone = filled
    try:
        where = find_zone(zone)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from None
    return _moment(text, found["format"], where, notes, now=now)


def _moment(text: str, form: str, zone: tzinfo, notes: list[str], *, now: bool = False) -> Moment:
    if not form.strip():
        return Moment(now=now)
    try:
        pattern = DatePattern.compile(form)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from None
    if pattern.repair and pattern.repair not in notes:
        notes.append(pattern.repair)
    return Moment(pattern=pattern, zone=zone, now=now)


def _bare(text: str, inside: str, notes: list[str]) -> Moment:
    """A date format without the word before it: a slip with one meaning, so it is understood."""
    try:
        pattern = DatePattern.compile(inside)
    except ValueError:
        pattern = None
    if pattern is None or not pattern.dated:
        raise ValueError(
            f"{text} is no placeholder: write one such as ${{gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}}, "
            f"${{epoch}} or ${{dateTimeZone:PST:yyyy-MM-dd HH:mm:ss}}"
        )
    notes.append(f"{text} was read as ${{date:{inside}}}")
    return Moment(pattern=pattern)
