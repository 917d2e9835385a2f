"""Every answer that is not a success: its status, and one shape of body.

    {"message": "…", "requestId": "…"[, "providerMessage": "…"][, "fields": {"name": "what it should be"}]}

Statuses and the first three members are those of the documented API (facts, 4.5); `fields` is ours.
A body that is too large gets 413, which says what is wrong and is not tried again by every client, where the
documented API used 429.
"""

import traceback
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from daemon.api.arrivals import TooManyWaiting
from daemon.api.auth import Unauthenticated
from daemon.api.redelivery import Settled
from daemon.api.requests import request_id
from daemon.errors import BadSignature, Invalid, NotFound, Outage, Refused, Transient
from daemon.store.database import OUTAGE

log = structlog.get_logger()

RETRY_AFTER = "5"  # seconds: how long a PostgreSQL takes to come back from a restart, about
LONGEST = 1000  # characters of a provider's message

_CALLERS: dict[type[Exception], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    BadSignature: 401,
    NotFound: 404,
    Settled: 409,
    TooManyWaiting: 429,
}
"""What the caller can mend, and how it is said."""

_MESSAGES = {
    404: "there is nothing at this address; GET /openapi.json lists what there is",
    408: "the body did not arrive in time",
}


def answer(
    request: web.Request,
    status: int,
    message: str,
    *,
    provider: str | None = None,
    fields: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """An error in the shape above."""
    body: dict[str, Any] = {"message": message, "requestId": request_id(request)}
    if provider is not None:
        body["providerMessage"] = provider[:LONGEST]
    if fields:
        body["fields"] = fields
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json", headers=headers
    )


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into an answer.  What nobody thought of is 500, and in the log."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004 — a redirect is no error
            raise
        return _of_http(request, error)
    except tuple(_CALLERS) as error:
        return _of_caller(request, error)
    except Refused as error:  # and Unauthorized: 401 would speak of the caller's own secrets
        return answer(request, 400, "the provider did not accept this", provider=str(error))
    except Transient as error:
        return _of_provider(request, error)
    except Exception as error:  # noqa: BLE001 — a bug; the caller hears so, and the other requests go on
        if isinstance(error, (Outage, *OUTAGE)):
            return _of_outage(request, error)
        _tell(error)
        message = "something went wrong here; the log has more under this requestId"
        return answer(request, 500, message)


def _of_caller(request: web.Request, error: Exception) -> web.Response:
    status = next(status for kind, status in _CALLERS.items() if isinstance(error, kind))
    headers = {401: {"WWW-Authenticate": 'User realm="tidings"'}, 429: {"Retry-After": RETRY_AFTER}}
    return answer(
        request,
        status,
        str(error),
        fields=error.problems if isinstance(error, Invalid) else None,
        headers=headers.get(status),
    )


def _of_http(request: web.Request, error: web.HTTPException) -> web.Response:
    message = _MESSAGES.get(error.status, error.text or error.reason)
    headers = None
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{error.method} is not possible here; {allowed} is"
        headers = {"Allow": allowed}
    elif isinstance(error, web.HTTPRequestEntityTooLarge):
        message = f"the body is larger than {request.client_max_size} bytes"
    return answer(request, error.status, message, headers=headers)


def _of_provider(request: web.Request, error: Transient) -> web.Response:
    if error.retry_after is None:
        return answer(
            request, 502, "the provider cannot answer now; try later", provider=str(error)
        )
    return answer(
        request,
        503,
        "the provider asks for a pause; try later",
        provider=str(error),
        headers={"Retry-After": str(max(1, round(error.retry_after)))},
    )


def _of_outage(request: web.Request, error: BaseException) -> web.Response:
    log.warning("request failed for want of the database", error=type(error).__name__)
    message = str(error) if isinstance(error, Outage) else "the database is away; try again soon"
    return answer(request, 503, message, headers={"Retry-After": RETRY_AFTER})


def _tell(error: Exception) -> None:
    # Not the message: PostgreSQL's and Python's own quote the values that they do not like, and a value may
    # be a secret.
    log.error(
        "request failed",
        error=type(error).__name__,
        traceback="".join(traceback.format_tb(error.__traceback__)),
    )
