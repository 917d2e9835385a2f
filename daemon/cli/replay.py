"""`tidings replay`: ask for notifications to be sent again."""

import asyncio
import getpass
from datetime import UTC
from typing import Any

import asyncpg
import click

from daemon.cli.app import App, Verb, json_option, pass_app
from daemon.cli.display import milliseconds
from daemon.cli.outcome import Failed
from daemon.dates import DatePattern
from daemon.errors import NotFound
from daemon.service import Base
from daemon.store import deliveries, instances, log, replays, writer
from daemon.store.database import Db
from daemon.store.replays import Selection
from daemon.store.writer import Unit, append_once

LOOK = 0.25  # seconds between looks at how far it is
ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ssXXX")


@click.command(cls=Verb)
@click.option(
    "--instance", "instance_id", type=int, required=True, metavar="ID", help="Whose notifications."
)
@click.option(
    "--since",
    metavar="WHEN",
    help="From this position of the log, or this time (ISO 8601), on.  [default: the beginning]",
)
@click.option(
    "--until",
    metavar="WHEN",
    help="Up to and with this position, or up to this time.  [default: now]",
)
@click.option("--type", "object_type", metavar="TYPE", help="Only about objects of this type.")
@click.option("--object", "object_id", metavar="OBJECT", help="Only about the object with this id.")
@click.option(
    "--callback",
    "url",
    metavar="URL",
    help="Send them there.  [default: the instance's own callback]",
)
@click.option("--dry-run", is_flag=True, help="Count, and send nothing.")
@click.option("--no-wait", is_flag=True, help="Do not wait until all are sent.")
@json_option
@pass_app
def replay(
    app: App,
    *,
    instance_id: int,
    since: str | None,
    until: str | None,
    object_type: str | None,
    object_id: str | None,
    url: str | None,
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send notifications again, with their ids and bodies as they were.

    \b
    Examples:
      tidings replay --instance 17 --since 2026-11-20T08:00:00Z --dry-run
      tidings replay --instance 17 --since 4711 --until 4800 --type customers
    """
    result = app.run(
        _replay(
            app,
            instance_id,
            since=since,
            until=until,
            object_type=object_type,
            object_id=object_id,
            url=url,
            dry_run=dry_run,
            wait=not no_wait,
        )
    )
    if as_json:
        app.display.json(result)
    else:
        _show(app, result)
    if result["state"] not in {"counted", "nothing", "asked", "finished"}:
        raise Failed(
            f"the replay is {result['state']}: {result.get('reason') or 'see `tidings log tail`'}"
        )


async def _replay(
    app: App,
    instance_id: int,
    *,
    since: str | None,
    until: str | None,
    object_type: str | None,
    object_id: str | None,
    url: str | None,
    dry_run: bool,
    wait: bool,
) -> dict[str, Any]:
    async with app.base() as base:
        found = await instances.load(base.pool, [instance_id])
        if not found:
            raise NotFound(
                f"there is no instance {instance_id}; `tidings instances list` shows all"
            )
        if url is None and found[0].callback_url is None:
            raise Failed(
                f"instance {instance_id} has no callback", remedy="say where to: --callback URL"
            )
        head = await log.head(base.pool)
        after = 0 if since is None else await _position(base.pool, "--since", since, head) - 1
        last = head if until is None else await _until(base.pool, until, head)
        selection = await _whole(
            base.pool, Selection(instance_id, after, min(last, head), object_type, object_id)
        )
        counted = await replays.count(base.pool, selection)
        result: dict[str, Any] = {
            "instance": instance_id,
            "after": selection.after,
            "until": selection.until,
            "notifications": counted["notifications"],
            "changes": counted["changes"],
            "oldest": counted["oldest"] and milliseconds(counted["oldest"]),
            "newest": counted["newest"] and milliseconds(counted["newest"]),
        }
        if dry_run or not counted["notifications"]:
            return result | {"state": "counted" if dry_run else "nothing"}
        if wait and not await writer.owned(base.pool):
            raise Failed(
                "no daemon runs on this database, so nothing would be sent",
                remedy="start it, or say --no-wait",
            )
        async with base.pool.acquire() as conn:
            entry = replays.requested(selection, url=url, requested_by=getpass.getuser())
            receipt = await append_once(conn, base.keys, Unit([entry]))
        result["replay"] = receipt.position
        return result | (
            await _follow(app, base, receipt.position, selection) if wait else {"state": "asked"}
        )


async def _follow(app: App, base: Base, replay_id: int, selection: Selection) -> dict[str, Any]:
    """Show how far the replay is until it ends."""
    with app.display.progress("positions") as progress:
        task = progress.add_task(f"replay {replay_id}", total=selection.until - selection.after)
        while True:
            row = await replays.progress(base.pool, replay_id)
            if row is None:
                raise Failed(
                    f"replay {replay_id} is gone", remedy=f"`tidings log show {replay_id}`"
                )
            progress.update(task, completed=min(row["cursor"], selection.until) - selection.after)
            if row["state"] != "active":
                counts = {
                    r["state"]: r["number"] for r in await deliveries.counts(base.pool, replay_id)
                }
                return {"state": row["state"], "reason": row["reason"], "sent": counts}
            await asyncio.sleep(LOOK)


async def _position(db: Db, option: str, text: str, head: int) -> int:
    """The position that *text* names: itself, or the first at that time or later."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        time = ISO.parse(text, UTC)
    except ValueError as error:
        raise click.UsageError(
            f"{option} {text!r} is neither a position nor a time such as 2026-11-20T08:00:00Z"
        ) from error
    found = await log.position_at(db, time)
    return head + 1 if found is None else found


async def _until(db: Db, text: str, head: int) -> int:
    """The last position up to *text*: itself, or the last before that time."""
    position = await _position(db, "--until", text, head)
    return position if text.isdigit() else position - 1


async def _whole(db: Db, selection: Selection) -> Selection:
    """*selection* with whole notifications at both ends: they travel as they did."""
    after, until = selection.after, selection.until
    first: asyncpg.Record | None = await log.entry(db, after + 1)
    if first is not None and first["notification"] is not None:
        after = first["notification"] - 1
    last = await log.entry(db, until)
    if last is not None and last["notification"] is not None:
        until = (await log.changes_of_notifications(db, [last["notification"]]))[-1]["position"]
    return Selection(
        selection.instance_id, after, until, selection.object_type, selection.object_id
    )


def _show(app: App, result: dict[str, Any]) -> None:
    counted = f"{result['notifications']} notifications with {result['changes']} changes"
    span = f", from {result['oldest']} to {result['newest']}" if result["oldest"] else ""
    match result["state"]:
        case "counted":
            app.display.line(f"{counted}{span} would be sent; without --dry-run they are.")
        case "nothing":
            app.display.line(
                "There is nothing to send: no notification of the instance is in that range."
            )
        case "asked":
            app.display.line(f"Replay {result['replay']} was asked for: {counted}{span}.")
        case state:
            sent = ", ".join(f"{number} {name}" for name, number in result["sent"].items())
            app.display.line(f"Replay {result['replay']} is {state}: {sent or counted}.")
