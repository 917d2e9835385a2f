"""The courier: sends what the lanes have ready, and tells them what came of it.

    lane ──take──► attempt ──► delivered | failed ──► lane

Who sends is a crew for each origin (`crews`): the lanes there take turns, a notification each.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass

import structlog

from daemon.backoff import Schedule
from daemon.dispatcher.clocks import Clocks
from daemon.dispatcher.crews import Crew, Crews
from daemon.dispatcher.desk import Desk
from daemon.dispatcher.handshake import Handshakes
from daemon.dispatcher.items import Item
from daemon.dispatcher.lane import Lane
from daemon.dispatcher.sending import Letterhead, Sender, Verdict, attempt, shown
from daemon.dispatcher.wishes import address_of, origin_of, rate_of
from daemon.errors import ConfigError, Invalid
from daemon.model import Instance
from daemon.notifications import format_of

logger = structlog.get_logger()

Spawn = Callable[[Coroutine[None, None, None], str], None]
"""Runs a coroutine as a task of that name."""

SOON = 3600.0
"""Seconds from which on it is not worth to look whether a lane is due earlier than was thought."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the courier treats callbacks; *disable_after* in seconds without anything accepted."""

    schedule: Schedule
    disable_after: float
    per_origin: int


class Courier:
    """Sends for all lanes.

    *ended* is told of each lane after an attempt, *due* of a lane that must wait for a time, *disable* ends a
    callback for a reason.
    """

    def __init__(
        self,
        *,
        desk: Desk,
        sender: Sender,
        policy: Policy,
        handshakes: Handshakes | None,
        agent: str,
        clocks: Clocks,
        spawn: Spawn,
        ended: Callable[[Lane], None],
        due: Callable[[], None],
        disable: Callable[[Lane, str], Awaitable[None]],
    ) -> None:
        self._desk = desk
        self._sender = sender
        self._policy = policy
        self._handshakes = handshakes
        self._agent = agent
        self._clocks = clocks
        self._monotonic = clocks.monotonic
        self._spawn = spawn
        self._ended = ended
        self._due = due
        self._disable = disable
        self._crews = Crews(policy.per_origin)
        self._letterheads: dict[int, tuple[Instance, Letterhead]] = {}
        self.delivered = 0
        self.failed = 0

    def assign(self, lane: Lane) -> None:
        """Know where the lane's callback is now."""
        instance = self._desk.instance(lane.instance_id, lane.replay)
        url = None if instance is None else address_of(instance, lane.replay)
        self._crews.assign(lane.id, None if url is None else origin_of(url))

    def keep(self, lanes: Iterable[int]) -> None:
        """Forget all but *lanes*."""
        self._crews.keep(lanes)
        self._letterheads = {
            one: self._letterheads[one] for one in lanes if one in self._letterheads
        }

    def call(self, lane: Lane) -> None:
        """Have the crew at the lane's origin look at it."""
        self._join(self._crews.of(lane), lane)

    def _join(self, crew: Crew, lane: Lane) -> None:
        if crew.add(lane):
            crew.workers += 1
            self._spawn(self._work(crew), f"deliver {lane.id}")

    async def _work(self, crew: Crew) -> None:
        """Send for the crew's lanes in turn, while any of them has something."""
        try:
            while (lane := crew.next()) is not None:
                now = self._monotonic()
                instance = self._desk.instance(lane.instance_id, lane.replay)
                if lane.replay is None and (instance is None or instance.disabled):
                    # The lane hears of it a moment later, and of its end.
                    lane.paused = True
                lane.wake_due(now)
                item = lane.take(now)
                if item is None:
                    self._ended(lane)
                    if (moment := lane.next_time()) is not None and moment <= now + SOON:
                        self._due()
                    continue
                if lane.ready:
                    self._join(crew, lane)
                verdict = await self._attempt(lane, item, instance)
                if verdict.delivered:
                    self.delivered += 1
                    lane.delivered(item, self._monotonic(), verdict.status or 200)
                else:
                    await self._failed(lane, item, verdict)
                self._ended(lane)
                crew.add(lane)
        finally:
            crew.workers -= 1

    async def _attempt(self, lane: Lane, item: Item, instance: Instance | None) -> Verdict:
        try:
            letterhead = None if instance is None else self._at_hand(lane, instance)
            if letterhead is None and instance is not None:
                letterhead = await self._letterhead(lane, instance)
            if letterhead is None:
                # The lane may have heard of an address before the directory has.
                instance = await self._desk.instance_now(lane.instance_id, lane.replay)
                letterhead = None if instance is None else await self._letterhead(lane, instance)
            if instance is None or letterhead is None:
                return Verdict(delivered=False, error="the instance has no callback address")
            notification = item.notification
            if notification is None or lane.replay is not None:
                notification = await self._desk.notification(lane, item)
            form = format_of(notification)
            body = form.body(notification)
            origin: str | None = None
            if form.handshake and self._handshakes is not None:
                # Before the headers are made, which say when: there may be a wait for the rate that was allowed.
                refused = await self._permitted(self._handshakes, lane, instance, letterhead)
                if refused is not None:
                    return refused
                origin = self._handshakes.origin
            message = letterhead.request(
                body,
                content_type=form.content_type,
                message_id=notification.id,
                now=self._clocks.wall(),
                repeat=item.doubtful,
                origin=origin,
            )
        except (ConfigError, Invalid, ValueError) as error:
            # A vault without its key, a signing key or an address that is none: a person must mend it, meanwhile
            # others go on.
            return Verdict(delivered=False, error=shown(str(error)))
        return await attempt(self._sender, letterhead.to, message)

    def _at_hand(self, lane: Lane, instance: Instance) -> Letterhead | None:
        """The lane's letterhead, where its instance and settings are still those that it was made for."""
        instance_then, letterhead = self._letterheads.get(lane.id, (None, None))
        if letterhead is None or instance_then is not instance:
            return None
        known = letterhead.settings is self._desk.settings_at_hand(instance)
        return letterhead if known else None

    async def _letterhead(self, lane: Lane, instance: Instance) -> Letterhead | None:
        """What all requests of the lane have in common, made anew; None where there is no address."""
        url = address_of(instance, lane.replay)
        if url is None:
            return None
        letterhead = Letterhead(url, await self._desk.settings(lane, instance), agent=self._agent)
        self._letterheads[lane.id] = instance, letterhead
        return letterhead

    async def _permitted(
        self, handshakes: Handshakes, lane: Lane, instance: Instance, letterhead: Letterhead
    ) -> Verdict | None:
        """None when the receiver agreed to be sent to, else what to make of the attempt."""
        url = letterhead.url
        refused = await handshakes.permit(url, letterhead.settings, rate=rate_of(instance))
        if refused is None:
            wait = self._monotonic() + handshakes.wait(url)
            lane.gate.next_at = max(lane.gate.next_at, wait)
        return refused

    async def _failed(self, lane: Lane, item: Item, verdict: Verdict) -> None:
        now = self._monotonic()
        self.failed += 1
        if lane.gate.failures == 0:
            logger.warning(
                "callback fails", callback=lane.id, error=verdict.error, notification=item.position
            )
        chance = self._clocks.chance
        delay = self._policy.schedule.delay(item.attempts + 1, chance)
        lane.failed(
            item,
            now,
            error=verdict.error or "failed",
            status=verdict.status,
            delay=0.0 if verdict.gone else delay,
            doubtful=verdict.doubtful,
            quiet=verdict.quiet,
            jitter=chance() * 2 - 1,
        )
        since = lane.gate.failing
        if verdict.gone:
            await self._disable(lane, "the receiver answered 410 Gone")
        elif since is not None and now - since >= self._policy.disable_after:
            moment = time.gmtime(self._clocks.wall() - (now - since))
            said = time.strftime("%Y-%m-%d %H:%M", moment)
            await self._disable(lane, f"nothing was accepted since {said} UTC")
