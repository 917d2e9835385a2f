"""Waits between attempts: bounds, the documented policies, and what a header asks for."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backoff import (
    ELEMENTS,
    OPEN_CONNECTORS,
    Exponential,
    Schedule,
    retry_after,
)
from daemon.config import Delivery

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
chances = st.floats(0, 1, exclude_max=True)
jitters = st.floats(0, 1, exclude_max=True)
waits = st.one_of(
    st.integers(1, 30 * 86400).map(float),
    st.integers(1, 86_400_000).map(lambda milliseconds: milliseconds / 1000),
)


@given(st.lists(waits, max_size=20), jitters, chances, st.integers(1, 25))
def test_a_delay_lies_within_its_jitter_and_ends(delays, jitter, chance, attempt):
    """A wait is at most the one in the schedule and at least that less the jitter; then there is none."""
    delay = Schedule(tuple(delays), jitter).delay(attempt, lambda: chance)

    if attempt > len(delays):
        assert delay is None
    else:
        longest = delays[attempt - 1]
        assert longest * (1 - jitter) * 0.999999 <= delay <= longest


@given(st.lists(waits, min_size=1, max_size=20))
def test_a_schedule_reads_what_it_writes(delays):
    """The text of a schedule parses to the same schedule."""
    schedule = Schedule(tuple(delays))

    assert schedule.delays == pytest.approx(Schedule.parse(str(schedule)).delays, rel=1e-9)


def test_a_schedule_is_read_from_text_and_from_a_list():
    """Units are s, m, h and d; a number is seconds; both forms mean the same."""
    assert (5, 30, 120, 600, 3600, 86400) == Schedule.parse("5s, 30s, 2m, 10m, 1h, 24h").delays
    assert (5, 0.5, 1.5, 90, 172800) == Schedule.parse([5, "0.5", "1500ms", "1.5 m", " 2d"]).delays
    assert () == Schedule.parse([]).delays
    assert "5s, 2m, 1h, 1d" == str(Schedule.parse("5, 120, 60m, 24h"))


@pytest.mark.parametrize(
    "source",
    [
        "",
        "5s,",
        "soon",
        "5 weeks",
        "-1s",
        "0",
        "31d",
        "1e3",
        "٣s",
        [0],
        [-1],
        [float("nan")],
        [float("inf")],
        [1] * 101,
    ],
)
def test_what_is_not_a_schedule_is_refused(source):
    """A wait without sense, or too long, or too many of them, raise."""
    with pytest.raises(ValueError, match="wait"):
        Schedule.parse(source)


@pytest.mark.parametrize("jitter", [-0.1, 1, float("nan")])
def test_a_jitter_that_could_make_waits_vanish_is_refused(jitter):
    """Jitter is a share below one."""
    with pytest.raises(ValueError, match="jitter"):
        Schedule((1.0,), jitter)
    with pytest.raises(ValueError, match="jitter"):
        Exponential(1, 2, jitter)


def test_attempts_are_counted_from_one():
    """The number of an attempt that was never made is a bug of the caller."""
    with pytest.raises(ValueError, match="from 1"):
        Schedule((1.0,)).delay(0, lambda: 0)
    with pytest.raises(ValueError, match="from 1"):
        Exponential(1, 2).delay(0, lambda: 0)


def test_the_default_outlasts_a_long_weekend():
    """What `[delivery] retries` is by default starts within seconds and goes on for three to four days."""
    default = Schedule(Delivery().retries)

    assert 3 * 86400 <= default.span <= 4 * 86400
    assert 5 == default.delays[0]


def test_the_documented_retry_policies():
    """The last retry comes 72.8 h (portal) and 9.1 h (SAP) after the first failure, the first after 4 and 8 s."""
    assert 9 == len(ELEMENTS.delays)
    assert 4 == ELEMENTS.delays[0]
    assert 262144 == ELEMENTS.span
    assert 5 == len(OPEN_CONNECTORS.delays)
    assert 8 == OPEN_CONNECTORS.delays[0]
    assert 32768 == OPEN_CONNECTORS.span


@given(st.floats(0.01, 100), st.floats(1, 100), jitters, chances, st.integers(1, 5000))
def test_exponential_stays_within_its_bounds(base, factor, jitter, chance, failures):
    """However many failures, a wait is at most *most* and at least *base*, less the jitter."""
    delay = Exponential(base, base * factor, jitter).delay(failures, lambda: chance)

    assert base * (1 - jitter) * 0.999999 <= delay <= base * factor


def test_exponential_doubles():
    """Each failure doubles the wait until the bound."""
    backoff = Exponential(1, 60, 0)

    assert [1, 2, 4, 8, 16, 32, 60, 60] == [backoff.delay(n, lambda: 0.5) for n in range(1, 9)]


@pytest.mark.parametrize(("base", "most"), [(0, 1), (2, 1), (1, float("inf"))])
def test_exponential_without_bounds_is_refused(base, most):
    """A backoff that would not wait, or not end to grow, raises."""
    with pytest.raises(ValueError, match="base"):
        Exponential(base, most)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("1.5", 1.5),
        ("99999999", 1000),
        ("9" * 5000, 1000),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120),
        ("Sunday, 01-Mar-26 12:02:00 GMT", 120),
        ("Sun Mar  1 12:02:00 2026", 120),
        ("Sun, 01 Mar 2026 12:02:00 -0000", 120),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Fri, 01 Mar 9999 11:00:00 GMT", 1000),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1e3", None),
        ("٣", None),
        ("nan", None),
        ("Sun, 99 Mar 2026 12:02:00 GMT", None),
        ("Sun, 01 Mar 2026 12:02:00 +99999999999", None),
    ],
)
def test_retry_after(value, seconds):
    """Seconds and the three forms of HTTP dates are understood and capped; the rest is as if absent."""
    assert seconds == retry_after({"retry-after": value}, now=NOW, most=1000)


def test_no_retry_after():
    """An answer without the header asks for nothing."""
    assert retry_after({}, now=NOW, most=10) is None


@given(st.text(max_size=60))
def test_retry_after_never_raises(value):
    """Whatever a server writes there, the outcome is None or a number within the cap."""
    seconds = retry_after({"retry-after": value}, now=NOW, most=60)

    assert seconds is None or 0 <= seconds <= 60


@given(st.integers(0, 10**7))
def test_retry_after_as_date_equals_seconds(seconds):
    """A date says the same as the seconds until it."""
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)

    assert seconds == retry_after({"retry-after": date}, now=NOW, most=10**8)
