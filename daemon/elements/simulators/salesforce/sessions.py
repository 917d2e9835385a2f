"""OAuth at a simulated Salesforce: codes, sessions that end, refresh tokens that are good for many uses or for one."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from daemon.elements.simulators.ledger import Now
from daemon.elements.simulators.tokens import Grant
from daemon.signatures import hmac_digest

ORGANIZATION = "00Dd0000000dtDqEAI"
USER = "005d0000000TeSTAA0"
CODE_SECONDS = 900.0


class _DeniedError(Exception):
    """A token request that is refused: the error's name, and a sentence."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


@dataclass(slots=True, kw_only=True)
class Sessions:
    """What was given out.  *client* (id and secret) is held to where it is not None.

    With *rotate* a refresh token is good for one use; using it again ends what came of it, too.
    """

    now: Now
    seconds: float
    rotate: bool = False
    client: tuple[str | None, str | None] = (None, None)
    codes: dict[str, Grant] = field(default_factory=dict)
    access: dict[str, datetime] = field(default_factory=dict)
    refresh: set[str] = field(default_factory=set)
    spent: dict[str, str] = field(default_factory=dict)

    def grant(self, redirect: str) -> str:
        """A new authorization code."""
        code = f"aPrx{secrets.token_urlsafe(40)}"
        self.codes[code] = Grant(self.now() + timedelta(seconds=CODE_SECONDS), redirect)
        return code

    def session(self) -> str:
        """A new access token."""
        token = f"{ORGANIZATION[:15]}!{secrets.token_urlsafe(40)}"
        self.access[token] = self.now() + timedelta(seconds=self.seconds)
        return token

    def good(self, token: str) -> bool:
        """Whether *token* is an access token whose session is not over."""
        return self.access.get(token, self.now()) > self.now()

    def answer(self, form: Mapping[str, Any], origin: str) -> web.Response:
        """The answer to a token request; *origin* is told as the instance's address."""
        try:
            refresh = self._checked(form)
        except _DeniedError as error:
            said = {"error": error.error, "error_description": str(error)}
            return web.json_response(said, status=400)
        identity = f"https://login.salesforce.com/id/{ORGANIZATION}/{USER}"
        issued = str(int(self.now().timestamp() * 1000))
        key = str(form.get("client_secret", "")).encode()
        answer = {
            "access_token": self.session(),
            "refresh_token": refresh,
            "signature": hmac_digest("sha256", "base64", key, f"{identity}{issued}".encode()),
            "scope": "refresh_token full",
            "instance_url": origin,
            "id": identity,
            "token_type": "Bearer",
            "issued_at": issued,
        }
        return web.json_response({name: value for name, value in answer.items() if value})

    def _checked(self, form: Mapping[str, Any]) -> str | None:
        """The refresh token that the answer brings, if it brings one."""
        client, secret = self.client
        if client is not None and form.get("client_id") != client:
            raise _DeniedError("invalid_client_id", "client identifier invalid")
        if secret is not None and form.get("client_secret") != secret:
            raise _DeniedError("invalid_client", "invalid client credentials")
        match form.get("grant_type"):
            case "authorization_code":
                return self._exchanged(str(form.get("code")), form.get("redirect_uri"))
            case "refresh_token":
                return self._refreshed(str(form.get("refresh_token")))
            case "client_credentials":
                return None
            case _:
                raise _DeniedError("unsupported_grant_type", "grant type not supported")

    def _exchanged(self, code: str, redirect: object) -> str:
        grant = self.codes.pop(code, None)
        if grant is None or grant.until < self.now():
            raise _DeniedError("invalid_grant", "expired authorization code")
        if grant.redirect and grant.redirect != redirect:
            raise _DeniedError("redirect_uri_mismatch", "redirect_uri must match configuration")
        return self._another()

    def _refreshed(self, old: str) -> str | None:
        if old in self.spent:
            self.refresh.discard(self.spent[old])
        if old not in self.refresh:
            raise _DeniedError("invalid_grant", "expired access/refresh token")
        if not self.rotate:
            return None
        self.refresh.discard(old)
        self.spent[old] = self._another()
        return self.spent[old]

    def _another(self) -> str:
        token = secrets.token_urlsafe(50)
        self.refresh.add(token)
        return token
