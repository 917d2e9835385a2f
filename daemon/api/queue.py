"""The documented API's queue: `/notifications/subscriptions/deliveries?where=…`, by the address of a callback.

    where=channel='webhook' and status='queued' and config.url='https://…'

`queued` is what is dead or waits behind something that is not delivered, `retry` what is tried again by itself.
A subscription is the callback of an instance, and has the instance's id.  Source: facts, 6.2.
"""

import re
from typing import Any

from aiohttp import web

from daemon.api import blocks, paging
from daemon.api.auth import member
from daemon.api.bodies import QueuedDelivery, Redriven
from daemon.api.context import CONTEXT
from daemon.api.deliveries import enable, retry_all
from daemon.api.operations import Authorization, Operation, Parameter
from daemon.api.redelivery import refusal
from daemon.errors import Invalid, NotFound
from daemon.model import Instance
from daemon.store import deliveries as store

_TERM = re.compile(r"\s*([\w.]+)\s*=\s*'([^']*)'\s*")
_AND = re.compile(r"\s+and\s+(?=[\w.]+\s*=\s*')", re.IGNORECASE)
_STATUSES = {"queued": ("dead", "waiting"), "retry": ("retrying", "in_doubt", "in_flight", "held")}
WHERE = Parameter(
    "where",
    "channel='webhook' and status='queued' and config.url='https://…'; status may be retry.",
)


async def every(request: web.Request) -> web.Response:
    """GET /notifications/subscriptions/deliveries."""
    instances, status = await _asked(request)
    context = request.app[CONTEXT]
    size = paging.asked(request).size
    found: list[dict[str, Any]] = []
    for instance in instances:
        rows = await store.unsettled(
            context.pool, instance.id, states=_STATUSES[status], limit=size - len(found)
        )
        found += [
            {
                "notificationId": str(row["notification"]),
                "subscriptionId": instance.id,
                "status": status,
                "createdDate": None,
                "updatedDate": blocks.moment(row["settled"]),
            }
            for row in rows
        ]
        if len(found) == size:
            break
    return blocks.respond(found, headers=paging.headers(returned=len(found)))


async def redrive(request: web.Request) -> web.Response:
    """PUT /notifications/subscriptions/deliveries: send again, and bring the callbacks back."""
    account = (await member(request)).account
    instances, status = await _asked(request)
    context = request.app[CONTEXT]
    states = [state for state in _STATUSES[status] if state in {"dead", "retrying"}]
    retried, more, enabled = 0, False, False
    for instance in instances:
        async with context.changing(instance):
            callback = await store.callback(context.pool, instance.id)
            if callback is None or refusal(callback) is not None:
                continue
            number, rest = await retry_all(
                context, callback, states=states, since=None, by=account.name
            )
            retried, more = retried + number, more or rest
            enabled = await enable(context, callback) or enabled
    return blocks.respond({"retried": retried, "more": more, "enabled": enabled})


async def _asked(request: web.Request) -> tuple[list[Instance], str]:
    """The organization's own instances whose callback is at the address that `where` names, and the status."""
    account = (await member(request)).account
    terms: dict[str, str] = {}
    for text in _AND.split(request.query.get("where", "")):
        match = _TERM.fullmatch(text)
        if match is None or match[1].lower() in terms:
            raise Invalid({"where": f"should be: {WHERE.description}"})
        terms[match[1].lower()] = match[2]
    status = terms.get("status", "queued").lower()
    unknown = terms.keys() - {"channel", "status", "config.url"}
    if unknown or "config.url" not in terms or status not in _STATUSES:
        raise Invalid({"where": f"should be: {WHERE.description}"})
    if terms.get("channel", "webhook") != "webhook":
        raise Invalid({"where": "should have channel='webhook': there is no other"})
    found = [
        instance
        for instance in request.app[CONTEXT].directory.of_organization(account.organization_id)
        if instance.callback_url == terms["config.url"]
    ]
    if not found:
        raise NotFound("no instance has its callback at that address")
    return found, status


OPERATIONS = (
    Operation(
        method="GET",
        path="/notifications/subscriptions/deliveries",
        handler=every,
        name="getQueuedDeliveries",
        summary="What is not delivered to the callbacks at an address.",
        tag="deliveries",
        authorization=Authorization.ORGANIZATION,
        query=(WHERE, paging.PARAMETERS[0]),
        block=list[QueuedDelivery],
        statuses=(404,),
    ),
    Operation(
        method="PUT",
        path="/notifications/subscriptions/deliveries",
        handler=redrive,
        name="redriveQueuedDeliveries",
        summary="Send again what is queued for the callbacks at an address, and bring them back.",
        tag="deliveries",
        authorization=Authorization.ORGANIZATION,
        query=(WHERE,),
        block=Redriven,
        statuses=(404,),
    ),
)
