"""Random histories of the whole system, to be appended in groups as the writer does it.

A step is drawn as four numbers and means something only in the state that the steps before it made: which
instances there are, which notifications.  So every sequence is a history, and a shorter one is a simpler one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from heart import POLLED, change, hook, mark, opening, poll, state

from daemon.store import accounts, deliveries, objects
from daemon.store.deliveries import Outcome, Progress
from daemon.store.log import Entry
from daemon.store.vault import Keys
from daemon.store.writer import Unit, _prepare

Step = tuple[int, int, int, int]

KINDS = 16

BASE = datetime(2026, 1, 1, tzinfo=UTC)

RESOURCES = ("contacts", "orders")


@dataclass(slots=True)
class Watched:
    """An instance, as far as the next steps must know it."""

    id: int
    url: str | None
    disabled: bool = False
    resources: tuple[str, ...] = RESOURCES
    name: str = "first"
    notifications: list[int] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """Makes units of steps; `append` is told what became of them."""

    conn: Any
    keys: Keys
    live: list[Watched] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    delivered: set[tuple[int, int]] = field(default_factory=set)
    users: list[int] = field(default_factory=list)
    made: int = 0

    async def run(self, groups: Sequence[Sequence[Step]]) -> None:
        """Append the opening and then each group in one transaction."""
        await self._append([(opening(), None)])
        await self._append([self._create(1)])
        for group in groups:
            units = [made for step in group if (made := self._unit(step)) is not None]
            if units:
                await self._append(units)

    async def _append(self, units: Sequence[tuple[Unit, Watched | str | None]]) -> None:
        async with self.conn.transaction():
            prepared = await _prepare(self.conn, self.keys, [u for u, _ in units], self.gone)
        self.gone = prepared.gone
        for (_, about), receipt in zip(units, prepared.receipts, strict=True):
            if about == "user":
                self.users.append(receipt.position)
            elif isinstance(about, Watched) and about.id == 0:
                about.id = receipt.position
                self.live.append(about)
            elif isinstance(about, Watched) and receipt.appended:
                about.notifications.append(receipt.position)

    def _unit(self, step: Step) -> tuple[Unit, Watched | str | None] | None:
        kind, which, what, how = step
        if kind == 0:
            return Unit([accounts.new_user(f"user {what}", f"org {how % 3}")[0]]), "user"
        if kind == 1:
            return self._create(how)
        if kind == 2 and self.users:
            return Unit([accounts.removed_user(self.users[which % len(self.users)])]), None
        if not self.live:
            return None
        return self._about(self.live[which % len(self.live)], kind, what, how)

    def _create(self, how: int) -> tuple[Unit, Watched]:
        self.made += 1
        made = Watched(0, f"https://app.test/{self.made}" if how % 3 else None)
        entry = state(url=made.url, token=f"token {self.made}", name=made.name)
        return Unit([entry], secrets={"password": f"secret {self.made}"}), made

    def _about(
        self, it: Watched, kind: int, what: int, how: int
    ) -> tuple[Unit, Watched | None] | None:
        if kind in {3, 4}:
            return self._configured(it, what, how), None
        if kind == 5 and how % 3 == 0:
            self.live.remove(it)
            unit = Unit([self._state(it, "instance.deleted")], instance_id=it.id, forget=True)
            return unit, None
        if kind == 5:
            it.disabled = not it.disabled
            name = "instance.disabled" if it.disabled else "instance.enabled"
            return Unit([self._state(it, name)]), None
        if kind in {6, 7, 8}:
            return self._seen(it, what, how), it
        if kind == 9:
            known = [
                (str(n), mark(f"contacts/{n}/{how % 3}"), self._when(n, how))
                for n in (what, what % 3, what)
            ]
            places = {str(what): f"/{how}/{what}"} if how % 2 else {}
            return Unit([objects.known_entry(it.id, "contacts", known, places=places)]), None
        if kind in {10, 11}:
            return self._polled(it, what, how), None
        if kind == 12:
            enabled = how % 2
            name = "callback.enabled" if enabled else "callback.disabled"
            return Unit(
                [deliveries.callback_entry(name, it.id, it.id, None if enabled else "it is gone")]
            ), None
        if kind == 13 and how % 4 == 0:
            data = {"instance": it.id, "after": 0, "until": it.id + what, "url": None}
            return Unit(
                [Entry("replay.requested", data=orjson.dumps(data).decode(), instance_id=it.id)]
            ), None
        return self._deliveries(it, what, how), None

    def _state(self, it: Watched, kind: str) -> Entry:
        return state(
            kind,
            instance_id=it.id,
            url=it.url,
            name=it.name,
            token=f"of {it.id}",
            disabled=it.disabled,
            resources=it.resources,
        )

    def _configured(self, it: Watched, what: int, how: int) -> Unit:
        it.url = (it.url, None, f"https://app.test/new/{what}", it.url)[how % 4]
        it.resources = (RESOURCES, RESOURCES[:1], ())[what % 3]
        it.name = f"name {what}"
        return Unit([self._state(it, "instance.configured")])

    def _when(self, what: int, how: int) -> datetime | None:
        return None if how % 2 else BASE + timedelta(seconds=what, milliseconds=how)

    def _seen(self, it: Watched, what: int, how: int) -> Unit:
        kind = ("CREATED", "UPDATED", "DELETED", "UNKNOWN")[how % 4]
        changes = [
            change(
                n % 4,
                how % 3,
                kind=kind,
                object_type=RESOURCES[n % 5 == 4],
                changed=self._when(n, how + n),
            )
            for n in range(what, what + 1 + how)
        ]
        if how % 3 == 1 and kind != "DELETED":
            changes = [replace(one, place=f"/{how}/{one.object_id}") for one in changes]
        unit = hook(it.id, *changes) if what % 2 else poll(it.id, *changes)
        entry = objects.poll_entry("poll.completed", it.id, "contacts", cursor=POLLED.isoformat())
        return Unit(intakes=unit.intakes, if_changed=[entry])

    def _polled(self, it: Watched, what: int, how: int) -> Unit:
        kinds = (
            "poll.baseline",
            "poll.completed",
            "poll.failed",
            "poll.recovered",
            "poll.disabled",
            "poll.resumed",
            "poll.set_back",
            "sweep.allowed",
        )
        kind = kinds[what % len(kinds)]
        moment = (BASE + timedelta(minutes=what)).isoformat()
        facts: dict[str, Any] = {}
        if kind in {"poll.failed", "poll.disabled"}:
            facts = {"failures": how + 1, "error": "a word\0of theirs", "retry": moment}
        elif kind == "poll.baseline":
            facts = {"cursor": moment, "baseline": moment, "polled": moment, "swept": moment}
        elif kind in {"poll.completed", "poll.recovered", "poll.set_back"}:
            facts = {"cursor": moment, "polled": moment, "swept": moment if how % 2 else None}
            facts |= {"token": f"token {what}"} if how % 3 else {}
        return Unit([objects.poll_entry(kind, it.id, RESOURCES[how % 2], **facts)])

    def _deliveries(self, it: Watched, what: int, how: int) -> Unit:
        outcomes = []
        for offset, notification in enumerate(it.notifications[-1 - how :]):
            name = ("in_flight", "waiting", "retrying", "delivered", "dead")[(what + offset) % 5]
            if (it.id, notification) in self.delivered:
                continue
            if name == "delivered":
                self.delivered.add((it.id, notification))
            due = 1_700_000_000_000 + what if name == "retrying" else None
            status = {"delivered": 200 + how, "dead": 500}.get(name)
            error = None if name == "delivered" else "answered"
            outcomes.append(
                Outcome(
                    it.id,
                    notification,
                    name,
                    how,
                    due,
                    1_700_000_000_001,
                    status,
                    error,
                    bool(how % 2),
                )
            )
        at = (it.notifications or [it.id])[-1] - what % 3
        progress = [
            Progress(
                it.id, at, at + 100, finished=False, failing=None if how % 2 else 1_700_000_000_123
            )
        ]
        return Unit([deliveries.entry(progress if what % 4 else [], outcomes)])
