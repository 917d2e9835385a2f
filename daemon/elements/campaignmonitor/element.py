"""Campaign Monitor v3.3: subscribers of lists, by polling and by webhooks that it registers itself.

What is odd about it, and where that is known from: docs/elements/campaignmonitor.md.  In short: a subscriber is an
address in a list; `date=` finds who came into a state since, not who was edited; dates are in the client's time and
say no zone; pages go by number while rows move; webhooks are not signed and name one list each.

    poll ──── date= in the five states of each list ──────────► who came, went, unsubscribed, bounced
    sweep ─── the four live states whole, at an interval ─────► who was edited, whose address changed
    webhook ─ names addresses: the next poll reads them again ► edits at once
"""

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from daemon.dates import DatePattern
from daemon.elements.address import segment
from daemon.elements.authentication import CLIENT_ID, CLIENT_SECRET, KIND, REDIRECT
from daemon.elements.base import Http, Settings
from daemon.elements.campaignmonitor import api as createsend
from daemon.elements.campaignmonitor import hooks
from daemon.elements.campaignmonitor.api import EARLIEST, PAGE, Api, MailingList
from daemon.elements.defined import Defined
from daemon.elements.reading import parameters
from daemon.errors import Invalid, Refused, Transient, Unauthorized
from daemon.model import Incoming, Json, Page, Query, Received, Request
from daemon.plans import unfilled

DEFINITION = """
id = 6
key = "campaignmonitor"
name = "Campaign Monitor"
hub = "marketing"
description = "Campaign Monitor v3.3: the subscribers of an account's lists."

[[parameters]]
key = "authentication.type"
name = "Authentication"
description = "oauth2, or apiKey (basic is the same)."
type = "TEXTFIELD_32"
default = "oauth2"

[[parameters]]
key = "api.key"
name = "API key"
description = "Of the account or of a client; instead of OAuth."
type = "PASSWORD"
secret = true

[[parameters]]
key = "username"
name = "API key, under the name that the platform gave it"
type = "PASSWORD"
secret = true

[[parameters]]
key = "oauth.api.key"
name = "Client ID"
description = "Of the registered application."
secret = true

[[parameters]]
key = "oauth.api.secret"
name = "Client secret"
type = "PASSWORD"
secret = true

[[parameters]]
key = "oauth.callback.url"
name = "Callback URL of the registered application"

[[parameters]]
key = "list.ids"
name = "List IDs"
description = "The lists to watch, joined by commas; all lists of all clients where not given."
type = "TEXTAREA"

[[parameters]]
key = "events.list.ids"
name = "List IDs, under the name that the platform gave them"
type = "TEXTAREA"

[connection]
base = "https://api.createsend.com/api/v3.3"
# No limit is published for what is read here.
pace = 0.1

[auth]
kind = "oauth2"
authorize_url = "https://api.createsend.com/oauth"
token_url = "https://api.createsend.com/oauth/token"
scope = "ManageLists,ImportSubscribers"
authorize_parameters = { type = "web_server" }
# Tokens live 14 days.
keep_alive = 604800

[resources.subscribers]
id = "id"
poll = "/hubs/marketing/subscribers?where=Date>='${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'"
deletes = "marker"
deleted = { field = "State", values = ["Deleted"] }

[resources.subscribers.where]
"Date>=" = "date"
"Date>" = "date"
"lastModifiedDate>=" = "date"
"lastModifiedDate>" = "date"
"State=" = "state"
"ListID=" = "list"
"EmailAddress=" = "email"

[webhook]
unguessable = true
hint = true

[webhook.events]
items = "Events"
id = "EmailAddress"
object_type = "subscribers"
type = "Type"
types = { Subscribe = "CREATED", Update = "UPDATED", Deactivate = "UPDATED" }
"""

RESOURCE = "subscribers"
LIVE = ("unconfirmed", "active", "unsubscribed", "bounced")
DELETED = "deleted"
TOGETHER = 50  # subscribers read one by one that make a page
HOOKS = "webhook.ids"

