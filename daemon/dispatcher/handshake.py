"""The handshake of CloudEvents' webhooks: nothing is sent to who has not agreed to be sent to.

    OPTIONS <callback>                          200 OK
    WebHook-Request-Origin: tidings.example  ─► WebHook-Allowed-Origin: tidings.example   (or *)
    WebHook-Request-Rate: 120                   WebHook-Allowed-Rate: 60                  (a minute, or *)

Source: https://github.com/cloudevents/spec, `http-webhook.md`, section 4.  It says that the answer's status
alone is no consent, since many servers answer OPTIONS to anything: it is the header that counts.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from daemon.dispatcher.sending import Answer, Verdict, credentials, judge, shown
from daemon.errors import Invalid, NotSent, Unanswered

ORIGIN = "WebHook-Request-Origin"

KEPT = 3600.0
"""Seconds for which an agreement counts: a receiver that takes it back is heard within the hour."""

URLS_MOST = 4096
"""Agreements that are kept in mind; the one that was not used for longest is asked for again."""

RATE_MOST = 10**9  # a minute; what is beyond is no limit


class Asker(Protocol):
    """Sends a request of any method: see `Sender` in `sending` for what it raises."""

    async def request(
        self, method: str, url: str, *, headers: Sequence[tuple[str, str]], body: bytes = b""
    ) -> Answer: ...


@dataclass(slots=True)
class _Agreement:
    """What is known of one URL.  *rate* is in attempts a second, 0 for no limit; times are the clock's."""

    until: float = 0.0
    rate: float = 0.0
    next_at: float = 0.0
    asked: int = 0  # how often
    refused: Verdict | None = None  # what the last question came to
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Handshakes:
    """Asks each callback once an hour whether it may be sent to, and how fast.

    *origin* is the DNS name of this tidings, which receivers allow.  *clock* gives seconds that only go on.
    """

    def __init__(
        self,
        *,
        asker: Asker,
        origin: str,
        agent: str = "tidings",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.origin = origin
        self._asker = asker
        self._agent = agent
        self._clock = clock
        self._agreements: OrderedDict[str, _Agreement] = OrderedDict()

    async def permit(
        self, url: str, settings: Mapping[str, str], *, rate: float = 0.0
    ) -> Verdict | None:
        """Return None when a delivery to *url* may go now, else what the attempt came to without being sent.

        Asks where there is no agreement; *rate*, in attempts a second, is what the instance wants at most
        (0: no limit).  With a rate that the receiver allows it waits for the next turn.
        """
        agreement = self._of(url)
        if self._clock() >= agreement.until:
            refused = await self._asked(agreement, url, settings, rate)
            if refused is not None:
                return refused
        if agreement.rate:
            now = self._clock()
            turn = max(now, agreement.next_at)
            agreement.next_at = turn + 1 / agreement.rate
            await asyncio.sleep(turn - now)
        return None

    def wait(self, url: str) -> float:
        """Seconds until *url* takes another delivery, so that what must wait may do so in its lane."""
        agreement = self._agreements.get(url)
        return 0.0 if agreement is None else max(0.0, agreement.next_at - self._clock())

    def _of(self, url: str) -> _Agreement:
        agreement = self._agreements.setdefault(url, _Agreement())
        self._agreements.move_to_end(url)
        if len(self._agreements) > URLS_MOST:
            self._agreements.popitem(last=False)
        return agreement

    async def _asked(
        self, agreement: _Agreement, url: str, settings: Mapping[str, str], rate: float
    ) -> Verdict | None:
        """Ask, or take what an answer said that came while this one waited: many deliveries, one question."""
        asked = agreement.asked
        async with agreement.asking:
            if agreement.asked == asked:
                agreement.refused = await self._ask(agreement, url, settings, rate)
                agreement.asked += 1
            return agreement.refused

    async def _ask(
        self, agreement: _Agreement, url: str, settings: Mapping[str, str], rate: float
    ) -> Verdict | None:
        theirs = credentials(settings)
        sent = [(ORIGIN, self.origin), *theirs]
        if all(name.lower() != "user-agent" for name, _ in theirs):
            sent.append(("user-agent", self._agent))
        if rate:
            sent.append(("WebHook-Request-Rate", str(max(1, int(rate * 60)))))
        try:
            answer = await self._asker.request("OPTIONS", url, headers=sent)
        except (NotSent, Unanswered, Invalid) as error:
            # Nothing was delivered by a question: it is never in doubt.
            return Verdict(delivered=False, error=shown(f"handshake: {error}"))
        verdict = judge(answer)
        if not verdict.delivered:
            said = shown(f"handshake: OPTIONS was {verdict.error}")
            return verdict._replace(gone=False, error=said)
        allowed = (answer.headers.get("webhook-allowed-origin") or "").strip()
        if allowed != "*" and allowed.lower() != self.origin.lower():
            said = f"is {allowed!r}" if allowed else "is missing"
            return Verdict(
                delivered=False,
                status=answer.status,
                error=shown(
                    f"handshake: the receiver does not agree: WebHook-Allowed-Origin {said}, "
                    f"it should be {self.origin} or *"
                ),
            )
        granted = (answer.headers.get("webhook-allowed-rate") or "*").strip()
        if granted != "*" and not (granted.isascii() and granted.isdigit() and int(granted[:20])):
            return Verdict(
                delivered=False,
                status=answer.status,
                error=shown(
                    f"handshake: WebHook-Allowed-Rate {granted!r} is neither requests a minute nor *"
                ),
            )
        minute = 0 if granted == "*" else int(granted[:20])
        agreement.rate = 0.0 if minute > RATE_MOST else minute / 60
        agreement.until = self._clock() + KEPT
        return None
