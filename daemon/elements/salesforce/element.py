"""Salesforce: OAuth with an address of its own for each organization, SOQL, outbound messages.

What Salesforce does and where it says so: docs/elements/salesforce.md.
"""

import re
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

import orjson
from oauthlib.oauth2 import (  # type: ignore[import-untyped] # it ships no types
    BackendApplicationClient,
    Client,
    OAuth2Error,
    WebApplicationClient,
)

from daemon.dates import DatePattern
from daemon.elements.address import checked, with_query
from daemon.elements.authentication import (
    CLIENT_ID,
    CLIENT_SECRET,
    KIND,
    REDIRECT,
    REFRESH_TOKEN,
    TOKEN,
)
from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.elements.definition import Definition
from daemon.elements.salesforce import outbound_message
from daemon.elements.salesforce.api import ALIASES, OVERLAP, Api, check, sobject
from daemon.errors import BadSignature, Invalid, Refused, Transient, Unauthorized
from daemon.model import (
    ChangeType,
    Incoming,
    Json,
    Page,
    Query,
    Received,
    Reply,
    Request,
    WebhookEvent,
)

DEFINITION = """
id = 7
key = "sfdc"
name = "Salesforce"
hub = "crm"
description = "Salesforce Sales Cloud: accounts, contacts, leads, opportunities and any other object, custom ones too."
any_resource = true

[[parameters]]
key = "base.url"
name = "Endpoint Address"
description = "Where people log in: https://login.salesforce.com, https://test.salesforce.com for a sandbox, or the organization's My Domain."
default = "https://login.salesforce.com"

[[parameters]]
key = "authentication.type"
name = "Authentication"
description = "oauth2: a person grants access; client_credentials: the application itself has a user to run as."
type = "TEXTFIELD_32"
default = "oauth2"

[[parameters]]
key = "oauth.callback.url"
name = "Callback URL of the registered application"
description = "Not needed for client_credentials."

[[parameters]]
key = "oauth.scope"
name = "OAuth Scope"
default = "api refresh_token"

[[parameters]]
key = "sfdc.organization.id"
name = "Organization ID"
description = "Of 15 or 18 characters, beginning with 00D; comes with the tokens.  Outbound messages are routed by it."

[[parameters]]
key = "sfdc.api.version"
name = "API version"
type = "TEXTFIELD_32"
default = "67.0"

[[parameters]]
key = "sfdc.api.limit"
name = "Share of the API limit"
description = "Percent of the organization's requests a day at which polls wait, so that others have the rest."
type = "NUMBER"
default = "95"

[[parameters]]
key = "sfdc.inventory"
name = "Inventory"
description = "Whether the first poll lists the ids of all records, so that what is deleted during a long absence is found."
type = "BOOLEAN"
default = "true"

[[parameters]]
key = "filter.response.nulls"
name = "Filter null values from the response"
type = "BOOLEAN"
default = "true"

[connection]
base = "https://login.salesforce.com"

[auth]
kind = "oauth2"
authorize_url = "https://{login.host}/services/oauth2/authorize"
token_url = "https://{login.host}/services/oauth2/token"
scope = "api refresh_token"
# An administrator may have refresh tokens expire that are not used; busy sessions need none for weeks.
keep_alive = 86400

[defaults]
id = "Id"
updated = "SystemModstamp"
created = "CreatedDate"
date_format = "yyyy-MM-dd'T'HH:mm:ss.SSSZ"

[defaults.where]
"SystemModstamp>=" = "where"

[resources.Account]
[resources.Contact]
[resources.Lead]
[resources.Opportunity]

[webhook]
unguessable = true
routing_key = "sfdc.organization.id"

[webhook.events]
items = "objects"
id = "Id"
object_type_source = "attributes.type"
type = "$.action"
types = { insert = "CREATED", create = "CREATED", created = "CREATED", undelete = "CREATED", update = "UPDATED", updated = "UPDATED", delete = "DELETED", deleted = "DELETED" }
date = "SystemModstamp"
date_format = "yyyy-MM-dd'T'HH:mm:ss.SSSZ"
route = "$.organizationId"
"""

INSTANCE_URL = "sfdc.session.instance.url"
ORGANIZATION = "sfdc.organization.id"
USER = "sfdc.user.id"
VERSION = "sfdc.api.version"
LIMIT = "sfdc.api.limit"
INVENTORY = "sfdc.inventory"
NULLS = "filter.response.nulls"
GRANTS = ("oauth2", "client_credentials")

