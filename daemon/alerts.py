"""Alerts: what only a person can mend is told at the operator's own address, `[alerts] url`.

    log ──an instance, a callback, polls: given up──► Alerts ──POST──► the operator
     ▲                                                  │
     └───────── alert.sent: accepted, or given up ◄─────┘

Each alert is one POST in the form of Standard Webhooks (github.com/standard-webhooks/standard-webhooks, spec).  They are
told one after another from the log, so a crash forgets none.  One that ended between the answer and `alert.sent` is told
again with the same id and the same bytes, and says so (`webhook-redelivery: possible`).

A receiver that is away holds up alerts and nothing else: nothing waits in memory, the log has them all.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
import structlog

from daemon import connections
from daemon.backoff import Exponential, retry_after
from daemon.dates import iso_seconds
from daemon.errors import Invalid, NotSent, Unanswered
from daemon.model import Secret
from daemon.outbound.sender import Sender
from daemon.signatures import signing_key, standard_signature
from daemon.store import alerts, log
from daemon.store.alerts import Happening
from daemon.store.database import Pool, until_there
from daemon.store.writer import Unit, Writer
from daemon.webhook_urls import PREFIX

logger = structlog.get_logger()

_until_there = partial(until_there, waiting="alerts")

PAUSES = Exponential(base=5.0, most=1800.0, jitter=0.2)

BACKSTOP = 60.0
"""Seconds after which the log is looked at though nobody said that there is something."""

QUIET_MOST = 86_400.0
"""Seconds for which a receiver that asks for a pause is left alone at most."""

NOT_NOW = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
"""Statuses below 500 that say nothing against the request itself."""

ASKS_FOR_QUIET = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

SHOWN_MOST = 300  # characters of an error that the log keeps, of an answer that a person is shown

REMEDY = "see that [alerts] url and key are right and that its receiver runs; `tidings alerts test` tries it"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where alerts go, and the key that signs them, if any."""

    url: Secret
    key: Secret | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an alert is tried: the pauses, and the ages in seconds at which it is given up.

    *refused* counts where the receiver says that it will not have it, *failing* where it is away or cannot now.
    """

    pauses: Exponential = PAUSES
    refused: float = 86_400.0
    failing: float = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to: accepted where there is no *error*.

    *said* is the beginning of the answer, for the operator's eyes: it may repeat what it was sent.  *refused*: sending it
    again does not help.  *doubtful*: it may have been accepted all the same.  *quiet*: seconds of pause that were asked for.
    """

    status: int | None = None
    error: str | None = None
    said: str = ""
    refused: bool = False
    doubtful: bool = False
    quiet: float = 0.0


