"""The `where` of a poller url, read tolerantly.

CEQL: terms `attribute operator value` joined by AND and OR (AND binds closer), parentheses, operators
`= != < > <= >= LIKE IN IS NULL`, keywords in either case, texts in single quotes, numbers and dates bare,
names with spaces or dots in backticks or quotes.

Forgiven, because real configurations have it and it has one meaning: a text whose closing quote is missing
at the end, a quote too many at the end of a value, `==`, `<>`, double quotes, a closing parenthesis missing at
the end.  Everything else is refused with the place where it stopped making sense.
"""

import re
from dataclasses import dataclass, replace

from daemon.errors import Invalid
from daemon.model import Condition
from daemon.plans.placeholders import mask

_LONGEST = 8_000  # characters
_DEEPEST = 16  # parentheses in each other
_MOST_ALTERNATIVES = 64  # when parentheses are multiplied out

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^\s=<>!()'\"`,]+")
_OPERATOR = re.compile(
    r">=|<=|!=|<>|==|[=<>]|(?:IS\s+NOT\s+NULL|IS\s+NULL|NOT\s+IN|NOT\s+LIKE|IN|LIKE)(?![\w])",
    re.IGNORECASE,
)
_SAME = {"==": "=", "<>": "!="}
_JOIN = re.compile(r"(AND|OR)(?![\w])", re.IGNORECASE)
_AFTER_VALUE = re.compile(r"\s*(?:$|\)|(?:AND|OR)(?![\w]))", re.IGNORECASE)
_BARE_END = re.compile(r"\s+(?:AND|OR)(?![\w])|\)", re.IGNORECASE)
_LIST = re.compile(r"\(((?:[^()'\"]|'[^']*'|\"[^\"]*\")*)\)")

_Group = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """A `where` that was understood: its terms, and the text with its quotes mended.

    *notes* say in sentences what was mended.
    """

    conditions: tuple[Condition, ...]
    text: str
    notes: tuple[str, ...]


def parse_where(text: str) -> tuple[Condition, ...]:
    """The terms of *text*; placeholders stay in the values as they are written.

    A term with `joined` OR begins a new alternative; all terms up to the next one belong to it, since
    parentheses are multiplied out.  The value of IN is the list as written, without its parentheses.
    Raises `Invalid` (field `where`), and nothing else, for what is no such clause.
    """
    return parse_clause(text).conditions


def parse_clause(text: str) -> Clause:
    """As `parse_where`, with the mended text and what was mended in it."""
    if len(text) > _LONGEST:
        raise Invalid({"where": f"the where clause is longer than {_LONGEST:,} characters"})
    try:
        masked = mask(text)
    except ValueError as error:
        raise Invalid({"where": str(error)}) from None
    try:
        clause = _Reader(text, masked, forgiving=False).clause()
    except Invalid:
        pass  # read again below, and refused with the place where even that stops making sense
    else:
        if not clause.notes:
            return clause
    return _Reader(text, masked, forgiving=True).clause()


