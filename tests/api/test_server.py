"""The server: what holds for every route."""

import asyncio
import io
import zlib

import aiohttp
import orjson
import pytest
import structlog
from aiohttp import web
from api.running import Open, Run
from proxy import Proxy

from daemon.config import Server
from daemon.errors import BadSignature, ConfigError, Outage
from daemon.server import make_app, open_site


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "!/elements", 404),
        ("GET", "/instances/abc", 404),
        ("GET", "/instances/99999999999999999999", 404),
        ("POST", "/elements", 405),
        ("DELETE", "/elements", 405),
        ("PATCH", "/instances/1/enabled", 405),
        ("TRACE", "!/", 405),
    ],
)
def test_unknown_routes_and_methods_are_json(
    run: Run, open_api: Open, method: str, path: str, status: int
) -> None:
    """404 and 405 have message and requestId as every error has; 405 says what is allowed."""

    async def main() -> None:
        async with open_api() as api:
            answer = await api.call(method, path)
            assert status == answer.status
            assert (status == 405) == ("Allow" in answer.headers)

    run(main())


def test_health_is_the_database(run: Run, open_api: Open) -> None:
    """/health is 200 while PostgreSQL answers and 503 when it does not; HEAD works as well."""

    async def main() -> None:
        async with open_api() as api:
            answer = await api.call("GET", "!/health", auth=None)
            assert (200, {"status": "ok"}) == (answer.status, answer.body)
            assert 200 == (await api.call("HEAD", "!/health", auth=None)).status
            await api.context.pool.close()
            assert 503 == (await api.call("GET", "!/health", auth=None)).status

    run(main())


def test_without_the_database_there_is_503(run: Run, open_api: Open, dsn: str) -> None:
    """While PostgreSQL is away requests are 503 with Retry-After, nothing is stored, and afterwards all is well."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, open_api(through=proxy.dsn) as api:
            made = await api.create()
            path = f"/instances/{made['id']}"
            proxy.refusing = True
            proxy.cut()
            for method, tail, body in (
                ("GET", "/instances", None),
                ("PATCH", path, {"name": "x"}),
                ("POST", "/instances", {"element": {"key": "rest"}}),
                ("GET", "!/health", None),
            ):
                answer = await api.call(method, tail, body)
                assert 503 == answer.status, answer.text
                assert ("5" == answer.headers.get("Retry-After")) == (tail != "!/health")
            assert 401 == (await api.call("GET", "/instances", auth=None)).status
            proxy.refusing = False
            assert made == (await api.call("GET", path)).body

    run(main())


def test_a_commit_that_is_lost_changes_nothing(run: Run, open_api: Open, dsn: str) -> None:
    """When the connection breaks before COMMIT arrived, the answer is 503 and the instance is as it was."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, open_api(through=proxy.dsn) as api:
            made = await api.create()
            path = f"/instances/{made['id']}"
            proxy.lose_commit()
            answer = await api.call("PATCH", path, {"name": "x"})
            assert 503 == answer.status
            assert made == (await api.call("GET", path)).body

    run(main())


def test_a_body_is_bounded_in_size(run: Run, open_api: Open) -> None:
    """A body beyond [server] body_limit is 413, also one that only grows when it is unpacked."""

    async def main() -> None:
        async with open_api(body_limit=2048) as api:
            body = orjson.dumps({"element": {"key": "rest"}, "name": "a" * 3000})
            answer = await api.call("POST", "/instances", data=body)
            assert (413, "the body is larger than 2048 bytes") == (
                answer.status,
                answer.body["message"],
            )
            packed = zlib.compress(body)
            headers = {"Content-Encoding": "deflate"}
            assert (
                413 == (await api.call("POST", "/instances", data=packed, headers=headers)).status
            )
            broken = await api.call("POST", "/instances", data=b"nonsense", headers=headers)
            assert (400, {"body"}) == (broken.status, set(broken.body["fields"]))

    run(main())


def test_a_body_is_bounded_in_time(run: Run, open_api: Open) -> None:
    """A body that does not arrive within [server] body_timeout is 408."""

    async def main() -> None:
        async with open_api(body_timeout=1.0) as api:
            host, port = api.origin.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST /elements/api-v2/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            assert head.startswith(b"HTTP/1.1 408")

    run(main())


