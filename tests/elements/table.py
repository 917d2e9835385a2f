"""The table of docs/elements.md: which test proves what of which system.

A test says so by `@pytest.mark.element("<key>", "<column>")`, at itself, at its class, for its module (`pytestmark`), at
one of its parameters, or by a function of its module that returns such a mark.  The marks are read off the syntax
trees of the tests, none of which is imported.

    python tests/elements/table.py      writes the table anew
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.elements import BUILT_IN, load
from daemon.elements.base import Element

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "elements.md"

COMMAND = "python tests/elements/table.py"
BEGIN = f"<!-- From here to the next comment `{COMMAND}` writes, from the marks of the tests. -->"
END = "<!-- So far. -->"

COLUMNS = (
    "OAuth", "API key", "polling", "created", "updated", "deleted", "webhook", "signature", "challenge",
    "both at once", "refresh", "rate limit",
)  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, order=True)
class Proof:
    """A test that proves a cell.  *general*: the mark is that of its class or its module."""

    general: bool
    path: str
    line: int
    test: str
    key: str
    column: str


class Unreadable(Exception):
    """A mark that says nothing to somebody who only reads it: write key and column as texts."""


def proofs(tests: Path = TESTS) -> list[Proof]:
    """All marks below *tests*, those that are a test's own first.  Raises `Unreadable`."""
    found: list[Proof] = []
    for path in sorted(tests.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if ".element(" in text:
            found += _Reader(path.relative_to(tests.parent).as_posix()).read(ast.parse(text))
    return sorted(found)


class _Reader:
    """Reads the marks of one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._makers: dict[str, Function] = {}

    def read(self, module: ast.Module) -> list[Proof]:
        self._makers = {
            one.name: one for one in module.body if isinstance(one, Function) and _returned(one)
        }
        return list(self._body(module.body, []))

    def _body(self, body: list[ast.stmt], above: list[tuple[str, str]]) -> Iterator[Proof]:
        """The proofs of a module or a class, *above* which these marks stand; they are its first test's."""
        marks = [*above]
        for one in body:
            names = [ast.unparse(target) for target in getattr(one, "targets", [])]
            if isinstance(one, ast.Assign) and names == ["pytestmark"]:
                marks += self._marks([one.value])
        for one in body:
            if isinstance(one, ast.ClassDef) and one.name.startswith("Test"):
                yield from self._body(one.body, self._marks(one.decorator_list))
            elif isinstance(one, Function) and one.name.startswith("test_"):
                for general, (key, column) in [
                    *((True, mark) for mark in marks),
                    *((False, mark) for mark in self._marks(one.decorator_list)),
                ]:
                    yield Proof(general, self._path, one.lineno, one.name, key, column)
                marks = []

    def _marks(self, expressions: Iterable[ast.expr]) -> list[tuple[str, str]]:
        """Key and column of each mark in *expressions*."""
        calls = [
            node
            for expression in expressions
            for node in ast.walk(expression)
            if isinstance(node, ast.Call)
        ]
        return [self._said(call, {}) for call in calls if _is_mark(call)] + [
            self._made(call) for call in calls if ast.unparse(call.func) in self._makers
        ]

    def _made(self, call: ast.Call) -> tuple[str, str]:
        """What the mark says that a function of the module returns when it is called so."""
        maker = self._makers[ast.unparse(call.func)]
        names = [one.arg for one in maker.args.args]
        given = dict(zip(names, call.args, strict=False))
        given |= {one.arg: one.value for one in call.keywords if one.arg is not None}
        mark = _returned(maker)
        assert mark is not None
        return self._said(mark, given)

    def _said(self, mark: ast.Call, given: dict[str, ast.expr]) -> tuple[str, str]:
        texts = []
        for argument in mark.args:
            known = given.get(argument.id, argument) if isinstance(argument, ast.Name) else argument
            texts.append(known.value if isinstance(known, ast.Constant) else None)
        match texts:
            case [str() as key, str() as column] if not mark.keywords:
                return key, column
        raise Unreadable(
            f"{self._path}:{mark.lineno}: {ast.unparse(mark)}: write key and column as texts"
        )


def _is_mark(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "pytest.mark.element"


def _returned(function: Function) -> ast.Call | None:
    """The mark that *function* returns; None where it returns anything else."""
    last = function.body[-1]
    value = last.value if isinstance(last, ast.Return) else None
    return value if isinstance(value, ast.Call) and _is_mark(value) else None


def problems(found: Iterable[Proof]) -> list[str]:
    """What is wrong with the marks: a key that no element has, a column that the table has not."""
    return [
        f"{one.path}: {one.test}: there is no {what}"
        for one in found
        for known, what in (
            (one.key in BUILT_IN, f"element {one.key!r}"),
            (one.column in COLUMNS, f"column {one.column!r}; there are {', '.join(COLUMNS)}"),
        )
        if not known
    ]


def table(found: Iterable[Proof], *, page: Path = PAGE) -> str:
    """The table as Markdown: a row for each element that any test is marked with, its first proof in each cell."""
    cells: dict[tuple[str, str], Proof] = {}
    for one in found:
        cells.setdefault((one.key, one.column), one)
    elements = [one for one in load().all() if any(key == one.key for key, _ in cells)]
    lines = [_row(["", *COLUMNS]), "|" + "---|" * (len(COLUMNS) + 1)]
    for element in sorted(elements, key=lambda one: one.name.lower()):
        proven = [_cell(cells.get((element.key, column))) for column in COLUMNS]
        lines.append(_row([_name(element, page), *proven]))
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(proof: Proof | None) -> str:
    """A link to the test's file; the test's name in words, for a browser breaks lines between words only."""
    if proof is None:
        return "-"
    return f"[{proof.test.removeprefix('test_').replace('_', ' ')}](../{proof.path})"


def _name(element: Element, page: Path) -> str:
    """The element's name, with a link to its own page where it has one: of its key, or of the module of its class."""
    for name in (element.key, type(element).__module__.rpartition(".")[2]):
        if (page.parent / "elements" / f"{name}.md").is_file():
            return f"[{element.name}](elements/{name}.md)"
    return element.name


def renewed(text: str, made: str) -> str:
    """*text*, the page, with *made* between the two comments; raises `ValueError` where they are not there."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"\n{END}")
    if not (begin and end):
        raise ValueError(
            f"the page needs these two lines, and the table between them:\n{BEGIN}\n{END}"
        )
    return f"{before}{begin}\n{made}\n{end}{after}"


def main() -> int:
    """Write the table into the page, unless a mark is wrong."""
    found = proofs()
    wrong = problems(found)
    if wrong:
        sys.stderr.write("\n".join(wrong) + "\n")
        return 1
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
