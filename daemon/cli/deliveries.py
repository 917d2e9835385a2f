"""`tidings deliveries`, `tidings callbacks`: dead letters and held deliveries, and bringing callbacks back."""

import getpass
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import click

from daemon.api.redelivery import (
    RETRIABLE,
    STATES,
    pages,
    refusal,
    request_of,
    unfit,
)
from daemon.cli.app import App, Verbs, json_option, pass_app
from daemon.cli.display import as_text, shown
from daemon.cli.outcome import Failed
from daemon.dates import DatePattern
from daemon.errors import NotFound
from daemon.service import Base
from daemon.store import deliveries as store
from daemon.store import instances, log
from daemon.store.database import Db
from daemon.store.log import Entry
from daemon.store.reader import Reader
from daemon.store.writer import Unit, append_once

ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ssXXX")
BACKLOG_MOST = 100_000
"""Notifications that wait for a callback are counted up to here."""
ERROR_MOST = 80
"""Characters of an error in a table; `show` has all of it."""


@click.group("deliveries", cls=Verbs)
def deliveries() -> None:
    """What was not delivered: dead letters, held deliveries, and what is tried again."""


@click.group("callbacks", cls=Verbs)
def callbacks() -> None:
    """Where notifications go, and whether they arrive."""


def _time(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else ISO.parse(value, UTC)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time such as 2026-11-20T08:00:00Z") from error


_since = click.option(
    "--since",
    metavar="TIME",
    callback=_time,
    help="Only what came to be so at this time (ISO 8601) or later.",
)


@deliveries.command("list")
@click.option("--instance", "instance_id", type=int, metavar="ID", help="Only of this instance.")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Only in this state; may be repeated.  [default: all]",
)
@_since
@click.option(
    "-n", "number", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many."
)
@json_option
@pass_app
def list_(
    app: App,
    *,
    instance_id: int | None,
    states: Sequence[str],
    since: datetime | None,
    number: int,
    as_json: bool,
) -> None:
    """List what is not delivered, callback by callback, oldest first.

    \b
    Examples:
      tidings deliveries list --state dead --state held
      tidings deliveries list --instance 17 --since 2026-11-20T08:00:00Z --json
    """

    async def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with app.base() as base:
            log_id = await log.log_id(base.pool)
            for callback in await store.callbacks(base.pool):
                if instance_id not in {None, callback["instance_id"]}:
                    continue
                rows = await store.unsettled(
                    base.pool,
                    callback["id"],
                    states=states or STATES,
                    since=since,
                    limit=number + 1 - len(found),
                )
                found += [_state(callback, log_id, row) for row in rows]
                if len(found) > number:
                    break
        return found

    found = app.run(read())
    more, found = len(found) > number, found[:number]
    if as_json:
        app.display.json(found)
    else:
        app.display.table(
            (
                "callback",
                "notification",
                "state",
                "attempts",
                "settled",
                "next try",
                "status",
                "error",
            ),
            [
                (
                    *(one["callback"], one["notification"], one["state"], one["attempts"]),
                    *(
                        one["settled"],
                        one["due"],
                        one["status"],
                        (one["error"] or "-")[:ERROR_MOST],
                    ),
                )
                for one in found
            ],
        )
    if more:
        app.display.say(f"there are more than {number}: -n shows more of them")
    elif not found:
        app.display.say("nothing: all is delivered, or waits for its turn in the log")


@deliveries.command()
@click.argument("callback_id", metavar="CALLBACK", type=int)
@click.argument("notification", type=int)
@json_option
@pass_app
def show(app: App, *, callback_id: int, notification: int, as_json: bool) -> None:
    """Show one delivery: its request, its state, every attempt with what the receiver answered."""
    found = app.run(_show(app, callback_id, notification))
    if as_json:
        app.display.json(found)
        return
    for key, value in found.items():
        if not isinstance(value, dict | list):
            app.display.line(f"{key:<13} {shown(value)}")
    app.display.line("attempts")
    for one in found["history"]:
        answer = one["error"] or one["status"]
        app.display.line(
            f"  {one['attempt']:>3}  {one['settled']}  {one['state']}: {shown(answer)}"
        )
    app.display.line("request")
    app.display.line(f"  POST {shown(found['request']['url'])}")
    for name, value in found["request"]["headers"].items():
        app.display.line(f"  {name}: {value}")
    app.display.line()
    app.display.line(found["request"]["body"])


