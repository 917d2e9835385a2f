"""One attempt to deliver: the headers that go with a body, and what an answer means."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple, Protocol

import orjson

from daemon.backoff import retry_after
from daemon.errors import Invalid, NotSent, Unanswered
from daemon.notifications.signing import Seal
from daemon.outbound.target import Target, lines, target

RETRY_AFTER_MOST = 86_400.0  # seconds: a receiver that asks for more is tried once a day

OK = range(200, 300)

NOT_NOW = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

ERROR_MOST = 300  # characters of an error that the log keeps


class Answer(Protocol):
    """What a receiver answered: the sender's `Answer`."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class Sender(Protocol):
    """Sends a request and gives the answer, whatever its status.

    Raises `NotSent` when not a byte left, `Unanswered` when the receiver may have acted, `Invalid` for an address
    or headers that can never be sent.
    """

    async def send(self, to: Target, message: bytes) -> Answer: ...

    async def post(
        self, url: str, *, headers: Sequence[tuple[str, str]], body: bytes
    ) -> Answer: ...


class Verdict(NamedTuple):
    """What an attempt came to.

    *doubtful*: it may have been accepted all the same.  *quiet*: seconds for which the receiver wants no more.
    *gone*: the receiver says that the callback is no more (410).
    """

    delivered: bool
    status: int | None = None
    error: str | None = None
    doubtful: bool = False
    quiet: float = 0.0
    gone: bool = False


_ACCEPTED = {status: Verdict(delivered=True, status=status) for status in OK}


class Letterhead:
    """What all requests to one callback have in common, written once for its *url* and *settings* (secrets in clear).

    *agent* is the User-Agent, unless the callback wants another.  Raises `Invalid` for a URL or headers that can
    never be sent.
    """

    __slots__ = ("_beginning", "_seal", "settings", "to", "url")

    def __init__(self, url: str, settings: Mapping[str, str], *, agent: str = "tidings") -> None:
        self.url = url
        self.settings = settings
        self.to = target(url)
        common = credentials(settings)
        if all(name.lower() != "user-agent" for name, _ in common):
            common.insert(0, ("user-agent", agent))
        self._beginning = f"POST{self.to.line}{lines(common)}"
        self._seal = Seal(settings)

    def request(
        self,
        body: bytes,
        *,
        content_type: str,
        message_id: str,
        now: float,
        repeat: bool,
        origin: str | None = None,
    ) -> bytes:
        """One attempt, whole: the id twice, both signatures where there is a key, the callback's own headers, *body*.

        With *repeat*, the receiver may have had it already and is told so.  *origin* is who we are, where the
        receiver agreed to be sent to.  Raises `ValueError` for a signature key that cannot be one.
        """
        signed = ""
        for name, value in self._seal.signatures(body, message_id=message_id, now=now):
            signed += f"{name}: {value}\r\n"
        marked = "webhook-redelivery: possible\r\n" if repeat else ""
        agreed = "" if origin is None else lines([("WebHook-Request-Origin", origin)])
        # Nothing here but `origin` comes from outside: no value can end its line.
        return (
            f"{self._beginning}content-type: {content_type}\r\n"
            f"Elements-Webhook-Id: {message_id}\r\nwebhook-id: {message_id}\r\nwebhook-timestamp: {int(now)}\r\n"
            f"{signed}{marked}{agreed}Content-Length: {len(body)}\r\n\r\n"
        ).encode("ascii") + body


def credentials(settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a callback wants to be sent with each request: Basic authentication, and headers of its own."""
    sent: list[tuple[str, str]] = []
    user = settings.get("event.notification.basic.username")
    if user:
        credentials = f"{user}:{settings.get('event.notification.basic.password', '')}"
        sent.append(("authorization", "Basic " + base64.b64encode(credentials.encode()).decode()))
    sent.extend(own_headers(settings.get("event.notification.callback.headers")))
    return sent


def own_headers(text: str | None) -> list[tuple[str, str]]:
    """The headers that a callback asks for: a JSON object, or lines (or `;`-separated parts) `Name: value`.

    Cloud Elements does not document the form of `event.notification.callback.headers`; these are the two
    that occur elsewhere.
    """
    if not text:
        return []
    if text.lstrip().startswith("{"):
        try:
            pairs = orjson.loads(text)
        except orjson.JSONDecodeError:
            return []
        return [(str(name), str(value)) for name, value in pairs.items()]
    parts = [part.partition(":") for part in text.replace(";", "\n").splitlines()]
    return [(name.strip(), value.strip()) for name, colon, value in parts if colon and name.strip()]


async def attempt(sender: Sender, to: Target, message: bytes) -> Verdict:
    """Send once; never raises for what the outside does."""
    try:
        answer = await sender.send(to, message)
    except (NotSent, Invalid) as error:
        return Verdict(delivered=False, error=shown(str(error)))
    except Unanswered as error:
        return Verdict(delivered=False, error=shown(str(error)), doubtful=True)
    return judge(answer)


def judge(answer: Answer) -> Verdict:
    """Any 2xx is success; a redirect is a failure; 410 ends the callback; 429 and 503 may ask for quiet."""
    status = answer.status
    if (accepted := _ACCEPTED.get(status)) is not None:
        return accepted
    said = answer.body[:200].decode("utf-8", "replace").strip()
    error = f"answered {status}" + (f": {said}" if said else "")
    quiet = 0.0
    if status in NOT_NOW:
        quiet = retry_after(answer.headers, now=datetime.now(UTC), most=RETRY_AFTER_MOST) or 0.0
    return Verdict(
        delivered=False,
        status=status,
        error=shown(error),
        quiet=quiet,
        gone=status == HTTPStatus.GONE,
    )


def shown(error: str) -> str:
    """*error* as the log keeps it: on one line, without what a terminal would obey or PostgreSQL's text not hold."""
    return "".join(c if c.isprintable() else " " for c in error[:ERROR_MOST])
