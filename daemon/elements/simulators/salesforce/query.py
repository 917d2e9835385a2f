"""As much of SOQL as a simulated Salesforce answers, as strict as the real one where mistakes are made.

    SELECT fields FROM object [WHERE …] [ORDER BY …] [LIMIT n] [OFFSET n]

Fields are names, `FIELDS(STANDARD)`, or `FIELDS(ALL)` with a LIMIT of 200 at most.  AND and OR may not be mixed
without parentheses.  A value has to be written as its field's type wants it: texts in quotes, dates, numbers and
booleans without.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from daemon.elements.simulators.ledger import moment

Fields = Mapping[str, str]
"""The fields of an object and their types, as `describe` gives them."""
Row = Mapping[str, Any]
Test = Callable[[Row], bool]

MOST_OF_ALL = 200  # the LIMIT that FIELDS(ALL) needs
MOST_PASSED = 2000  # the OFFSET that is allowed
QUOTED = frozenset({"string", "id", "reference", "picklist", "textarea", "phone", "email", "url"})
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*')|(?P<date>\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))?)"
    r"|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z][\w.]*)|(?P<sign>>=|<=|!=|[=<>(),]))"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda have, want: bool(have == want),
    "!=": lambda have, want: bool(have != want),
    "<": lambda have, want: bool(have < want),
    "<=": lambda have, want: bool(have <= want),
    ">": lambda have, want: bool(have > want),
    ">=": lambda have, want: bool(have >= want),
}


class QueryError(Exception):
    """A query that Salesforce would not answer; *code* is its `errorCode`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Selection:
    """A query that was understood.  *fields* None: a bare `COUNT()`."""

    fields: tuple[str, ...] | None
    kind: str
    matches: Test
    order: tuple[tuple[str, bool], ...]  # field, whether descending
    limit: int | None
    offset: int = 0

    def rows(self, records: Iterator[Row], types: Fields) -> list[Row]:
        """The records that it asks for, whole and in order."""
        found = [one for one in records if self.matches(one)]
        for field, descending in reversed(self.order):
            found.sort(key=lambda one: _sorting(one.get(field), types[field]), reverse=descending)
        found = found[self.offset :]
        return found if self.limit is None else found[: self.limit]


def select(text: str, objects: Mapping[str, Fields]) -> Selection:
    """The query *text* about one of *objects*; raises `QueryError`."""
    return _Reader(text, objects).selection()


