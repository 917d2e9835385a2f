"""What instances told: stored events, and how far the polling of each resource is."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import asyncpg
import orjson
from aiohttp import web

from daemon.api import blocks, paging
from daemon.api.auth import caller, instance_of
from daemon.api.bodies import Event, PollerRecord
from daemon.api.context import CONTEXT, Context
from daemon.api.operations import Operation, Parameter, of_instance
from daemon.elements.watching import polled
from daemon.errors import Invalid, NotFound
from daemon.model import Change, ChangeType, Instance
from daemon.plans import ResourcePlan, refresh_interval
from daemon.store import events, log, objects
from daemon.store.events import StoredEvent
from daemon.store.writer import Intake, Unit
from daemon.webhook_urls import encode_id

MOST = 200
"""Events on one page: each holds the provider's whole body."""

WAIT_MOST = 60
"""Seconds that a request may wait for an event."""

PULL = (
    Parameter(
        "after",
        "A position of the log: events after it, in the order of the log; 0 for all.  Without it, newest first.",
        "integer",
    ),
    Parameter("limit", f"With after: how many at most, 1 to {MOST}.", "integer"),
    Parameter(
        "wait",
        f"With after: seconds to wait for an event when there is none, 0 to {WAIT_MOST}.",
        "integer",
    ),
)


async def every(request: web.Request) -> web.Response:
    """GET …/events: newest first; with `after`, in the order of the log."""
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    if "after" in request.query:
        return await _pull(request, context, instance)
    for name in ("limit", "wait"):
        if name in request.query:
            raise Invalid({name: "goes with after; without, pageSize says how many"})
    asked = paging.asked(request, most=MOST)
    found = await events.events(context.pool, instance.id, before=asked.mark, limit=asked.size)
    token = asked.token(found[-1].position) if len(found) == asked.size else None
    url = await blocks.webhook_url(context, instance)
    return blocks.respond(
        [_event(context, instance, one, url) for one in found],
        # Also where there are no events yet: it is needed to get any.
        headers={
            **paging.headers(returned=len(found), token=token),
            "Elements-Encoded-Id": encode_id(instance.id),
        },
    )


async def _pull(request: web.Request, context: Context, instance: Instance) -> web.Response:
    after = _number(request, "after", 0, 2**62 - 1, usual=0)
    limit = _number(request, "limit", 1, MOST, usual=MOST)
    wait = _number(request, "wait", 0, WAIT_MOST, usual=0)
    found = await events.next_events(context.pool, instance.id, after=after, limit=limit)
    if not found and wait:
        await context.arrivals.wait(instance.id, after, wait)
        found = await events.next_events(context.pool, instance.id, after=after, limit=limit)
    url = await blocks.webhook_url(context, instance)
    return blocks.respond(
        [_event(context, instance, one, url) for one in found],
        headers={
            **paging.headers(returned=len(found)),
            "Elements-Next-Position": str(found[-1].position if found else after),
        },
    )


def _number(request: web.Request, name: str, least: int, most: int, *, usual: int) -> int:
    text = request.query.get(name)
    number = usual if text is None else paging.whole(text)
    if number is None or not least <= number <= most:
        raise Invalid({name: f"should be a whole number from {least} to {most}"})
    return number


async def test(request: web.Request) -> web.Response:
    """POST …/events/test: append an event that means nothing, and goes the whole way."""
    who, instance = await instance_of(request)
    context = request.app[CONTEXT]
    name = secrets.token_hex(8)
    change = Change(
        object_type="test",
        object_id=name,
        change=ChangeType.UNKNOWN,
        changed=None,
        fingerprint=secrets.token_bytes(16),
    )
    raw = orjson.dumps({"test": True, "id": name, "requestedBy": who.account.name}).decode()
    receipt = await context.writer.append(Unit(intakes=[Intake(instance.id, [change], raw=raw)]))
    if not receipt.appended:
        raise NotFound(f"instance {instance.id} was deleted")
    found = await events.next_events(context.pool, instance.id, after=receipt.position - 1, limit=1)
    url = await blocks.webhook_url(context, instance)
    return blocks.respond(_event(context, instance, found[0], url))


async def show(request: web.Request) -> web.Response:
    """GET …/events/{eventId}."""
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    log_id = await log.log_id(context.pool)
    found = await events.event(context.pool, log_id, instance.id, request.match_info["eventId"])
    if found is None:
        raise NotFound(f"instance {instance.id} has no event of that id")
    url = await blocks.webhook_url(context, instance)
    return blocks.respond(_event(context, instance, found, url))


async def poller_records(request: web.Request) -> web.Response:
    """GET /instances/event-poller-records: the organization's, or those of the element token's instance."""
    return await _records(request)


