"""Tables and lines for people, JSON for scripts.

What providers wrote reaches a terminal here, so control characters are made visible, never sent on.
"""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Display:
    """Standard output and standard error, each with colours only where it is a terminal."""

    def __init__(self) -> None:
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def line(self, *parts: object, style: str = "") -> None:
        """One line on standard output."""
        self.out.print(_joined(parts, style), soft_wrap=True)

    def say(self, *parts: object, style: str = "") -> None:
        """One line on standard error: how it goes, what to do next."""
        self.err.print(_joined(parts, style), soft_wrap=True)

    def json(self, value: Any) -> None:
        """*value* as JSON for a script, indented on a terminal."""
        option = orjson.OPT_INDENT_2 if self.out.is_terminal else 0
        text = orjson.dumps(value, option=option | orjson.OPT_UTC_Z, default=str).decode()
        self.out.file.write(text + "\n")
        self.out.file.flush()

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """*rows* under *headings*; numbers to the right."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, heading in enumerate(headings):
            numbers = bool(rows) and all(isinstance(row[number], int) for row in rows)
            table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in row))
        self.out.print(table)

    def progress(self, unit: str) -> Progress:
        """A progress bar on standard error; nothing where that is no terminal."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            console=self.err,
            disable=not self.err.is_terminal,
        )


def clean(text: str) -> str:
    """*text* with control characters made visible: it may come from anybody."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def shown(value: object) -> str:
    """*value* as a person reads it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return moment(value)
        case list() | tuple():
            return ", ".join(map(shown, value)) or "-"
        case _:
            return clean(str(value))


def moment(value: datetime) -> str:
    """A time in UTC, to the second."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def milliseconds(value: datetime) -> str:
    """A time in UTC as JSON has it, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_text(value: Any) -> Any:
    """*value* as JSON has it: a time becomes text."""
    return milliseconds(value) if isinstance(value, datetime) else value


def _joined(parts: Sequence[object], style: str) -> Text:
    text = Text(style=style)
    for number, part in enumerate(parts):
        text.append(" " if number else "")
        text.append(part if isinstance(part, Text) else clean(str(part)))
    return text


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # A pipe has no width: nothing is to be cut or wrapped for it.
    width = None if stream.isatty() else 10_000
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)
