"""The ground of every table in a definition, and the values that several of them hold."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from daemon.dates import DatePattern, find_zone

# What HTTP itself needs to be right; an element has no say in these.
_FRAMING = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
    }
)


class Table(BaseModel):
    """A table of the file: every key known, no value bent into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _date_format(value: str) -> str:
    if not DatePattern.compile(value).dated:
        raise ValueError(f"{value!r} names no day: a date has year, month and day")
    return value


def _zone(value: str) -> str:
    find_zone(value)
    return value


def header_name(value: str) -> str:
    """*value*, if it can be the name of a header that an element sets; raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", value):
        raise ValueError(f"{value!r} is not the name of a header")
    if value.lower() in _FRAMING:
        raise ValueError(f"{value} is not an element's to set")
    return value


DateFormat = Annotated[str, AfterValidator(_date_format)]
Zone = Annotated[str, AfterValidator(_zone)]
HeaderName = Annotated[str, AfterValidator(header_name)]


def belong(
    table: Table, given: str, needed: frozenset[str], allowed: frozenset[str] | set[str]
) -> None:
    """Raise for keys that are missing for what is *given*, or mean nothing with it."""
    for name in sorted(needed):
        if not getattr(table, name):
            raise ValueError(f"{name} is missing: {given} needs it")
    for name in sorted(table.model_fields_set - allowed - needed):
        raise ValueError(f"{name} means nothing with {given}: remove it")
