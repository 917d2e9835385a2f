"""Who may ask a simulated Dropbox: codes, access tokens that expire, refresh tokens that stay as they are."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from daemon.elements.simulators.ledger import Now
from daemon.elements.simulators.tokens import CODE_SECONDS, Grant
from daemon.model import Json

SCOPE = "account_info.read files.metadata.read"


class Denied(Exception):
    """Dropbox's answer 400 to a token request; its text is the error, and a second argument says more."""


@dataclass(slots=True, kw_only=True)
class Access:
    """What was given out for one account.  *client* (app key and secret) is held to where it is not None."""

    now: Now
    seconds: float
    account_id: str
    uid: int
    client: tuple[str | None, str | None] = (None, None)
    codes: dict[str, Grant] = field(default_factory=dict)
    tokens: dict[str, Grant] = field(default_factory=dict)
    refresh: set[str] = field(default_factory=set)

    def grant(self, redirect: str) -> str:
        """A new authorization code, good for one exchange and only with *redirect* where that is given."""
        code = secrets.token_urlsafe(32)
        self.codes[code] = Grant(self.now() + timedelta(seconds=CODE_SECONDS), redirect)
        return code

    def good(self, token: str) -> bool:
        """Whether *token* is an access token that has not expired."""
        grant = self.tokens.get(token)
        return grant is not None and grant.until >= self.now()

    def answer(self, form: Mapping[str, Any], basic: tuple[str, str] | None) -> Json:
        """The answer to a token request, whose client stands in *form* or came as *basic*; raises `Denied`."""
        given = basic or (form.get("client_id"), form.get("client_secret"))
        if any(
            want is not None and have != want for have, want in zip(given, self.client, strict=True)
        ):
            raise Denied("invalid_client: Invalid client_id or client_secret")
        match form.get("grant_type"):
            case "authorization_code":
                return self._exchange(str(form.get("code")), form.get("redirect_uri"))
            case "refresh_token":
                if str(form.get("refresh_token")) not in self.refresh:
                    raise Denied("invalid_grant", "refresh token is invalid or revoked")
                # The refresh token stays, and is not told again.
                return self._token()
            case other:
                raise Denied("unsupported_grant_type", f"grant_type {other}")

    def granted(self) -> Json:
        """New tokens, as a code brings them."""
        refresh = secrets.token_urlsafe(48)
        self.refresh.add(refresh)
        return self._token() | {
            "refresh_token": refresh,
            "scope": SCOPE,
            "uid": str(self.uid),
            "account_id": self.account_id,
        }

    def _exchange(self, code: str, redirect: object) -> Json:
        grant = self.codes.pop(code, None)
        if grant is None or grant.until < self.now():
            raise Denied("invalid_grant", "code doesn't exist or has expired")
        if grant.redirect and grant.redirect != redirect:
            raise Denied("invalid_grant", "redirect_uri mismatch")
        return self.granted()

    def _token(self) -> Json:
        access = f"sl.{secrets.token_urlsafe(40)}"
        self.tokens[access] = Grant(self.now() + timedelta(seconds=self.seconds))
        return {
            "access_token": access,
            "token_type": "bearer",
            "expires_in": int(self.seconds),
        }
