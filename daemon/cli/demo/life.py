"""Life at the simulated providers: customers and tickets that come, change and go."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from daemon.cli.demo.score import Deed, Score
from daemon.elements.simulators.sageone import Sage
from daemon.elements.simulators.workshop import Workshop

NAMES = ("Ann", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "June", "Kurt", "Lea")
MOODS = ("urgent", "waiting", "almost done", "reopened", "escalated")


class Records(Protocol):
    """Where an actor changes records."""

    def create(self, record_id: str, name: str) -> None: ...
    def update(self, record_id: str, value: str) -> None: ...
    def delete(self, record_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class WorkshopRecords:
    """One resource of the workshop."""

    workshop: Workshop
    resource: str

    def create(self, record_id: str, name: str) -> None:
        """Add a record."""
        self.workshop.create(self.resource, id=record_id, name=name)

    def update(self, record_id: str, value: str) -> None:
        """Change it."""
        self.workshop.update(self.resource, record_id, note=value)

    def delete(self, record_id: str) -> None:
        """Remove it."""
        self.workshop.delete(self.resource, record_id)


@dataclass(frozen=True, slots=True)
class SageRecords:
    """Sage's customers."""

    sage: Sage

    def create(self, record_id: str, name: str) -> None:
        """Add a customer."""
        self.sage.create(name, id=record_id)

    def update(self, record_id: str, value: str) -> None:
        """Change its name: of the rest the documentation's example asks for two dates only, in whole seconds."""
        self.sage.update(record_id, name=value, displayed_as=value)

    def delete(self, record_id: str) -> None:
        """Delete it."""
        self.sage.delete(record_id)


class Actor:
    """Somebody who works at a provider: creates a record, changes it, deletes it, and begins again.

    The next step waits until the one before was told: a poll sees what is, not what was meanwhile.
    """

    def __init__(
        self, *, name: str, instance: int, way: str, object_type: str, prefix: str, records: Records
    ) -> None:
        self.name = name
        self._instance = instance
        self._way = way
        self._object_type = object_type
        self._prefix = prefix
        self._records = records
        self._last: Deed | None = None
        self._steps = self._life()

    def act(self, score: Score) -> tuple[Deed, str] | None:
        """Take the next step; what was done, and in words; None while the last is not told."""
        if score.expects(self._last):
            return None
        self._last, words = next(self._steps)
        return self._last, words

    def _life(self) -> Iterator[tuple[Deed, str]]:
        for number in itertools.count(1):
            record_id = f"{self._prefix}-{number}"
            name = NAMES[number % len(NAMES)]
            self._records.create(record_id, name)
            yield self._deed("CREATED", record_id), f"creates {record_id} ({name})"
            mood = MOODS[number % len(MOODS)]
            self._records.update(record_id, mood)
            yield self._deed("UPDATED", record_id), f"changes {record_id} ({mood})"
            self._records.delete(record_id)
            yield self._deed("DELETED", record_id), f"deletes {record_id}"

    def _deed(self, change: str, record_id: str) -> Deed:
        return Deed(self._instance, self._way, change, self._object_type, record_id)


def furnish(workshop: Workshop, sage: Sage) -> None:
    """What was there before: nobody is to be told of it."""
    for number, name in enumerate(NAMES, 1):
        workshop.create("customers", id=f"old-{number}", name=name)
        sage.create(name, id=f"old-sage-{number}")
