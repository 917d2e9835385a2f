"""`tidings instances`: how each is, and switching it off and on."""

import asyncio
import getpass
from collections.abc import Iterable
from typing import Any

import asyncpg
import click

from daemon import elements as registry
from daemon.cli import entries
from daemon.cli.app import App, Verbs, json_option, pass_app
from daemon.cli.display import as_text, shown
from daemon.cli.outcome import Failed
from daemon.elements import Registry, watching
from daemon.errors import Invalid, NotFound
from daemon.model import Instance
from daemon.store import deliveries, log, objects, writer
from daemon.store import instances as store
from daemon.store.database import Conn, Db
from daemon.store.log import Entry
from daemon.store.writer import Unit, append_once

LOOK = 0.1  # seconds between looks for what a poll wrote


@click.group(cls=Verbs)
def instances() -> None:
    """The accounts that are watched."""


@instances.command("list")
@json_option
@pass_app
def list_(app: App, *, as_json: bool) -> None:
    """List the instances: how their polls and deliveries are."""

    async def read() -> list[dict[str, Any]]:
        async with app.base() as base:
            return await _states(base.pool, await store.load(base.pool))

    found = app.run(read())
    if as_json:
        app.display.json(found)
        return
    app.display.table(
        ("id", "name", "element", "state", "polls", "callback", "delivered", "open", "dead"),
        [
            (
                i["id"],
                i["name"],
                i["element"],
                f"off: {i['reason']}" if i["reason"] else "off" if i["disabled"] else "on",
                _polls(i),
                *_told(i),
            )
            for i in found
        ],
    )
    if not found:
        app.display.say(
            "none yet: POST /elements/api-v2/instances makes one; `tidings users add` gives the secrets for it"
        )


@instances.command()
@click.argument("instance_id", metavar="ID", type=int)
@json_option
@pass_app
def show(app: App, *, instance_id: int, as_json: bool) -> None:
    """Show one instance: configuration (secrets masked), polls, callback."""

    async def read() -> dict[str, Any]:
        async with app.base() as base:
            instance = await _instance(base.pool, instance_id)
            (state,) = await _states(base.pool, [instance])
            return state | {"configuration": dict(instance.configuration)}

    found = app.run(read())
    if as_json:
        app.display.json(found)
        return
    for key, value in found.items():
        if not isinstance(value, dict | list) or key == "tags":
            app.display.line(f"{key:<13} {shown(value)}")
    for heading in ("configuration", "callback"):
        app.display.line(heading)
        for key, value in sorted((found[heading] or {}).items()):
            app.display.line(f"  {key} = {shown(value)}")
    app.display.line("polls")
    for poll in found["polls"]:
        told = {k: v for k, v in poll.items() if k != "resource" and v not in (None, False, 0)}
        app.display.line(
            f"  {poll['resource']}: {', '.join(f'{k} {shown(v)}' for k, v in told.items())}"
        )


@instances.command()
@click.argument("instance_id", metavar="ID", type=int)
@click.option(
    "--wait",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="Wait so long for what the poll writes.",
)
@pass_app
def poll(app: App, instance_id: int, wait: float | None) -> None:
    """Ask the running daemon to poll an instance now.

    \b
    A poll that finds nothing writes nothing: with --wait that is told, and is no failure.
    A poll that fails is one.
    """
    found = app.run(_poll(app, instance_id, wait))
    if wait is None:
        app.display.line(
            f"Asked.  `tidings log tail -f --instance {instance_id}` shows what it finds."
        )
    elif not found:
        app.display.line(f"Nothing new within {wait:g} s.")
    for row in found:
        app.display.line(entries.line(row))
    if any(row["kind"] in {"poll.failed", "poll.disabled"} for row in found):
        raise Failed(
            "the poll failed",
            remedy=f"`tidings instances show {instance_id}` shows since when and why",
        )


