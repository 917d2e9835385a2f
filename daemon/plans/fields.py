"""Paths into a record, as configurations write them, and the id of a record whose path is not given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from daemon.plans.fingerprints import fingerprint

_STEP = re.compile(
    r"\[\s*(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<index>[0-9]{1,6}))\s*\]"
    r"|\.?(?P<name>[^.\[\]]+)"
)

_CONVENTIONAL_IDS = (
    "id", "Id", "ID", "objectId", "_id", "key", "Key", "uuid", "guid",
)  # fmt: skip
"""Where an id is looked for when `idField` is not given, in this order."""


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A path such as `user.id`, `['Modified Time']`, `@.@id`, `$.items[0].key`."""

    text: str
    _steps: tuple[str | int, ...]

    @classmethod
    def compile(cls, text: str) -> Self:
        """Raise ValueError, with a sentence, for what is no path (wildcards and filters are none)."""
        text = text.strip()
        # `$` and `@` are the record itself, but only as a step of their own: `@id` is a name.
        rest = text[1:] if re.match(r"[$@](?=[.\[])", text) else text
        steps: list[str | int] = []
        at = 0
        while at < len(rest):
            step = _STEP.match(rest, at)
            if step is None or any(character in (step["name"] or "") for character in "*?()"):
                raise ValueError(
                    f"{text!r} is no path to a field: write names joined by dots, such as "
                    f"properties.lastmodifieddate, and ['…'] around a name with dots or brackets in it"
                )
            if step["index"] is not None:
                steps.append(int(step["index"]))
            else:
                steps.append(
                    next(
                        part for part in step.group("single", "double", "name") if part is not None
                    )
                )
            at = step.end()
        if not steps:
            raise ValueError("a path to a field cannot be empty")
        return cls(text, tuple(steps))

    def find(self, record: Any) -> Any:
        """The value there; None where the path leads nowhere.

        A field whose very name is the text of the path (`{"user.id": 7}`) comes first.
        """
        if isinstance(record, Mapping) and self.text in record:
            return record[self.text]
        value = record
        for step in self._steps:
            if isinstance(step, str):
                value = value.get(step) if isinstance(value, Mapping) else None
            else:
                value = value[step] if isinstance(value, list) and step < len(value) else None
        return value


def identify(record: Mapping[str, Any], path: FieldPath | None) -> str | None:
    """The record's id as text, or None where *path* leads to nothing that can be one.

    Without a path the id is that of the first conventional field that holds one (`id`, `Id`, `ID`,
    `objectId`, `_id`, `key`, `Key`, `uuid`, `guid`).  A record that has none of them is named by its
    content: every version of it is then an object of its own.
    """
    if path is not None:
        return _as_id(path.find(record))
    for name in _CONVENTIONAL_IDS:
        if (found := _as_id(record.get(name))) is not None:
            return found
    return fingerprint(record).hex()


def _as_id(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 12.0 and 12 are the same id: JSON does not tell them apart
    return str(value) if isinstance(value, int | float) else None
