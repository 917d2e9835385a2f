"""The records of one HubSpot account, as requests read them."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import orjson

from daemon.elements.address import with_query
from daemon.elements.base import Http
from daemon.elements.hubspot.answers import (
    archived_since,
    content,
    ended_since,
    get,
    ids_of,
    post,
    records_of,
)
from daemon.elements.hubspot.search import ID, MERGED, Kind, Search, merged_since, shaped
from daemon.elements.paths import find, text
from daemon.errors import Refused, Transient
from daemon.model import Json, Page, Response

LISTED = 100  # archived records on a page, and records in one request for records
NOT_FOUND = 404
WITH_HISTORY = 50  # records in one request for the history of a property


class Records:
    """Reads records below *root*; with *nulls* they show properties without a value."""

    def __init__(self, http: Http, *, root: str, nulls: bool, now: Callable[[], datetime]) -> None:
        self._http = http
        self._root = root
        self._nulls = nulls
        self._now = now

    async def search(self, search: Search, *, polled: bool = False) -> AsyncGenerator[Page]:
        """Yield what *search* finds, by id; *polled*: as it is now."""
        url = f"{self._root}/{search.kind.path}/search"
        last: int | None = None
        while True:
            answer = await post(self._http, url, search.body(last))
            body = content(answer)
            records = records_of(body)
            ids = ids_of(records, after=last)
            further = bool(records) and find(body, "paging.next.after") is not None
            if polled:
                records = await self._current(search, records)
            shown = tuple(shaped(search.kind, one, nulls=self._nulls) for one in records)
            yield Page(shown, self._asked(answer), last=not further)
            if not further:
                return
            last = ids[-1]

    async def _current(self, search: Search, records: list[Json]) -> list[Json]:
        """*records* as they are now: a search goes on showing what was, or is no more, until its index has followed.

        Without that a record that a poll has told as deleted would seem to be back.  Where the search asks for more
        than what changed since, what it shows of a record that is still there is left as it is: so it was found.
        """
        names = search.properties if search.plain else (ID,)
        ids = [str(one["id"]) for one in records]
        now: dict[str, Json] = {}
        for start in range(0, len(ids), LISTED):
            part = ids[start : start + LISTED]
            now |= (await self._by_id(search.kind, part, names))[0]
        there = [one for one in records if str(one["id"]) in now]
        return [now[str(one["id"])] for one in there] if search.plain else there

    async def _by_id(
        self,
        kind: Kind,
        ids: Sequence[str],
        properties: tuple[str, ...],
    ) -> tuple[dict[str, Json], datetime]:
        """The records *ids* that there are, and when HubSpot answered; one that was merged is not there."""
        inputs = [{"id": one} for one in ids]
        asked = {"inputs": inputs, "properties": properties, "propertiesWithHistory": []}
        url = f"{self._root}/{kind.path}/batch/read"
        answer = await post(self._http, url, orjson.dumps(asked))
        found = {str(one["id"]): one for one in records_of(content(answer))}
        return {one: found[one] for one in ids if one in found}, self._asked(answer)

    async def reread(self, search: Search, ids: Sequence[str]) -> AsyncGenerator[Page]:
        """Yield the records *ids* as *search* would show them now, those that are no more as archived."""
        numbers = [one for one in ids if one.isascii() and one.isdigit()]
        for start in range(0, len(numbers), LISTED):
            part = numbers[start : start + LISTED]
            there, asked = await self._by_id(search.kind, part, search.properties)
            now = [there.get(one, {"id": one, "archived": True}) for one in part]
            yield Page(tuple(shaped(search.kind, one, nulls=self._nulls) for one in now), asked)

    async def deleted(self, kind: Kind, since: datetime) -> AsyncGenerator[Page]:
        """Yield the records that ended since *since*: merged into another, then archived."""
        if kind.merge:
            async with aclosing(self.search(merged_since(kind, since))) as pages:
                async for page in pages:
                    for asked, ended in await self._ended(kind, page.records, since):
                        yield Page(ended, asked)
        root = f"{self._root}/{kind.path}"
        # There is no asking for what was archived since: all of it comes, in the order of ids.
        names = f"{ID},{MERGED}" if kind.merge else ID
        pairs = [("archived", "true"), ("limit", str(LISTED)), ("properties", names)]
        after = ""
        while True:
            url = with_query(root, [*pairs, ("after", after)] if after else pairs)
            answer = await get(self._http, url)
            body = content(answer)
            rows = [one for one in records_of(body) if archived_since(one, since)]
            winners = tuple(one for one in rows if find(one, f"properties.{MERGED}"))
            for asked, ended in await self._ended(kind, winners, since, archived=True):
                yield Page(ended, asked)
            following = text(find(body, "paging.next.after")) or ""
            if following == after and following:
                raise Transient("HubSpot's list of archived records does not go on")
            shown = tuple(shaped(kind, one, nulls=False) for one in rows)
            yield Page(shown, self._asked(answer), last=not following)
            if not following:
                return
            after = following

    async def _ended(
        self,
        kind: Kind,
        winners: tuple[Json, ...],
        since: datetime,
        *,
        archived: bool = False,
    ) -> list[tuple[datetime, tuple[Json, ...]]]:
        """The records that were merged into *winners* since *since*: their ids are in no list any more, of archived ones neither."""
        url = f"{self._root}/{kind.path}/batch/read"
        if archived:
            url = with_query(url, [("archived", "true")])
        found: list[tuple[datetime, tuple[Json, ...]]] = []
        for start in range(0, len(winners), WITH_HISTORY):
            asked = {
                "inputs": [{"id": str(one["id"])} for one in winners[start : start + WITH_HISTORY]],
                "properties": [ID],
                "propertiesWithHistory": [MERGED],
            }
            answer = await post(self._http, url, orjson.dumps(asked))
            ids = [one for row in records_of(content(answer)) for one in ended_since(row, since)]
            ended = tuple(shaped(kind, {"id": one}, nulls=True) for one in ids)
            found.append((self._asked(answer), ended))
        return found

    async def gone(self, kind: Kind, object_id: str) -> bool:
        """Whether there is no record *object_id*; the id of one that was merged leads to another."""
        if not (object_id.isascii() and object_id.isdigit()):
            return True
        try:
            answer = await get(self._http, f"{self._root}/{kind.path}/{object_id}")
        except Refused as error:
            if error.status == NOT_FOUND:
                return True
            raise
        return text(content(answer).get("id")) != object_id

    def _asked(self, answer: Response) -> datetime:
        try:
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError, TypeError):
            return self._now()
