"""Dropbox: an account's files and folders, read by the cursor of `list_folder`; a webhook only says that there is news.

What Dropbox does, and where it says so: docs/elements/dropbox.md.

    definition.toml      what is plain: addresses, OAuth, settings, the signature
    api       routes, and what they answer
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson

from daemon.elements import hooks
from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.elements.dropbox.api import CONFLICT, Api, Place, parsed, tag
from daemon.elements.paths import text
from daemon.elements.reading import parameters
from daemon.errors import Invalid, Refused, TokenLost, Unauthorized
from daemon.model import (
    ChangeType,
    FeedEntry,
    FeedPage,
    Incoming,
    Json,
    Page,
    Query,
    Received,
    Request,
    Response,
    WebhookEvent,
)

ACCOUNT = "oauth.user.id"
PATH = "dropbox.path"
UNRENEWABLE = frozenset(
    {"missing_scope", "user_suspended", "invalid_select_user", "invalid_select_admin"}
)
"""What Dropbox says with 401 that no refresh can mend (auth.stone of its API's specification)."""

KINDS = {"files": ("file", "folder"), "folders": ("folder",)}
"""By resource, the tags of its records."""


class Dropbox(Defined):
    """The element `dropbox`."""

    bell = True
    tend_interval = 86400.0

    @property
    def _api(self) -> Api:
        """The routes of the API, or of what stands in for it."""
        assert self.definition.connection is not None  # noqa: S101 — the definition has one; for the type checker
        return Api(self.definition.connection.base, self._now)

    def check_settings(self, settings: Settings) -> None:
        """Raise `Invalid` for settings that cannot work."""
        super().check_settings(settings)
        if settings.get("authentication.type", "").lower() == "apikey":
            raise Invalid(
                {
                    "configuration.authentication.type": "is apiKey, but Dropbox has no API keys: leave it away and "
                    "give providerData.code, or an access token of the App Console as oauth.user.token"
                }
            )

    def renewable(self, error: Unauthorized) -> bool:
        """No new token has a scope that the app lacks, or is of an account that is no more."""
        return tag(error) not in UNRENEWABLE

    async def exchange(
        self, http: Http, settings: Settings, code: str, given: Mapping[str, str]
    ) -> dict[str, str]:
        """The tokens, and the account that they are of."""
        overheard = _Overheard(http)
        kept = await super().exchange(overheard, settings, code, given)
        account = parsed(overheard.body).get("account_id")
        return kept | ({ACCOUNT: account} if isinstance(account, str) and account else {})

    async def tend(self, http: Http, settings: Settings, address: str) -> dict[str, str]:
        """Find out whose account it is, where only tokens were given."""
        if settings.get(ACCOUNT):
            return {}
        told = await self._api.call(http, "users/get_current_account", None)
        account = told.body.get("account_id")
        return {ACCOUNT: account} if isinstance(account, str) and account else {}

    # Reading.

    async def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield what is there now."""
        place, tags = self._place(settings, query), KINDS[query.resource]
        page = await self._api.list(http, place, limit=query.page_size)
        while True:
            records = tuple(one for one in page.entries if one.get(".tag") in tags)
            yield Page(records, page.asked, last=not page.more)
            if not page.more:
                return
            page = await self._api.go_on(http, page.cursor)

    def feed(
        self, http: Http, settings: Settings, query: Query, token: str | None
    ) -> AsyncGenerator[FeedPage] | None:
        """Yield what changed since *token*; every resource has a feed."""
        return self._follow(http, settings, query, token) if query.resource in KINDS else None

    async def _follow(
        self, http: Http, settings: Settings, query: Query, token: str | None
    ) -> AsyncGenerator[FeedPage]:
        place, tags = self._place(settings, query), KINDS[query.resource]
        if token is None:
            root = await self._root(http, place.path)
            page = await self._api.list(http, place)
        else:
            root, cursor = _read_token(token, place)
            page = await self._api.go_on(http, cursor)
        while True:
            yield FeedPage(
                # What is not mounted has no place, and nobody can be told where it went.
                entries=tuple(_entry(one, tags) for one in page.entries if one.get("path_lower")),
                # Also without any entries: a cursor that is never used may expire.
                token=_token(place, root, page.cursor),
                asked=page.asked,
                last=not page.more,
                root=root,
                place_field="path_lower",
            )
            if not page.more:
                return
            page = await self._api.go_on(http, page.cursor)

    def _place(self, settings: Settings, query: Query) -> Place:
        try:
            asked = dict(parameters(self._reader.resource(query.resource), query))
        except Invalid as error:
            raise Refused(str(error)) from error
        path = asked.get("path") or self._settings(settings).get(PATH, "")
        path = "/" + path.strip().strip("/")
        return Place("" if path == "/" else path, asked.get("recursive", "").lower() != "false")

    async def _root(self, http: Http, path: str) -> str:
        """The folder *path* as entries name it."""
        if not path:
            return ""
        told = await self._api.call(http, "files/get_metadata", {"path": path})
        return str(told.body.get("path_lower") or path.lower())

    async def gone(
        self, http: Http, settings: Settings, resource: str, object_id: str
    ) -> bool | None:
        """Ask for the metadata of the object, wherever it is now; None for what is no id of Dropbox."""
        if resource not in KINDS or not object_id.startswith("id:"):
            return None
        try:
            await self._api.call(http, "files/get_metadata", {"path": object_id})
        except Refused as error:
            if error.status == CONFLICT and tag(error) == "path":
                return True
            raise
        return False

    # Webhooks.

    def routes(self, incoming: Incoming) -> tuple[str, ...]:
        """The accounts that a webhook names, unverified."""
        return _accounts(self._parsed(incoming))

    def receive(self, incoming: Incoming, settings: Settings | None) -> Received:
        """Verify a webhook; it says of whom there is news, and nothing else."""
        assert self._verifier is not None  # noqa: S101 — the definition has a signature; for the type checker
        self._verifier.verify(incoming, settings)
        body = self._parsed(incoming)
        wanted = {
            name.strip().lower()
            for name in ((settings or {}).get("event.objects") or "").split(",")
        }
        kinds = [name for name in KINDS if name in wanted] or ["files"]
        # Nothing in the body tells one notification from the next, and each may mean something new.
        moment = self._now()
        return Received(
            events=tuple(
                WebhookEvent(
                    object_type=kind,
                    object_id=account,
                    change=ChangeType.UNKNOWN,
                    changed=None,
                    identity=moment.isoformat(),
                    route=account,
                )
                for account in _accounts(body)
                for kind in kinds
            ),
            raw=body.raw,
            hint=True,
        )

    def _parsed(self, incoming: Incoming) -> hooks.Body:
        assert self.definition.webhook is not None  # noqa: S101 — it stands above; for the type checker
        return hooks.parse(self.definition.webhook, incoming)


class _Overheard:
    """An `Http` that remembers the last answer: that to a token request says more than the tokens."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.body = b""

    async def send(self, request: Request) -> Response:
        answer = await self._http.send(request)
        self.body = answer.body
        return answer


def _accounts(body: hooks.Body) -> tuple[str, ...]:
    """The accounts in a body: `list_folder.accounts`, and `delta.users` as apps of before 2016 know them."""
    told = body.value if isinstance(body.value, dict) else {}
    found: list[Any] = []
    for group, name in (("list_folder", "accounts"), ("delta", "users")):
        part = told.get(group)
        listed = part.get(name) if isinstance(part, dict) else None
        found += listed if isinstance(listed, list) else []
    return tuple(dict.fromkeys(one for each in found if (one := text(each))))


def _entry(told: Json, tags: tuple[str, ...]) -> FeedEntry:
    """An entry of `list_folder`; what is not among *tags* only takes its place."""
    place, tag = str(told["path_lower"]), told.get(".tag")
    folder = tag == "folder"
    if tag not in tags or not told.get("id"):
        return FeedEntry(place, keeps_below=folder)
    return FeedEntry(
        place, str(told["id"]), str(told.get("rev", "")), record=told, keeps_below=folder
    )


def _token(place: Place, root: str, cursor: str) -> str:
    return orjson.dumps([place.path, place.recursive, root, cursor]).decode()


def _read_token(token: str, place: Place) -> tuple[str, str]:
    """Root and cursor; raises `TokenLost` for a token of another place."""
    try:
        path, recursive, root, cursor = orjson.loads(token)
    except ValueError as error:
        raise TokenLost("the token is not of this element") from error
    if (path, recursive) != (place.path, place.recursive):
        raise TokenLost(f"{path or '/'} was watched before", elsewhere=True)
    return root, cursor
