"""Instances: create, list, read, replace, change, switch on and off, delete.

Every change is one unit in the log: the entry with the whole new state, and the secrets that changed.
"""

from aiohttp import web

from daemon import webhook_urls
from daemon.api import blocks, paging
from daemon.api.auth import caller, instance_of, member
from daemon.api.bodies import InstanceBlock, InstancePatch, NewInstance
from daemon.api.changes import (
    change,
    defaults,
    merged,
    name_of,
    named_element,
    own_element,
    tags_of,
)
from daemon.api.context import CONTEXT, Context
from daemon.api.operations import ID, KEY, Authorization, Operation, Parameter, of_instance
from daemon.api.provision import TOKEN, provision, refuse_masks, texts
from daemon.api.requests import read
from daemon.elements import watching
from daemon.errors import Invalid, NotFound
from daemon.model import Account, Instance
from daemon.store import instances as store
from daemon.store import objects
from daemon.store.writer import Unit

GRANTED = "oauth.user."
"""What begins so came from the provider in exchange for a code, and is not lost when a PUT does not name it."""

FILTERS = (
    Parameter("tags[]", "Only instances that have this tag; of several, each.", many=True),
    Parameter("searchText", "Only instances with this text in name, tags, element or id."),
    Parameter("page", "Which page of pageSize entries, from 1; nextPage is better.", "integer"),
)


async def create(request: web.Request) -> web.Response:
    """POST /instances, POST /elements/{keyOrId}/instances."""
    account = (await member(request)).account
    context = request.app[CONTEXT]
    body = await read(request, NewInstance)
    element = named_element(context, request.match_info.get("key"), body)
    given = texts(body.configuration or {})
    refuse_masks(given, {})
    made = await provision(context, element, defaults(element) | given, body.granted)
    token = store.new_token()
    entry = store.entry(
        "instance.created",
        organization_id=account.organization_id,
        user_id=account.user_id,
        element_key=element.key,
        hub=element.hub,
        name=name_of(body, element),
        tags=tags_of(body.tags),
        configuration=made.configuration,
        token_digest=store.digest(token),
        disabled=False,
        callback=made.callback,
        resources=made.resources,
    )
    receipt = await context.append(Unit(entries=[entry], secrets={**made.secrets, TOKEN: token}))
    return await _answer(context, receipt.position, account)


async def find(request: web.Request) -> web.Response:
    """GET /instances: the one of the element token, or the organization's."""
    who = await caller(request)
    context = request.app[CONTEXT]
    if who.instance is not None:
        return await _answer(context, who.instance.id, who.account)
    asked = paging.asked(request)
    tags = [*request.query.getall("tags[]", []), *request.query.getall("tags", [])]
    text = request.query.get("searchText", "").strip()
    found = [
        instance
        for instance in context.directory.of_organization(who.account.organization_id)
        if all(tag in instance.tags for tag in tags) and _speaks_of(instance, text)
    ]
    if not found and (tags or text):
        raise NotFound("no instance matches")
    page = _page(request, asked, found)
    token = asked.token(page[-1].id) if page and page[-1] is not found[-1] else None
    return blocks.respond(
        await blocks.instance_blocks(context, page, who.account),
        headers=paging.headers(returned=len(page), total=len(found), token=token),
    )


async def show(request: web.Request) -> web.Response:
    """GET /instances/{id}."""
    who, instance = await instance_of(request)
    return await _answer(request.app[CONTEXT], instance.id, who.account)


async def replace(request: web.Request) -> web.Response:
    """PUT /instances/{id}: as if created anew, except for what the provider granted."""
    who, instance = await instance_of(request)
    context = request.app[CONTEXT]
    body = await read(request, NewInstance)
    async with context.changing(instance) as now:
        element = own_element(context, now, body)
        given = texts(body.configuration or {})
        refuse_masks(given, now.configuration)
        keeps = {
            key: value
            for key, value in now.configuration.items()
            if key.startswith(GRANTED) or key in {element.routing_key, webhook_urls.SECRET}
        }
        wanted = defaults(element) | keeps | given
        name, tags = name_of(body, element), tags_of(body.tags)
        await change(context, element, now, wanted, granted=body.granted, name=name, tags=tags)
    return await _answer(context, instance.id, who.account)


async def patch(request: web.Request) -> web.Response:
    """PATCH /instances/{id}: only what the body names."""
    who, instance = await instance_of(request)
    context = request.app[CONTEXT]
    body = await read(request, InstancePatch)
    async with context.changing(instance) as now:
        element = own_element(context, now, body)
        wanted = merged(now, texts(body.configuration or {}))
        name = now.name if body.name is None else name_of(body, element)
        tags = now.tags if body.tags is None else tags_of(body.tags)
        await change(context, element, now, wanted, granted=body.granted, name=name, tags=tags)
    return await _answer(context, instance.id, who.account)


