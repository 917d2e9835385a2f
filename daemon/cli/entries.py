"""An entry of the log as a line, as a page, and as JSON."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import asyncpg
import orjson
from rich.text import Text

from daemon.cli.display import clean, milliseconds

STYLES = {
    "CREATED": "green",
    "UPDATED": "yellow",
    "DELETED": "red",
    "poll.failed": "red",
    "poll.disabled": "bold red",
    "callback.disabled": "bold red",
}
ERROR_MOST = 160  # characters of an error in a line


def line(row: asyncpg.Record) -> Text:
    """*row* in one line: position, time, instance, what happened."""
    text = Text()
    text.append(f"{row['position']:>9}  ", "dim")
    text.append(f"{milliseconds(row['appended'])}  ", "dim")
    text.append(f"{'' if row['instance_id'] is None else row['instance_id']:>7}  ", "cyan")
    if row["kind"] == "change":
        text.append(f"{row['change']:<8}", STYLES.get(row["change"], ""))
        text.append(f" {clean(row['object_type'])} {clean(row['object_id'])}")
        text.append(" by poll" if row["polled"] is not None else " by webhook", "dim")
        return text
    text.append(f"{row['kind']:<19}", STYLES.get(row["kind"], "blue"))
    text.append(f" {clean(summary(row['kind'], orjson.loads(row['data'])))}")
    return text


def summary(kind: str, data: Mapping[str, Any]) -> str:
    """What an entry about the life of the system says, in a few words."""
    if kind in _SUMMARIES:
        return _SUMMARIES[kind](data)
    if kind.startswith("instance."):
        return f"{data['name']} ({data['element']})" + (", off" if data["disabled"] else "")
    if kind.startswith(("poll.", "sweep.")):
        error = data.get("error")
        return str(data["resource"]) + (f": {error[:ERROR_MOST]}" if error else "")
    return ""


def _delivery(data: Mapping[str, Any]) -> str:
    """`12 delivered, 1 retrying (answered 503)`; nothing of an entry that only moves cursors."""
    states = Counter(outcome[2] for outcome in data["outcomes"])
    errors = Counter(outcome[7] for outcome in data["outcomes"] if outcome[7])
    said = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in states.items())
    worst = f" ({errors.most_common(1)[0][0][:ERROR_MOST]})" if errors else ""
    return (said or "progress") + worst


_SUMMARIES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "delivery": _delivery,
    "user.added": lambda data: f"{data['name']} of {data['organization']}",
    "object.known": lambda data: f"{len(data['objects'])} {data['object_type']}",
    "replay.requested": lambda data: (
        f"positions {data['after'] + 1} to {data['until']} by {data.get('requested_by')}"
    ),
    "callback.disabled": lambda data: str(data.get("reason", "")),
    "alert.sent": lambda data: (
        f"about {data['about']}" + (f", given up: {data['error']}" if data["error"] else "")
    ),
}


def as_json(row: asyncpg.Record) -> dict[str, Any]:
    """*row* for a script: every column that holds something; *data* as it was stored."""
    return {key: _value(key, value) for key, value in row.items() if value is not None}


def _value(key: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return milliseconds(value)
    if isinstance(value, bytes):
        return value.hex()
    return orjson.loads(value) if key == "data" else value