async def _poll(app: App, instance_id: int, wait: float | None) -> list[asyncpg.Record]:
    settings = app.config()
    known = registry.load(settings.elements.directories)
    async with app.base(settings) as base:
        instance = await _instance(base.pool, instance_id)
        why = _unpolled(known, instance)
        if why is not None:
            raise Failed(
                f"instance {instance_id} {why}", remedy=f"`tidings instances show {instance_id}`"
            )
        if not await writer.owned(base.pool):
            raise Failed(
                "no daemon runs on this database",
                remedy="start it: `systemctl start tidings`, or `tidings run`",
            )
        before = await log.head(base.pool)
        await log.ask_poll(base.pool, instance_id)
        found: list[asyncpg.Record] = []
        try:
            async with asyncio.timeout(wait or 0):
                while not any(row["kind"].startswith("poll.") for row in found):
                    await asyncio.sleep(LOOK)
                    found = await log.entries(base.pool, before, 1000, instance_id=instance_id)
        except TimeoutError:
            pass  # it found nothing, or takes longer
        return found


def _unpolled(known: Registry, instance: Instance) -> str | None:
    """Why no poller reads *instance*; None where one does."""
    if instance.disabled:
        return "is off"
    if not instance.notifies:
        return "is not polled: event.notification.enabled is not true"
    try:
        plans = watching.polled(known.get(instance.element_key), instance)
    except (Invalid, NotFound) as error:
        return f"cannot be polled: {error}"
    return None if plans else "is not polled: its changes come by webhooks alone"


@instances.command()
@click.argument("instance_id", metavar="ID", type=int)
@click.option(
    "--callback", is_flag=True, help="Only its deliveries; polls and webhooks go on into the log."
)
@click.option("--reason", default="paused by an operator", help="Why, for those who ask.")
@pass_app
def pause(app: App, *, instance_id: int, callback: bool, reason: str) -> None:
    """Switch an instance off.  It keeps everything; `resume` goes on where it stopped."""

    async def append(conn: Conn, known: Registry) -> list[Entry]:
        instance = await _instance(conn, instance_id)
        if callback:
            row = await _callback(conn, instance_id)
            if row["state"] == "disabled":
                return []
            who = getpass.getuser()
            kind = "callback.disabled"
            return [deliveries.callback_entry(kind, row["id"], instance_id, reason, by=who)]
        if instance.disabled:
            return []
        return [await _switched(conn, known, instance, disabled=True)]

    done = app.run(_change(app, append))
    app.display.line(
        f"Paused: {', '.join(done)}." if done else f"Instance {instance_id} was paused already.",
        f" `tidings instances resume {instance_id}` goes on." if done else "",
    )


@instances.command()
@click.argument("instance_id", metavar="ID", type=int)
@click.option(
    "--allow-sweep",
    is_flag=True,
    help="Let its next sweep report more deletions than [polling] sweep_limit.",
)
@pass_app
def resume(app: App, *, instance_id: int, allow_sweep: bool) -> None:
    """Switch an instance on: it, its callback, and polls that were given up after failures."""

    async def append(conn: Conn, known: Registry) -> list[Entry]:
        instance = await _instance(conn, instance_id)
        found = (
            [await _switched(conn, known, instance, disabled=False)] if instance.disabled else []
        )
        for row in await objects.cursors(conn, instance_id):
            if allow_sweep and not row["allow_sweep"]:
                found.append(objects.poll_entry("sweep.allowed", instance_id, row["resource"]))
            elif row["disabled"]:
                found.append(objects.poll_entry("poll.resumed", instance_id, row["resource"]))
        found += [
            deliveries.callback_entry("callback.enabled", row["id"], instance_id)
            for row in await deliveries.callbacks(conn)
            if row["instance_id"] == instance_id and row["state"] == "disabled"
        ]
        return found

    done = app.run(_change(app, append, poll=instance_id))
    app.display.line(
        f"Resumed: {', '.join(done)}." if done else f"Nothing of instance {instance_id} was paused."
    )


