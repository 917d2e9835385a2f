"""SOQL, Salesforce's query language: a query written so that nothing in it can be more than a name or a value.

A name is letters, digits and underscores, or it is refused.  A value is written as the type of its field wants it:
texts in quotes and escaped, dates, numbers and booleans bare, and then only if they are dates, numbers and booleans.
Of a field whose type is not known the value's own shape decides.

https://developer.salesforce.com/docs/atlas.en-us.soql_sosl.meta/soql_sosl/sforce_api_calls_soql_select.htm
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from daemon.dates import DatePattern
from daemon.model import Condition

Types = Mapping[str, str]
"""Fields in lower case, and their types as `describe` names them."""

ID, STAMP, CREATED, MODIFIED, DELETED = (
    "Id", "SystemModstamp", "CreatedDate", "LastModifiedDate", "IsDeleted",
)  # fmt: skip
SYSTEM: Types = {
    "id": "id",
    "systemmodstamp": "datetime",
    "createddate": "datetime",
    "lastmodifieddate": "datetime",
    "isdeleted": "boolean",
}
"""What every object has, or nearly every one: their types need not be asked for."""

NUMBERS = frozenset({"int", "long", "double", "currency", "percent"})
TEXTS = frozenset(
    {"string", "id", "reference", "picklist", "multipicklist", "textarea", "phone", "email", "url", "combobox",
     "encryptedstring", "anyType"}
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}(?:\.[A-Za-z][A-Za-z0-9_]{0,79}){0,5}")
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{5,18}\s*(?:Z|[+-][0-9]{2}:?[0-9]{2})?")
_EPOCH = re.compile(r"-?[0-9]{9,13}")
_RELATIVE = re.compile(
    r"(?:TODAY|YESTERDAY|TOMORROW|(?:LAST|THIS|NEXT)_[A-Z_]{3,30}(?::[0-9]{1,5})?)"
)
_ITEM = re.compile(r"\s*(?:'((?:[^']|'')*)'|\"([^\"]*)\"|([^,'\"]+?))\s*(?:,|$)")
_ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ssXXX")
_SIGNS = frozenset({"=", "!=", "<", "<=", ">", ">="})
# https://developer.salesforce.com/docs/atlas.en-us.soql_sosl.meta/soql_sosl/sforce_api_calls_soql_select_quotedstringescapes.htm
_ESCAPES = str.maketrans(
    {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)


def is_name(text: str) -> bool:
    """Whether *text* can be the name of an object: `Contact`, `Invoice__c`, `vendor__Invoice__c`."""
    return _NAME.fullmatch(text) is not None


def field(text: str) -> str:
    """*text*, if it can be a field, or one of a related object (`Account.Name`); raises `ValueError`."""
    if _FIELD.fullmatch(text) is None:
        raise ValueError(f"{text[:80]!r} cannot be the name of a field")
    return text


def select(
    fields: Iterable[str],
    sobject: str,
    *,
    where: Sequence[str] = (),
    order: Sequence[str] = (),
    limit: int | None = None,
    offset: int = 0,
) -> str:
    """A query; each text in *where* must hold."""
    parts = ["SELECT", ",".join(fields), "FROM", sobject]
    if where:
        parts += ["WHERE", " AND ".join(f"({one})" for one in where)]
    if order:
        parts += ["ORDER BY", ", ".join(order)]
    if limit is not None:
        parts += ["LIMIT", str(limit)]
    if offset:
        parts += ["OFFSET", str(offset)]
    return " ".join(parts)


def conditions(terms: Sequence[Condition], types: Types) -> str:
    """What *terms* ask, as a text for `select`; empty for none.  Raises `ValueError`.

    AND and OR are never left side by side: SOQL refuses that.
    """
    groups: list[list[str]] = []
    for term in terms:
        if not groups or term.joined.upper() == "OR":
            groups.append([])
        groups[-1].append(_term(term, types))
    joined = [" AND ".join(group) for group in groups]
    return joined[0] if len(joined) == 1 else " OR ".join(f"({one})" for one in joined)


def after(stamp: str, when: str, last: str) -> str:
    """All that comes behind the record *last*, whose *stamp* is *when*, in the order of stamp and id."""
    return f"({stamp} = {when} AND {ID} > {text(last)}) OR {stamp} > {when}"


def moment(when: datetime) -> str:
    """*when* as a literal: whole seconds, UTC, as every stamp is."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def text(value: str) -> str:
    """*value* as a literal in quotes."""
    if "\0" in value:
        raise ValueError("a text should hold no NUL")
    return f"'{value.translate(_ESCAPES)}'"


