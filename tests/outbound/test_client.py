"""The client for providers against real servers on this machine."""

import asyncio
import gzip
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web
from servers import serving

from daemon.errors import Refused, Transient, Unauthorized
from daemon.model import MASK, Request
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.client import Client, Limits, allowed_by

NOW = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)


async def ask(url: str, *, request: Request | None = None, **options: Any):
    """One GET, or *request*, with a client of its own."""
    limits = Limits(**options.pop("limits", {}))
    async with Client(limits, now=lambda: NOW, **options) as client:
        return await client.send(request or Request("GET", url))


def answering(status: int, body: str = "", **headers: str):
    """A handler that always says the same."""

    async def handler(request: web.Request) -> web.Response:
        kind = headers.pop("content_type", "application/json")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body.encode(), content_type=kind, headers=named)

    return handler


def failing(kind: type[Exception], handler: Any, path: str = "/orders", **options: Any):
    """The error of *kind* that a request to *handler* ends with."""

    async def main():
        async with serving(handler) as origin:
            with pytest.raises(kind) as caught:
                await ask(origin + path, **options)
            return caught.value

    return asyncio.run(main())


def test_a_2xx_answer_is_returned_whole():
    """Status, headers (whatever their case), body and address of a 2xx answer reach the caller."""

    async def main():
        async with serving(answering(201, '{"id": 1}', X_Total="7")) as origin:
            return origin, await ask(origin + "/orders")

    origin, answer = asyncio.run(main())

    assert (201, b'{"id": 1}', "7") == (answer.status, answer.body, answer.headers["x-total"])
    assert f"{origin}/orders" == answer.url


def test_method_headers_and_body_arrive_as_they_are():
    """What the element wrote is what the provider reads, and nothing else claims to be its content type."""
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(
            method=request.method, headers=request.headers.copy(), body=await request.read()
        )
        seen["query"] = list(request.query.items())
        return web.Response()

    async def main() -> None:
        async with serving(handler) as origin:
            url = origin + "/token?where=updated%3E%3D'1'&x=%2B"
            request = Request("POST", url, {"Authorization": "Bearer t"}, b"\x00raw")
            await ask("", request=request, agent="tidings/9")

    asyncio.run(main())

    assert ("POST", b"\x00raw", "Bearer t") == (
        seen["method"],
        seen["body"],
        seen["headers"]["Authorization"],
    )
    assert "tidings/9" == seen["headers"]["User-Agent"]
    assert "Content-Type" not in seen["headers"]
    assert seen["query"] == [("where", "updated>='1'"), ("x", "+")]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_not_now_is_transient(status: int):
    """Statuses that mean "later" raise `Transient`, and without Retry-After no wait is invented."""
    error = failing(Transient, answering(status))

    assert error.retry_after is None
    assert f"answered {status}" in str(error)


@pytest.mark.parametrize(
    ("header", "wait"),
    [("120", 120.0), ("Fri, 20 Nov 2026 10:05:00 GMT", 300.0), ("soon", None), ("9" * 30, 86400.0)],
)
def test_retry_after_is_obeyed(header: str, wait: float | None):
    """Retry-After counts in seconds and as a date by the server's clock, nonsense counts as absent, a year is not believed."""
    answer = answering(429, Retry_After=header, Date="Fri, 20 Nov 2026 10:00:00 GMT")
    assert wait == failing(Transient, answer).retry_after


def test_401_is_unauthorized():
    """A 401 is the sign to refresh, so it has a kind of its own."""
    assert 401 == failing(Unauthorized, answering(401)).status


@pytest.mark.parametrize("status", [304, 400, 403, 404, 410, 422])
def test_other_statuses_are_refused(status: int):
    """Trying again would not help against these: `Refused`, with the status, and no `Unauthorized`."""
    error = failing(
        Refused, answering(status, "" if status == 304 else '{"error": "no such thing"}')
    )

    assert status == error.status
    assert not isinstance(error, Unauthorized)
    assert status == 304 or "no such thing" in str(error)


def test_a_message_never_repeats_what_the_request_kept_secret():
    """A provider that echoes key, token, form and header leads to a message with none of them."""

    async def handler(request: web.Request) -> web.Response:
        echo = f"{request.rel_url} {request.headers['Authorization']} {await request.text()}"
        return web.json_response(
            {"message": f"bad request {echo}", "token": "fresh-one"}, status=400
        )

    async def main() -> str:
        async with serving(handler) as origin:
            request = Request(
                "POST",
                origin + "/orders?api_key=query-key&page=2",
                {
                    "Authorization": "Bearer access-token",
                    "Content-Type": "application/x-www-form-urlencoded",
                },
                b"client_secret=form%2Dsecret&code=the-code",
            )
            with pytest.raises(Refused) as caught:
                await ask("", request=request)
            return str(caught.value)

    message = asyncio.run(main())

    for secret in (
        "query-key",
        "access-token",
        "form-secret",
        "form%2Dsecret",
        "the-code",
        "fresh-one",
    ):
        assert secret not in message
    assert MASK in message
    assert "bad request" in message


