"""What a plan reads out of a record: its id, its dates, its fingerprint."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.plans import compile_plans, fingerprint
from daemon.plans.fields import FieldPath


def plan(**entry):
    (compiled,) = compile_plans({"event.poller.configuration": {"x": {"url": "/x", **entry}}})
    return compiled


@pytest.mark.parametrize(
    ("path", "record", "value"),
    [
        ("id", {"id": 5}, 5),
        ("user.id", {"user": {"id": 5}}, 5),
        ("user.id", {"user.id": 6, "user": {"id": 5}}, 6),
        ("_info.lastUpdated", {"_info": {"lastUpdated": "x"}}, "x"),
        ("['Modified Time']", {"Modified Time": "x"}, "x"),
        ('a["b.c"].d', {"a": {"b.c": {"d": 1}}}, 1),
        ("@.@id", {"@id": 7}, 7),
        ("@id", {"@id": 7}, 7),
        ("$.items[1].key", {"items": [{"key": 1}, {"key": 2}]}, 2),
        ("items[5].key", {"items": []}, None),
        ("a.b.c", {"a": {"b": 3}}, None),
        ("a.b", {"a": [1]}, None),
        ("a", {}, None),
    ],
)
def test_paths_lead_to_values(path, record, value):
    """Each way in which configurations write a path leads to the value, or to None."""
    assert value == FieldPath.compile(path).find(record)


@pytest.mark.parametrize("path", ["", "a..b", "a[", "a[*]", "$..a", "a[?(@.b)]", "a.*"])
def test_what_is_no_path_is_refused(path):
    """Wildcards, filters and torn paths are refused in a sentence."""
    with pytest.raises(ValueError, match="path to a field"):
        FieldPath.compile(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "a"), (" a ", "a"), (12, "12"), (12.0, "12"), (1.5, "1.5"), ("", None), (None, None), (True, None), ({}, None), ([1], None)],
)  # fmt: skip
def test_a_configured_id_is_text_or_none(value, expected):
    """An id is always text; what can be no id is None, and no other field stands in for it."""
    assert expected == plan(idField="key").object_id({"key": value, "id": "other"})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"key": "k", "id": "i"}, "i"),
        ({"Id": "I"}, "I"),
        ({"ID": 3}, "3"),
        ({"objectId": "o", "key": "k"}, "o"),
        ({"id": None, "uuid": "u"}, "u"),
    ],
)
def test_without_an_id_field_the_conventional_ones_are_tried(record, expected):
    """An empty `idField` finds the id where providers usually put it, in a fixed order."""
    assert expected == plan(idField="").object_id(record)


def test_a_record_without_any_id_is_named_by_its_content():
    """The same content has the same id, in whatever order its keys are; other content has another."""
    named = plan().object_id

    assert named({"a": 1, "b": 2}) == named({"b": 2, "a": 1})
    assert named({"a": 1, "b": 2}) != named({"a": 1, "b": 3})


DATES = {
    "updatedDateField": "u",
    "updatedDateFormat": "yyyy-MM-dd HH:mm:ss",
    "updatedDateTimezone": "PST",
    "createdDateField": "c",
    "createdDateFormat": "milliseconds",
}


def test_dates_are_read_in_their_zone():
    """Dates come out in UTC, each by its own format and zone."""
    reading = plan(datesConfiguration=DATES)
    record = {"u": "2018-08-20 15:29:06", "c": 1534778946123}

    assert datetime(2018, 8, 20, 22, 29, 6, tzinfo=UTC) == reading.updated(record)
    assert datetime(2018, 8, 20, 15, 29, 6, 123000, tzinfo=UTC) == reading.created(record)
    assert reading.dates(record).unreadable == ()


@pytest.mark.parametrize(
    ("record", "unreadable"),
    [
        ({}, ()),
        ({"u": None, "c": ""}, ()),
        ({"u": "yesterday"}, ("u",)),
        ({"u": {"a": 1}, "c": True}, ("u", "c")),
    ],
)
def test_bad_dates_are_none_and_can_be_counted(record, unreadable):
    """A date that is absent is None; one that cannot be read is None too, and its field is named."""
    reading = plan(datesConfiguration=DATES)

    assert (None, None) == (reading.updated(record), reading.created(record))
    assert unreadable == reading.dates(record).unreadable


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def backwards(value):
    """The same JSON with the keys of every object in reverse order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=6))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(record):
    """At any depth, and for integers of any size, the order of keys does not change the 16 bytes."""
    name = fingerprint(record)

    assert len(name) == 16
    assert name == fingerprint(backwards(record))
    assert name != fingerprint({**record, "one more key": 1, "and": record})


def test_a_fingerprint_depends_on_the_order_of_lists():
    """A list is a sequence: its order is content."""
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


@pytest.mark.parametrize("value", [2**70, "\ud800", -(2**64)])
def test_a_fingerprint_of_what_orjson_cannot_write(value):
    """Integers beyond 64 bits and lone surrogates have fingerprints as well."""
    assert fingerprint({"a": value, "b": 1}) == fingerprint({"b": 1, "a": value})
    assert fingerprint({"a": value}) != fingerprint({"a": 1})
