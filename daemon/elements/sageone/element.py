"""Sage Business Cloud Accounting: described by definition.toml, but for lists that move while they are read.

Sage's pages are numbered and its contacts come by name, so whatever is deleted, created or renamed meanwhile shifts
the rows behind it: one may slip from a page that is still to come to one that was read.  A list of several pages is
therefore read again until nothing has moved.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

import orjson

from daemon.dates import DatePattern
from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.elements.paths import text
from daemon.errors import Invalid, Refused, Transient
from daemon.model import Json, Page, Query, Request, Response

WALKS = 5  # through one list, before it is left to the next poll

_WRITTEN = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ss'Z'")

Row = tuple[str | None, str | None]
"""Id and time of the last change, as far as a row shows them."""


class SageOne(Defined):
    """The element."""

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages that answer *query*; those of a list that moved, once more."""
        try:
            self.check_query(query)
        except Invalid as error:
            raise Refused(str(error)) from error
        return self._steadily(http, settings, query)

    async def _steadily(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        before: list[Row] | None = None
        for _ in range(WALKS):
            totals, rows, began = Totals(http), list[Row](), None
            async with aclosing(super().read(totals, settings, query)) as pages:
                async for page in pages:
                    began = began or page.asked
                    rows += [_row(record) for record in page.records]
                    yield page
            if totals.pages <= 1 or rows == before or _still(rows, totals.said, began):
                return
            before = rows
        raise Transient(f"{query.resource} moved {WALKS} times while it was read")


class Totals:
    """Implements `Http` over another one: notes how many rows each page says there are."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.pages = 0
        self.said: set[str | None] = set()

    async def send(self, request: Request) -> Response:
        """Send *request* and note what the answer says."""
        answer = await self._http.send(request)
        self.pages += 1
        try:
            body = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            return answer  # the reader says what is wrong with it
        self.said.add(text(body.get("$total")) if isinstance(body, dict) else None)
        return answer


def _still(rows: list[Row], totals: set[str | None], began: datetime | None) -> bool:
    """Whether nothing moved: as many rows came as every page said there are, and none is of after the beginning."""
    if totals != {str(len({name for name, _ in rows}))}:
        return False
    return began is None or not any(_since(stamp, began) for _, stamp in rows)


def _since(stamp: str | None, began: datetime) -> bool:
    """Whether *stamp*, in whole seconds, may be of *began* or later; one that cannot be read may be anything."""
    if stamp is None:
        return False
    try:
        return _WRITTEN.parse(stamp) >= began.replace(microsecond=0)
    except ValueError:
        return False


def _row(record: Json) -> Row:
    return text(record.get("id")), text(record.get("updated_at"))
