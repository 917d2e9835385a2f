"""Places for connections: whoever waits is served, and nothing is left behind by those who wait no more."""

import asyncio
import ssl
from ipaddress import ip_network

import pytest
from outbound.hostile import OK, Peer, hostile, polite

from daemon.errors import NotSent
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.sender import Limits, Sender

TLS = ssl.create_default_context()
LOCAL = (ip_network("127.0.0.0/8"),)


def sender(policy=None, **limits):
    return Sender(
        policy=policy or AddressPolicy(allow=LOCAL), ssl_context=TLS, limits=Limits(**limits)
    )


class Gate:
    """A behaviour that answers its first request only when it is told to."""

    def __init__(self):
        self.asked = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        self.asked.set()
        await self.open.wait()
        await peer.send(OK)
        await polite(peer)


async def turns_until(condition):
    """Let the loop turn until *condition* holds: the pool has no event for "somebody waits"."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - as the docstring says
            await asyncio.sleep(0)


def test_a_connection_given_back_makes_room_for_another_origin(run):
    """When all places are taken, the next connection that becomes free is closed for who waits elsewhere."""

    async def main():
        gate = Gate()
        async with (
            hostile(gate) as one,
            hostile() as two,
            sender(connections=1, connect=1) as client,
        ):
            first = asyncio.create_task(client.post(one.url, body=b"1"))
            await gate.asked.wait()
            second = asyncio.create_task(client.post(two.url, body=b"2"))
            await turns_until(lambda: client._pool._short)
            gate.open.set()
            assert [200, 200] == [(await first).status, (await second).status]
            assert 1 == client.connections

    run(main())


def test_who_waits_no_more_leaves_nothing_behind(run):
    """A cancelled wait neither closes connections of others nor is remembered."""

    async def main():
        gate = Gate()
        async with hostile(gate) as one, hostile() as two, sender(connections=1) as client:
            first = asyncio.create_task(client.post(one.url, body=b"1"))
            await gate.asked.wait()
            second = asyncio.create_task(client.post(two.url, body=b"2"))
            await turns_until(lambda: client._pool._short)
            second.cancel()
            await asyncio.wait((second,))
            gate.open.set()
            await first
            await client.post(one.url, body=b"3")
            assert (1, 0) == (one.connections, two.connections)
            assert [one.url.removesuffix("/hook")] == list(client._pool._origins)

    run(main())


def test_those_who_wait_are_served_in_order(run):
    """Requests to one origin get their places first come, first served, past those that were cancelled."""

    async def main():
        gate = Gate()
        async with hostile(gate) as server, sender(per_origin=1) as client:
            tasks = []
            for n in range(8):
                tasks.append(asyncio.create_task(client.post(server.url, body=b"%d" % n)))
                if n == 0:
                    await gate.asked.wait()
            at = client._pool._origins[server.url.removesuffix("/hook")]
            await turns_until(lambda: len(at.waiting) == 7)
            for n in (1, 4, 7):
                tasks[n].cancel()
            gate.open.set()
            await asyncio.wait(tasks)
            assert [b"0", b"2", b"3", b"5", b"6"] == [request[-1:] for request in server.requests]
            assert 1 == server.connections

    run(main())


def test_leaving_waits_for_what_is_in_flight(run):
    """A request in flight when the context is left still gets its answer, and then its connection is closed."""

    async def main():
        gate = Gate()
        async with hostile(gate) as server:
            client = sender()
            async with client:
                task = asyncio.create_task(client.post(server.url, body=b"1"))
                await gate.asked.wait()
                asyncio.get_running_loop().call_soon(gate.open.set)
            assert task.done()
            assert 200 == task.result().status
            assert 0 == client.connections

    run(main())


def test_who_waited_while_the_name_moved_does_not_get_the_old_address(run):
    """A connection given back to one who waits is used only if it goes to an address that is right now."""

    async def main():
        now = 0.0
        answers = [["127.0.0.1"], ["127.0.0.2"]]

        async def lookup(host, port):
            return answers.pop(0)

        gate = Gate()
        policy = AddressPolicy(allow=LOCAL, lookup=lookup, clock=lambda: now)
        async with hostile(gate) as server, sender(policy, per_origin=1) as client:
            url = f"http://a.example:{server.port}/"
            first = asyncio.create_task(client.post(url, body=b"1"))
            await gate.asked.wait()
            now = 60.0
            second = asyncio.create_task(client.post(url, body=b"2"))
            await turns_until(lambda: any(at.waiting for at in client._pool._origins.values()))
            gate.open.set()
            assert 200 == (await first).status
            with pytest.raises(NotSent, match=r"127\.0\.0\.2"):
                await second
            assert 1 == len(server.requests)

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_it_works_on_the_loop_of_the_standard_library(debug):
    """Nothing in the sender needs uvloop: connections are kept, replaced and bounded there too."""

    async def main():
        async with hostile() as server, sender(per_origin=3) as client:
            answers = await asyncio.gather(
                *(client.post(server.url, body=b"x" * 300_000) for _ in range(12))
            )
            assert {200} == {answer.status for answer in answers}
            assert (3, 12) == (server.connections, len(server.requests))

    asyncio.run(main(), debug=debug)
