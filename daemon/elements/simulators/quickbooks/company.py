"""The books of one company at a simulated QuickBooks Online: what its API does to them, without HTTP.

Records are as Intuit writes them: `Id` counted within each entity, `SyncToken` that grows with every change, times
in whole seconds with the company's offset.  Names on lists (customers, accounts) cannot be deleted, only made
inactive; transactions can, and then only the change data capture still knows of them, for 30 days.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from daemon.elements.simulators.ledger import Now, moment
from daemon.elements.simulators.quickbooks.query import QueryError, Select, parse
from daemon.model import Json

LISTS = (
    "Account", "Class", "CompanyCurrency", "Customer", "Department", "Employee", "Item", "JournalCode",
    "PaymentMethod", "TaxAgency", "TaxCode", "TaxRate", "Term", "Vendor",
)  # fmt: skip
TRANSACTIONS = (
    "Attachable", "Bill", "BillPayment", "CreditMemo", "Deposit", "Estimate", "Invoice", "JournalEntry", "Payment",
    "Purchase", "PurchaseOrder", "RefundReceipt", "SalesReceipt", "TimeActivity", "Transfer", "VendorCredit",
)  # fmt: skip
ENTITIES = {name.lower(): name for name in (*LISTS, *TRANSACTIONS)}
NOT_CAPTURED = frozenset({"JournalCode", "TaxAgency", "TimeActivity", "TaxCode", "TaxRate"})
LOOK_BACK = timedelta(days=30)
MOST_CAPTURED = 1000
NAMES = {"Customer": "DisplayName", "Vendor": "DisplayName", "Employee": "DisplayName"}
NEEDED = {
    "Invoice": ("CustomerRef", "Line"),
    "Payment": ("CustomerRef",),
    "Bill": ("VendorRef", "Line"),
}
OPERATIONS = {"Create": "created", "Update": "updated", "Delete": "deleted", "Merge": "merged", "Void": "voided", "Emailed": "emailed"}  # fmt: skip


class Fault(Exception):
    """An answer that is a fault: its HTTP status, code and type, and two sentences."""

    def __init__(
        self,
        code: str,
        message: str,
        detail: str = "",
        *,
        kind: str = "ValidationFault",
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.detail = code, message, detail or message
        self.kind, self.status = kind, status


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a record, for the webhooks; *deleted_id* is the one that was merged away."""

    entity: str
    record_id: str
    operation: str
    at: datetime
    deleted_id: str | None = None


