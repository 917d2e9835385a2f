"""A provider of anything: each list has its records in the form that a poller configuration says it has.

It answers `/{site}/{path of the resource}` with all its records, whatever it is asked: that it finds nothing for the
poller is the point.  Its dates are written as the configuration says that they are, in its zone; whatever else a
real provider's records hold is one field, their version.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from daemon.plans import ResourcePlan
from daemon.plans.fields import FieldPath
from daemon.plans.resource import DateField

DEFINITION = """
id = 1001
key = "shop"
name = "Anything"
any_resource = true

[[parameters]]
key = "site"
name = "Site"
required = true

[connection]
base = "ORIGIN/{site}"

[defaults]
# As the platform that the configurations were written for: the clause goes out as it is, and so does the rest.
where_parameter = "where"
pass_through = true
"""

Record = dict[str, Any]


@dataclass
class List:
    """One list: the plans of the resources that are read from it, and its records by id."""

    plans: list[ResourcePlan] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    created: dict[str, datetime] = field(default_factory=dict)


class Anything:
    """Serves the lists of any number of sites."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.lists: dict[str, List] = {}
        self.version = 0
        self.creation_only = False
        """Whether a field that is both dates is that of creation, which no change moves."""

    def open(self, site: str, plans: Iterable[ResourcePlan]) -> None:
        """Have the lists that *plans* read, still empty."""
        for plan in plans:
            self.lists.setdefault(f"/{site}/{unquote(plan.path)}", List()).plans.append(plan)

    def put(self, object_id: str, *, ago: timedelta = timedelta()) -> None:
        """Create or change that record of every list, now or so long *ago*."""
        moment = self.now - ago
        self.version += 1
        for shelf in self.lists.values():
            created = shelf.created.setdefault(object_id, moment)
            record: Record = {"version": self.version}
            for plan in shelf.plans:
                _put(record, plan.id_path or FieldPath.compile("id"), object_id)
                changed = created if self.creation_only and _single(plan) else moment
                for date, when in ((plan.created_field, created), (plan.updated_field, changed)):
                    if date is not None:
                        _put(record, date.path, _written(date, when))
            shelf.records[object_id] = record

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request: the whole list; 404 where there is none, 400 for a question with a placeholder left in it."""
        headers = {"Date": format_datetime(self.now.astimezone(UTC), usegmt=True)}
        if any(mark in value for value in request.query.values() for mark in "{}"):
            return web.json_response({"error": "not filled in"}, status=400, headers=headers)
        shelf = self.lists.get(request.path)
        if shelf is None:
            return web.json_response({"error": "no such list"}, status=404, headers=headers)
        return web.json_response(list(shelf.records.values()), headers=headers)


def _single(plan: ResourcePlan) -> bool:
    """Whether one field is both dates; the configuration says by that that a change moves it."""
    created, updated = plan.created_field, plan.updated_field
    return created is not None and updated is not None and created.path == updated.path


def _written(date: DateField, moment: datetime) -> str | int:
    """*moment* as the provider writes it: Unix time as a number, the rest as text."""
    text = date.pattern.format(moment, date.zone)
    return (
        int(text)
        if text.isdigit() and date.pattern.pattern in ("milliseconds", "seconds")
        else text
    )


def _put(record: Record, path: FieldPath, value: object) -> None:
    """Put *value* where *path* finds it, with the objects and lists that lead there."""
    here: Any = record
    *lead, last = path._steps
    for step, following in zip(lead, path._steps[1:], strict=True):
        here = _entered(here, step, [] if isinstance(following, int) else {})
    _entered(here, last, None)
    here[last] = value
    assert path.find(record) == value


def _entered(here: Any, step: str | int, otherwise: object) -> Any:
    """What is at *step* of *here*; *otherwise* is put there where nothing is."""
    if isinstance(step, str):
        return here.setdefault(step, otherwise)
    here += [None] * (step + 1 - len(here))
    here[step] = otherwise if here[step] is None else here[step]
    return here[step]
