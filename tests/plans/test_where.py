"""The tolerant reader of `where`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.errors import Invalid
from daemon.model import Condition
from daemon.plans import parse_where
from daemon.plans.where import parse_clause


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  ", []),
        ("a=1", ["a = 1"]),
        ("a = 'b c' AND d!='e'", ["a = b c", "AND d != e"]),
        ("a='b' and c like '%d%' and e<=5", ["a = b", "AND c LIKE %d%", "AND e <= 5"]),
        ("a<>'b' and c==4", ["a != b", "AND c = 4"]),
        ("a in ('x','y, z')", ["a IN 'x','y, z'"]),
        ("a NOT IN (1, 2)", ["a NOT IN 1, 2"]),
        ("a is null and b IS  NOT NULL", ["a IS NULL ", "AND b IS NOT NULL "]),
        ("`metaData.lastUpdateTime` > 2015-01-06T09:31:38-07:00", ["metaData.lastUpdateTime > 2015-01-06T09:31:38-07:00"]),
        ("'Modified Time'>'2018'", ["Modified Time > 2018"]),
        ('"Modified Time">"2018"', ["Modified Time > 2018"]),
        ("a>2018-01-01 10:00:00 and b=2", ["a > 2018-01-01 10:00:00", "AND b = 2"]),
        ("name='O''Brien' or name=''", ["name = O'Brien", "OR name = "]),
        ("a='rock '' and roll'", ["a = rock ' and roll"]),
        ("a='b and c' and d='e or f'", ["a = b and c", "AND d = e or f"]),
        ("order=1 and android=2", ["order = 1", "AND android = 2"]),
        ("a='${date:yyyy-MM-dd'T'HH:mm:ss'Z'}' and b=${epoch}", ["a = ${date:yyyy-MM-dd'T'HH:mm:ss'Z'}", "AND b = ${epoch}"]),
        ("a>'${dateTimeZone:{TimeZone}:yyyy' and 'MM}'", ["a > ${dateTimeZone:{TimeZone}:yyyy' and 'MM}"]),
        ("a=f(x) and b=2", ["a = f(x)", "AND b = 2"]),
    ],
)  # fmt: skip
def test_reads_the_documented_language(text, terms):
    """Each operator, quoting and keyword, in either case, is read as its terms in order."""
    assert terms == [shown(term, first=not place) for place, term in enumerate(parse_where(text))]


def shown(term, *, first):
    return f"{'' if first else term.joined + ' '}{term.attribute} {term.operator} {term.value}"


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        ("a=1 or b=2 and c=3", ["a", "bc"]),
        ("(a=1 or b=2) and c=3", ["ac", "bc"]),
        ("a=1 and (b=2 or (c=3 and (d=4 or e=5)))", ["ab", "acd", "ace"]),
        ("((a=1))", ["a"]),
        ("(a=1) or (b=2)", ["a", "b"]),
        ("(a=1 and b=2", ["ab"]),
    ],
)
def test_parentheses_are_multiplied_out(text, alternatives):
    """AND binds closer than OR, and what parentheses mean is kept in a flat list of alternatives."""
    groups = []
    for term in parse_where(text):
        if not groups or term.joined == "OR":
            groups.append("")
        groups[-1] += term.attribute

    assert alternatives == groups


@pytest.mark.parametrize(
    ("text", "mended", "values"),
    [
        ("a='b' and attributes='created_at,updated_at", "a='b' and attributes='created_at,updated_at'", ["b", "created_at,updated_at"]),
        ("updated_at>='2018''", "updated_at>='2018'", ["2018"]),
        ("a='1'' and b='2'", "a='1' and b='2'", ["1", "2"]),
        ("a=5'", "a=5", ["5"]),
        ("(a='1", "(a='1')", ["1"]),
    ],
)  # fmt: skip
def test_slips_of_the_quote_are_mended_and_told(text, mended, values):
    """The unbalanced quotes of real configurations are forgiven; the text to pass on is balanced."""
    clause = parse_clause(text)

    assert mended == clause.text
    assert values == [term.value for term in clause.conditions]
    assert clause.notes
    assert parse_where(clause.text) == clause.conditions
    assert not parse_clause(clause.text).notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("foo", "needs an operator (=, >=, LIKE, IN, IS NULL …) after 'foo' at character 4, but it ends there"),
        ("Modified Time>5", "after 'Modified' at character 10, but 'Time>5' stands there"),
        ("a=1 and", "needs the name of an attribute at character 8, but it ends there"),
        ("=5", "needs the name of an attribute at character 1"),
        ("a=", "ends where the value of 'a' should be"),
        ("a='b' c='d'", "needs AND or OR at character 7, but \"c='d'\" stands there"),
        ("a in (1", "needs a list in parentheses"),
        ("(a='1' b", "needs AND, OR or a closing parenthesis at character 8"),
        ("(" * 17 + "a=1", "more than 16 parentheses"),
        (" and ".join(["(a=1 or b=2)"] * 7), "more than 64 alternatives"),
        ("a" * 8_001, "longer than 8,000 characters"),
        ("a=${date", "no closing brace"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_place(text, said):
    """A clause that is no clause is refused, with the character where it stopped being one."""
    with pytest.raises(Invalid) as caught:
        parse_where(text)

    assert said in caught.value.problems["where"]


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,8}", fullmatch=True).filter(
    lambda name: name.upper() not in {"AND", "OR", "NOT", "IN", "IS", "LIKE", "NULL"}
)
VALUES = st.text(alphabet="abc XYZ0123456789-:'()=<>.,&%", max_size=12)
TERMS = st.builds(
    Condition,
    NAMES,
    st.sampled_from(["=", "!=", "<", ">", "<=", ">=", "LIKE"]),
    VALUES,
    st.sampled_from(["AND", "OR"]),
)


@settings(deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=5), st.booleans())
def test_what_is_written_properly_is_read_back(terms, lower):
    """Any terms, written with quotes doubled inside their values, are read as the same terms."""
    text = ""
    for place, term in enumerate(terms):
        word = f" {term.joined.lower() if lower else term.joined} " if place else ""
        quoted = term.value.replace("'", "''")
        text += f"{word}{term.attribute} {term.operator} '{quoted}'"
    expected = [(term.attribute, term.operator, term.value) for term in terms]
    clause = parse_clause(text)

    assert expected == [(term.attribute, term.operator, term.value) for term in clause.conditions]
    assert ["AND", *(term.joined for term in terms[1:])] == [
        term.joined for term in clause.conditions
    ]
    assert (text, ()) == (clause.text, clause.notes)


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(["a", "'", '"', "`", "=", ">=", " and ", " OR ", "(", ")", "${", "}", "in", " like ", " is null", ",", "%20", "\\", " "]),
        max_size=25,
    ).map("".join)
)  # fmt: skip
def test_reading_raises_nothing_but_invalid(text):
    """Whatever the text, it is read or refused as a `where`."""
    try:
        clause = parse_clause(text)
    except Invalid as error:
        refused = error.problems
    else:
        refused = {"where": "accepted"}
        assert len(clause.text) <= len(text) + 20
    assert list(refused) == ["where"]