async def _change(app: App, entries_of: Any, *, poll: int | None = None) -> list[str]:
    """Append what *entries_of* makes of the present state, which nobody changes meanwhile; the kinds appended."""
    settings = app.config()
    known = registry.load(settings.elements.directories)
    async with app.base(settings) as base, base.pool.acquire() as conn:
        async with conn.transaction():
            # An entry carries the whole instance: what was read must still be so when it is appended.
            await log.hold(conn)
            found: list[Entry] = await entries_of(conn, known)
            if found:
                await append_once(conn, base.keys, Unit(found))
        if found and poll is not None:
            await log.ask_poll(conn, poll)
        return list(dict.fromkeys(entry.kind for entry in found))


async def _switched(conn: Conn, known: Registry, instance: Instance, *, disabled: bool) -> Entry:
    so_far = [row["resource"] for row in await objects.cursors(conn, instance.id)]
    resources = watching.resources(known, instance, so_far=so_far)
    kind = "instance.disabled" if disabled else "instance.enabled"
    return store.changed(kind, instance, resources=resources, disabled=disabled)


async def _instance(db: Db, instance_id: int) -> Instance:
    found = await store.load(db, [instance_id])
    if not found:
        raise NotFound(f"there is no instance {instance_id}; `tidings instances list` shows all")
    return found[0]


async def _callback(db: Db, instance_id: int) -> asyncpg.Record:
    rows = [
        row
        for row in await deliveries.callbacks(db)
        if row["id"] == instance_id and row["state"] != "removed"
    ]
    if not rows:
        raise Failed(
            f"instance {instance_id} has no callback",
            remedy="set event.notification.callback.url through the API",
        )
    return rows[0]


async def _states(db: Db, found: Iterable[Instance]) -> list[dict[str, Any]]:
    wanted = list(found)
    alone = wanted[0].id if len(wanted) == 1 else None
    cursors: dict[int, list[dict[str, Any]]] = {}
    for row in await objects.cursors(db, alone):
        facts = {k: as_text(v) for k, v in row.items() if k != "instance_id"}
        cursors.setdefault(row["instance_id"], []).append(facts)
    counts: dict[int, dict[str, int]] = {}
    for row in await deliveries.counts(db, alone):
        counts.setdefault(row["callback_id"], {})[row["state"]] = row["number"]
    callbacks = {row["id"]: row for row in await deliveries.callbacks(db)}
    return [
        _state(one, cursors.get(one.id, []), callbacks.get(one.id), counts.get(one.id, {}))
        for one in wanted
    ]


def _state(
    instance: Instance,
    polls: list[dict[str, Any]],
    callback: asyncpg.Record | None,
    counts: dict[str, int],
) -> dict[str, Any]:
    told = None
    if callback is not None and callback["state"] != "removed":
        told = {
            "url": instance.callback_url,
            "state": callback["state"],
            "reason": callback["reason"],
            "cursor": callback["cursor"],
            "failing_since": as_text(callback["failing"]),
            "notifications": counts,
        }
    return {
        "id": instance.id,
        "name": instance.name,
        "element": instance.element_key,
        "tags": list(instance.tags),
        "disabled": instance.disabled,
        "reason": instance.reason,
        "events": instance.notifies,
        "created": as_text(instance.created),
        "updated": as_text(instance.updated),
        "polls": polls,
        "callback": told,
    }


def _polls(state: dict[str, Any]) -> str:
    polls = state["polls"]
    given_up = sum(poll["disabled"] for poll in polls)
    failing = sum(poll["failures"] > 0 for poll in polls) - given_up
    said = [f"{len(polls)} polled" if polls else "-"]
    said += [f"{failing} failing"] if failing > 0 else []
    said += [f"{given_up} given up"] if given_up else []
    return ", ".join(said)


def _told(state: dict[str, Any]) -> tuple[str, int, int, int]:
    callback = state["callback"]
    if callback is None:
        return "none", 0, 0, 0
    counts: dict[str, int] = callback["notifications"]
    delivered, dead = counts.get("delivered", 0), counts.get("dead", 0)
    failing = ", failing" if callback["failing_since"] else ""
    return callback["state"] + failing, delivered, sum(counts.values()) - delivered - dead, dead
