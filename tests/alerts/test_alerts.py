"""Alerts: what needs a person is told at the operator's address, whatever crashes, and nothing else is."""

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop
from accounts.test_accounts_kept import world as account
from aiohttp import web
from alerts.telling import (
    KEY,
    PATH,
    SOON,
    Operator,
    World,
    disabled_by_hand,
    given_up,
    operated,
    switched_off,
)
from databases import copied
from heart import connected, state, until, until_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy import Proxy
from servers import serving
from standardwebhooks import WebhookVerificationError
from structlog.testing import capture_logs

from daemon.alerts import Alerts, Destination, Patience, render
from daemon.backoff import Exponential
from daemon.errors import Unauthorized
from daemon.model import Secret
from daemon.store import alerts, log
from daemon.store.alerts import Happening
from daemon.store.vault import Keys
from daemon.store.writer import Unit

Run = Callable[..., Any]
KINDS = ("instance.disabled", "callback.disabled", "poll.disabled")


def test_a_grant_that_is_lost_is_told(dsn: str, keys: Keys, run: Run) -> None:
    """A refresh that the provider refuses for good leads to one POST, signed, that names the instance and the calls that mend it."""

    async def main() -> None:
        async with account(dsn, keys) as w, operated(dsn, keys) as (world, operator, url):
            await w.create()
            telling = Alerts(
                pool=world.pool,
                writer=w.writer,
                sender=world.sender,
                to=Destination(Secret(url), Secret(KEY)),
            )
            task = asyncio.create_task(telling.run())
            await until_row(world.pool, "SELECT true FROM log WHERE kind = 'alert.began'")
            w.sage.revoke()
            with pytest.raises(Unauthorized):
                await w.ask()
            telling.wake()
            await operator.told(1)
            await until_row(world.pool, "SELECT true FROM log WHERE kind = 'alert.sent'")
            task.cancel()

            [posted] = operator.posted
            body = posted.verified()
            data = body["data"]
            assert ["type", "timestamp", "data"] == list(body)
            assert "instance.disabled" == body["type"]
            assert (w.instance.id, "Sage", "sageone") == (
                data["instanceId"],
                data["instanceName"],
                data["elementKey"],
            )
            assert ("acme", "ann") == (data["organization"], data["user"])
            assert "access was not granted" in data["reason"]
            path = f"/elements/api-v2/instances/{w.instance.id}"
            assert f"PATCH {path} with a new providerData.code" in data["remedy"]
            assert f"then PUT {path}/enabled" in data["remedy"]
            assert not posted.repeat
            assert PATH == posted.path

    run(main())


def test_each_kind_says_what_to_do(dsn: str, keys: Keys, run: Run) -> None:
    """Of a callback, a replay and polls too: what happened, why, and the call or command with their own numbers."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            await world.start(url)
            one = await world.instance()
            at = [
                await world.append(given_up(one)),
                await world.append(given_up(one, callback=4711)),
                await world.append(given_up(one, "poll.disabled")),
            ]
            await operator.told(3)
            log_id = await log.log_id(world.pool)
            assert [log.event_id(log_id, position) for position in at] == [
                posted.id for posted in operator.posted
            ]
            callback, replay, poll = [posted.verified() for posted in operator.posted]
            assert "the receiver answered 410 Gone" == callback["data"]["reason"]
            assert f"PUT /elements/api-v2/instances/{one}/deliveries" in callback["data"]["remedy"]
            assert (one, 4711) == (replay["data"]["instanceId"], replay["data"]["callbackId"])
            assert "`tidings replay resume 4711`" in replay["data"]["remedy"]
            assert "contacts" == poll["data"]["resource"]
            assert "the provider answered 500" == poll["data"]["reason"]
            assert f"PUT /elements/api-v2/instances/{one}/enabled" in poll["data"]["remedy"]

    run(main())


def test_without_a_key_nothing_is_signed(dsn: str, keys: Keys, run: Run) -> None:
    """Where there is no key there is no signature, and with one any change of the body is noticed."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            await world.start(url, key=None)
            await world.append(given_up(await world.instance()))
            await operator.told(1)
            assert "webhook-signature" not in operator.posted[0].headers
            await world.crash()
            await world.start(url)
            await world.append(given_up(await world.instance()))
            await operator.told(2)
            operator.posted[1].verified()
            changed = operator.posted[1].body.replace(b"410", b"411")
            with pytest.raises(WebhookVerificationError):
                type(operator.posted[1])(operator.posted[1].headers, changed, "").verified()

    run(main())


