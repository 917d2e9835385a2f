"""Who makes a request: `Authorization: User <secret>, Organization <secret>[, Element <token>]`.

The parts may come in any order and case.  A user's secret is always needed; the organization's for what
concerns the whole organization, an element token instead of it for what concerns one instance.
Source of the forms: facts, 4.1.
"""

import re
from dataclasses import dataclass

from aiohttp import web

from daemon.api.context import CONTEXT
from daemon.errors import NotFound, TidingsError
from daemon.model import Account, Instance
from daemon.store import accounts

_PART = re.compile(r"\s*(user|organization|element)\s+([!-+\--~]+)\s*", re.IGNORECASE | re.ASCII)
_HOW = "Authorization should be: User <user secret>, Organization <organization secret>"
_HOW_ELEMENT = "Authorization should be: User <user secret>, Element <element token>"


class Unauthenticated(TidingsError):
    """The request does not say, or not rightly, who makes it: 401."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    *instance* is the one whose element token it brought; *whole* says whether it also proved to belong to
    the organization, and so may see all of it.
    """

    account: Account
    instance: Instance | None
    whole: bool


async def caller(request: web.Request) -> Caller:
    """The caller; raises `Unauthenticated`, or one of `OUTAGE`."""
    context = request.app[CONTEXT]
    parts = _parts(request.headers.getall("Authorization", []))
    if "user" not in parts:
        raise Unauthenticated(f"the User secret is missing; {_HOW}")
    if "organization" not in parts and "element" not in parts:
        raise Unauthenticated(f"the Organization secret is missing; {_HOW}")
    account = await accounts.authenticate(context.pool, parts["user"], parts.get("organization"))
    if account is None:
        raise Unauthenticated("the User or the Organization secret is not valid")
    instance = None
    if "element" in parts:
        instance = context.directory.by_token(parts["element"])
        if instance is None or instance.organization_id != account.organization_id:
            raise Unauthenticated("the Element token is not valid")
    return Caller(account, instance, whole="organization" in parts)


async def member(request: web.Request) -> Caller:
    """The caller, who must have given the organization's secret."""
    found = await caller(request)
    if not found.whole:
        raise Unauthenticated(
            f"the Organization secret is missing: an Element token is for its instance alone; {_HOW}"
        )
    return found


async def instance_of(request: web.Request) -> tuple[Caller, Instance]:
    """The caller, and the instance that the path names or else the element token.

    Raises `NotFound` for an instance that does not exist or is not the caller's.
    """
    found = await caller(request)
    named = request.match_info.get("id")
    if named is None:
        if found.instance is None:
            raise Unauthenticated(
                f"the Element token is missing: it names the instance; {_HOW_ELEMENT}"
            )
        return found, found.instance
    instance = request.app[CONTEXT].directory.get(int(named))
    theirs = instance is not None and instance.organization_id == found.account.organization_id
    if instance is None or not theirs or not (found.whole or found.instance == instance):
        raise NotFound(f"no instance with the id {int(named)} was found")
    return found, instance


def _parts(headers: list[str]) -> dict[str, str]:
    parts: dict[str, str] = {}
    for text in ",".join(headers).split(",") if headers else ():
        match = _PART.fullmatch(text)
        if match is None or match[1].lower() in parts:
            # Nothing of it is repeated: it may be a secret in the wrong place.
            raise Unauthenticated(f"the header cannot be read; {_HOW}")
        parts[match[1].lower()] = match[2]
    return parts
