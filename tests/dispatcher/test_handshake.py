"""The handshake of CloudEvents' webhooks: who has not agreed is sent nothing, who has is sent no faster than agreed."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web
from dispatching import Answered, Receiver, dispatching
from heart import change, create_instance, poll
from servers import serving

from daemon.dispatcher import handshake
from daemon.dispatcher.handshake import Handshakes
from daemon.errors import NotSent, Unanswered
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.sender import Sender
from daemon.store.vault import Keys

ORIGIN = "tidings.example.com"
URL = "https://app.test/hook"
AGREES = Answered(200, {"webhook-allowed-origin": ORIGIN})


@dataclass
class Clock:
    """Seconds that go on when told."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Asked:
    """A receiver's OPTIONS, answered by a list whose last answer stays."""

    answers: list[Answered | Exception]
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def request(
        self, method: str, url: str, *, headers: Sequence[tuple[str, str]], body: bytes = b""
    ) -> Answered:
        """One question."""
        self.requests.append((method, url, {name.lower(): value for name, value in headers}))
        await self.open.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def permitted(asked: Asked, clock: Clock | None = None) -> Handshakes:
    """Handshakes with *asked* as the outside."""
    return Handshakes(asker=asked, origin=ORIGIN, agent="tidings/1", clock=clock or Clock())


def test_the_request_is_the_documented_one(run: Any) -> None:
    """The question goes by OPTIONS to the callback's own URL, with our name, the rate that is wanted and what the callback asks for."""
    asked = Asked([AGREES])
    settings = {
        "event.notification.callback.headers": '{"X-Key": "1"}',
        "event.notification.basic.username": "u",
    }
    assert run(permitted(asked).permit(URL, settings, rate=2.0)) is None
    ((method, url, headers),) = asked.requests
    assert ("OPTIONS", URL) == (method, url)
    assert {
        "webhook-request-origin": ORIGIN,
        "webhook-request-rate": "120",
        "authorization": "Basic dTo=",
        "x-key": "1",
        "user-agent": "tidings/1",
    } == headers


@pytest.mark.parametrize("allowed", [ORIGIN, ORIGIN.upper(), "*", f" {ORIGIN} "])
def test_an_agreement_counts_for_an_hour(run: Any, allowed: str) -> None:
    """Our name in any case or an asterisk agrees; it is asked once an hour for each URL."""
    asked, clock = Asked([Answered(204, {"webhook-allowed-origin": allowed})]), Clock()
    handshakes = permitted(asked, clock)
    for _ in range(3):
        assert run(handshakes.permit(URL, {})) is None
    assert 1 == len(asked.requests)
    clock.now += 3601
    assert run(handshakes.permit(URL, {})) is None
    assert run(handshakes.permit(URL + "2", {})) is None
    assert [URL, URL, URL + "2"] == [url for _, url, _ in asked.requests]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answered(200), "WebHook-Allowed-Origin is missing, it should be tidings.example.com or *"),
        (
            Answered(200, {"webhook-allowed-origin": "evil.example"}),
            "WebHook-Allowed-Origin is 'evil.example'",
        ),
        (Answered(405, AGREES.headers, b"no"), "OPTIONS was answered 405: no"),
        (Answered(410, AGREES.headers), "OPTIONS was answered 410"),
        (
            Answered(200, {**AGREES.headers, "webhook-allowed-rate": "0"}),
            "WebHook-Allowed-Rate '0' is neither",
        ),
        (Answered(200, {**AGREES.headers, "webhook-allowed-rate": "-5"}), "is neither"),
        (NotSent("no connection"), "no connection"),
        (Unanswered("cut off"), "cut off"),
    ],
)
def test_no_agreement_is_a_failure_that_is_asked_again(
    run: Any, answer: Answered | Exception, said: str
) -> None:
    """Whatever is not an agreement fails the attempt with a sentence, never in doubt nor as gone, and the next attempt asks again."""
    asked = Asked([answer, AGREES])
    handshakes = permitted(asked)
    verdict = run(handshakes.permit(URL, {}))
    assert said in verdict.error
    assert verdict.error.startswith("handshake: ")
    assert not (verdict.delivered)
    assert not (verdict.doubtful)
    assert not (verdict.gone)
    assert run(handshakes.permit(URL, {})) is None
    assert 2 == len(asked.requests)


