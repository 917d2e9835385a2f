"""Deliveries of an instance to its callback: what is dead or held, why, and what to do about it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiohttp import web

from daemon.api import blocks, paging
from daemon.api.auth import instance_of
from daemon.api.bodies import Decision, DeliveryBlock, Redrive, Redriven, WholeDelivery
from daemon.api.context import CONTEXT, Context
from daemon.api.operations import Parameter, of_instance
from daemon.api.redelivery import (
    PAGE,
    RETRIABLE,
    STATES,
    Settled,
    pages,
    refusal,
    request_of,
    unfit,
)
from daemon.api.requests import parse, read, validate
from daemon.dates import DatePattern
from daemon.errors import Invalid, NotFound
from daemon.model import Instance
from daemon.store import deliveries as store
from daemon.store import log
from daemon.store.reader import Reader
from daemon.store.writer import Unit

PAGES_MOST = 20
"""Pages that one request asks to send again; the answer says when there is more."""

ISO = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ssXXX")

FILTERS = (
    Parameter("status", f"Only these, joined by commas: {', '.join(STATES)}."),
    Parameter("since", "Only what came to be so at this time (ISO 8601) or later."),
)


async def every(request: web.Request) -> web.Response:
    """GET …/deliveries: what is not delivered, in the order of the log."""
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    states = states_of(request.query.get("status"), STATES)
    since = time_of(request.query.get("since"))
    asked = paging.asked(request)
    rows = await store.unsettled(
        context.pool,
        instance.id,
        states=states,
        after=asked.mark or 0,
        since=since,
        limit=asked.size,
    )
    log_id = await log.log_id(context.pool)
    token = asked.token(rows[-1]["notification"]) if len(rows) == asked.size else None
    return blocks.respond(
        [_block(instance, log_id, row) for row in rows],
        headers=paging.headers(returned=len(rows), token=token),
    )


async def show(request: web.Request) -> web.Response:
    """GET …/deliveries/{eventId}."""
    _, instance = await instance_of(request)
    return blocks.respond(await _whole(request.app[CONTEXT], instance, request))


async def redrive(request: web.Request) -> web.Response:
    """PUT …/deliveries: send again what the body or the query selects, and bring the callback back."""
    who, instance = await instance_of(request)
    context = request.app[CONTEXT]
    body = Redrive()
    if raw := await request.read():
        body = validate(parse(request, raw), Redrive)
    named = request.query.get("status") if body.status is None else ",".join(body.status)
    states = states_of(named, RETRIABLE, usual=("dead",))
    since = time_of(request.query.get("since") if body.since is None else body.since)
    if body.ids is not None and (named is not None or since is not None):
        raise Invalid({"ids": "should stand alone, without status and since"})
    async with context.changing(instance) as now:
        callback = await _callback(context, now)
        if body.ids is not None:
            chosen = await _chosen(context, callback, body.ids)
            retried, more = await _retry(context, now, [chosen], who.account.name)
        else:
            retried, more = await retry_all(
                context, callback, states=states, since=since, by=who.account.name
            )
        enabled = await enable(context, callback)
    return blocks.respond({"retried": retried, "more": more, "enabled": enabled})


async def decide(request: web.Request) -> web.Response:
    """PUT …/deliveries/{eventId}: send it again, or settle it."""
    who, instance = await instance_of(request)
    context = request.app[CONTEXT]
    body = await read(request, Decision) if await request.read() else Decision()
    how = "retry" if body.status == "retrying" else body.status
    async with context.changing(instance) as now:
        callback = await _callback(context, now)
        position = await _position(context, request.match_info["eventId"])
        rows = await store.some(context.pool, now.id, [position])
        if not rows:
            await _whole(context, now, request)  # raises NotFound for what is not its
        if (why := unfit(rows[0] if rows else None, callback, how)) is not None:
            raise Settled(f"this cannot be done: {why}")
        entry = store.asked_entry(now.id, [position], how, who.account.name)
        await context.writer.append(Unit([entry]))
        return blocks.respond(await _whole(context, now, request))


async def retry_all(
    context: Context,
    callback: asyncpg.Record,
    *,
    states: Sequence[str],
    since: datetime | None,
    by: str,
) -> tuple[int, bool]:
    """Ask for all at *callback* in *states* to be sent again, up to a bound; how many, and whether there are more.

    What is from before the callback was given anew stays as it is.
    """
    retried, number = 0, 0
    first = 0 if callback["replay"] is not None else callback["since"]
    async for page in pages(context.pool, callback["id"], states=states, since=since):
        if number == PAGES_MOST:
            return retried, True
        wanted = [position for position in page if position >= first]
        if wanted:
            number += 1
            retried += len(wanted)
            await context.writer.append(
                Unit([store.asked_entry(callback["id"], wanted, "retry", by)])
            )
    return retried, False


async def enable(context: Context, callback: asyncpg.Record) -> bool:
    """Bring the callback back if it is disabled; whether it was."""
    if callback["state"] != "disabled":
        return False
    entry = store.callback_entry("callback.enabled", callback["id"], callback["instance_id"])
    await context.writer.append(Unit([entry]))
    return True


def states_of(
    text: str | None, possible: Sequence[str], *, usual: Sequence[str] | None = None
) -> Sequence[str]:
    """The states that *text* names, joined by commas; *usual* (or all) where there is none.  Raises `Invalid`."""
    if not text:
        return usual or possible
    named = [state.strip().lower() for state in text.split(",")]
    if any(state not in possible for state in named):
        raise Invalid({"status": f"should be of {', '.join(possible)}"})
    return named


def time_of(text: str | None) -> datetime | None:
    """The moment that *text* names; raises `Invalid`."""
    if not text:
        return None
    try:
        return ISO.parse(text, UTC)
    except ValueError:
        raise Invalid({"since": "should be a time such as 2026-11-20T08:00:00Z"}) from None


async def _callback(context: Context, instance: Instance) -> asyncpg.Record:
    """The instance's callback; raises `Settled` when it has none that anything could be sent to."""
    callback = await store.callback(context.pool, instance.id)
    if callback is None or (why := refusal(callback)) is not None:
        raise Settled(
            why if callback is not None and why else f"instance {instance.id} has no callback"
        )
    return callback