DOMAINS = (
    "salesforce.com", "force.com", "cloudforce.com", "database.com", "salesforce.mil", "sfcrmproducts.cn",
)  # fmt: skip
"""Where organizations are: a token goes nowhere else."""

LOG = timedelta(days=14)
"""So far back the log of deletions is relied on; Salesforce keeps it for 15 days."""

SAME_SECONDS = 2.0
"""Created and last changed within so many seconds: the record is new."""

_IDENTITY = re.compile(r"https?://[^/]+/id/(00D[A-Za-z0-9]{12,15})/(005[A-Za-z0-9]{12,15})")
_VERSION = re.compile(r"[1-9][0-9]{1,2}\.0")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SOON = re.compile(
    rb"retry your request|login rate exceeded|already being processed|temporarily_unavailable|server_error"
)
_STAMP = DatePattern.compile("yyyy-MM-dd'T'HH:mm:ss.SSSXXX")
_BOM = b"\xef\xbb\xbf"


class Salesforce(Defined):
    """Implements `Element` for one edition of the key; see `DEFINITION`."""

    source: ClassVar[str | None] = DEFINITION
    overlap = OVERLAP

    def __init__(self, definition: Definition, **given: Any) -> None:
        super().__init__(definition, **given)
        # Both spellings; every other object can be read, too.
        self.resources = tuple(dict.fromkeys([*self.resources, *ALIASES, "{objectName}"]))
        model = self.poller_defaults["Contact"]
        url = model["url"].replace("/Contact?", "/{objectName}?")
        self.poller_defaults["{objectName}"] = {**model, "url": url}

    def check_settings(self, settings: Settings) -> None:
        """Raise `Invalid` for settings that cannot work."""
        known = self._settings(settings)
        try:
            super().check_settings(settings)
        except Invalid as error:
            if "configuration.login.host" in error.problems:
                _login(known)  # which says it better: nobody has heard of that key
            raise
        host = _login(known)
        kind = known.get(KIND, "")
        if kind not in GRANTS:
            raise Invalid({f"configuration.{KIND}": f"should be one of {', '.join(GRANTS)}"})
        if kind == "client_credentials" and host in ("login.salesforce.com", "test.salesforce.com"):
            problem = "should be the organization's My Domain: Salesforce takes client_credentials nowhere else"
            raise Invalid({"configuration.base.url": problem})
        if kind == "oauth2" and not known.get(REDIRECT):
            raise Invalid({f"configuration.{REDIRECT}": "is missing: the code was sent there"})
        if _VERSION.fullmatch(known[VERSION]) is None:
            raise Invalid({f"configuration.{VERSION}": "should be a version such as 67.0"})
        share = known[LIMIT]
        if not (share.isascii() and share.isdecimal() and 1 <= int(share) <= 100):  # noqa: PLR2004 — percent
            raise Invalid({f"configuration.{LIMIT}": "should be percent, 1 to 100"})
        if known.get(INSTANCE_URL):
            self._instance(known)

    def check_query(self, query: Query) -> None:
        """Raise `Invalid` for a query that `read` cannot answer; the types of fields are Salesforce's to know."""
        check(query)

    # OAuth.

    def authorize_url(self, settings: Settings, *, state: str | None) -> str:
        """Where a person grants access; with `code_challenge` (S256) in *settings* that is passed on."""
        _login(self._settings(settings))
        url = super().authorize_url(settings, state=state)
        challenge = settings.get("code_challenge")
        if not challenge:
            return url
        pairs = [("code_challenge", challenge), ("code_challenge_method", "S256")]
        return with_query(url, pairs)

    async def exchange(
        self, http: Http, settings: Settings, code: str, given: Mapping[str, str]
    ) -> dict[str, str]:
        """The settings that an authorization code brings; `code_verifier` in *given* proves who asked for it."""
        known = self._settings(settings)
        client = WebApplicationClient(known.get(CLIENT_ID, ""))
        verifier = given.get("code_verifier")
        form = client.prepare_request_body(
            code=code,
            redirect_uri=known.get(REDIRECT) or None,
            client_secret=known.get(CLIENT_SECRET),
            **({"code_verifier": verifier} if verifier else {}),
        )
        return await self._tokens(http, known, client, form)

    async def refresh(self, http: Http, settings: Settings) -> dict[str, str] | None:
        """The settings that a refresh token brings, or the application's own credentials; None without either."""
        known = self._settings(settings)
        client_id, secret = known.get(CLIENT_ID, ""), known.get(CLIENT_SECRET)
        if known.get(KIND) == "client_credentials":
            client = BackendApplicationClient(client_id)
            form = client.prepare_request_body(include_client_id=True, client_secret=secret)
            return await self._tokens(http, known, client, form)
        token = known.get(REFRESH_TOKEN)
        if not token:
            return None
        client = WebApplicationClient(client_id)
        form = client.prepare_refresh_body(
            refresh_token=token, client_id=client_id, client_secret=secret
        )
        return await self._tokens(http, known, client, form)

    async def _tokens(
        self, http: Http, settings: Settings, client: Client, form: str
    ) -> dict[str, str]:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        url = self.at(f"https://{settings.get('login.host', '')}/services/oauth2/token")
        try:
            answer = await http.send(Request("POST", url, headers, form.encode()))
        except Refused as error:
            if _SOON.search(error.body):
                raise Transient(f"no token for now: {error}", retry_after=60.0) from error
            if error.status in (400, 401, 403):
                raise Unauthorized(
                    f"access was not granted: {error}", status=error.status, body=error.body
                ) from error
            raise
        try:
            given = client.parse_request_body_response(answer.body.decode())
            kept = {TOKEN: str(given["access_token"])}
        except (OAuth2Error, ValueError, KeyError) as error:
            # Not quoted: it may hold the tokens.
            raise Refused("Salesforce's answer to the token request cannot be read") from error
        kept |= {REFRESH_TOKEN: str(given["refresh_token"])} if given.get("refresh_token") else {}
        if given.get("instance_url"):
            kept[INSTANCE_URL] = str(given["instance_url"])
            with _refusing():
                self._instance({**settings, **kept})
        identity = _IDENTITY.match(str(given.get("id", "")))
        if identity is not None:
            kept |= {ORGANIZATION: identity[1], USER: identity[2]}
        return kept

    # Reading.

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages that answer *query*; to a poll (one with `since`) what is in the recycle bin, too."""
        with _refusing():
            check(query)
        api = self._api(http, settings)
        return api.browse(query) if query.since is None else api.poll(query)

    def deletions(
        self, http: Http, settings: Settings, resource: str, since: datetime
    ) -> AsyncGenerator[Page] | None:
        """Yield what the log of deletions holds, which begins 14 days ago."""
        begins = self._now() - LOG
        return self._api(http, settings).deletions(_object(resource), since, begins=begins)

    def inventory(
        self, http: Http, settings: Settings, resource: str
    ) -> AsyncGenerator[Page] | None:
        """Yield the ids of all records; None where the instance does without."""
        if not self._inventories(settings):
            return None
        return self._api(http, settings).inventory(_object(resource))

    async def gone(
        self, http: Http, settings: Settings, resource: str, object_id: str
    ) -> bool | None:
        """Whether Salesforce has no such record, or has it in the recycle bin."""
        return await self._api(http, settings).gone(_object(resource), object_id)

    def deleted(self, resource: str, record: Json) -> bool:
        """Whether *record* is in the recycle bin."""
        return record.get("IsDeleted") is True

    def _api(self, http: Http, settings: Settings) -> Api:
        known = self._settings(settings)
        with _refusing():
            root = f"{self._instance(known)}/services/data/v{known[VERSION]}"
        return Api(
            http=http,
            root=root,
            share=int(known[LIMIT]),
            nulls=known[NULLS].lower() == "false",
            now=self._now,
        )

    def _inventories(self, settings: Settings) -> bool:
        return self._settings(settings)[INVENTORY].lower() != "false"

    # Webhooks.

    def routes(self, incoming: Incoming) -> tuple[str, ...]:
        """The organization that a webhook speaks of, in both spellings of its id, unverified."""
        if _is_xml(incoming):
            found: tuple[str, ...] = (outbound_message.parse(incoming.body).organization,)
        else:
            found = super().routes(incoming)
        return tuple(
            spelling for one in found for spelling in (outbound_message.eighteen(one), one[:15])
        )

    def receive(self, incoming: Incoming, settings: Settings | None) -> Received:
        """What an outbound message or a trigger's call says; `BadSignature` for one of another organization."""
        if _is_xml(incoming):
            message = outbound_message.parse(incoming.body)
            _belongs({message.organization}, settings)
            return Received(
                events=tuple(
                    event for one in message.notifications if (event := _event(one)) is not None
                ),
                raw=orjson.dumps(message.as_json()),
                reply=Reply(200, outbound_message.ACK, "text/xml"),
            )
        received = super().receive(incoming, settings)
        _belongs({one.route for one in received.events if one.route is not None}, settings)
        # Compared here, in whatever spelling: nothing is left to compare.
        return replace(received, events=tuple(replace(one, route=None) for one in received.events))

    # Settings.

    def _settings(self, settings: Settings) -> Settings:
        """*settings* with the defaults, and with the host of the login address."""
        known = super()._settings(settings)
        try:
            return {**known, "login.host": _login(known)}
        except Invalid:
            return known  # whoever needs the address hears of it

    def _instance(self, settings: Settings) -> str:
        """Where the organization's API is; raises `Invalid` for an address that is not Salesforce's."""
        login = f"https://{_login(settings)}"
        if self._stand_in is not None:
            return self.at(login)
        address = checked(settings.get(INSTANCE_URL) or login, INSTANCE_URL)
        parts = urlsplit(address)
        host = parts.hostname or ""
        known = host == _login(settings) or host.endswith(tuple(f".{one}" for one in DOMAINS))
        if parts.scheme != "https" or parts.path or not known:
            problem = "should be an address at Salesforce such as https://acme.my.salesforce.com"
            raise Invalid({f"configuration.{INSTANCE_URL}": problem})
        return address


