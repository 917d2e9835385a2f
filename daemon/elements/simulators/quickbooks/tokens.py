"""Intuit's token endpoint, simulated: HTTP Basic, access tokens of an hour, a refresh token that changes now and then.

A refresh answers the same refresh token again until it is about a day old, and then a new one; the old one is good for
a day more.  One that is not used for 100 days is dead (developer.intuit.com, OAuth 2.0 FAQ; the day is as observed).
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aiohttp import web

from daemon.elements.simulators.ledger import Now

ACCESS_SECONDS = 3600
REFRESH_SECONDS = 100 * 86400
ROTATES = timedelta(hours=24)
HARD_SECONDS = 5 * 365 * 86400
CODE_LIFE = timedelta(minutes=10)


@dataclass(slots=True)
class Refresh:
    """A refresh token: when it was made, until when it is good, and what took its place."""

    made: datetime
    until: datetime
    successor: str | None = None


@dataclass(slots=True, kw_only=True)
class IntuitTokens:
    """What was given out.  *client* (id and secret) is held to where it is not None."""

    now: Now
    client: tuple[str | None, str | None] = (None, None)
    codes: dict[str, tuple[datetime, str]] = field(default_factory=dict)
    access: dict[str, datetime] = field(default_factory=dict)
    refresh: dict[str, Refresh] = field(default_factory=dict)

    def grant(self, redirect: str) -> str:
        """A new authorization code."""
        code = "AB1" + secrets.token_urlsafe(36)
        self.codes[code] = (self.now() + CODE_LIFE, redirect)
        return code

    def honour(self, code: str) -> None:
        """Take *code* for a granted one, for a year."""
        self.codes[code] = (self.now() + timedelta(days=365), "")

    def good(self, token: str) -> bool:
        """Whether *token* is an access token that has not expired."""
        until = self.access.get(token)
        return until is not None and until >= self.now()

    def answer(self, form: Mapping[str, str], headers: Mapping[str, str]) -> web.Response:
        """The answer to a token request."""
        if not self._admits(headers):
            return _refusal("invalid_client", 401)
        match form.get("grant_type"):
            case "authorization_code":
                refresh = self._exchanged(form)
            case "refresh_token":
                refresh = self._refreshed(form.get("refresh_token", ""))
            case _:
                return _refusal("unsupported_grant_type")
        if refresh is None:
            return _refusal("invalid_grant")
        access = secrets.token_urlsafe(80)
        self.access[access] = self.now() + timedelta(seconds=ACCESS_SECONDS)
        answer: dict[str, object] = {
            "token_type": "bearer",
            "access_token": access,
            "expires_in": ACCESS_SECONDS,
            "refresh_token": refresh,
            "x_refresh_token_expires_in": REFRESH_SECONDS,
        }
        if headers.get("x-include-refresh-token-hard-expires-in") == "true":
            answer["x_refresh_token_hard_expires_in"] = HARD_SECONDS
        return web.json_response(answer)

    def revoked(self, token: str, headers: Mapping[str, str]) -> web.Response:
        """Take *token* back."""
        if not self._admits(headers):
            return _refusal("invalid_client", 401)
        known = self.access.pop(token, None) or self.refresh.pop(token, None)
        return web.Response(status=200) if known else _refusal("invalid_request")

    def _admits(self, headers: Mapping[str, str]) -> bool:
        kind, _, encoded = headers.get("Authorization", "").partition(" ")
        try:
            name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        pairs = zip((name, secret), self.client, strict=True)
        return kind == "Basic" and all(want is None or have == want for have, want in pairs)

    def _exchanged(self, form: Mapping[str, str]) -> str | None:
        until, redirect = self.codes.pop(form.get("code", ""), (None, ""))
        if (
            until is None
            or until < self.now()
            or (redirect and redirect != form.get("redirect_uri"))
        ):
            return None
        return self._new()

    def _refreshed(self, token: str) -> str | None:
        known, now = self.refresh.get(token), self.now()
        if known is None or known.until < now:
            return None
        if known.successor is not None:
            return known.successor
        if now - known.made < ROTATES:
            known.until = now + timedelta(seconds=REFRESH_SECONDS)
            return token
        known.successor, known.until = self._new(), now + ROTATES
        return known.successor

    def _new(self) -> str:
        token, now = "RT1-" + secrets.token_urlsafe(40), self.now()
        self.refresh[token] = Refresh(now, now + timedelta(seconds=REFRESH_SECONDS))
        return token


def _refusal(error: str, status: int = 400) -> web.Response:
    return web.json_response(
        {"error": error, "error_description": error.replace("_", " ")}, status=status
    )
