"""Replays with a real database: what is asked for reaches the receiver again, once per replay, as it was."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from dispatching import Answered, Clock, Receiver, Request, World, dispatching
from heart import (
    SIGNATURE_KEY,
    change,
    connected,
    create_instance,
    dumped,
    hook,
    poll,
    state,
    until_row,
)

from daemon.dispatcher.items import Rules
from daemon.errors import Unanswered
from daemon.signatures import elements_signature
from daemon.store import deliveries, log, projections, replays
from daemon.store.deliveries import Outcome, Progress
from daemon.store.replays import Selection, Terms
from daemon.store.vault import Keys
from daemon.store.writer import Intake, Unit

GOOD = Answered()
BAD = Answered(500, body=b"no")
AGAIN = "https://again.test/events"
FAST = 1e9  # so many a second that the clock, which stands, does not matter


async def made(world: World, number: int = 6, **chosen: Any) -> tuple[int, list[int]]:
    """An instance with so many notifications, each about its own object; their positions."""
    instance = await create_instance(world.writer, **chosen)
    return instance, await more(world, instance, range(number))


async def more(
    world: World, instance: int, numbers: Sequence[int], version: object = 0
) -> list[int]:
    """A notification about the object of each number; their positions."""
    return [
        (await world.writer.append(poll(instance, change(n, version)))).position for n in numbers
    ]


async def ask(
    world: World,
    instance: int,
    *,
    after: int = 0,
    until: int | None = None,
    kind: str | None = None,
    object_id: str | None = None,
    url: str | None = None,
    to_instance: int | None = None,
    as_new: bool = False,
    rate: float = FAST,
) -> int:
    """Ask for a replay as the command line does; its id."""
    last = await log.head(world.pool) if until is None else until
    selection = await replays.whole(world.pool, Selection(after, last, kind, object_id))
    counted = await replays.count(world.pool, [instance], selection)
    number = counted[instance]["notifications"] if instance in counted else 0
    terms = Terms(url, to_instance, as_new, rate)
    entry = replays.requested(instance, selection, terms, notifications=number, by="ann")
    asked = (await world.writer.append(Unit([entry]))).position
    world.dispatcher.look_again()
    return asked


async def finished(world: World, replay: int) -> None:
    """Return when the replay has come to its end."""
    await until_row(
        world.pool, "SELECT id FROM callbacks WHERE id = $1 AND state = 'finished'", replay
    )
    world.check()


async def same_after_rebuild(dsn: str) -> None:
    """Every projection is what the log says."""
    async with connected(dsn, role=None) as conn:
        before = await dumped(conn)
        async with conn.transaction():
            async for _ in projections.rebuild(conn, chunk=17):
                pass
        assert await dumped(conn) == before


def objects(requests: Sequence[Request]) -> list[str]:
    """The objects that the requests are about, in order."""
    return [object_id for request in requests for object_id in request.objects]


def test_all_again_to_the_same_callback(dsn: str, keys: Keys, run: Any) -> None:
    """A replay sends all again to the same callback in order, with the ids and bytes of the first time, and finishes."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world)
            await more(world, instance, range(6), version=1)
            await world.settled({"delivered": 12})
            replay = await ask(world, instance)
            await finished(world, replay)
            first, second = receiver.requests[:12], receiver.requests[12:]
            assert [(r.id, r.body, r.url) for r in sorted(first, key=lambda r: r.id)] == [
                (r.id, r.body, r.url) for r in sorted(second, key=lambda r: r.id)
            ]
            for n in range(6):  # in order for each object
                mine = [r.body for r in second if r.objects == [str(n)]]
                assert mine == [r.body for r in first if r.objects == [str(n)]]
            assert not any(r.repeat for r in receiver.requests)
            assert await world.states(replay) == {"delivered": 12}
            again = await ask(world, instance)
            await finished(world, again)
            assert len(receiver.requests) == 36
        await same_after_rebuild(dsn)

    run(main())