async def _chosen(context: Context, callback: asyncpg.Record, ids: Sequence[str]) -> list[int]:
    """The notifications with these event ids; raises `Invalid` naming each that cannot be sent again."""
    log_id = await log.log_id(context.pool)
    positions = {one: log.position_of(log_id, one) for one in ids}
    known = [position for position in positions.values() if position is not None]
    rows = {
        row["notification"]: row for row in await store.some(context.pool, callback["id"], known)
    }
    problems: dict[str, str] = {}
    for number, one in enumerate(ids):
        row = rows.get(positions[one] or 0)
        why = "names no delivery of this instance" if row is None else unfit(row, callback, "retry")
        if why is not None:
            problems[f"ids.{number}"] = why
    if problems:
        raise Invalid(problems)
    return sorted(rows)


async def _retry(
    context: Context, instance: Instance, chosen: Sequence[Sequence[int]], by: str
) -> tuple[int, bool]:
    entries = [store.asked_entry(instance.id, page, "retry", by) for page in chosen if page]
    if entries:
        await context.writer.append(Unit(entries))
    return sum(map(len, chosen)), False


async def _position(context: Context, event_id: str) -> int:
    position = log.position_of(await log.log_id(context.pool), event_id)
    if position is None:
        raise NotFound("there is no event of that id")
    return position


async def _whole(context: Context, instance: Instance, request: web.Request) -> dict[str, Any]:
    """The delivery that the path names, with its request and attempts; raises `NotFound`."""
    log_id = await log.log_id(context.pool)
    position = await _position(context, request.match_info["eventId"])
    found = await Reader(db=context.pool, log_id=log_id).read([position])
    if not found or found[0].instance.id != instance.id:
        raise NotFound(f"instance {instance.id} has no event of that id")
    rows = await store.some(context.pool, instance.id, [position])
    if not rows:
        callback = await store.callback(context.pool, instance.id)
        if callback is None or refusal(callback) or position <= callback["cursor"]:
            raise NotFound("that event is not for the callback that the instance has now")
    block = _block(instance, log_id, rows[0]) if rows else _pending(instance, log_id, position)
    history = [
        {
            "attempt": row["attempt"],
            "date": blocks.moment(row["settled"]),
            "responseStatus": row["status"],
            "error": row["error"],
            "led": row["state"],
        }
        for row in await store.attempts(context.pool, instance.id, position)
    ]
    shown = request_of(
        found[0],
        url=instance.callback_url,
        configuration=instance.configuration,
        doubtful=block["possiblyDelivered"],
    )
    return {**block, "request": shown, "history": history}


def _block(instance: Instance, log_id: bytes, row: asyncpg.Record) -> dict[str, Any]:
    return {
        "eventId": log.event_id(log_id, row["notification"]),
        "instanceId": instance.id,
        "position": row["notification"],
        "status": row["state"],
        "attempts": row["attempts"],
        "nextTryDate": blocks.moment(row["due"]),
        "settledDate": blocks.moment(row["settled"]),
        "responseStatus": row["status"],
        "error": row["error"],
        "possiblyDelivered": row["doubtful"],
    }


def _pending(instance: Instance, log_id: bytes, position: int) -> dict[str, Any]:
    return {
        "eventId": log.event_id(log_id, position),
        "instanceId": instance.id,
        "position": position,
        "status": "pending",
        "attempts": 0,
        "nextTryDate": None,
        "settledDate": None,
        "responseStatus": None,
        "error": None,
        "possiblyDelivered": False,
    }


OPERATIONS = (
    *of_instance(
        "GET",
        "/deliveries",
        handler=every,
        name="getDeliveries",
        summary="What is not delivered to the instance's callback, oldest first.",
        tag="deliveries",
        query=(*FILTERS, *paging.PARAMETERS),
        block=list[DeliveryBlock],
        paged=True,
    ),
    *of_instance(
        "PUT",
        "/deliveries",
        handler=redrive,
        name="redriveDeliveries",
        summary=f"Send again what is dead, or what is selected, up to {PAGE * PAGES_MOST} at once; "
        "a callback that was disabled is brought back.",
        tag="deliveries",
        query=FILTERS,
        form=Redrive,
        form_required=False,
        block=Redriven,
        statuses=(409,),
    ),
    *of_instance(
        "GET",
        "/deliveries/{eventId}",
        handler=show,
        name="getDelivery",
        summary="A delivery: its request, and every attempt with what the receiver answered.",
        tag="deliveries",
        block=WholeDelivery,
        statuses=(404,),
    ),
    *of_instance(
        "PUT",
        "/deliveries/{eventId}",
        handler=decide,
        name="decideDelivery",
        summary="Send a delivery again, or settle it.",
        tag="deliveries",
        form=Decision,
        form_required=False,
        block=WholeDelivery,
        statuses=(404, 409),
    ),
)
