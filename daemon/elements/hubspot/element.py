"""HubSpot's CRM: read by searches, deletions from the list of what is archived, webhooks signed in three ways.

What HubSpot does, and where it says so: docs/elements/hubspot.md.

    definition.toml      what is plain: addresses, OAuth, settings, resources
    access    tokens
    search    kinds of records, and searches
    records   requests for records
    answers   what HubSpot answers
    hooks     webhooks
"""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import orjson

from daemon.dates import EPOCH
from daemon.elements import hooks
from daemon.elements.authentication import CLIENT_SECRET
from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.elements.hubspot import hooks as webhooks
from daemon.elements.hubspot.access import SECRET, check_ready, problems_of, token
from daemon.elements.hubspot.answers import (
    content,
)
from daemon.elements.hubspot.records import Records
from daemon.elements.hubspot.search import (
    ALIASES,
    Kind,
    Search,
    kind_of,
    search_for,
)
from daemon.elements.paths import text
from daemon.elements.reading import base
from daemon.errors import BadSignature, Invalid, Refused
from daemon.model import Incoming, Json, Page, Query, Received, Request, Response
from daemon.plans import compile_plans, unfilled

PORTAL = "hubspot.portal.id"
ONLY_V3 = "hubspot.signature.v3.only"
DELETIONS = "hubspot.deletions.polled"
NULLS = "filter.response.nulls"
FLAGS = (ONLY_V3, DELETIONS, NULLS, "create.bulk.properties")


@dataclass(frozen=True, slots=True)
class Overheard:
    """An `Http` that keeps what the last answer held."""

    http: Http
    answers: list[Response]

    async def send(self, request: Request) -> Response:
        """Send *request* and remember the answer."""
        answer = await self.http.send(request)
        self.answers.append(answer)
        return answer


