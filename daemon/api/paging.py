"""Paging: `pageSize`, and a token that is given in `Elements-Next-Page-Token` and sent back as `nextPage`.

A token is base64url of JSON, without padding, as the documented API's are (facts, 4.5); what it holds is ours:
the id or position to go on after, so that what is added meanwhile neither repeats nor hides an entry.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from daemon.api.operations import Parameter
from daemon.errors import Invalid

USUAL = 200
MOST = 2000

PARAMETERS = (
    Parameter(
        "pageSize", f"How many entries at most: 1 to {MOST}, {USUAL} where not given.", "integer"
    ),
    Parameter("nextPage", "The Elements-Next-Page-Token of the answer before."),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which page is asked for: at most *size* entries, beyond *mark* (None: the first ones)."""

    size: int
    mark: int | None

    def token(self, mark: int) -> str:
        """The token of the page that begins beyond *mark*."""
        raw = orjson.dumps({"pageSize": self.size, "after": mark})
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def asked(request: web.Request, *, most: int = MOST) -> Asked:
    """The page that *request* asks for; raises `Invalid`."""
    size, mark = min(USUAL, most), None
    if token := request.query.get("nextPage"):
        size, mark = _opened(token, most)
    if (text := request.query.get("pageSize")) is not None:
        number = whole(text)
        if number is None or not 1 <= number <= most:
            raise Invalid({"pageSize": f"should be a whole number from 1 to {most}"})
        size = number
    return Asked(size, mark)


def headers(
    *, returned: int, total: int | None = None, token: str | None = None
) -> Mapping[str, str]:
    """What the answer says of its page."""
    return {
        "Elements-Returned-Count": str(returned),
        **({} if total is None else {"Elements-Total-Count": str(total)}),
        **({} if token is None else {"Elements-Next-Page-Token": token}),
    }


def whole(text: str) -> int | None:
    """The whole number that *text* is, None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None  # noqa: PLR2004 — a bigint


def _opened(token: str, most: int) -> tuple[int, int]:
    try:
        held: Any = orjson.loads(
            base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        )
        size, mark = held["pageSize"], held["after"]
    except (ValueError, TypeError, KeyError):
        size, mark = None, None
    if (
        type(size) is not int
        or type(mark) is not int
        or not (1 <= size <= most and 0 <= mark < 2**62)
    ):
        raise Invalid(
            {"nextPage": "should be an Elements-Next-Page-Token of an earlier answer, or left out"}
        )
    return size, mark
