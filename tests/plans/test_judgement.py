"""The decision table: created, updated, or nothing to tell."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.model import ChangeType
from daemon.plans import compile_plans

CREATED, UPDATED, NOTHING = ChangeType.CREATED, ChangeType.UPDATED, None

BASELINE = datetime(2018, 8, 20, 12, 0, tzinfo=UTC)
LAST_POLL = datetime(2018, 8, 20, 15, 0, tzinfo=UTC)
NOW = datetime(2018, 8, 20, 15, 15, tzinfo=UTC)

DATES = {
    "updatedDateField": "u",
    "updatedDateFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "createdDateField": "c",
    "createdDateFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
}
WHERE = "/x?where=u>='${epoch}'"


def judge(
    updated=None, created=None, *, known=False, url=WHERE, dates=DATES, last_poll=LAST_POLL, **entry
):
    (plan,) = compile_plans(
        {"event.poller.configuration": {"x": {"url": url, "datesConfiguration": dates, **entry}}}
    )
    record = {"u": updated and f"2018-08-{updated}Z", "c": created and f"2018-08-{created}Z"}
    return plan.judge(record, last_poll=last_poll, poll_started=NOW, known=known, baseline=BASELINE)


OLD = "19T10:00:00.000"  # before the baseline
OLD_LATER = "19T10:00:30.000"
MIDDLE = "20T14:00:00.000"  # between baseline and last poll
RECENT = "20T15:05:00.000"  # after the last poll


@pytest.mark.parametrize(
    ("known", "created", "updated", "filtered", "unfiltered"),
    [
        (True, None, None, UPDATED, UPDATED),
        (True, OLD, None, UPDATED, UPDATED),
        (True, None, MIDDLE, NOTHING, UPDATED),
        (True, OLD, MIDDLE, NOTHING, UPDATED),
        (True, OLD, RECENT, UPDATED, UPDATED),
        (True, RECENT, RECENT, UPDATED, UPDATED),
        (False, None, None, CREATED, CREATED),
        (False, RECENT, RECENT, CREATED, CREATED),
        (False, MIDDLE, RECENT, CREATED, CREATED),
        (False, MIDDLE, MIDDLE, CREATED, CREATED),
        (False, MIDDLE, None, CREATED, CREATED),
        (False, OLD, RECENT, UPDATED, UPDATED),
        (False, OLD, MIDDLE, NOTHING, UPDATED),
        (False, OLD, OLD, NOTHING, NOTHING),
        (False, OLD, OLD_LATER, NOTHING, NOTHING),
        (False, OLD, None, UPDATED, UPDATED),
        (False, None, RECENT, UPDATED, UPDATED),
        (False, None, MIDDLE, NOTHING, UPDATED),
        (False, None, OLD, NOTHING, NOTHING),
    ],
)
def test_the_decision_table(known, created, updated, filtered, unfiltered):
    """Every row of the table in the module's prose, with and without `filterByUpdatedDate`."""
    assert filtered == judge(updated, created, known=known)
    assert unfiltered == judge(updated, created, known=known, filterByUpdatedDate=False)


def test_only_an_updated_date_and_a_complete_reading():
    """Where each poll reads everything, what has never been seen is new even without a created date."""
    assert CREATED == judge(RECENT, url="/x")


@pytest.mark.parametrize(
    ("apart", "tolerance", "expected"),
    [
        (timedelta(seconds=10), None, CREATED),
        (timedelta(seconds=10, milliseconds=1), None, UPDATED),
        (timedelta(seconds=60), 60, CREATED),
        (timedelta(seconds=1), 0, UPDATED),
        (timedelta(0), 0, CREATED),
    ],
)
def test_created_and_updated_within_the_tolerance_are_a_creation(apart, tolerance, expected):
    """Ten seconds where nothing is configured; the edge belongs to the creation."""
    # Created just before the baseline, so that the dates alone decide; last polled before both.
    created = BASELINE - timedelta(milliseconds=100)
    stamp = "%dT%H:%M:%S.%f"
    entry = {} if tolerance is None else {"createdCheckTolerance": tolerance}

    judged = judge(
        (created + apart).strftime(stamp),
        created.strftime(stamp),
        last_poll=BASELINE - timedelta(hours=1),
        **entry,
    )

    assert expected == judged


