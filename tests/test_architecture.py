"""The rules of the house that a machine can hold: layers, where SQL, output and tasks may stand."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "daemon"

# Modules that may start tasks, and why each is not a loop of the supervisor.
TASKS = {
    "supervisor.py": "it is the supervisor",
    "elements/connection.py": "a refresh must outlive the request that asked for it: its token may be the only one",
}
# Folders that may hold SQL, and whose database it is for.
STATEMENTS = {
    "store": "the log's",
    "receiver": "the application's own: its inbox must be in the transaction of its effects",
}
SQL = re.compile(
    r"\s*(?:--[^\n]*\n\s*)*(?:SELECT|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|WITH\s+\w+|COPY|LOCK|LISTEN"
    r"|NOTIFY|TRUNCATE|GRANT|REVOKE|(?:CREATE|ALTER|DROP)\s+\w+)\s"
)


def modules() -> list[Path]:
    """Return every source file of the daemon."""
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of *path*."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, node: ast.AST) -> str:
    """Return where *node* is, for a person to click."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def calls(path: Path, *names: str) -> Iterator[str]:
    """Yield the places where one of *names* is called, as a name (`print`) or an attribute (`sys.exit`)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield place(path, node)


def test_imports_point_down() -> None:
    """Each module imports only from layers below it, and every module has a layer: pyproject.toml says which."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert 0 == done.returncode, done.stdout + done.stderr


def test_sql_lives_in_the_store() -> None:
    """No other module holds a text that begins like a statement, but for the receiver's own database."""
    found = [
        place(path, node)
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] not in STATEMENTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
    ]

    assert [] == found


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "\n  -- why\n  INSERT INTO log (a)",
        "UPDATE callbacks SET a",
        "WITH due AS (",
        "CREATE TABLE a (",
    ],
)
def test_statements_are_recognised(text: str) -> None:
    """The test above sees the usual shapes of a statement."""
    assert SQL.match(text)


@pytest.mark.parametrize(
    "text", ["CREATED", "Update the instance", "with a", "DELETE", "SELECT", "UPDATE or DELETE"]
)
def test_words_are_no_statements(text: str) -> None:
    """It does not take the API's words and prose for SQL."""
    assert not SQL.match(text)


def test_only_the_command_line_prints_and_exits() -> None:
    """`print`, `sys.exit` and their like stand in daemon/cli only: all else returns, raises and logs."""
    found = [
        where
        for path in modules()
        if PACKAGE / "cli" not in path.parents
        for where in calls(
            path,
            *(
                "print",
                "exit",
                "quit",
                "sys.exit",
                "os._exit",
                "sys.stdout.write",
                "sys.stderr.write",
            ),
        )
    ]

    assert [] == found


def test_cancellation_is_never_swallowed() -> None:
    """Whoever catches `CancelledError`, by name or with everything, raises again."""
    found = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "BaseException" if node.type is None else ast.unparse(node.type)
            if re.search(
                r"\b(CancelledError|BaseException|BaseExceptionGroup)\b", caught
            ) and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                found.append(place(path, node))
        found += [
            place(path, node)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress")
            if re.search(r"CancelledError|BaseException", ast.unparse(node))
        ]

    assert [] == found


def test_tasks_belong_to_somebody() -> None:
    """Tasks are made by a `TaskGroup`, or in a module that is listed with its reason."""
    found = [
        where
        for path in modules()
        if path.relative_to(PACKAGE).as_posix() not in TASKS
        for where in calls(
            path,
            *("asyncio.create_task", "create_task", "asyncio.ensure_future", "ensure_future"),
            *("asyncio.get_running_loop().create_task", "loop.create_task"),
        )
    ]

    assert [] == found
    assert [] == [name for name in TASKS if not (PACKAGE / name).exists()]


def test_every_module_says_what_it_is_for() -> None:
    """Each module that holds anything has a docstring."""
    paths = [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]

    assert [] == [
        str(path.relative_to(ROOT))
        for path in paths
        if tree(path).body and not ast.get_docstring(tree(path))
    ]


def test_every_exception_to_a_rule_has_its_reason() -> None:
    """A `noqa` or `type: ignore` names its rule and says why, on the same line."""
    bare = re.compile(
        r"# (?:noqa|type: ignore)(?!: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)* \S|\[[\w, -]+\] *# \S)"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if bare.search(line)
    ]

    assert [] == found


def test_every_test_says_what_it_proves() -> None:
    """Each test has a docstring that ends like a sentence."""
    found = [
        place(path, node)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        if not (ast.get_docstring(node) or "").endswith(".")
    ]

    assert [] == found
