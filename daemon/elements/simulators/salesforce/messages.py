"""How a simulated Salesforce tells of changes: outbound messages, and what an Apex trigger posts.

An outbound message is SOAP with up to 100 notifications about one object.  It holds each record as it is when the
message is sent, nothing of one that was deleted meanwhile, and it is sent again, after longer and longer, until the
answer is a 200 that acknowledges it.  A trigger posts JSON once, whatever the answer.
"""

import asyncio
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import aiohttp
import orjson

from daemon.elements.salesforce.outbound_message import (
    ENVELOPE,
    INSTANCE,
    MOST_NOTIFICATIONS,
    OUTBOUND,
)
from daemon.elements.simulators.salesforce.org import Org
from daemon.model import Json

FIRST_WAIT = 3.0  # seconds; doubled with each try
LONGEST_WAIT = 2 * 3600.0
GIVEN_UP = 24 * 3600.0
_ACK = re.compile(r"<(?:\w+:)?Ack>\s*true\s*</(?:\w+:)?Ack>")
_SOBJECT = "urn:sobject.enterprise.soap.sforce.com"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt: the notifications of the message, and the status that answered, or what went wrong."""

    ids: tuple[str, ...]
    attempt: int
    outcome: int | str
    accepted: bool


@dataclass(slots=True)
class Notice:
    """A notification that waits: of which record, until when it is not to be sent, how often it was."""

    id: str
    kind: str
    record_id: str
    due: float
    given_up: float
    attempts: int = 0


class Messages:
    """Posts what changes in *org*; see `run`.

    *scale* shortens every wait: 0.001 makes a second of Salesforce's a millisecond here.
    """

    def __init__(self, org: Org, *, organization: str, scale: float, timeout: float = 60.0) -> None:
        self.url: str | None = None
        self.objects: tuple[str, ...] = ()
        self.apex_url: str | None = None
        self.apex_headers: dict[str, str] = {}
        self.deliveries: deque[Delivery] = deque(maxlen=1000)
        self.duplicate = False
        """Whether what was acknowledged is sent once more."""
        self.reverse = False
        """Whether the youngest goes first."""
        self._org = org
        self._organization = organization
        self._scale = scale
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._notices: list[Notice] = []
        self._calls: deque[Json] = deque(maxlen=10_000)
        self._news = asyncio.Event()
        self._attempted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def changed(self, kind: str, action: str, record: Json) -> None:
        """Hear of a commit in the organization."""
        if self.apex_url is not None and action != "system":
            self._calls.append({"objects": [_shown(kind, record)], "action": action})
            self._idle.clear()
        watched = not self.objects or kind in self.objects
        if self.url is not None and watched and action in ("insert", "update"):
            now = asyncio.get_running_loop().time()
            given_up = now + GIVEN_UP * self._scale
            identity = self._org.identifier("04l")
            self._notices.append(Notice(identity, kind, record["Id"], now, given_up))
            self._idle.clear()
        self._news.set()

    async def attempted(self) -> None:
        """Return when something was posted, accepted or not."""
        await self._attempted.wait()

    async def posted(self) -> None:
        """Return when nothing waits any more."""
        await self._idle.wait()

    async def run(self) -> None:
        """Post, until cancelled."""
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            while True:
                self._news.clear()
                while self._calls:
                    await self._call(session, self._calls.popleft())
                while batch := self._batch(loop.time()):
                    await self._send(session, batch)
                if not self._notices:
                    self._idle.set()
                due = min((one.due for one in self._notices), default=None)
                try:
                    async with asyncio.timeout_at(due):
                        await self._news.wait()
                except TimeoutError:
                    continue  # something is to be tried again

    def _batch(self, now: float) -> list[Notice]:
        """What goes into one message: notifications of one object that are due."""
        due = [one for one in self._notices if one.due <= now]
        if self.reverse:
            due.reverse()
        return [one for one in due if one.kind == due[0].kind][:MOST_NOTIFICATIONS]

    async def _send(self, session: aiohttp.ClientSession, batch: Sequence[Notice]) -> None:
        body = self._message(batch)
        accepted = await self._attempt(session, batch, body)
        if self.duplicate:
            accepted = await self._attempt(session, batch, body) or accepted
        now = asyncio.get_running_loop().time()
        for one in batch:
            one.attempts += 1
            one.due = now + min(FIRST_WAIT * 2**one.attempts, LONGEST_WAIT) * self._scale
            if accepted or one.due > one.given_up:
                self._notices.remove(one)

    async def _attempt(
        self, session: aiohttp.ClientSession, batch: Sequence[Notice], body: bytes
    ) -> bool:
        outcome, accepted = await self._post(session, str(self.url), body)
        attempt = max(one.attempts for one in batch) + 1
        ids = tuple(one.id for one in batch)
        self._tried(Delivery(ids, attempt, outcome, accepted))
        return accepted

    async def _post(
        self, session: aiohttp.ClientSession, url: str, body: bytes
    ) -> tuple[int | str, bool]:
        headers = {"Content-Type": "text/xml; charset=UTF-8", "SOAPAction": '""'}
        try:
            async with session.post(url, data=body, headers=headers) as answer:
                text = await answer.text()
                return answer.status, answer.status == 200 and bool(_ACK.search(text))  # noqa: PLR2004 — HTTP's OK
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__, False

    async def _call(self, session: aiohttp.ClientSession, body: Json) -> None:
        try:
            async with session.post(
                str(self.apex_url),
                data=orjson.dumps(body),
                headers={"Content-Type": "application/json", **self.apex_headers},
            ) as answer:
                outcome: int | str = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome = type(error).__name__
        ids = tuple(str(one["Id"]) for one in body["objects"])
        self._tried(Delivery(ids, 1, outcome, outcome == 200))  # noqa: PLR2004 — HTTP's OK

    def _tried(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._attempted.set()

    def _message(self, batch: Sequence[Notice]) -> bytes:
        told = "".join(
            f"<Notification><Id>{one.id}</Id>{self._record(one)}</Notification>" for one in batch
        )
        address = "https://org.my.salesforce.com/services/Soap"
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="{ENVELOPE}"'
            f' xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="{INSTANCE}"><soapenv:Body>'
            f'<notifications xmlns="{OUTBOUND}"><OrganizationId>{self._organization}</OrganizationId>'
            f'<ActionId>{self._org.identifier("04k")}</ActionId><SessionId xsi:nil="true"/>'
            f"<EnterpriseUrl>{address}/c/67.0/{self._organization[:15]}</EnterpriseUrl>"
            f"<PartnerUrl>{address}/u/67.0/{self._organization[:15]}</PartnerUrl>{told}"
            "</notifications></soapenv:Body></soapenv:Envelope>"
        ).encode()

    def _record(self, notice: Notice) -> str:
        record = self._org.at_all(notice.kind, notice.record_id)
        if record is None or record.get("IsDeleted"):
            return ""
        fields = {"Id": record["Id"], **record}
        inside = "".join(
            f"<sf:{name}>{escape(_written(value))}</sf:{name}>"
            for name, value in fields.items()
            if value is not None
        )
        return f'<sObject xsi:type="sf:{notice.kind}" xmlns:sf="{_SOBJECT}">{inside}</sObject>'


def _shown(kind: str, record: Mapping[str, Any]) -> Json:
    url = f"/services/data/v67.0/sobjects/{kind}/{record['Id']}"
    there = {name: value for name, value in record.items() if value is not None}
    return {"attributes": {"type": kind, "url": url}, **there}


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text.removesuffix("+0000") + "Z" if text.endswith("+0000") else text