async def delete(request: web.Request) -> web.Response:
    """DELETE /instances/{id}: gone, its secrets with it; what it told stays in the log."""
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    async with context.changing(instance) as now:
        entry = store.changed("instance.deleted", now, resources=())
        await context.append(Unit(entries=[entry], instance_id=now.id, forget=True))
    return web.Response()


async def enable(request: web.Request) -> web.Response:
    """PUT /instances/{id}/enabled: on again, and polls that were given up are taken up again."""
    return await _switch(request, disabled=False)


async def disable(request: web.Request) -> web.Response:
    """DELETE /instances/{id}/enabled: off; it keeps everything."""
    return await _switch(request, disabled=True)


async def _switch(request: web.Request, *, disabled: bool) -> web.Response:
    _, instance = await instance_of(request)
    context = request.app[CONTEXT]
    async with context.changing(instance) as now:
        cursors = await objects.cursors(context.pool, now.id)
        resumed = [
            objects.poll_entry("poll.resumed", now.id, row["resource"])
            for row in cursors
            if row["disabled"] and not disabled
        ]
        if now.disabled != disabled or resumed:
            so_far = [row["resource"] for row in cursors]
            resources = watching.resources(context.elements, now, so_far=so_far)
            kind = "instance.disabled" if disabled else "instance.enabled"
            entry = store.changed(kind, now, resources=resources, disabled=disabled)
            await context.append(Unit(entries=[entry, *resumed], instance_id=now.id))
    return web.Response()


def _speaks_of(instance: Instance, text: str) -> bool:
    spoken = (instance.name, *instance.tags, instance.element_key, str(instance.id))
    return any(text.casefold() in one.casefold() for one in spoken)


def _page(request: web.Request, asked: paging.Asked, found: list[Instance]) -> list[Instance]:
    if asked.mark is not None:
        mark = asked.mark
        return [instance for instance in found if instance.id > mark][: asked.size]
    number = paging.whole(request.query.get("page", "1"))
    if not number:
        raise Invalid({"page": "should be a whole number from 1"})
    return found[(number - 1) * asked.size : number * asked.size]


async def _answer(context: Context, instance_id: int, account: Account) -> web.Response:
    instance = context.directory.get(instance_id)
    if instance is None:
        raise NotFound(f"instance {instance_id} was deleted")
    (block,) = await blocks.instance_blocks(context, [instance], account)
    return blocks.respond(block, headers={"Elements-Element-Instance-Id": str(instance_id)})


OPERATIONS = (
    Operation(
        method="POST",
        path="/instances",
        handler=create,
        name="createInstance",
        summary="Create an instance.",
        tag="instances",
        authorization=Authorization.ORGANIZATION,
        form=NewInstance,
        block=InstanceBlock,
        statuses=(502,),
    ),
    Operation(
        method="POST",
        path=f"/elements/{KEY}/instances",
        handler=create,
        name="createInstanceOfElement",
        summary="Create an instance of this element.",
        tag="instances",
        authorization=Authorization.ORGANIZATION,
        form=NewInstance,
        block=InstanceBlock,
        statuses=(502,),
    ),
    Operation(
        method="GET",
        path="/instances",
        handler=find,
        name="findInstances",
        summary="The organization's instances, oldest first; with an element token, its instance alone.",
        tag="instances",
        query=(*FILTERS, *paging.PARAMETERS),
        block=list[InstanceBlock] | InstanceBlock,
        statuses=(404,),
        paged=True,
    ),
    Operation(
        method="GET",
        path=f"/instances/{ID}",
        handler=show,
        name="getInstance",
        summary="An instance.",
        tag="instances",
        block=InstanceBlock,
    ),
    *of_instance(
        "PUT",
        "",
        handler=replace,
        name="replaceInstance",
        summary="Replace name, tags and configuration; what the provider granted stays.",
        tag="instances",
        form=NewInstance,
        block=InstanceBlock,
        statuses=(502,),
    ),
    *of_instance(
        "PATCH",
        "",
        handler=patch,
        name="changeInstance",
        summary="Change what the body names.",
        tag="instances",
        form=InstancePatch,
        block=InstanceBlock,
        statuses=(502,),
    ),
    *of_instance(
        "DELETE",
        "",
        handler=delete,
        name="deleteInstance",
        summary="Delete an instance and its secrets.",
        tag="instances",
    ),
    *of_instance(
        "PUT",
        "/enabled",
        handler=enable,
        name="enableInstance",
        summary="Switch an instance on, and take up polls that were given up.",
        tag="instances",
    ),
    *of_instance(
        "DELETE",
        "/enabled",
        handler=disable,
        name="disableInstance",
        summary="Switch an instance off; it keeps everything.",
        tag="instances",
    ),
)
