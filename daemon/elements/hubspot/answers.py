"""HubSpot's answers: what is read out of them, and what their errors mean."""

from datetime import UTC, datetime
from typing import Any

import orjson

from daemon.elements.base import Http
from daemon.elements.hubspot.search import MERGED
from daemon.elements.paths import find
from daemon.errors import Refused, Transient
from daemon.model import Json, Request, Response

MIGRATING = 477  # HubSpot's status while an account moves to another data center
MIGRATION_WAIT = 3600.0  # seconds: it takes up to a day
DAILY_WAIT = 3600.0


async def ask(http: Http, request: Request) -> Response:
    """Send *request*; what HubSpot says with other words than HTTP's becomes `Transient`."""
    try:
        return await http.send(request)
    except Transient as error:
        if b'"DAILY"' in error.body:
            wait = max(error.retry_after or 0.0, DAILY_WAIT)
            raise Transient(
                "HubSpot's daily limit of requests is reached", retry_after=wait
            ) from error
        raise
    except Refused as error:
        if error.status == MIGRATING:
            raise Transient(
                "HubSpot is moving the account to another data center", retry_after=MIGRATION_WAIT
            ) from error
        raise


async def get(http: Http, url: str) -> Response:
    """The answer to a GET; raises as `ask` does."""
    return await ask(http, Request("GET", url, {"Accept": "application/json"}))


async def post(http: Http, url: str, body: bytes) -> Response:
    """The answer to a POST of *body*, JSON; raises as `ask` does."""
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    return await ask(http, Request("POST", url, headers, body))


def content(answer: Response) -> Json:
    """The object that *answer* holds; raises `Transient` where it is no JSON, `Refused` where it is no object."""
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        # A page for people instead of JSON is what gateways answer while the provider is being repaired.
        raise Transient(f"HubSpot answered {answer.status} without JSON") from error
    if not isinstance(body, dict):
        raise Refused("HubSpot answered JSON that is no object")
    return body


def records_of(body: Json) -> list[Json]:
    """The records of a page, each with an id; raises `Refused`."""
    found: Any = body.get("results")
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and "id" in one for one in found
    ):
        raise Refused("HubSpot answered no list of records under results")
    return found


def ids_of(records: list[Json], *, after: int | None) -> list[int]:
    """The ids of a page; raises `Transient` where they are not in order, for then some may be missing."""
    try:
        ids = [int(one["id"]) for one in records]
    except (TypeError, ValueError) as error:
        raise Refused("HubSpot answered a record whose id is no number") from error
    before = [-1 if after is None else after, *ids]
    if any(one >= other for one, other in zip(before, ids, strict=False)):
        raise Transient("HubSpot answered records that are not in the order of their ids")
    return ids


def archived_since(record: Json, since: datetime) -> bool:
    """Whether an archived record is one since *since*; one that does not say when counts as such."""
    at = _moment(record.get("archivedAt"))
    return at is None or at >= since


def ended_since(record: Json, since: datetime) -> list[str]:
    """The ids that were merged into *record* since *since*, by the history of the property that lists them."""
    versions = find(record, f"propertiesWithHistory.{MERGED}")
    if not isinstance(versions, list):
        return []
    ended: set[str] = set()
    before: set[str] = set()
    for version in versions:
        if isinstance(version, dict) and isinstance(version.get("value"), str):
            ids = {one.strip() for one in version["value"].split(";") if one.strip()}
            at = _moment(version.get("timestamp"))
            (before if at is not None and at < since else ended).update(ids)
    return sorted(ended - before - {str(record["id"])})


def _moment(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
