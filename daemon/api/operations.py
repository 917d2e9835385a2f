"""An operation: one method at one path, with all that `/openapi.json` says of it.

Routes and their description are made of the same list, so neither can be without the other.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from daemon.webhook_urls import PREFIX

ID = r"{id:\d{1,18}}"
"""An instance's id in a path: whatever else stands there is another resource."""
KEY = "{key:[^/]{1,100}}"
"""An element's key or id in a path."""


class Authorization(StrEnum):
    """Which secrets an operation wants."""

    NONE = "none"
    ORGANIZATION = "organization"
    """User and Organization."""
    EITHER = "either"
    """User and Organization, or User and Element."""
    ELEMENT = "element"
    """User and Element, Organization if you like."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter."""

    name: str
    description: str
    type: str = "string"
    many: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method at one path below the prefix (or at the root).

    *form* is what the body of a request is, *block* what the answer's is (a model, or a list of one); None
    where there is none.  *statuses* are the errors beside those that every operation of its kind has.
    """

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    tag: str
    authorization: Authorization = Authorization.EITHER
    query: tuple[Parameter, ...] = ()
    form: type[BaseModel] | None = None
    form_required: bool = True
    block: Any = None
    statuses: tuple[int, ...] = ()
    paged: bool = False
    root: bool = False

    @property
    def pattern(self) -> str:
        """The whole path as the router takes it, `{id:\\d+}`."""
        return self.path if self.root else PREFIX + self.path

    @property
    def address(self) -> str:
        """The whole path as people write it, `{id}`."""
        return re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", self.pattern)

    def route(self) -> web.RouteDef:
        """The route that leads to it; GET takes HEAD with it."""
        if self.method == "GET":
            return web.get(self.pattern, self.handler)
        return web.route(self.method, self.pattern, self.handler)


def of_instance(
    method: str, tail: str, *, name: str, summary: str, **more: Any
) -> tuple[Operation, Operation]:
    """An operation on the instance that the path names, and the same on that of the element token."""
    by_token = f"{summary.removesuffix('.')}: the instance of the element token."
    return (
        Operation(method=method, path=f"/instances/{ID}{tail}", name=name, summary=summary, **more),
        Operation(
            method=method,
            path=f"/instances{tail}",
            name=f"{name}ByToken",
            summary=by_token,
            authorization=Authorization.ELEMENT,
            **more,
        ),
    )
