"""The whole way: an attempt whose answer is lost, the question, and what follows.  The receivers are the page's own."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from dispatching import headers_of, request_of
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import serving

from daemon.dispatcher.receipts import NoAnswer, Receipts, ask, headers
from daemon.dispatcher.sending import Letterhead, Verdict, attempt
from daemon.model import Instance
from daemon.notifications import Notification, StoredChange, render
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.sender import Limits, Sender
from daemon.receipts import Question, read_answer, write_question

PAGE = (Path(__file__).parents[2] / "docs" / "receipts.md").read_text(encoding="utf-8")
KEY = "a key of the instance"
SETTINGS = {"event.notification.signature.key": KEY}
APPENDED = datetime(2026, 1, 2, tzinfo=UTC)


def example(number: int) -> dict[str, Any]:
    """What the page's Python example of that number defines."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(blocks[number], "docs/receipts.md", "exec"), names)  # noqa: S102 — it is the page that is tested
    return names


def notification(number: int) -> Notification:
    """A notification about one object."""
    instance = Instance(
        id=7,
        organization_id=1,
        user_id=2,
        element_key="shop",
        hub="crm",
        name="A shop",
        tags=(),
        configuration={},
        token_digest=b"",
        disabled=False,
        created=APPENDED,
        updated=APPENDED,
        revision=1,
    )
    change = StoredChange(number, "orders", str(number), "CREATED", APPENDED, "{}")
    return Notification(
        number, f"AAECAwAAAAAAAAA{number:05}", APPENDED, instance, (change,), APPENDED, None
    )


@dataclass
class World:
    """The page's receiver, served, with a wire that a test can cut; and what tidings has of it."""

    origin: str
    client: Sender
    database: asyncpg.Connection
    requests: list[tuple[str, bytes, bool]] = field(default_factory=list)  # type, body, mark

    async def send(self, number: int, *, repeat: bool = False) -> Verdict:
        """One attempt to deliver."""
        one = notification(number)
        body = render(one)
        letterhead = Letterhead(self.origin + "/callback", SETTINGS)
        message = request_of(letterhead, one, body, time.time(), repeat=repeat)
        return await attempt(self.client, letterhead.to, message)

    async def ask(self, *numbers: int) -> Receipts | NoAnswer:
        """The question about notifications."""
        return await ask(
            self.client,
            self.origin + "/callback",
            SETTINGS,
            [notification(number).id for number in numbers],
            since=APPENDED.timestamp(),
            now=time.time(),
        )

    async def settle(self, number: int) -> Verdict | Receipts | NoAnswer:
        """What follows an attempt in doubt: ask, and only if it is unknown send again, marked."""
        receipts = await self.ask(number)
        if isinstance(receipts, Receipts) and notification(number).id in receipts.unknown:
            return await self.send(number, repeat=True)
        return receipts

    async def effects(self) -> list[tuple[str, str]]:
        """What the receiver did."""
        rows = await self.database.fetch("SELECT what, id FROM changes ORDER BY id")
        return [(row["what"], row["id"]) for row in rows]


Cut = Callable[[web.Request, Callable[[], Awaitable[web.StreamResponse]]], Awaitable[Any]]


@asynccontextmanager
async def world(
    dsn: str, monkeypatch: pytest.MonkeyPatch, *, cuts: list[Cut] | None = None, head: float = 10.0
) -> AsyncIterator[World]:
    """The page's aiohttp receiver; each request is handled by the next of *cuts*, in the end as it is."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("SIGNATURE_KEY", KEY)
    todo = iter(cuts or [])
    seen: list[tuple[str, bytes, bool]] = []

    @web.middleware
    async def wire(request: web.Request, handler: Any) -> Any:
        body = await request.read()
        seen.append((request.content_type, body, "webhook-redelivery" in request.headers))
        cut = next(todo, None)
        if cut is None:
            return await handler(request)
        return await cut(request, lambda: handler(request))

    app = example(0)["application"]()
    app.middlewares.append(wire)
    database = await asyncpg.connect(dsn)
    await database.execute("CREATE TABLE changes (what text, id text)")
    policy = AddressPolicy(allow=[ip_network("127.0.0.0/8")])
    try:
        async with (
            serving(app) as origin,
            Sender(policy=policy, limits=Limits(head=head)) as client,
        ):
            yield World(origin, client, database, seen)
    finally:
        await database.close()


async def answer_lost(request: web.Request, handle: Any) -> Any:
    """The receiver commits; the connection breaks before its answer."""
    response = await handle()
    assert request.transport is not None
    request.transport.abort()
    return response


async def never_arrived(request: web.Request, handle: Any) -> Any:
    """The connection breaks before the receiver sees anything."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def down(request: web.Request, handle: Any) -> Any:
    """The receiver's proxy cannot reach it."""
    return web.Response(status=502, text="bad gateway")