def test_only_what_is_selected(dsn: str, keys: Keys, run: Any) -> None:
    """Positions, type, object and both together select whole notifications, of that instance alone."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, at = await made(world, 3)
            other, _ = await made(world, 3, token="other", url="https://app.test/other")
            orders = [change(n, 0, object_type="orders") for n in (1, 7)]
            both = (await world.writer.append(hook(instance, *orders))).position
            await world.settled({"delivered": 7})
            del receiver.requests[:]
            for chosen, wanted in (
                ({"after": at[0]}, ["1", "2", "1", "7"]),
                ({"until": at[1]}, ["0", "1"]),
                ({"after": at[0], "until": at[1]}, ["1"]),
                ({"kind": "orders"}, ["1", "7"]),
                ({"object_id": "1"}, ["1", "1", "7"]),
                ({"kind": "contacts", "object_id": "1"}, ["1"]),
                ({"after": both, "until": both}, ["1", "7"]),  # whole, though it begins inside
                ({"kind": "nothing"}, []),
                ({"until": 0}, []),
            ):
                replay = await ask(world, instance, **chosen)
                await finished(world, replay)
                assert objects(receiver.requests) == wanted, chosen
                assert await world.states(other) == {"delivered": 3}
                del receiver.requests[:]
        await same_after_rebuild(dsn)

    run(main())


def test_to_another_address_without_the_first_ones_password(dsn: str, keys: Keys, run: Any) -> None:
    """A replay to a URL goes there, signed with the instance's key, without the credentials for its own callback's host."""
    receiver = Receiver()
    secrets = {SIGNATURE_KEY: "key", "event.notification.basic.password": "secret"}
    own = {
        "event.notification.basic.username": "ann",
        "event.notification.callback.headers": "X-Own: 1",
    }

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 2, key=True, more=own)
            await world.writer.append(Unit(instance_id=instance, secrets=secrets))
            await world.settled({"delivered": 2})
            await finished(world, await ask(world, instance, url=AGAIN))
            await finished(world, await ask(world, instance, url="https://app.test/else"))
            elsewhere = [r for r in receiver.requests if r.url == AGAIN]
            beside = [r for r in receiver.requests if r.url == "https://app.test/else"]
            assert [r.body for r in elsewhere] == [r.body for r in receiver.requests[:2]]
            for request in (*elsewhere, *beside):
                signature = elements_signature("key", request.body)
                assert request.headers["elements-webhook-signature"] == signature
            assert not any("authorization" in r.headers or "x-own" in r.headers for r in elsewhere)
            assert all("authorization" in r.headers and "x-own" in r.headers for r in beside)

    run(main())


def test_to_another_instance(dsn: str, keys: Keys, run: Any) -> None:
    """A replay to another instance's callback goes to that URL, signed with that instance's key, the bodies unchanged."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            target = await create_instance(
                world.writer, token="target", url="https://app.test/target", key=True
            )
            await world.writer.append(Unit(instance_id=target, secrets={SIGNATURE_KEY: "theirs"}))
            instance, _ = await made(world, 4, key=True)
            await world.writer.append(Unit(instance_id=instance, secrets={SIGNATURE_KEY: "ours"}))
            await world.settled({"delivered": 4})
            await finished(world, await ask(world, instance, to_instance=target))
            first, second = receiver.requests[:4], receiver.requests[4:]
            assert {r.url for r in second} == {"https://app.test/target"}
            assert [(r.id, r.body) for r in second] == [(r.id, r.body) for r in first]
            for request in second:
                signature = elements_signature("theirs", request.body)
                assert request.headers["elements-webhook-signature"] == signature
        await same_after_rebuild(dsn)

    run(main())


