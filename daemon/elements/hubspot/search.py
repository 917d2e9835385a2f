"""HubSpot's search: its kinds of records, and what a query becomes there.

A search is walked by id, 200 records at a time: each request asks for ids greater than the last one seen.  So there is
no end at 10,000 results, as many records as there are may share one moment, and a record that changes during the walk
does not move others past it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import orjson

from daemon.dates import DatePattern
from daemon.errors import Invalid
from daemon.model import Condition, Json, Query

MOST = 200  # records on a page
MOST_GROUPS, MOST_FILTERS, MOST_ALTOGETHER = 5, 6, 18
LONGEST = 3000  # characters of a search's body
ID = "hs_object_id"
MERGED = "hs_merged_object_ids"
OURS = frozenset({"where", "fields", "orderBy", "page", "pageSize", "nextPage"})
"""What the platform itself understood in a poller's url, and no provider does."""

_WIDEST_ID = 10**18
_CUSTOM = re.compile(r"[0-9]{1,4}-[0-9]{1,18}|p[0-9]{1,18}_\w{1,100}", re.ASCII)
_MILLISECONDS = re.compile(r"-?[0-9]{1,16}")
_ITEM = re.compile(r"\s*(?:'((?:[^']|'')*)'|\"([^\"]*)\"|([^,'\"\s][^,'\"]*?))\s*(?:,|$)")
_UNIX = DatePattern.compile("milliseconds")
_ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ss.SSSXXX")
_OPERATORS = {
    "=": "EQ", "!=": "NEQ", ">": "GT", ">=": "GTE", "<": "LT", "<=": "LTE", "IN": "IN", "NOT IN": "NOT_IN",
    "LIKE": "CONTAINS_TOKEN", "NOT LIKE": "NOT_CONTAINS_TOKEN", "IS NULL": "NOT_HAS_PROPERTY",
    "IS NOT NULL": "HAS_PROPERTY",
}  # fmt: skip
_NAMES = {
    "updatedat": "", "updated_at": "", "modified": "", "lastmodified": "", "hs_lastmodifieddate": "",
    "lastmodifieddate": "", "createdat": "createdate", "created_at": "createdate", "createddate": "createdate",
    "createdate": "createdate", "id": ID, "vid": ID, "companyid": ID, "dealid": ID, "objectid": ID,
}  # fmt: skip
"""Attributes by another name, in lower case; the time of the last change has one that depends on the kind."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of records: its *path* in the API, the property of its last change, the *usual* properties.

    *old_id* is the name that the id had in the API's first version.  Records that *merge* can end without being
    archived.
    """

    path: str
    modified: str = "hs_lastmodifieddate"
    usual: tuple[str, ...] = ()
    old_id: str = ""
    merge: bool = False


KINDS = {
    kind.path: kind
    for kind in (
        Kind("contacts", "lastmodifieddate", ("email", "firstname", "lastname"), "vid", merge=True),
        Kind("companies", usual=("name", "domain"), old_id="companyId", merge=True),
        Kind(
            "deals",
            usual=("dealname", "amount", "closedate", "pipeline", "dealstage"),
            old_id="dealId",
            merge=True,
        ),
        Kind(
            "tickets",
            usual=("subject", "content", "hs_pipeline", "hs_pipeline_stage", "hs_ticket_priority"),
            merge=True,
        ),
        Kind("products", usual=("name", "description", "price", "hs_sku")),
        Kind("line_items", usual=("name", "quantity", "price", "amount", "hs_product_id")),
    )
}
ALIASES = {"accounts": "companies", "opportunities": "deals"}
"""What the platform calls what HubSpot calls otherwise."""


@dataclass(frozen=True, slots=True)
class Search:
    """What to search for: groups of filters, one of which must hold whole, and the properties to show."""

    kind: Kind
    groups: tuple[tuple[Json, ...], ...]
    properties: tuple[str, ...]
    size: int = MOST

    @property
    def plain(self) -> bool:
        """Whether it asks for nothing but the time of the last change."""
        names = {one["propertyName"] for group in self.groups for one in group}
        return names <= {self.kind.modified}

    def body(self, after: int | None) -> bytes:
        """The request for the records whose ids are greater than *after*."""
        further = () if after is None else (_filter(ID, "GT", str(after)),)
        groups = [group + further for group in self.groups or ((),)]
        return orjson.dumps(
            {
                "filterGroups": [{"filters": group} for group in groups if group],
                "sorts": [{"propertyName": ID, "direction": "ASCENDING"}],
                "properties": self.properties,
                "limit": self.size,
            }
        )


def kind_of(resource: str) -> Kind:
    """The kind that *resource* names; raises `Invalid`."""
    path = ALIASES.get(resource, resource)
    if path in KINDS:
        return KINDS[path]
    if _CUSTOM.fullmatch(path):
        return Kind(path)
    known = ", ".join(sorted([*KINDS, *ALIASES]))
    raise Invalid(
        {
            "resource": f"hubspot has no {resource!r}; there is {known}, and custom objects by their type id (2-123456)"
        }
    )