class Alerts:
    """Tells alerts, where the operator wants them told; `run` is its loop."""

    def __init__(
        self,
        *,
        pool: Pool,
        writer: Writer,
        sender: Sender,
        to: Destination | None,
        agent: str = "tidings",
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """*to* is None where nobody wants alerts.  *clock* tells the time of day, for what is sent."""
        self._pool = pool
        self._writer = writer
        self._sender = sender
        self._to = to
        self._agent = agent
        self._patience = patience or Patience()
        self._clock = clock
        self._chance = chance
        self._something = asyncio.Event()

    def wake(self) -> None:
        """There may be something to tell: look at the log now."""
        self._something.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        if self._to is None:
            await _until_there(self._end)
            await asyncio.get_running_loop().create_future()
            return
        log_id = await _until_there(partial(log.log_id, self._pool))
        place = await _until_there(self._begin)
        while True:
            self._something.clear()
            found = await _until_there(partial(alerts.next_after, self._pool, place))
            if found is not None:
                await self._tell(found, self._to, log.event_id(log_id, found.position))
                place = found.position
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(BACKSTOP):
                    await self._something.wait()

    async def _begin(self) -> int:
        """The position from which on to tell; where alerts are new, that is now."""
        place = await alerts.place(self._pool)
        if place is None:
            place = (await self._writer.append(Unit([alerts.began()]), patient=True)).position
        return place

    async def _end(self) -> None:
        """Write down that nobody wants alerts any more: who wants them again begins anew."""
        if await alerts.place(self._pool) is not None:
            await self._writer.append(Unit([alerts.ended()]), patient=True)

    async def _tell(self, what: Happening, to: Destination, message_id: str) -> None:
        """Tell one alert until it is accepted or given up, and write that down."""
        elapsed = asyncio.get_running_loop().time
        began = elapsed()
        body = render(what)
        # What was there when this process began, the one before may have sent.
        doubtful = what.position <= self._writer.opened_at
        attempts = 0
        while True:
            outcome = await post(
                self._sender,
                to,
                body,
                message_id=message_id,
                now=self._clock(),
                agent=self._agent,
                repeat=doubtful,
            )
            attempts += 1
            age = what.age + elapsed() - began
            limit = self._patience.refused if outcome.refused else self._patience.failing
            if outcome.error is None or age >= limit:
                break
            doubtful = doubtful or outcome.doubtful
            pause = max(self._patience.pauses.delay(attempts, self._chance), outcome.quiet)
            say = logger.error if outcome.refused else logger.warning
            say(
                "alert not accepted",
                about=what.position,
                to=str(to.url),
                error=outcome.error,
                again_in=round(pause),
                remedy=REMEDY,
            )
            await asyncio.sleep(pause)
        if outcome.error is not None:
            logger.error(
                "alert given up",
                about=what.position,
                to=str(to.url),
                error=outcome.error,
                remedy=f"{REMEDY}; `tidings log show {what.position}` has what it was about",
            )
        entry = alerts.sent(
            what.position, attempts=attempts, status=outcome.status, error=outcome.error
        )
        await _until_there(partial(self._writer.append, Unit([entry]), patient=True))


def render(what: Happening) -> bytes:
    """The body: a pure function of the log up to the entry that it is about."""
    data: dict[str, Any] = {
        "instanceId": what.instance_id,
        "instanceName": what.instance_name,
        "elementKey": what.element_key,
        "organization": what.organization,
        "user": what.user_name,
    }
    if what.callback_id is not None:
        data["callbackId"] = what.callback_id
    if what.resource is not None:
        data["resource"] = what.resource
    data |= {"reason": what.reason, "remedy": remedy(what)}
    return _payload(what.kind, what.appended, data)


def trial(now: float) -> bytes:
    """The body of an alert that says that alerts arrive."""
    message = "A test: alerts of tidings arrive here.  Nothing needs to be done."
    return _payload("alerts.test", datetime.fromtimestamp(now, UTC), {"message": message})


def _payload(kind: str, moment: datetime, data: dict[str, Any]) -> bytes:
    return orjson.dumps({"type": kind, "timestamp": iso_seconds(moment), "data": data})


def remedy(what: Happening) -> str:
    """What a person does about it, with the numbers to do it."""
    instance = f"{PREFIX}/instances/{what.instance_id}"
    match what.kind:
        case "instance.disabled":
            return connections.remedy(what.instance_id)
        case "callback.disabled" if what.callback_id != what.instance_id:
            return f"mend the receiver, then `tidings replay resume {what.callback_id}` goes on"
        case "callback.disabled":
            return f"mend the receiver, then PUT {instance}/deliveries goes on where it stopped"
        case _:
            return (
                f"mend what the reason says, then PUT {instance}/enabled takes the polls up again"
            )


async def post(
    sender: Sender,
    to: Destination,
    body: bytes,
    *,
    message_id: str,
    now: float,
    agent: str,
    repeat: bool = False,
) -> Outcome:
    """Send *body* once, signed where there is a key; never raises for what the outside does.

    With *repeat* the receiver may have had it already, and is told so.
    """
    headers = [
        ("user-agent", agent),
        ("content-type", "application/json"),
        ("webhook-id", message_id),
        ("webhook-timestamp", str(int(now))),
    ]
    if to.key is not None:
        keys = [signing_key(to.key.reveal())]
        headers.append(("webhook-signature", standard_signature(keys, message_id, int(now), body)))
    if repeat:
        headers.append(("webhook-redelivery", "possible"))
    try:
        answer = await sender.post(to.url.reveal(), headers=headers, body=body)
    except (NotSent, Invalid) as error:
        return Outcome(error=str(error)[:SHOWN_MOST])
    except Unanswered as error:
        return Outcome(error=str(error)[:SHOWN_MOST], doubtful=True)
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Outcome(status)
    quiet = None
    if status in ASKS_FOR_QUIET:
        quiet = retry_after(answer.headers, now=datetime.fromtimestamp(now, UTC), most=QUIET_MOST)
    return Outcome(
        status,
        # Without what the receiver wrote: that may be the address again, whose path may be secret.
        error=f"answered {status}",
        said=answer.body[:SHOWN_MOST].decode("utf-8", "replace").strip(),
        refused=status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in NOT_NOW,
        quiet=quiet or 0.0,
    )