def test_what_a_person_did_is_not_told(dsn: str, keys: Keys, run: Run) -> None:
    """An instance that a person switched off and a callback that a person disabled are no alerts; what follows is."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            await world.start(url)
            one = await world.instance()
            await world.append(switched_off(one), disabled_by_hand(one))
            await world.append(given_up(one, "poll.disabled"))
            await operator.told(1)
            await world.settled()
            assert ["poll.disabled"] == [posted.type for posted in operator.posted]

    run(main())


def test_history_is_not_told(dsn: str, keys: Keys, run: Run) -> None:
    """Alerts begin with what the log gets after they were first configured, and again after they were off."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            await world.start(None)
            one = await world.instance()
            await world.append(given_up(one))
            await world.crash()
            await world.start(url)
            first = await world.append(given_up(one))
            await world.settled()
            await world.crash()
            await world.start(None)
            await world.append(given_up(one))
            await world.crash()
            await world.start(url)
            second = await world.append(given_up(one))
            await world.settled()
            assert [first, second] == [sent["about"] for sent in await world.sent()]
            assert 2 == len(operator.posted)
            kinds = "SELECT array_agg(kind ORDER BY position) FROM log WHERE kind IN ('alert.began', 'alert.ended')"
            assert ["alert.began", "alert.ended", "alert.began"] == await world.pool.fetchval(kinds)

    run(main())


def test_what_was_told_is_not_told_again(dsn: str, keys: Keys, run: Run) -> None:
    """The place is in the log: a process that starts tells only what none has told."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            for number in (1, 2, 3):
                await world.start(url)
                await world.append(given_up(await world.instance()))
                await world.settled()
                assert number == len(operator.posted)
                await world.crash()
            assert not any(posted.repeat for posted in operator.posted)

    run(main())


def test_a_crash_before_the_entry_repeats_it(dsn: str, keys: Keys, run: Run) -> None:
    """Killed between the receiver's answer and its own entry, it tells the alert again: same id, same bytes, marked."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            await world.start(url)
            one = await world.instance()
            # The writer dies before it answers, so there is nobody who could append what was answered.
            operator.at_answer = world._tasks[0].cancel
            await world.append(given_up(one, "instance.disabled"))
            await operator.told(1)
            operator.at_answer = lambda: None
            await world.crash()
            assert [] == await world.sent()
            await world.start(url)
            # What it is about is another by now, and what is said of it the same.
            await world.append(
                state("instance.configured", instance_id=one, name="Renamed", token=f"of {one}")
            )
            await operator.told(2)
            await world.settled()
            first, second = operator.posted
            assert (first.id, first.body) == (second.id, second.body)
            assert (False, True) == (first.repeat, second.repeat)
            first.verified()
            second.verified()

    run(main())


