"""Values of a configuration: strings, booleans and numbers that may arrive as any of each other."""

import math
import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"<[^<>]*>")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(?:[eE][+-]?[0-9]{1,3})?"
)
_PRINTABLE = 10**15


def unfilled(value: str) -> bool:
    """Whether *value* is one of the documentation's `<PLACEHOLDERS>`, which stand for nothing."""
    return _PLACEHOLDER.fullmatch(value.strip()) is not None


class Values:
    """One object of a configuration, read key by key.

    What is wrong goes into *problems* under its dotted name, and the default is returned, so that one
    reading finds everything.  Null and blank values are not given, and neither is a `<PLACEHOLDER>` that
    somebody left in from the documentation.
    """

    def __init__(self, values: Mapping[str, Any], *, at: str, problems: dict[str, str]) -> None:
        self._values = values
        self._read: set[str] = set()
        self.at = at
        self.problems = problems

    def name(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def problem(self, key: str, sentence: str) -> None:
        self.problems.setdefault(self.name(key), sentence)

    def value(self, key: str) -> Any:
        """The value as it is; None where it is not given."""
        self._read.add(key)
        value = self._values.get(key)
        return None if isinstance(value, str) and (not value.strip() or unfilled(value)) else value

    def text(self, key: str) -> str:
        """The text, as it was written; empty where it is not given."""
        value = self.value(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.problem(key, f"is {_kind(value)}, but should be a text")
            return ""
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.value(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
            return value.strip().lower() == "true"
        self.problem(key, f"is {_kind(value)}, but should be true or false")
        return default

    def number(self, key: str, *, default: float, low: float, high: float, unit: str) -> float:
        """A number from *low* to *high*, given as number or text."""
        value = self.value(key)
        if value is None:
            return default
        expected = f"should be a number of {unit} from {low:,.10g} to {high:,.10g}"
        number = _as_number(value)
        if number is None:
            self.problem(key, f"is {_kind(value)}, but {expected}")
        elif not low <= number <= high:
            self.problem(key, f"is {number:,.10g}, but {expected}")
        else:
            return number
        return default

    def rest(self) -> dict[str, Any]:
        """What nobody has read."""
        return {key: value for key, value in self._values.items() if key not in self._read}


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value.strip())
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _kind(value: Any) -> str:
    """What a value is, in words; never a long text in full."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}…"  # noqa: PLR2004 — fits a line
    if isinstance(value, int | float):
        return f"{value:.10g}" if abs(value) < _PRINTABLE else "no such number"
    if value is None:
        return "null"
    return "an object" if isinstance(value, Mapping) else "a list"
