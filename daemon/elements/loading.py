"""From a TOML file to an element, with messages that a person can act on.

Everything wrong in a file is said at once: the file, the place in it (`resources.orders.paging.kind`), what is
wrong and what should be there.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from daemon.elements.defined import Defined
from daemon.elements.definition import Definition
from daemon.errors import ConfigError

MOST = 1024 * 1024  # bytes of a definition; of a secret file, a sixteenth
_SHAPES = {
    "missing": "is missing",
    "string_type": "should be a text in quotes",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
    "list_type": "should be a list",
    "dict_type": "should be a table",
    "model_type": "should be a table",
    "string_too_short": "should not be empty",
}


Now = Callable[[], datetime]


def system_clock() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


def load(path: Path, *, now: Now = system_clock) -> Defined:
    """The element that the file *path* defines; raises `ConfigError`."""
    return parse(_read(path, MOST), path, now=now)


def parse(
    text: str, path: Path, *, made: type[Defined] = Defined, now: Now = system_clock
) -> Defined:
    """The element, a *made*, that *text*, the contents of *path*, defines; raises `ConfigError`.

    Secret files that it names are read from the directory of *path*.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    try:
        definition = Definition.model_validate(table)
    except ValidationError as error:
        lines = sorted({f"{path}: {_problem(one)}" for one in error.errors(include_url=False)})
        raise ConfigError("\n".join(lines)) from error
    secrets = {place: _secret(path, place, name) for place, name in _secret_files(definition)}
    return made(definition, secrets=secrets, now=now)


def _secret_files(definition: Definition) -> Iterator[tuple[str, str]]:
    hook = definition.webhook
    if hook is None:
        return
    if hook.signature is not None and hook.signature.secret_file is not None:
        yield "webhook.signature.secret_file", hook.signature.secret_file
    for number, challenge in enumerate(hook.challenge):
        if challenge.secret_file is not None:
            yield f"webhook.challenge.{number}.secret_file", challenge.secret_file


def _secret(path: Path, place: str, name: str) -> str:
    try:
        secret = _read(path.parent / name, MOST // 16).strip()
    except ConfigError as error:
        raise ConfigError(f"{path}: {place}: {error}") from error
    if not secret:
        raise ConfigError(f"{path}: {place}: {path.parent / name} is empty: put the secret there")
    return secret


def _read(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise ConfigError(f"{path}: is larger than {most} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8") from error


def _problem(error: ErrorDetails) -> str:
    """One problem: its place and a sentence."""
    # `str` and `Where` are the branches of a union, `[key]` is the key of a table: not places in the file.
    steps = [
        step
        for step in error["loc"]
        if step not in ("str", "Where", "[key]", "int", "float", "bool")
    ]
    place = ".".join(str(step) for step in steps)
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _keys(Definition, steps[:-1])
        close = difflib.get_close_matches(str(steps[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        return f"{place}: is unknown; {hint}"
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        return f"{place}: {message}" if place else message
    if kind == "literal_error":
        return f"{place}: should be one of {error['ctx']['expected']}"
    if kind == "string_pattern_mismatch":
        return f"{place}: should be of the form {error['ctx']['pattern']}"
    return f"{place}: {_SHAPES.get(kind, error['msg'])}"


def _keys(model: type[BaseModel], steps: list[int | str]) -> list[str]:
    """The keys of the table at *steps*."""
    for step in steps:
        field = model.model_fields.get(str(step))
        if field is not None:
            model = _model(field.annotation) or model
    return sorted(model.model_fields)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The table inside an annotation such as `dict[str, Resource]` or `Webhook | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model(one))), None)
