"""Webhook intake: verify, route, append, and only then answer 2xx.

    POST|GET /events/{elementKey}[/{encodedId}[.{secret}]]      (with and without the API's prefix)

A request finds its instances by the id in the path (base64 of the decimal id, or the id itself), by the header
`Element-Instances`, or by what its body says of the account (facts, 5.3).  What names nobody we know is answered
2xx and counted: the provider cannot do anything about it.

The signature is verified over the bytes as they came.  Where one address serves many instances, the body says
whose secret to verify with; until that is done nothing of the body is believed.  A provider that does not sign
knows the secret in an instance's address; what comes without it may be from anybody, and only wakes the poller.

One change is one notification: what a poll will show is left to the poll, and the webhook hurries it on.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

import structlog
from aiohttp import web

from daemon import webhook_urls
from daemon.elements import Registry
from daemon.elements.base import Element
from daemon.elements.watching import polled
from daemon.errors import BadSignature, Invalid, NotFound, Outage
from daemon.model import Change, Incoming, Instance, Received, Reply, WebhookEvent
from daemon.plans import VENDOR, unfilled
from daemon.store.directory import Directory
from daemon.store.writer import Intake, Unit, Writer
from daemon.webhook_urls import PREFIX

log = structlog.get_logger()

LONGEST_NAME = 1000  # characters of an object's id or type


class Webhooks:
    """The handler of what providers post."""

    def __init__(
        self,
        *,
        elements: Registry,
        directory: Directory,
        writer: Writer,
        wake_poller: Callable[[int], None],
        hint_poller: Callable[[int, Sequence[tuple[str, str]]], None] | None = None,
        public_url: str,
        timeout: float,
    ) -> None:
        """*public_url* is where the world reaches this daemon; *timeout* (seconds) is for everything between the last byte of the request and the answer."""
        self._elements = elements
        self._directory = directory
        self._writer = writer
        self._wake_poller = wake_poller
        self._hint_poller = hint_poller
        self._public_url = public_url
        self._timeout = timeout
        # By instance: the revision at which they were read, and the names of what it polls.
        self._polled: dict[int, tuple[int, frozenset[str]]] = {}
        self._changed = directory.watch()
        self.counts: Counter[str] = Counter()
        """accepted, duplicate: events.  unknown, refused: requests.  ignored, hint: requests, for each instance."""

    def routes(self) -> Iterable[web.RouteDef]:
        """The routes, to put into an application."""
        for prefix in ("", PREFIX):
            for path in ("/events/{element}", "/events/{element}/", "/events/{element}/{encoded}"):
                yield web.post(prefix + path, self.handle)
                yield web.get(prefix + path, self.handle, allow_head=False)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request; errors come out as those of `daemon.errors`."""
        element = self._elements.get(request.match_info["element"])
        incoming = Incoming(
            method=request.method,
            # As the provider wrote them, for it may have signed them; host and scheme a proxy in front may have changed.
            path=request.rel_url.raw_path,
            url=self._public_url + request.path_qs,
            headers=request.headers,
            query=request.query,
            body=await request.read(),
        )
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self.receive(element, incoming, request.match_info.get("encoded"))
        except TimeoutError:
            raise Outage("the webhook could not be stored in time; send it again") from None
        # A challenge is echoed: no browser may take what a stranger sent for a page of ours.
        headers = {"X-Content-Type-Options": "nosniff"}
        return web.Response(
            status=reply.status, body=reply.body, content_type=reply.content_type, headers=headers
        )

    async def receive(self, element: Element, incoming: Incoming, encoded: str | None) -> Reply:
        """Take in one webhook; returns the answer after what it holds is in the log.

        Raises `BadSignature`, `Invalid` for a body that cannot be read, `NotFound` for an address that names
        no instance, `Outage`.
        """
        named, trusted = await self._named(element, incoming, encoded)
        challenge = element.handshake(incoming, await self._settings_of(named))
        if challenge is not None:
            return challenge
        instances = named if named is not None else self._routed(element, incoming)
        if not instances:
            return self._unknown(element, incoming)
        unit, reply = await self._unit(element, incoming, instances, trusted=trusted)
        if unit.intakes:
            receipt = await self._writer.append(unit)
            self.counts["accepted"] += receipt.appended
            self.counts["duplicate"] += receipt.duplicates
        return reply

    def _unknown(self, element: Element, incoming: Incoming) -> Reply:
        """The answer to what is nobody's: nothing of it is kept.

        A refusal would have the provider give the address up, for all accounts, because one has left us.
        """
        self.counts["unknown"] += 1
        log.info("webhook of an unknown account", element=element.key)
        try:
            return element.receive(incoming, None).reply
        except BadSignature:
            # Nobody is left whose secret it could be signed with.
            return Reply()

    async def _unit(
        self, element: Element, incoming: Incoming, instances: Sequence[Instance], *, trusted: bool
    ) -> tuple[Unit, Reply]:
        intakes: list[Intake] = []
        reply: Reply | None = None
        refused: BadSignature | None = None
        for instance in instances:
            # A body may name thousands, and each is a verification: the others have their turn in between.
            await asyncio.sleep(0)
            try:
                received = await self._received(element, incoming, instance, trusted=trusted)
            except BadSignature as error:
                refused = error
                continue
            reply = received.reply
            events = [
                event for event in received.events if self._concerns(element, instance, event)
            ]
            if not instance.notifies or not events:
                self.counts["ignored"] += 1
                continue
            hints = not trusted or received.hint
            left: list[WebhookEvent] = []
            named: list[tuple[str, str]] = []
            for one in events:
                if self._reads_itself(element, instance, one, hints):
                    named.append((one.object_type, one.object_id))
                else:
                    left.append(one)
            if named:
                # Who is not trusted could have us ask for anything.
                if trusted and self._hint_poller is not None:
                    self._hint_poller(instance.id, named)
                self._wake_poller(instance.id)
                self.counts["hint"] += 1
            if left:
                changes = [_change(event) for event in left]
                intakes.append(Intake(instance.id, changes, raw=received.raw.decode()))
        if reply is None:
            self.counts["refused"] += 1
            raise refused or BadSignature("the webhook is not signed by any account that it names")
        return Unit(intakes=intakes), reply

    async def _received(
        self, element: Element, incoming: Incoming, instance: Instance, *, trusted: bool
    ) -> Received:
        if not trusted and not self._resources(element, instance):
            raise BadSignature(
                f"{element.key} does not sign: its webhooks have to come to the instance's `webhookUrl`, secret included"
            )
        return element.receive(incoming, await self._directory.settings(instance))

    async def _named(
        self, element: Element, incoming: Incoming, encoded: str | None
    ) -> tuple[list[Instance] | None, bool]:
        """The instances that path or header name, None where the body has to; and whether what comes may be believed."""
        if encoded:
            place = webhook_urls.read(encoded)
            instance = self._directory.get(place.instance_id)
            trusted = not element.unguessable
            if instance is not None and element.unguessable and place.secret:
                trusted = place.opens(await self._directory.settings(instance))
                instance = instance if trusted else None
            if instance is None or instance.element_key != element.key:
                # Not quoted beyond the id: the rest may be somebody's secret.
                raise NotFound(
                    f"no instance of {element.key} has the address …/{encoded.partition('.')[0][:40]}…; "
                    "see `webhookUrl` in GET /instances/{id} for the right one"
                )
            return [instance], trusted
        header = incoming.headers.get("Element-Instances")
        if header is None:
            return None, not element.unguessable
        ids = dict.fromkeys(map(webhook_urls.decode_id, header.split(",")))
        found = map(self._directory.get, ids)
        named = [
            instance
            for instance in found
            if instance is not None and instance.element_key == element.key
        ]
        return named, not element.unguessable

    def _routed(self, element: Element, incoming: Incoming) -> list[Instance]:
        if element.routing_key is None:
            return []
        found = {
            instance.id: instance
            for account in element.routes(incoming)
            for instance in self._directory.routed(element.key, element.routing_key, account)
        }
        return list(found.values())

    async def _settings_of(self, named: list[Instance] | None) -> dict[str, str] | None:
        return await self._directory.settings(named[0]) if named else None

    def _concerns(self, element: Element, instance: Instance, event: WebhookEvent) -> bool:
        """Whether the event is of this account, and of an object that the instance wants to hear of."""
        if event.route is not None and element.routing_key is not None:
            mine = instance.configuration.get(element.routing_key)
            if mine and mine != event.route:
                return False
        wanted = instance.configuration.get("event.objects")
        if not wanted or unfilled(wanted):
            return True
        names = [name for part in wanted.split(",") if (name := part.strip())]
        spellings = _spellings(event.object_type)
        return not names or any(spellings & _spellings(name) for name in names)

    def _reads_itself(
        self,
        element: Element,
        instance: Instance,
        event: WebhookEvent,
        hint: bool,  # noqa: FBT001 — called once, above
    ) -> bool:
        """Whether a poll will show what *event* speaks of, so that it only has to be hurried on.

        A *hint* is never more than that where anything is polled: it names no record, or nobody vouches for it.
        """
        names = self._resources(element, instance)
        if not names:
            return False
        vendor = (instance.configuration.get(VENDOR) or "").strip().lower()
        return vendor == "polling" or hint or bool(_spellings(event.object_type) & names)

    def _resources(self, element: Element, instance: Instance) -> frozenset[str]:
        """Every name of what the instance polls, or would while it is switched off; empty where webhooks tell all."""
        if self._changed.is_set():
            self._changed.clear()
            for gone in [one for one in self._polled if self._directory.get(one) is None]:
                del self._polled[gone]
        revision, names = self._polled.get(instance.id, (0, frozenset()))
        if revision != instance.revision:
            names = _polled_names(element, instance)
            self._polled[instance.id] = (instance.revision, names)
        return names


