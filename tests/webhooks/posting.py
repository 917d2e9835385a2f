"""A daemon's site that takes in webhooks, on a real database; and providers that post to it."""

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from heart import writing

from daemon import api, elements
from daemon.config import Server
from daemon.connections import Connections
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.client import Client
from daemon.server import make_app, open_site
from daemon.store import database, instances, vault
from daemon.store.directory import Directory
from daemon.store.log import SELF
from daemon.store.writer import Unit, Writer
from daemon.webhooks import Webhooks

SIGNED = """
id = 1001
key = "signed"
name = "Signs its webhooks"
[connection]
base = "https://provider.example"
[resources.contacts]
[webhook]
methods = ["POST"]
routing_key = "account.id"
[webhook.signature]
header = "X-Signature"
prefix = "sha256="
[[webhook.challenge]]
method = "GET"
source = "query:challenge"
[webhook.events]
items = "events"
id = "id"
object_type_source = "type"
type = "what"
types = { made = "CREATED", changed = "UPDATED", removed = "DELETED" }
identity = "event"
route = "account"
"""

FORMS = """
id = 1002
key = "forms"
name = "Posts forms"
[webhook]
methods = ["POST", "GET"]
json_fields = ["ticket"]
unguessable = true
[webhook.events]
id = "itemId"
object_type = "files"
type = "event"
types = { uploaded = "CREATED" }
"""

HINTS = """
id = 1003
key = "hints"
name = "Only hints"
[connection]
base = "https://provider.example"
[resources.files]
[webhook]
hint = true
unsigned = true
[webhook.events]
id = "id"
object_type = "files"
"""

APPLICATION = """
id = 1004
key = "application"
name = "Signs with one secret for all accounts"
[webhook]
routing_key = "account.id"
[webhook.signature]
header = "X-Signature"
prefix = "sha256="
secret_file = "application.secret"
[webhook.reply]
body = "thanks"
[webhook.events]
id = "id"
object_type = "files"
route = "account"
"""

ADDRESS = """
id = 1005
key = "address"
name = "Signs the address as well"
[webhook]
[webhook.signature]
header = "X-Signature"
prefix = "sha256="
text = "{method} {path} {url} {body}"
[webhook.events]
id = "id"
object_type = "files"
"""

TRUSTING = """
id = 1006
key = "trusting"
name = "Does not sign"
[connection]
base = "https://provider.example"
[resources.contacts]
[webhook]
unguessable = true
routing_key = "account.id"
[webhook.events]
id = "id"
object_type_source = "type"
default_type = "UPDATED"
route = "account"
"""

DEFINITIONS = (SIGNED, FORMS, HINTS, APPLICATION, ADDRESS, TRUSTING)


def sign(body: bytes, secret: str = "secret") -> dict[str, str]:
    """The header of a signed webhook."""
    return {
        "X-Signature": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
        "Content-Type": "application/json",
    }


def event(object_id: object, what: str = "made", *, account: str = "a", **more: Any) -> Any:
    """An event of `signed`."""
    name = f"{account}-{object_id}-{what}"
    return {
        "id": object_id,
        "type": "contacts",
        "what": what,
        "event": name,
        "account": account,
    } | more


def body_of(*events: Any) -> bytes:
    """A webhook of `signed`."""
    return orjson.dumps({"events": events})


class Site:
    """The site, and what it has taken in."""

    def __init__(
        self, origin: str, session: aiohttp.ClientSession, context: api.Context, webhooks: Webhooks
    ) -> None:
        self.origin = origin
        self.session = session
        self.context = context
        self.webhooks = webhooks
        self.woken: list[int] = []

    @property
    def writer(self) -> Writer:
        """The writer at work."""
        return self.context.writer

    async def create(
        self, element: str = "signed", *, secret: str | None = "secret", **settings: str | None
    ) -> int:
        """An instance's id; `__` in a setting's name is a dot."""
        configuration = {
            "event.notification.enabled": "true",
            "event.notification.callback.url": "https://app.test/hook",
            "event.vendor.type": "webhook",
            "account.id": "a",
            "signature.secret": "********",
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        entry = instances.entry(
            "instance.created",
            instance_id=SELF,
            organization_id=2,
            user_id=2,
            element_key=element,
            hub="general",
            name=element,
            tags=(),
            configuration=configuration,
            token_digest=instances.digest(instances.new_token()),
            disabled=False,
            callback="https://app.test/hook",
            resources=(),
        )
        secrets = {"signature.secret": secret, "webhook.secret": secret}
        receipt = await self.writer.append(Unit([entry], secrets=secrets))
        await self.context.directory.refresh()
        return receipt.position

    async def post(
        self, path: str, body: Any = b"", headers: dict[str, str] | None = None, **more: Any
    ) -> tuple[int, bytes]:
        """Status and body of one POST to `/events/…`."""
        url = f"{self.origin}/events/{path}"
        async with self.session.post(url, data=body, headers=headers, **more) as answer:
            return answer.status, await answer.read()

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one GET of `/events/…`."""
        async with self.session.get(f"{self.origin}/events/{path}") as answer:
            return answer.status, await answer.read()

    async def told(self, instance_id: int | None = None) -> list[tuple[str, str, str]]:
        """(change, object type, object id) of what is in the log."""
        rows = await self.context.pool.fetch(
            "SELECT change, object_type, object_id FROM log WHERE kind = 'change' AND ($1::bigint IS NULL OR instance_id = $1)"
            " ORDER BY position",
            instance_id,
        )
        return [tuple(row) for row in rows]


@asynccontextmanager
async def site(
    dsn: str,
    keys: vault.Keys,
    folder: Path,
    *,
    through: str | None = None,
    timeout: float = 5.0,  # noqa: ASYNC109 — the webhooks' own
    **server: Any,
) -> AsyncIterator[Site]:
    """Start everything; *through* is the DSN of a proxy to the database."""
    (folder / "application.secret").write_text("ours")
    files = [folder / f"{number}.toml" for number in range(len(DEFINITIONS))]
    for file, text in zip(files, DEFINITIONS, strict=True):
        file.write_text(text)
    async with (
        database.open_pool(through or dsn, size=4) as pool,
        writing(through or dsn, keys) as writer,
        Client() as http,
        aiohttp.ClientSession() as session,
    ):
        directory = Directory(pool=pool, keys=keys)
        await directory.load()
        registry = elements.load(files)
        woken: list[int] = []
        webhooks = Webhooks(
            elements=registry,
            directory=directory,
            writer=writer,
            wake_poller=woken.append,
            public_url="https://tidings.example.com",
            timeout=timeout,
        )
        context = api.Context(
            arrivals=api.Arrivals(pool),
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
        app = make_app(context, extra_routes=webhooks.routes(), server=settings)
        async with open_site(settings, app) as address:
            running = Site(f"http://{address}", session, context, webhooks)
            running.woken = woken
            yield running