def search_for(query: Query) -> Search:
    """The search that answers *query*; raises `Invalid` for one that HubSpot does not know."""
    kind = kind_of(query.resource)
    problems: dict[str, str] = {}
    wanted: list[str] = []
    for name, value in query.parameters:
        if name == "properties":
            wanted += [one.strip() for one in value.split(",") if one.strip()]
        elif name not in OURS:
            problems[name] = f"is not a parameter of {query.resource}; there is: properties"
    groups: list[list[Json]] = []
    try:
        for term in query.conditions:
            if not groups or term.joined.upper() == "OR":
                groups.append([])
            groups[-1].append(_term(kind, term, polled=query.since is not None))
        _within_bounds(groups)
    except ValueError as error:
        problems["where"] = str(error)
    search = Search(
        kind=kind,
        groups=tuple(tuple(group) for group in groups),
        properties=_shown(kind, wanted),
        size=max(1, min(query.page_size or MOST, MOST)),
    )
    if not problems and len(search.body(_WIDEST_ID)) > LONGEST:
        problems["properties" if wanted else "where"] = (
            f"is too long: HubSpot takes {LONGEST:,} characters for a search"
        )
    if problems:
        raise Invalid(problems)
    return search


def merged_since(kind: Kind, since: datetime) -> Search:
    """The search for records changed since, into which others were ever merged."""
    group = (
        _filter(kind.modified, "GTE", _UNIX.format(since)),
        {"propertyName": MERGED, "operator": "HAS_PROPERTY"},
    )
    return Search(kind, (group,), (ID,))


def shaped(kind: Kind, record: Json, *, nulls: bool) -> Json:
    """*record* with its id also as the API's first version called it; without *nulls* no property is null."""
    properties = record.get("properties")
    if not nulls and isinstance(properties, dict):
        present = {name: value for name, value in properties.items() if value is not None}
        record = {**record, "properties": present}
    number = str(record.get("id", ""))
    if kind.old_id and number.isascii() and number.isdigit():
        record = {**record, kind.old_id: int(number)}
    return record


def _shown(kind: Kind, wanted: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*kind.usual, *wanted, "createdate", kind.modified, ID]))


def _within_bounds(groups: list[list[Json]]) -> None:
    """Raise `ValueError` for more filters than a search may have; one in each group is the walk's."""
    most = MOST_FILTERS - 1
    altogether = sum(len(group) + 1 for group in groups)
    if (
        len(groups) > MOST_GROUPS
        or altogether > MOST_ALTOGETHER
        or any(len(group) > most for group in groups)
    ):
        raise ValueError(
            f"is more than HubSpot can search for: at most {MOST_GROUPS} alternatives of {most} conditions, "
            f"{MOST_ALTOGETHER} altogether, one for each alternative included"
        )


def _term(kind: Kind, term: Condition, *, polled: bool) -> Json:
    """The filter that *term* becomes; raises `ValueError`."""
    given = term.attribute.removeprefix("properties.")
    # A property that is not known by another name stands as it was written: HubSpot's names are in lower case.
    name = _NAMES.get(given.lower(), given) or kind.modified
    operator = _OPERATORS.get(term.operator.upper())
    if operator is None:
        known = ", ".join(_OPERATORS)
        raise ValueError(
            f"{term.attribute} {term.operator} cannot be searched for; there are {known}"
        )
    if operator.endswith("HAS_PROPERTY"):
        return {"propertyName": name, "operator": operator}
    if polled and name == kind.modified and operator in ("EQ", "GT"):
        # `lastmodifieddate='${date}'` has always meant "since" in a poller's url.
        operator = "GTE"
    if operator in ("IN", "NOT_IN"):
        values = [_value(kind, name, one) for one in _items(term.value)]
        return {"propertyName": name, "operator": operator, "values": values}
    if operator.endswith("CONTAINS_TOKEN"):
        return _filter(name, operator, term.value.replace("%", "*"))
    return _filter(name, operator, _value(kind, name, term.value))


def _value(kind: Kind, name: str, value: str) -> str:
    """*value* as a filter has it: moments are Unix milliseconds."""
    if name not in (kind.modified, "createdate") or _MILLISECONDS.fullmatch(value):
        return value
    try:
        return _UNIX.format(_ISO.parse(value))
    except ValueError:
        raise ValueError(
            f"{name} should be compared with Unix milliseconds or a date such as 2026-01-31T12:00:00Z, not {value!r}"
        ) from None


def _items(text: str) -> list[str]:
    """The values of a list: `'a','b'`."""
    items, at = [], 0
    while at < len(text):
        found = _ITEM.match(text, at)
        if found is None or found.end() == at:
            raise ValueError(f"{text!r} is no list such as ('one','two')")
        quoted, double, bare = found.groups()
        items.append(quoted.replace("''", "'") if quoted is not None else double or bare or "")
        at = found.end()
    return items


def _filter(name: str, operator: str, value: str) -> Json:
    return {"propertyName": name, "operator": operator, "value": value}
