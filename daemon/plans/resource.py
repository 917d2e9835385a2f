"""The plan of one resource: what to ask a provider, and what its answer means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any

from daemon.dates import EPOCH, DatePattern, Reading
from daemon.errors import Invalid
from daemon.model import ChangeType, Condition, Query
from daemon.plans.address import Address
from daemon.plans.fields import FieldPath, identify
from daemon.plans.judgement import Dates, Rules, judge


@dataclass(frozen=True, slots=True)
class DateField:
    """Where a record has a date, and how it is written there."""

    path: FieldPath
    pattern: DatePattern
    zone: tzinfo

    def read(self, record: Mapping[str, Any]) -> Reading | None:
        """None where the record has no such date; ValueError where it has something else there."""
        value = self.path.find(record)
        if value is None or value == "":
            return None
        return self.pattern.read(value, self.zone)


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """One resource of one instance, compiled from its entry in `event.poller.configuration`.

    *resource* is the entry's key: the `objectType` of what is reported.  *unfilled* names the `{…}` that
    neither the url nor the instance's configuration fills in: until then the resource cannot be asked for.
    *notes* are sentences for a person, about what was read otherwise than it was written.  *extra* holds
    the entry's keys that mean nothing here.
    """

    resource: str
    url: str
    address: Address
    id_path: FieldPath | None
    updated_field: DateField | None
    created_field: DateField | None
    filter_by_updated_date: bool = True
    filter_by_current_date: bool = False
    created_check_tolerance: float = 10.0  # seconds
    poll_delay: float = 0.0  # seconds
    page_size: int | None = None
    unfilled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def path(self) -> str:
        """What the provider calls the resource: the path that the url asks for."""
        return self.address.path.fill(since=EPOCH, now=EPOCH)

    @property
    def complete(self) -> bool:
        """Whether every poll asks the same question, so that a baseline must be read, not only dated."""
        return not any(template.moving for template in self.address.templates)

    @property
    def grain(self) -> timedelta:
        """The coarsest unit in which the url writes the moment of the last poll: a day of `${date:yyyy-MM-dd}`.

        What is asked for begins up to that much before `since`; where the url compares with `>`, ask that
        much earlier still, or what happened within the unit is lost.
        """
        return max((template.grain for template in self.address.templates), default=timedelta())

    def query(self, since: datetime, now: datetime) -> Query:
        """What to ask when the last poll was at *since* and this one is at *now* (aware).

        `pollDelay` is taken off *since*, here and in `Query.since`.  Raises `Invalid` while something is
        unfilled: half a question gets wrong answers.
        """
        if self.unfilled:
            raise Invalid(
                {f"event.poller.configuration.{self.resource}.url": self.what_is_missing()}
            )
        since -= timedelta(seconds=self.poll_delay)
        address = self.address
        return Query(
            resource=address.path.fill(since=since, now=now),
            conditions=tuple(
                Condition(
                    term.attribute,
                    term.operator,
                    term.value.fill(since=since, now=now),
                    term.joined,
                )
                for term in address.terms
            ),
            parameters=tuple(
                (name, value.fill(since=since, now=now)) for name, value in address.parameters
            ),
            page_size=self.page_size,
            since=since,
            where=address.where.fill(since=since, now=now),
        )

    def what_is_missing(self) -> str:
        """A sentence that says what a person has to fill in; empty when nothing is missing."""
        if not self.unfilled:
            return ""
        names = " and ".join(f"{{{name}}}" for name in self.unfilled)
        keys = " and ".join(repr(name) for name in self.unfilled)
        return f"put a value in place of {names}, or add {keys} to the instance's configuration"

    def object_id(self, record: Mapping[str, Any]) -> str | None:
        """The record's id; None where `idField` is configured and leads to none.  See `identify`."""
        return identify(record, self.id_path)

    def updated(self, record: Mapping[str, Any]) -> datetime | None:
        """When the record was last changed; None where that is not configured, absent or unreadable."""
        reading = self.dates(record).updated
        return reading.moment if reading is not None else None

    def created(self, record: Mapping[str, Any]) -> datetime | None:
        """When the record was created; None where that is not configured, absent or unreadable."""
        reading = self.dates(record).created
        return reading.moment if reading is not None else None

    def dates(self, record: Mapping[str, Any]) -> Dates:
        """Both dates, and the names of the fields whose dates could not be read, for counting."""
        readings: list[Reading | None] = []
        unreadable: list[str] = []
        for date in (self.updated_field, self.created_field):
            try:
                readings.append(date.read(record) if date is not None else None)
            except ValueError:
                readings.append(None)
                if date is not None and date.path.text not in unreadable:
                    unreadable.append(date.path.text)
        return Dates(readings[0], readings[1], tuple(unreadable))

    def judge(
        self,
        record: Mapping[str, Any],
        *,
        last_poll: datetime,
        poll_started: datetime,
        known: bool,
        baseline: datetime,
        dates: Dates | None = None,
    ) -> ChangeType | None:
        """The change that this new version of a record is; None where there is nothing to tell.

        *dates* spares reading them again.  The rule is the table in `daemon.plans.judgement`.
        """
        rules = Rules(
            filter_by_updated_date=self.filter_by_updated_date,
            filter_by_current_date=self.filter_by_current_date,
            tolerance=timedelta(seconds=self.created_check_tolerance),
            poll_delay=timedelta(seconds=self.poll_delay),
            complete=self.complete,
        )
        return judge(
            dates or self.dates(record),
            rules,
            known=known,
            baseline=baseline,
            last_poll=last_poll,
            poll_started=poll_started,
        )
