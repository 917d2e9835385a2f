"""What may have been accepted: how few those are, and that whoever was asked about them is obeyed."""

import asyncio
import itertools
from typing import Any

import pytest
from dispatching import Answered, Clock, Receiver, dispatching
from heart import change, connected, create_instance, poll, state

from daemon.dispatcher.items import Rules
from daemon.errors import Unanswered
from daemon.receipts import CONTENT_TYPE
from daemon.store.vault import Keys
from daemon.store.writer import Unit, Writer

RECEIPTS = {"event.notification.receipts": "true"}


async def polls(w: Writer, instance: int, numbers: Any) -> None:
    """One notification for each number, about the object of that number."""
    await asyncio.gather(*(w.append(poll(instance, change(n))) for n in numbers))


def is_question(request: Any) -> bool:
    """Whether it asks for receipts."""
    return bool(request.headers["content-type"] == CONTENT_TYPE)


class Silent:
    """A receiver that takes notifications without an answer, and answers questions when it is told to."""

    def __init__(self) -> None:
        self.answers = False
        self.asked = 0

    def __call__(self, request: Any) -> Any:
        """One request."""
        if not is_question(request):
            return Unanswered("closed")
        self.asked += 1
        if not self.answers:
            return Answered(500)
        ids = request.body.decode().split('"ids":')[1].split("]")[0] + "]"
        body = f'{{"received": {ids}, "unknown": []}}'.encode()
        return Answered(200, {"content-type": CONTENT_TYPE}, body)


def test_few_are_in_doubt_after_a_crash(dsn: str, keys: Keys, run: Any) -> None:
    """Of hundreds that wait behind a receiver that hangs, a crash leaves in doubt hardly more than were sent."""
    receiver = Receiver()
    rules = Rules(window=256, concurrency=8)

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            instance = await create_instance(world.writer)
            receiver.open.clear()
            await polls(world.writer, instance, range(200))
            await world.until(lambda: receiver.waiting == 8)
            async with connected(dsn) as conn:
                query = (
                    "SELECT count(*) FROM callbacks, log WHERE kind = 'change' AND position > cursor"
                    " AND position <= reserved"
                )
                loop = asyncio.get_running_loop()
                end = loop.time() + 5
                while (left := await conn.fetchval(query)) > 32:
                    assert loop.time() < end, f"{left} are reserved"
                    await asyncio.sleep(0.02)
            await world.crash()
        receiver.open.set()
        sent = len(receiver.requests)
        async with dispatching(dsn, keys, receiver, rules=rules) as world:
            await world.settled({"delivered": 200})
            doubtful = sum(row[3] for row in await world.rows())
            assert sent <= doubtful <= 32
            assert doubtful == sum(request.repeat for request in receiver.requests)

    run(main())


def test_few_statements_under_load(dsn: str, keys: Keys, run: Any) -> None:
    """Two thousand notifications of a callback that works cost far less than a statement each."""
    receiver = Receiver()

    async def main() -> None:
        async with dispatching(dsn, keys, receiver) as world:
            instance = await create_instance(world.writer)
            await world.enable(instance)
            receiver.open.clear()
            await polls(world.writer, instance, range(2000))
            async with connected(dsn) as conn:
                before = await conn.fetchval("SELECT count(*) FROM log WHERE kind = 'delivery'")
                receiver.open.set()
                await world.settled({"delivered": 2000})
                after = await conn.fetchval("SELECT count(*) FROM log WHERE kind = 'delivery'")
            assert after - before <= 60

    run(main())


def test_questions_that_nobody_answers_become_rare(dsn: str, keys: Keys, run: Any) -> None:
    """While a receiver answers no question there is one at a time, after 5, 10, 20, … s; when it does, all are put."""
    silent = Silent()
    receiver = Receiver(silent)
    clock = Clock()

    async def main() -> None:
        rules = Rules(breaker=1000)
        async with dispatching(dsn, keys, receiver, clock=clock, rules=rules) as world:
            instance = await create_instance(world.writer, more=RECEIPTS)
            await polls(world.writer, instance, range(250))
            await world.settled({"in_doubt": 250})
            moments: list[float] = []
            for _ in range(400):
                world.later(5)
                asked = silent.asked
                for _ in range(5):
                    await asyncio.sleep(0.002)
                if silent.asked > asked:
                    moments.append(clock.now)
            # Some may have left together before the first was known to have no answer.
            pauses = [b - a for a, b in itertools.pairwise(moments)][3:]
            assert pauses == sorted(pauses)
            assert 500 < pauses[-1] <= 900 + 5
            assert len(moments) <= 12, "2000 s, and it was not asked more often"
            silent.answers = True
            world.later(900)
            await world.settled({"delivered": 250})
            assert not any(request.repeat for request in receiver.requests)

    run(main())


@pytest.mark.parametrize("policy", ["hold", "resend"])
def test_when_receipts_are_switched_off(dsn: str, keys: Keys, run: Any, policy: str) -> None:
    """What is in doubt when nobody is to be asked any more is held or sent again, as the instance wants."""
    receiver = Receiver(lambda request: Unanswered("closed"))
    clock = Clock()
    wanted = {"event.notification.redelivery": policy}

    async def main() -> None:
        async with dispatching(dsn, keys, receiver, clock=clock) as world:
            instance = await create_instance(world.writer, more={**wanted, **RECEIPTS})
            await polls(world.writer, instance, range(3))
            await world.settled({"in_doubt": 3})
            off = state("instance.configured", instance_id=instance, more=wanted)
            await world.writer.append(Unit([off]))
            await world.until(
                lambda: (
                    (now := world.directory.get(instance))
                    and "event.notification.receipts" not in now.configuration
                )
            )
            receiver.script = lambda request: Answered()
            world.later(60)
            if policy == "hold":
                await world.settled({"held": 3})
                assert len(receiver.requests) == 3
            else:
                await world.settled({"delivered": 3})
                assert [request.repeat for request in receiver.requests] == [False] * 3 + [True] * 3
            assert not any(map(is_question, receiver.requests))

    run(main())
