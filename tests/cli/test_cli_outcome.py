"""Exit codes, and what is said of errors."""

import re
import socket
from pathlib import Path

import click
import pytest
from cli.calling import ROOT, Caller

from daemon import errors
from daemon.cli.outcome import Code, Failed, judge
from daemon.cli.program import program as command


@pytest.fixture
def alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Caller:
    """The command without a database."""
    monkeypatch.setenv("TIDINGS_STATE_DIRECTORY", str(tmp_path / "state"))
    return Caller(capsys)


def verbs(group: click.Group = command, before: str = "") -> list[str]:
    """Every verb as it is called."""
    found: list[str] = []
    for name, one in group.commands.items():
        path = f"{before} {name}".strip()
        found += verbs(one, path) if isinstance(one, click.Group) else [path]
    return sorted(found)


@pytest.mark.parametrize(
    "error",
    [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value is not errors.Invalid
    ],
)
def test_every_error_of_ours_has_words_and_a_code(error: type[Exception]) -> None:
    """No error that tidings raises on purpose reaches a person as a traceback."""
    judgement = judge(error("what happened"))

    assert judgement is not None
    assert judgement.code != Code.OK
    assert "what happened" in judgement.message


def test_a_fault_of_ours_is_not_explained_away() -> None:
    """An error that nobody raises on purpose has no words: its traceback is shown."""
    assert judge(ZeroDivisionError()) is None
    assert judge(ExceptionGroup("", [KeyError("x")])) is None


def test_the_error_in_a_group_counts() -> None:
    """What a group of tasks raised is judged by the error inside, however deep: a bug first, an outage last."""
    stopping, failed = errors.Outage("tidings is stopping"), Failed("it", code=Code.NOT_FOUND)
    group = ExceptionGroup("", [stopping, ExceptionGroup("", [failed])])
    judgement = judge(group)

    assert judgement is not None
    assert (Code.NOT_FOUND, "it") == (judgement.code, judgement.message)
    assert judge(ExceptionGroup("", [stopping, KeyError("x"), failed])) is None


def test_wrong_usage_is_2(alone: Caller) -> None:
    """An unknown verb, option or argument ends with 2, on standard error."""
    for arguments in (
        ("nonsense",),
        ("log", "tail", "--nonsense"),
        ("instances", "show", "x"),
        ("users", "add", " "),
    ):
        assert 2 == alone(*arguments), arguments
        assert "" == alone.out
        assert "Error" in alone.err


@pytest.mark.parametrize(
    "arguments", [("users", "list"), ("check",), ("log", "tail"), ("elements", "list")]
)
def test_a_wrong_configuration_is_3(
    alone: Caller, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Every verb names an unknown key and ends with 3, whether --config stands before or behind it."""
    file = tmp_path / "config.toml"
    file.write_text("[server]\nlisen = 1\n")

    assert 3 == alone(*arguments, "--config", file)
    assert "did you mean listen?" in alone.out + alone.err
    assert 3 == alone("--config", file, *arguments)


def test_the_inner_config_wins(alone: Caller, tmp_path: Path) -> None:
    """Of two --config the one behind the verb counts."""
    wrong, right = tmp_path / "wrong.toml", tmp_path / "right.toml"
    wrong.write_text("[nonsense]\n")
    right.write_text("")

    assert 0 == alone("--config", wrong, "elements", "list", "--config", right)


def test_a_database_that_is_away_is_4(alone: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens verbs end with 4, name the remedy and do not show the password."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dsn = f"postgresql://me:hunter2@127.0.0.1:{probe.getsockname()[1]}/db"
    monkeypatch.setenv("TIDINGS_DATABASE_DSN", dsn)

    for arguments in (("users", "list"), ("check",), ("instances", "list"), ("rebuild",)):
        assert 4 == alone(*arguments), arguments
        assert "[database] dsn" in alone.out + alone.err
        assert "hunter2" not in alone.out + alone.err


def test_a_database_that_does_not_let_in_is_3(
    alone: Caller, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    """A database that does not exist is a matter of configuration: 3, not an outage."""
    monkeypatch.setenv("TIDINGS_DATABASE_DSN", re.sub(r"/test_\w+\?", "/nowhere?", dsn))

    assert 3 == alone("users", "list")
    assert "nowhere" in alone.err
    assert 3 == alone("check")


def test_a_directory_that_cannot_be_made_is_no_outage(
    alone: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state directory that is a file ends with 1 and its name: PostgreSQL has nothing to do with it."""
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("TIDINGS_STATE_DIRECTORY", str(file / "state"))

    assert 1 == alone("users", "list")
    assert str(file) in alone.err


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_explains_itself(alone: Caller, verb: str) -> None:
    """--help of every verb says in a sentence what it does."""
    assert 0 == alone(*verb.split(), "--help")
    first = alone.out.split("\n\n")[1].strip()
    assert re.match(r"[A-Z].*[.:,…]", first), first


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_and_option_is_documented(verb: str) -> None:
    """docs/cli.md has a line for each verb and names each of its options."""
    page = (ROOT / "docs" / "cli.md").read_text()
    one: click.Command = command
    for name in verb.split():
        assert isinstance(one, click.Group)
        one = one.commands[name]

    assert f"`tidings {verb}" in page
    for parameter in one.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert f"`{option}" in page or f"{option} " in page, option


def test_every_code_is_documented() -> None:
    """docs/cli.md has a row for each exit code."""
    page = (ROOT / "docs" / "cli.md").read_text()

    assert [] == [code for code in Code if f"\n| {int(code)} |" not in page]


def test_the_version(alone: Caller) -> None:
    """--version prints name and version."""
    assert 0 == alone("--version")
    assert re.match(r"tidings, version \d", alone.out)