def test_a_callback_created_later_gets_what_was_before(dsn: str, keys: Keys, run: Any) -> None:
    """What came while an instance had no callback is nobody's, until a replay brings it to the one that it has now."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 3, url=None)
            await world.writer.append(Unit([state("instance.configured", instance_id=instance)]))
            await more(world, instance, [3])
            await world.settled({"delivered": 1})
            await finished(world, await ask(world, instance))
            assert objects(receiver.accepted) == ["3", "0", "1", "2", "3"]
            assert {r.url for r in receiver.accepted} == {"https://app.test/hook"}
        await same_after_rebuild(dsn)

    run(main())


def test_past_a_disabled_callback(dsn: str, keys: Keys, run: Any) -> None:
    """While an instance's callback is disabled a replay delivers, and enabling it then goes on as if there had been none."""
    receiver = Receiver(lambda r: Answered(410) if r.url != AGAIN else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 3)
            await world.callback("disabled")
            await finished(world, await ask(world, instance, url=AGAIN))
            receiver.script = lambda r: GOOD
            await finished(world, await ask(world, instance))
            assert [r.url for r in receiver.accepted] == [AGAIN] * 3 + ["https://app.test/hook"] * 3
            await world.enable(instance)
            await world.settled({"delivered": 3}, instance)
        await same_after_rebuild(dsn)

    run(main())


def test_new_ids_stay_over_a_crash(dsn: str, keys: Keys, run: Any) -> None:
    """With new ids each notification has one id per replay, the same in header and body before and after a crash."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 5)
            await world.settled({"delivered": 5})
            receiver.open.clear()
            replay = await ask(world, instance, as_new=True)
            await world.until(lambda: len(receiver.requests) == 7)
            await world.crash()
        receiver.open.set()
        async with dispatching(dsn, keys, receiver) as world:
            await finished(world, replay)
            second = await ask(world, instance, as_new=True)
            await finished(world, second)
        old, cut, new, other = (
            {r.objects[0]: r for r in receiver.requests[a:b]}
            for a, b in ((0, 5), (5, 7), (7, 12), (12, 17))
        )
        assert all(cut[n].body == new[n].body and cut[n].id == new[n].id for n in cut)
        for ids in ({r.id for r in few.values()} for few in (old, new, other)):
            assert len(ids) == 5
        assert len({r.id for few in (old, new, other) for r in few.values()}) == 15
        assert all(r.id.encode() in r.body for r in new.values())
        assert {n for n, r in new.items() if r.repeat} >= set(cut)
        await same_after_rebuild(dsn)

    run(main())


def test_the_rate_is_kept(dsn: str, keys: Keys, run: Any) -> None:
    """A replay at ten a second sends one each tenth of a second, and live traffic goes at once all the while."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 12)
            await world.settled({"delivered": 12})
            replay = await ask(world, instance, url=AGAIN, rate=10)
            again = lambda: sum(r.url == AGAIN for r in receiver.requests)  # noqa: E731 — used thrice
            for n in range(1, 13):
                await world.until(lambda n=n: again() == n)
                await more(world, instance, [100 + n])
                await world.settled({"delivered": 12 + n}, instance)
                assert again() == n
                world.later(0.1)
            await finished(world, replay)

    run(main())


def test_no_faster_than_the_instance_wants(dsn: str, keys: Keys, run: Any) -> None:
    """An instance's own rate and concurrency hold for its replays, whatever they ask for."""
    receiver = Receiver()
    own = {"event.notification.rate": "5", "event.notification.concurrency": "1"}

    async def main() -> None:
        clock = Clock()
        async with dispatching(dsn, keys, receiver, clock=clock) as world:
            instance, _ = await made(world, 4, more=own)
            for n in range(1, 5):
                await world.until(lambda n=n: len(receiver.requests) == n)
                world.later(0.2)
            await world.settled({"delivered": 4})
            replay = await ask(world, instance)
            for n in range(5, 9):
                await world.until(lambda n=n: len(receiver.requests) == n)
                await world.dispatcher._load()
                assert len(receiver.requests) == n
                world.later(0.2)
            await finished(world, replay)
            assert receiver.most == 1

    run(main())