@dataclass(slots=True)
class Company:
    """The books; *tell* hears of every change, *offset* is the company's distance from UTC."""

    now: Now
    tell: Callable[[Event], None] = lambda event: None
    offset: timedelta = timedelta(hours=-8)
    records: dict[str, dict[str, Json]] = field(default_factory=dict)
    deleted: list[tuple[str, str, datetime]] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def create(self, entity: str, fields: Json) -> Json:
        """Add a record; raises `Fault` for one that lacks what it needs, or has another's name."""
        for name in (NAMES[entity],) if entity in NAMES else NEEDED.get(entity, ()):
            if not fields.get(name):
                detail = f"Required parameter {name} is missing in the request"
                raise Fault(
                    "2020",
                    "Required param missing, need to supply the required value for the API",
                    detail,
                )
        self._unique(entity, fields, None)
        number = str(self._counts.get(entity, 0) + 1)
        self._counts[entity] = int(number)
        stamp = self.written(self.now())
        record: Json = {"domain": "QBO", "sparse": False, "Id": number, "SyncToken": "0"}
        record["MetaData"] = {"CreateTime": stamp, "LastUpdatedTime": stamp}
        record |= _given(fields)
        if entity in LISTS:
            record.setdefault("Active", True)
        _summed(entity, record)
        self.records.setdefault(entity, {})[number] = record
        self._told(entity, number, "Create")
        return record

    def update(self, entity: str, fields: Json, *, operation: str = "Update") -> Json:
        """Change the record that *fields* name; without `sparse` what they leave out is emptied."""
        record = self._found(entity, fields)
        self._unique(entity, fields, record["Id"])
        changed = {**record, **_given(fields)}
        if not fields.get("sparse") and operation == "Update":
            kept = {"domain", "sparse", "Id", "SyncToken", "MetaData", "Active"}
            changed = {
                name: value for name, value in changed.items() if name in kept or name in fields
            }
        changed["SyncToken"] = str(int(record["SyncToken"]) + 1)
        changed["MetaData"] = {**record["MetaData"], "LastUpdatedTime": self.written(self.now())}
        _summed(entity, changed)
        self.records[entity][record["Id"]] = changed
        self._told(entity, record["Id"], operation)
        return changed

    def void(self, entity: str, fields: Json) -> Json:
        """Empty a transaction of its amounts; it stays where it is."""
        self._found(entity, fields)
        zeroed = {
            "Id": fields["Id"],
            "SyncToken": fields["SyncToken"],
            "TotalAmt": 0,
            "Balance": 0,
            "Line": [],
        }
        return self.update(entity, {**zeroed, "PrivateNote": "Voided"}, operation="Void")

    def delete(self, entity: str, fields: Json) -> Json:
        """Delete a transaction; raises `Fault` for a name on a list, which can only be made inactive."""
        record = self._found(entity, fields)
        if entity in LISTS:
            raise Fault(
                "500", "Unsupported Operation", f"Operation Delete is not supported for {entity}"
            )
        del self.records[entity][record["Id"]]
        self.deleted.append((entity, record["Id"], self.now()))
        self._told(entity, record["Id"], "Delete")
        return {"status": "Deleted", "domain": "QBO", "Id": record["Id"]}

    def merge(self, entity: str, into: str, away: str) -> Json:
        """Merge the name *away* into another, as a person does in the product; raises `KeyError`."""
        del self.records[entity][away]
        self.deleted.append((entity, away, self.now()))
        record = self.records[entity][into]
        record["SyncToken"] = str(int(record["SyncToken"]) + 1)
        record["MetaData"] = {**record["MetaData"], "LastUpdatedTime": self.written(self.now())}
        self.tell(Event(entity, into, "Merge", self.now(), deleted_id=away))
        return record

    def get(self, entity: str, record_id: str) -> Json:
        """One record; raises `Fault`."""
        found = self.records.get(entity, {}).get(record_id)
        if found is None:
            detail = "Object Not Found : Something you're trying to use has been made inactive."
            raise Fault("610", "Object Not Found", detail)
        return found

    def query(self, statement: str) -> Json:
        """The `QueryResponse` of *statement*; raises `Fault`."""
        try:
            select = parse(statement)
        except QueryError as error:
            raise Fault("4000", "Error parsing query", f"QueryParserError: {error}") from error
        entity = ENTITIES.get(select.entity.lower())
        if entity is None:
            detail = f"QueryValidationError: Invalid entity {select.entity}"
            raise Fault("4001", "Invalid query", detail)
        found = self._picked(entity, select)
        if select.count:
            return {"totalCount": len(found)}
        rows = select.page(found)
        if not rows:
            return {}
        if select.names:
            named = {name.partition(".")[0].lower() for name in select.names}
            rows = [{k: v for k, v in row.items() if k.lower() in named} for row in rows]
        return {entity: rows, "startPosition": select.start, "maxResults": len(rows)}

    def captured(
        self, entities: str, since: str, *, most: int = MOST_CAPTURED, newest_first: bool = False
    ) -> Json:
        """The `CDCResponse` of what changed or was deleted at *since* or later, at most *most* objects.

        Which ones are left out where there are more is not documented: the latest here, or the earliest with
        *newest_first*.  Raises `Fault`.
        """
        names = [ENTITIES.get(one.strip().lower(), one.strip()) for one in entities.split(",")]
        for name in names:
            if name not in ENTITIES.values() or name in NOT_CAPTURED:
                raise Fault("2500", "Invalid Reference Id", f"CDC is not supported for {name}")
        try:
            start = moment(since)
        except ValueError as error:
            raise Fault("2090", "Invalid date", str(error)) from error
        if self.now() - start > LOOK_BACK:
            detail = f"Operation cdc with changedSince date {since} which is older than fixed days is not supported."
            raise Fault("500", "Unsupported Operation", detail)
        changes = [
            (moment(row["MetaData"]["LastUpdatedTime"]), name, row)
            for name in names
            for row in self.records.get(name, {}).values()
        ]
        changes += [
            (at.replace(microsecond=0), name, self._tombstone(record_id, at))
            for name, record_id, at in self.deleted
            if name in names
        ]
        recent = sorted(
            ((at, name, row) for at, name, row in changes if at >= start),
            key=lambda one: (one[0], int(one[2]["Id"])),
            reverse=newest_first,
        )[:most]
        answers: list[Json] = []
        for name in names:
            rows = [row for _, of, row in recent if of == name]
            answers.append(
                {name: rows, "startPosition": 1, "maxResults": len(rows)} if rows else {}
            )
        return {"CDCResponse": [{"QueryResponse": answers}]}

    def written(self, at: datetime, *, fraction: bool = False) -> str:
        """*at* by the company's clock."""
        local = at.astimezone(timezone(self.offset))
        return local.isoformat(timespec="milliseconds" if fraction else "seconds")

    def _picked(self, entity: str, select: Select) -> list[Json]:
        rows = list(self.records.get(entity, {}).values())
        if entity in LISTS and not select.asks_for("Active"):
            rows = [row for row in rows if row.get("Active", True)]
        rows.sort(key=lambda row: int(row["Id"]))
        return select.pick(rows)

    def _found(self, entity: str, fields: Json) -> Json:
        record = self.get(entity, str(fields.get("Id")))
        if str(fields.get("SyncToken")) != record["SyncToken"]:
            detail = (
                "Stale Object Error : You and another user were working on this at the same time."
            )
            raise Fault("5010", "Stale Object Error", detail)
        return record

    def _unique(self, entity: str, fields: Json, mine: str | None) -> None:
        name = NAMES.get(entity, "")
        wanted = fields.get(name)
        if not wanted:
            return
        for row in self.records.get(entity, {}).values():
            if row["Id"] != mine and row.get(name) == wanted:
                detail = f"The name supplied already exists. : Id={row['Id']}"
                raise Fault("6240", "Duplicate Name Exists Error", detail)

    def _tombstone(self, record_id: str, at: datetime) -> Json:
        meta = {"LastUpdatedTime": self.written(at)}
        return {"domain": "QBO", "status": "Deleted", "Id": record_id, "MetaData": meta}

    def _told(self, entity: str, record_id: str, operation: str) -> None:
        self.tell(Event(entity, record_id, operation, self.now().astimezone(UTC)))


def _given(fields: Json) -> Json:
    """Of *fields* those that are not QuickBooks' own to set."""
    own = ("Id", "SyncToken", "MetaData", "domain", "sparse")
    return {name: value for name, value in fields.items() if name not in own}


def _summed(entity: str, record: Json) -> None:
    """Let a transaction have the sum of its lines."""
    lines: Any = record.get("Line")
    if entity in TRANSACTIONS and isinstance(lines, list):
        amounts = (one.get("Amount") or 0 for one in lines if isinstance(one, dict))
        record["TotalAmt"] = sum(float(amount) for amount in amounts)
        if entity in ("Invoice", "Bill"):
            record["Balance"] = record["TotalAmt"]
