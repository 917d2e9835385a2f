"""What Intuit calls things, and its query language: one entity, conditions joined by AND, whole seconds.

`SELECT * FROM Invoice WHERE MetaData.LastUpdatedTime >= '2026-11-20T10:00:00Z' ORDERBY … STARTPOSITION 1 MAXRESULTS
1000` (developer.intuit.com, "Query operations and syntax").
"""

import re
from dataclasses import dataclass
from datetime import datetime

from daemon.dates import DatePattern
from daemon.errors import Invalid
from daemon.model import Condition

CHANGED = "MetaData.LastUpdatedTime"
CREATED = "MetaData.CreateTime"

NOT_CAPTURED = frozenset({"JournalCode", "TaxAgency", "TaxCode", "TaxRate", "TimeActivity"})
"""What change data capture does not know (developer.intuit.com, "Change data capture operation")."""

LISTS = frozenset(
    {
        "Account", "Class", "CompanyCurrency", "Customer", "Department", "Employee", "Item", "PaymentMethod",
        "TaxCode", "TaxRate", "Term", "Vendor",
    }
)  # fmt: skip
"""Names that are made inactive instead of deleted; a query shows those only when asked to."""

PLURALS = {"Item": "products", "Account": "ledger-accounts"}
"""What the platform's finance hub called otherwise."""

ENTITIES = {
    name.lower(): name
    for name in (
        *LISTS, *NOT_CAPTURED, "Attachable", "Bill", "BillPayment", "CreditMemo", "Deposit", "Estimate", "Invoice",
        "JournalEntry", "Payment", "Purchase", "PurchaseOrder", "RefundReceipt", "SalesReceipt", "Transfer",
        "VendorCredit",
    )
} | {"product": "Item", "ledgeraccount": "Account"}  # fmt: skip

PROPERTIES = {
    "lastmodifieddate": CHANGED, "lastupdatedtime": CHANGED, "timemodified": CHANGED, "updatedat": CHANGED,
    "metadata.lastupdatedtime": CHANGED, "metadata.lastupdatetime": CHANGED,
    "createddate": CREATED, "createtime": CREATED, "timecreated": CREATED, "createdat": CREATED,
    "metadata.createtime": CREATED,
    "systemid": "Id", "objectid": "Id",
}  # fmt: skip
"""What a `where` may call a property; any other is written as Intuit does, with a capital first."""

OPERATORS = frozenset({"=", "<", ">", "<=", ">=", "LIKE", "IN"})

_ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ssXXX")
_UTC = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ss'Z'")
_MILLISECONDS = DatePattern.compile("milliseconds")
_LISTED = re.compile(r"'(?:[^']|'')*'|[^,\s][^,]*")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition, its *value* written as it stands in a query."""

    name: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.value}"


def entity(resource: str) -> str:
    """What Intuit calls *resource* (`invoices`, `credit-memos`, `Invoice`); raises `Invalid`."""
    name = re.sub(r"[-_]", "", resource).lower()
    stems = (name, name.removesuffix("s"), name.removesuffix("es"), re.sub("ies$", "y", name))
    for stem in stems:
        if stem in ENTITIES:
            return ENTITIES[stem]
    raise Invalid(
        {
            "resource": f"quickbooks has no {resource!r}; there is {', '.join(sorted(ENTITIES.values()))}"
        }
    )


def resource_of(name: str) -> str:
    """The resource that an entity, as a webhook writes it, is polled as: `creditmemo` is `credit-memos`."""
    known = ENTITIES.get(name.lower())
    if known is None:
        return name
    if known in PLURALS:
        return PLURALS[known]
    hyphened = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", known).lower()
    if hyphened.endswith("y"):
        return hyphened[:-1] + "ies"
    return hyphened + ("es" if hyphened.endswith("s") else "s")


def terms(conditions: tuple[Condition, ...]) -> list[Term]:
    """*conditions* in Intuit's language; raises `Invalid` for what it cannot say."""
    found: list[Term] = []
    for one in conditions:
        if one.joined.upper() == "OR":
            raise Invalid(
                {"where": "joins conditions by OR, which QuickBooks cannot: leave one of them"}
            )
        if one.operator not in OPERATORS:
            raise Invalid(
                {
                    "where": f"{one.operator} is no operator of QuickBooks; there are = < > <= >= LIKE IN"
                }
            )
        name = PROPERTIES.get(one.attribute.lower()) or ".".join(
            part[:1].upper() + part[1:] for part in one.attribute.split(".")
        )
        if not re.fullmatch(r"[A-Za-z][\w.]*", name):
            raise Invalid({"where": f"{one.attribute!r} is no name of a field"})
        found.append(Term(name, one.operator, _value(name, one)))
    return found


def _value(name: str, one: Condition) -> str:
    if one.operator == "IN":
        values = [_unquoted(part) for part in _LISTED.findall(one.value)]
        return f"({', '.join(quoted(value) for value in values)})"
    return quoted(_date(one.value) if name in (CHANGED, CREATED) else one.value)


def _unquoted(part: str) -> str:
    part = part.strip()
    return part[1:-1].replace("''", "'") if part.startswith("'") else part


def _date(value: str) -> str:
    """A moment as Intuit takes it, in UTC; raises `Invalid` for what is none."""
    try:
        if re.fullmatch(r"\d{12,14}", value):
            return _UTC.format(_MILLISECONDS.parse(value))
        return _UTC.format(_ISO.parse(value))
    except ValueError as error:
        raise Invalid({"where": str(error)}) from error


def quoted(value: str) -> str:
    """*value* as the language writes it; true and false stand bare."""
    if value.lower() in ("true", "false"):
        return value.lower()
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def statement(name: str, wanted: list[Term], start: int, size: int) -> str:
    """The query for records of the entity *name*, oldest change first."""
    return " ".join(
        [
            "SELECT",
            "*",
            *_from(name, wanted),
            f"ORDERBY {CHANGED} STARTPOSITION {start} MAXRESULTS {size}",
        ]
    )


def count_statement(name: str, wanted: list[Term]) -> str:
    """The query for how many records those are."""
    return " ".join(["SELECT", "COUNT(*)", *_from(name, wanted)])


def _from(name: str, wanted: list[Term]) -> list[str]:
    return [f"FROM {name}", *(["WHERE", " AND ".join(map(str, wanted))] if wanted else [])]


def inactive(name: str, wanted: list[Term]) -> list[Term]:
    """What has a list show its inactive names as well, unless *wanted* says which."""
    asked = any(term.name == "Active" for term in wanted)
    return [Term("Active", "IN", "(true, false)")] if name in LISTS and not asked else []


def changed_since(moment: datetime) -> Term:
    """The condition for what changed at *moment* or later."""
    return Term(CHANGED, ">=", quoted(written(moment)))


def written(moment: datetime) -> str:
    """*moment* as Intuit takes it: UTC, whole seconds."""
    return _UTC.format(moment)


def read_time(text: str) -> datetime:
    """The moment that Intuit wrote, with whatever offset and fraction; raises `ValueError`."""
    return _ISO.parse(text)
