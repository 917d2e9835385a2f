"""The 84 collected poller configurations of real elements, where they are at hand."""

import json
import os
from pathlib import Path

import pytest
from plans.rendering import NOW, SINCE

from daemon.errors import Invalid
from daemon.plans import compile_plans

BESIDE = Path(__file__).parents[3] / "shared" / "facts" / "poller-configs.json"
PATH = Path(os.environ.get("TIDINGS_POLLER_CONFIGS", BESIDE))

# Broken in their sources: formats that are prose, and entries that lost their url.
REFUSED = {
    22: {
        "contacts.url",
        "contacts.datesConfiguration.updatedDateFormat",
        "contacts.datesConfiguration.createdDateFormat",
    },
    36: {"leads.url", "opportunities.url"},
    40: {"addressbook-entries.url", "opportunities.url"},
    58: {"timesheets.url"},
    62: {
        "contacts.url",
        "contacts.datesConfiguration.updatedDateFormat",
        "contacts.datesConfiguration.createdDateFormat",
    },
}
# Templates that a person must fill in: accepted, and not asked before that.
UNFILLED = {29: {"calendarId"}, 38: {"id", "updateKey"}, 83: {"TimeZone"}}
FILLED = {"calendarId": "primary", "id": "1", "updateKey": "U", "TimeZone": "America/Denver"}


def collected():
    if not PATH.is_file():
        pytest.skip(
            f"TIDINGS_POLLER_CONFIGS names no file of collected configurations ({PATH.name})"
        )
    configurations = [entry["configuration"] for entry in json.loads(PATH.read_text())]
    assert len(configurations) == 84
    return [{"event.poller.configuration": entry} for entry in configurations]


def test_exactly_the_broken_ones_are_refused():
    """Five of 84 are refused, each under the names of exactly its broken fields; all others compile whole."""
    refused = {}
    for number, configuration in enumerate(collected()):
        try:
            plans = compile_plans(configuration)
        except Invalid as error:
            refused[number] = {
                key.removeprefix("event.poller.configuration.") for key in error.problems
            }
        else:
            assert len(plans) == len(configuration["event.poller.configuration"])

    assert REFUSED == refused


def test_exactly_the_templates_are_unfilled():
    """Three of 84 have something left to fill in, and are whole once the instance's configuration has it."""
    unfilled = {}
    for number, configuration in enumerate(collected()):
        if number in REFUSED:
            continue
        if holes := {name for plan in compile_plans(configuration) for name in plan.unfilled}:
            unfilled[number] = holes
        assert not any(plan.unfilled for plan in compile_plans({**configuration, **FILLED}))

    assert UNFILLED == unfilled


def test_every_accepted_one_asks_without_anything_left_to_fill_in():
    """Each resource of each accepted configuration makes a request with every placeholder replaced."""
    asked = 0
    for number, configuration in enumerate(collected()):
        if number in REFUSED:
            continue
        text = json.dumps(configuration["event.poller.configuration"])
        for plan in compile_plans({**FILLED, "event.poller.configuration": text}):
            query = plan.query(SINCE, NOW)
            values = [query.resource, query.where, *(term.value for term in query.conditions)]
            values += [value for _, value in query.parameters]
            assert not any(mark in value for value in values for mark in ("${", "{", "}"))
            assert query.where.count("'") % 2 == 0
            asked += 1

    assert asked > 240