def test_a_receiver_that_wants_quiet_gets_it(run: Any) -> None:
    """503 with Retry-After is obeyed when the question is answered so."""
    asked = Asked([Answered(503, {"retry-after": "120"})])
    assert 120 == run(permitted(asked).permit(URL, {})).quiet


def test_many_deliveries_one_question(run: Any) -> None:
    """Attempts that begin while the question is out share its answer, also when it is no."""

    async def main() -> None:
        asked = Asked([Answered(403), AGREES])
        asked.open.clear()
        handshakes = permitted(asked)
        tasks = [asyncio.create_task(handshakes.permit(URL, {})) for _ in range(5)]
        await asyncio.sleep(0)
        asked.open.set()
        assert all(verdict is not None for verdict in await asyncio.gather(*tasks))
        assert 1 == len(asked.requests)

    run(main())


def test_a_cancelled_question_leaves_the_others_asking(run: Any) -> None:
    """When the attempt that asks is cancelled, the next in line asks."""

    async def main() -> None:
        asked = Asked([AGREES])
        asked.open.clear()
        handshakes = permitted(asked)
        first, second = (asyncio.create_task(handshakes.permit(URL, {})) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        asked.open.set()
        assert await second is None
        assert first.cancelled()
        assert 2 == len(asked.requests)

    run(main())


def test_agreements_are_bounded(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the agreement that was not used for longest is forgotten."""
    monkeypatch.setattr(handshake, "URLS_MOST", 2)
    asked = Asked([AGREES])
    handshakes = permitted(asked)
    for name in ("a", "b", "a", "c", "a", "b"):
        run(handshakes.permit(f"https://{name}.test/", {}))
    assert ["a", "b", "c", "b"] == [url[8] for _, url, _ in asked.requests]


def test_the_rate_is_obeyed(run: Any) -> None:
    """With 3000 a minute, attempts that come together go 20 ms apart; an asterisk is no limit."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked = Asked([Answered(200, {**AGREES.headers, "webhook-allowed-rate": "3000"})])
        handshakes = Handshakes(asker=asked, origin=ORIGIN, clock=loop.time)
        went: list[float] = []

        async def one() -> None:
            assert await handshakes.permit(URL, {}) is None
            went.append(loop.time())

        began = loop.time()
        await asyncio.gather(*(one() for _ in range(6)))
        # One that is late does not delay the next; the loop's clock and its timers have milliseconds.
        assert all(moment - began >= n * 0.02 - 0.002 for n, moment in enumerate(went))
        assert 0 < handshakes.wait(URL) <= 0.021
        free = Handshakes(
            asker=Asked([Answered(200, {**AGREES.headers, "webhook-allowed-rate": "*"})]),
            origin=ORIGIN,
            clock=loop.time,
        )
        assert await free.permit(URL, {}) is None
        assert 0 == free.wait(URL)

    run(main())


class Agreeing(Receiver):
    """A receiver that answers OPTIONS by a list, and POST as its script says."""

    def __init__(self, *answers: Answered) -> None:
        super().__init__()
        self.asked = Asked(list(answers))

    async def request(
        self, method: str, url: str, *, headers: Sequence[tuple[str, str]], body: bytes = b""
    ) -> Answered:
        """One question."""
        return await self.asked.request(method, url, headers=headers, body=body)


def test_nothing_is_sent_before_the_receiver_agrees(dsn: str, keys: Keys, run: Any) -> None:
    """A CloudEvents callback that does not agree gets no POST, its notification is retried by schedule, and goes out when it agrees."""

    async def main() -> None:
        receiver = Agreeing(Answered(200), AGREES)
        handshakes = Handshakes(asker=receiver, origin=ORIGIN)
        async with dispatching(dsn, keys, receiver, handshakes=handshakes) as world:
            more: Mapping[str, str | None] = {"event.notification.format": "cloudevents"}
            instance = await create_instance(world.writer, url=URL, more=dict(more))
            await world.directory.refresh()
            await world.writer.append(poll(instance, change(1)))
            await world.settled({"retrying": 1})
            ((_, _, attempts, doubtful, error),) = await world.rows()
            assert (1, False) == (attempts, doubtful)
            assert "the receiver does not agree" in error
            assert [] == receiver.requests
            world.later(61)
            await world.settled({"delivered": 1})
            (request,) = receiver.requests
            assert ORIGIN == request.headers["webhook-request-origin"]
            assert "tidings" == request.headers["user-agent"]
            assert not request.repeat

    run(main())


def test_other_formats_ask_nobody(dsn: str, keys: Keys, run: Any) -> None:
    """An application written for Cloud Elements, which knows no handshake, is sent to without one."""

    async def main() -> None:
        receiver = Agreeing(Answered(405))
        handshakes = Handshakes(asker=receiver, origin=ORIGIN)
        async with dispatching(dsn, keys, receiver, handshakes=handshakes) as world:
            instance = await create_instance(world.writer, url=URL)
            await world.directory.refresh()
            await world.writer.append(poll(instance, change(1)))
            await world.settled({"delivered": 1})
            assert [] == receiver.asked.requests
            assert "webhook-request-origin" not in receiver.requests[0].headers

    run(main())


def test_what_waits_for_its_turn_waits_in_the_lane(dsn: str, keys: Keys, run: Any) -> None:
    """With one a minute, the second notification is not in flight meanwhile, and goes when the minute is over."""

    async def main() -> None:
        receiver = Agreeing(Answered(200, {**AGREES.headers, "webhook-allowed-rate": "1"}))
        clock = Clock()
        handshakes = Handshakes(asker=receiver, origin=ORIGIN, clock=clock)
        async with dispatching(dsn, keys, receiver, handshakes=handshakes) as world:
            more: dict[str, str | None] = {"event.notification.format": "cloudevents-batched"}
            instance = await create_instance(world.writer, url=URL, more=more)
            await world.directory.refresh()
            await world.writer.append(poll(instance, change(1)))
            await world.settled({"delivered": 1})
            await world.writer.append(poll(instance, change(2)))
            await world.until(lambda: world.dispatcher._tail.head > instance + 3)
            assert [0] == [lane.in_flight for lane in world.dispatcher._lanes]
            assert 1 == len(receiver.requests)
            clock.now += 60
            world.later(60)
            await world.settled({"delivered": 2})

    run(main())


def test_over_a_socket(run: Any) -> None:
    """The real sender asks a real server, whose header counts in whatever case it comes."""

    async def main() -> None:
        seen: list[tuple[str, str]] = []

        async def answer(request: web.Request) -> web.Response:
            seen.append((request.method, request.headers["WebHook-Request-Origin"]))
            return web.Response(
                headers={
                    "Allow": "POST",
                    "WEBHOOK-ALLOWED-ORIGIN": "*",
                    "WebHook-Allowed-Rate": "100",
                }
            )

        policy = AddressPolicy(allow=[ip_network("127.0.0.0/8")])
        async with serving(answer) as origin, Sender(policy=policy) as sender:
            handshakes = Handshakes(asker=sender, origin=ORIGIN)
            assert await handshakes.permit(f"{origin}/hook", {}) is None
            assert 0.5 < handshakes.wait(f"{origin}/hook") <= 0.6
        assert [("OPTIONS", ORIGIN)] == seen

    run(main())
