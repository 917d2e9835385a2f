"""Java date patterns and zones: the documented examples, what providers really send, and the round trip."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.dates import DatePattern, find_zone, iso_seconds, java_date

MOMENT = datetime(2018, 8, 20, 15, 29, 6, 123456, tzinfo=UTC)
JULY_4 = datetime(2001, 7, 4, 12, 8, 56, 235000, tzinfo=ZoneInfo("America/Los_Angeles"))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("yyyy.MM.dd G 'at' HH:mm:ss z", "2001.07.04 AD at 12:08:56 PDT"),
        ("EEE, MMM d, ''yy", "Wed, Jul 4, '01"),
        ("h:mm a", "12:08 PM"),
        ("K:mm a, z", "0:08 PM, PDT"),
        ("yyyyy.MMMMM.dd GGG hh:mm aaa", "02001.July.04 AD 12:08 PM"),
        ("EEE, d MMM yyyy HH:mm:ss Z", "Wed, 4 Jul 2001 12:08:56 -0700"),
        ("yyMMddHHmmssZ", "010704120856-0700"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSZ", "2001-07-04T12:08:56.235-0700"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2001-07-04T12:08:56.235-07:00"),
    ],
)
def test_writes_what_the_java_documentation_shows(pattern, expected):
    """The examples of the SimpleDateFormat documentation come out as printed there."""
    assert expected == DatePattern.compile(pattern).format(JULY_4, ZoneInfo("America/Los_Angeles"))


@pytest.mark.parametrize(
    ("pattern", "zone", "expected"),
    [
        ("yyyy-MM-dd'T'HH:mm:ssXXX", "GMT", "2018-08-20T15:29:06Z"),
        ("yyyy-MM-dd'T'HH:mm:ssXXX", "CST", "2018-08-20T10:29:06-05:00"),
        ("yyyy-MM-dd'T'HH:mm:ssX", "+0530", "2018-08-20T20:59:06+05"),
        ("yyyy-MM-dd'T'HH:mm:ssXX", "-6:00", "2018-08-20T09:29:06-0600"),
        ("yyyy-MM-dd'T'HH:mm:ssxxx", "UTC", "2018-08-20T15:29:06+00:00"),
        ("yyyy-MM-dd'T'HH:mmz", "GMT", "2018-08-20T15:29GMT"),
        ("HH:mm z", "-6:00", "09:29 GMT-06:00"),
        ("HH:mm z", "America/Sao_Paulo", "12:29 GMT-03:00"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX", "UTC", "2018-08-20T15:29:06.123456Z"),
        ("ss.S", "UTC", "06.1"),
        ("MM/dd/yyy'T'HH:mm", "UTC", "08/20/2018T15:29"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'", "America/Denver", "2018-08-20T09:29:06.123Z"),
        ("yyyy-MM-dd HH:mm:ss -0800", "PST", "2018-08-20 07:29:06 -0800"),
        ("yyyy-MM-ddTHH:mm", "UTC", "2018-08-20T15:29"),
        ("D kk", "UTC", "232 15"),
        ("milliseconds", "PST", "1534778946123"),
        ("seconds", "PST", "1534778946"),
    ],
)
def test_writes_every_form_of_the_real_configurations(pattern, zone, expected):
    """Each letter, offset, zone and special word is written in the zone that was named."""
    assert expected == DatePattern.compile(pattern).format(MOMENT, find_zone(zone))


ISO_MILLIS = "yyyy-MM-dd'T'HH:mm:ss.SSSZ"


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (ISO_MILLIS, "2018-08-20T15:29:06.123+0000", "2018-08-20T15:29:06.123000+00:00"),
        (ISO_MILLIS, "2018-08-20T15:29:06.123+00:00", "2018-08-20T15:29:06.123000+00:00"),
        (ISO_MILLIS, "2018-08-20T15:29:06.123Z", "2018-08-20T15:29:06.123000+00:00"),
        (ISO_MILLIS, "2018-08-20T15:29:06.123 PDT", "2018-08-20T22:29:06.123000+00:00"),
        (ISO_MILLIS, "2018-08-20T15:29:06Z", "2018-08-20T15:29:06+00:00"),
        (ISO_MILLIS, "2018-08-20T15:29:06.1234567+02", "2018-08-20T13:29:06.123456+00:00"),
        (ISO_MILLIS, "2018-08-20 15:29:06", "2018-08-20T15:29:06+00:00"),
        (ISO_MILLIS, "2018-08-20T15:29+02:00", "2018-08-20T13:29:00+00:00"),
        (ISO_MILLIS, "2018-08-20", "2018-08-20T00:00:00+00:00"),
        (ISO_MILLIS, "20180820", "2018-08-20T00:00:00+00:00"),
        (ISO_MILLIS, "Mon, 20 Aug 2018 15:29:06 +0200", "2018-08-20T13:29:06+00:00"),
        (ISO_MILLIS, "20 Aug 2018 15:29:06 EST", "2018-08-20T20:29:06+00:00"),
        (ISO_MILLIS, "Mon Aug 20 15:30:07 UTC 2018", "2018-08-20T15:30:07+00:00"),
        (ISO_MILLIS, "Wed Aug 20 15:30:07 +0000 2018", "2018-08-20T15:30:07+00:00"),
        ("yyyy-MM-dd'T'HH:mm:ss'Z'", "2018-08-20T15:29:06Z", "2018-08-20T15:29:06+00:00"),
        ("yyyy-MM-dd'T'HH:mm:ss'Z'", "2018-08-20T15:29:06.5Z", "2018-08-20T15:29:06.500000+00:00"),
        ("yyyy-MM-dd'T'HH:mm:ss'Z'", "2018-08-20T15:29:06+02:00", "2018-08-20T13:29:06+00:00"),
        ("yyyy-MM-dd'T'HH:mm:ssSSSSSSXXX", "2018-08-20T15:29:06.123456-04:00", "2018-08-20T19:29:06.123456+00:00"),
        ("EEE, dd MMM yyyy HH:mm:ss Z", "mon, 20 aug 2018 15:29:06 GMT", "2018-08-20T15:29:06+00:00"),
        ("EEE, dd MMM yyyy HH:mm:ss Z", "2018-08-20T15:29:06Z", "2018-08-20T15:29:06+00:00"),
        ("MM/dd/yyyy HH:mm:ss", "8/20/2018 15:29:06", "2018-08-20T15:29:06+00:00"),
        ("yyyyMMddHHmmssSSS", "20180820152906123", "2018-08-20T15:29:06.123000+00:00"),
        ("yyyyMMdd", 20180820, "2018-08-20T00:00:00+00:00"),
        ("dd-MMM-yy h:mm a", "20-Aug-99 12:05 am", "1999-08-20T00:05:00+00:00"),
        ("yyyy-MM-dd kk:mm", "2018-08-20 24:05", "2018-08-20T00:05:00+00:00"),
        ("yyyy-D", "2018-232", "2018-08-20T00:00:00+00:00"),
        ("yyyy-MM-dd HH:mm:ss -0800", "2018-08-20 07:29:06 -0800", "2018-08-20T15:29:06+00:00"),
        ("milliseconds", 1534778974827, "2018-08-20T15:29:34.827000+00:00"),
        ("milliseconds", "1534778974827", "2018-08-20T15:29:34.827000+00:00"),
        ("milliseconds", -1500.5, "1969-12-31T23:59:58.499500+00:00"),
        ("milliseconds", 1534778974, "1970-01-18T18:19:38.974000+00:00"),
        ("milliseconds", "2018-08-20T15:29:06Z", "2018-08-20T15:29:06+00:00"),
        ("seconds", "1534778974", "2018-08-20T15:29:34+00:00"),
    ],
)  # fmt: skip
def test_reads_what_providers_send(pattern, text, expected):
    """A text that the pattern nearly fits, or any complete standard date, is read as the moment it names."""
    assert expected == DatePattern.compile(pattern).parse(text).isoformat()


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (ISO_MILLIS, "0000-00-00 00:00:00"),
        (ISO_MILLIS, "2018-08-20T25:29:06.123Z"),
        (ISO_MILLIS, "2018-08-20T15:29:06.123 QQQ"),
        (ISO_MILLIS, "20 Aug 2018 15:29:06 XYZ"),
        (ISO_MILLIS, "2018-08-20T15:29:06.123+99:99"),
        (ISO_MILLIS, "9999-12-31T23:59:59.999-1000"),
        (ISO_MILLIS, 1534778946123),
        (ISO_MILLIS, "2018"),
        (ISO_MILLIS, "yesterday"),
        (ISO_MILLIS, "9" * 5_000),
        ("MM/dd/yyyy", "8/20/18"),
        ("milliseconds", 10**19),
        ("milliseconds", float("nan")),
        ("milliseconds", float("inf")),
        ("milliseconds", True),
        ("milliseconds", "\uff11\uff15"),
        ("milliseconds", None),
        ("milliseconds", {"a": 1}),
        ("EEE, dd MMM yyyy", "Lun, 20 Ago 2018"),
    ],
)
def test_what_is_no_date_is_a_value_error(pattern, value):
    """Whatever a record holds instead of a date raises ValueError and nothing else."""
    with pytest.raises(ValueError, match=r".") as caught:
        DatePattern.compile(pattern).parse(value)

    assert ValueError is caught.type


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("2018-08-20T15:29:06.123Z", timedelta(milliseconds=1)),
        ("2018-08-20T15:29:06.123456Z", timedelta(microseconds=1)),
        ("2018-08-20T15:29:06Z", timedelta(seconds=1)),
        ("2018-08-20T15:29Z", timedelta(minutes=1)),
        ("2018-08-20", timedelta(days=1)),
    ],
)
def test_a_reading_knows_how_precise_its_text_was(text, precision):
    """A coarser text than the pattern promises is read as the longer time that it may stand for."""
    assert precision == DatePattern.compile(ISO_MILLIS).read(text).precision


def test_a_date_without_an_offset_is_in_the_given_zone():
    """The zone counts where the text has no offset of its own, with daylight saving, and only there."""
    pattern = DatePattern.compile("yyyy-MM-dd HH:mm:ss")
    denver = find_zone("America/Denver")

    assert datetime(2018, 8, 20, 21, 29, 6, tzinfo=UTC) == pattern.parse(
        "2018-08-20 15:29:06", denver
    )
    assert datetime(2018, 1, 20, 22, 29, 6, tzinfo=UTC) == pattern.parse(
        "2018-01-20 15:29:06", denver
    )
    assert datetime(2018, 1, 20, 15, 29, 6, tzinfo=UTC) == pattern.parse(
        "2018-01-20T15:29:06Z", denver
    )
    assert datetime(2018, 8, 20, 6, tzinfo=UTC) == pattern.parse("2018-08-20", denver)


def test_a_literal_z_means_utc_when_read():
    """`'Z'` in a pattern says UTC, whatever zone is configured beside it, and so does its absence in the text."""
    pattern = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ss'Z'")

    for text in ("2018-08-20T15:29:06Z", "2018-08-20T15:29:06"):
        assert datetime(2018, 8, 20, 15, 29, 6, tzinfo=UTC) == pattern.parse(text, find_zone("PST"))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("yyyy-MM-dd'T'HH:mm:ssXXX'", "yyyy-MM-dd'T'HH:mm:ssXXX"),
        ("yyyy-MM-dd'T'HH:mm:ss'", "yyyy-MM-dd'T'HH:mm:ss"),
        ("milliseconds'", "milliseconds"),
    ],
)
def test_a_stray_quote_at_the_end_is_dropped_and_told(given, meant):
    """The slip of three real configurations is mended, and the pattern says so."""
    pattern = DatePattern.compile(given)

    assert meant == pattern.pattern
    assert "was dropped" in pattern.repair
    assert DatePattern.compile(meant).repair == ""


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("10 digit integer Unix time", "the letter 'i' means nothing"),
        ("key", "the letter 'e' means nothing"),
        ("wwww", "the letter 'w' means nothing"),
        ("518862600", "no date pattern"),
        ("", "no date pattern"),
        ("'T'", "no date pattern"),
        ("yyyy 'at HH:mm", "never closed"),
        ("yyyy-yyyy", "the same part twice: y"),
        ("HH:mm z Z", "the same part twice: zone"),
        ("y" * 101, "at most 100 characters"),
    ],
)
def test_a_bad_pattern_is_refused_with_a_remedy(pattern, said):
    """What is no pattern is refused in a sentence that shows it and says what to write."""
    with pytest.raises(ValueError, match=said):
        DatePattern.compile(pattern)


@pytest.mark.parametrize(
    ("name", "winter", "summer"),
    [
        ("", 0, 0),
        ("GMT", 0, 0),
        ("Z", 0, 0),
        ("utc", 0, 0),
        ("EST", -5, -5),
        ("MST", -7, -7),
        ("PST", -8, -7),
        ("CST", -6, -5),
        ("-6:00", -6, -6),
        ("+0530", 5.5, 5.5),
        ("+530", 5.5, 5.5),
        ("GMT+2", 2, 2),
        ("UTC-03:30", -3.5, -3.5),
        ("America/Denver", -7, -6),
        ("Europe/London", 0, 1),
    ],
)
def test_finds_zones_by_abbreviation_offset_and_name(name, winter, summer):
    """A zone has the offsets, in winter and in summer, that Java gives the same text."""
    zone = find_zone(name)

    assert timedelta(hours=winter) == datetime(2018, 1, 15, tzinfo=zone).utcoffset()
    assert timedelta(hours=summer) == datetime(2018, 7, 15, tzinfo=zone).utcoffset()


@pytest.mark.parametrize(
    "name", ["{TimeZone}", "America", "../etc/passwd", "Mars/Olympus", "+99:00", "a\0b", "é" * 300]
)
def test_an_unknown_zone_is_refused_with_a_remedy(name):
    """What is no zone is refused in a sentence that says how zones are written."""
    with pytest.raises(ValueError, match="write an abbreviation"):
        find_zone(name)


def test_an_ambiguous_zone_is_refused():
    """BST is London to a Briton and Dhaka to Java: neither is guessed."""
    with pytest.raises(ValueError, match="Europe/London or Asia/Dhaka"):
        find_zone("BST")


def test_java_date():
    """The outer `createdDate` of a notification is Java's `Date.toString()`, in English and in UTC."""
    moment = datetime(2018, 8, 20, 17, 30, 7, tzinfo=timezone(timedelta(hours=2)))

    assert java_date(moment) == "Mon Aug 20 15:30:07 UTC 2018"
    assert java_date(datetime(2020, 2, 1, 6, 43, 41, tzinfo=UTC)) == "Sat Feb 01 06:43:41 UTC 2020"