def test_pages_of_other_origins_may_use_the_api(run: Run, open_api: Open) -> None:
    """A preflight below the prefix is answered without Authorization; every answer there exposes its headers."""

    async def main() -> None:
        async with open_api() as api:
            headers = {
                "Origin": "https://app.example.com",
                "Access-Control-Request-Method": "PATCH",
            }
            answer = await api.call("OPTIONS", "/instances/1", auth=None, headers=headers)
            assert (204, "*") == (answer.status, answer.headers["Access-Control-Allow-Origin"])
            assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            for path in ("/instances", "/nothing"):
                exposed = (await api.call("GET", path)).headers["Access-Control-Expose-Headers"]
                assert {"Elements-Next-Page-Token", "Elements-Request-Id"} <= set(
                    exposed.split(", ")
                )
            assert "Access-Control-Allow-Origin" not in (await api.call("GET", "!/health")).headers
            assert "tidings" == answer.headers["Server"]

    run(main())


def test_further_routes_share_all_this(run: Run, open_api: Open) -> None:
    """Routes of others get the same ids, limits and errors; each kind of error has its status."""

    async def main() -> None:
        raised: dict[str, Exception] = {
            "401": BadSignature("the signature does not fit"),
            "503": Outage("nothing was stored"),
            "403": web.HTTPForbidden(text="not for you"),
            "409": web.HTTPConflict(text="there is one already"),
            "429": web.HTTPTooManyRequests(text="too many"),
            "302": web.HTTPFound("/elsewhere"),
        }

        async def handle(request: web.Request) -> web.Response:
            if error := raised.get(request.match_info["what"]):
                raise error
            return web.Response(body=await request.read())

        async with open_api() as api:
            settings = Server(listen="127.0.0.1:0", body_limit=1024)  # type: ignore[arg-type] # read as in the file
            app = make_app(
                api.context, extra_routes=[web.post("/further/{what}", handle)], server=settings
            )
            async with open_site(settings, app) as address, aiohttp.ClientSession() as session:
                for what in (*raised, "200"):
                    status = int(what)
                    url = f"http://{address}/further/{what}"
                    async with session.post(url, data=b"abc", allow_redirects=False) as answer:
                        assert status == answer.status
                        assert answer.headers["Elements-Request-Id"]
                        if status >= 400:
                            assert (await answer.json())["requestId"] == answer.headers[
                                "Elements-Request-Id"
                            ]
                data = io.BytesIO(bytes(2000))
                async with session.post(f"http://{address}/further/200", data=data) as answer:
                    assert 413 == answer.status

    run(main())


def test_a_request_is_logged_by_route(run: Run, open_api: Open) -> None:
    """The line has the route and not the path, and every line about a request its id."""
    lines: list[dict[str, object]] = []

    async def main() -> None:
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                lambda _, level, event: lines.append({"level": level, **event}) or "",
            ],
            logger_factory=structlog.ReturnLoggerFactory(),
        )
        async with open_api() as api:
            answer = await api.call("GET", "/instances/4711?x=hidden")
            (line,) = [one for one in lines if one["event"] == "request"]
            assert ("info", "GET", "/elements/api-v2/instances/{id}", 404) == (
                *(line["level"], line["method"]),
                *(line["route"], line["status"]),
            )
            assert answer.headers["Elements-Request-Id"] == line["request_id"]
            assert "4711" not in str(lines)

    run(main())


def test_an_address_in_use_is_the_operators_to_change(run: Run, open_api: Open) -> None:
    """Listening where somebody else listens raises ConfigError that names the key."""

    async def main() -> None:
        async with open_api() as api:
            taken = Server(listen=api.origin.removeprefix("http://"))  # type: ignore[arg-type] # read as in the file
            with pytest.raises(ConfigError, match=r"\[server\] listen: 127\.0\.0\.1:"):
                async with open_site(taken, make_app(api.context)):
                    pass

    run(main())


def test_leaving_lets_requests_end(run: Run, open_api: Open) -> None:
    """A request that was under way when the site closes is answered."""

    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.Response:
            begun.set()
            await go_on.wait()
            return web.Response(text="done")

        async with open_api() as api, aiohttp.ClientSession() as session:
            settings = Server(listen="127.0.0.1:0", stop_grace=5)  # type: ignore[arg-type] # read as in the file
            app = make_app(api.context, extra_routes=[web.get("/slow", slow)], server=settings)

            async def ask(address: str) -> str:
                async with session.get(f"http://{address}/slow") as answer:
                    return await answer.text()

            async with open_site(settings, app) as address:
                asking = asyncio.create_task(ask(address))
                await begun.wait()
                asyncio.get_running_loop().call_later(0.1, go_on.set)
            assert "done" == await asking

    run(main())
