"""The laws together: the whole heart under fire, and what must be true when the smoke has gone.

Each law has its own tests beside the module that keeps it:

    1 acknowledged after commit    store/test_writer.py
    2 positions in order           store/test_log.py
    3 append-only                  store/test_log.py
    4 projections                  store/test_projections.py
    5 one change, one entry        store/test_changes.py
    6 once per callback            dispatcher/test_lane.py, dispatcher/test_dispatcher.py
    7 order per object             dispatcher/test_lane.py, dispatcher/test_dispatcher.py
    8 the same bytes for ever      test_notifications.py
"""

import asyncio
import random
from typing import Any

import orjson
import pytest
from dispatching import Answered, Clock, Receiver, World, dispatching
from heart import change, connected, create_instance, dumped, hook, state
from proxy import Proxy

from daemon.dispatcher.items import Rules
from daemon.errors import Outage, Unanswered
from daemon.store import projections
from daemon.store.vault import Keys
from daemon.store.writer import Unit

INSTANCES, EVENTS = 3, 90

RULES = Rules(window=8, parked=200, concurrency=3, breaker=10_000, ahead=30)


class Fire:
    """A provider that sends until it hears 2xx, a receiver that fails, connections that break: one dice for all."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 — a test's dice
        self.receiver = Receiver(self.answer)
        self.clock = Clock()
        self.left = [(n % INSTANCES, n) for n in range(EVENTS)]
        self.ids: list[int] = []

    def answer(self, request: object) -> Answered | Exception:
        """Mostly fine."""
        roll = self.dice.random()
        if roll < 0.1:
            return Answered(500)
        return Unanswered("no answer came") if roll < 0.15 else Answered()

    async def provide(self, world: World, proxy: Proxy, number: int) -> None:
        """Send so many events, in order for each instance, each until it is acknowledged; some arrive twice."""
        for which, n in self.left[:number]:
            roll = self.dice.random()
            if roll < 0.08:
                self.dice.choice([proxy.lose_commit, proxy.lose_answer, proxy.race_commit])()
            elif roll < 0.1:
                proxy.cut()
            while True:
                unit = hook(self.ids[which], change(n % 5, n), raw=f'{{"n": {n}}}')
                again = [world.writer.append(unit) for _ in range(1 + (roll > 0.8))]
                heard = await asyncio.gather(*again, return_exceptions=True)
                if not any(isinstance(h, Outage) for h in heard):
                    break
                await asyncio.sleep(0.002)
            if roll > 0.95:
                url = f"https://app.test/{which}"
                entry = state(
                    "instance.configured",
                    instance_id=self.ids[which],
                    name=f"{n}",
                    token=f"{which}",
                    url=url,
                )
                await world.writer.append(Unit([entry]), patient=True)
            world.later(1)
        del self.left[:number]


@pytest.mark.parametrize("seed", range(3))
def test_the_heart_under_fire(dsn: str, keys: Keys, run: Any, seed: int) -> None:
    """Connections cut at any point, lost COMMITs, repeats, failures, crashes: every law holds for every event."""
    fire = Fire(seed)

    async def main() -> None:
        async with Proxy(dsn) as proxy:
            for round_ in range(3):
                async with dispatching(
                    proxy.dsn,
                    keys,
                    fire.receiver,
                    clock=fire.clock,
                    schedule=", ".join(["1s"] * 90),
                    rules=RULES,
                ) as world:
                    for n in range(len(fire.ids), INSTANCES):
                        url = f"https://app.test/{n}"
                        fire.ids.append(await create_instance(world.writer, token=f"{n}", url=url))
                    await fire.provide(world, proxy, EVENTS // 3)
                    if round_ < 2:
                        await world.crash()
                    else:
                        await settle(world, fire)
        await judge(dsn, fire)

    run(main(), limit=60)


async def settle(world: World, fire: Fire) -> None:
    """Wait until everything is delivered."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 25
    while (states := await world.states()) != {"delivered": EVENTS}:
        world.check()
        world.later(1)
        assert loop.time() < end, states
        await asyncio.sleep(0.02)


async def judge(dsn: str, fire: Fire) -> None:
    """The laws, one by one."""
    async with connected(dsn, role=None) as conn:
        rows = await conn.fetch(
            "SELECT position, instance_id, object_id, (data->>'n')::int AS n FROM log"
            " WHERE kind = 'change' ORDER BY position"
        )
        # One change, one entry; nothing that was acknowledged is missing.
        assert sorted(row["n"] for row in rows) == list(range(EVENTS))
        positions = {row["position"]: row for row in rows}
        bodies: dict[str, bytes] = {}
        accepted: dict[str, int] = {}
        seen: dict[tuple[int, str], int] = {}
        for request in fire.receiver.requests:
            # The same bytes for ever, whatever the instance is called by now.
            assert bodies.setdefault(request.id, request.body) == request.body
        for request in fire.receiver.accepted:
            # Never a second acceptance without the mark.
            assert request.repeat or request.id not in accepted
            position = accepted[request.id] = int(orjson.loads(request.body)["id"])
            row = positions[position]
            key = (row["instance_id"], row["object_id"])
            # In order per object; only what may be a repeat looks back.
            assert request.repeat or seen.get(key, 0) < position
            seen[key] = max(seen.get(key, 0), position)
        assert set(accepted.values()) == set(positions)
        # Every table but two is a projection.
        live = await dumped(conn)
        async with conn.transaction():
            async for _ in projections.rebuild(conn, chunk=37):
                pass
        assert await dumped(conn) == live