def test_a_message_is_short_and_on_one_line():
    """However long and wild the provider's text, the error is one short printable line."""
    message = str(
        failing(Refused, answering(400, "a\n\x1b[31mb " * 5000, content_type="text/plain"))
    )

    assert message.isprintable()
    assert len(message) < 300


def test_a_page_is_not_quoted():
    """Of an HTML page the status says more than its markup."""
    message = str(
        failing(Refused, answering(404, "<html>nothing</html>", content_type="text/html"))
    )

    assert message.endswith("answered 404")


def test_a_slow_answer_is_transient():
    """A provider that does not finish within the limit costs that long and is `Transient`."""

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"{")
        await asyncio.Event().wait()
        return answer

    error = failing(Transient, handler, limits={"total": 0.2})

    assert "did not answer within 0.2 s" in str(error)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_huge_answer_is_refused(zipped: bool):  # noqa: FBT001 — pytest gives it by name
    """The limit holds for what is read, not for what Content-Length says: chunked and compressed alike."""
    sent = bytearray()

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Encoding": "gzip"} if zipped else {})
        await answer.prepare(request)
        piece = gzip.compress(bytes(1_000_000)) if zipped else bytes(100_000)
        for _ in range(1 if zipped else 1000):
            await answer.write(piece)
            sent.extend(piece)
        return answer

    error = failing(Refused, handler, limits={"body": 300_000})

    assert "more than 300000 bytes" in str(error)
    assert len(sent) < 20_000_000


def test_an_answer_of_just_the_limit_is_read():
    """The limit is the largest size allowed."""

    async def main() -> bytes:
        async with serving(answering(200, "x" * 1000)) as origin:
            return (await ask(origin, limits={"body": 1000})).body

    assert 1000 == len(asyncio.run(main()))


