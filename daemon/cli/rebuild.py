"""`tidings rebuild`: every projection anew from the log."""

import time

import click

from daemon.cli.app import App, Verb, pass_app
from daemon.errors import NotOwner
from daemon.store import log, projections, writer


@click.command(cls=Verb)
@pass_app
def rebuild(app: App) -> None:
    """Fold every table but log and vault anew from the log, in one transaction.

    \b
    For when a projection is suspected of being wrong, or an upgrade says so.  The daemon must be stopped;
    until it is done, and if it is interrupted, everything stays as it was.
    """
    began = time.monotonic()
    entries = app.run(_rebuild(app))
    seconds = time.monotonic() - began
    app.display.line(f"Rebuilt from {entries} positions of the log in {seconds:.1f} s.")


async def _rebuild(app: App) -> int:
    async with app.base() as base:
        conn = await base.connect(owner=True)
        try:
            if not await writer.own(conn):
                raise NotOwner(
                    "a daemon runs on this database: stop it first (`systemctl stop tidings`), then rebuild"
                )
            head = await log.head(conn)
            with app.display.progress("positions") as progress:
                task = progress.add_task("rebuilding", total=head)
                async with conn.transaction():
                    async for done in projections.rebuild(conn):
                        progress.update(task, completed=done)
            return head
        finally:
            conn.terminate()