def test_a_lost_answer(dsn: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver committed and its answer was lost: it says received, and nothing is sent again."""

    async def main() -> None:
        async with world(dsn, monkeypatch, cuts=[answer_lost]) as w:
            verdict = await w.send(1)
            assert (verdict.delivered, verdict.doubtful) == (False, True)
            assert await w.settle(1) == Receipts(frozenset({notification(1).id}))
            assert await w.effects() == [("CREATED", "1")]
            assert [kind for kind, _, _ in w.requests] == [
                "application/json",
                "application/webhook-receipts+json",
            ]

    run(main())


def test_what_never_arrived(dsn: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver never saw it: it says unknown, the repeat has the same bytes and the mark, the effect is there once."""

    async def main() -> None:
        async with world(dsn, monkeypatch, cuts=[never_arrived]) as w:
            assert (await w.send(1)).doubtful
            assert await w.settle(1) == Verdict(delivered=True, status=204)
            assert await w.effects() == [("CREATED", "1")]
            (_, first, unmarked), _, (_, second, marked) = w.requests
            assert first == second
            assert (unmarked, marked) == (False, True)

    run(main())


def test_no_answer_changes_nothing(dsn: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the receiver is down nothing is settled and nothing sent; when it is back the question is answered."""

    async def main() -> None:
        async with world(dsn, monkeypatch, cuts=[answer_lost, down, never_arrived]) as w:
            assert (await w.send(1)).doubtful
            assert isinstance(await w.settle(1), NoAnswer)
            assert isinstance(await w.settle(1), NoAnswer)
            assert isinstance(await w.settle(1), Receipts)
            assert await w.effects() == [("CREATED", "1")]
            assert [kind for kind, _, _ in w.requests].count("application/json") == 1

    run(main())


def test_asked_while_it_is_at_it(dsn: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doubtful request is in an open transaction when its repeat comes: the repeat waits, the effect is there once."""

    async def main() -> None:
        third = asyncio.Event()

        async def plain(request: web.Request, handle: Any) -> Any:
            return await handle()

        async def noticed(request: web.Request, handle: Any) -> Any:
            third.set()
            return await handle()

        async with world(dsn, monkeypatch, cuts=[plain, plain, noticed], head=0.5) as w:
            # The first request's effect waits for a lock that this test holds.
            holding = w.database.transaction()
            await holding.start()
            await w.database.execute("LOCK TABLE changes IN SHARE MODE")
            assert (await w.send(1)).doubtful
            assert (await w.ask(1)) == Receipts(unknown=frozenset({notification(1).id}))
            repeat = asyncio.ensure_future(w.send(1, repeat=True))
            await third.wait()
            await holding.commit()
            verdict = await repeat
            assert verdict.delivered or verdict.doubtful
            assert isinstance(await w.settle(1), Receipts)
            assert await w.effects() == [("CREATED", "1")]

    run(main())


def test_many_are_asked_for_at_once(dsn: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question tells which of many are there; an unmarked request for one that is known has no second effect."""

    async def main() -> None:
        async with world(dsn, monkeypatch) as w:
            for number in (1, 3, 5):
                assert (await w.send(number)).delivered
            assert (await w.send(3)).delivered
            receipts = await w.ask(*range(1, 7))
            assert isinstance(receipts, Receipts)
            assert receipts.received == {notification(n).id for n in (1, 3, 5)}
            assert receipts.unknown == {notification(n).id for n in (2, 4, 6)}
            assert await w.effects() == [("CREATED", str(n)) for n in (1, 3, 5)]

    run(main())


def test_a_stranger_is_not_told(dsn: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is not signed with the key gets 401, which is no answer."""

    async def main() -> None:
        async with world(dsn, monkeypatch) as w:
            stranger = {"event.notification.signature.key": "another"}
            url = w.origin + "/callback"
            answer = await ask(w.client, url, stranger, ["a"], since=0, now=time.time())
            assert isinstance(answer, NoAnswer)
            assert "401" in answer.error

    run(main())


# ── the law ──────────────────────────────────────────────────────────────────────────────────────────

# What becomes of a request: it is answered, its answer is lost, the receiver dies before its commit, or
# it stays on its way and arrives after so many further steps, with nobody there for the answer.
fates = st.sampled_from(["answered", "lost", "dies"]) | st.integers(1, 6)


class Played:
    """The page's SQLite receiver and a tidings that settles one notification with it, step by step."""

    def __init__(self) -> None:
        names = example(1)
        self.conn = names["prepare"](":memory:")
        self._inbox, self._callback = names["inbox"], names["callback"]
        self._one = notification(1)
        self._body = render(self._one)
        self._asking = write_question(Question((self._one.id,), int(APPENDED.timestamp())))
        self.underway: list[tuple[int, dict[str, str]]] = []
        self.delivered = self.doubtful = False
        self.marks: list[bool] = []

    def late(self, step: int | None) -> None:
        """What was on its way up to *step* arrives, or everything."""
        for one in self.underway.copy():
            if step is None or one[0] <= step:
                self.underway.remove(one)
                self.arrive(one[1], self._body)

    def arrive(self, sent: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """A request reaches the receiver; its status and body."""
        status, _, text = self._callback(self.conn, sent, body, KEY)
        return status, text

    def unknown(self, *, heard: bool) -> bool:
        """Ask; whether it is to be sent again."""
        sent = dict(headers(self._asking, SETTINGS, message_id="receipts_1", now=time.time()))
        status, text = self.arrive(sent, self._asking)
        assert status == 200
        if not heard:
            return False
        receipts = read_answer(text, [self._one.id])
        self.delivered = self._one.id in receipts.received
        return self._one.id in receipts.unknown

    def send(self, step: int, fate: str | int) -> None:
        """An attempt, and what becomes of it."""
        now = time.time()
        sent = dict(headers_of(self._one, self._body, SETTINGS, now, repeat=self.doubtful))
        self.marks.append("webhook-redelivery" in sent)
        if isinstance(fate, int):
            self.underway.append((step + fate, sent))
        elif fate == "dies":
            self.conn.execute("BEGIN")
            self._inbox.first(self.conn, self._one.id)
            self.conn.rollback()
        else:
            status, _ = self.arrive(sent, self._body)
            self.delivered = status == 200 and fate == "answered"
        self.doubtful = self.doubtful or fate != "answered"


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.booleans(), fates), min_size=1, max_size=25))
def test_the_effect_is_there_once_whatever_breaks(plan: list[tuple[bool, str | int]]) -> None:
    """However requests and questions are lost, delayed and overtaken: one effect, and it is there when tidings says so."""
    played = Played()
    for step, (heard, fate) in enumerate([*plan, (True, "answered"), (True, "answered")]):
        played.late(step)
        if not played.delivered and (not played.doubtful or played.unknown(heard=heard)):
            played.send(step, fate)
        effects = played.conn.execute("SELECT what, id FROM changes").fetchall()
        assert effects in ([], [("CREATED", "1")])
        assert effects or not played.delivered
    played.late(None)
    effects = played.conn.execute("SELECT what, id FROM changes").fetchall()
    played.conn.close()

    assert played.delivered
    assert effects == [("CREATED", "1")]
    assert played.marks == [number > 0 for number in range(len(played.marks))]
