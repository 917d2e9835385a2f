"""The records of a simulated provider: in memory, with the times of their creation, change and deletion."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from daemon.dates import iso_seconds
from daemon.model import Json

Now = Callable[[], datetime]


def system_clock() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Ledger:
    """One list of records; times are whole seconds, as most providers write them."""

    now: Now = system_clock
    records: dict[str, Json] = field(default_factory=dict)
    deleted: list[tuple[str, datetime, Json]] = field(default_factory=list)

    def create(self, fields: Json) -> Json:
        """Add a record; an id is made where *fields* brings none."""
        stamp = iso_seconds(self.now())
        record = {"id": uuid.uuid4().hex, **fields, "created_at": stamp, "updated_at": stamp}
        self.records[record["id"]] = record
        return record

    def update(self, record_id: str, fields: Json) -> Json:
        """Change a record; raises `KeyError` where there is none."""
        kept = {name: value for name, value in fields.items() if name not in ("id", "created_at")}
        record = {**self.records[record_id], **kept, "updated_at": iso_seconds(self.now())}
        self.records[record_id] = record
        return record

    def delete(self, record_id: str) -> Json:
        """Remove a record; raises `KeyError` where there is none."""
        record = self.records.pop(record_id)
        self.deleted.append((record_id, self.now(), record))
        return record

    def since(self, start: datetime | None) -> list[Json]:
        """The records changed at *start* or later, oldest change first."""
        found = [
            one
            for one in self.records.values()
            if start is None or moment(one["updated_at"]) >= start
        ]
        return sorted(found, key=lambda one: (one["updated_at"], one["id"]))

    def deleted_after(self, start: datetime) -> list[Json]:
        """The records deleted later than *start*, counted in whole seconds."""
        return [one for _, at, one in self.deleted if at.replace(microsecond=0) > start]


def moment(text: str) -> datetime:
    """The moment that *text* (ISO 8601) names, in UTC where it names no zone; raises `ValueError`."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(slots=True)
class Clock:
    """A clock that goes only when told: for tests."""

    time: datetime

    def __call__(self) -> datetime:
        """The time it shows."""
        return self.time

    def advance(self, seconds: float) -> None:
        """Go forward."""
        self.time += timedelta(seconds=seconds)
