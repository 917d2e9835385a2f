"""Dropbox's webhooks: the signature, the challenge, whose they are, and a simulated account that posts them."""

import asyncio
import hmac
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from multidict import CIMultiDict
from servers import serving

from daemon.elements import built_in
from daemon.elements.simulators.dropbox.server import Dropbox
from daemon.errors import BadSignature, Invalid
from daemon.model import Incoming, Received

BODY = (Path(__file__).parent / "dropbox" / "webhook.json").read_bytes()
SIGNATURE = "6b2dc72c5c450ff40adc03583d93f8dca152d8641652fac168734fe4720ccf37"
ACCOUNT, UID = "dbid:AAH4f99T0taONIb-OurWxbNQ6ywGRopQngc", "4245623"
SETTINGS = {"oauth.api.secret": "test-app-secret", "oauth.user.id": ACCOUNT}


def incoming(body: bytes = BODY, signature: str | None = SIGNATURE, **query: str) -> Incoming:
    """A request of Dropbox."""
    headers = CIMultiDict({"Content-Type": "application/json"})
    if signature is not None:
        headers["X-Dropbox-Signature"] = signature
    method = "GET" if query else "POST"
    path = "/events/dropbox"
    return Incoming(method, path, f"https://t.example{path}", headers, query, body)


def received(body: bytes, **settings: str) -> Received:
    """What the element makes of a signed body; `__` in a setting's name is a dot."""
    known = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    signature = hmac.digest(b"test-app-secret", body, "sha256").hex()
    return built_in("dropbox").receive(incoming(body, signature), known)


@pytest.mark.element("dropbox", "signature")
def test_the_known_signature_is_right():
    """The vector of the facts passes; another body, another secret, another encoding and none at all do not."""
    dropbox = built_in("dropbox")
    dropbox.receive(incoming(), SETTINGS)
    for request, settings in (
        (incoming(BODY + b" "), SETTINGS),
        (incoming(), SETTINGS | {"oauth.api.secret": "another"}),
        (incoming(), {}),
        (incoming(), None),
        (incoming(signature=None), SETTINGS),
        (incoming(signature=""), SETTINGS),
        (incoming(signature=f"sha256={SIGNATURE}"), SETTINGS),
    ):
        with pytest.raises(BadSignature):
            dropbox.receive(request, settings)


def test_it_says_who_and_never_what():
    """A webhook is a hint for each account that it names, by its id and by the number that old apps know."""
    told = built_in("dropbox").receive(incoming(), SETTINGS)

    assert told.hint
    assert BODY == told.raw
    assert [("files", ACCOUNT, ACCOUNT), ("files", UID, UID)] == [
        (one.object_type, one.object_id, one.route) for one in told.events
    ]
    assert (ACCOUNT, UID) == built_in("dropbox").routes(incoming())


def test_each_is_a_new_one():
    """Two notifications of the same bytes may mean two changes: they are not taken for one another."""
    moments = [datetime(2026, 11, 20, 10, 0, second, tzinfo=UTC) for second in (0, 1)]
    identities = {
        built_in("dropbox", now=lambda moment=moment: moment)
        .receive(incoming(), SETTINGS)
        .events[0]
        .identity
        for moment in moments
    }
    assert 2 == len(identities)


def test_it_is_about_what_is_watched():
    """An instance that watches folders alone is hinted at those."""
    told = received(b'{"list_folder": {"accounts": ["dbid:A"]}}', event__objects="Folders, other")

    assert [("folders", "dbid:A")] == [(one.object_type, one.route) for one in told.events]


@pytest.mark.parametrize(
    ("body", "accounts"),
    [
        (b'{"list_folder": {"accounts": ["dbid:A", "dbid:B", "dbid:A"]}}', ("dbid:A", "dbid:B")),
        (b'{"delta": {"users": [1, 2]}}', ("1", "2")),
        (b'{"list_folder": {"teams": {"dbtid:T": ["dbmid:M"]}}}', ()),
        (b'{"list_folder": {"accounts": null}, "delta": []}', ()),
        (b"[]", ()),
    ],
)
def test_accounts_are_found_in_every_form(body: bytes, accounts: tuple[str, ...]):
    """Several accounts share one notification; the body of a team, and one of another shape, names nobody."""
    assert accounts == built_in("dropbox").routes(incoming(body))
    assert accounts == tuple(one.route for one in received(body).events)


def test_what_is_no_json_is_refused():
    """A body that cannot be read is the sender's mistake."""
    with pytest.raises(Invalid):
        built_in("dropbox").routes(incoming(b"{"))


