"""The API under test: the real application on a real socket, over a real database and a real writer.

Only the outside is played: a provider that grants tokens, which speaks OAuth's token request.
"""

import asyncio
import base64
import io
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from pydantic import TypeAdapter
from servers import serving

from daemon import api, elements
from daemon.config import Server
from daemon.connections import Connections
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.client import Client
from daemon.server import make_app, open_site
from daemon.store import accounts, database, vault
from daemon.store.directory import Directory
from daemon.store.log import Entry
from daemon.store.writer import Unit, Writer

STAND_INS = """
id = 1001
key = "crmlike"
name = "CRM-like"
hub = "crm"
description = "Polls and has webhooks, OAuth or an API key: as HubSpot."

[[parameters]]
key = "event.vendor.type"
name = "Event type"
default = "polling"

[connection]
base = "PROVIDER"

[auth]
kind = "oauth2"
authorize_url = "https://crm.example.com/authorize"
token_url = "PROVIDER/token"

[defaults]
pass_through = true

[resources.accounts]
updated = "updated"

[resources.contacts]
updated = "updated"

[webhook]
routing_key = "oauth.user.id"
[webhook.signature]
header = "X-Signature"
key = "signature.secret"
[webhook.events]
id = "id"
object_type = "contacts"
route = "$.account"
---
id = 1002
key = "boxlike"
name = "Box-like"
hub = "documents"
description = "Only webhooks: as Dropbox and Campaign Monitor."

[auth]
kind = "oauth2"
authorize_url = "https://box.example.com/authorize"
token_url = "PROVIDER/token"

[webhook]
[webhook.signature]
header = "X-Signature"
key = "oauth.api.secret"
[webhook.events]
id = "id"
object_type = "files"
"""


@dataclass
class Answer:
    """What came back; *body* is the parsed JSON, None for an empty body."""

    status: int
    headers: Any
    text: str
    body: Any


@dataclass
class Customer:
    """One user of an organization, with its secrets."""

    user: str
    organization: str

    @property
    def whole(self) -> str:
        """Authorization for the organization."""
        return f"User {self.user}, Organization {self.organization}"

    def element(self, token: str) -> str:
        """Authorization for one instance."""
        return f"User {self.user}, Element {token}"


@dataclass
class Api:
    """A running daemon's API, and somebody who uses it."""

    origin: str
    session: aiohttp.ClientSession
    context: api.Context
    writer: Writer
    dsn: str
    asked: list[dict[str, str]]
    answers: list[Answer] = field(default_factory=list)
    customers: list[Customer] = field(default_factory=list)

    async def customer(self, name: str) -> Customer:
        """Add a user of an organization of that name."""
        entry, user, organization = accounts.new_user(f"{name}@example.com", name)
        await self.writer.append(Unit(entries=[entry]))
        self.customers.append(Customer(user, organization))
        return self.customers[-1]

    async def call(
        self, method: str, path: str, json: Any = None, *, auth: str | None = "", **more: Any
    ) -> Answer:
        """One request as the first customer (or *auth*), its answer held to the description of the API."""
        headers = dict(more.pop("headers", {}))
        if auth is not None:
            headers["Authorization"] = auth or self.customers[0].whole
        if json is not None:
            more["data"] = orjson.dumps(json)
        if "data" in more:
            headers.setdefault("Content-Type", "application/json")
            if len(more["data"]) > 2**20:  # aiohttp wants large ones as files
                more["data"] = io.BytesIO(more["data"])
        url = self.origin + (path if path.startswith("!") else api.PREFIX + path).lstrip("!")
        async with self.session.request(method, url, headers=headers, **more) as response:
            text = await response.text()
        kind = response.headers.get("Content-Type", "")
        body = orjson.loads(text) if text and kind.startswith("application/json") else None
        answer = Answer(response.status, response.headers, text, body)
        self.answers.append(answer)
        self._hold(method, url.removeprefix(self.origin).split("?")[0], answer)
        return answer

    async def create(self, **body: Any) -> Any:
        """A new instance of `boxlike`, or of what *body* says."""
        body = {"element": {"key": "boxlike"}, "name": "box", "configuration": {}} | body
        body["configuration"] = {
            "oauth.api.key": "client",
            "oauth.api.secret": "client-secret",
            "oauth.callback.url": "https://app.example.com/granted",
        } | body["configuration"]
        answer = await self.call("POST", "/instances", body, auth=body.pop("auth", ""))
        assert 200 == answer.status, answer.text
        return answer.body

    def _hold(self, method: str, path: str, answer: Answer) -> None:
        assert re.fullmatch("[0-9a-f]{24}", answer.headers["Elements-Request-Id"])
        if answer.status >= 400:
            if method != "HEAD":
                assert answer.body["requestId"] == answer.headers["Elements-Request-Id"]
                assert answer.body["message"]
            return
        for operation in sorted(api.OPERATIONS, key=lambda one: one.address.count("{")):
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(operation.address))
            if operation.method == method and re.fullmatch(pattern, path):
                if operation.block is None:
                    assert answer.text == ""
                else:
                    kind = _adapter(operation.block)
                    held = kind.validate_json(answer.text, strict=True)
                    assert answer.body == kind.dump_python(held, by_alias=True)
                return