def test_an_answer_that_never_comes_is_a_doubt(dsn: str, keys: Keys, run: Run) -> None:
    """A receiver that hangs up without an answer may have accepted it: the next attempt says so; one that refuses has not."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, _):
            seen = 0

            async def answer(request: web.Request) -> web.Response:
                nonlocal seen
                seen += 1
                response = await operator.answer(request)
                if seen == 2:
                    assert request.transport is not None
                    request.transport.abort()
                return response

            async with serving(answer) as origin:
                operator.script = [503]
                await world.start(origin + PATH)
                await world.append(given_up(await world.instance()))
                await operator.told(2)
                await world.settled()
                assert [False, False, True] == [posted.repeat for posted in operator.posted]

    run(main())


def test_a_receiver_that_was_down_gets_it_later(dsn: str, keys: Keys, run: Run) -> None:
    """While nothing listens the log goes on and holds everything; when it does, all is told in order."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, _):
            with socket.socket() as reserved:
                reserved.bind(("127.0.0.1", 0))
                port = reserved.getsockname()[1]
            await world.start(f"http://127.0.0.1:{port}/")
            one = await world.instance()
            at = [await world.append(given_up(one, kind)) for kind in KINDS]
            with capture_logs() as lines:
                await until(lambda: len(lines) >= 3)
            assert {"alert not accepted"} == {line["event"] for line in lines}
            assert all("[alerts] url" in line["remedy"] for line in lines)
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", operator.answer)
            runner = web.AppRunner(application)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", port).start()
                await operator.told(3)
                await world.settled()
            finally:
                await runner.cleanup()
            assert list(KINDS) == [posted.type for posted in operator.posted]
            assert at == [sent["about"] for sent in await world.sent()]
            assert not any(posted.repeat for posted in operator.posted)

    run(main())


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410])
def test_what_is_refused_is_given_up_aloud(dsn: str, keys: Keys, run: Run, status: int) -> None:
    """An alert that the receiver refuses long enough is given up with an error and its status, and the next is told."""

    async def main() -> None:
        patience = Patience(pauses=SOON, refused=0.05, failing=1e9)
        async with operated(dsn, keys, patience=patience) as (world, operator, url):
            operator.script = [status] * 2000
            await world.start(url)
            one = await world.instance()
            refused = await world.append(given_up(one))
            await world.settled()
            operator.script = []
            told = await world.append(given_up(one, "poll.disabled"))
            await world.settled()
            first, second = await world.sent()
            assert (refused, status) == (first["about"], first["status"])
            assert f"answered {status}" == first["error"]
            assert 1 < first["attempts"] == len(operator.posted) - 1
            assert {"about": told, "attempts": 1, "status": 204, "error": None} == second

    with capture_logs() as lines:
        run(main())
    [said] = [line for line in lines if line["event"] == "alert given up"]
    assert "error" == said["log_level"]
    assert "`tidings alerts test`" in said["remedy"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_what_says_later_is_no_refusal(dsn: str, keys: Keys, run: Run, status: int) -> None:
    """A receiver that cannot now is tried for longer than one that refuses."""

    async def main() -> None:
        patience = Patience(pauses=SOON, refused=0.0, failing=1e9)
        async with operated(dsn, keys, patience=patience) as (world, operator, url):
            operator.script = [status, status]
            await world.start(url)
            await world.append(given_up(await world.instance()))
            await operator.told(1)
            await world.settled()
            assert [(3, 204)] == [(s["attempts"], s["status"]) for s in await world.sent()]

    run(main())


def test_a_receiver_that_is_away_for_good_is_given_up(dsn: str, keys: Keys, run: Run) -> None:
    """Nothing is tried for ever: an alert that nobody took for long enough is given up, and the log says so."""

    async def main() -> None:
        patience = Patience(pauses=SOON, refused=1e9, failing=0.05)
        async with operated(dsn, keys, patience=patience) as (world, operator, url):
            operator.script = [500] * 2000
            await world.start(url)
            await world.append(given_up(await world.instance()))
            await world.settled()
            [sent] = await world.sent()
            assert (500, "answered 500") == (sent["status"], sent["error"])
            assert sent["attempts"] > 1

    run(main())


def test_a_pause_that_is_asked_for_is_given(dsn: str, keys: Keys, run: Run) -> None:
    """`Retry-After` of a 429 counts where it is longer than our own pause."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            operator.script, operator.headers = [429], {"Retry-After": "0.3"}
            await world.start(url)
            await world.append(given_up(await world.instance()))
            await until(lambda: len(operator.posted) == 1)
            since = asyncio.get_running_loop().time()
            await operator.told(1)
            assert asyncio.get_running_loop().time() - since >= 0.25

    run(main())


def test_no_secret_is_told_or_written(dsn: str, keys: Keys, run: Run) -> None:
    """Neither the log, nor what is logged, nor an alert has the address's path, the key, or a credential."""

    async def main() -> tuple[str, str]:
        patience = Patience(pauses=SOON, refused=0.05)
        async with operated(dsn, keys, patience=patience) as (world, operator, url):
            await world.start(url)
            unit = Unit(
                [state(key=True, more={"password": "********"})], secrets={"password": "hunter-22"}
            )
            one = (await world.writer.append(unit)).position
            operator.script = [404] * 2000  # its answer repeats the path
            await world.append(given_up(one, "instance.disabled", key=True))
            await world.settled()
            operator.script = []
            await world.append(given_up(one))
            await operator.told(1)
            rows = await world.pool.fetch("SELECT data::text FROM log")
            stored = "\n".join(row[0] for row in rows)
            return stored, b"\n".join(posted.body for posted in operator.posted).decode()

    with capture_logs() as lines:
        stored, told = run(main())
    assert any(line["event"] == "alert given up" for line in lines)
    for secret in ("T0P-s3cret", KEY, KEY.removeprefix("whsec_"), "hunter-22"):
        assert secret not in stored + told + str(lines)
    assert "********" not in told


def test_the_database_may_go_away(dsn: str, keys: Keys, run: Run) -> None:
    """When the database comes back, what happened meanwhile is told, without a new start."""

    async def main() -> None:
        async with (
            Proxy(dsn) as proxy,
            operated(dsn, keys, dsn_of_pool=proxy.dsn) as (world, operator, url),
        ):
            await world.start(url)
            one = await world.instance()
            proxy.refusing = True
            proxy.cut()
            async with connected(dsn) as conn:
                before = await conn.fetchval("SELECT max(position) FROM log")
            at = await world.append(given_up(one))
            assert at > before
            with capture_logs() as lines:
                await until(
                    lambda: any("waiting for the database" in one["event"] for one in lines)
                )
            assert [] == operator.posted
            proxy.refusing = False
            await operator.told(1)
            await world.settled()
            world.check()

    run(main())


def test_a_dead_address_disturbs_nothing(dsn: str, keys: Keys, run: Run) -> None:
    """While a receiver hangs, the log goes on, and one alert is under way, however many there are."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            operator.open.clear()
            await world.start(url)
            one = await world.instance()
            for _ in range(50):
                await world.append(*[given_up(one)] * 4)
            await until(lambda: operator.posted)
            assert 1 == len(operator.posted)
            assert 1 == world.sender.connections
            operator.open.set()
            await operator.told(200)
            await world.settled()

    run(main())


STEPS = st.lists(
    st.one_of(
        st.sampled_from(
            (*KINDS, "person", "rename", "crash", "crash before", "crash after", "off and on")
        ),
        st.integers(1, 2),
    ),
    min_size=3,
    max_size=14,
)


@pytest.fixture(scope="module")
def history(server: str, template: str) -> Iterator[tuple[asyncio.Runner, str]]:
    """One database for many histories, and what runs them."""
    with (
        copied(server, template) as dsn,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        yield runner, dsn


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_whatever_happens_each_is_told(
    history: tuple[asyncio.Runner, str], steps: list[str | int]
) -> None:
    """Through crashes and failures every entry that is worth it is told in the order of the log, unmarked ones once, repeats byte by byte."""
    runner, dsn = history

    async def main() -> None:
        keys = Keys([("k1", bytes(range(32)))])
        async with asyncio.timeout(25), operated(dsn, keys) as (world, operator, url):
            await world.start(url)
            one = await world.instance()
            wanted = []
            for step in steps:
                at = await taken(step, world, operator, url, one)
                wanted += [] if at is None else [at]
            operator.open.set()
            await world.settled()
            judged(operator, wanted, await log.log_id(world.pool))

    runner.run(main())


async def taken(
    step: str | int, world: World, operator: Operator, url: str, one: int
) -> int | None:
    """Take one step; the position of what is to be told."""
    if isinstance(step, int):
        operator.script += [503] * step
    elif step == "person":
        await world.append(switched_off(one), disabled_by_hand(one))
    elif step == "rename":
        await world.append(
            state("instance.configured", instance_id=one, name=f"n{one}", token=f"of {one}")
        )
    elif step == "off and on":
        await world.settled()
        await world.crash()
        await world.start(None)
        await world.append(given_up(one))
        await world.crash()
        await world.start(url)
    elif step == "crash":
        await world.crash()
        await world.start(url)
    elif step == "crash before":
        # An alert is under way, and nobody is there any more when it is answered.
        operator.open.clear()
        before = len(operator.posted)
        at = await world.append(given_up(one))
        await until(lambda: len(operator.posted) > before)
        await world.crash()
        operator.open.set()
        await world.start(url)
        return at
    elif step == "crash after":
        # The writer dies as the alert is answered.
        await world.settled()
        operator.at_answer = world._tasks[0].cancel
        before = len(operator.posted)
        at = await world.append(given_up(one))
        await until(lambda: len(operator.posted) > before and world._tasks[0].done())
        operator.at_answer = lambda: None
        await world.crash()
        await world.start(url)
        return at
    else:
        return await world.append(given_up(one, step))
    return None


def judged(operator: Operator, wanted: list[int], log_id: bytes) -> None:
    """Fail unless all of *wanted* was told as the law says."""
    ids = [log.event_id(log_id, position) for position in wanted]
    first: dict[str, bytes] = {}
    for posted in operator.posted:
        assert first.setdefault(posted.id, posted.body) == posted.body
        posted.verified()
    assert ids == list(first)
    unmarked = [posted.id for posted in operator.accepted if not posted.repeat]
    assert len(unmarked) == len(set(unmarked))
    accepted = {posted.id for posted in operator.accepted}
    assert accepted == set(ids)


def test_a_body_is_a_function_of_the_log(dsn: str, keys: Keys, run: Run) -> None:
    """What is said of an entry is the same whatever happens afterwards: renamed, mended, deleted, its user removed."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, _, url):
            await world.start(url)
            one = await world.instance()
            before = await alerts.place(world.pool)
            assert before is not None
            at = [await world.append(given_up(one, kind)) for kind in KINDS]
            said = [await body(world, position) for position in at]
            await world.append(
                state("instance.enabled", instance_id=one, name="Renamed", token=f"of {one}")
            )
            assert said == [await body(world, position) for position in at]
            await world.append(state("instance.deleted", instance_id=one))
            assert said == [await body(world, position) for position in at]
            assert all(orjson.loads(text)["data"]["instanceName"] == "Local" for text in said)

    run(main())


async def body(world: World, position: int) -> bytes:
    """What is told of the entry at *position*."""
    found = await alerts.next_after(world.pool, position - 1)
    assert found is not None
    assert position == found.position
    return render(found)


def test_an_alert_about_an_instance_that_is_gone_is_told_once(
    dsn: str, keys: Keys, run: Run
) -> None:
    """An instance that is deleted before its alert is accepted does not keep the alert from being settled."""

    async def main() -> None:
        async with operated(dsn, keys) as (world, operator, url):
            operator.open.clear()
            await world.start(url)
            one = await world.instance()
            await world.append(given_up(one))
            await until(lambda: operator.posted)
            await world.append(state("instance.deleted", instance_id=one))
            operator.open.set()
            await world.settled()
            assert 1 == len(await world.sent())

    run(main())


def test_the_documented_example_is_what_is_sent() -> None:
    """The body that docs/operations.md shows is the one that is posted for such an entry."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    found = re.search(r"^    \{\n.*?^    \}$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    shown = orjson.loads(found[0])
    data = shown["data"]
    happening = Happening(
        position=90,
        appended=datetime.fromisoformat(shown["timestamp"]),
        kind=shown["type"],
        instance_id=data["instanceId"],
        age=0.0,
        reason=data["reason"],
        callback_id=None,
        resource=None,
        instance_name=data["instanceName"],
        element_key=data["elementKey"],
        organization=data["organization"],
        user_name=data["user"],
    )
    assert orjson.dumps(shown) == render(happening)


def test_the_pauses_are_bounded() -> None:
    """As delivered: a day for a refusal, a week for a receiver that is away, half an hour between two attempts at most."""
    usual = Patience()
    assert (86_400.0, 7 * 86_400.0) == (usual.refused, usual.failing)
    assert Exponential(base=5.0, most=1800.0, jitter=0.2) == usual.pauses
