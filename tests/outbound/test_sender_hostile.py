"""The sender against a receiver that misbehaves: what was sent is known, and nothing is waited for without end."""

import asyncio
import socket
import ssl
import struct
import time
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv4Address, ip_network

import pytest
import uvloop
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from outbound.hostile import OK, Peer, hostile, polite

from daemon.errors import Invalid, NotSent, Unanswered
from daemon.outbound.addresses import Address, AddressPolicy
from daemon.outbound.connection import Connection, Outbox
from daemon.outbound.sender import Limits, Sender

LOCAL = AddressPolicy(allow=[ip_network("127.0.0.0/8")])
TLS = ssl.create_default_context()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def sender(**limits):
    policy = limits.pop("policy", AddressPolicy(allow=[ip_network("127.0.0.0/8")]))
    return Sender(policy=policy, ssl_context=TLS, limits=Limits(**limits))


def says(*parts, then=polite):
    """A behaviour: answer the first request with *parts*, a segment each, then go on as *then*."""

    async def behave(peer: Peer) -> None:
        await peer.answer(*parts)
        await then(peer)

    return behave


async def hangs(peer: Peer) -> None:
    await peer.gone()


async def closes(peer: Peer) -> None:
    peer.close()


async def half_closes(peer: Peer) -> None:
    peer.half_close()
    await peer.gone()


async def resets(peer: Peer) -> None:
    peer.reset()