def test_iso_seconds():
    """`date` and `pollDate` are cut, not rounded, to the second."""
    assert (
        iso_seconds(datetime(2018, 8, 20, 15, 29, 34, 827000, tzinfo=UTC)) == "2018-08-20T15:29:34Z"
    )


EXACT = [
    "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "EEE, dd MMM yyyy HH:mm:ss.SSSSSS Z",
    "EEEE d MMMM yyyy h:mm:ss.SSSSSS a XX",
    "dd.MM.yyyy kk-mm-ss,SSSSSS xxx",
    "yyyyMMddHHmmssSSSSSSZ",
    "yyyy-DDD'T'K:mm:ss.SSSSSS a XXX",
]


@settings(deadline=None)
@given(
    pattern=st.sampled_from(EXACT),
    moment=st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 — hypothesis wants bounds without a zone
    zone=st.sampled_from(["GMT", "PST", "-6:00", "+0530", "America/Denver", "Asia/Kathmandu"]),
)
def test_what_is_written_is_read_back(pattern, moment, zone):
    """With an offset and microseconds in the pattern, every moment survives writing and reading."""
    compiled = DatePattern.compile(pattern)
    text = compiled.format(moment, find_zone(zone))

    assert moment == compiled.parse(text, find_zone("PST"))


@settings(deadline=None)
@given(
    pattern=st.sampled_from(
        ["yyyy-MM-dd", "yyyy-MM-dd HH:mm", "MM/dd/yyyy HH:mm:ss", "milliseconds", "seconds"]
    ),
    moment=st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 — hypothesis wants bounds without a zone
)
def test_a_reading_covers_the_moment_that_was_written(pattern, moment):
    """However coarse the pattern, the moment lies within the precision of what is read back."""
    compiled = DatePattern.compile(pattern)
    reading = compiled.read(compiled.format(moment))

    assert reading.moment <= moment < reading.moment + reading.precision