class _Reader:
    """Reads the structure off the *masked* text and the values off the *text*, which are equally long.

    A *forgiving* reader takes `''` before an AND or the end for a quote too many; to one that is not it is
    a quote inside the text, as it is in a clause that is written properly: `'rock '' and roll'`.
    """

    def __init__(self, text: str, masked: str, *, forgiving: bool) -> None:
        self.forgiving = forgiving
        self.text = text
        self.masked = masked
        self.at = 0
        self.depth = 0
        self.mends: list[tuple[int, int, str]] = []  # place, characters to drop, text to put there
        self.notes: list[str] = []

    def clause(self) -> Clause:
        self._skip()
        if self.at == len(self.text):
            return Clause((), "", ())
        groups = self._alternatives()
        if self.at < len(self.text):
            raise self._expected("AND or OR")
        conditions = tuple(
            replace(term, joined="OR") if number and not place else term
            for number, group in enumerate(groups)
            for place, term in enumerate(group)
        )
        mended = self.text
        for place, drop, put in sorted(self.mends, reverse=True):
            mended = mended[:place] + put + mended[place + drop :]
        return Clause(conditions, mended.strip(), tuple(self.notes))

    def _alternatives(self) -> list[_Group]:
        groups = self._conjunction()
        while self._joined("OR"):
            groups = groups + self._conjunction()
        return groups

    def _conjunction(self) -> list[_Group]:
        groups = self._factor()
        while self._joined("AND"):
            right = self._factor()
            if len(groups) * len(right) > _MOST_ALTERNATIVES:
                raise Invalid(
                    {
                        "where": f"the where clause has more than {_MOST_ALTERNATIVES} alternatives when its "
                        f"parentheses are multiplied out"
                    }
                )
            groups = [one + other for one in groups for other in right]
        return groups

    def _factor(self) -> list[_Group]:
        self._skip()
        if not self.masked.startswith("(", self.at):
            return [(self._term(),)]
        if self.depth == _DEEPEST:
            raise Invalid({"where": f"more than {_DEEPEST} parentheses stand in each other"})
        self.at += 1
        self.depth += 1
        groups = self._alternatives()
        self.depth -= 1
        if self.at == len(self.text):
            self._mend(self.at, 0, ")", "the parenthesis missing at the end was added")
        elif self.masked[self.at] != ")":
            raise self._expected("AND, OR or a closing parenthesis")
        else:
            self.at += 1
        self._skip()
        return groups

    def _joined(self, word: str) -> bool:
        found = _JOIN.match(self.masked, self.at)
        if found is None or found[1].upper() != word:
            return False
        self.at = found.end()
        return True

    def _term(self) -> Condition:
        attribute = self._attribute()
        self._skip()
        found = _OPERATOR.match(self.masked, self.at)
        if found is None:
            raise self._expected(f"an operator (=, >=, LIKE, IN, IS NULL …) after {attribute!r}")
        self.at = found.end()
        operator = " ".join(found[0].upper().split())
        value = "" if operator.endswith("NULL") else self._value(attribute, operator)
        self._skip()
        return Condition(attribute, _SAME.get(operator, operator), value)

    def _attribute(self) -> str:
        self._skip()
        quote = self.masked[self.at : self.at + 1]
        if quote and quote in "'\"`":
            end = self.masked.find(quote, self.at + 1)
            if end > self.at + 1:
                name = self.text[self.at + 1 : end]
                self.at = end + 1
                return name
        elif (found := _NAME.match(self.masked, self.at)) is not None:
            self.at = found.end()
            return self.text[found.start() : found.end()]
        raise self._expected("the name of an attribute")

    def _value(self, attribute: str, operator: str) -> str:
        self._skip()
        first = self.masked[self.at : self.at + 1]
        if first == "":
            raise Invalid(
                {"where": f"the where clause ends where the value of {attribute!r} should be"}
            )
        if first == "(" and operator.endswith("IN"):
            return self._list()
        return self._quoted(first) if first in "'\"" else self._bare()

    def _quoted(self, quote: str) -> str:
        start = self.at + 1
        value, at = "", start
        while (end := self.masked.find(quote, at)) >= 0:
            value += self.text[at:end]
            if self.masked[end + 1 : end + 2] != quote:
                self.at = end + 1
                return value
            if self.forgiving and _AFTER_VALUE.match(self.masked, end + 2):
                self._mend(
                    end + 1,
                    1,
                    "",
                    f"the quote after {self.text[start:end]!r} closes nothing and was dropped",
                )
                self.at = end + 2
                return value
            value += quote  # doubled inside a text: one quote, as in SQL
            at = end + 2
        self.at = len(self.text)
        value += self.text[at:].rstrip()
        self._mend(self.at, 0, quote, f"the quote missing after {value!r} was added")
        return value

    def _bare(self) -> str:
        start = self.at
        found = _BARE_END.search(self.masked, start)
        while found is not None and found[0] == ")" and not self.depth:
            found = _BARE_END.search(self.masked, found.end())
        self.at = len(self.text) if found is None else found.start()
        value = self.text[start : self.at].rstrip()
        if not value:
            raise self._expected("a value")
        if value.endswith("'") and self.masked[start : self.at].count("'") % 2:
            place = start + len(value) - 1
            value = value[:-1]
            self._mend(place, 1, "", f"the quote after {value!r} closes nothing and was dropped")
        return value

    def _list(self) -> str:
        found = _LIST.match(self.masked, self.at)
        if found is None:
            raise self._expected("a list in parentheses, such as ('one','two')")
        self.at = found.end()
        return self.text[found.start(1) : found.end(1)].strip()

    def _skip(self) -> None:
        found = _SPACE.match(self.masked, self.at)
        self.at = found.end() if found is not None else self.at

    def _mend(self, place: int, drop: int, put: str, note: str) -> None:
        self.mends.append((place, drop, put))
        self.notes.append(note)

    def _expected(self, what: str) -> Invalid:
        rest = self.text[self.at : self.at + 20]
        found = f"but {rest!r} stands there" if rest else "but it ends there"
        return Invalid(
            {"where": f"the where clause needs {what} at character {self.at + 1}, {found}"}
        )
