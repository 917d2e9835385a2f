"""The token endpoint of a simulated provider: codes, access tokens that expire, refresh tokens of one use."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from daemon.elements.simulators.ledger import Now

CODE_SECONDS = 60.0
REFRESH_SECONDS = 31 * 86400.0


@dataclass(frozen=True, slots=True)
class Grant:
    """Until when a code or a token is good, and for which redirect address."""

    until: datetime
    redirect: str = ""


@dataclass(slots=True, kw_only=True)
class Tokens:
    """What was given out.  *client* (id and secret) is held to where it is not None."""

    now: Now
    access_seconds: float
    refresh_seconds: float = REFRESH_SECONDS
    client: tuple[str | None, str | None] = (None, None)
    codes: dict[str, Grant] = field(default_factory=dict)
    access: dict[str, Grant] = field(default_factory=dict)
    refresh: dict[str, Grant] = field(default_factory=dict)

    def grant(self, redirect: str) -> str:
        """A new authorization code."""
        code = secrets.token_hex(20)
        self.codes[code] = Grant(self._in(CODE_SECONDS), redirect)
        return code

    def honour(self, code: str) -> None:
        """Take *code* for a granted one, for a year."""
        self.codes[code] = Grant(self._in(365 * 86400.0))

    def good(self, token: str) -> bool:
        """Whether *token* is an access token that has not expired."""
        grant = self.access.get(token)
        return grant is not None and grant.until >= self.now()

    def answer(self, form: Mapping[str, Any]) -> web.Response:
        """The answer to a token request (RFC 6749, 4.1.3 and 6); a code or refresh token is used up by it."""
        given = (form.get("client_id"), form.get("client_secret"))
        pairs = zip(given, self.client, strict=True)
        if any(want is not None and have != want for have, want in pairs):
            return _refusal("invalid_client", "the client is unknown or its secret is wrong", 401)
        match form.get("grant_type"):
            case "authorization_code":
                grant = self.codes.pop(str(form.get("code")), None)
            case "refresh_token":
                grant = self.refresh.pop(str(form.get("refresh_token")), None)
            case _:
                return _refusal("unsupported_grant_type", "use authorization_code or refresh_token")
        wrong = grant is None or grant.until < self.now()
        if wrong or (grant and grant.redirect and grant.redirect != form.get("redirect_uri")):
            return _refusal(
                "invalid_grant", "the code or token is wrong, too old or was used before"
            )
        access, refresh = secrets.token_urlsafe(40), secrets.token_urlsafe(40)
        self.access[access] = Grant(self._in(self.access_seconds))
        self.refresh[refresh] = Grant(self._in(self.refresh_seconds))
        return web.json_response(
            {
                "access_token": access,
                "expires_in": int(self.access_seconds),
                "token_type": "bearer",
                "refresh_token": refresh,
                "refresh_token_expires_in": int(self.refresh_seconds),
                "scope": "readonly",
            }
        )

    def _in(self, seconds: float) -> datetime:
        return self.now() + timedelta(seconds=seconds)


def _refusal(error: str, description: str, status: int = 400) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)
