"""Finding what is no more.

An object is deleted when the provider says so: by its own channel of deletions where it has one, else by not
being in a complete inventory, and then, where the provider can be asked for one object, by its answer to that
as well.  What would delete too much of what is known stops and asks: a provider that answers with half its
data, or an account that lost a permission, looks just like a mass deletion.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from hashlib import blake2b
from types import MappingProxyType

import orjson

from daemon.dates import EPOCH
from daemon.elements.base import Element, Http, Settings
from daemon.errors import Refused
from daemon.model import Change, ChangeType, Page
from daemon.plans import ResourcePlan
from daemon.poller.reading import elements_fault, heard, identified

BRAKE_LEAST = 10
"""So few deletions at once are never too many."""

ASK_MOST = 200
"""Objects for which the provider is asked one by one; beyond, the inventory's word is taken."""


class SweepRefused(Refused):
    """A sweep would delete more than a person allowed: look at the provider, then allow it or leave it."""


def deleted(
    plan: ResourcePlan,
    object_id: str,
    changed: datetime | None = None,
    *,
    known: Mapping[str, str] = MappingProxyType({}),
) -> Change:
    """The change that says that an object is no more.  Of the record its id is left, and what is *known* of it."""
    return Change(
        object_type=plan.resource,
        object_id=object_id,
        change=ChangeType.DELETED,
        changed=changed,
        fingerprint=blake2b(b"deleted", digest_size=16).digest(),
        data=orjson.dumps({plan.id_path.text if plan.id_path else "id": object_id, **known}),
    )


def deletions(
    element: Element, http: Http, settings: Settings, plan: ResourcePlan, since: datetime
) -> AsyncGenerator[list[str]] | None:
    """Ids that the provider's own channel names as deleted after *since*, a page at a time; None without one."""
    pages = element.deletions(http, settings, plan.query(since, since).resource, since)
    if pages is None:
        return None

    async def ids() -> AsyncGenerator[list[str]]:
        async with aclosing(heard(pages)) as answers:
            async for page in answers:
                yield [object_id for object_id, _ in identified(plan, page)]

    return ids()


def brake(plan: ResourcePlan, *, left: int, known: int, limit: float) -> None:
    """Raise `SweepRefused` when *left* objects to delete are more than the share *limit* of those *known*."""
    if left > BRAKE_LEAST and left > limit * known:
        raise SweepRefused(
            f"a sweep of {plan.resource} found {left} of {known} known objects gone, more than the share "
            f"{limit:g} that [polling] sweep_limit lets pass; if that is right, say `tidings instances resume <id> --allow-sweep`"
        )


async def missing(
    element: Element,
    http: Http,
    settings: Settings,
    plan: ResourcePlan,
    *,
    known: set[str],
    limit: float,
    allowed: bool,
    see: Callable[[Page], Awaitable[None]] | None = None,
) -> list[str] | None:
    """Those of *known* that are no more, by a complete inventory; None where the element has none.

    *known* must have been read before: what is created meanwhile is not missing.  *see* is shown every page.  Raises
    `SweepRefused` when it would be more than the share *limit* of them, unless a person *allowed* it.
    """
    resource = plan.query(EPOCH, EPOCH).resource
    pages = element.inventory(http, settings, resource)
    if pages is None:
        return None
    left = set(known)
    async with aclosing(heard(pages)) as answers:
        async for page in answers:
            left.difference_update(object_id for object_id, _ in identified(plan, page))
            if see is not None:
                await see(page)
    if not allowed:
        brake(plan, left=len(left), known=len(known), limit=limit)
    if len(left) > ASK_MOST:
        return sorted(left)
    with elements_fault():
        return [
            object_id
            for object_id in sorted(left)
            if await element.gone(http, settings, resource, object_id) is not False
        ]