async def _show(app: App, callback_id: int, notification: int) -> dict[str, Any]:
    async with app.base() as base:
        callback = await _callback(base.pool, callback_id)
        rows = await store.some(base.pool, callback_id, [notification])
        log_id = await log.log_id(base.pool)
        read = await Reader(db=base.pool, log_id=log_id).read([notification])
        if not rows or not read:
            raise NotFound(
                f"callback {callback_id} has no delivery of notification {notification}; `tidings deliveries list` lists them"
            )
        now = await instances.load(base.pool, [callback["instance_id"]])
        replay = callback["replay"] or {}
        url = replay.get("url") or (now[0].callback_url if now else None)
        sent = read[0]
        if replay.get("as_new"):
            sent = Reader(db=base.pool, log_id=log_id).renamed(sent, callback_id)
        history = [
            {key: as_text(value) for key, value in row.items()}
            for row in await store.attempts(base.pool, callback_id, notification)
        ]
        request = request_of(
            sent,
            url=url,
            configuration=(now[0] if now else sent.instance).configuration,
            doubtful=rows[0]["doubtful"],
        )
        return {**_state(callback, log_id, rows[0]), "history": history, "request": request}


@deliveries.command()
@click.argument("callback_id", metavar="CALLBACK", type=int)
@click.argument("notifications", metavar="[NOTIFICATION]...", type=int, nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that are dead (or in --state).")
@_since
@click.option(
    "--state",
    type=click.Choice(RETRIABLE),
    default="dead",
    show_default=True,
    help="With --all or --since: which.",
)
@pass_app
def retry(
    app: App,
    *,
    callback_id: int,
    notifications: Sequence[int],
    every: bool,
    since: datetime | None,
    state: str,
) -> None:
    """Send deliveries again, with their ids and bodies as they were: one, many, or all since a time.

    \b
    Many are asked for 500 at a time, each 500 for good: after an interruption, the same
    command goes on with what is left.
    \b
    Examples:
      tidings deliveries retry 17 4711
      tidings deliveries retry 17 --since 2026-11-20T08:00:00Z
    """
    if bool(notifications) == (every or since is not None):
        raise click.UsageError("name notifications, or say --all or --since TIME")
    if notifications:
        done, disabled = app.run(_ask(app, callback_id, notifications, "retry"))
    else:
        done, disabled = app.run(_retry_all(app, callback_id, state, since))
    app.display.line(
        f"Asked for {done} to be sent again." if done else "There is nothing to send again."
    )
    if disabled:
        app.display.say(
            f"the callback is disabled, so they wait: `tidings callbacks enable {callback_id}` brings it back"
        )


@deliveries.command()
@click.argument("callback_id", metavar="CALLBACK", type=int)
@click.argument("notifications", metavar="NOTIFICATION...", type=int, nargs=-1, required=True)
@click.option(
    "--as",
    "how",
    type=click.Choice(("delivered", "dead")),
    required=True,
    help="What became of them: the receiver has them, or will never have them.",
)
@pass_app
def settle(app: App, *, callback_id: int, notifications: Sequence[int], how: str) -> None:
    """Settle deliveries that are held or dead: somebody looked at the receiver and knows.

    `deliveries retry` sends them again instead.
    """
    done, _ = app.run(_ask(app, callback_id, notifications, how))
    app.display.line(f"Settled {done} as {how}.")


async def _ask(
    app: App, callback_id: int, notifications: Sequence[int], how: str
) -> tuple[int, bool]:
    """Ask for *notifications*, all of them or, when one cannot be, none; how many, and whether the callback is disabled."""
    positions = sorted(set(notifications))

    async def entries(db: Db) -> tuple[list[Entry], bool]:
        callback = await _open(db, callback_id)
        rows = {row["notification"]: row for row in await store.some(db, callback_id, positions)}
        for position in positions:
            if (why := unfit(rows.get(position), callback, how)) is not None:
                raise Failed(
                    f"notification {position} at callback {callback_id}: {why}; nothing was done",
                    remedy=f"`tidings deliveries show {callback_id} {position}`",
                )
        entry = store.asked_entry(callback_id, positions, how, getpass.getuser())
        return [entry], callback["state"] == "disabled"

    async with app.base() as base:
        disabled: bool = await _append(base, entries)
    return len(positions), disabled


async def _retry_all(
    app: App, callback_id: int, state: str, since: datetime | None
) -> tuple[int, bool]:
    """Ask for all in *state*, a page at a time; how many, and whether the callback is disabled."""
    async with app.base() as base:
        callback = await _open(base.pool, callback_id)
        first = 0 if callback["replay"] is not None else callback["since"]
        counts = {r["state"]: r["number"] for r in await store.counts(base.pool, callback_id)}
        done = 0
        with app.display.progress("notifications") as progress:
            task = progress.add_task("asking", total=counts.get(state, 0))
            async for page in pages(base.pool, callback_id, states=[state], since=since):
                if wanted := [position for position in page if position >= first]:
                    entry = store.asked_entry(callback_id, wanted, "retry", getpass.getuser())
                    async with base.pool.acquire() as conn:
                        await append_once(conn, base.keys, Unit([entry]))
                done += len(wanted)
                progress.update(task, completed=done)
            progress.update(task, total=done)
        return done, callback["state"] == "disabled"


@callbacks.command("list")
@json_option
@pass_app
def list_callbacks(app: App, *, as_json: bool) -> None:
    """List the callbacks: state, what waits in the log, what is open, held and dead.

    \b
    A callback has the number of its instance; a replay is one of its own.
    """

    async def read() -> list[dict[str, Any]]:
        async with app.base() as base:
            counts: dict[int, dict[str, int]] = {}
            for row in await store.counts(base.pool):
                counts.setdefault(row["callback_id"], {})[row["state"]] = row["number"]
            urls = {one.id: one.callback_url for one in await instances.load(base.pool)}
            return [
                {
                    "callback": row["id"],
                    "instance": row["instance_id"],
                    "url": (row["replay"] or {}).get("url") or urls.get(row["instance_id"]),
                    "replay": row["replay"] is not None,
                    "state": row["state"],
                    "reason": row["reason"],
                    "failing_since": as_text(row["failing"]),
                    "backlog": await store.backlog(base.pool, row, BACKLOG_MOST)
                    if refusal(row) is None
                    else 0,
                    "deliveries": counts.get(row["id"], {}),
                }
                for row in await store.callbacks(base.pool)
            ]

    found = app.run(read())
    if as_json:
        app.display.json(found)
        return
    app.display.table(
        ("callback", "instance", "state", "backlog", "open", "held", "dead", "delivered", "reason"),
        [
            (
                one["callback"],
                one["instance"],
                one["state"] + (", failing" if one["failing_since"] else ""),
                one["backlog"],
                sum(n for state, n in one["deliveries"].items() if state not in _NOT_OPEN),
                *(one["deliveries"].get(state, 0) for state in ("held", "dead", "delivered")),
                one["reason"],
            )
            for one in found
        ],
    )


_NOT_OPEN = frozenset({"delivered", "dead", "held"})


@callbacks.command()
@click.argument("callback_id", metavar="CALLBACK", type=int)
@pass_app
def enable(app: App, *, callback_id: int) -> None:
    """Bring a callback back that was disabled: it goes on where it stopped."""
    changed = app.run(_switch(app, callback_id, "callback.enabled"))
    app.display.line(
        f"Callback {callback_id} is enabled."
        if changed
        else f"Callback {callback_id} was enabled already."
    )


@callbacks.command()
@click.argument("callback_id", metavar="CALLBACK", type=int)
@click.option("--reason", default="disabled by an operator", help="Why, for those who ask.")
@pass_app
def disable(app: App, *, callback_id: int, reason: str) -> None:
    """Send nothing more to a callback; what is for it waits in the log."""
    changed = app.run(_switch(app, callback_id, "callback.disabled", reason))
    app.display.line(
        f"Callback {callback_id} is disabled."
        if changed
        else f"Callback {callback_id} was disabled already."
    )


async def _switch(app: App, callback_id: int, kind: str, reason: str | None = None) -> bool:
    async def entries(db: Db) -> tuple[list[Entry], bool]:
        callback = await _open(db, callback_id)
        if (callback["state"] == "disabled") == (kind == "callback.disabled"):
            return [], False
        who, instance_id = getpass.getuser(), callback["instance_id"]
        return [store.callback_entry(kind, callback_id, instance_id, reason, by=who)], True

    async with app.base() as base:
        changed: bool = await _append(base, entries)
    return changed


async def _append(
    base: Base, entries_of: Callable[[Db], Coroutine[Any, Any, tuple[list[Entry], Any]]]
) -> Any:
    """Append what *entries_of* makes of the present state, which nobody changes meanwhile; what else it gave."""
    async with base.pool.acquire() as conn, conn.transaction():
        await log.hold(conn)
        entries, rest = await entries_of(conn)
        if entries:
            await append_once(conn, base.keys, Unit(entries))
    return rest


async def _callback(db: Db, callback_id: int) -> asyncpg.Record:
    found = await store.callback(db, callback_id)
    if found is None:
        raise NotFound(f"there is no callback {callback_id}; `tidings callbacks list` shows all")
    return found


async def _open(db: Db, callback_id: int) -> asyncpg.Record:
    """The callback, to which something can be sent."""
    found = await _callback(db, callback_id)
    if (why := refusal(found)) is not None:
        raise Failed(
            f"callback {callback_id}: {why}", remedy="`tidings replay` sends again elsewhere"
        )
    return found


def _state(callback: asyncpg.Record, log_id: bytes, row: asyncpg.Record) -> dict[str, Any]:
    replayed = callback["id"] if (callback["replay"] or {}).get("as_new") else 0
    return {
        "callback": callback["id"],
        "instance": callback["instance_id"],
        "event": log.event_id(log_id, row["notification"], replayed),
        **{key: as_text(value) for key, value in row.items()},
    }
