"""The routes of Dropbox's API that the element uses, and what their answers and errors mean."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import orjson

from daemon.elements.base import Http
from daemon.errors import Refused, TokenLost, Transient, Unauthorized
from daemon.model import Json, Request, Response

LARGEST_PAGE = 2000
CONFLICT = 409  # Dropbox's status for an error of a route: its tags say which
BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class Place:
    """What is read: a folder (empty: everything), and whether what is below its folders too."""

    path: str
    recursive: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answered, and when by its own clock."""

    body: Json
    asked: datetime


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of `list_folder`; with *more*, the next is there at once."""

    entries: tuple[Json, ...]
    cursor: str
    more: bool
    asked: datetime


@dataclass(frozen=True, slots=True)
class Api:
    """The API at *base*; *now* is for answers without a date."""

    base: str
    now: Callable[[], datetime]

    async def list(self, http: Http, place: Place, *, limit: int | None = None) -> Listing:
        """The first page of all that is at *place*."""
        asked = {
            "path": place.path,
            "recursive": place.recursive,
            "limit": min(limit or LARGEST_PAGE, LARGEST_PAGE),
        }
        return _listing(await self.call(http, "files/list_folder", asked))

    async def go_on(self, http: Http, cursor: str) -> Listing:
        """The page after *cursor*; raises `TokenLost` where Dropbox does not know it any more."""
        try:
            answer = await self.call(http, "files/list_folder/continue", {"cursor": cursor})
        except Refused as error:
            reset = error.status == CONFLICT and tag(error) == "reset"
            if reset or (error.status == BAD_REQUEST and b"cursor" in error.body):
                raise TokenLost(f"Dropbox has forgotten the cursor: {error}") from error
            raise
        return _listing(answer)

    async def call(self, http: Http, route: str, asked: Json | None) -> Answer:
        """What *route* answers to *asked*; raises what `Http.send` raises."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = Request("POST", f"{self.base}/{route}", headers, orjson.dumps(asked))
        try:
            answer = await http.send(request)
        except Transient as error:
            wait = _error(error.body).get("retry_after")
            if error.retry_after is None and isinstance(wait, int | float):
                raise Transient(str(error), retry_after=float(wait), body=error.body) from error
            raise
        return Answer(parsed(answer.body), self._asked(answer))

    def _asked(self, answer: Response) -> datetime:
        try:
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError, TypeError):
            return self.now()


def tag(error: Refused | Unauthorized) -> str:
    """The first tag of an error: `path`, `reset`, `missing_scope`; empty where there is none."""
    return str(_error(error.body).get(".tag", ""))


def parsed(body: bytes) -> Json:
    """A body that should be a JSON object; empty where it is none."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _error(body: bytes) -> Json:
    told = parsed(body).get("error")
    return told if isinstance(told, dict) else {}


def _listing(answer: Answer) -> Listing:
    entries, cursor = answer.body.get("entries"), answer.body.get("cursor")
    if not (isinstance(entries, list) and isinstance(cursor, str)):
        # A page for people is what gateways answer while the provider is being repaired.
        raise Transient("list_folder answered without entries and cursor")
    return Listing(tuple(entries), cursor, bool(answer.body.get("has_more")), answer.asked)
