"""A receiver for development: takes notifications, verifies them, remembers their ids, answers as told.

    POST any path ──► Received ──► *heard* (prints it, or keeps count)
            │             └──► the status to answer
            └─ a question for receipts ──► Asked ──► *asked*

What it does is what an application's own receiver should do; docs/receipts.md explains each step.
"""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from daemon.receipts import CONTENT_TYPE, Question, is_receipts, read_question, write_answer
from daemon.receiver import MemoryInbox
from daemon.signatures import signing_key, verify_elements, verify_standard

REMEMBERED = 100_000
"""Ids that are remembered; older ones are forgotten, and would not be recognised as repeats."""

BODY_MOST = 16 * 1024 * 1024  # bytes

_MISSING = "the signature is missing"


@dataclass(frozen=True, slots=True)
class Event:
    """One change in a notification."""

    change: str
    object_type: str
    object_id: str


@dataclass(frozen=True, slots=True)
class Received:
    """One request, judged.

    *elements* and *standard* are whether each signature is right; None where there is none, or no key to
    verify with.  *again* says that its id was accepted before, *answered* is the status.
    """

    id: str
    instance: int | None
    events: tuple[Event, ...]
    polled: bool
    elements: bool | None
    standard: bool | None
    again: bool
    redelivery: bool
    answered: int
    at: float = field(default_factory=time.time)
    problem: str = ""

    @property
    def verified(self) -> bool:
        """Whether both signatures are there and right."""
        return self.elements is True and self.standard is True


@dataclass(frozen=True, slots=True)
class Asked:
    """A question for receipts: how many ids, what was said of them, and the status.  *body* is the answer."""

    ids: int
    received: int
    unknown: int
    answered: int
    at: float
    problem: str = ""
    body: bytes = b""


class Receiver:
    """Judges each request and answers *status*.

    *key* is the instance's `event.notification.signature.key`; without it nothing can be verified.  A request
    whose signature is wrong is answered 401, whatever *status*.  A question for receipts is answered by what was
    accepted since this receiver was made; *status* is not asked for it.
    """

    def __init__(
        self,
        *,
        heard: Callable[[Received], None],
        key: str | None = None,
        asked: Callable[[Asked], None] = lambda _: None,
        status: Callable[[], int] = lambda: 200,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._heard = heard
        self._asked = asked
        self._key = key
        self._signing_key = None if key is None else signing_key(key)
        self._status = status
        self._now = now
        self._inbox = MemoryInbox(most=REMEMBERED, clock=now)

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=BODY_MOST)
        app.router.add_post("/{path:.*}", self._take)
        app.router.add_get("/{path:.*}", self._greet)
        return app

    def judge(self, headers: Mapping[str, str], body: bytes) -> Received:
        """What to think of one request; remembers its id when it is accepted."""
        message_id = headers.get("webhook-id") or headers.get("Elements-Webhook-Id") or ""
        elements, standard = self._verdicts(headers, message_id, body)
        refused = self._refuses(elements, standard)
        status = 401 if refused else self._status()
        if 200 <= status < 300 and message_id:  # noqa: PLR2004 — HTTP's success
            again = not self._inbox.first(message_id)
        else:
            again = bool(self._inbox.receipts(Question((message_id,))).received)
        instance, events, polled, problem = _read(body)
        return Received(
            id=message_id,
            instance=instance,
            events=events,
            polled=polled,
            elements=elements,
            standard=standard,
            again=again,
            redelivery="webhook-redelivery" in headers,
            answered=status,
            at=self._now(),
            problem=_MISSING if refused and elements is standard is None else problem,
        )

    def answer(self, headers: Mapping[str, str], body: bytes) -> Asked:
        """What to answer to a question for receipts."""
        elements, standard = self._verdicts(headers, headers.get("webhook-id", ""), body)
        if self._refuses(elements, standard):
            problem = _MISSING if elements is standard is None else "the signature is wrong"
            return Asked(0, 0, 0, 401, self._now(), problem)
        try:
            question = read_question(body)
        except ValueError as error:
            return Asked(0, 0, 0, 400, self._now(), f"the question is none: {error}")
        receipts = self._inbox.receipts(question)
        return Asked(
            ids=len(question.ids),
            received=len(receipts.received),
            unknown=len(receipts.unknown),
            answered=200,
            at=self._now(),
            body=write_answer(receipts),
        )

    def _refuses(self, elements: bool | None, standard: bool | None) -> bool:  # noqa: FBT001 — two verdicts
        """Whether a request with these verdicts is not to be believed."""
        if self._key is None:
            return False
        return elements is False or standard is False or elements is standard is None

    def _verdicts(
        self, headers: Mapping[str, str], message_id: str, body: bytes
    ) -> tuple[bool | None, bool | None]:
        if self._key is None or self._signing_key is None:
            return None, None
        elements = headers.get("Elements-Webhook-Signature")
        standard = headers.get("webhook-signature")
        return (
            None if elements is None else verify_elements(self._key, body, elements),
            None
            if standard is None
            else verify_standard(
                [self._signing_key],
                message_id=message_id,
                timestamp=headers.get("webhook-timestamp", ""),
                body=body,
                signature=standard,
                now=self._now(),
            ),
        )

    async def _take(self, request: web.Request) -> web.Response:
        if is_receipts(request.headers.get("Content-Type")):
            asked = self.answer(request.headers, await request.read())
            self._asked(asked)
            kind = CONTENT_TYPE if asked.body else "text/plain"
            return web.Response(status=asked.answered, body=asked.body, content_type=kind)
        received = self.judge(request.headers, await request.read())
        self._heard(received)
        return web.Response(status=received.answered)

    async def _greet(self, request: web.Request) -> web.Response:
        return web.Response(text="This is the receiver of `tidings listen`: it wants POSTs.\n")


def _read(body: bytes) -> tuple[int | None, tuple[Event, ...], bool, str]:
    """The instance, the events, whether a poll found them, and what could not be read."""
    try:
        outer: Any = orjson.loads(body)
        message = outer["message"]
        events = tuple(
            Event(str(one["eventType"]), str(one["objectType"]), str(one["objectId"]))
            for one in message["events"]
        )
        polled = any("pollDate" in one for one in message["events"])
        return int(message["instanceId"]), events, polled, ""
    except (ValueError, KeyError, TypeError) as error:
        return None, (), False, f"the body is no notification: {type(error).__name__} {error}"[:200]


@asynccontextmanager
async def serving(
    receiver: Receiver, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[str]:
    """Serve *receiver*; yields its origin.  Raises `OSError` when it cannot listen there."""
    runner = web.AppRunner(receiver.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
