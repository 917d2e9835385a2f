"""The bodies of requests and answers, as the API documents them; `/openapi.json` is made of these.

What a request has beside is ignored, so that an answer can be sent back as a request.
Source: facts, 4.2 to 4.5.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

Text = Annotated[str, Field(max_length=1000)]
Tags = Annotated[list[Text], Field(max_length=100)]


def _list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Form(BaseModel):
    """What a request may hold."""

    model_config = ConfigDict(alias_generator=to_camel, strict=True, frozen=True)


class ElementName(Form):
    """Which element; one of the two names it."""

    key: Text | None = None
    id: int | None = None


class NewInstance(Form):
    """An instance to create.

    Values of `configuration` are texts, truths, numbers or, for `event.poller.configuration`, an object or
    the same as JSON text.  Keys that mean nothing to tidings are kept.
    """

    element: ElementName | None = None
    provider_data: dict[str, Any] | None = None
    configuration: dict[str, Any] | None = None
    tags: Annotated[Tags | None, BeforeValidator(_list)] = None
    name: Text | None = None

    @property
    def granted(self) -> dict[str, Any]:
        """`providerData`: the authorization code, and what else came with it; empty where there is no code."""
        given = self.provider_data or {}
        return given if given.get("code") is not None else {}


class InstancePatch(NewInstance):
    """What to change: keys of `configuration` one by one (null removes, `********` is unchanged), `tags` whole."""


class Value(Form):
    """The new value of one configuration key; null removes it."""

    property_value: Any


class OAuthParameters(Form):
    """What the address for granting access is made of."""

    api_key: str | None = None
    api_secret: str | None = None
    callback_url: str | None = None
    scope: str | None = None
    state: str | None = None
    site_address: str | None = None


class Block(BaseModel):
    """What an answer holds."""

    model_config = ConfigDict(alias_generator=to_camel)


class ElementBlock(Block):
    """An element, as an instance names it."""

    id: int
    key: str
    name: str
    description: str
    hub: str
    active: bool
    deleted: bool
    type_oauth: bool
    trial_account: bool
    resources: list[Any]


class ParameterBlock(Block):
    """One configuration key that an element knows."""

    key: str
    name: str
    description: str
    type: str
    default_value: str | None
    required: bool
    active: bool
    hide_from_console: bool


class ElementDetail(ElementBlock):
    """An element with the configuration keys that it knows."""

    configuration: list[ParameterBlock]


class PolledResource(Block):
    """How a resource is polled unless an instance says otherwise."""

    poll_url: str | None
    event_types: list[str]


class HookedResource(Block):
    """What webhooks tell of a resource."""

    event_types: list[str]


class EventsMetadata(Block):
    """What events an element has."""

    supported: bool
    methods: list[Literal["polling", "webhook"]]
    polling: dict[str, PolledResource]
    webhook: dict[str, HookedResource]


class Metadata(Block):
    """What an element can do, and the configuration keys that it knows."""

    events: EventsMetadata
    configuration: list[ParameterBlock]


class UserBlock(Block):
    """Who created an instance."""

    id: int
    email_address: str | None
    first_name: str
    last_name: str | None


class InstanceBlock(Block):
    """An instance.  Secrets in `configuration` are shown as `********`."""

    id: int
    name: str
    created_date: str
    token: str
    element: ElementBlock
    element_id: int
    tags: list[str]
    provision_interactions: list[Any]
    valid: bool
    disabled: bool
    disabled_reason: str | None
    webhook_url: str | None
    max_cache_size: int
    cache_time_to_live: int
    configuration: dict[str, str | None]
    events_enabled: bool
    events_notification_callback_url: str | None
    trace_logging_enabled: bool
    caching_enabled: bool
    external_authentication: Literal["none", "initial"]
    user: UserBlock
    transformation_data: list[Any]


class ConfigurationEntry(Block):
    """One configuration key of an instance; `id` is a hash of the instance's id and the key."""

    id: int
    key: str
    name: str
    description: str
    property_value: str | None
    type: str
    required: bool
    active: bool
    hide_from_console: bool


class ObjectId(Block):
    """The id of an object that an event is about."""

    value: str


class EventInstance(Block):
    """A stored event as an instance's application was told of it."""

    event_id: str
    element_instance_id: int
    notification_id: str
    notified_data: str
    object_ids: list[ObjectId]
    created_date: str
    updated_date: str


class Event(Block):
    """A stored event: what came from the provider, and what the application was told."""

    id: str
    position: int
    event_date: str
    status: Literal["NEW", "RECEIVED", "DISPATCHED", "CONSUMED", "NOTIFIED"]
    provider_data: str
    notified_data: list[Any]
    event_element_instances: list[EventInstance]
    encoded_id: str
    webhook_url: str


class Redrive(Form):
    """Which deliveries to send again: those of `ids`, else all with a `status` (`dead`), settled `since` then."""

    status: Annotated[list[Text] | None, Field(max_length=10), BeforeValidator(_list)] = None
    since: Text | None = None
    ids: Annotated[list[Text] | None, Field(max_length=500)] = None


class Decision(Form):
    """What to do with a delivery: `retrying` sends it again, `delivered` and `dead` settle it."""

    status: Literal["retrying", "delivered", "dead"] = "retrying"


DeliveryStatus = Literal[
    "pending", "in_flight", "waiting", "retrying", "in_doubt", "held", "delivered", "dead"
]


class DeliveryBlock(Block):
    """What became of an event at the instance's callback.

    `possiblyDelivered`: an attempt may have been accepted without our knowing.
    """

    event_id: str
    instance_id: int
    position: int
    status: DeliveryStatus
    attempts: int
    next_try_date: str | None
    settled_date: str | None
    response_status: int | None
    error: str | None
    possibly_delivered: bool


class DeliveryRequest(Block):
    """What is sent: headers that carry secrets are shown as `********`."""

    url: str | None
    headers: dict[str, str]
    body: str


class DeliveryAttempt(Block):
    """One attempt: `error` holds what the receiver answered; `led` is the status that it led to."""

    attempt: int
    date: str
    response_status: int | None
    error: str | None
    led: str


class WholeDelivery(DeliveryBlock):
    """A delivery with its request and every attempt that did not succeed at once."""

    request: DeliveryRequest
    history: list[DeliveryAttempt]


class Redriven(Block):
    """How many deliveries are sent again; `more`: there are others, ask again; `enabled`: the callback was brought back."""

    retried: int
    more: bool
    enabled: bool


class QueuedDelivery(Block):
    """A delivery, as the documented API's queue shows it."""

    notification_id: str
    subscription_id: int
    status: Literal["created", "delivered", "notified", "retry", "queued"]
    created_date: str | None
    updated_date: str | None


class PollerRecord(Block):
    """How far the polling of one resource of an instance is."""

    instance_id: int
    instance_name: str
    element_key: str
    object_name: str
    status: Literal["active", "failing", "disabled"]
    url: str | None
    interval_minutes: float
    cursor: str | None
    baseline_date: str | None
    last_poll_date: str | None
    swept_date: str | None
    failures: int
    failed_date: str | None
    next_try_date: str | None
    error: str | None


class OAuthUrl(Block):
    """Where a person grants access."""

    oauth_url: str
    element: str


class Error(Block):
    """What went wrong; `fields` says of each field what it should be."""

    message: str
    request_id: str
    provider_message: str | None = None
    fields: dict[str, str] | None = None


class Health(Block):
    """Whether the daemon can do its work."""

    status: Literal["ok"]


class Index(Block):
    """Where to go from here."""

    name: str
    documentation: str
    api: str
    health: str