class HubSpot(Defined):
    """The element; what is plain about it is in definition.toml."""

    overlap = 3600.0
    """Searches have shown changes as late as that; what is seen twice is recognised."""

    edits_undated = True
    """What a webhook names is read at once, by its id: the search may not find it yet."""

    def check_settings(self, settings: Settings) -> None:
        """Raise `Invalid` for settings that cannot work.

        Where a credential is still a `<PLACEHOLDER>` of the documents, polls say that it is missing.
        """
        known = self._settings(settings)
        problems = {
            f"configuration.{key}": "should be true or false"
            for key in FLAGS
            if known.get(key, "").lower() not in ("", "true", "false")
        }
        if not re.fullmatch(r"[0-9]{0,20}", known.get(PORTAL, "")):
            problems[f"configuration.{PORTAL}"] = "should be digits: HubSpot's Hub ID"
        problems |= problems_of(known, {key for key, value in settings.items() if unfilled(value)})
        if problems:
            raise Invalid(problems)
        super().check_settings(settings)

    def check_query(self, query: Query) -> None:
        """Raise `Invalid` for a query that no search can answer."""
        search_for(query)

    async def exchange(
        self, http: Http, settings: Settings, code: str, given: Mapping[str, str]
    ) -> dict[str, str]:
        """The settings that an authorization code brings, the Hub ID among them; none where a token needs no code."""
        known = self._settings(settings)
        if token(known) or unfilled(code):
            return {}
        heard = Overheard(http, [])
        kept = await super().exchange(heard, known, code, given)
        portal = text(content(heard.answers[-1]).get("hub_id"))
        return {**kept, PORTAL: portal} if portal else kept

    async def refresh(self, http: Http, settings: Settings) -> dict[str, str] | None:
        """The settings that a refresh token brings; a private app's token has none."""
        known = self._settings(settings)
        return None if token(known) else await super().refresh(http, known)

    def sign(self, request: Request, settings: Settings) -> Request:
        """*request* with the token of the private app, or of the grant."""
        known = self._settings(settings)
        own = token(known)
        if not own:
            return super().sign(request, known)
        return replace(request, headers={**request.headers, "Authorization": f"Bearer {own}"})

    # Reading.

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages that answer *query*, in the order of ids."""
        records = self._records(http, settings)
        try:
            search = search_for(query)
        except Invalid as error:
            raise Refused(str(error)) from error
        return records.search(search, polled=query.since is not None)

    def reread(
        self, http: Http, settings: Settings, resource: str, ids: Sequence[str]
    ) -> AsyncGenerator[Page] | None:
        """Yield the records *ids* as they are now; None where the poll of *resource* asks for some of all records only."""
        records = self._records(http, settings)
        search = _polled_search(self._settings(settings), self.poller_defaults, resource)
        return None if search is None else records.reread(search, ids)

    def deletions(
        self, http: Http, settings: Settings, resource: str, since: datetime
    ) -> AsyncGenerator[Page] | None:
        """Yield what was archived, and what was merged into another record, since *since*; None where it is not to be polled."""
        records = self._records(http, settings)
        if self._settings(settings).get(DELETIONS, "").lower() == "false":
            return None
        return records.deleted(_kind(resource), since)

    def inventory(
        self, http: Http, settings: Settings, resource: str
    ) -> AsyncGenerator[Page] | None:
        """None: what is deleted is listed by HubSpot itself."""
        return None

    async def gone(
        self, http: Http, settings: Settings, resource: str, object_id: str
    ) -> bool | None:
        """Whether there is no such record; the id of one that was merged leads to another."""
        return await self._records(http, settings).gone(_kind(resource), object_id)

    def deleted(self, resource: str, record: Json) -> bool:
        """Whether *record* is archived; searches show none."""
        return record.get("archived") is True

    def _records(self, http: Http, settings: Settings) -> Records:
        """The account's records; raises `Refused` where *settings* hold nothing to ask with."""
        known = self._settings(settings)
        check_ready(known)
        place = self.definition.connection
        assert place is not None  # noqa: S101 — definition.toml has it; for the type checker
        try:
            root = base(place, known)
        except Invalid as error:
            raise Refused(str(error)) from error
        nulls = known.get(NULLS, "").lower() == "false"
        return Records(http, root=f"{root}/crm/v3/objects", nulls=nulls, now=self._now)

    # Webhooks.

    def routes(self, incoming: Incoming) -> tuple[str, ...]:
        """The accounts that the events are of, unverified."""
        return webhooks.portals(webhooks.items(self._body(incoming).value))

    def receive(self, incoming: Incoming, settings: Settings | None) -> Received:
        """Verify a webhook and say what it holds of the instance's account."""
        if settings is None:
            raise BadSignature("only an instance knows the app's client secret")
        known = self._settings(settings)
        self._verify(incoming, known)
        body = self._body(incoming)
        events = webhooks.items(body.value)
        mine = [
            one for one in events if known.get(PORTAL, "") in ("", text(one.get("portalId")) or "")
        ]
        # What happened in other accounts is nobody's business here.
        raw = body.raw if len(mine) == len(events) else orjson.dumps(mine)
        names = _names(known, self.poller_defaults)
        return Received(events=webhooks.told(mine, name=lambda one: names.get(one, one)), raw=raw)

    def _verify(self, incoming: Incoming, settings: Settings) -> None:
        secret = settings.get(SECRET) or settings.get(CLIENT_SECRET)
        if not secret:
            raise BadSignature(f"the instance has neither {SECRET} nor {CLIENT_SECRET}")
        if incoming.headers.get(webhooks.V3):
            assert self._verifier is not None  # noqa: S101 — definition.toml has it; for the type checker
            signed = replace(incoming, url=webhooks.signed_address(incoming.url))
            self._verifier.verify(signed, {SECRET: secret})
        elif settings.get(ONLY_V3, "").lower() == "true":
            raise BadSignature(f"there is no {webhooks.V3}, and {ONLY_V3} wants it")
        else:
            webhooks.verify_older(incoming, secret)

    def _body(self, incoming: Incoming) -> hooks.Body:
        hook = self.definition.webhook
        assert hook is not None  # noqa: S101 — definition.toml has it; for the type checker
        return hooks.parse(hook, incoming)

    def _settings(self, settings: Settings) -> Settings:
        """*settings* without the documents' placeholders, with the defaults of what is not given."""
        given = {key: value for key, value in settings.items() if not unfilled(value)}
        return super()._settings(given)


def _kind(resource: str) -> Kind:
    try:
        return kind_of(resource)
    except Invalid as error:
        raise Refused(str(error)) from error


def _names(settings: Settings, defaults: Json) -> dict[str, str]:
    """What the instance calls a kind of records that has two names: what its `event.objects` say, or what it polls."""
    asked = settings.get("event.objects", "").lower().split(",")
    wanted = frozenset(_plural(one.strip()) for one in asked if one.strip())
    if not wanted:
        wanted = _polled(settings.get("event.poller.configuration", "")) or frozenset(defaults)
    return {
        kind: alias for alias, kind in ALIASES.items() if alias in wanted and kind not in wanted
    }


def _polled_search(settings: Settings, defaults: Json, resource: str) -> Search | None:
    """What the poll of *resource* searches for, where that is all that changed since; None where it is not, or not clear."""
    try:
        plans = [plan for plan in compile_plans(settings, defaults) if plan.path == resource]
        searches = [search_for(plan.query(EPOCH, EPOCH)) for plan in plans]
    except Invalid:
        return None
    return searches[0] if len(searches) == 1 and searches[0].plain else None


def _plural(name: str) -> str:
    """`Account`, `company`, `deals` as lists are called."""
    if name.endswith("y"):
        return name.removesuffix("y") + "ies"
    return name if name.endswith("s") else f"{name}s"


@lru_cache(maxsize=256)
def _polled(configuration: str) -> frozenset[str]:
    """What HubSpot, or the platform, calls the resources of a poller configuration; none where it is not readable."""
    try:
        plans = compile_plans({"event.poller.configuration": configuration})
    except Invalid:
        return frozenset()
    return frozenset(plan.path for plan in plans)
