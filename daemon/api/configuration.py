"""The configuration of an instance, key by key.

A key is addressed by its id or by itself: `/instances/7/configuration/event.notification.enabled`.
"""

from aiohttp import web

from daemon.api import blocks
from daemon.api.auth import instance_of
from daemon.api.bodies import ConfigurationEntry, Value
from daemon.api.changes import configure
from daemon.api.context import CONTEXT, Context
from daemon.api.operations import of_instance
from daemon.api.provision import texts
from daemon.api.requests import read
from daemon.errors import NotFound
from daemon.model import Instance

KEY = "/configuration/{configurationId}"


async def every(request: web.Request) -> web.Response:
    """GET …/configuration: also the keys that the element knows and the instance has not."""
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    return blocks.respond(
        [blocks.entry(context, instance, key) for key in _keys(context, instance)]
    )


async def show(request: web.Request) -> web.Response:
    """GET …/configuration/{configurationId}."""
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    return blocks.respond(blocks.entry(context, instance, _key(context, request, instance)))


async def change(request: web.Request) -> web.Response:
    """PATCH …/configuration/{configurationId}."""
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    body = await read(request, Value)
    key = _key(context, request, instance)
    await configure(context, instance, texts({key: body.property_value}))
    now = context.directory.get(instance.id)
    if now is None:
        raise NotFound(f"instance {instance.id} was deleted")
    return blocks.respond(blocks.entry(context, now, key))


def _keys(context: Context, instance: Instance) -> list[str]:
    return sorted(blocks.shown(context, instance))


def _key(context: Context, request: web.Request, instance: Instance) -> str:
    """The key that the path names; raises `NotFound`."""
    named = request.match_info["configurationId"]
    for key in _keys(context, instance):
        if named in {key, str(blocks.configuration_id(instance.id, key))}:
            return key
    raise NotFound(f"instance {instance.id} has no configuration of that id")


OPERATIONS = (
    *of_instance(
        "GET",
        "/configuration",
        handler=every,
        name="getConfiguration",
        summary="Every configuration key of an instance.",
        tag="configuration",
        block=list[ConfigurationEntry],
    ),
    *of_instance(
        "GET",
        KEY,
        handler=show,
        name="getConfigurationEntry",
        summary="One configuration key of an instance, by its id or itself.",
        tag="configuration",
        block=ConfigurationEntry,
        statuses=(404,),
    ),
    *of_instance(
        "PATCH",
        KEY,
        handler=change,
        name="changeConfigurationEntry",
        summary="Change one configuration key of an instance.",
        tag="configuration",
        form=Value,
        block=ConfigurationEntry,
        statuses=(404,),
    ),
)