_MOMENT = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ss'Z'")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query asks for: who came into *states* after *since*, of one list, of one address."""

    states: tuple[str, ...]
    since: datetime | None = None
    list_id: str | None = None
    email: str | None = None
    size: int = PAGE


class CampaignMonitor(Defined):
    """The element; an object's id is `<list id>/<address in lower case>`."""

    source = DEFINITION
    tend_interval = 3600.0
    edits_undated = True
    sweep_interval = 3600.0

    # Authentication.

    def check_settings(self, settings: Settings) -> None:
        """Raise `Invalid` for settings that cannot work."""
        problems: dict[str, str] = {}
        kind = (settings.get(KIND) or "").lower()
        if kind not in ("", "oauth2", "apikey", "basic"):
            problems[f"configuration.{KIND}"] = "should be oauth2 or apiKey"
        elif kind in ("apikey", "basic") and not _key(settings):
            problems["configuration.api.key"] = "is missing: it is the API key"
        elif not _key(settings):
            names = {
                CLIENT_ID: "client ID",
                CLIENT_SECRET: "client secret",
                REDIRECT: "callback URL of the registered application",
            }
            for key, name in names.items():
                if not settings.get(key) or unfilled(settings[key]):
                    problems[f"configuration.{key}"] = f"is missing: it is the {name}"
        for key in ("list.ids", "events.list.ids"):
            wrong = [one for one in _names(settings.get(key)) if not createsend.is_list_id(one)]
            if wrong:
                problems[f"configuration.{key}"] = (
                    f"should be ids of 32 hexadecimal digits joined by commas; {wrong[0][:40]!r} is none"
                )
        if problems:
            raise Invalid(problems)
        super().check_settings(settings)

    def authorize_url(self, settings: Settings, *, state: str | None) -> str:
        """Where a person grants access: `type=web_server` stands for the usual `response_type=code`."""
        return super().authorize_url(settings, state=state).replace("response_type=code&", "", 1)

    async def refresh(self, http: Http, settings: Settings) -> dict[str, str] | None:
        """The settings that a refresh token brings; it is sent alone, without the client."""
        if _key(settings):
            return None
        client = (CLIENT_ID, CLIENT_SECRET)
        return await super().refresh(
            http, {key: value for key, value in settings.items() if key not in client}
        )

    def renewable(self, error: Unauthorized) -> bool:
        """Whether *error* is about the token: a 401 may be about an id or a permission, too."""
        return createsend.code_of(error) in createsend.CREDENTIALS

    def sign(self, request: Request, settings: Settings) -> Request:
        """*request* with the API key as the user of a basic authentication, or with the token."""
        key = _key(settings)
        if not key:
            return super().sign(request, settings)
        value = "Basic " + base64.b64encode(f"{key}:x".encode()).decode()
        return replace(request, headers={**request.headers, "Authorization": value})

    # Reading.

    def check_query(self, query: Query) -> None:
        """Raise `Invalid` for a query that `read` cannot answer."""
        self._asked(query)

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the subscribers that *query* asks for: with a date, all that came into a state since, deleted too."""
        try:
            asked = self._asked(query)
        except Invalid as error:
            raise Refused(str(error)) from error
        return self._read(self._api(http), settings, asked)

    def inventory(
        self, http: Http, settings: Settings, resource: str
    ) -> AsyncGenerator[Page] | None:
        """Yield all that are not deleted, whole."""
        return self._inventory(self._api(http), settings) if resource == RESOURCE else None

    def reread(
        self, http: Http, settings: Settings, resource: str, ids: Sequence[str]
    ) -> AsyncGenerator[Page] | None:
        """Yield the subscribers *ids* as they are now; one that is no more has the state of a deleted one."""
        return self._reread(self._api(http), settings, ids) if resource == RESOURCE else None

    async def gone(
        self, http: Http, settings: Settings, resource: str, object_id: str
    ) -> bool | None:
        """Whether the provider says that there is no such subscriber."""
        name = createsend.named(object_id)
        if resource != RESOURCE or name is None:
            return None
        record, _ = await createsend.subscriber(self._api(http), *name)
        return self.deleted(resource, record)

    def _asked(self, query: Query) -> Asked:
        """What *query* asks for; raises `Invalid`."""
        given = dict(parameters(self._reader.resource(query.resource), query))
        since: datetime | None = None
        if "date" in given:
            try:
                since = _MOMENT.parse(given["date"])
            except ValueError as error:
                raise Invalid({"where": f"Date: {error}"}) from error
        states: tuple[str, ...] = LIVE if since is None else (*LIVE, DELETED)
        if "state" in given:
            if given["state"].lower() not in (*LIVE, DELETED):
                raise Invalid({"where": f"State should be one of {', '.join((*LIVE, DELETED))}"})
            states = (given["state"].lower(),)
        if "list" in given and not createsend.is_list_id(given["list"]):
            raise Invalid({"where": "ListID should be 32 hexadecimal digits"})
        size = min(max(query.page_size or PAGE, 10), PAGE)
        return Asked(states, since, given.get("list", "").lower() or None, given.get("email"), size)

    async def _read(self, api: Api, settings: Settings, asked: Asked) -> AsyncGenerator[Page]:
        lists = await self._lists(api, settings, zones=asked.since is not None)
        mine = [one for one in lists if asked.list_id in (None, one.id)]
        latest: dict[str, str] = {}
        for one in mine:
            if asked.email is not None:
                record, when = await createsend.subscriber(api, one.id, asked.email)
                there = when is not None and str(record["State"]).lower() in asked.states
                yield Page((record,) if there else (), when or self._now())
                continue
            for state in asked.states:
                async with aclosing(
                    createsend.walk(api, one, state, asked.since, asked.size)
                ) as pages:
                    async for page in pages:
                        yield _without_returned(page, latest) if state == DELETED else page
                        if asked.since is not None:
                            latest |= {row["id"]: str(row.get("Date")) for row in page.records}
        if not mine:
            yield Page((), self._now(), last=True)

    async def _inventory(self, api: Api, settings: Settings) -> AsyncGenerator[Page]:
        lists = await self._lists(api, settings, zones=True)
        began: datetime | None = None
        # Who went from a state that was still to be read to one that had been read was seen in neither: they are
        # asked for once more, by date.
        for again in (False, True):
            for one in lists:
                for state in LIVE:
                    since = began if again else None
                    async with aclosing(createsend.walk(api, one, state, since)) as pages:
                        async for page in pages:
                            began = began or page.asked
                            yield page

    async def _reread(
        self, api: Api, settings: Settings, ids: Sequence[str]
    ) -> AsyncGenerator[Page]:
        mine = frozenset(_list_ids(settings))
        names = [name for one in ids if (name := createsend.named(one))]
        names = [name for name in names if not mine or name[0] in mine]
        for start in range(0, len(names), TOGETHER):
            records: list[Json] = []
            asked: datetime | None = None
            for name in names[start : start + TOGETHER]:
                record, when = await createsend.subscriber(api, *name)
                records.append(record)
                asked = asked or when
            yield Page(tuple(records), asked or self._now())
        if not names:
            yield Page((), self._now(), last=True)

    async def _lists(self, api: Api, settings: Settings, *, zones: bool) -> list[MailingList]:
        """The lists that the instance watches; with *zones* their clients' time, as far as that is known."""
        named = _list_ids(settings)
        if named and not zones:
            return [MailingList(one) for one in named]
        try:
            clients = _ids(await api.get("clients.json"), "ClientID")
        except Unauthorized:
            raise
        except Refused as error:
            if not named:
                raise Refused(
                    f"the account's lists cannot be found, name them in list.ids: {error}",
                    status=error.status,
                    body=error.body,
                ) from error
            clients = []  # a key or a grant that may read lists, but not this
        if named:
            # Whose a list is can only be known where there is one client.
            ahead = await self._ahead(api, clients[0]) if len(clients) == 1 else EARLIEST
            return [MailingList(one, ahead) for one in named]
        found: list[MailingList] = []
        for client in clients:
            ids = _ids(await api.get(f"clients/{segment(client)}/lists.json"), "ListID")
            ahead = await self._ahead(api, client) if zones and ids else EARLIEST
            found += [MailingList(one.lower(), ahead) for one in ids]
        return found

    async def _ahead(self, api: Api, client: str) -> timedelta:
        """How far the client's clocks are ahead of UTC, at the least."""
        try:
            details = (await api.get(f"clients/{segment(client)}.json")).body
            return createsend.ahead_of_utc(str(details["BasicDetails"]["TimeZone"]))
        except Unauthorized:
            raise
        except (Refused, KeyError, TypeError):
            return EARLIEST  # it may not be read, or is written otherwise

    def _api(self, http: Http) -> Api:
        place = self.definition.connection
        if place is None:
            raise Refused(f"{self.key} has no API to read from")
        return Api(http, place.base)

    # Webhooks.

    def receive(self, incoming: Incoming, settings: Settings | None) -> Received:
        """Say what a webhook holds.  That it may be believed is for the secret in its address to say."""
        list_id, told = hooks.parse(incoming)
        mine = _list_ids(settings or {})
        events = [
            event
            for number, one in enumerate(told if not mine or list_id in mine else ())
            for event in hooks.changes(RESOURCE, list_id, one, number)
        ]
        return Received(events=tuple(events), raw=incoming.body, hint=True)

    async def tend(self, http: Http, settings: Settings, address: str) -> dict[str, str]:
        """Have one active webhook at *address* for every list, and none at an address that this instance had before."""
        api = self._api(http)
        before = dict(_pair(one) for one in _names(settings.get(HOOKS)))
        kept: dict[str, str] = {}
        problems: list[str] = []
        for one in await self._lists(api, settings, zones=False):
            try:
                hook = await hooks.tended(
                    api, one.id, address,
                    known=frozenset(before.values()), wanted=_wants_webhooks(settings),
                )  # fmt: skip
            except (Unauthorized, Transient):
                raise
            except Refused as error:
                problems.append(f"list {one.id}: {error}")
            else:
                kept |= {one.id: hook} if hook else {}
        if problems:
            raise Refused("; ".join(problems[:10]))
        text = ",".join(f"{list_id}={hook}" for list_id, hook in sorted(kept.items()))
        return {HOOKS: text} if kept != before else {}