# What is an answer


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        ([OK], 200, b"ok"),
        ([bytes([byte]) for byte in OK], 200, b"ok"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK], 200, b"ok"),
        (
            [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", b"HTTP/1.1 102 P\r\n\r\n", OK],
            200,
            b"ok",
        ),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"], 304, b""),
        ([b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"], 302, b""),
        ([b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n"], 599, b""),
        ([b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"], 200, b""),
        (
            [
                b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade, keep-alive\r\nContent-Length: 1\r\n\r\nx"
            ],
            200,
            b"x",
        ),
        (
            [CHUNKED + b"2\r\nab\r\n", b"3;x=y\r\ncde\r\n0\r\n", b"Digest: z\r\nX: y\r\n\r\n"],
            200,
            b"abcde",
        ),
    ],
)
def test_a_whole_answer_keeps_the_connection(run, parts, status, body):
    """However an answer is cut into segments and framed, it is read, and the connection serves again."""

    async def main():
        async with hostile(says(*parts)) as server, sender() as client:
            answer = await client.post(server.url, body=b"1")
            assert (status, body, False) == (answer.status, answer.body, answer.truncated)
            assert not {"link", "digest", "x"} & set(
                answer.headers
            )  # hints and trailers are not of it
            assert 200 == (await client.post(server.url, body=b"2")).status
            assert (1, 2) == (server.connections, len(server.requests))

    run(main())


@pytest.mark.parametrize(
    ("parts", "then", "expected"),
    [
        (
            [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"],
            hangs,
            (200, b"ok", False),
        ),
        (
            [b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok"],
            hangs,
            (200, b"ok", False),
        ),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"], hangs, (200, b"ok", False)),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"to the ", b"end"], closes, (200, b"to the end", False)),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"to the end"], half_closes, (200, b"to the end", False)),
        ([b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nhalf"], closes, (503, b"half", True)),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], half_closes, (200, b"", True)),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", b"zz"],
            closes,
            (200, b"zz", False),
        ),
        ([CHUNKED + b"4\r\nhalf\r\n"], closes, (200, b"half", True)),
        ([CHUNKED + b"4\r\nhalf\r\nzzz\r\n"], hangs, (200, b"half", True)),
        ([OK + OK], hangs, (200, b"ok", False)),
        ([OK + b"junk"], hangs, (200, b"ok", False)),
        ([OK + b"HTTP/1.1 2"], hangs, (200, b"ok", False)),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n??"],
            hangs,
            (101, b"", False),
        ),
        ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], hangs, (101, b"", False)),
    ],
)
def test_an_answer_that_ends_the_connection(run, parts, then, expected):
    """A complete head is an answer, whatever becomes of its body; the next request gets a new connection."""

    async def main():
        async with hostile(says(*parts, then=then)) as server, sender() as client:
            answer = await client.post(server.url, body=b"1")
            assert expected == (answer.status, answer.body, answer.truncated)
            assert 200 == (await client.post(server.url, body=b"2")).status
            assert (2, 2) == (server.connections, len(server.requests))

    run(main())


@pytest.mark.parametrize(
    "parts",
    [
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [b"<html>"],
        [b"HTTP/1.1 20 OK\r\n\r\n"],
        [b"HTTP/9.9 200 OK\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5000],
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * 300,
        [b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000],
        [b"\x15\x03\x01\x00\x02\x02\x16"],
    ],
)
def test_what_is_not_an_answer_leaves_the_request_in_doubt(run, parts):
    """Junk, contradictory framing and heads without end are no answer, and the connection is closed."""

    async def main():
        async with hostile(says(*parts, then=hangs)) as server, sender(head_bytes=4096) as client:
            with pytest.raises(Unanswered):
                await client.post(server.url, body=b"1")
            await server.until(lambda: server.live == 0)
            assert 1 == len(server.requests)

    run(main())


@pytest.mark.parametrize("then", [closes, half_closes, resets])
@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 C\r\n\r\n"])
def test_a_connection_that_ends_before_the_head_leaves_doubt(run, part, then):
    """Closed, half-closed or reset after the request: it may have been acted on, and is not repeated."""

    async def main():
        async with hostile(says(part, then=then)) as server, sender() as client:
            with pytest.raises(Unanswered, match=f"http://127.0.0.1:{server.port}: the connection"):
                await client.post(server.url, body=b"1")
            assert (1, 1) == (server.connections, len(server.requests))

    run(main())


# Limits


def timed(run, behaviour, *, least=0.04, most=1.0, **limits):
    """Run one request; return its outcome after asserting that it took about as long as the limit."""

    async def main():
        async with hostile(behaviour) as server, sender(**limits) as client:
            began = time.monotonic()
            try:
                outcome = await client.post(server.url, body=b"1")
            except (NotSent, Unanswered) as error:
                outcome = error
            assert least <= time.monotonic() - began <= most
            await server.until(lambda: server.live == 0)
            return outcome

    return run(main())


async def drips_head(peer: Peer) -> None:
    await peer.request()
    async with asyncio.TaskGroup() as group:
        dripping = group.create_task(drip(peer, b"HTTP/1.1 200 OK\r\nX: ", b"y"))
        await peer.gone()
        dripping.cancel()


async def drips_body(peer: Peer) -> None:
    await peer.request()
    async with asyncio.TaskGroup() as group:
        dripping = group.create_task(drip(peer, CHUNKED, b"1\r\ny\r\n"))
        await peer.gone()
        dripping.cancel()


async def drip(peer: Peer, first: bytes, rest: bytes) -> None:
    await peer.send(first)
    while True:
        await asyncio.sleep(0.005)
        try:
            await peer.send(rest)
        except ConnectionError:
            return


@pytest.mark.parametrize("behaviour", [hangs, drips_head])
@pytest.mark.parametrize("limit", ["head", "total"])
def test_the_head_has_a_limit(run, behaviour, limit):
    """Silence and a head that drips end at the limit of the head, or of the whole, in doubt."""
    outcome = timed(run, behaviour, **{limit: 0.05})

    assert isinstance(outcome, Unanswered)
    assert "in time" in str(outcome)


@pytest.mark.parametrize("limit", ["body", "total"])
@pytest.mark.parametrize(
    "behaviour", [drips_body, says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ny", then=hangs)]
)
def test_the_body_has_a_limit(run, behaviour, limit):
    """A body that drips or stops is given up at its limit; the head was complete, so it is an answer."""
    outcome = timed(run, behaviour, **{limit: 0.05})

    assert (200, True, b"y") == (outcome.status, outcome.truncated, outcome.body[:1])


def test_a_body_without_end_is_cut(run):
    """More than the limit of bytes ends the connection and not the daemon's memory; the answer counts."""

    async def floods(peer: Peer) -> None:
        await peer.request()
        try:
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                await peer.send(b"x" * 65536)
        except ConnectionError:
            pass

    outcome = timed(run, floods, least=0, body_bytes=100_000, body_kept=10)

    assert (200, b"x" * 10, True) == (outcome.status, outcome.body, outcome.truncated)


def test_a_long_body_is_kept_in_part_and_read_whole(run):
    """Between what is kept and what is too much, a body is read to its end and the connection goes on."""

    async def main():
        long = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000
        async with hostile(says(long)) as server, sender() as client:
            answer = await client.post(server.url, body=b"1")
            assert (b"x" * 4096, True) == (answer.body, answer.truncated)
            assert 200 == (await client.post(server.url, body=b"2")).status
            assert 1 == server.connections

    run(main())


def test_a_receiver_that_does_not_read_is_bounded(run):
    """A body that cannot be written ends at the limit of the head, in doubt: part of it has left."""

    async def main():
        async def stares(peer: Peer) -> None:
            await asyncio.Event().wait()

        async with hostile(stares, buffer=4096) as server, sender(head=0.05) as client:
            with pytest.raises(Unanswered, match="in time"):
                await client.post(server.url, body=b"x" * 8_000_000)

    run(main())


# Early answers


@pytest.mark.parametrize("end", [closes, half_closes, hangs])
def test_an_early_answer_counts(run, end):
    """An answer that comes before the body was read is an answer, even when the rest cannot be written."""

    async def main():
        async def hurries(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            await end(peer)

        async with hostile(hurries, buffer=4096) as server, sender() as client:
            answer = await client.post(server.url, body=b"x" * 8_000_000)
            assert (413, b"big") == (answer.status, answer.body)
            assert 200 == (await client.post(server.url, body=b"2")).status
            assert 2 == server.connections

    run(main())


def test_an_answer_behind_a_failed_write_is_found(run):
    """When writing fails before the answer in the kernel was read, the answer is read all the same."""

    async def main():
        async with direct() as (connection, peer):
            connection._transport.pause_reading()  # so that the failed write is what the loop sees first
            message = b"POST / HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000
            awaiting = connection.exchange(message, total=asyncio.get_running_loop().time() + 5)
            connection.write()
            peer.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
            peer.close()  # with bytes unread: a reset
            assert await awaiting
            assert 401 == connection.answer().status

    run(main())


@asynccontextmanager
async def direct():
    """A connection of the sender's, without a pool, and the socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sock = socket.create_connection(listening.getsockname())
        peer, _ = listening.accept()
    sock.settimeout(0)
    lost = asyncio.Event()
    connection = Connection(
        origin="here",
        address=Address(IPv4Address("127.0.0.1"), 80),
        sock=sock,
        tls=False,
        limits=Limits(),
        outbox=Outbox(),
        lost=lambda _: lost.set(),
    )
    with peer:
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=sock)
        yield connection, peer
        connection.abort()
        await lost.wait()


# Connections that are dead before a byte is written


@pytest.mark.parametrize("end", [closes, half_closes, resets])
def test_a_kept_connection_found_closed_is_replaced_silently(run, end):
    """Closed behind the answer without a word: the next request goes on a new connection, and once."""

    async def main():
        async with hostile(says(OK, then=end), says(OK, then=end)) as server, sender() as client:
            for n in range(3):
                assert 200 == (await client.post(server.url, body=b"%d" % n)).status
                if end is not half_closes:
                    await server.until(lambda: server.live == 0 or server.connections == 3)
            assert [b"0", b"1", b"2"] == [request[-1:] for request in server.requests]

    run(main())


@pytest.mark.parametrize("unasked", [b"", OK])
def test_the_kernel_is_asked_before_writing(run, unasked):
    """What the loop has not seen yet, the end of the connection or unasked bytes, keeps a request from leaving."""

    async def main():
        async with direct() as (connection, peer):
            awaiting = connection.exchange(b"POST", total=asyncio.get_running_loop().time() + 5)
            if unasked:
                peer.send(unasked)
            else:
                peer.shutdown(socket.SHUT_WR)
            connection.write()  # at once, where the outbox would after a turn of the loop
            assert not await awaiting
            connection.abort()
            peer.settimeout(0)
            try:
                arrived = await asyncio.get_running_loop().sock_recv(peer, 100)
            except ConnectionResetError:  # what it said was not read
                arrived = b""
            assert b"" == arrived

    run(main())


def test_a_reset_before_writing_was_not_sent(run):
    """A connection that the other side has reset takes no byte, and says so."""

    async def main():
        async with direct() as (connection, peer):
            awaiting = connection.exchange(b"POST", total=asyncio.get_running_loop().time() + 5)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            connection.write()
            assert not await awaiting

    run(main())


def test_what_a_server_says_unasked_is_no_answer(run):
    """Bytes on an idle connection are never taken for the answer to the next request."""

    async def main():
        async def speaks(peer: Peer) -> None:
            await peer.answer(OK)
            await peer.send(b"HTTP/1.1 500 Forged\r\nContent-Length: 0\r\n\r\n")
            await peer.gone()

        async with hostile(speaks) as server, sender() as client:
            await client.post(server.url, body=b"1")
            await server.until(lambda: server.live == 0)
            assert 200 == (await client.post(server.url, body=b"2")).status

    run(main())


def test_a_connection_that_answers_before_it_is_asked_was_not_sent(run):
    """Who speaks first gets nothing: the error says that not a byte has left, and it is true."""

    async def main():
        async def speaks_first(peer: Peer) -> None:
            await peer.send(OK)
            await peer.gone()

        async with hostile(*[speaks_first] * 20) as server, sender() as client:
            for _ in range(20):
                try:
                    await client.post(server.url, body=b"1")
                except NotSent:
                    continue
                except Unanswered:
                    pytest.fail("an answer came, so this is not one without")
            assert server.connections == 20

    run(main())


def test_nobody_listens(run):
    """A refused connection is not sent, and names the origin and the address but not the path."""

    async def main():
        async with hostile() as server:
            url = server.url
        async with sender() as client:
            with pytest.raises(NotSent, match=r"127\.0\.0\.1.*refused") as caught:
                await client.post(url + "?token=secret", body=b"1")
            assert "secret" not in str(caught.value)
            assert 0 == client.connections

    run(main())


def test_connecting_has_a_limit(run):
    """A host that lets connections wait is given up after the time for connecting."""

    async def main():
        with ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            for _ in range(3):  # the backlog is full: the kernel drops what comes
                filler = stack.enter_context(socket.socket())
                filler.settimeout(0)
                filler.connect_ex(address)
            async with sender(connect=0.05) as client:
                with pytest.raises(NotSent, match=r"no connection within 0\.0"):
                    await client.post(f"http://127.0.0.1:{address[1]}/", body=b"1")
                assert 0 == client.connections

    run(main())


# Cancelling


def test_cancelling_closes_the_connection(run):
    """A request that is cancelled while it waits ends its connection, and leaves nothing behind."""

    async def main():
        asked = asyncio.Event()

        async def takes(peer: Peer) -> None:
            await peer.request()
            asked.set()
            await peer.gone()

        async with hostile(takes) as server, sender() as client:
            task = asyncio.create_task(client.post(server.url, body=b"1"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda: server.live == 0)
            assert (0, {}) == (client.connections, client._pool._origins)

    run(main())


def test_cancelling_at_any_turn_leaks_nothing(run):
    """Whenever a request is cancelled, its place is free again, and it arrived wholly, partly or not, once."""

    async def main():
        async with hostile() as server, sender(per_origin=2) as client:
            for turns in range(40):
                task = asyncio.create_task(client.post(server.url, body=b"%d" % turns))
                for _ in range(turns % 20):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait((task,))
                assert task.cancelled() or task.result().status == 200
            for _ in range(2):
                assert 200 == (await client.post(server.url, body=b"last")).status
            bodies = [request.partition(b"\r\n\r\n")[2] for request in server.requests]
            assert len(set(bodies)) == len(bodies) - 1
        assert 0 == client.connections

    run(main())


def test_cancelled_in_the_turn_in_which_it_begins_nothing_is_sent(run):
    """Between taking a connection and writing to it lies a moment; who is cancelled there sent nothing."""

    async def main():
        async with hostile() as server, sender() as client:
            await client.post(server.url, body=b"1")
            received = server.received
            task = asyncio.create_task(client.post(server.url, body=b"2"))
            asyncio.get_running_loop().call_soon(
                task.cancel
            )  # runs after it began, before the outbox writes
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda: server.live == 0)
            assert received == server.received

    run(main())


# The pool


def test_connections_to_one_origin_are_bounded(run):
    """Fifty requests at once use as many connections as allowed, and all are answered."""

    async def main():
        async with hostile() as server, sender(per_origin=3) as client:
            answers = await asyncio.gather(
                *(client.post(server.url, body=b"%d" % n) for n in range(50))
            )
            assert {200} == {answer.status for answer in answers}
            assert (3, 50) == (server.most, len(server.requests))
            assert 3 == client.connections

    run(main())


def test_waiting_for_a_place_is_bounded(run):
    """Who finds no place within the limit of connecting has sent nothing; the place comes back afterwards."""

    async def main():
        async with hostile(hangs) as server, sender(per_origin=1, connect=0.05) as client:
            first = asyncio.create_task(client.post(server.url, body=b"1"))
            await server.until(lambda: server.live == 1)
            with pytest.raises(NotSent, match="no connection within"):
                await client.post(server.url, body=b"2")
            first.cancel()
            await asyncio.wait((first,))
            assert 200 == (await client.post(server.url, body=b"3")).status

    run(main())


def test_all_connections_are_bounded_and_idle_ones_make_room(run):
    """With every place taken by idle connections to others, the longest idle is closed for a new origin."""

    async def main():
        async with (
            hostile() as one,
            hostile() as two,
            hostile() as three,
            sender(connections=2) as client,
        ):
            for server in (one, two, three):
                assert 200 == (await client.post(server.url, body=b"1")).status
            assert 2 == client.connections
            assert (0, 1, 1) == (one.live, two.live, three.live)
            answers = await asyncio.gather(
                *(client.post(s.url, body=b"%d" % n) for n in range(20) for s in (one, two, three))
            )
            assert {200} == {answer.status for answer in answers}
            assert [21] * 3 == [len(s.requests) for s in (one, two, three)]

    run(main(), limit=5)


def test_idle_connections_are_bounded_in_number_and_time(run):
    """Of many connections only so many are kept, and those not for long."""

    async def main():
        async with hostile() as server, sender(idle_per_origin=2, idle=0.1) as client:
            await asyncio.gather(*(client.post(server.url, body=b"1") for _ in range(10)))
            assert 10 >= server.most > 2
            await server.until(lambda: server.live == 2)
            assert 2 == client.connections
            await server.until(lambda: server.live == 0)
            assert (0, {}) == (client.connections, client._pool._origins)

    run(main())


def test_leaving_closes_everything(run):
    """After the context is left the receiver has seen every connection end."""

    async def main():
        async with hostile() as server:
            async with sender() as client:
                await asyncio.gather(*(client.post(server.url, body=b"1") for _ in range(5)))
            await server.until(lambda: server.live == 0)
            assert 0 == client.connections

    run(main())


# Addresses


def lookup(*answers):
    """A resolver that gives *answers* in order, the last for ever."""
    given = list(answers)

    async def look(host, port):
        return given.pop(0) if len(given) > 1 else given[0]

    return look


def test_it_connects_to_the_address_that_was_checked(run):
    """A name goes to its permitted address, with the name in Host; the refused one is never tried."""

    async def main():
        policy = AddressPolicy(allow=LOCAL.allow, lookup=lookup(["10.0.0.1", "127.0.0.1"]))
        async with hostile() as server, sender(policy=policy) as client:
            await client.post(f"http://Callback.Example:{server.port}/x", body=b"1")
            assert f"\r\nHost: callback.example:{server.port}\r\n".encode() in server.requests[0]

    run(main())


def test_the_next_address_is_tried(run):
    """Of several addresses the first that can be connected to is used."""

    async def main():
        policy = AddressPolicy(allow=LOCAL.allow, lookup=lookup(["127.0.0.2", "127.0.0.1"]))
        async with hostile() as server, sender(policy=policy) as client:
            assert 200 == (await client.post(f"http://a.example:{server.port}/", body=b"1")).status
            assert 1 == client.connections

    run(main())


def test_a_name_that_moved_takes_its_connections_with_it(run):
    """Once a name resolves to another address, a connection to the old one is not used any more."""

    async def main():
        now = 0.0
        moves = lookup(["127.0.0.1"], ["127.0.0.2"])
        policy = AddressPolicy(allow=LOCAL.allow, lookup=moves, clock=lambda: now, keep=30)
        async with hostile() as server, sender(policy=policy) as client:
            url = f"http://a.example:{server.port}/"
            await client.post(url, body=b"1")
            now = 31.0
            with pytest.raises(NotSent, match=r"127\.0\.0\.2"):
                await client.post(url, body=b"2")
            await server.until(lambda: server.live == 0)

    run(main())


# What is written


def test_the_request_as_it_is_written(run):
    """The bytes of a request are those of RFC 9112, the path and the body as they were given."""

    async def main():
        async with hostile() as server, sender() as client:
            url = f"{server.url}/%7Ea%2fb/ü?q=a+b%20c&x=[1]#fragment"
            await client.post(url, headers={"Webhook-Id": "m 1"}, body=b"{}")
            await client.request("GET", server.url, headers=[("A", "1"), ("A", "2")])
            await client.request("OPTIONS", f"http://127.0.0.1:{server.port}")
            host = b"Host: 127.0.0.1:%d\r\n" % server.port
            assert [
                b"POST /hook/%7Ea%2fb/%C3%BC?q=a+b%20c&x=[1] HTTP/1.1\r\n"
                + host
                + b"Webhook-Id: m 1\r\nContent-Length: 2\r\n\r\n{}",
                b"GET /hook HTTP/1.1\r\n" + host + b"A: 1\r\nA: 2\r\n\r\n",
                b"OPTIONS / HTTP/1.1\r\n" + host + b"\r\n",
            ] == server.requests

    run(main())


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1", "127.0.0.1"),
        ("http://[::1]:80/", "[::1]"),
        ("https://[::1]:8443/", "[::1]:8443"),
        ("https://EXAMPLE.com:443/", "example.com"),
        ("http://example.com:443/", "example.com:443"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://faß.example:444/", "xn--fa-hia.example:444"),
    ],
)
def test_the_host_header(url, host):
    """Host is the authority: IDNA 2008, brackets round IPv6, no port where it is the usual one."""
    from daemon.outbound.target import head, target

    assert f"\r\nHost: {host}\r\n".encode() in head("GET", target(url), [], 0)


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"A": "x\r\nB: y"}, "headers.A"),
        ({"A": "x\ny"}, "headers.A"),
        ({"A": "x\0"}, "headers.A"),
        ({"A": "ü"}, "headers.A"),
        ({"A\r\nB": "x"}, "headers.A"),
        ({"A B": "x"}, "headers.A B"),
        ({"": "x"}, "headers."),
        ({"Ü": "x"}, "headers."),
        ({"Content-Length": "0"}, "headers.Content-Length"),
        ([("TRANSFER-encoding", "chunked")], "headers.TRANSFER-encoding"),
        ({"host": "other"}, "headers.host"),
        ({"Connection": "close"}, "headers.Connection"),
        ({"Expect": "100-continue"}, "headers.Expect"),
    ],
)
def test_headers_that_would_change_the_message_are_refused(run, headers, field):
    """No header smuggles in another one, or another request, and none contradicts the framing."""

    async def main():
        async with hostile() as server, sender() as client:
            with pytest.raises(Invalid) as caught:
                await client.post(server.url, headers=headers, body=b"1")
            assert next(iter(caught.value.problems)).startswith(field)
            assert 0 == server.connections

    run(main())


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "http://u:p@a.example/", "http://a.example/\n", "/x"]
)
def test_urls_that_cannot_be_sent_to_are_refused(run, url):
    """Other schemes, credentials in the URL and control characters are the caller's to correct."""

    async def main():
        async with sender() as client:
            with pytest.raises(Invalid):
                await client.post(url, body=b"1")
            with pytest.raises(Invalid):
                await client.request("HEAD", "http://a.example/")

    run(main())


# The law


async def answers(peer: Peer) -> bool:
    await peer.answer(OK)
    return True


async def answers_and_closes(peer: Peer) -> bool:
    await peer.answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    return False


async def answers_and_ends(peer: Peer) -> bool:
    await peer.answer(OK)
    peer.half_close()
    await peer.gone()
    return False


async def answers_and_resets(peer: Peer) -> bool:
    await peer.answer(OK)
    peer.reset()
    return False


async def answers_twice(peer: Peer) -> bool:
    await peer.answer(OK + OK)
    return True


async def resets_at_once(peer: Peer) -> bool:
    peer.reset()
    return False


async def ends_at_once(peer: Peer) -> bool:
    peer.half_close()
    await peer.gone()
    return False


async def takes_and_resets(peer: Peer) -> bool:
    await peer.request()
    peer.reset()
    return False


async def takes_and_ends(peer: Peer) -> bool:
    await peer.request()
    return False


async def babbles(peer: Peer) -> bool:
    await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"\r\n", b"\r\n")
    return False


STEPS = [
    answers,
    answers_and_closes,
    answers_and_ends,
    answers_and_resets,
    answers_twice,
    resets_at_once,
    ends_at_once,
    takes_and_resets,
    takes_and_ends,
    babbles,
]


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    scripts=st.lists(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4), max_size=12),
    width=st.integers(1, 4),
)
def test_whatever_a_receiver_does_nothing_arrives_twice(scripts, width):
    """Answered: it arrived once.  Not sent: it never arrived.  In doubt: at most once.  And all places come back."""

    async def main():
        behaviours = [plays(steps) for steps in scripts]
        outcomes = {}
        async with hostile(*behaviours) as server, sender(per_origin=width) as client:

            async def lane(which: int) -> None:
                for n in range(which, 16, width):
                    outcomes[n] = await outcome_of(client.post(server.url, body=b"<%d>" % n))

            await asyncio.gather(*(lane(which) for which in range(width)))
        arrived = [request.partition(b"\r\n\r\n")[2] for request in server.requests]
        for n, outcome in outcomes.items():
            times = arrived.count(b"<%d>" % n)
            assert (outcome, times) in {(200, 1), (NotSent, 0), (Unanswered, 0), (Unanswered, 1)}
        assert (0, {}) == (client.connections, client._pool._origins)

    uvloop.run(main())


async def outcome_of(post):
    """The status, or the class of the error."""
    try:
        return (await post).status
    except (NotSent, Unanswered) as error:
        return type(error)


def plays(steps):
    """A behaviour: one of *steps* after the other, until one says that it was the last; then polite."""

    async def behave(peer: Peer) -> None:
        for step in steps:
            if not await step(peer):
                return
        await polite(peer)

    return behave
