"""A proxy in front of PostgreSQL that breaks connections where a test wants it.

It listens on a unix socket and speaks to the server's unix socket, so `dsn` is the server's with another
`host`.  It understands nothing of the protocol but can look for bytes in what passes.
"""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

# asyncpg's transactions send COMMIT as a simple query; the server's answer to it names it again.
COMMIT_ASKED = b"COMMIT;\0"
COMMIT_DONE = b"COMMIT\0"

SOCKET = ".s.PGSQL.5432"


@dataclass(slots=True, eq=False)
class Cut:
    """When *text* comes by, both sides of that connection are cut; with *passes*, after it went through.

    *up* is from the client to the server.  With *holds* nothing is cut: everything stops until `resume`.
    """

    text: bytes
    up: bool
    passes: bool
    holds: bool = False
    happened: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Passes everything on until told otherwise; an async context manager."""

    def __init__(self, dsn: str) -> None:
        host = parse_qs(urlsplit(dsn).query)["host"][0]
        self._server = Path(host) / SOCKET
        self._directory = Path(tempfile.mkdtemp(prefix="tidings-proxy-"))
        self.dsn = dsn.replace(f"host={host}", f"host={self._directory}").replace(
            f"host={quote(host, safe='')}", f"host={self._directory}"
        )
        self.refusing = False
        """New connections are closed at once."""
        self.connections = 0
        """How many were let through so far."""
        self._open: set[asyncio.StreamWriter] = set()
        self._cuts: list[Cut] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._site = await asyncio.start_unix_server(self._accept, str(self._directory / SOCKET))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._site.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    def cut_at(self, text: bytes, *, up: bool, passes: bool) -> Cut:
        """Cut the connection on which *text* comes by next, once."""
        return self._at(Cut(text, up, passes))

    def _at(self, cut: Cut) -> Cut:
        self._cuts.append(cut)
        return cut

    def lose_commit(self) -> Cut:
        """The next COMMIT does not reach the server."""
        return self.cut_at(COMMIT_ASKED, up=True, passes=False)

    def lose_answer(self) -> Cut:
        """The next COMMIT is done, and its answer does not reach the client."""
        return self.cut_at(COMMIT_DONE, up=False, passes=False)

    def race_commit(self) -> Cut:
        """The next COMMIT reaches the server, and the connection is cut at that moment."""
        return self.cut_at(COMMIT_ASKED, up=True, passes=True)

    def watch_commit(self) -> Cut:
        """The next COMMIT is held, with all that follows, until `resume`."""
        return self._at(Cut(COMMIT_ASKED, up=True, passes=True, holds=True))

    def hold(self) -> None:
        """Let nothing through, either way, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(self._server))
        both = {writer, up_writer}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, up_writer, both, up=True))
                group.create_task(self._pass(up_reader, writer, both, up=False))
        except* OSError:
            pass  # a side went away: what this proxy is for
        finally:
            self._open -= both
            for side in both:
                side.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: set[asyncio.StreamWriter],
        *,
        up: bool,
    ) -> None:
        while chunk := await reader.read(65536):
            cut = next((c for c in self._cuts if c.up == up and c.text in chunk), None)
            if cut is not None:
                self._cuts.remove(cut)
                cut.happened.set()
                if cut.holds:
                    self.hold()
                    cut = None
            await self._flowing.wait()
            if cut is None or cut.passes:
                writer.write(chunk)
                await writer.drain()
            if cut is not None:
                for side in both:
                    side.transport.abort()
                return
        for side in both:
            side.transport.abort()
