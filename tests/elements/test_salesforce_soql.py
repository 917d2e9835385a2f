"""SOQL as it is written, read back by the simulator's strict parser: a value never becomes anything else."""

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.elements.salesforce import soql
from daemon.elements.simulators.salesforce.org import OBJECTS
from daemon.elements.simulators.salesforce.query import QueryError, Selection, select
from daemon.model import Condition

FIELDS = {name: fields for name, (_, fields) in OBJECTS.items()}
TYPES = {name.lower(): kind for name, kind in FIELDS["Contact"].items()}

nasty = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.text("'\\\"() =%_;-nORd1", max_size=20),
)


def parsed(where: str) -> Selection:
    """The query that *where* makes, as a strict reader understands it."""
    return select(soql.select(["Id"], "Contact", where=[where]), FIELDS)


@given(value=nasty, other=nasty)
def test_a_text_stays_a_text(value: str, other: str):
    """Whatever a text holds, the condition finds the record that has it and no other."""
    selection = parsed(soql.conditions([Condition("LastName", "=", value)], TYPES))

    assert selection.matches({"LastName": value})
    assert selection.matches({"LastName": other}) == (other.lower() == value.lower())


@given(values=st.lists(nasty, min_size=1, max_size=4), other=nasty)
def test_a_list_stays_a_list(values: list[str], other: str):
    """IN holds the values that it was given, however they are quoted."""
    written = ",".join("'" + one.replace("'", "''") + "'" for one in values)
    selection = parsed(soql.conditions([Condition("LastName", "IN", written)], TYPES))

    assert all(selection.matches({"LastName": one}) for one in values)
    assert selection.matches({"LastName": other}) == (
        other.lower() in {one.lower() for one in values}
    )


@given(
    value=st.one_of(nasty, st.sampled_from(["2026-11-20", "2026-11-20T10:00:00Z", "-5.5", "TRUE", "null", "TODAY"])),
    field=st.sampled_from(sorted(FIELDS["Contact"])),
    operator=st.sampled_from(["=", "!=", "<", ">=", "LIKE", "IN", "IS NULL", "NOT IN", "NOT LIKE", "IS NOT NULL"]),
    known=st.booleans(),
)  # fmt: skip
def test_a_value_is_right_or_refused(value: str, field: str, operator: str, known: bool):  # noqa: FBT001 — drawn by name
    """For every type a value is one that Salesforce can read, or it is refused with a sentence; it never breaks out."""
    try:
        where = soql.conditions([Condition(field, operator, value)], TYPES if known else {})
    except ValueError:
        return
    outside = re.sub(r"'(?:[^'\\]|\\.)*'", "", where)
    assert not re.search(r"\b(and|or|select|from|limit)\b|[;-]{2}|'", outside, re.IGNORECASE)
    if value == "TODAY":
        return  # the simulator has no relative dates
    with contextlib.suppress(QueryError):
        parsed(where)
        return
    with pytest.raises(QueryError) as caught:
        parsed(where)
    assert "INVALID_FIELD" == caught.value.code, "a value of the wrong type, but one value"


@given(
    groups=st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123")), min_size=1, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_alternatives_mean_what_they_say(groups: list[list[tuple[str, str]]]):
    """AND binds closer than OR, for a reader who refuses to see both side by side."""
    terms = [
        Condition("LastName" if place else "Rating__c", "=", pair[0] if place else pair[1],
                  "OR" if number and not place and not at else "AND")
        for number, group in enumerate(groups)
        for at, pair in enumerate(group)
        for place in (False, True)
    ]  # fmt: skip
    selection = parsed(soql.conditions(terms, TYPES))
    for name in "abc":
        for rating in "123":
            row: dict[str, Any] = {"LastName": name, "Rating__c": float(rating)}
            want = any(all(pair == (name, rating) for pair in group) for group in groups)
            assert want == selection.matches(row)


@pytest.mark.parametrize(
    ("value", "kind", "literal"),
    [
        ("2026-11-20T10:00:00Z", "datetime", "2026-11-20T10:00:00Z"),
        ("2026-11-20T10:00:00.999+0100", "datetime", "2026-11-20T09:00:00Z"),
        ("2026-11-20", "datetime", "2026-11-20T00:00:00Z"),
        ("1795168800", "datetime", "2026-11-20T10:00:00Z"),
        ("1795168800000", "datetime", "2026-11-20T10:00:00Z"),
        ("LAST_N_DAYS:3", "datetime", "LAST_N_DAYS:3"),
        ("2026-11-20T10:00:00Z", "date", "2026-11-20"),
        ("TRUE", "boolean", "true"),
        ("-1.50", "currency", "-1.50"),
        ("null", "int", "null"),
        ("null", "string", "'null'"),
        ("a'b\\c\n", "string", "'a\\'b\\\\c\\n'"),
        ("2026-11-20T10:00:00Z", None, "2026-11-20T10:00:00Z"),
        ("Ann", None, "'Ann'"),
    ],
)
def test_literals(value: str, kind: str | None, literal: str):
    """Dates, numbers and booleans stand bare, texts in quotes; what a field's type is decides."""
    assert literal == soql.literal(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("TODAY OR Id != null", "datetime"),
        ("2026-13-45", "datetime"),
        ("tomorrow", "date"),
        ("2026-02-30", "date"),
        ("yes", "boolean"),
        ("1e9", "int"),
        ("1 OR 1=1", "double"),
        ("x", "base64"),
        ("a\0b", "string"),
    ],
)
def test_what_is_no_value_of_its_type_is_refused(value: str, kind: str):
    """A value that its field's type cannot hold never reaches Salesforce."""
    with pytest.raises(ValueError, match=r"should|cannot"):
        soql.literal(value, kind)


@pytest.mark.parametrize("name", ["Contact", "Invoice__c", "vendor__Invoice__c", "Product2"])
def test_names_of_objects(name: str):
    """Standard, custom and packaged objects have names of letters, digits and underscores."""
    assert soql.is_name(name)


@pytest.mark.parametrize(
    "name", ["", "a b", "a;b", "1a", "_a", "a-b", "a'b", "Kontäkt", "a" * 81, "a\n"]
)
def test_what_is_no_name(name: str):
    """Nothing else gets into the place of a name."""
    assert not soql.is_name(name)
    with pytest.raises(ValueError, match="name of a field"):
        soql.field(name)
