"""Dotted paths into JSON, and `{key}` templates: the two small languages of a definition.

A path is names between dots: `paging.next.after`.  A number picks from a list: `items.0.id`.  A name that
holds dots itself is found too, as long as it ends the path.  The empty path is the whole value.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

MISSING: Final = object()
"""What `find` returns where there is nothing, when null is to be told from nothing."""

_PLACE = re.compile(r"\{([A-Za-z0-9_.-]+)\}")


def find(value: Any, path: str, default: Any = None) -> Any:
    """The value at *path* in *value*, or *default*."""
    while path:
        if isinstance(value, dict) and path in value:
            return value[path]
        name, _, path = path.partition(".")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif (
            isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value)
        ):
            value = value[int(name)]
        else:
            return default
    return value


def text(value: Any) -> str | None:
    """A JSON value as the text of an id or a name: strings and numbers; None for anything else, and for ""."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value) or None


def places(template: str) -> list[str]:
    """The keys between braces in *template*, in order."""
    return _PLACE.findall(template)


def fill(template: str, values: Mapping[str, str], write: Callable[[str], str] = str) -> str | None:
    """*template* with every `{key}` replaced by *write* of its value; None where a value is missing or empty."""
    if not all(values.get(key) for key in places(template)):
        return None
    return _PLACE.sub(lambda found: write(values[found[1]]), template)
