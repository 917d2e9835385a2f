"""What a request brings: an id of its own, a body of JSON, parameters of its query.

Whatever is wrong is said with the name of the field and what it should be, never with its value, which may
be a secret.
"""

import re
import secrets
from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from daemon.errors import Invalid

Body = TypeVar("Body", bound=BaseModel)

_ID = web.RequestKey("id", str)
_KEY = re.compile(r'("(?:[^"\\\x00-\x1f]|\\.)*")\s*:')
_SHOULD = {
    "string_type": "should be a text",
    "string_too_long": "should have at most {max_length} characters",
    "list_type": "should be a list",
    "too_long": "should have at most {max_length} entries",
    "dict_type": "should be an object",
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "missing": "is missing",
}


def name_request(request: web.Request) -> str:
    """Give *request* its id, 24 hexadecimal digits as the documented API's are."""
    name = request[_ID] = secrets.token_hex(12)
    return name


def request_id(request: web.Request) -> str:
    """The id of *request*, for its answer and the log."""
    return request[_ID]


async def read(request: web.Request, form: type[Body]) -> Body:
    """The body as *form*; raises `Invalid`, or 415 for what does not say that it is JSON."""
    return validate(parse(request, await request.read()), form)


def parse(request: web.Request, body: bytes) -> object:
    """The JSON value that *body* holds; raises `Invalid` with the place of what is wrong."""
    kind = request.content_type
    if "Content-Type" in request.headers and not re.fullmatch(
        r"application/(?:[\w.-]+\+)?json", kind
    ):
        raise web.HTTPUnsupportedMediaType(
            text=f"the body should be JSON, sent with Content-Type: application/json, not {kind}"
        )
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise web.HTTPUnsupportedMediaType(text="JSON should be UTF-8")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid({"body": _place(body, error)}) from None


def validate(value: object, form: type[Body]) -> Body:
    """*value* as *form*; raises `Invalid` with every problem."""
    if not isinstance(value, dict):
        raise Invalid({"body": "should be a JSON object"})
    if problems := dict(_unstorable(value, "")):
        raise Invalid(problems)
    try:
        return form.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise Invalid({_name(one["loc"]): _sentence(one) for one in found}) from None


def _place(body: bytes, error: orjson.JSONDecodeError) -> str:
    """Where *body* stops being JSON, and why."""
    if not body.strip():
        return "is empty; it should be a JSON object"
    text = body.decode(errors="replace")
    try:
        body.decode()
    except UnicodeDecodeError as bad:
        return f"is not UTF-8 text (byte {bad.start})"
    why = str(error.msg)
    before, key = text[: error.pos].rstrip(), _KEY.match(text, error.pos)
    if key and before and before[-1] in '"}]0123456789el':
        # A member begins where only the end of the one before, or a comma, could be.
        why = f"a comma is missing before {key[1]}"
    return f"is not valid JSON: line {error.lineno}, column {error.colno}: {why}"


def _unstorable(value: object, name: str) -> list[tuple[str, str]]:
    """The texts in *value* that hold a NUL, which PostgreSQL cannot store."""
    found: list[tuple[str, str]] = []
    waiting = [(value, name)]
    while waiting:
        value, name = waiting.pop()
        if isinstance(value, dict):
            if any("\0" in key for key in value):
                found.append((name or "body", "should have no NUL character in its keys"))
            else:
                waiting += [
                    (inner, f"{name}.{key}" if name else key) for key, inner in value.items()
                ]
        elif isinstance(value, list):
            waiting += [(inner, f"{name}.{number}") for number, inner in enumerate(value)]
        elif isinstance(value, str) and "\0" in value:
            found.append((name, "should have no NUL character in it"))
    return found


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "body"


def _sentence(problem: ErrorDetails) -> str:
    sentence = _SHOULD.get(problem["type"])
    if sentence is None:
        return problem["msg"].removeprefix("Value error, ")
    return sentence.format(**problem.get("ctx", {}))
