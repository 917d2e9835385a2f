"""The harness's provider: accounts that change at a rate, told by signed webhooks or found by polls.

A webhook is posted until a 2xx answers, one after the other for each account, so its order is the order of the
changes.  A polled list is ordered by the last change and paged by key, so that a walk misses nothing that
changes meanwhile.
"""

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import parse_qs

import orjson
from faults.ledger import Account, Event, Ledger
from faults.wire import Exchange, Poster, Request

from daemon.signatures import hmac_digest

SECRET = "what the provider of the fault harness signs with"

OBJECTS = 60
"""Living objects that an account has at most."""

BATCH = 8
"""Changes that one webhook carries at most."""

BACKLOG = 5000
"""Webhook changes of an account that may wait; more are not made, so that memory has a bound."""

TICK = 0.02  # seconds between two rounds of changes

AGAIN = 0.03
"""The share of webhooks that are posted again though they were answered, as providers do."""

RETRY = (0.1, 0.4)  # seconds between two attempts to post, at random

ELEMENT = """
id = 5900
key = "faulty"
name = "The provider of the fault harness"

[[parameters]]
key = "base.url"
name = "Address"
required = true

[[parameters]]
key = "faulty.account"
name = "Account"

[[parameters]]
key = "signature.secret"
name = "Webhook secret"
type = "PASSWORD"
secret = true

[connection]
base = "{base.url}"

[defaults]
items = "items"
id = "id"
updated = "updated"
created = "created"
date_format = "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'"
deletes = "sweep"
paging = { kind = "token", parameter = "cursor", next = "next", size_parameter = "limit", size = 25 }

[defaults.where]
"updated>=" = { parameter = "since", date = "yyyy-MM-dd'T'HH:mm:ss'Z'" }

[resources.things]

[webhook]
routing_key = "faulty.account"

[webhook.signature]
header = "X-Faulty-Signature"
prefix = "v1="
text = "{timestamp}.{body}"
timestamp_header = "X-Faulty-Timestamp"

[webhook.events]
items = "events"
id = "object"
object_type = "things"
type = "change"
types = { "made" = "CREATED", "changed" = "UPDATED", "gone" = "DELETED" }
identity = "event_id"
route = "$.account"
"""


@dataclass(slots=True)
class Books:
    """One account's objects, and what it still has to post."""

    account: Account
    records: dict[str, dict[str, object]] = field(default_factory=dict)
    made: int = 0
    waiting: deque[dict[str, object]] = field(default_factory=deque)
    some: asyncio.Event = field(default_factory=asyncio.Event)


class Provider:
    """Changes, answers polls, posts.  *skew* (seconds) is by how much its clock is wrong."""

    def __init__(self, ledger: Ledger, *, chance: random.Random) -> None:
        self.ledger = ledger
        self.skew = 0.0
        self.unpolled: set[str] = set()
        """Polled accounts that were not asked since its clock was set."""
        self.rate = 0.0
        self.target: tuple[str, int, str] | None = None  # host, port, path of the webhooks
        self._chance = chance
        self._books = {name: Books(account) for name, account in ledger.accounts.items()}
        self._all = list(self._books.values())

    @property
    def unacknowledged(self) -> int:
        """Changes that no 2xx has answered yet."""
        return sum(len(books.waiting) for books in self._all)

    def set_clock(self, seconds: float) -> None:
        """Make its clock wrong by *seconds*."""
        self.skew = seconds
        self.unpolled = {one.account.name for one in self._all if one.account.polled}

    async def run(self) -> None:
        """Change and post until cancelled."""
        async with asyncio.TaskGroup() as group:
            for books in self._all:
                if not books.account.polled:
                    group.create_task(self._post_all(books))
            owed, last = 0.0, time.monotonic()
            while True:
                await asyncio.sleep(TICK)
                now = time.monotonic()
                owed, last = min(owed + self.rate * (now - last), self.rate), now
                while owed >= 1:
                    owed -= 1
                    self._change(self._chance.choice(self._all))

    # Changes.

    def _change(self, books: Books) -> None:
        if len(books.waiting) >= BACKLOG:
            return
        draw, records = self._chance.random(), books.records
        now = self._now()
        if not records or (draw < 0.08 and len(records) < OBJECTS):
            books.made += 1
            record: dict[str, object] = {
                "id": f"{books.account.name}-{books.made}",
                "version": 1,
                "created": _iso(now),
            }
            records[str(record["id"])] = record
            change = "made"
        else:
            name = self._chance.choice(list(records))
            gone = draw > 0.97
            record = records.pop(name)
            record["version"] = int(str(record["version"])) + 1
            if not gone:
                records[name] = record  # at the end: the dict is in order of the last change
            change = "gone" if gone else "changed"
        record["updated"] = _iso(now)
        name, version = str(record["id"]), int(str(record["version"]))
        account = books.account
        self.ledger.events.append(
            Event(account.name, name, version, change == "gone", time.monotonic())
        )
        if not account.polled:
            event = {"event_id": f"{name}/{version}", "object": name, "version": version}
            books.waiting.append({**event, "change": change})
            books.some.set()

    def _now(self) -> float:
        return time.time() + self.skew

    # Webhooks.

    async def _post_all(self, books: Books) -> None:
        poster: Poster | None = None
        while True:
            await books.some.wait()
            books.some.clear()
            while books.waiting:
                size = self._chance.randint(1, BATCH)
                events = [books.waiting[i] for i in range(min(size, len(books.waiting)))]
                body = orjson.dumps({"account": books.account.name, "events": events})
                again = self._chance.random() < AGAIN
                while True:
                    if self.target is not None:
                        host, port, path = self.target
                        poster = poster or Poster(host, port)
                        if 200 <= await poster.post(path, body, self._signed(body)) < 300:
                            if not again:
                                break
                            again = False
                            continue
                    await asyncio.sleep(self._chance.uniform(*RETRY))
                for _ in events:
                    books.waiting.popleft()

    def _signed(self, body: bytes) -> dict[str, str]:
        stamp = int(self._now())
        digest = hmac_digest("sha256", "hex", SECRET.encode(), b"%d.%s" % (stamp, body))
        return {"X-Faulty-Timestamp": str(stamp), "X-Faulty-Signature": f"v1={digest}"}

    # Polls.

    def answer(self, exchange: Exchange, request: Request) -> None:
        """`/ACCOUNT/things[?since=…][&limit=…][&cursor=…]`."""
        _, account, *_ = request.path.split("/")
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        since, limit = query.get("since", ""), int(query.get("limit", "25"))
        after = query.get("cursor", "")
        if not after:
            self.unpolled.discard(account)
        ordered = sorted(
            self._books[account].records.values(), key=lambda r: (str(r["updated"]), str(r["id"]))
        )
        found = [
            record
            for record in ordered
            if str(record["updated"]) >= since.removesuffix("Z") and _key(record) > after
        ]
        following = _key(found[limit - 1]) if len(found) > limit else None
        body = orjson.dumps({"items": found[:limit], "next": following})
        exchange.answer(
            200,
            body,
            "Content-Type: application/json",
            f"Date: {formatdate(self._now(), usegmt=True)}",
        )


def _key(record: dict[str, object]) -> str:
    return f"{record['updated']} {record['id']}"


def _iso(moment: float) -> str:
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
