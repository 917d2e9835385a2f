"""How a described provider is told whose request it is: none, basic, header, query, bearer, OAuth 2.

OAuth is the authorization code grant with refresh (RFC 6749), built and read by oauthlib, sent by the `Http`
given.  The tokens are kept as the settings `oauth.user.token` and `oauth.user.refresh_token`.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace

from oauthlib.oauth2 import (  # type: ignore[import-untyped] # it ships no types
    InvalidGrantError,
    OAuth2Error,
    WebApplicationClient,
)

from daemon.elements.address import whole, with_query
from daemon.elements.base import Http, Parameter, Settings
from daemon.elements.definition import Auth
from daemon.elements.paths import fill, places
from daemon.elements.tables import header_name
from daemon.errors import Invalid, Refused, Unauthorized
from daemon.model import Request

TOKEN = "oauth.user.token"  # noqa: S105 — the name of a setting
REFRESH_TOKEN = "oauth.user.refresh_token"  # noqa: S105 — likewise
REFRESH_INTERVAL = "oauth.user.refresh_interval"
CLIENT_ID = "oauth.api.key"
CLIENT_SECRET = "oauth.api.secret"  # noqa: S105 — likewise
REDIRECT = "oauth.callback.url"
KIND = "authentication.type"
KINDS = ("none", "basic", "bearer", "header", "query")

_BASIC = (
    Parameter("username", "User name"),
    Parameter("password", "Password", type="PASSWORD", secret=True),
)
_API_KEY = Parameter("api.key", "API key", type="PASSWORD", secret=True)
_OAUTH = (
    Parameter(CLIENT_ID, "Client ID", required=True, secret=True),
    Parameter(CLIENT_SECRET, "Client secret", type="PASSWORD", required=True, secret=True),
    Parameter(REDIRECT, "Callback URL of the registered application", required=True),
)
_CHOICE = (
    Parameter(KIND, "Authentication", f"One of {', '.join(KINDS)}", "TEXTFIELD_32", default="none"),
    *_BASIC,
    _API_KEY,
    Parameter("api.key.name", "Name of the header or the query parameter that carries the API key"),
)


class Authentication:
    """The `[auth]` table at work."""

    def __init__(self, auth: Auth, *, override: bool) -> None:
        self._auth = auth
        self._override = override
        self.oauth = auth.kind == "oauth2"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The configuration keys that this kind reads, for those that the definition does not describe itself."""
        match self._auth.kind:
            case "basic":
                return self._named(_BASIC, self._auth.username, self._auth.password)
            case "header" | "query" | "bearer":
                return self._named((_API_KEY,), self._auth.value)
            case "setting":
                return _CHOICE
            case "oauth2" if self._override:
                return (
                    *_OAUTH,
                    Parameter(
                        "oauth.authorize.url", "Authorize URL", default=self._auth.authorize_url
                    ),
                    Parameter("oauth.token.url", "Token URL", default=self._auth.token_url),
                )
            case "oauth2":
                return _OAUTH
            case _:
                return ()

    @property
    def secrets(self) -> frozenset[str]:
        """The settings that come with tokens and belong in the vault."""
        return frozenset({TOKEN, REFRESH_TOKEN}) if self.oauth else frozenset()

    def check(self, settings: Settings) -> None:
        """Raise `Invalid` for settings that no request could be signed with."""
        if self._auth.kind == "setting":
            kind = settings.get(KIND) or "none"
            if kind not in KINDS:
                raise Invalid({f"configuration.{KIND}": f"should be one of {', '.join(KINDS)}"})
            if kind in ("header", "query") and not settings.get("api.key.name"):
                raise Invalid({"configuration.api.key.name": f"is missing: {KIND} {kind} needs it"})
            needed = {"basic": "username", "none": None}.get(kind, "api.key")
            if needed and not settings.get(needed):
                raise Invalid({f"configuration.{needed}": f"is missing: {KIND} {kind} needs it"})
            if kind == "header":
                try:
                    header_name(settings["api.key.name"])
                except ValueError as error:
                    raise Invalid({"configuration.api.key.name": str(error)}) from error
        elif self.oauth:
            self._url("oauth.authorize.url", self._auth.authorize_url, settings)
            self._url("oauth.token.url", self._auth.token_url, settings)

    def sign(self, request: Request, settings: Settings) -> Request:
        """*request* with the credentials on it; as it is where *settings* hold none."""
        auth = self._auth
        kind, name, value = auth.kind, auth.name, fill(auth.value, settings)
        if kind == "setting":
            kind = settings.get(KIND) or "none"  # type: ignore[assignment] # check() holds it to KINDS
            name = settings.get("api.key.name", "")
            value = settings.get("api.key")
        if kind == "basic":
            user, password = (fill(one, settings) or "" for one in (auth.username, auth.password))
            return _with(request, "Authorization", _basic(user, password))
        if kind == "oauth2":
            kind, value = "bearer", settings.get(TOKEN)
        if not value:
            return request
        if kind == "bearer":
            return _with(request, "Authorization", f"Bearer {value}")
        if kind == "header":
            return _with(request, name, value)
        if kind == "query":
            return replace(request, url=with_query(request.url, [(name, value)]))
        return request

    def authorize_url(self, settings: Settings, *, state: str | None) -> str:
        """Where a person grants access; raises `Invalid`."""
        self._required()
        client = settings.get(CLIENT_ID)
        if not client:
            raise Invalid({f"configuration.{CLIENT_ID}": "is missing: it is the client ID"})
        pairs = [("response_type", "code"), ("client_id", client)]
        optional = {
            "redirect_uri": settings.get(REDIRECT),
            "scope": settings.get("oauth.scope") or self._auth.scope,
            "state": state,
        }
        filled = {
            name: fill(value, settings) for name, value in self._auth.authorize_parameters.items()
        }
        pairs += [(name, value) for name, value in (filled | optional).items() if value]
        return with_query(
            self._url("oauth.authorize.url", self._auth.authorize_url, settings), pairs
        )

    async def exchange(self, http: Http, settings: Settings, code: str) -> dict[str, str]:
        """The settings that an authorization code brings; raises `Unauthorized` where it is not accepted."""
        self._required()
        client = WebApplicationClient(settings.get(CLIENT_ID, ""))
        form = client.prepare_request_body(
            code=code,
            redirect_uri=settings.get(REDIRECT) or None,
            include_client_id=self._auth.client == "body",
            **self._client_secret(settings),
        )
        return await self._tokens(http, settings, client, form)

    async def refresh(self, http: Http, settings: Settings) -> dict[str, str] | None:
        """The settings that a refresh token brings; None where there is none."""
        token = settings.get(REFRESH_TOKEN)
        if not self.oauth or not token:
            return None
        client = WebApplicationClient(settings.get(CLIENT_ID, ""))
        # Without a client the token goes alone, as Campaign Monitor wants it.
        named = self._auth.client == "body" and client.client_id
        own = {"client_id": client.client_id} if named else {}
        form = client.prepare_refresh_body(
            refresh_token=token, **own, **self._client_secret(settings)
        )
        return await self._tokens(http, settings, client, form)

    async def _tokens(
        self, http: Http, settings: Settings, client: WebApplicationClient, form: str
    ) -> dict[str, str]:
        try:
            url = self._url("oauth.token.url", self._auth.token_url, settings)
        except Invalid as error:
            raise Refused(str(error)) from error
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            **_filled(self._auth.token_headers, settings),
        }
        if self._auth.client == "basic":
            secret = settings.get(CLIENT_SECRET, "")
            headers["Authorization"] = _basic(client.client_id, secret)
        try:
            answer = await http.send(Request("POST", url, headers, form.encode()))
        except Refused as error:
            # RFC 6749, 5.2: invalid_grant and its like are a 400; 403 is what some send instead.
            if error.status in (400, 401, 403):
                raise Unauthorized(
                    f"access was not granted: {error}", status=error.status
                ) from error
            raise
        try:
            given = client.parse_request_body_response(answer.body.decode())
            return _kept(given)
        except InvalidGrantError as error:
            # Some say it with 200.
            raise Unauthorized("access was not granted: invalid_grant") from error
        except (OAuth2Error, ValueError) as error:
            # Not quoted: it may hold the tokens.
            raise Refused("the provider's answer to the token request cannot be read") from error

    def _required(self) -> None:
        if not self.oauth:
            raise Invalid(
                {"element": "does not use OAuth 2: give its credentials in the configuration"}
            )

    def _url(self, key: str, template: str, settings: Settings) -> str:
        return whole(template, settings, override=key if self._override else None)

    def _client_secret(self, settings: Settings) -> dict[str, str]:
        secret = settings.get(CLIENT_SECRET)
        return {"client_secret": secret} if secret and self._auth.client == "body" else {}

    def _named(self, known: tuple[Parameter, ...], *templates: str) -> tuple[Parameter, ...]:
        """A parameter for each setting in *templates*; one that is not known is a secret, to be safe."""
        described = {one.key: one for one in known}
        keys = dict.fromkeys(key for template in templates for key in places(template))
        return tuple(
            described.get(key, Parameter(key, key, type="PASSWORD", secret=True)) for key in keys
        )


def _kept(given: Mapping[str, object]) -> dict[str, str]:
    """The settings to keep of a token answer; without a new refresh token the old one stays."""
    if not given["access_token"]:
        raise ValueError("the access token is empty")
    kept = {TOKEN: str(given["access_token"])}
    if given.get("refresh_token"):
        kept[REFRESH_TOKEN] = str(given["refresh_token"])
    if given.get("expires_in"):
        kept[REFRESH_INTERVAL] = str(given["expires_in"])
    return kept


def _filled(templates: Mapping[str, str], settings: Settings) -> dict[str, str]:
    filled = {name: fill(template, settings) for name, template in templates.items()}
    return {name: value for name, value in filled.items() if value is not None}


def _with(request: Request, name: str, value: str) -> Request:
    return replace(request, headers={**request.headers, name: value})


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