def test_live_traffic_passes_a_replay_that_hangs(dsn: str, keys: Keys, run: Any) -> None:
    """A replay whose receiver never answers has two requests out, and live notifications are delivered beside it."""
    receiver = Receiver()
    receiver.stuck.add(AGAIN)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, drain=0.1) as world:
            instance, _ = await made(world, 8)
            await world.settled({"delivered": 8})
            await ask(world, instance, url=AGAIN)
            await world.until(lambda: receiver.waiting == 2)
            await more(world, instance, range(20), version=1)
            await world.settled({"delivered": 28}, instance)
            assert receiver.waiting == 2

    run(main())


@pytest.mark.parametrize("accepted", [0, 1, 17, 39])
def test_a_crash_in_the_middle(dsn: str, keys: Keys, run: Any, accepted: int) -> None:
    """After a crash with some accepted and some under way, every selected one is accepted, and none twice unmarked."""
    receiver = Receiver()

    async def main() -> None:
        rules = Rules(window=16)
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            instance, _ = await made(world, 40)
            await more(world, instance, range(40), version="not of the replay")
            await world.settled({"delivered": 80})
            del receiver.requests[:], receiver.accepted[:]

            def script(request: Request) -> Answered:
                if len(receiver.accepted) + 1 >= accepted:
                    receiver.open.clear()
                return GOOD

            receiver.script = script
            if not accepted:
                receiver.open.clear()
            upto = (await world.rows())[39][0]
            replay = await ask(world, instance, until=upto)
            await world.until(lambda: not receiver.open.is_set() and receiver.waiting)
            await world.crash()
        receiver.script = lambda request: GOOD
        receiver.open.set()
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            await finished(world, replay)
            assert await world.states(replay) == {"delivered": 40}
        assert set(receiver.order) == {str(n) for n in range(40)}
        assert all(b'"version":0}' in r.body for r in receiver.requests)
        unmarked = Counter(r.id for r in receiver.requests if not r.repeat)
        assert max(unmarked.values()) == 1
        await same_after_rebuild(dsn)

    run(main())


def test_doubt_is_settled_as_the_receiving_instance_wants(dsn: str, keys: Keys, run: Any) -> None:
    """What a crash left in doubt is held where the instance that receives wants that, and not resent."""
    receiver = Receiver()
    hold = {"event.notification.redelivery": "hold"}

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            target = await create_instance(
                world.writer, token="target", url="https://app.test/target", more=hold
            )
            instance, _ = await made(world, 6)
            await world.settled({"delivered": 6})
            receiver.open.clear()
            replay = await ask(world, instance, to_instance=target)
            await world.until(lambda: receiver.waiting == 2)
            await world.crash()
        receiver.open.set()
        async with dispatching(dsn, keys, receiver) as world:
            await until_row(
                world.pool,
                "SELECT count(*) = 6 FROM deliveries WHERE callback_id = $1"
                " AND state IN ('held', 'delivered')",
                replay,
            )
            assert (await world.states(replay))["held"] >= 2
            assert not any(r.repeat for r in receiver.requests)
            assert max(Counter((r.url, r.id) for r in receiver.requests).values()) == 1

    run(main())