class SalesforceByName(Salesforce):
    """The same element under the name that everybody calls it by."""

    source = DEFINITION.replace("id = 7", "id = 9", 1).replace(
        'key = "sfdc"', 'key = "salesforce"', 1
    )


def _login(settings: Settings) -> str:
    """The host at which people log in; raises `Invalid`."""
    key = "site.address" if settings.get("site.address") else "base.url"
    given = settings.get(key, "").strip()
    # The documents write http://test.salesforce.com; nothing is ever sent there without TLS.
    host = given.removeprefix("https://").removeprefix("http://").rstrip("/").lower()
    if _HOST.fullmatch(host) is None or ".." in host:
        problem = "should be an address such as https://test.salesforce.com, without a path"
        raise Invalid({f"configuration.{key}": problem})
    return host


def _object(resource: str) -> str:
    with _refusing():
        return sobject(resource)


@contextmanager
def _refusing() -> Generator[None]:
    """What was `Invalid` when it was configured is `Refused` when it is used all the same."""
    try:
        yield
    except Invalid as error:
        raise Refused(str(error)) from error


def _is_xml(incoming: Incoming) -> bool:
    return incoming.body.removeprefix(_BOM).lstrip()[:1] == b"<"


def _belongs(organizations: set[str], settings: Settings | None) -> None:
    """Raise `BadSignature` for a webhook of another organization than the instance's."""
    mine = (settings or {}).get(ORGANIZATION)
    if mine and not all(outbound_message.same(one, mine) for one in organizations):
        raise BadSignature(f"the webhook is of another organization than {ORGANIZATION}")


def _event(told: outbound_message.Notification) -> WebhookEvent | None:
    """The event that a notification is; None where the record was deleted before it could be sent."""
    record_id = told.fields.get("Id")
    if not isinstance(record_id, str) or not record_id or not told.kind:
        return None
    created, changed = _moment(told.fields, "CreatedDate"), _moment(told.fields, "LastModifiedDate")
    stamp = _moment(told.fields, "SystemModstamp") or changed
    if told.fields.get("IsDeleted") == "true":
        change = ChangeType.DELETED
    elif created is None or changed is None:
        change = ChangeType.UNKNOWN  # the message was not set up to tell
    elif abs((changed - created).total_seconds()) <= SAME_SECONDS:
        change = ChangeType.CREATED
    else:
        change = ChangeType.UPDATED
    return WebhookEvent(
        object_type=told.kind,
        object_id=record_id,
        change=change,
        changed=stamp,
        identity=told.id,
    )


def _moment(fields: Json, name: str) -> datetime | None:
    """The field's date; one that cannot be read is as good as none."""
    try:
        return _STAMP.parse(str(fields.get(name)))
    except ValueError:
        return None