class _Reader:
    def __init__(self, text: str, objects: Mapping[str, Fields]) -> None:
        self._objects = {name.lower(): name for name in objects}
        self._types = objects
        self._tokens = list(_tokens(text))
        self._at = 0
        self._fields: dict[str, str] = {}
        self._kind = ""

    def selection(self) -> Selection:
        self._word("select")
        asked = [self._column()]
        while self._is(","):
            asked.append(self._column())
        self._word("from")
        name = self._name()
        if name.lower() not in self._objects:
            raise QueryError("INVALID_TYPE", f"sObject type '{name}' is not supported.")
        self._kind = self._objects[name.lower()]
        self._fields = {field.lower(): field for field in self._types[self._kind]}
        matches = self._either() if self._word("where", needed=False) else lambda row: True
        order = tuple(self._order())
        limit = int(self._next("number")) if self._word("limit", needed=False) else None
        offset = int(self._next("number")) if self._word("offset", needed=False) else 0
        if self._at < len(self._tokens):
            raise self._unexpected()
        if offset > MOST_PASSED:
            raise QueryError("NUMBER_OUTSIDE_VALID_RANGE", "Maximum SOQL offset allowed is 2000")
        columns = self._columns(asked, limit)
        return Selection(columns, self._kind, matches, order, limit, offset)

    def _column(self) -> str:
        name = self._name()
        if self._is("("):
            inner = "" if self._peek() == ")" else self._name()
            self._sign(")")
            return f"{name}({inner})".upper()
        return name

    def _columns(self, asked: list[str], limit: int | None) -> tuple[str, ...] | None:
        if asked == ["COUNT()"]:
            return None
        fields: list[str] = []
        for one in asked:
            if one not in ("FIELDS(ALL)", "FIELDS(STANDARD)"):
                fields.append(self._field(one))
                continue
            if one == "FIELDS(ALL)" and (limit is None or limit > MOST_OF_ALL):
                raise QueryError(
                    "MALFORMED_QUERY",
                    "The SOQL FIELDS function must have a LIMIT of at most 200",
                )
            fields += [
                name
                for name in self._types[self._kind]
                if one == "FIELDS(ALL)" or not name.endswith("__c")
            ]
        double = next((one for one in fields if fields.count(one) > 1), None)
        if double is not None:
            raise QueryError("INVALID_FIELD", f"duplicate field selected: {double}")
        return tuple(fields)

    def _either(self) -> Test:
        tests, join = [self._term()], ""
        while (word := self._peek().lower()) in ("and", "or"):
            if join and word != join:
                raise self._unexpected()
            join = word
            self._at += 1
            tests.append(self._term())
        if join == "or":
            return lambda row: any(test(row) for test in tests)
        return lambda row: all(test(row) for test in tests)

    def _term(self) -> Test:
        if self._word("not", needed=False):
            inner = self._term()
            return lambda row: not inner(row)
        if self._is("("):
            inner = self._either()
            self._sign(")")
            return inner
        field = self._field(self._name())
        kind = self._types[self._kind][field]
        if self._word("not", needed=False):
            self._word("in")
            values = self._values(field, kind)
            return lambda row: _comparable(row.get(field), kind) not in values
        if self._word("in", needed=False):
            values = self._values(field, kind)
            return lambda row: _comparable(row.get(field), kind) in values
        if self._word("like", needed=False):
            pattern = _like(str(self._value(field, kind)))
            return lambda row: pattern.fullmatch(str(row.get(field) or "")) is not None
        sign = self._next("sign")
        if sign not in _SIGNS:
            raise self._unexpected()
        want, compare = self._value(field, kind), _SIGNS[sign]
        if want is None and sign not in ("=", "!="):
            raise QueryError("INVALID_FIELD", f"{field} cannot be compared with null by {sign}")

        def test(row: Row) -> bool:
            have = _comparable(row.get(field), kind)
            if have is None or want is None:
                return compare(have, want) if sign in ("=", "!=") else False
            return compare(have, want)

        return test

    def _values(self, field: str, kind: str) -> list[Any]:
        self._sign("(")
        values = [self._value(field, kind)]
        while self._is(","):
            values.append(self._value(field, kind))
        self._sign(")")
        return values

    def _value(self, field: str, kind: str) -> Any:
        if self._at >= len(self._tokens):
            raise self._unexpected()
        shape, text = self._tokens[self._at]
        self._at += 1
        if shape == "name" and text.lower() == "null":
            return None
        fits = {
            "text": kind in QUOTED,
            "number": kind in ("int", "double", "currency", "percent"),
            "date": kind == ("datetime" if "T" in text else "date"),
            "name": kind == "boolean" and text.lower() in ("true", "false"),
        }
        if not fits.get(shape, False):
            quotes = "should be" if kind in QUOTED else "should not be"
            raise QueryError(
                "INVALID_FIELD",
                f"value of filter criterion for field '{field}' must be of type {kind} and {quotes} enclosed in quotes",
            )
        match shape:
            case "text":
                plain = re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[1]), text[1:-1])
                return _comparable(plain, kind)
            case "number":
                return float(text)
            case "name":
                return text.lower() == "true"
            case _:
                return _comparable(text, kind)

    def _order(self) -> Iterator[tuple[str, bool]]:
        if not self._word("order", needed=False):
            return
        self._word("by")
        while True:
            field = self._field(self._name())
            descending = self._word("desc", needed=False)
            if not descending:
                self._word("asc", needed=False)
            yield field, descending
            if not self._is(","):
                return

    def _field(self, name: str) -> str:
        found = self._fields.get(name.lower())
        if found is None:
            message = f"No such column '{name}' on entity '{self._kind}'."
            raise QueryError("INVALID_FIELD", message)
        return found

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self, shape: str) -> str:
        if self._at >= len(self._tokens) or self._tokens[self._at][0] != shape:
            raise self._unexpected()
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _name(self) -> str:
        return self._next("name")

    def _word(self, word: str, *, needed: bool = True) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at][0] == "name"
        if found and self._peek().lower() == word:
            self._at += 1
            return True
        if needed:
            raise self._unexpected()
        return False

    def _is(self, sign: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign):
            self._at += 1
            return True
        return False

    def _sign(self, sign: str) -> None:
        if not self._is(sign):
            raise self._unexpected()

    def _unexpected(self) -> QueryError:
        return QueryError("MALFORMED_QUERY", f"unexpected token: '{self._peek() or '<EOF>'}'")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at, end)
        if found is None or found.lastgroup is None:
            raise QueryError("MALFORMED_QUERY", f"unexpected token: '{text[at : at + 20].strip()}'")
        at = found.end()
        yield found.lastgroup, found[found.lastgroup]


def _comparable(value: Any, kind: str) -> Any:
    """*value* as values of its type are compared: texts without case, ids with."""
    if value is None:
        return None
    match kind:
        case "datetime":
            return moment(value).astimezone(UTC)
        case "date":
            return date.fromisoformat(value)
        case "int" | "double" | "currency" | "percent":
            return float(value)
        case "id" | "reference" | "boolean":
            return value
        case _:
            return str(value).lower()


def _sorting(value: Any, kind: str) -> tuple[bool, Any]:
    """Where *value* goes in an order: what is null comes first."""
    found = _comparable(value, kind)
    return (found is not None, found if found is not None else 0)


def _like(text: str) -> re.Pattern[str]:
    wild = {"%": ".*", "_": "."}
    return re.compile(
        "".join(wild.get(one, re.escape(one)) for one in text), re.IGNORECASE | re.DOTALL
    )


def stamped(when: datetime) -> str:
    """*when* as Salesforce writes it: whole seconds, a zone without a colon."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000+0000"
