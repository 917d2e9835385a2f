"""The query language of QuickBooks Online, as much of it as there is.

    SELECT * | COUNT(*) | names FROM Entity
      [WHERE property operator value AND …]  [ORDERBY property [ASC|DESC], …]  [STARTPOSITION n]  [MAXRESULTS n]

Operators are `= < > <= >= LIKE IN`; there is no OR and no brackets but those of IN.  Texts stand in single quotes,
`\\'` is a quote in one.  Keywords and properties are the same in either case; `ORDER BY` is understood too.
(developer.intuit.com, "Query operations and syntax".)
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from daemon.model import Json

PAGE = 100
LARGEST_PAGE = 1000
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*')|(?P<operator>>=|<=|[=<>(),*])|(?P<word>[^\s'=<>(),*]+))"
)
_OPERATORS = frozenset({"=", "<", ">", "<=", ">=", "LIKE", "IN"})
_END = object()
Key = tuple[int, Any]


class QueryError(ValueError):
    """The statement is none, or asks for what the language cannot."""


@dataclass(frozen=True, slots=True)
class Term:
    """One condition; *values* has one value unless the operator is IN."""

    name: str
    operator: str
    values: tuple[str, ...]

    def holds(self, record: Json) -> bool:
        """Whether *record* fulfils it."""
        found = value_at(record, self.name)
        if found is None:
            return False
        if self.operator == "LIKE":
            pattern = "".join(".*" if c == "%" else re.escape(c) for c in self.values[0])
            return re.fullmatch(pattern, str(found), re.IGNORECASE | re.DOTALL) is not None
        return any(self._compares(found, value) for value in self.values)

    def _compares(self, found: Any, value: str) -> bool:
        here, there = key(found), key(value)
        if here[0] != there[0]:
            here, there = (9, str(found)), (9, value)
        tests: dict[str, Callable[[], bool]] = {
            "=": lambda: here == there,
            "IN": lambda: here == there,
            "<": lambda: here < there,
            ">": lambda: here > there,
            "<=": lambda: here <= there,
            ">=": lambda: here >= there,
        }
        return tests[self.operator]()


@dataclass(frozen=True, slots=True)
class Select:
    """A statement; *names* is empty for `*`."""

    entity: str
    names: tuple[str, ...] = ()
    count: bool = False
    terms: tuple[Term, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()
    start: int = 1
    most: int = PAGE

    def asks_for(self, name: str) -> bool:
        """Whether a condition speaks of the property *name*."""
        return any(term.name.lower() == name.lower() for term in self.terms)

    def pick(self, records: list[Json]) -> list[Json]:
        """Those of *records* that fulfil all conditions, in order; without the paging."""
        found = [one for one in records if all(term.holds(one) for term in self.terms)]
        for name, descending in reversed(self.order):
            found.sort(key=lambda one: key(value_at(one, name)), reverse=descending)
        return found

    def page(self, records: list[Json]) -> list[Json]:
        """The part of *records* that STARTPOSITION and MAXRESULTS ask for."""
        return records[self.start - 1 : self.start - 1 + self.most]


def value_at(record: Json, path: str) -> Any:
    """The value at a dotted *path*, whatever the case of its names; None where there is none."""
    value: Any = record
    for name in path.lower().split("."):
        if not isinstance(value, dict):
            return None
        value = next((one for key, one in value.items() if key.lower() == name), None)
    return value


def key(value: Any) -> Key:
    """What *value* is compared by: moments as moments, numbers as numbers, and texts without their case."""
    text = str(value).strip()
    if value is None:
        return 0, ""
    if text.lower() in ("true", "false"):
        return 1, text.lower() == "true"
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return 2, float(text)
    if re.match(r"\d{4}-\d\d-\d\d(T|$)", text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return 4, text.lower()
        return 3, moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return 4, text.lower()


def parse(text: str) -> Select:
    """The statement *text*; raises `QueryError`."""
    return _Reader(text).select()


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text.strip().rstrip(";")))
        self._at = 0

    def select(self) -> Select:
        self._word("SELECT")
        count, names = self._what()
        self._word("FROM")
        entity = self._name()
        terms: list[Term] = []
        if self._taken("WHERE"):
            terms.append(self._term())
            while self._taken("AND"):
                terms.append(self._term())
        order: list[tuple[str, bool]] = []
        if self._taken("ORDERBY") or (self._taken("ORDER") and self._word("BY")):
            order.append(self._by())
            while self._taken(","):
                order.append(self._by())
        start = self._number() if self._taken("STARTPOSITION") else 1
        most = self._number() if self._taken("MAXRESULTS") else PAGE
        if self._at < len(self._tokens):
            raise QueryError(
                f'Encountered "{self._tokens[self._at]}" where the statement should end'
            )
        if not 1 <= most <= LARGEST_PAGE or start < 1:
            raise QueryError(f"MAXRESULTS is 1 to {LARGEST_PAGE}, STARTPOSITION counts from 1")
        return Select(entity, names, count, tuple(terms), tuple(order), start, most)

    def _what(self) -> tuple[bool, tuple[str, ...]]:
        if self._taken("COUNT"):
            for sign in "(*)":
                self._word(sign)
            return True, ()
        names: list[str] = []
        while True:
            names.append("*" if self._taken("*") else self._name())
            if not self._taken(","):
                break
        return False, () if "*" in names else tuple(names)

    def _term(self) -> Term:
        name, operator = self._name(), str(self._next()).upper()
        if operator not in _OPERATORS:
            raise QueryError(f'Encountered "{operator}" where an operator should be')
        if operator != "IN":
            return Term(name, operator, (self._value(),))
        self._word("(")
        values = [self._value()]
        while self._taken(","):
            values.append(self._value())
        self._word(")")
        return Term(name, operator, tuple(values))

    def _by(self) -> tuple[str, bool]:
        name = self._name()
        descending = self._taken("DESC")
        if not descending:
            self._taken("ASC")
        return name, descending

    def _next(self) -> object:
        token = self._tokens[self._at] if self._at < len(self._tokens) else _END
        self._at += 1
        if token is _END:
            raise QueryError('Encountered "<EOF>"')
        return token

    def _taken(self, word: str) -> bool:
        here = self._at < len(self._tokens) and self._tokens[self._at].upper() == word
        self._at += here
        return here

    def _word(self, word: str) -> bool:
        found = str(self._next())
        if found.upper() != word:
            raise QueryError(f'Encountered "{found}" where {word} should be')
        return True

    def _name(self) -> str:
        found = str(self._next())
        if not re.fullmatch(r"[A-Za-z_][\w.]*", found):
            raise QueryError(f'Encountered "{found}" where a name should be')
        return found

    def _value(self) -> str:
        found = str(self._next())
        if found.startswith("'"):
            return re.sub(r"\\(.)", r"\1", found[1:-1])
        if not re.fullmatch(r"true|false|-?\d+(\.\d+)?", found, re.IGNORECASE):
            raise QueryError(f'Encountered "{found}" where a value should be')
        return found

    def _number(self) -> int:
        found = str(self._next())
        if not found.isdecimal():
            raise QueryError(f'Encountered "{found}" where a number should be')
        return int(found)


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise QueryError(f"Lexical error at column {at + 1}")
        yield found[0].strip()
        at = found.end()
