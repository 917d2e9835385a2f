"""The interface of an element: what a provider's file has to say, and nothing else.

An element is pure dialect: it knows URLs, paging, field names and signatures.  It knows no database, no
configuration file, no retries.  Reading does I/O only through the `Http` it is given, so a test is a recorded
answer; everything else does none.

*settings* everywhere is the instance's whole configuration with secrets in clear (`base.url`,
`oauth.api.key`, `oauth.user.token`, …), keys as the API documents them, values as strings.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from daemon.errors import Unauthorized
from daemon.model import (
    FeedPage,
    Incoming,
    Json,
    Page,
    Query,
    Received,
    Reply,
    Request,
    Response,
)

Settings = Mapping[str, str]


class Http(Protocol):
    """One connection to a provider: timeouts, size limits and rate limits are its business."""

    async def send(self, request: Request) -> Response:
        """Return a 2xx answer; raise `Transient`, `Unauthorized` or `Refused` for the rest."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One configuration key of an element, as `GET /elements/{key}` shows it.

    *type* is one of `TEXTFIELD_32`, `TEXTFIELD_1000`, `PASSWORD`, `BOOLEAN`, `NUMBER`, `TEXTAREA`.
    A *secret* value is kept in the vault and shown as `********`.
    """

    key: str
    name: str
    description: str = ""
    type: str = "TEXTFIELD_1000"
    default: str | None = None
    required: bool = False
    secret: bool = False


class Element(Protocol):
    """One provider."""

    @property
    def id(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def hub(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The configuration keys that an instance is created with."""

    @property
    def secrets(self) -> frozenset[str]:
        """The configuration keys that belong in the vault: secret parameters, and the tokens that come later."""

    @property
    def polls(self) -> bool:
        """Whether instances can be polled."""

    @property
    def hooks(self) -> bool:
        """Whether the provider posts webhooks."""

    @property
    def oauth(self) -> bool:
        """Whether `providerData.code` is exchanged for tokens."""

    @property
    def pace(self) -> float:
        """Seconds to leave between two requests of one instance; 0 for as fast as the client allows."""

    @property
    def overlap(self) -> float:
        """Seconds before the cursor that every poll asks for again: the provider shows changes so late."""

    @property
    def keep_alive(self) -> float:
        """Seconds after which tokens that nobody needed are refreshed all the same, for they die of disuse; 0: never."""

    @property
    def tend_interval(self) -> float:
        """Seconds from one `tend` to the next; 0 where there is nothing to tend."""

    @property
    def bell(self) -> bool:
        """Whether its webhooks only say that an account has news: then polls tell it, whatever `event.vendor.type` says."""

    @property
    def unguessable(self) -> bool:
        """Whether an instance's webhook address must end in a secret, because the provider does not sign.

        What comes to an address without it is believed no more than a knock at the door: it wakes the poller.
        """

    @property
    def edits_undated(self) -> bool:
        """Whether an edit may leave no date that a question finds it by.

        Then the records of `inventory` are as whole as those of `read` and are compared, and what a webhook names is
        read again (`reread`).
        """

    @property
    def sweep_interval(self) -> float:
        """Seconds from one inventory to the next where the instance does not say; 0: with every poll."""

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources it describes; it may be able to read others, see `check_query`."""

    @property
    def poller_defaults(self) -> Json:
        """`event.poller.configuration` of an instance that brings none: resource → its keys."""

    @property
    def routing_key(self) -> str | None:
        """The configuration key whose value names the account in a webhook (`oauth.user.id`, `realm.id`)."""

    def check_settings(self, settings: Settings) -> None:
        """Raise `Invalid` with `configuration.<key>` for what is missing or cannot be; no I/O."""

    def check_query(self, query: Query) -> None:
        """Raise `Invalid` for a query that `read` cannot answer: an unknown resource, a filter without meaning."""

    def authorize_url(self, settings: Settings, *, state: str | None) -> str:
        """The address a person opens to grant access; raises `Invalid` for an element without OAuth."""

    async def exchange(
        self, http: Http, settings: Settings, code: str, given: Mapping[str, str]
    ) -> dict[str, str]:
        """Trade an authorization code for tokens: the settings to keep (`oauth.user.token`, …).

        *given* is all that came back with the code (`providerData`).  *http* is the plain client.  Raises `Unauthorized` where the provider does not accept the code.
        """

    async def refresh(self, http: Http, settings: Settings) -> dict[str, str] | None:
        """New tokens for expired ones, as settings to keep; None where nothing can be refreshed.

        *http* is the plain client.  Raises `Unauthorized` where a person must grant access again.
        """

    def renewable(self, error: Unauthorized) -> bool:
        """Whether new tokens could help against *error*: some providers say 401 of a wrong id as well."""

    def sign(self, request: Request, settings: Settings) -> Request:
        """The request with the instance's credentials on it."""

    async def tend(self, http: Http, settings: Settings, address: str) -> dict[str, str]:
        """Do what the account needs done at the provider: have its webhooks, and have them posted to *address*.

        Where *settings* have events off, or polls alone, that is to have none.  Called when the instance has come or
        changed, every `tend_interval`, and a last time, with events off, when it was deleted; *http* is the
        instance's connection.  Returns settings to keep (ids), none where nothing is new.
        """

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages that answer *query*, at least one, then end.  Raises what `Http.send` raises.

        A generator that ends has read everything; one that cannot raises.
        """

    def deletions(
        self, http: Http, settings: Settings, resource: str, since: datetime
    ) -> AsyncGenerator[Page] | None:
        """The records deleted after *since*, from the provider's own channel; None where it has none.

        Of a record only its id may be there.  Raises `DeletionsLost`, after what it has, where the channel does not
        tell all of them: it looks back only so far, or shows only so many.
        """

    def inventory(
        self, http: Http, settings: Settings, resource: str
    ) -> AsyncGenerator[Page] | None:
        """All records that exist now (ids suffice), for finding deletes; None where that is not possible.

        The inventory counts only if the generator ends; it raises `Transient` when what it saw is incomplete.
        """

    def feed(
        self, http: Http, settings: Settings, query: Query, token: str | None
    ) -> AsyncGenerator[FeedPage] | None:
        """The provider's own feed of changes since *token*, up to now; None where the resource has none.

        Without *token* the feed begins with all that is there.  What it says later holds over what it said before.
        Raises `TokenLost` where the provider no longer knows *token*.
        """

    def reread(
        self, http: Http, settings: Settings, resource: str, ids: Sequence[str]
    ) -> AsyncGenerator[Page] | None:
        """The objects *ids* as they are now, those that are no more marked as `deleted` knows it.

        None where objects cannot be asked for one by one.
        """

    async def gone(
        self, http: Http, settings: Settings, resource: str, object_id: str
    ) -> bool | None:
        """Ask the provider for one object: true where it says that there is none; None where it cannot be asked."""

    def deleted(self, resource: str, record: Json) -> bool:
        """Whether *record* carries the provider's mark of a deleted one."""

    def handshake(self, incoming: Incoming, settings: Settings | None) -> Reply | None:
        """The answer to a provider's challenge, or None where the request is none."""

    def routes(self, incoming: Incoming) -> tuple[str, ...]:
        """The accounts (values of `routing_key`) that a webhook at the shared address speaks of, **unverified**.

        For finding the instances whose settings `receive` then verifies with.  Raises `Invalid`.
        """

    def receive(self, incoming: Incoming, settings: Settings | None) -> Received:
        """Verify a webhook over its raw bytes and say what it holds.

        *settings* are those of the instance that path, header or `routes` names.  None verifies with a secret
        that the element itself has (one per application, not per account), where it has one.
        Raises `BadSignature`, or `Invalid` for a body that cannot be read.
        """
