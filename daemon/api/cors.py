"""Cross-origin requests: a page may use the API from anywhere, with the secrets that it has.

The secrets travel in `Authorization`, never in a cookie, so another origin gains nothing by being allowed.
The exposed headers are those of the documented API (facts, 4.5).
"""

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from daemon.webhook_urls import PREFIX

EXPOSED = (
    "Elements-Returned-Count, Elements-Total-Count, Elements-Request-Id, Elements-Next-Page-Token, "
    "Elements-Trace-Id, Elements-Error, Elements-Element-Instance-Id, Elements-Encoded-Id, Content-Disposition"
)
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
DAY = "86400"  # seconds


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser's question whether it may ask; let every answer say that it may be read."""
    if not (request.path.startswith(f"{PREFIX}/") or request.path == "/openapi.json"):
        return await handler(request)
    if request.method == hdrs.METH_OPTIONS and "Access-Control-Request-Method" in request.headers:
        response: web.StreamResponse = web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Elements-Version",
                "Access-Control-Max-Age": DAY,
            },
        )
    else:
        response = await handler(request)
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = EXPOSED
    return response
