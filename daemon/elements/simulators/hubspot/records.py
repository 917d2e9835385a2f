"""The CRM of a simulated HubSpot: records with their properties, and the index that searches read, which lags."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.elements.simulators.hubspot.filters import milliseconds, order_of, test_of
from daemon.elements.simulators.ledger import Now
from daemon.model import Json

TYPES = {
    "contacts": "0-1",
    "companies": "0-2",
    "deals": "0-3",
    "tickets": "0-5",
    "products": "0-7",
    "line_items": "0-8",
}
"""The kinds of records, with their object type ids."""

SINGULAR = {
    "contacts": "contact",
    "companies": "company",
    "deals": "deal",
    "tickets": "ticket",
    "products": "product",
    "line_items": "line_item",
}
_DEFAULTS = {
    "contacts": ("email", "firstname", "lastname"),
    "companies": ("name", "domain"),
    "deals": ("dealname", "amount", "closedate", "pipeline", "dealstage"),
    "tickets": ("subject", "content", "hs_pipeline", "hs_pipeline_stage", "hs_ticket_priority"),
    "products": ("name", "description", "price"),
    "line_items": ("quantity", "amount", "price"),
}
MERGED = "hs_merged_object_ids"
ID = "hs_object_id"
MOST_RESULTS = 10_000
MOST_ON_A_PAGE = 200
MOST_GROUPS, MOST_FILTERS, MOST_ALTOGETHER = 5, 6, 18


@dataclass(frozen=True, slots=True)
class Row:
    """One version of one record.  *merges* are the values that `hs_merged_object_ids` had, with their times."""

    id: int
    fields: Json
    created: datetime
    updated: datetime
    archived: datetime | None = None
    merges: tuple[tuple[datetime, str], ...] = ()

    def value(self, name: str, modified: str) -> Any:
        """A property, as a search compares it: moments are Unix milliseconds."""
        match name:
            case "hs_object_id":
                return self.id
            case "createdate":
                return milliseconds(self.created)
            case "hs_merged_object_ids":
                return self.merges[-1][1] if self.merges else None
            case _ if name == modified:
                return milliseconds(self.updated)
            case _:
                return self.fields.get(name)


@dataclass(slots=True)
class Records:
    """All records of one kind.  *lag* is how many seconds a change takes to be found by a search."""

    kind: str
    now: Now
    lag: float = 0.0
    rows: dict[int, Row] = field(default_factory=dict)
    archived: dict[int, Row] = field(default_factory=dict)
    merged: dict[int, int] = field(default_factory=dict)
    changes: list[tuple[str, str, datetime]] = field(default_factory=list)
    """Everything that happened: what, the record's id, when."""
    _last: int = 97
    _index: dict[int, Row] = field(default_factory=dict)
    _waiting: list[tuple[datetime, int, Row | None]] = field(default_factory=list)

    @property
    def modified(self) -> str:
        """The property that holds the time of the last change: contacts have another than the rest."""
        return "lastmodifieddate" if self.kind == "contacts" else "hs_lastmodifieddate"

    def create(self, fields: Json) -> Row:
        """Add a record."""
        self._last += 1
        now = self._time()
        return self._put("created", Row(self._last, _texts(fields), now, now))

    def update(self, record_id: int, fields: Json) -> Row:
        """Change a record; raises `KeyError` where there is none."""
        row = self.rows[record_id]
        changed = {**row.fields, **_texts(fields)}
        return self._put("updated", replace(row, fields=changed, updated=self._time()))

    def delete(self, record_id: int) -> Row:
        """Archive a record; raises `KeyError` where there is none."""
        row = replace(self.rows.pop(record_id), archived=self._time())
        self.archived[record_id] = row
        self._changed("deleted", record_id, None)
        return row

    def restore(self, record_id: int) -> Row:
        """Bring an archived record back; raises `KeyError` where there is none."""
        row = self.archived.pop(record_id)
        return self._put("restored", replace(row, archived=None, updated=self._time()))

    def merge(self, winner_id: int, loser_id: int, *, as_new: bool = False) -> Row:
        """Merge one record into another: its id is in no list any more, and leads to what became of both.

        *as_new* is what HubSpot does with some kinds: both ids end, in a record of a new one.
        """
        if winner_id == loser_id:
            raise KeyError(loser_id)
        winner, loser = self.rows[winner_id], self.rows[loser_id]
        now = self._time()
        # What had ended in the loser has ended in the winner now.
        gone = [
            one for row in (winner, loser) if row.merges for one in row.merges[-1][1].split(";")
        ]
        gone.append(str(loser_id))
        ended = [loser_id]
        if as_new:
            self._last += 1
            gone.append(str(winner_id))
            ended.append(winner_id)
        for one in ended:
            del self.rows[one]
            self.merged[one] = self._last if as_new else winner_id
            self._changed("merged", one, None)
        row = Row(
            id=self._last if as_new else winner_id,
            fields={**loser.fields, **winner.fields},
            created=winner.created,
            updated=now,
            merges=(*winner.merges, (now, ";".join(gone))),
        )
        return self._put("created" if as_new else "updated", row)

    def find(self, record_id: int) -> Row | None:
        """The record, also by an id that was merged into it."""
        while record_id in self.merged:
            record_id = self.merged[record_id]
        return self.rows.get(record_id)

    def listed(self, *, archived: bool, after: int, limit: int) -> tuple[list[Row], int | None]:
        """One page of a list, in the order of ids, and where the next begins."""
        rows = self.archived if archived else self.rows
        found = [rows[one] for one in sorted(rows) if one >= after]
        return found[:limit], found[limit].id if len(found) > limit else None

    def search(self, asked: Json) -> tuple[int, list[Row], int | None]:
        """The total, one page, and where the next begins; raises `ValueError` for what HubSpot refuses."""
        groups = [group.get("filters", []) for group in asked.get("filterGroups") or []]
        groups = groups or ([asked["filters"]] if asked.get("filters") else [])
        counts = [len(group) for group in groups]
        if len(groups) > MOST_GROUPS or sum(counts) > MOST_ALTOGETHER:
            raise ValueError("too many filters")
        if any(count > MOST_FILTERS for count in counts):
            raise ValueError("too many filters in a group")
        start, limit = int(asked.get("after") or 0), int(asked.get("limit") or 10)
        if not 1 <= limit <= MOST_ON_A_PAGE:
            raise ValueError(f"limit must be from 1 to {MOST_ON_A_PAGE}")
        if start + limit > MOST_RESULTS:
            raise ValueError("paging too deep: the maximum is 10,000 results")
        sorts = asked.get("sorts") or [{"propertyName": "createdate"}]
        if len(sorts) > 1:
            raise ValueError("only one sort is allowed")
        order = sorts[0] if isinstance(sorts[0], dict) else {"propertyName": sorts[0]}
        tests = [[test_of(one, self.modified) for one in group] for group in groups]
        found = [
            row
            for row in self._indexed()
            if not tests or any(all(test(row) for test in group) for group in tests)
        ]
        name, last_first = order["propertyName"], order.get("direction") == "DESCENDING"
        if name == ID:
            found.sort(key=lambda row: row.id, reverse=last_first)
        else:
            found.sort(key=lambda row: order_of(row.value(name, self.modified)), reverse=last_first)
        end = start + limit
        return len(found), found[start:end], end if end < len(found) else None

    def shown(self, row: Row, asked: Iterable[str] = ()) -> Json:
        """*row* as the API writes it, with the properties that were *asked* for, else the usual ones."""
        names = dict.fromkeys(
            [*(tuple(asked) or _DEFAULTS[self.kind]), "createdate", self.modified, ID]
        )
        written: Json = {"createdate": iso(row.created), self.modified: iso(row.updated)}
        values = {
            name: written.get(name) or _text(row.value(name, self.modified)) for name in names
        }
        record: Json = {
            "id": str(row.id),
            "properties": values,
            "createdAt": iso(row.created),
            "updatedAt": iso(row.updated),
            "archived": row.archived is not None,
        }
        if row.archived is not None:
            record["archivedAt"] = iso(row.archived)
        return record

    def history(self, row: Row, names: Iterable[str]) -> Json:
        """`propertiesWithHistory`: each value that a property had, the latest first."""
        return {
            name: [
                {"value": value, "timestamp": iso(at), "sourceType": "MERGE_OBJECTS"}
                for at, value in reversed(row.merges)
            ]
            for name in names
            if name == MERGED and row.merges
        }

    def _put(self, what: str, row: Row) -> Row:
        self.rows[row.id] = row
        self._changed(what, row.id, row)
        return row

    def _changed(self, what: str, record_id: int, row: Row | None) -> None:
        self.changes.append((what, str(record_id), self._time()))
        self._waiting.append((self.now() + timedelta(seconds=self.lag), record_id, row))

    def _indexed(self) -> Iterable[Row]:
        """What a search finds by now."""
        now, later = self.now(), []
        held: set[int] = set()
        for due, record_id, row in self._waiting:
            # One record's versions never overtake one another.
            if due > now or record_id in held:
                held.add(record_id)
                later.append((due, record_id, row))
            elif row is None:
                self._index.pop(record_id, None)
            else:
                self._index[record_id] = row
        self._waiting = later
        return self._index.values()

    def _time(self) -> datetime:
        now = self.now().astimezone(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


def iso(at: datetime) -> str:
    """`2024-01-17T19:55:04.281Z`."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _texts(fields: Json) -> Json:
    """The API keeps every value as a text."""
    return {name: _text(value) for name, value in fields.items()}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