def test_a_receiver_that_fails(dsn: str, keys: Keys, run: Any) -> None:
    """A replay's failures are tried again by the schedule, its breaker opens, and the live callback hears nothing of it."""
    receiver = Receiver(lambda r: BAD if r.url == AGAIN else GOOD)

    async def main() -> None:
        rules = Rules(breaker=3, probe_first=10, probe_most=10)
        async with dispatching(
            dsn, keys, receiver, schedule="1m, 1m, 1m, 1m", rules=rules
        ) as world:
            instance, _ = await made(world, 10)
            await world.settled({"delivered": 10})
            replay = await ask(world, instance, url=AGAIN)
            tried = lambda: sum(r.url == AGAIN for r in receiver.requests)  # noqa: E731 — used often
            await world.until(lambda: tried() >= 3)
            await world.until(lambda: receiver.waiting == 0)
            assert tried() <= 4  # two at once, and the breaker
            before = tried()
            world.later(13)
            await world.until(lambda: tried() == before + 1)
            await more(world, instance, [99])
            await world.settled({"delivered": 11}, instance)
            receiver.script = lambda r: GOOD
            for _ in range(3):
                world.later(60)
            await finished(world, replay)
            assert await world.states(replay) == {"delivered": 10}
            assert not any(r.repeat for r in receiver.requests)
        await same_after_rebuild(dsn)

    run(main())


def test_what_the_schedule_gives_up_is_dead_and_the_replay_ends(
    dsn: str, keys: Keys, run: Any
) -> None:
    """A notification that the receiver never takes is dead after the schedule, and the replay finishes with it."""
    receiver = Receiver(lambda r: BAD if r.url == AGAIN and r.objects == ["1"] else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, schedule="1m") as world:
            instance, _ = await made(world, 3)
            await world.settled({"delivered": 3})
            replay = await ask(world, instance, url=AGAIN)
            await world.settled({"delivered": 2, "retrying": 1}, replay)
            world.later(60)
            await finished(world, replay)
            assert await world.states(replay) == {"delivered": 2, "dead": 1}
        await same_after_rebuild(dsn)

    run(main())


def test_in_doubt_without_a_crash(dsn: str, keys: Keys, run: Any) -> None:
    """A replay's request without an answer is sent again under the same id, marked."""
    answers = iter([Unanswered("cut")])
    receiver = Receiver(lambda r: next(answers, GOOD) if r.url == AGAIN else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, schedule="1m") as world:
            instance, _ = await made(world, 1)
            await world.settled({"delivered": 1})
            replay = await ask(world, instance, url=AGAIN)
            await world.settled({"retrying": 1}, replay)
            world.later(60)
            await finished(world, replay)
            _, first, second = receiver.requests
            assert (first.id, first.body) == (second.id, second.body)
            assert (False, True) == (first.repeat, second.repeat)

    run(main())


def test_cancelled_and_resumed(dsn: str, keys: Keys, run: Any) -> None:
    """A replay that is disabled sends nothing more, also after a restart; enabled, it goes on where it was, each once."""
    receiver = Receiver()

    async def main() -> None:
        def switch(kind: str) -> Unit:
            reason = "cancelled by ann" if kind == "callback.disabled" else None
            return Unit([deliveries.callback_entry(kind, replay, instance, reason)])

        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 6)
            await world.settled({"delivered": 6})
            receiver.open.clear()
            replay = await ask(world, instance, url=AGAIN)
            await world.until(lambda: receiver.waiting == 2)
            await world.writer.append(switch("callback.disabled"))
            lane = world.dispatcher._lanes.get(replay)
            assert lane is not None
            await world.until(lambda: lane.paused)
            receiver.open.set()
            await world.settled({"delivered": 2}, replay)
        async with dispatching(dsn, keys, receiver) as world:
            await more(world, instance, [50])
            await world.settled({"delivered": 7}, instance)
            assert await world.callback("disabled") == "cancelled by ann"
            assert await world.states(replay) == {"delivered": 2}
            await world.writer.append(switch("callback.enabled"))
            await finished(world, replay)
            sent = Counter(r.id for r in receiver.requests if r.url == AGAIN)
            assert sorted(sent.values()) == [1] * 6
        await same_after_rebuild(dsn)

    run(main())


