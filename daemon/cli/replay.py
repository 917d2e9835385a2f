"""`tidings replay`: ask for notifications to be sent again, and see how far that is."""

import asyncio
import getpass
import math
from collections.abc import Sequence
from datetime import UTC
from typing import Any

import asyncpg
import click
from click.core import ParameterSource

from daemon.cli.app import App, Verbs, config_option, json_option, pass_app
from daemon.cli.display import as_text
from daemon.cli.outcome import Failed
from daemon.dates import DatePattern
from daemon.errors import NotFound
from daemon.model import Instance
from daemon.outbound.addresses import AddressPolicy
from daemon.service import Base
from daemon.store import deliveries, instances, log, replays, writer
from daemon.store.database import Db
from daemon.store.replays import Selection, Terms
from daemon.store.writer import Unit, append_once

LOOK = 0.5  # seconds between looks at how far it is
RATE = 200.0  # a second
RATE_LEAST, RATE_MOST = 0.01, 10_000.0
ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ssXXX")
CANCELLED = "cancelled"  # how the reason of a replay that a person ended begins


@click.group(cls=Verbs, invoke_without_command=True)
@click.option("--instance", type=int, metavar="ID", help="Of this instance.")
@click.option("--element", metavar="KEY", help="Of all instances of this element.")
@click.option("--organization", metavar="NAME", help="Of all instances of this organization.")
@click.option("--all", "everything", is_flag=True, help="Of all instances.")
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
    "--to", "url", metavar="URL", help="Send them there.  [default: the instance's own callback]"
)
@click.option(
    "--to-instance", type=int, metavar="ID", help="Send them to this instance's callback."
)
@click.option(
    "--as-new", is_flag=True, help="Give them new ids: a receiver that has them takes them again."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=RATE_LEAST, max=RATE_MOST),
    default=RATE,
    metavar="N",
    help="At most so many a second, of each instance.  [default: 200]",
)
@click.option("--dry-run", is_flag=True, help="Count, and send nothing.")
@click.option("--no-wait", is_flag=True, help="Do not wait until all are sent.")
@json_option
@pass_app
@click.pass_context
def replay(
    context: click.Context,
    app: App,
    *,
    instance: int | None,
    element: str | None,
    organization: str | None,
    everything: bool,
    since: str | None,
    until: str | None,
    object_type: str | None,
    object_id: str | None,
    url: str | None,
    to_instance: int | None,
    as_new: bool,
    rate: float,
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send notifications again, with their ids and bodies as they were.

    \b
    Examples:
      tidings replay --instance 17 --since 2026-11-20T08:00:00Z --dry-run
      tidings replay --instance 17 --since 4711 --until 4800 --type customers
      tidings replay --all --since 2026-11-20T08:00:00Z --to https://new.example.com/events
      tidings replay list
    """
    if context.invoked_subcommand is not None:
        given = ParameterSource.COMMANDLINE
        if any(context.get_parameter_source(name) is given for name in context.params):
            raise click.UsageError(f"options come after `{context.invoked_subcommand}`")
        return
    chosen = (instance is not None, element is not None, organization is not None, everything)
    if sum(chosen) != 1:
        raise click.UsageError(
            "say whose: one of --instance ID, --element KEY, --organization NAME, --all"
        )
    if math.isnan(rate):
        raise click.UsageError("--rate should be a number")  # which no range knows to refuse
    if url is not None and to_instance is not None:
        raise click.UsageError("--to and --to-instance are two places; name one")
    result = app.run(
        _replay(
            app,
            instance=instance,
            element=element,
            organization=organization,
            since=since,
            until=until,
            kind=object_type,
            object_id=object_id,
            terms=Terms(url, to_instance, as_new, rate),
            dry_run=dry_run,
            wait=not no_wait,
        )
    )
    if as_json:
        app.display.json(result)
    else:
        _show(app, result)
    if result["state"] == "failed":
        bad = [one for one in result["replays"] if one["state"] != "finished"]
        raise Failed(
            "\n".join(f"replay {o['id']} is {o['state']}: {o['reason'] or ''}" for o in bad),
            remedy="`tidings replay resume ID` lets one go on",
        )


replay.params.append(config_option())


@replay.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@json_option
@pass_app
def list_(app: App, *, everything: bool, as_json: bool) -> None:
    """List the replays that have not ended, and how far each is."""

    async def read() -> list[dict[str, Any]]:
        async with app.base() as base:
            return [_state(row) for row in await replays.states(base.pool, ended=everything)]

    found = app.run(read())
    if as_json:
        app.display.json(found)
        return
    app.display.table(
        ("id", "instance", "state", "to", "delivered", "open", "dead", "of", "asked for", "by"),
        [
            (
                one["id"],
                one["instance"],
                f"{one['state']}: {one['reason']}" if one["reason"] else one["state"],
                one["to"],
                one["delivered"],
                one["open"],
                one["dead"],
                one["notifications"],
                one["requested"],
                one["by"],
            )
            for one in found
        ],
    )


@replay.command()
@click.argument("replay_id", type=int, metavar="ID")
@pass_app
def cancel(app: App, *, replay_id: int) -> None:
    """End a replay: what is under way ends, nothing more is sent."""
    reason = f"{CANCELLED} by {getpass.getuser()}"
    app.run(_switch(app, replay_id, "callback.disabled", reason))
    app.display.line(
        f"Replay {replay_id} is cancelled; `tidings replay resume {replay_id}` lets it go on."
    )


@replay.command()
@click.argument("replay_id", type=int, metavar="ID")
@pass_app
def resume(app: App, *, replay_id: int) -> None:
    """Let a replay go on that was cancelled, or disabled because its receiver failed for days."""
    app.run(_switch(app, replay_id, "callback.enabled", None))
    app.display.line(f"Replay {replay_id} goes on where it stopped.")


async def _switch(app: App, replay_id: int, kind: str, reason: str | None) -> None:
    wanted = "active" if kind == "callback.disabled" else "disabled"
    async with app.base() as base, base.pool.acquire() as conn, conn.transaction():
        await log.hold(conn)  # what it is now, it is when the entry is appended
        found = await replays.states(conn, [replay_id])
        if not found:
            raise NotFound(
                f"there is no replay {replay_id}; `tidings replay list --all` shows them"
            )
        if found[0]["state"] != wanted:
            raise Failed(f"replay {replay_id} is {found[0]['state']}, and not {wanted}")
        entry = deliveries.callback_entry(
            kind, replay_id, found[0]["instance_id"], reason, by=getpass.getuser()
        )
        await append_once(conn, base.keys, Unit([entry]))


async def _replay(
    app: App,
    *,
    instance: int | None,
    element: str | None,
    organization: str | None,
    since: str | None,
    until: str | None,
    kind: str | None,
    object_id: str | None,
    terms: Terms,
    dry_run: bool,
    wait: bool,
) -> dict[str, Any]:
    _check_address(app, terms.url)
    async with app.base() as base:
        ids = None if instance is None else [instance]
        if ids is None:
            ids = await replays.instances_of(base.pool, element=element, organization=organization)
        found = await instances.load(base.pool, ids)
        if not found:
            raise NotFound(
                f"there is no instance {'of that kind' if instance is None else instance};"
                " `tidings instances list` shows all"
            )
        head = await log.head(base.pool)
        after = (
            0 if since is None else max(await _position(base.pool, "--since", since, head), 1) - 1
        )
        last = head if until is None else await _until(base.pool, until, head)
        selection = await replays.whole(
            base.pool, Selection(after, min(last, head), kind, object_id)
        )
        reached = await _reached(base.pool, found, terms)
        counted = await replays.count(base.pool, [one.id for one in found], selection)
        mine = {one: row for one, row in counted.items() if one in reached}
        result = _counted(selection, mine, left_out=sorted(counted.keys() - reached))
        if dry_run or not mine:
            return result | {"state": "counted" if dry_run else "nothing"}
        if wait and not await writer.owned(base.pool):
            raise Failed(
                "no daemon runs on this database, so nothing would be sent",
                remedy="start it, or say --no-wait",
            )
        by = getpass.getuser()
        entries = [
            replays.requested(one, selection, terms, notifications=row["notifications"], by=by)
            for one, row in mine.items()
        ]
        async with base.pool.acquire() as conn:
            receipt = await append_once(conn, base.keys, Unit(entries))
        asked = [receipt.position + number for number in range(len(entries))]
        if wait:
            await _follow(app, base, asked, result["notifications"])
        states = [_state(row) for row in await replays.states(base.pool, asked)]
        ended = "finished" if all(one["state"] == "finished" for one in states) else "failed"
        return result | {"state": ended if wait else "asked", "replays": states}


def _check_address(app: App, url: str | None) -> None:
    if url is None:
        return
    policy = AddressPolicy(allow=app.config().outbound.allow_networks)
    if (problem := policy.check_url(url)) is not None:
        raise click.UsageError(f"--to {url!r}: the URL {problem}")


async def _reached(db: Db, found: Sequence[Instance], terms: Terms) -> set[int]:
    """Which of the instances' notifications have somewhere to go."""
    if terms.url is not None:
        return {one.id for one in found}
    if terms.to_instance is not None:
        others = await instances.load(db, [terms.to_instance])
        if not others:
            raise NotFound(
                f"there is no instance {terms.to_instance}; `tidings instances list` shows all"
            )
        if others[0].callback_url is None:
            raise Failed(f"instance {terms.to_instance} has no callback", remedy="say --to URL")
        return {one.id for one in found}
    reached = {one.id for one in found if one.callback_url is not None}
    if not reached:
        who = f"instance {found[0].id} has" if len(found) == 1 else "these instances have"
        raise Failed(f"{who} no callback", remedy="say where to: --to URL, or --to-instance ID")
    return reached


def _counted(
    selection: Selection, counted: dict[int, asyncpg.Record], *, left_out: Sequence[int]
) -> dict[str, Any]:
    rows = counted.values()
    return {
        "after": selection.after,
        "until": selection.until,
        "notifications": sum(row["notifications"] for row in rows),
        "changes": sum(row["changes"] for row in rows),
        "oldest": as_text(min((row["oldest"] for row in rows), default=None)),
        "newest": as_text(max((row["newest"] for row in rows), default=None)),
        "instances": {str(one): row["notifications"] for one, row in counted.items()},
        "without_callback": list(left_out),
        "replays": [],
    }


def _state(row: asyncpg.Record) -> dict[str, Any]:
    asked = row["replay"]
    to = asked.get("url")
    if to is None and asked.get("to_instance") is not None:
        to = f"instance {asked['to_instance']}"
    return {
        "id": row["id"],
        "instance": row["instance_id"],
        "state": row["state"],
        "reason": row["reason"],
        "to": to or "its callback",
        "as_new": bool(asked.get("as_new")),
        "rate": asked.get("rate"),
        "position": row["cursor"],
        "until": row["until"],
        "notifications": asked.get("notifications"),
        "delivered": row["delivered"],
        "dead": row["dead"],
        "open": row["open"],
        "failing_since": as_text(row["failing"]),
        "requested": as_text(row["requested"]),
        "by": asked.get("requested_by"),
    }


async def _follow(app: App, base: Base, asked: Sequence[int], total: int) -> None:
    """Show how far the replays are until all have ended."""
    names = f"replay {asked[0]}" if len(asked) == 1 else f"{len(asked)} replays"
    try:
        with app.display.progress("notifications") as progress:
            task = progress.add_task(names, total=total)
            while True:
                rows = await replays.states(base.pool, asked)
                progress.update(task, completed=sum(r["delivered"] + r["dead"] for r in rows))
                if all(row["state"] != "active" for row in rows):
                    return
                await asyncio.sleep(LOOK)
    except asyncio.CancelledError:
        goes = f"Replay {asked[0]} goes" if len(asked) == 1 else f"{len(asked)} replays go"
        app.display.say(
            f"{goes} on: `tidings replay list` shows how far, `tidings replay cancel ID` ends one."
        )
        raise


async def _position(db: Db, option: str, text: str, head: int) -> int:
    """The position that *text* names: itself, or the first at that time or later."""
    if text.isascii() and text.isdigit():
        return min(int(text), head + 1)
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


def _show(app: App, result: dict[str, Any]) -> None:
    counted = f"{result['notifications']} notifications with {result['changes']} changes"
    span = f", from {result['oldest']} to {result['newest']}" if result["oldest"] else ""
    if left_out := result["without_callback"]:
        app.display.say(f"left out, for want of a callback: {', '.join(map(str, left_out))}")
    match result["state"]:
        case "counted":
            if len(result["instances"]) > 1:
                app.display.table(("instance", "notifications"), list(result["instances"].items()))
            app.display.line(f"{counted}{span} would be sent; without --dry-run they are.")
        case "nothing":
            app.display.line("There is nothing to send: no notification is in that range.")
        case "asked":
            ids = ", ".join(str(one["id"]) for one in result["replays"])
            app.display.line(f"Replay {ids} was asked for: {counted}{span}.")
        case _:
            for one in result["replays"]:
                app.display.line(
                    f"Replay {one['id']} of instance {one['instance']} is {one['state']}:"
                    f" {one['delivered']} delivered, {one['dead']} dead, {one['open']} open."
                )
