"""Poller configurations at work: what a created and a changed record become, by each configuration's own rules.

The provider answers in the form that each configuration expects, and filters nothing: dates and fingerprints decide.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from plans.forms import FORMS
from plans.test_collected_configurations import FILLED, collected
from poller.anything import DEFINITION, Anything
from poller.polled import START, World

from daemon.errors import Invalid
from daemon.plans import compile_plans
from daemon.store import objects

CONFIGURATION = "event.poller.configuration"

Open = Callable[..., AbstractAsyncContextManager[World]]
Run = Callable[..., Any]
Told = list[tuple[str, str]]

NOTHING: Told = []
BOTH = [[], [("CREATED", "new"), ("UPDATED", "old")], []]
"""What three polls tell: the baseline, the one after a record was created and another changed, and one more."""

# Where a record has no created date and the question shows only what changed lately, one that is unknown may be older
# than the baseline: the table of daemon/plans/judgement.py calls it UPDATED.
UNDATED = [[], [("UPDATED", "new"), ("UPDATED", "old")], []]
# What a person has not filled in is not asked for: half a question gets wrong answers.
UNASKED = [[], [], []]

# Of the collected ones, the entries that are broken in their sources: a url lost, a format that is prose.
BROKEN = {
    22: {"contacts"},
    36: {"leads", "opportunities"},
    40: {"addressbook-entries", "opportunities"},
    58: {"timesheets"},
    62: {"contacts"},
}
COLLECTED_OTHERWISE = {
    ("40", "contacts"): UNDATED,
    ("40", "companies"): UNDATED,
    ("41", "contacts"): UNDATED,
}
FORMS_OTHERWISE = {
    "no hub in the path": UNDATED,
    "a path below a resource": UNDATED,
    "a key that means nothing here": UNDATED,
    "a zone by name, minutes": UNDATED,
    "microseconds": UNDATED,
    "an American date": UNDATED,
    "a zone of Java's, capital D": UNDATED,
    "no where, other parameters": UNDATED,
    "a quote too many": UNDATED,
    "the same zone, filled in": UNDATED,
    "a zone to fill in": UNASKED,
    "a path to fill in": UNASKED,
    "a path and a parameter to fill in": UNASKED,
}
NEW_YEARS_EVE = datetime(2026, 12, 31, 23, 55, tzinfo=UTC)


@dataclass
class Outcome:
    """By site and resource: what each poll told, and the error of those that failed."""

    told: dict[tuple[str, str], list[Told]] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)

    def otherwise(self) -> dict[tuple[str, str], list[Told]]:
        """What was not one CREATED and one UPDATED, then nothing."""
        return {name: told for name, told in self.told.items() if told != BOTH}


async def lived(
    w: World, sites: Mapping[str, Mapping[str, Any]], *, restarted: bool = False
) -> Outcome:
    """An old record and the baseline; ten minutes later a new one, the old one changed, and a poll; one poll more.

    *restarted*: before each poll, so that nothing is known but what was stored.
    """
    assert isinstance(w.shop, Anything)
    pollers = {}
    for site, configuration in sites.items():
        plans = compile_plans(configuration)
        w.shop.open(site, plans)
        further = {
            name.replace(".", "__"): value if isinstance(value, str) else json.dumps(value)
            for name, value in configuration.items()
        }
        instance = await w.create(*(plan.resource for plan in plans), site=site, **further)
        pollers[site] = (instance, w.poller(instance))
    outcome = Outcome()
    seen = dict.fromkeys(sites, 0)

    async def poll(site: str, turns: asyncio.Semaphore) -> None:
        instance, poller = pollers[site]
        poller = w.poller(instance) if restarted else poller
        async with turns:
            await poller.poll_once(hurry=True)
            changes = await w.changes(instance)
        news, seen[site] = changes[seen[site] :], len(changes)
        for resource in poller.resources:
            told = [
                (row["change"], row["object_id"]) for row in news if row["object_type"] == resource
            ]
            outcome.told.setdefault((site, resource), []).append(sorted(told))

    async def poll_all() -> None:
        turns = asyncio.Semaphore(8)
        async with asyncio.TaskGroup() as group:
            for site in pollers:
                group.create_task(poll(site, turns))

    w.shop.put("old", ago=timedelta(days=30))
    await poll_all()
    w.advance(600)
    w.shop.put("old")
    w.shop.put("new")
    w.advance(30)
    await poll_all()
    w.advance(900)
    await poll_all()
    for site, (instance, _) in pollers.items():
        for row in await objects.cursors(w.polling.pool, instance.id):
            if row["error"] is not None:
                outcome.failed[site, row["resource"]] = row["error"]
    return outcome


def test_the_collected_configurations_tell_one_of_each(open_world: Open, run: Run) -> None:
    """Of 84 configurations each list that can be read tells one CREATED, one UPDATED, then nothing; exceptions are named."""
    sites: dict[str, dict[str, Any]] = {}
    broken: dict[int, set[str]] = {}
    for number, configuration in enumerate(collected()):
        entries = configuration[CONFIGURATION]
        try:
            compile_plans({**FILLED, CONFIGURATION: entries})
        except Invalid as error:
            said = [key.removeprefix(f"{CONFIGURATION}.") for key in error.problems]
            broken[number] = {
                name for name in entries if any(one.startswith(f"{name}.") for one in said)
            }
            entries = {name: entries[name] for name in entries if name not in broken[number]}
        if entries:
            sites[str(number)] = {**FILLED, CONFIGURATION: entries}

    async def test() -> Outcome:
        async with open_world(provider=Anything, definition=DEFINITION) as w:
            return await lived(w, sites)

    outcome = run(test(), limit=60)

    assert BROKEN == broken
    assert (82, 257) == (len(sites), len(outcome.told))
    assert {} == outcome.failed
    assert COLLECTED_OTHERWISE == outcome.otherwise()


def test_every_form_tells_one_of_each(open_world: Open, run: Run) -> None:
    """Each form tells the same, over midnight of a New Year and restarts; what is not filled in says so."""
    sites = {
        str(number): {**further, CONFIGURATION: {resource: entry}}
        for number, (_, resource, entry, further, _) in enumerate(FORMS)
    }

    async def test() -> Outcome:
        async with open_world(provider=Anything, definition=DEFINITION) as w:
            w.advance((NEW_YEARS_EVE - START).total_seconds())
            return await lived(w, sites, restarted=True)

    outcome = run(test(), limit=60)
    title = {str(number): form[0] for number, form in enumerate(FORMS)}

    assert set(title) == {site for site, _ in outcome.told}
    assert FORMS_OTHERWISE == {title[site]: told for (site, _), told in outcome.otherwise().items()}
    assert {name for name, told in FORMS_OTHERWISE.items() if told == UNASKED} == {
        title[site]
        for (site, _), error in outcome.failed.items()
        if "put a value in place of {" in error
    }
    assert 3 == len(outcome.failed)


@pytest.mark.parametrize(
    ("filtered", "told"), [(True, [[], [("CREATED", "new")], []]), (False, BOTH)]
)
def test_one_date_that_no_change_moves_shows_no_edit(
    filtered: object, told: list[Told], open_world: Open, run: Run
) -> None:
    """Where the updated date is really that of creation edits are old news, unless filterByUpdatedDate is false."""
    date = {
        f"{word}Date{key}": value
        for word in ("updated", "created")
        for key, value in (("Field", "createdDate"), ("Format", "yyyy-MM-dd'T'HH:mm:ss"))
    }
    entry = {
        "url": "/hubs/general/workers?from=${date}",
        "idField": "id",
        "filterByUpdatedDate": filtered,
        "datesConfiguration": date,
    }

    async def test() -> Outcome:
        async with open_world(provider=Anything, definition=DEFINITION) as w:
            w.shop.creation_only = True
            return await lived(w, {"one": {CONFIGURATION: {"workers": entry}}})

    assert {("one", "workers"): told} == run(test()).told


@pytest.mark.parametrize(
    ("zone", "first"),
    [
        ("America/Los_Angeles", datetime(2026, 11, 1, 8, 25, tzinfo=UTC)),
        ("America/Denver", datetime(2026, 11, 1, 7, 55, tzinfo=UTC)),
    ],
)
def test_the_hour_that_comes_twice_loses_nothing(
    zone: str, first: datetime, open_world: Open, run: Run
) -> None:
    """Dates without an offset, where daylight saving repeats an hour, in a zone that has it: one of each all the same."""
    dates = {
        f"{word}Date{key}": value
        for word in ("updated", "created")
        for key, value in (("Field", word), ("Format", "yyyy-MM-dd HH:mm:ss"), ("Timezone", zone))
    }
    url = "/hubs/crm/deals?where=a>'${date}'"
    entry = {"url": url, "idField": "id", "datesConfiguration": dates}

    async def test(minutes: int) -> Outcome:
        async with open_world(provider=Anything, definition=DEFINITION) as w:
            w.advance((first - START).total_seconds() + minutes * 60)
            return await lived(w, {"one": {CONFIGURATION: {"deals": entry}}})

    for minutes in (0, 30, 60):
        assert {} == run(test(minutes)).otherwise()