def test_up_to_the_last_position_that_is_there(dsn: str, keys: Keys, run: Any) -> None:
    """A replay up to the head, asked for in the commit of the last change, has that change and none that came later."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, at = await made(world, 3)
            await world.settled({"delivered": 3})
            renamed = state("instance.configured", instance_id=instance, name="Renamed")
            asked = replays.requested(
                instance,
                Selection(at[-1], 2**60),  # whatever it says, what comes after it is not in it
                Terms(url=AGAIN, rate=FAST),
                notifications=1,
                by="ann",
            )
            intake = Intake(instance, (change(7),), raw="{}")
            _, _, request, _ = await asyncio.gather(
                world.writer.append(Unit([renamed])),
                world.writer.append(Unit(intakes=[intake])),
                world.writer.append(Unit([asked])),
                world.writer.append(poll(instance, change(8))),
            )
            world.dispatcher.look_again()
            await finished(world, request.position)
            await world.settled({"delivered": 5}, instance)
            again = [r for r in receiver.requests if r.url == AGAIN]
            assert objects(again) == ["7"]
            assert again[0].body == next(
                r.body for r in receiver.requests if r.url != AGAIN and r.objects == ["7"]
            )
            assert b"Renamed" in again[0].body

    run(main())


def test_two_thousand_through_a_small_window(dsn: str, keys: Keys, run: Any) -> None:
    """Two thousand notifications about fifty objects go through a window of eight, each once, in order for each object."""
    receiver = Receiver()

    async def main() -> None:
        rules = Rules(window=8)
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            instance = await create_instance(world.writer, url=None)
            units = [poll(instance, change(n % 50, n)) for n in range(2000)]
            await asyncio.gather(*map(world.writer.append, units))
            replay = await ask(world, instance, url=AGAIN)
            loop = asyncio.get_running_loop()
            end = loop.time() + 20
            while len(receiver.accepted) < 2000:
                world.check()
                assert loop.time() < end, len(receiver.accepted)
                await asyncio.sleep(0.02)
            await finished(world, replay)
            assert len(receiver.requests) == len({r.id for r in receiver.requests}) == 2000
            assert await world.states(replay) == {"delivered": 2000}
            for n in range(50):
                mine = [r.body for r in receiver.accepted if r.objects == [str(n)]]
                wanted = [f'"version":{n + 50 * k}}}'.encode() for k in range(40)]
                assert all(w in body for w, body in zip(wanted, mine, strict=True))
        await same_after_rebuild(dsn)

    run(main(), limit=50)


def test_how_replays_are(dsn: str, keys: Keys, run: Any) -> None:
    """`replays.states` counts what each replay's notifications came to, and leaves out those that ended when asked to."""
    receiver = Receiver(lambda r: BAD if r.url == AGAIN else GOOD)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 2)
            await world.settled({"delivered": 2})
            first = await ask(world, instance)
            await finished(world, first)
            second = await ask(world, instance, url=AGAIN)
            await world.settled({"retrying": 2}, second)
            found = {row["id"]: row for row in await replays.states(world.pool)}
            assert [("finished", 2, 0), ("active", 0, 2)] == [
                (found[n]["state"], found[n]["delivered"], found[n]["open"])
                for n in (first, second)
            ]
            assert [second] == [r["id"] for r in await replays.states(world.pool, ended=False)]
            assert [first] == [r["id"] for r in await replays.states(world.pool, [first])]
            assert 2 == found[second]["replay"]["notifications"]

    run(main())


def test_progress_of_a_replay_that_ended_changes_nothing(dsn: str, keys: Keys, run: Any) -> None:
    """What is written about a finished replay's progress does not begin it again."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance, _ = await made(world, 1)
            await world.settled({"delivered": 1})
            replay = await ask(world, instance)
            await finished(world, replay)
            late = Progress(replay, 2**40, 2**40, finished=False, failing=None)
            outcome: list[Outcome] = []
            await world.writer.append(Unit([deliveries.entry([late], outcome)]))
            (row,) = await replays.states(world.pool, [replay])
            assert ("finished", True) == (row["state"], row["cursor"] < 2**40)

    run(main())
