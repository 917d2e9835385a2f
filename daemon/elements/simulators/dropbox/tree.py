"""The files and folders of a simulated Dropbox: a tree by path, and the journal that its cursors go through.

Paths are compared without case, as Dropbox does.  A journal entry says that something is at a path, or that nothing
is there any more nor below it; a move is both.  What a page shows of a path is what is there when it is asked for.
"""

import base64
import hashlib
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import orjson

from daemon.dates import iso_seconds
from daemon.elements.simulators.ledger import Now, system_clock
from daemon.model import Json

BLOCK = 4 * 1024 * 1024  # bytes of a block of `content_hash`
JOURNAL = 100_000  # entries that the journal keeps; a cursor from before is lost
LARGEST_PAGE = 2000


class Conflict(Exception):
    """Dropbox's answer 409: the tags that lead to the reason, as `path/not_found`."""


@dataclass(frozen=True, slots=True)
class Node:
    """A file, or (without *rev*) a folder."""

    id: str
    path: str
    rev: str = ""
    content: bytes = b""
    modified: datetime | None = None

    def metadata(self) -> Json:
        """As the API writes it."""
        tag = "file" if self.rev else "folder"
        shown: Json = {".tag": tag, "name": self.path.rpartition("/")[2], "id": self.id}
        if self.rev and self.modified is not None:
            stamp = iso_seconds(self.modified)
            shown |= {
                "client_modified": stamp,
                "server_modified": stamp,
                "rev": self.rev,
                "size": len(self.content),
                "is_downloadable": True,
                "content_hash": content_hash(self.content),
            }
        return shown | {"path_lower": self.path.lower(), "path_display": self.path}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a reader is: in a listing after the path *after*, or else in the journal after number *read*."""

    path: str
    recursive: bool
    limit: int
    epoch: int
    read: int
    after: str | None = None

    def text(self) -> str:
        """The opaque text that a reader gets."""
        told = [self.path, self.recursive, self.limit, self.epoch, self.read, self.after]
        return "AA" + base64.urlsafe_b64encode(orjson.dumps(told)).decode()

    @classmethod
    def of(cls, text: str) -> "Cursor":
        """Raises `ValueError` for what is no cursor."""
        try:
            told = orjson.loads(base64.urlsafe_b64decode(text.removeprefix("AA")))
            path, recursive, limit, epoch, read, after = told
        except (TypeError, ValueError) as error:
            raise ValueError('Invalid "cursor" parameter') from error
        return cls(path, recursive, limit, epoch, read, after)


@dataclass(slots=True)
class Tree:
    """One account's files; *moves_end_first* has the journal tell of a move's new place before its old one."""

    now: Now = system_clock
    moves_end_first: bool = False
    nodes: dict[str, Node] = field(default_factory=dict)  # by path in lower case
    epoch: int = 0
    """Cursors of an earlier one are answered with `reset`."""
    _journal: deque[tuple[int, bool, str]] = field(default_factory=lambda: deque(maxlen=JOURNAL))
    _number: int = 0
    _revisions: int = 0

    # Changing.

    def upload(self, path: str, content: bytes, *, mode: str = "overwrite", rev: str = "") -> Node:
        """Write a file.  *mode* is `add`, `overwrite` or `update` (of the revision *rev*); raises `Conflict`."""
        path = self._clean(path)
        there = self.nodes.get(path.lower())
        if there is not None and not there.rev:
            raise Conflict("path/conflict/folder")
        if there is not None and there.content == content and mode == "add":
            return there
        if there is not None and (mode == "add" or (mode == "update" and there.rev != rev)):
            raise Conflict("path/conflict/file")
        self._parents(path)
        self._revisions += 1
        made = Node(
            id=there.id if there else _id(),
            path=path,
            rev=f"{0x015A00000000000 + self._revisions:x}",
            content=content,
            modified=self.now(),
        )
        return self._put(made)

    def folder(self, path: str) -> Node:
        """Make a folder, and those above it; raises `Conflict`."""
        path = self._clean(path)
        there = self.nodes.get(path.lower())
        if there is not None:
            raise Conflict(f"path/conflict/{'file' if there.rev else 'folder'}")
        self._parents(path)
        return self._put(Node(_id(), path))

    def delete(self, path: str) -> Node:
        """Delete what is at *path* and below it; raises `Conflict`."""
        node = self.at(path, "path_lookup")
        for key in [node.path.lower(), *self._below(node.path)]:
            del self.nodes[key]
        self._note(node.path.lower(), there=False)
        return node

    def move(self, source: str, target: str) -> Node:
        """Move what is at *source*, with all below it; raises `Conflict`."""
        node, target = self.at(source, "from_lookup"), self._clean(target)
        old, new = node.path.lower(), target.lower()
        if new == old or new.startswith(f"{old}/"):
            raise Conflict("duplicated_or_nested_paths")
        if new in self.nodes:
            raise Conflict(f"to/conflict/{'file' if self.nodes[new].rev else 'folder'}")
        self._parents(target)
        if not self.moves_end_first:
            self._note(old, there=False)
        for key in [old, *self._below(node.path)]:
            one = self.nodes.pop(key)
            self._put(replace(one, path=target + one.path[len(node.path) :]))
        if self.moves_end_first:
            self._note(old, there=False)
        return self.nodes[new]

    # Reading.

    def at(self, path: str, tag: str = "path") -> Node:
        """What is at *path*, or has it for its id; raises `Conflict`."""
        if path.startswith("id:"):
            found = next((one for one in self.nodes.values() if one.id == path), None)
        else:
            found = self.nodes.get(self._clean(path).lower())
        if found is None:
            raise Conflict(f"{tag}/not_found")
        return found

    def begin(self, path: str, *, recursive: bool, limit: int, listed: bool = True) -> Cursor:
        """A cursor at the beginning of a listing, or, if not *listed*, at its end; raises `Conflict`."""
        path = self._clean(path).lower() if path else ""
        if path and self.at(path).rev:
            raise Conflict("path/not_folder")
        after = "" if listed else None
        return Cursor(path, recursive, limit, self.epoch, self._number, after)

    def has_news(self, cursor: Cursor) -> bool:
        """Whether a reader at *cursor* would get anything."""
        return cursor.after is not None or any(self._news(cursor))

    def page(self, cursor: Cursor) -> tuple[list[Json], Cursor, bool]:
        """Entries from *cursor* on, the cursor after them, and whether more follow; raises `Conflict`."""
        oldest = self._journal[0][0] if self._journal else self._number + 1
        if cursor.epoch != self.epoch or cursor.read < oldest - 1:
            raise Conflict("reset")
        if cursor.after is not None:
            return self._listed(cursor, cursor.after)
        entries: list[Json] = []
        for number, there, path in self._news(cursor):
            if len(entries) == cursor.limit:
                return entries, cursor, True
            cursor = replace(cursor, read=number)
            if not there:
                entries.append(self._deleted(path))
            elif path in self.nodes:
                entries.append(self.nodes[path].metadata())
        if not entries and cursor.path and cursor.path not in self.nodes:
            raise Conflict("path/not_found")
        return entries, replace(cursor, read=self._number), False

    def _listed(self, cursor: Cursor, after: str) -> tuple[list[Json], Cursor, bool]:
        found = sorted(key for key in self.nodes if key > after and self._seen(cursor, key))
        shown = found[: cursor.limit]
        more = len(found) > len(shown)
        cursor = replace(cursor, after=shown[-1] if more else None)
        return [self.nodes[key].metadata() for key in shown], cursor, more or self.has_news(cursor)

    def _news(self, cursor: Cursor) -> Iterator[tuple[int, bool, str]]:
        """What of the journal a reader at *cursor* is told: of an object that came to a path, the last time."""
        news = [one for one in self._journal if one[0] > cursor.read]
        last = {path: number for number, there, path in news if there}
        for number, there, path in news:
            if there and last[path] != number:
                continue
            if not there and cursor.path.startswith(f"{path}/"):
                yield number, there, cursor.path
            elif self._seen(cursor, path):
                yield number, there, path

    def _seen(self, cursor: Cursor, path: str) -> bool:
        """Whether *path* is among what *cursor* reads."""
        if cursor.recursive:
            return path == cursor.path or path.startswith(f"{cursor.path}/")
        return path.rpartition("/")[0] == cursor.path

    def _deleted(self, path: str) -> Json:
        name = path.rpartition("/")[2]
        return {".tag": "deleted", "name": name, "path_lower": path, "path_display": path}

    def _put(self, node: Node) -> Node:
        self.nodes[node.path.lower()] = node
        self._note(node.path.lower(), there=True)
        return node

    def _note(self, path: str, *, there: bool) -> None:
        self._number += 1
        self._journal.append((self._number, there, path))

    def _parents(self, path: str) -> None:
        above = path.rpartition("/")[0]
        if not above:
            return
        there = self.nodes.get(above.lower())
        if there is None:
            self._parents(above)
            self._put(Node(_id(), above))
        elif there.rev:
            raise Conflict("path/conflict/file_ancestor")

    def _below(self, path: str) -> list[str]:
        prefix = f"{path.lower()}/"
        return sorted(key for key in self.nodes if key.startswith(prefix))

    @staticmethod
    def _clean(path: str) -> str:
        if not path.startswith("/") or path.endswith("/") or "//" in path:
            raise Conflict("path/malformed_path")
        return path


def content_hash(content: bytes) -> str:
    """Dropbox's hash of a file: the SHA-256 of the SHA-256 of each block."""
    blocks = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    whole = b"".join(hashlib.sha256(block).digest() for block in blocks)
    return hashlib.sha256(whole).hexdigest()


def _id() -> str:
    return "id:" + secrets.token_urlsafe(17)[:22]
