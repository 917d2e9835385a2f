"""How one answer leads to the next: six kinds of paging, pure.

A walk ends where the provider says so: by an empty page, by a missing token or link, by a total, or by a page
that is shorter than asked for where the definition allows that sign.  It also ends where a provider repeats
itself: Sage answers a page number past the end with the last page again.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from daemon.elements.address import Pairs, following, with_query
from daemon.elements.definition import Paging
from daemon.elements.paths import find, text
from daemon.errors import Refused
from daemon.model import Json

_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^",;\s]+))*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^",;\s]+))', re.IGNORECASE)


class Walk:
    """One walk through a list; lives from its first request to its last answer."""

    def __init__(self, paging: Paging, *, base: str, id_path: str, size: int | None = None) -> None:
        self._paging = paging
        self._base = base
        self._id = id_path
        wanted = size or paging.size
        self._size = min(wanted, paging.size_max) if wanted and paging.size_max else wanted
        self._at = paging.first if paging.first is not None else int(paging.kind == "page")
        self._count = 0
        self._previous: bytes | None = None
        self._visited: set[bytes] = set()

    def first(self, url: str) -> str:
        """*url* with what asks for the first page."""
        pairs: Pairs = []
        if self._paging.size_parameter and self._size:
            pairs.append((self._paging.size_parameter, str(self._size)))
        if self._paging.kind in ("page", "offset"):
            pairs.append((self._paging.parameter, str(self._at)))
        url = with_query(url, pairs) if pairs else url
        self._visited.add(_digest(url))
        return url

    def repeated(self, records: Sequence[Json]) -> bool:
        """Whether this page is the one before it once more; such a page ends the walk and is not one of it."""
        mine = _digest([_identity(record, self._id) for record in records]) if records else None
        again = self._paging.kind in ("page", "offset") and mine is not None
        again = again and mine == self._previous
        self._previous = mine
        return again

    def after(
        self, url: str, headers: Mapping[str, str], body: Any, records: Sequence[Json]
    ) -> str | None:
        """The address of the page that follows, None where there is none.  Raises `Refused` for a circle."""
        self._count += len(records)
        if self._paging.kind != "none" and self._ended(body, records):
            return None
        there = self._next(url, headers, body, records)
        if there is None:
            return None
        mark = _digest(there)
        if mark in self._visited:
            raise Refused("the provider's pages run in a circle: a next page was there before")
        self._visited.add(mark)
        return there

    def total(self, headers: Mapping[str, str], body: Any) -> int | None:
        """How many records the provider says there are; None where it does not say."""
        if not self._paging.total:
            return None
        said = text(stated(self._paging.total, headers, body))
        return int(said) if said and said.isascii() and said.isdigit() else None

    def _ended(self, body: Any, records: Sequence[Json]) -> bool:
        paging = self._paging
        if paging.kind not in ("page", "offset"):
            return False  # a filter may leave a page empty while the token goes on
        if not records:
            return True
        if paging.more and not find(body, paging.more):
            return True
        return bool(paging.short_is_last and self._size and len(records) < self._size)

    def _next(
        self, url: str, headers: Mapping[str, str], body: Any, records: Sequence[Json]
    ) -> str | None:
        paging = self._paging
        match paging.kind:
            case "page" | "offset":
                total = self.total(headers, body)
                if total is not None and self._count >= total:
                    return None
                self._at += 1 if paging.kind == "page" else len(records)
                return with_query(url, [(paging.parameter, str(self._at))])
            case "token":
                token = text(stated(paging.next, headers, body))
                return with_query(url, [(paging.parameter, token)]) if token else None
            case "next_link":
                link = text(stated(paging.next, headers, body))
            case "link_header":
                link = next_link(headers.get("Link", ""))
            case _:
                return None
        if not link:
            return None
        return following(link, here=url, base=self._base, relative_to=paging.relative_to)


def stated(source: str, headers: Mapping[str, str], body: Any) -> Any:
    """The value at `header:NAME` or at a path of the body."""
    if source.startswith("header:"):
        return headers.get(source.removeprefix("header:"))
    return find(body, source)


def next_link(header: str) -> str | None:
    """The target of `rel="next"` in a Link header (RFC 8288), as it stands there."""
    for target, parameters in _LINK.findall(header):
        found = _REL.search(parameters)
        if found and "next" in (found[1] or found[2] or "").lower().split():
            return str(target)
    return None


def _identity(record: Json, path: str) -> Any:
    found = find(record, path) if path else None
    return record if found is None else found


def _digest(value: Any) -> bytes:
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).digest()
