"""An element made of a definition: every method of `Element`, each handed to the module that knows."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Self

from daemon.elements import challenges, hooks
from daemon.elements.authentication import Authentication
from daemon.elements.base import Http, Settings
from daemon.elements.definition import CONDITION, Definition, Resource, moved
from daemon.elements.parameters import describe
from daemon.elements.reading import Reader, base
from daemon.elements.verification import Verifier
from daemon.errors import ConfigError, Invalid, Unauthorized
from daemon.model import FeedPage, Incoming, Json, Page, Query, Received, Reply, Request

GMT_DATE = "${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}"


class Defined:
    """Implements `Element` from a definition.

    *secrets* holds the contents of the definition's secret files by their place in it
    (`webhook.signature.secret_file`).  *stand_in* is the origin of a server in the provider's place.  *now* is for
    the age of signatures, and for answers without a date.
    """

    source: ClassVar[str | None] = None
    """The definition of a provider that data alone cannot describe: a subclass has it, and overrides what is odd."""

    overlap = 60.0
    tend_interval = 0.0
    bell = False
    edits_undated = False
    sweep_interval = 0.0

    def __init__(
        self,
        definition: Definition,
        *,
        secrets: Mapping[str, str] | None = None,
        stand_in: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._written = definition
        definition = definition if stand_in is None else definition.at(stand_in)
        self.definition = definition
        self._stand_in = stand_in
        self._now = now
        self.id = definition.id
        self.key = definition.key
        self.name = definition.name
        self.hub = definition.hub
        self.description = definition.description
        place, hook = definition.connection, definition.webhook
        self.polls = place is not None
        self.hooks = hook is not None
        self.pace = place.pace if place else 0.0
        self.keep_alive = definition.auth.keep_alive
        self.unguessable = hook is not None and hook.unguessable
        self.routing_key = hook.routing_key if hook else None
        self._secrets = dict(secrets or {})
        self._auth = Authentication(definition.auth, override=place is not None and place.override)
        self.oauth = self._auth.oauth
        self._reader = Reader(definition, now)
        self._verifier: Verifier | None = None
        if hook is not None and hook.signature is not None:
            secret = self._secrets.get("webhook.signature.secret_file")
            self._verifier = Verifier(hook.signature, secret=secret, now=now)
        self.parameters = describe(definition, self._auth)
        self.secrets = self._auth.secrets | {one.key for one in self.parameters if one.secret}
        self.resources = tuple(definition.resources)
        self.poller_defaults = self._poller_defaults()
        self._defaults = {
            one.key: one.default for one in self.parameters if one.default is not None
        }

    def __repr__(self) -> str:
        return f"<element {self.key}>"

    def beside(self, origin: str) -> Self:
        """The same element with the server at *origin* in the provider's place; raises `ConfigError`."""
        try:
            return type(self)(self._written, secrets=self._secrets, stand_in=origin, now=self._now)
        except ValueError as error:
            raise ConfigError(f"[elements] stand_ins: {self.key}: {error}") from error

    def check_settings(self, settings: Settings) -> None:
        """Raise `Invalid` for settings that cannot work."""
        known = self._settings(settings)
        problems = {
            f"configuration.{one.key}": f"is missing: it is the {one.name[:1].lower()}{one.name[1:]}"
            for one in self.parameters
            if one.required and not known.get(one.key)
        }
        if problems:
            raise Invalid(problems)
        if self.definition.connection is not None:
            base(self.definition.connection, known)
        self._auth.check(known)

    def check_query(self, query: Query) -> None:
        """Raise `Invalid` for a query that `read` cannot answer."""
        self._reader.check(query)

    def authorize_url(self, settings: Settings, *, state: str | None) -> str:
        """Where a person grants access."""
        return self._auth.authorize_url(self._settings(settings), state=state)

    async def exchange(
        self, http: Http, settings: Settings, code: str, given: Mapping[str, str]
    ) -> dict[str, str]:
        """The settings that an authorization code brings."""
        return await self._auth.exchange(http, self._settings(settings), code)

    async def refresh(self, http: Http, settings: Settings) -> dict[str, str] | None:
        """The settings that a refresh token brings."""
        return await self._auth.refresh(http, self._settings(settings))

    def renewable(self, error: Unauthorized) -> bool:
        """Every 401 is taken for one about the token."""
        return True

    def sign(self, request: Request, settings: Settings) -> Request:
        """*request* with credentials."""
        return self._auth.sign(request, self._settings(settings))

    async def tend(self, http: Http, settings: Settings, address: str) -> dict[str, str]:
        """Nothing: a definition knows no provider's way of registering webhooks."""
        return {}

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages that answer *query*; `Refused` for one that `check_query` finds fault with."""
        return self._reader.read(http, self._settings(settings), query)

    def deletions(
        self, http: Http, settings: Settings, resource: str, since: datetime
    ) -> AsyncGenerator[Page] | None:
        """Yield what was deleted after *since*."""
        return self._reader.deletions(http, self._settings(settings), resource, since)

    def inventory(
        self, http: Http, settings: Settings, resource: str
    ) -> AsyncGenerator[Page] | None:
        """Yield all that exists."""
        return self._reader.inventory(http, self._settings(settings), resource)

    def feed(
        self, http: Http, settings: Settings, query: Query, token: str | None
    ) -> AsyncGenerator[FeedPage] | None:
        """None: a definition knows no feeds with tokens."""
        return None

    def reread(
        self, http: Http, settings: Settings, resource: str, ids: Sequence[str]
    ) -> AsyncGenerator[Page] | None:
        """Nothing: a definition's polls find what changed by its date."""
        return None

    async def gone(
        self, http: Http, settings: Settings, resource: str, object_id: str
    ) -> bool | None:
        """Whether the provider says that there is no such object."""
        return await self._reader.gone(http, self._settings(settings), resource, object_id)

    def deleted(self, resource: str, record: Json) -> bool:
        """Whether *record* is marked as deleted."""
        return self._reader.deleted(resource, record)

    def handshake(self, incoming: Incoming, settings: Settings | None) -> Reply | None:
        """The answer to a challenge; None where *incoming* is none."""
        hook = self.definition.webhook
        if hook is None:
            return None
        secrets = {
            number: self._secrets[place]
            for number in range(len(hook.challenge))
            if (place := f"webhook.challenge.{number}.secret_file") in self._secrets
        }
        return challenges.answer(hook, incoming, settings, secrets)

    def routes(self, incoming: Incoming) -> tuple[str, ...]:
        """The accounts that a webhook speaks of, unverified."""
        hook = self.definition.webhook
        return hooks.routes(hook, incoming, hooks.parse(hook, incoming)) if hook else ()

    def receive(self, incoming: Incoming, settings: Settings | None) -> Received:
        """Verify a webhook and say what it holds."""
        hook = self.definition.webhook
        if hook is None:
            raise Invalid({"element": f"{self.key} has no webhooks"})
        if self._verifier is not None:
            self._verifier.verify(incoming, settings)
        body = hooks.parse(hook, incoming)
        reply = hook.reply
        return Received(
            events=hooks.events(hook, incoming, body),
            raw=body.raw,
            reply=Reply(reply.status, reply.body.encode(), reply.content_type),
            hint=hook.hint,
        )

    def at(self, address: str) -> str:
        """*address*, which is the provider's, or the same at the server that stands in for it."""
        return address if self._stand_in is None else moved(address, self._stand_in)

    def _settings(self, settings: Settings) -> Settings:
        """*settings*, with the defaults of the parameters that they leave empty."""
        given = {key: value for key, value in settings.items() if value}
        return {**self._defaults, **given}

    def _poller_defaults(self) -> Json:
        described = {name: self.definition.resource(name) for name in self.definition.resources}
        return {
            name: self._poller_default(name, resource)
            for name, resource in described.items()
            if resource is not None and resource.polled
        }

    def _poller_default(self, name: str, resource: Resource) -> Json:
        dates: Json = {}
        for word in ("updated", "created"):
            field = getattr(resource, word) or resource.updated or resource.created
            if field:
                dates[f"{word}DateField"] = field
                dates[f"{word}DateFormat"] = resource.date_format
                dates[f"{word}DateTimezone"] = resource.timezone
        configuration: Json = {"url": self._poll_url(name, resource), "idField": resource.id}
        if dates:
            configuration["datesConfiguration"] = dates
            if not (resource.updated and resource.created):
                configuration["filterByUpdatedDate"] = False
        if resource.created_tolerance is not None:
            configuration["createdCheckTolerance"] = resource.created_tolerance
        return configuration

    def _poll_url(self, name: str, resource: Resource) -> str:
        """The resource's own, else one with the first filter that means "changed since"."""
        if resource.poll is not None:
            return resource.poll
        url = f"/hubs/{self.hub}/{name}"
        for key in resource.where:
            found = CONDITION.fullmatch(key)
            if found and found[2] in (">=", ">"):
                return f"{url}?where={found[1]}{found[2]}'{GMT_DATE}'"
        return url