@cache
def _adapter(block: Any) -> TypeAdapter[Any]:
    return TypeAdapter(block)


Open = Callable[..., AbstractAsyncContextManager[Api]]
Run = Callable[..., Any]


@asynccontextmanager
async def running(dsn: str, keys: vault.Keys, folder: Path, **server: Any) -> AsyncGenerator[Api]:
    """Start everything; the first customer is of the organization `first`."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        asked: list[dict[str, str]] = []
        provider = await enter(serving(_provider(asked)))
        registry = elements.load([_definitions(folder, provider)])
        pool = await enter(database.open_pool(dsn, size=4))
        arrivals = api.Arrivals(pool)
        stack.push_async_callback(_stop, asyncio.create_task(arrivals.run()))
        writer = Writer(dsn=dsn, keys=keys, on_append=lambda kinds: arrivals.look())
        await writer.open()
        writing = asyncio.create_task(writer.run())
        stack.push_async_callback(_stop, writing)
        await writer.append(Unit(entries=[Entry("log.opened", data='{"id":"01020304"}')]))
        directory = Directory(pool=pool, keys=keys)
        await directory.load()
        http = await enter(Client())
        context = api.Context(
            arrivals=arrivals,
            pool=pool,
            keys=keys,
            writer=writer,
            directory=directory,
            elements=registry,
            http=http,
            connections=Connections(
                http=http, elements=registry, directory=directory, writer=writer
            ),
            addresses=AddressPolicy(),
            public_url="https://tidings.example.com",
        )
        settings = Server(**{"listen": "127.0.0.1:0", "stop_grace": 1.0} | server)
        app = make_app(context, server=settings)
        address = await enter(open_site(settings, app))
        session = await enter(aiohttp.ClientSession())
        running_api = Api(f"http://{address}", session, context, writer, dsn, asked)
        await running_api.customer("first")
        yield running_api


def _provider(asked: list[dict[str, str]]) -> web.Application:
    """A provider that exchanges authorization codes for tokens."""

    async def token(request: web.Request) -> web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        asked.append(form)
        match form.get("code"):
            case "refused":
                error = {"error": "invalid_grant", "error_description": "the code was used before"}
                return web.json_response(error, status=400)
            case "pause":
                return web.Response(status=429, headers={"Retry-After": "7"})
            case "broken":
                return web.Response(status=500)
        granted = base64.b64encode(form["code"].encode()).decode()
        return web.json_response(
            {
                "access_token": f"access-{granted}",
                "refresh_token": f"refresh-{granted}",
                "token_type": "bearer",
            }
        )

    app = web.Application()
    app.router.add_post("/token", token)
    return app


def _definitions(folder: Path, provider: str) -> Path:
    """The stand-ins, and the elements that come along, all with *provider* as the one who grants tokens."""
    folder = folder / "elements"
    folder.mkdir()
    for number, text in enumerate(STAND_INS.split("---")):
        (folder / f"{number}.toml").write_text(text.replace("PROVIDER", provider))
    for key in elements.BUILT_IN:
        file = elements.written(key)
        if not file.exists():
            continue  # it is described in its class
        text = file.read_text()
        text = re.sub(r'(?m)^token_url = ".*"$', f'token_url = "{provider}/token"', text)
        text = re.sub(r"(?m)^(id = .*)$", r"replaces = true\n\1", text, count=1)
        (folder / f"{key}.toml").write_text(text)
    return folder


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