@pytest.mark.element("dropbox", "challenge")
def test_a_challenge_is_echoed():
    """The value alone, as plain text; a notification is no challenge."""
    reply = built_in("dropbox").handshake(incoming(challenge="abc123"), None)

    assert reply is not None
    assert (200, b"abc123", "text/plain") == (reply.status, reply.body, reply.content_type)
    assert built_in("dropbox").handshake(incoming(), None) is None


class Receiver:
    """Answers a challenge as it should, and notifications with *statuses* in turn."""

    def __init__(self, *statuses: int, sniffs: bool = False) -> None:
        self.statuses = list(statuses)
        self.sniffs = sniffs
        self.bodies: list[bytes] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Answer."""
        if request.method == "GET":
            headers = {} if self.sniffs else {"X-Content-Type-Options": "nosniff"}
            return web.Response(text=request.query["challenge"], headers=headers)
        body = await request.read()
        built_in("dropbox").receive(
            Incoming("POST", "/", "https://t.example/", request.headers, {}, body),
            {"oauth.api.secret": "s3cret"},
        )
        self.bodies.append(body)
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


async def called(origin: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of a call without a token."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{origin}{path}", json=body) as answer,
    ):
        text = await answer.read()
        return answer.status, orjson.loads(text) if text else None


def test_the_simulator_posts_until_it_is_heard():
    """Signed rightly, tried again after an error; what changes meanwhile is one more post; copies when asked."""
    receiver = Receiver(500, 503, 200)

    async def main() -> None:
        server = Dropbox(app_secret="s3cret", waits=(0.01, 0.01, 0.01))
        async with (
            serving(receiver.answer) as target,
            server.running() as origin,
            asyncio.timeout(10),
        ):
            status, _ = await called(origin, "PUT", "/simulator/webhook", {"url": target})
            assert 200 == status
            for n in range(5):
                server.upload(f"/{n}.txt")
            await server.hooks.posted()
            assert 3 <= len(receiver.bodies) <= 4
            assert {BODY.replace(b" ", b"")} == set(receiver.bodies)
            receiver.bodies.clear()
            await called(origin, "PUT", "/simulator/webhook", {"copies": 2})
            await called(origin, "POST", "/simulator/files", {"path": "/x", "content": "y"})
            await server.hooks.posted()
            assert 2 == len(receiver.bodies)
            _, deliveries = await called(origin, "GET", "/simulator/deliveries")
            assert [500, 503, 200] == [one["outcome"] for one in deliveries][:3]
            assert [1, 2, 3] == [one["attempt"] for one in deliveries][:3]

    asyncio.run(main())


def test_the_simulator_asks_a_challenge_first():
    """An address that does not echo as Dropbox wants it is not posted to."""
    receiver = Receiver(sniffs=True)

    async def main() -> None:
        server = Dropbox(app_secret="s3cret")
        async with serving(receiver.answer) as target, server.running() as origin:
            for url in (target, "http://127.0.0.1:1/", "nonsense"):
                status, told = await called(origin, "PUT", "/simulator/webhook", {"url": url})
                assert (422, True) == (status, url in told["error"])
            assert server.hooks.target is None

    asyncio.run(main())


def test_the_simulator_is_told_what_to_do_without_a_token():
    """Files, folders, moves, deletes, lost cursors, expired tokens and failures can be asked for by HTTP."""

    async def main() -> None:
        server = Dropbox()
        async with server.running() as origin:
            for path, body, wanted in (
                ("files", {"path": "/a/b.txt", "content": "x"}, 200),
                ("folders", {"path": "/c"}, 200),
                ("move", {"from": "/a/b.txt", "to": "/c/b.txt"}, 200),
                ("move", {"from": "/nowhere", "to": "/d"}, 409),
                ("files", {"path": "/c"}, 409),
                ("files", {"content": "x"}, 400),
                ("delete", {"path": "/a"}, 200),
                ("fail", {"status": 500, "times": 2}, 204),
                ("fail", {}, 400),
                ("slow", {"seconds": 0.001}, 204),
                ("slow", [], 400),
                ("expire", None, 204),
                ("reset", None, 204),
                ("revoke", None, 204),
            ):
                status, _ = await called(origin, "POST", f"/simulator/{path}", body)
                assert (path, wanted) == (path, status)
            assert ["/c", "/c/b.txt"] == sorted(server.tree.nodes)
            assert (1, 0.001) == (server.tree.epoch, server.delay)
            assert 2 == len(server._failures)
            status, _ = await called(origin, "GET", "/simulator/requests")
            assert 200 == status

    asyncio.run(main())