def _without_returned(page: Page, latest: dict[str, str]) -> Page:
    """*page* of deleted ones without those that are back: seen in another state, of no earlier date."""
    left = [row for row in page.records if latest.get(row["id"], "") < str(row.get("Date"))]
    return replace(page, records=tuple(left))


def _ids(answer: createsend.Answer, name: str) -> list[str]:
    """The ids in a list of clients or lists; raises `Transient` for something else."""
    try:
        return [str(one[name]) for one in answer.body]
    except (KeyError, TypeError) as error:
        raise Transient(f"the provider did not answer with a list of {name}") from error


def _wants_webhooks(settings: Settings) -> bool:
    """Whether the instance listens at all, and not by polls alone."""
    notifies = (settings.get("event.notification.enabled") or "").lower() == "true"
    return notifies and (settings.get("event.vendor.type") or "").strip().lower() != "polling"


def _key(settings: Settings) -> str | None:
    """The API key, where the instance uses one."""
    kind = (settings.get(KIND) or "").lower()
    if kind == "oauth2" or (not kind and settings.get(CLIENT_ID)):
        return None
    key = settings.get("api.key") or settings.get("username") or ""
    return key if key and not unfilled(key) else None


def _list_ids(settings: Settings) -> list[str]:
    """The lists that the instance names; none for all there are."""
    names = _names(settings.get("list.ids")) or _names(settings.get("events.list.ids"))
    return list(dict.fromkeys(name.lower() for name in names))


def _names(text: str | None) -> list[str]:
    if not text or unfilled(text):
        return []
    return [name for part in text.split(",") if (name := part.strip())]


def _pair(text: str) -> tuple[str, str]:
    list_id, _, hook = text.partition("=")
    return list_id, hook
