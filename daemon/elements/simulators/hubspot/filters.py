"""The filters of a simulated HubSpot's search: what fits, and what comes before what."""

import operator
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from daemon.elements.simulators.ledger import moment
from daemon.model import Json

_FAST = {
    "LT": operator.lt,
    "LTE": operator.le,
    "GT": operator.gt,
    "GTE": operator.ge,
    "EQ": operator.eq,
}
_COUNTS: dict[str, Callable[[Any], bool]] = {
    "LT": lambda order: order < 0,
    "LTE": lambda order: order <= 0,
    "GT": lambda order: order > 0,
    "GTE": lambda order: order >= 0,
}


class Valued(Protocol):
    """What has properties."""

    def value(self, name: str, modified: str) -> Any:
        """A property, as a search compares it."""


def milliseconds(at: datetime) -> int:
    """Unix milliseconds."""
    return int(at.timestamp() * 1000 + 0.5)


def test_of(told: Json, modified: str) -> Callable[[Valued], bool]:
    """Whether a row is as a filter says; the same comparison of numbers is made for thousands of rows."""
    name, wanted, compare = told["propertyName"], told.get("value"), _FAST.get(told["operator"])
    if compare is None or not (isinstance(wanted, str) and wanted.isascii() and wanted.isdigit()):
        return lambda row: _holds(row.value(name, modified), told)
    number = int(wanted)

    def test(row: Valued) -> bool:
        value = row.value(name, modified)
        if isinstance(value, int):
            return bool(compare(value, number))
        return _holds(value, told)

    return test


def _holds(value: Any, told: Json) -> bool:
    """Whether a property's *value* is as a filter says."""
    how = told.get("operator")
    if how in ("HAS_PROPERTY", "NOT_HAS_PROPERTY"):
        return bool((value not in (None, "")) == (how == "HAS_PROPERTY"))
    wanted = [told.get("value")] if "value" in told else told.get("values") or []
    if not wanted or any(one is None for one in wanted):
        raise ValueError(f"a filter with {how} needs a value")
    if how == "BETWEEN":
        ends = (wanted[0], told.get("highValue"))
        return value is not None and _order(value, ends[0]) >= 0 >= _order(value, ends[1])
    if how in ("EQ", "IN"):
        return value is not None and any(_order(value, one) == 0 for one in wanted)
    if how in ("NEQ", "NOT_IN"):
        return value is None or all(_order(value, one) != 0 for one in wanted)
    if how in ("CONTAINS_TOKEN", "NOT_CONTAINS_TOKEN"):
        inside = str(wanted[0]).strip("*").lower() in str(value or "").lower()
        return bool(inside == (how == "CONTAINS_TOKEN"))
    if how not in _COUNTS:
        raise ValueError(f"{how} is no operator")
    return value is not None and _COUNTS[how](_order(value, wanted[0]))


def _order(value: Any, other: Any) -> float:
    """Less than 0 where *value* comes before *other*: by number where both are, else by text."""
    if isinstance(value, int) and isinstance(other, int):
        return value - other
    one, two = _number(value), _number(other)
    if one is not None and two is not None:
        return one - two
    first, second = str(value).lower(), str(other).lower()
    return (first > second) - (first < second)


def _number(value: Any) -> float | None:
    if isinstance(value, int):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        return milliseconds(moment(str(value))) if "T" in str(value) else None
    except ValueError:
        return None


def order_of(value: Any) -> tuple[bool, bool, Any]:
    """What sorts before what: nothing, numbers, texts."""
    number = _number(value)
    return (value is not None, number is None, number if number is not None else str(value))