def _polled_names(element: Element, instance: Instance) -> frozenset[str]:
    try:
        plans = polled(element, instance)
    except Invalid:
        return (
            frozenset()
        )  # it was right when it was stored: the element has changed since, and nothing is polled
    # The plan's name is the customer's; the provider's webhooks speak of what its url names.
    named = [name for plan in plans for name in (plan.resource, plan.path)]
    return frozenset(spelling for name in named for spelling in _spellings(name))


def _spellings(name: str) -> set[str]:
    """*name* and what may be its singular: `Contact` and `contacts` are the same to those who fill this in."""
    name = name.lower()
    singular = name.removesuffix("ies") + "y" if name.endswith("ies") else name
    return {name, name.removesuffix("s"), name.removesuffix("es"), singular}


def _change(event: WebhookEvent) -> Change:
    """The event as the log has it; raises `Invalid` for a name that it cannot hold."""
    for field, text in (("id", event.object_id), ("object type", event.object_type)):
        # PostgreSQL's text holds no NUL, and its indexes nothing that is very long.
        if "\0" in text or len(text) > LONGEST_NAME:
            raise Invalid(
                {
                    field: f"of an event should have at most {LONGEST_NAME} characters, none of them NUL"
                }
            )
    name = f"{event.object_type}\x00{event.object_id}\x00{event.identity}"
    return Change(
        object_type=event.object_type,
        object_id=event.object_id,
        change=event.change,
        changed=event.changed,
        fingerprint=blake2b(name.encode(), digest_size=16).digest(),
    )