@pytest.mark.parametrize(
    "piece", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"what?\r\n\r\n"]
)
def test_a_broken_answer_is_transient(piece: bytes):
    """No answer, half an answer, and no HTTP at all: try again later."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(piece)
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Transient):
                await ask(f"http://127.0.0.1:{port}/")

    asyncio.run(main())


def test_nobody_there_is_transient():
    """A closed port is `Transient`, with the reason and without a query in the message."""

    async def main() -> str:
        async with serving(answering(200)) as origin:
            pass
        with pytest.raises(Transient) as caught:
            await ask(origin + "/x?api_key=secret")
        return str(caught.value)

    message = asyncio.run(main())

    assert "cannot be reached" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "/orders", "http://", "http://x:99999/", "http://[::1/", "javascript:alert(1)"],
)
def test_what_is_no_address_is_refused(url: str):
    """An address that cannot be asked is `Refused`: waiting does not mend it."""
    with pytest.raises(Refused):
        asyncio.run(ask(url))


def test_a_header_with_a_line_break_is_refused():
    """A credential with a line break cannot smuggle a second header."""

    async def main() -> None:
        async with serving(answering(200)) as origin:
            await ask("", request=Request("GET", origin, {"X-Key": "a\r\nX-Admin: 1"}))

    with pytest.raises(Refused, match="cannot be written") as caught:
        asyncio.run(main())

    assert "X-Admin" not in str(caught.value)


def test_a_redirect_within_the_origin_is_followed():
    """A GET follows a relative redirect with its headers, and the answer says where it came from."""
    seen: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Authorization"]))
        if request.path == "/old":
            return web.Response(status=301, headers={"Location": "/new"})
        return web.Response(text="here")

    async def main():
        async with serving(handler) as origin:
            request = Request("GET", origin + "/old", {"Authorization": "Bearer t"})
            return await ask("", request=request)

    answer = asyncio.run(main())

    assert b"here" == answer.body
    assert answer.url.endswith("/new")
    assert [("/old", "Bearer t"), ("/new", "Bearer t")] == seen


def test_a_redirect_to_another_host_is_refused():
    """Credentials go nowhere else: the other server hears nothing, and the message names it."""
    heard: list[str] = []

    async def other(request: web.Request) -> web.Response:
        heard.append(request.path)
        return web.Response()

    async def main() -> tuple[str, str]:
        async with serving(other) as there:
            async with serving(answering(302, Location=f"{there}/take?key=s3cret")) as here:
                with pytest.raises(Refused) as caught:
                    await ask(here)
            return there, str(caught.value)

    there, message = asyncio.run(main())

    assert [] == heard
    assert there in message
    assert "s3cret" not in message


def test_redirects_in_a_circle_end():
    """Five redirects are followed, then it is `Refused`."""
    count: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        count.append(1)
        return web.Response(status=307, headers={"Location": "/again"})

    error = failing(Refused, handler)

    assert "more than 5 times" in str(error)
    assert 6 == len(count)


def test_a_post_follows_no_redirect():
    """A POST is never sent a second time by the client."""

    async def main() -> int | None:
        async with serving(answering(307, Location="/again")) as origin:
            with pytest.raises(Refused) as caught:
                await ask("", request=Request("POST", origin, body=b"x"))
            return caught.value.status

    assert 307 == asyncio.run(main())


def test_a_host_is_asked_by_few_at_once():
    """No more requests than `per_host` are on their way to one host; another host does not wait for them."""
    now, most = 0, 0
    full, release = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        await release.wait()
        now -= 1
        return web.Response()

    async def main() -> int:
        limits = Limits(per_host=3)
        async with (
            serving(slow) as origin,
            serving(answering(200)) as other,
            Client(limits) as client,
        ):
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(client.send(Request("GET", origin))) for _ in range(10)]
                await full.wait()
                # Answered later than the ten were asked: they had the time to arrive.
                for _ in range(5):
                    await client.send(Request("GET", other))
                release.set()
            return len([task for task in asked if task.result().status == 200])

    assert 10 == asyncio.run(main())
    assert 3 == most


def test_a_host_that_nobody_asks_is_forgotten():
    """What is kept per host goes with its last request, so ten thousand hosts leave nothing behind."""

    async def main() -> int:
        async with serving(answering(200)) as origin, Client() as client:
            await client.send(Request("GET", origin))
            return len(client._hosts)

    assert 0 == asyncio.run(main())


def test_cookies_are_not_kept():
    """One account's session never reaches another account at the same provider."""
    seen: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=a; Path=/"})

    async def addresses(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async def main() -> None:
        async with serving(handler) as origin, Client(addresses=addresses) as client:
            # By name: of an address no cookie would be kept anyway.
            url = origin.replace("127.0.0.1", "provider.invalid")
            await client.send(Request("GET", url))
            await client.send(Request("GET", url))

    asyncio.run(main())

    assert [None, None] == seen


def test_only_allowed_addresses_are_connected_to():
    """A name goes where the policy says, whatever the system's resolver would say."""
    asked: list[tuple[str, int]] = []

    async def addresses(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    async def main() -> tuple[int, int]:
        async with serving(answering(200)) as origin:
            port = int(origin.rsplit(":", 1)[1])
            answer = await ask(f"http://provider.invalid:{port}/", addresses=addresses)
            return port, answer.status

    port, status = asyncio.run(main())

    assert 200 == status
    assert [("provider.invalid", port)] == asked


@pytest.mark.parametrize("host", ["127.0.0.1", "inside.invalid"])
def test_a_refused_address_is_not_connected_to(host: str):
    """The policy's refusal reaches the caller for a name and for a literal address, and no byte leaves."""
    heard: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        heard.append(request.path)
        return web.Response()

    async def addresses(host: str, port: int) -> Sequence[str]:
        raise Refused(f"{host} is inside")

    async def main() -> None:
        async with serving(handler) as origin:
            port = origin.rsplit(":", 1)[1]
            with pytest.raises(Refused, match="is inside"):
                await ask(f"http://{host}:{port}/", addresses=addresses)

    asyncio.run(main())

    assert [] == heard


def test_providers_are_held_to_the_address_policy():
    """`allowed_by` turns the policy of callbacks into one of providers: inside is `Refused`, unresolved `Transient`."""

    async def lookup(host: str, port: int) -> list[str]:
        if host == "unknown.invalid":
            raise OSError("no such name")
        return ["127.0.0.1"]

    async def main() -> int:
        async with serving(answering(200)) as origin:
            port = origin.rsplit(":", 1)[1]
            strict = allowed_by(AddressPolicy(lookup=lookup))
            for host in ("inside.invalid", "127.0.0.1", "127.1", "2130706433"):
                with pytest.raises(Refused, match="loopback"):
                    await ask(f"http://{host}:{port}/", addresses=strict)
            with pytest.raises(Transient, match="no such name"):
                await ask(f"http://unknown.invalid:{port}/", addresses=strict)
            open_ = allowed_by(AddressPolicy(allow=[ip_network("127.0.0.0/8")], lookup=lookup))
            return (await ask(f"http://inside.invalid:{port}/", addresses=open_)).status

    assert 200 == asyncio.run(main())


def test_a_proxy_is_used():
    """With a proxy the request goes to it in absolute form, and the policy still judges the target."""
    seen: list[str] = []
    judged: list[str] = []

    async def proxy(request: web.Request) -> web.Response:
        seen.append(str(request.url))
        return web.Response(text="by proxy")

    async def addresses(host: str, port: int) -> Sequence[str]:
        judged.append(host)
        return ["192.0.2.1"]

    async def main() -> bytes:
        async with serving(proxy) as origin:
            answer = await ask("http://provider.invalid/orders", proxy=origin, addresses=addresses)
            return answer.body

    assert b"by proxy" == asyncio.run(main())
    assert ["http://provider.invalid/orders"] == seen
    assert ["provider.invalid"] == judged


def test_cancelling_ends_the_request():
    """`CancelledError` passes through, and the place at the host is free again."""
    arrived = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    async def main() -> int:
        async with serving(handler) as origin, Client(Limits(per_host=1)) as client:
            task = asyncio.create_task(client.send(Request("GET", origin)))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return len(client._hosts)

    assert 0 == asyncio.run(main())
