"""The records of a simulated Salesforce organization: as transactions commit them, not as they are dated.

A record carries the moment of the statement that wrote it; it can be seen from the moment of the commit on.  With
*late* seconds between the two a record appears behind others that are younger, as in the real one.  What is deleted
stays, marked, in the recycle bin until it is purged.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from daemon.elements.salesforce.outbound_message import eighteen
from daemon.elements.simulators.ledger import Now, moment
from daemon.elements.simulators.salesforce.query import Fields, stamped
from daemon.model import Json

LOG_DAYS = 15
"""How long the log of deletions reaches back."""
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SYSTEM = {
    "Id": "id",
    "IsDeleted": "boolean",
    "CreatedDate": "datetime",
    "CreatedById": "reference",
    "LastModifiedDate": "datetime",
    "LastModifiedById": "reference",
    "SystemModstamp": "datetime",
}
_ACTIVE = {name: kind for name, kind in SYSTEM.items() if name != "IsDeleted"}

OBJECTS: dict[str, tuple[str, Fields]] = {
    "Account": ("001", SYSTEM | {
        "Name": "string", "Phone": "phone", "Website": "url", "Industry": "picklist",
        "AnnualRevenue": "currency", "NumberOfEmployees": "int", "Description": "textarea",
    }),
    "Contact": ("003", SYSTEM | {
        "FirstName": "string", "LastName": "string", "Email": "email", "Phone": "phone",
        "AccountId": "reference", "Birthdate": "date", "HasOptedOutOfEmail": "boolean", "Rating__c": "double",
    }),
    "Lead": ("00Q", SYSTEM | {
        "FirstName": "string", "LastName": "string", "Company": "string", "Email": "email", "Status": "picklist",
    }),
    "Opportunity": ("006", SYSTEM | {
        "Name": "string", "StageName": "picklist", "Amount": "currency", "CloseDate": "date",
        "AccountId": "reference", "IsWon": "boolean",
    }),
    "Case": ("500", SYSTEM | {"Subject": "string", "Status": "picklist", "ContactId": "reference"}),
    "User": ("005", _ACTIVE | {"Username": "string", "Name": "string", "Email": "email", "IsActive": "boolean"}),
    "Invoice__c": ("a00", SYSTEM | {"Name": "string", "Total__c": "currency", "Paid__c": "boolean"}),
}  # fmt: skip
"""Objects, the beginning of their ids, and their fields."""

REQUIRED = {
    "Contact": "LastName",
    "Lead": "LastName",
    "Account": "Name",
    "Opportunity": "Name",
    "User": "Username",
}

Told = Callable[[str, str, Json], None]
"""Hears of every commit: object, action (insert, update, delete, undelete), record."""


class OrgError(Exception):
    """A statement that Salesforce refuses; *code* is its `errorCode`."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Org:
    """The records of one organization."""

    def __init__(
        self, *, now: Now, user: str, objects: Mapping[str, tuple[str, Fields]] | None = None
    ) -> None:
        self.now = now
        self.objects = {**OBJECTS, **(objects or {})}
        self.fields = {name: fields for name, (_, fields) in self.objects.items()}
        self.told: Told = lambda kind, action, record: None
        self._user = user
        self._records: dict[str, dict[str, Json]] = {name: {} for name in self.objects}
        self._log: list[tuple[str, str, datetime]] = []
        self._numbers = itertools.count(1)
        self._pending: list[tuple[datetime, int, datetime, str, str, Json]] = []
        self._locked: set[str] = set()

    def identifier(self, prefix: str) -> str:
        """A new id of 18 characters."""
        number, text = next(self._numbers), ""
        while number:
            number, digit = divmod(number, len(_DIGITS))
            text = _DIGITS[digit] + text
        return eighteen(f"{prefix}d{text:0>11}")

    def kind(self, name: str) -> str:
        """The object *name*, however it is written; raises `OrgError`."""
        found = next((one for one in self.objects if one.lower() == name.lower()), None)
        if found is None:
            raise OrgError("NOT_FOUND", "The requested resource does not exist", status=404)
        return found

    def create(self, kind: str, fields: Mapping[str, Any], *, late: float = 0.0) -> Json:
        """Insert a record, committed *late* seconds after its date; raises `OrgError`."""
        kind = self.kind(kind)
        self._check(kind, fields)
        missing = REQUIRED.get(kind)
        if missing and not fields.get(missing):
            message = f"Required fields are missing: [{missing}]"
            raise OrgError("REQUIRED_FIELD_MISSING", message)
        stamp = stamped(self.now())
        blank = dict.fromkeys(self.fields[kind])
        by = {"CreatedById": self._user, "LastModifiedById": self._user}
        dates = dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), stamp)
        flags = {name: False for name, type_ in self.fields[kind].items() if type_ == "boolean"}
        record = {**blank, **flags, **fields, **by, **dates}
        record["Id"] = self.identifier(self.objects[kind][0])
        return self._commit(kind, "insert", record, late)

    def update(
        self, kind: str, record_id: str, fields: Mapping[str, Any], *, late: float = 0.0
    ) -> Json:
        """Change a record; raises `OrgError`."""
        kind = self.kind(kind)
        self._check(kind, fields)
        record = {**self.record(kind, record_id), **fields, **self._touched()}
        return self._commit(kind, "update", record, late)

    def touch(self, kind: str, record_id: str) -> Json:
        """Change a record as the system does: only `SystemModstamp` moves."""
        stamp = {"SystemModstamp": stamped(self.now())}
        return self._commit(kind, "system", {**self.record(kind, record_id), **stamp}, 0.0)

    def delete(self, kind: str, record_id: str, *, late: float = 0.0) -> Json:
        """Put a record into the recycle bin; raises `OrgError`."""
        kind = self.kind(kind)
        if "IsDeleted" not in self.fields[kind]:
            raise OrgError("METHOD_NOT_ALLOWED", f"{kind} cannot be deleted", status=405)
        record = {**self.record(kind, record_id), "IsDeleted": True, **self._touched()}
        return self._commit(kind, "delete", record, late)

    def undelete(self, kind: str, record_id: str) -> Json:
        """Take a record out of the recycle bin; raises `OrgError`."""
        kind = self.kind(kind)
        record = self._records[kind].get(record_id)
        if record is None or not record["IsDeleted"]:
            raise OrgError("UNDELETE_FAILED", "entity is not in the recycle bin")
        return self._commit(
            kind, "undelete", {**record, "IsDeleted": False, **self._touched()}, 0.0
        )

    def purge(self, kind: str, record_id: str) -> None:
        """Delete for good, from the recycle bin or at once (a hard delete); only the log knows of it."""
        kind = self.kind(kind)
        record = self._records[kind].pop(record_id, None)
        if record is not None and not record["IsDeleted"]:
            self._log.append((kind, record_id, self.now()))

    def record(self, kind: str, record_id: str) -> Json:
        """A record that exists; raises `OrgError`."""
        self.settle()
        found = self._records[self.kind(kind)].get(record_id)
        if found is None:
            message = "Provided external ID field does not exist or is not accessible"
            raise OrgError("NOT_FOUND", message, status=404)
        if found.get("IsDeleted"):
            raise OrgError("ENTITY_IS_DELETED", "entity is deleted", status=404)
        return found

    def records(self, kind: str, *, deleted: bool) -> Iterator[Json]:
        """The records that can be seen now; those in the recycle bin too where *deleted* are wanted."""
        self.settle()
        return (one for one in self._records[kind].values() if deleted or not one.get("IsDeleted"))

    def at_all(self, kind: str, record_id: str) -> Json | None:
        """A record, in the recycle bin or not; None where there never was one or nothing is left of it."""
        return self._records[kind].get(record_id)

    def is_locked(self, record_id: str) -> bool:
        """Whether an open transaction has changed the record."""
        self.settle()
        return record_id in self._locked

    def commit(self, record_id: str) -> None:
        """Commit now what an open transaction has changed of the record."""
        self._pending = [
            (self.now() if entry[5]["Id"] == record_id else entry[0], *entry[1:])
            for entry in self._pending
        ]
        heapq.heapify(self._pending)
        self.settle()

    def covered(self) -> datetime:
        """Up to when everything is known: the beginning of the oldest open transaction, or now."""
        self.settle()
        begun = [begin for _, _, begin, *_ in self._pending]
        return min([self.now(), *begun])

    def gone(self, kind: str, start: datetime, end: datetime) -> list[tuple[str, datetime]]:
        """What was deleted, and has not come back, from *start* until *end*."""
        self.settle()
        live = {one["Id"] for one in self.records(kind, deleted=False)}
        found = {
            record_id: when
            for name, record_id, when in self._log
            if name == kind and start <= when < end and record_id not in live
        }
        return list(found.items())

    def changed(self, kind: str, start: datetime, end: datetime) -> list[str]:
        """The ids of what exists and was changed from *start* until *end*."""
        return [
            one["Id"]
            for one in self.records(kind, deleted=False)
            if start <= moment(one["SystemModstamp"]) < end
        ]

    def log_begins(self) -> datetime:
        """The earliest moment that the log of deletions knows of."""
        return self.now() - timedelta(days=LOG_DAYS)

    def settle(self) -> None:
        """Commit the transactions whose time has come."""
        while self._pending and self._pending[0][0] <= self.now():
            _, _, _, kind, action, record = heapq.heappop(self._pending)
            self._locked.discard(record["Id"])
            self._store(kind, action, record)

    def _check(self, kind: str, fields: Mapping[str, Any]) -> None:
        unknown = next((one for one in fields if one not in self.fields[kind]), None)
        if unknown is not None:
            message = f"No such column '{unknown}' on sobject of type {kind}"
            raise OrgError("INVALID_FIELD", message)
        fixed = next((one for one in fields if one in SYSTEM), None)
        if fixed is not None:
            message = f"Unable to create/update fields: {fixed}."
            raise OrgError("INVALID_FIELD_FOR_INSERT_UPDATE", message)

    def _touched(self) -> Json:
        stamp = stamped(self.now())
        return {"LastModifiedDate": stamp, "SystemModstamp": stamp, "LastModifiedById": self._user}

    def _commit(self, kind: str, action: str, record: Json, late: float) -> Json:
        if record["Id"] in self._locked:
            raise OrgError("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        if not late:
            self._store(kind, action, record)
            return record
        begun = self.now()
        due = begun + timedelta(seconds=late)
        heapq.heappush(self._pending, (due, next(self._numbers), begun, kind, action, record))
        self._locked.add(record["Id"])
        return record

    def _store(self, kind: str, action: str, record: Json) -> None:
        self._records[kind][record["Id"]] = record
        if action == "delete":
            self._log.append((kind, record["Id"], moment(record["SystemModstamp"])))
        self.told(kind, action, record)