async def polling_disabled(request: web.Request) -> web.Response:
    """GET /instances/polling-disabled: those that failed too often and are not polled any more."""
    return await _records(request, given_up=True)


async def _records(request: web.Request, *, given_up: bool = False) -> web.Response:
    who = await caller(request)
    context = request.app[CONTEXT]
    one = who.instance
    instances = [one] if one else context.directory.of_organization(who.account.organization_id)
    cursors = {
        (row["instance_id"], row["resource"]): row
        for row in await objects.cursors(context.pool, one.id if one else None)
    }
    records = [
        _record(instance, plan, cursors.get((instance.id, plan.resource)), interval)
        for instance in instances
        for plan, interval in _polled(context, instance)
    ]
    if given_up:
        disabled = {key for key, row in cursors.items() if row["disabled"]}
        records = [r for r in records if (r["instanceId"], r["objectName"]) in disabled]
    return blocks.respond(
        records, headers=paging.headers(returned=len(records), total=len(records))
    )


def _polled(context: Context, instance: Instance) -> Iterable[tuple[ResourcePlan, float]]:
    """What is polled of *instance* while it is switched on, and every how many seconds."""
    try:
        element = context.elements.get(instance.element_key)
        plans, interval = (
            polled(element, instance),
            refresh_interval(instance.configuration),
        )
    except (Invalid, NotFound):
        # Its element is gone, or reads it otherwise than when it was made: it is not polled.
        return
    for plan in plans:
        yield plan, interval


def _record(
    instance: Instance, plan: ResourcePlan, row: asyncpg.Record | None, interval: float
) -> dict[str, Any]:
    found: Mapping[str, Any] = {} if row is None else dict(row)
    status = "active"
    if instance.disabled or found.get("disabled"):
        status = "disabled"
    elif found.get("failures"):
        status = "failing"
    return {
        "instanceId": instance.id,
        "instanceName": instance.name,
        "elementKey": instance.element_key,
        "objectName": plan.resource,
        "status": status,
        "url": plan.url,
        "intervalMinutes": interval / 60,
        "cursor": blocks.moment(found.get("cursor")),
        "baselineDate": blocks.moment(found.get("baseline")),
        "lastPollDate": blocks.moment(found.get("polled")),
        "sweptDate": blocks.moment(found.get("swept")),
        "failures": found.get("failures", 0),
        "failedDate": blocks.moment(found.get("failed")),
        "nextTryDate": blocks.moment(found.get("retry")),
        "error": found.get("error"),
    }


def _event(context: Context, instance: Instance, stored: StoredEvent, url: str) -> dict[str, Any]:
    date = blocks.moment(stored.appended)
    told: list[dict[str, Any]] = []
    if stored.notified is not None:
        body = orjson.loads(stored.notified)
        told = [
            {
                "eventId": stored.id,
                "elementInstanceId": instance.id,
                "notificationId": body["id"],
                "notifiedData": stored.notified,
                "objectIds": [{"value": event["objectId"]} for event in body["message"]["events"]],
                "createdDate": date,
                "updatedDate": date,
            }
        ]
    return {
        "id": stored.id,
        "position": stored.position,
        "eventDate": date,
        "status": stored.status,
        "providerData": stored.raw,
        "notifiedData": [] if stored.notified is None else [orjson.Fragment(stored.notified)],
        "eventElementInstances": told,
        "encodedId": encode_id(instance.id),
        "webhookUrl": url,
    }


OPERATIONS = (
    Operation(
        method="GET",
        path="/instances/event-poller-records",
        handler=poller_records,
        name="getPollerRecords",
        summary="How far polling is: one entry per polled resource of each instance.",
        tag="events",
        block=list[PollerRecord],
    ),
    Operation(
        method="GET",
        path="/instances/polling-disabled",
        handler=polling_disabled,
        name="getPollingDisabled",
        summary="The resources whose polling was given up after too many failures.",
        tag="events",
        block=list[PollerRecord],
    ),
    *of_instance(
        "GET",
        "/events",
        handler=every,
        name="getEvents",
        summary="The stored events of an instance, newest first, or after a position.",
        tag="events",
        query=(*paging.PARAMETERS, *PULL),
        block=list[Event],
        paged=True,
        statuses=(429,),
    ),
    *of_instance(
        "POST",
        "/events/test",
        handler=test,
        name="testEvents",
        summary="Append a test event, which is delivered as any other is.",
        tag="events",
        block=Event,
    ),
    *of_instance(
        "GET",
        "/events/{eventId}",
        handler=show,
        name="getEvent",
        summary="A stored event.",
        tag="events",
        block=Event,
        statuses=(404,),
    ),
)