@given(
    pattern=st.sampled_from(
        ["yyyy-MM-dd HH:mm:ss", "MM/dd/yyyy hh:mm a", "yyyy-MM-dd'T'HH:mm:ss.SSS"]
    ),
    moment=st.sampled_from(
        [
            datetime(2026, 11, 1, 6, tzinfo=UTC),
            datetime(2026, 10, 25, tzinfo=UTC),
            datetime(2026, 4, 4, 14, tzinfo=UTC),
        ]
    ),
    minutes=st.integers(0, 240),
    zone=st.sampled_from(
        ["America/Los_Angeles", "America/Denver", "Europe/London", "Australia/Lord_Howe"]
    ),
)
def test_a_clock_time_that_comes_twice_may_be_either(pattern, moment, minutes, zone):
    """Where daylight saving ends a reading covers the moment that was written, whichever of the two it was."""
    moment += timedelta(minutes=minutes)
    compiled, where = DatePattern.compile(pattern), ZoneInfo(zone)
    reading = compiled.read(compiled.format(moment, where), where)

    assert reading.moment <= moment < reading.moment + reading.precision


@settings(deadline=None)
@given(
    st.text(alphabet="yMdHhmsSaEzZXx'T -:./0", max_size=30),
    st.text(alphabet="0123456789TZ+-:. aAugMon", max_size=40),
)
def test_compiling_and_reading_raise_nothing_but_value_errors(pattern, text):
    """No pattern and no text bring anything but a result or a ValueError."""
    try:
        DatePattern.compile(pattern).parse(text)
    except ValueError as error:
        said = str(error)
    else:
        said = "a date"
    assert said
