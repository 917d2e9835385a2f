"""How things look in answers."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from daemon import webhook_urls
from daemon.api.context import Context
from daemon.api.parameters import known
from daemon.api.provision import CALLBACK, TOKEN
from daemon.elements.base import Element, Parameter
from daemon.errors import NotFound
from daemon.model import Account, Instance
from daemon.store import accounts

TYPES = ("created", "updated", "deleted")


def respond(value: Any, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """A 200 with *value* as JSON."""
    return web.Response(body=orjson.dumps(value), content_type="application/json", headers=headers)


def moment(value: datetime | None) -> str | None:
    """ISO 8601 in UTC, to the second: `2018-08-20T15:29:06Z`."""
    return None if value is None else f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def element_of(context: Context, instance: Instance) -> Element | None:
    """The instance's element; None when the operator took it away: its instances can still be seen and deleted."""
    try:
        return context.elements.get(instance.element_key)
    except NotFound:
        return None


def element(found: Element) -> dict[str, Any]:
    """An element as an instance names it."""
    return {
        "id": found.id,
        "key": found.key,
        "name": found.name,
        "description": found.description,
        "hub": found.hub,
        "active": True,
        "deleted": False,
        "typeOauth": found.oauth,
        "trialAccount": False,
        "resources": [],
    }


def parameter(one: Parameter) -> dict[str, Any]:
    """A configuration key that an element knows."""
    return {
        "key": one.key,
        "name": one.name,
        "description": one.description,
        "type": one.type,
        "defaultValue": one.default,
        "required": one.required,
        "active": True,
        "hideFromConsole": False,
    }


def metadata(found: Element) -> dict[str, Any]:
    """What an element can do."""
    methods = [name for name, has in (("polling", found.polls), ("webhook", found.hooks)) if has]
    polled: dict[str, Any] = {}
    for resource in (
        dict.fromkeys([*found.poller_defaults, *found.resources]) if found.polls else ()
    ):
        defaults = found.poller_defaults.get(resource)
        url = defaults.get("url") if isinstance(defaults, dict) else None
        polled[resource] = {"pollUrl": url, "eventTypes": list(TYPES)}
    hooked = (
        {resource: {"eventTypes": list(TYPES)} for resource in found.resources}
        if found.hooks
        else {}
    )
    return {
        "events": {
            "supported": bool(methods),
            "methods": methods,
            "polling": polled,
            "webhook": hooked,
        }
    }


def shown(context: Context, instance: Instance) -> dict[str, str | None]:
    """An instance's configuration, with null for what its element knows and it has not."""
    its = element_of(context, instance)
    return {one.key: None for one in (known(its) if its else ())} | dict(instance.configuration)


def entry(context: Context, instance: Instance, key: str) -> dict[str, Any]:
    """One configuration key of an instance."""
    its = element_of(context, instance)
    every = {one.key: one for one in (known(its) if its else ())}
    described = parameter(every.get(key, Parameter(key, key)))
    del described["defaultValue"]
    return {
        "id": configuration_id(instance.id, key),
        **described,
        "propertyValue": instance.configuration.get(key),
    }


def configuration_id(instance_id: int, key: str) -> int:
    """The number that names *key* at this instance, always the same: a hash, small enough for JavaScript."""
    return int.from_bytes(
        hashlib.blake2b(f"{instance_id}/{key}".encode(), digest_size=6).digest(), "big"
    )


async def webhook_url(context: Context, instance: Instance) -> str:
    """The address to give to the provider for this instance."""
    settings = await context.directory.settings(instance)
    return webhook_urls.write(context.public_url, instance.element_key, instance.id, settings)


async def instance_blocks(
    context: Context, found: Iterable[Instance], account: Account
) -> list[dict[str, Any]]:
    """Instances as the API shows them; *account* is who asks."""
    instances = list(found)
    names = {account.user_id: account.name}
    if any(instance.user_id not in names for instance in instances):
        names |= {row["id"]: row["name"] for row in await accounts.users(context.pool)}
    return [
        await _instance(context, instance, names.get(instance.user_id, ""))
        for instance in instances
    ]


async def _instance(context: Context, instance: Instance, user: str) -> dict[str, Any]:
    its = element_of(context, instance)
    settings = await context.directory.settings(instance)
    return {
        "id": instance.id,
        "name": instance.name,
        "createdDate": moment(instance.created),
        "token": settings[TOKEN],
        "element": element(its) if its else _absent(instance),
        "elementId": its.id if its else 0,
        "tags": list(instance.tags),
        "provisionInteractions": [],
        "valid": its is not None,
        "disabled": instance.disabled,
        "disabledReason": instance.reason,
        "maxCacheSize": 0,
        "cacheTimeToLive": 0,
        "configuration": shown(context, instance),
        "eventsEnabled": instance.notifies,
        "eventsNotificationCallbackUrl": instance.configuration.get(CALLBACK),
        "webhookUrl": await webhook_url(context, instance) if its and its.hooks else None,
        "traceLoggingEnabled": False,
        "cachingEnabled": False,
        "externalAuthentication": "initial" if its and its.oauth else "none",
        "user": {
            "id": instance.user_id,
            "emailAddress": user if "@" in user else None,
            "firstName": user,
            "lastName": None,
        },
        "transformationData": [],
    }


def _absent(instance: Instance) -> dict[str, Any]:
    """What is left to say of an element that is not there."""
    return {
        "id": 0,
        "key": instance.element_key,
        "name": instance.element_key,
        "description": "",
        "hub": instance.hub,
        "active": False,
        "deleted": True,
        "typeOauth": False,
        "trialAccount": False,
        "resources": [],
    }
