"""`tidings log export` and `tidings log import`: the record as a file, and back."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click

from daemon import service
from daemon.cli.app import App, Verb, pass_app
from daemon.errors import Invalid, NotOwner
from daemon.store import database, transfer, writer

POSITION = click.IntRange(min=1)


@click.command(name="export", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option(
    "--since", type=POSITION, default=1, metavar="POSITION", help="From this position on."
)
@click.option("--until", type=POSITION, metavar="POSITION", help="Up to this position.")
@click.option(
    "--vault",
    "secrets",
    is_flag=True,
    help="With the vault's rows, sealed as they are: the key file is not in them.",
)
@pass_app
def export_log(app: App, *, file: Path, since: int, until: int | None, secrets: bool) -> None:
    """Write the log to FILE, or to standard output for -, one JSON object a line.

    \b
    The daemon may go on meanwhile: what is appended after the start is not in it.  FILE has its name only
    when it is whole.
    Examples:
      tidings log export --vault /var/backups/tidings.jsonl
      tidings log export - | zstd > tidings.jsonl.zst
    """
    if until is not None and until < since:
        raise Invalid({"--until": f"should be {since} or more"})
    size = app.run(_export(app, file, since=since, until=until, secrets=secrets))
    app.display.say(f"Exported {size} bytes.")


async def _export(app: App, file: Path, *, since: int, until: int | None, secrets: bool) -> int:
    size = 0
    async with app.base() as base:
        with _target(file) as out, app.display.progress("positions") as progress:
            task = progress.add_task("exporting", total=None)
            async for piece in transfer.export(
                base.pool, since=since, until=until, secrets=secrets
            ):
                await asyncio.to_thread(out.write, piece.lines)
                size += len(piece.lines)
                progress.update(task, completed=piece.position, total=piece.until)
    return size


@contextmanager
def _target(file: Path) -> Generator[BinaryIO]:
    """Standard output for `-`; else a file readable by its owner only, which gets its name when it is whole."""
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(handle)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


@click.command(name="import", cls=Verb)
@click.argument(
    "file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
)
@click.option(
    "--skip",
    type=click.IntRange(0, 10**9),
    default=0,
    metavar="POSITIONS",
    help="Leave so many positions free: for an export that is older than what was sent last.",
)
@pass_app
def import_log(app: App, *, file: Path, skip: int) -> None:
    """Put an exported log (FILE, or - for standard input) into an empty database, and rebuild everything.

    \b
    All in one transaction: interrupted, the database is as empty as before.  Then the daemon goes on where
    the exported log was: nothing that was settled is sent again.
    The export needs its vault (`--vault`) for secrets to be there, and the same key file.
    """
    began = time.monotonic()
    done = app.run(_import(app, file, skip))
    seconds = time.monotonic() - began
    app.display.line(
        f"Imported {done.entries} entries and {done.secrets} secrets in {seconds:.1f} s."
    )


async def _import(app: App, file: Path, skip: int) -> transfer.Restored:
    done = transfer.Restored()
    async with app.base(opened=False) as base:
        conn = await base.connect(owner=True)
        try:
            await _own(conn)
            with _source(file) as source, app.display.progress("positions") as progress:
                reading = progress.add_task("importing", total=None)
                folding = progress.add_task("rebuilding", total=None)
                async with conn.transaction():
                    async for done in transfer.restore(
                        conn, _groups(source), keys=base.keys, skip=skip
                    ):
                        progress.update(reading, completed=done.position, total=done.until)
                        progress.update(folding, completed=done.rebuilt, total=done.until)
        finally:
            conn.terminate()
        if done.entries == 0:
            # An export of an empty log: what every other verb would have done.
            await service.open_log(base)
    return done


async def _own(conn: database.Conn) -> None:
    if not await writer.own(conn):
        raise NotOwner(
            "a daemon runs on this database: stop it first, and import into an empty database"
        )


@contextmanager
def _source(file: Path) -> Generator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with file.open("rb") as source:
        yield source


async def _groups(source: BinaryIO) -> AsyncIterator[list[bytes]]:
    """The lines, some at a time; read in a thread, so that a silent pipe does not hold up a signal."""
    while group := await asyncio.to_thread(lambda: list(islice(source, transfer.CHUNK))):
        yield group