def test_an_equal_date_is_not_lost():
    """A record dated exactly at the last poll is reported; one a millisecond older is not."""
    assert UPDATED == judge("20T15:00:00.000", OLD, known=True)
    assert NOTHING == judge("20T14:59:59.999", OLD, known=True)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("yyyy-MM-dd", "2018-08-20", UPDATED),
        ("yyyy-MM-dd", "2018-08-19", NOTHING),
        ("yyyy-MM-dd HH:mm", "2018-08-20 15:00", UPDATED),
        ("yyyy-MM-dd HH:mm", "2018-08-20 14:59", NOTHING),
        ("yyyy-MM-dd HH:mm:ss", "2018-08-20 15:00:00", UPDATED),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2018-08-20", UPDATED),
    ],
)
def test_a_coarse_date_is_older_only_as_a_whole(form, text, expected):
    """A date without a time may be any moment of its day: nothing of that day is dropped."""
    (plan,) = compile_plans(
        {
            "event.poller.configuration": {
                "x": {
                    "url": WHERE,
                    "datesConfiguration": {"updatedDateField": "u", "updatedDateFormat": form},
                }
            }
        }
    )
    last_poll = LAST_POLL + timedelta(milliseconds=500)

    assert expected == plan.judge(
        {"u": text}, last_poll=last_poll, poll_started=NOW, known=True, baseline=BASELINE
    )


def test_a_poll_delay_reaches_back():
    """What became visible late is still told: the last poll and the baseline count from the delay before."""
    assert NOTHING == judge("20T14:59:40.000", OLD, known=True)
    assert UPDATED == judge("20T14:59:40.000", OLD, known=True, pollDelay=30)
    assert CREATED == judge("20T11:59:40.000", "20T11:59:40.000", pollDelay=30)


@pytest.mark.parametrize("known", [True, False])
def test_the_current_date_is_an_upper_limit(known):
    """With `filterByCurrentDate` what is dated after the start of the poll waits for the next one."""
    late = "20T15:15:00.001"

    assert NOTHING is judge(late, late, known=known, filterByCurrentDate=True)
    assert NOTHING is judge(None, late, known=known, filterByCurrentDate=True)
    assert NOTHING is not judge(late, late, known=known)
    assert NOTHING is not judge("20T15:15:00.000", OLD, known=known, filterByCurrentDate=True)


def test_dates_that_cannot_be_read_lose_nothing():
    """A record whose dates are garbage is told, by memory alone."""
    (plan,) = compile_plans(
        {
            "event.poller.configuration": {
                "x": {"url": WHERE, "datesConfiguration": DATES, "filterByCurrentDate": True}
            }
        }
    )
    moments = {"last_poll": LAST_POLL, "poll_started": NOW, "baseline": BASELINE}

    assert UPDATED == plan.judge({"u": "soon", "c": "once"}, known=True, **moments)
    assert CREATED == plan.judge({"u": "soon", "c": "once"}, known=False, **moments)


MOMENTS = st.datetimes(datetime(2018, 8, 19), datetime(2018, 8, 21), timezones=st.just(UTC)).map(  # noqa: DTZ001 — hypothesis wants bounds without a zone
    lambda moment: f"{moment:%dT%H:%M:%S}.{moment.microsecond // 1000:03}"
)


@settings(deadline=None, max_examples=200)
@given(
    st.none() | MOMENTS,
    st.none() | MOMENTS,
    st.booleans(),
    st.sampled_from(list(product([True, False], repeat=2))),
)
def test_laws_of_the_table(updated, created, known, flags):
    """What is known is never created again; without filters, what is known is always told; a filter only drops."""
    by_updated, by_current = flags
    judged = judge(
        updated,
        created,
        known=known,
        filterByUpdatedDate=by_updated,
        filterByCurrentDate=by_current,
    )
    open_handed = judge(updated, created, known=known, filterByUpdatedDate=False)

    assert not (known and judged is CREATED)
    assert not (known and open_handed is not UPDATED)
    assert judged in {NOTHING, open_handed}
    if not known and created is not None and created >= "20T12:00:00.000":
        assert open_handed is CREATED
