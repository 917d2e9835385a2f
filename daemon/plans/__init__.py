"""Poller configurations, compiled: from what a customer wrote to what is asked of a provider.

    configuration   an instance's configuration → its plans, or every problem at once
    selection       which resources an instance polls
    polling         whether it is polled, from when it tells, how often it counts what is there
    resource        the plan of one resource: what to ask, and what the answer means
    judgement       whether a record that was read is a change: the decision table
    address         a poller `url` taken apart: path, `where`, parameters
    where           the tolerant reader of CEQL
    placeholders    `${gmtDate:…}` and `{calendarId}` inside an address
    values          texts, booleans and numbers that arrive as any of each other
    fields          paths into a record, and the id of one that names none
    fingerprints    the name of one version of a record

Pure: no clock, no I/O.  The forms that are understood are those of the Cloud Elements documentation and
of the configurations that its customers really wrote, slips included.
"""

from daemon.plans.configuration import compile_plans, refresh_interval
from daemon.plans.fingerprints import fingerprint
from daemon.plans.polling import VENDOR, backfill_from, leaves_to_polls, sweep_interval
from daemon.plans.resource import ResourcePlan
from daemon.plans.values import unfilled
from daemon.plans.where import parse_where

__all__ = [
    "VENDOR",
    "ResourcePlan",
    "backfill_from",
    "compile_plans",
    "fingerprint",
    "leaves_to_polls",
    "parse_where",
    "refresh_interval",
    "sweep_interval",
    "unfilled",
]
