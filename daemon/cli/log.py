"""`tidings log`: the record of everything, read, carried out and in."""

import asyncio
from collections.abc import Sequence

import asyncpg
import click
import orjson

from daemon.cli import entries
from daemon.cli.app import App, Verbs, json_option, pass_app
from daemon.cli.display import shown
from daemon.cli.transfer import export_log, import_log
from daemon.errors import NotFound
from daemon.store import log as store

CHUNK = 500  # entries that one look takes
BACKSTOP = 1.0
"""Seconds after which the log is looked at though nobody said that there is something."""


@click.group(cls=Verbs)
def log() -> None:
    """The record of everything: changes, and the life of the system."""


log.add_command(export_log)
log.add_command(import_log)


@log.command()
@click.option(
    "-n",
    "number",
    type=click.IntRange(0, 100_000),
    default=20,
    show_default=True,
    help="How many entries from the end.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on as entries come, until Ctrl-C.")
@click.option("--instance", type=int, metavar="ID", help="Only those about this instance.")
@click.option(
    "--kind", metavar="KIND", help="Only those of this kind: change, delivery, poll.failed, …"
)
@json_option
@pass_app
def tail(
    app: App, *, number: int, follow: bool, instance: int | None, kind: str | None, as_json: bool
) -> None:
    """Show the end of the log; with --json one object a line.

    \b
    Examples:
      tidings log tail -f
      tidings log tail -n 1000 --instance 17 --kind poll.failed
      tidings log tail -f --kind change --json | jq .object_id
    """
    app.run(_tail(app, number=number, follow=follow, instance=instance, kind=kind, as_json=as_json))


async def _tail(
    app: App, *, number: int, follow: bool, instance: int | None, kind: str | None, as_json: bool
) -> None:
    async with app.base() as base:
        position = await store.head(base.pool)
        rows = await store.last_entries(base.pool, number, instance_id=instance, kind=kind)
        _show(app, rows, as_json=as_json)
        if not rows and not follow:
            app.display.say("nothing there")
        if not follow:
            return
        position = max([position, *(row["position"] for row in rows)])
        something = asyncio.Event()
        listening = await base.connect()
        try:
            await listening.add_listener("tidings", lambda *_: something.set())
            while True:
                head = await store.head(base.pool)
                while rows := await store.entries(
                    base.pool, position, CHUNK, instance_id=instance, kind=kind
                ):
                    _show(app, rows, as_json=as_json)
                    position = rows[-1]["position"]
                position = max(position, head)
                try:
                    async with asyncio.timeout(BACKSTOP):
                        await something.wait()
                except TimeoutError:
                    pass  # the backstop: look anyhow
                something.clear()
        finally:
            listening.terminate()


def _show(app: App, rows: Sequence[asyncpg.Record], *, as_json: bool) -> None:
    for row in rows:
        if as_json:
            app.display.out.file.write(orjson.dumps(entries.as_json(row)).decode() + "\n")
        else:
            app.display.line(entries.line(row))
    app.display.out.file.flush()


@log.command()
@click.argument("position", type=click.IntRange(min=1))
@json_option
@pass_app
def show(app: App, *, position: int, as_json: bool) -> None:
    """Show one entry with everything that it holds."""

    async def read() -> asyncpg.Record | None:
        async with app.base() as base:
            return await store.entry(base.pool, position)

    row = app.run(read())
    if row is None:
        raise NotFound(
            f"the log has no entry at position {position}; `tidings log tail` shows its end"
        )
    if as_json:
        app.display.json(entries.as_json(row))
        return
    for key, value in row.items():
        if value is not None and key != "data":
            app.display.line(
                f"{key:<13} {value.hex() if isinstance(value, bytes) else shown(value)}"
            )
    if row["data"] is not None:
        app.display.line("data")
        text = orjson.dumps(orjson.loads(row["data"]), option=orjson.OPT_INDENT_2).decode()
        for one in text.splitlines():
            app.display.line(f"  {one}")
