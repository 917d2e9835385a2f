"""Elements: which there are, what they can do, where a person grants access."""

from aiohttp import web

from daemon.api import blocks
from daemon.api.auth import caller
from daemon.api.bodies import ElementBlock, ElementDetail, Metadata, OAuthParameters, OAuthUrl
from daemon.api.context import CONTEXT
from daemon.api.operations import KEY, Authorization, Operation, Parameter
from daemon.api.parameters import known
from daemon.api.requests import read
from daemon.errors import Invalid

SETTINGS = {
    "apiKey": "oauth.api.key",
    "apiSecret": "oauth.api.secret",
    "callbackUrl": "oauth.callback.url",
    "scope": "oauth.scope",
    "siteAddress": "site.address",
}
"""What the query of `…/oauth/url` says, and the setting of an instance that it is."""


async def every(request: web.Request) -> web.Response:
    """GET /elements."""
    await caller(request)
    found = sorted(request.app[CONTEXT].elements.all(), key=lambda element: element.key)
    return blocks.respond([blocks.element(element) for element in found])


async def show(request: web.Request) -> web.Response:
    """GET /elements/{keyOrId}."""
    await caller(request)
    element = request.app[CONTEXT].elements.get(request.match_info["key"])
    keys = [blocks.parameter(one) for one in known(element)]
    return blocks.respond(blocks.element(element) | {"configuration": keys})


async def metadata(request: web.Request) -> web.Response:
    """GET /elements/{keyOrId}/metadata."""
    await caller(request)
    element = request.app[CONTEXT].elements.get(request.match_info["key"])
    keys = [blocks.parameter(one) for one in known(element)]
    return blocks.respond(blocks.metadata(element) | {"configuration": keys})


async def oauth_url(request: web.Request) -> web.Response:
    """GET or POST /elements/{keyOrId}/oauth/url: no secret of ours is needed, as documented."""
    element = request.app[CONTEXT].elements.get(request.match_info["key"])
    given = dict(request.query)
    if await request.read():
        body = await read(request, OAuthParameters)
        given |= body.model_dump(by_alias=True, exclude_none=True)
    settings = {
        SETTINGS.get(name, name): value
        for name, value in given.items()
        if name != "state" and value
    }
    defaults = {p.key: p.default for p in element.parameters if p.default is not None}
    try:
        url = element.authorize_url(defaults | settings, state=given.get("state"))
    except Invalid as error:
        names = {f"configuration.{setting}": name for name, setting in SETTINGS.items()}
        raise Invalid(
            {names.get(field, field): text for field, text in error.problems.items()}
        ) from None
    return blocks.respond({"oauthUrl": url, "element": element.key})


_GRANT = tuple(
    Parameter(name, text)
    for name, text in {
        "apiKey": "The client id that the provider gave your application.",
        "apiSecret": "Its secret; few providers need it here, and a body holds it better.",
        "callbackUrl": "Where the provider sends the person with the code.",
        "scope": "What to ask for, where the element's own scopes are not right.",
        "state": "A text that comes back with the code.",
        "siteAddress": "The customer's site at providers that have one per customer.",
    }.items()
)

OPERATIONS = (
    Operation(
        method="GET",
        path="/elements",
        handler=every,
        name="getElements",
        summary="Every element.",
        tag="elements",
        block=list[ElementBlock],
    ),
    Operation(
        method="GET",
        path=f"/elements/{KEY}",
        handler=show,
        name="getElement",
        summary="An element, by key or id, with the configuration keys that it knows.",
        tag="elements",
        block=ElementDetail,
    ),
    Operation(
        method="GET",
        path=f"/elements/{KEY}/metadata",
        handler=metadata,
        name="getElementMetadata",
        summary="What an element can do, and the configuration keys that it knows.",
        tag="elements",
        block=Metadata,
    ),
    Operation(
        method="GET",
        path=f"/elements/{KEY}/oauth/url",
        handler=oauth_url,
        name="getOAuthUrl",
        summary="Where a person grants access.",
        tag="elements",
        authorization=Authorization.NONE,
        query=_GRANT,
        block=OAuthUrl,
    ),
    Operation(
        method="POST",
        path=f"/elements/{KEY}/oauth/url",
        handler=oauth_url,
        name="postOAuthUrl",
        summary="Where a person grants access; the parameters may stand in the body.",
        tag="elements",
        authorization=Authorization.NONE,
        query=_GRANT,
        form=OAuthParameters,
        form_required=False,
        block=OAuthUrl,
    ),
)