def literal(value: str, kind: str | None) -> str:
    """*value* as a literal for a field of type *kind*, by its shape where that is None; raises `ValueError`."""
    if kind is None:
        return _by_shape(value)
    if kind in TEXTS:
        return text(value)
    if value.lower() == "null":
        return "null"
    if kind in NUMBERS:
        return _number(value)
    match kind:
        case "boolean":
            return _boolean(value)
        case "datetime":
            return value if _RELATIVE.fullmatch(value) else _moment(value)
        case "date":
            return value if _RELATIVE.fullmatch(value) else _day(value[:10])
        case _:
            raise ValueError(f"a field of type {kind} cannot be compared")


def _term(term: Condition, types: Types) -> str:
    name = field(term.attribute)
    kind = types.get(name.lower())
    operator = term.operator.upper()
    if operator in _SIGNS:
        return f"{name} {operator} {literal(term.value, kind)}"
    match operator:
        case "LIKE":
            return f"{name} LIKE {text(term.value)}"
        case "NOT LIKE":
            return f"(NOT {name} LIKE {text(term.value)})"
        case "IN" | "NOT IN":
            values = ",".join(literal(one, kind) for one in _items(term.value))
            return f"{name} {operator} ({values})"
        case "IS NULL":
            return f"{name} = null"
        case "IS NOT NULL":
            return f"{name} != null"
        case _:
            raise ValueError(f"{term.operator[:20]!r} is no operator of Salesforce")


def _by_shape(value: str) -> str:
    if _MOMENT.fullmatch(value):
        return _moment(value)
    if _DAY.fullmatch(value):
        return _day(value)
    if _NUMBER.fullmatch(value):
        return value
    return value.lower() if value.lower() in ("true", "false", "null") else text(value)


def _moment(value: str) -> str:
    """A date in any of the ways that pollers write one, as a literal."""
    if _EPOCH.fullmatch(value):
        unit = "seconds" if len(value.lstrip("-")) < len("100000000000") else "milliseconds"
        return moment(DatePattern.compile(unit).parse(value))
    if _DAY.fullmatch(value):
        return f"{_day(value)}T00:00:00Z"
    try:
        return moment(_ISO.parse(value))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{value[:40]!r} should be a date such as 2026-11-20T10:00:00Z") from error


def _day(value: str) -> str:
    try:
        return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError as error:
        raise ValueError(f"{value!r} should be a day such as 2026-11-20") from error


def _boolean(value: str) -> str:
    if value.lower() not in ("true", "false"):
        raise ValueError(f"{value[:40]!r} should be true or false")
    return value.lower()


def _number(value: str) -> str:
    if _NUMBER.fullmatch(value) is None:
        raise ValueError(f"{value[:40]!r} should be a number")
    return value


def _items(value: str) -> list[str]:
    """The values of an IN: texts in quotes, or bare, between commas."""
    found: list[str] = []
    at, end = 0, len(value)
    while at < end:
        item = _ITEM.match(value, at)
        if item is None:
            raise ValueError(f"{value[at : at + 40]!r} is no list of values between commas")
        single, double, bare = item.groups()
        found.append(single.replace("''", "'") if single is not None else (double or bare or ""))
        at = item.end()
    if not found:
        raise ValueError("IN needs at least one value")
    return found
