"""One instance's poller: its resources in turn, page by page into the log.

The first poll of a resource sets the baseline: what it finds becomes known and nobody is told, unless the
instance asks for a backfill (`event.poller.backfill`: true, or a date to begin at).  Each later poll asks for
what changed since the cursor, a little before it, and what is known already falls away by its fingerprint.

The cursor is the provider's time: the latest change seen, or, where records carry no dates, the provider's
clock when the poll began.  It moves with the entry that ends a poll, after all pages are in the log; a poll
that breaks off is simply done again.

What goes wrong outside stays here: it is written down with the resource, waits, and grows longer; the other
resources go on.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import structlog

from daemon.backoff import Exponential
from daemon.dates import DatePattern
from daemon.elements.base import Element, Http, Settings
from daemon.elements.connection import Connection
from daemon.errors import ConfigError, ElementError, Invalid, Transient
from daemon.model import Change, ChangeType, Instance, Page
from daemon.plans import ResourcePlan, compile_plans, fingerprint, refresh_interval
from daemon.poller.sweep import EPOCH, deleted, deletions, missing
from daemon.store import objects
from daemon.store.database import AWAY, Pool
from daemon.store.directory import Directory
from daemon.store.writer import Intake, Unit, Writer

log = structlog.get_logger()

OVERLAP = timedelta(seconds=60)
"""How far before the cursor a poll asks again: providers show changes late (indexes, long transactions)."""

ERROR_MOST = 500  # characters of an error that the log keeps

BACKOFF = Exponential(base=15.0, most=3600.0, jitter=0.2)

OUTAGE_PAUSE = 2.0
"""Seconds until a poll is tried again that broke off because the database is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """What pollers share: their collaborators, and the operator's rules (`[polling]`)."""

    pool: Pool
    writer: Writer
    directory: Directory
    http: Http
    turns: asyncio.Semaphore
    jitter: float = 0.1
    disable_after_failures: int = 100
    sweep_limit: float = 0.5
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    chance: Callable[[], float] = random.random


@dataclass(slots=True)
class Resource:
    """One resource that is polled, and how far it is: a row of `cursors`, followed in memory."""

    plan: ResourcePlan
    path: str = ""  # what the provider calls it: the plan's name is the customer's
    cursor: datetime | None = None
    baseline: datetime | None = None
    swept: datetime | None = None
    failures: int = 0
    retry: datetime | None = None
    disabled: bool = False
    allow_sweep: bool = False

    def load(self, row: asyncpg.Record) -> None:
        """Take the state of a stored row."""
        swept = self.swept
        for name in ("cursor", "baseline", "swept", "failures", "retry", "disabled", "allow_sweep"):
            setattr(self, name, row[name])
        if swept is not None and (self.swept is None or self.swept < swept):
            self.swept = swept  # a sweep that found nothing is not written down


class Poller:
    """Polls one instance, as it is at one revision, until cancelled."""

    def __init__(self, polling: Polling, instance: Instance, element: Element) -> None:
        """Raises `Invalid` for a configuration that does not compile."""
        self._polling = polling
        self._instance = instance
        self._element = element
        self.interval = refresh_interval(instance.configuration)
        plans = compile_plans(instance.configuration, element.poller_defaults)
        self.resources = {plan.resource: Resource(plan) for plan in plans}
        self._sweep_every = _minutes(instance.configuration.get("event.poller.sweep_interval"))
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Poll now."""
        self._woken.set()

    async def run(self, *, first_after: float) -> None:
        """Poll, wait, poll again, until cancelled."""
        with structlog.contextvars.bound_contextvars(
            instance=self._instance.id, element=self._element.key
        ):
            pause = first_after
            while True:
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    pass  # it is time
                hurry = self._woken.is_set()
                self._woken.clear()
                async with self._polling.turns:
                    pause = await self.poll_once(hurry=hurry)

    async def poll_once(self, *, hurry: bool = False) -> float:
        """Poll every resource that is due; returns the seconds until the next time.

        With *hurry*, those that wait after a failure are polled too.
        """
        try:
            for row in await objects.cursors(self._polling.pool, self._instance.id):
                if row["resource"] in self.resources:
                    self.resources[row["resource"]].load(row)
            settings = await self._polling.directory.settings(self._instance)
            http = Connection(
                http=self._polling.http, element=self._element, settings=settings, save=self._save
            )
            for resource in self.resources.values():
                now = self._polling.clock()
                if not resource.disabled and (
                    hurry or resource.retry is None or resource.retry <= now
                ):
                    await self._poll(resource, http, settings)
        except AWAY as error:
            log.warning(
                "poll broken off, the database is away", error=str(error) or type(error).__name__
            )
            return OUTAGE_PAUSE
        return self._pause()

    def _pause(self) -> float:
        now = self._polling.clock()
        usual = self.interval * (1 + self._polling.jitter * (self._polling.chance() * 2 - 1))
        retries = [
            (resource.retry - now).total_seconds()
            for resource in self.resources.values()
            if resource.retry is not None and not resource.disabled
        ]
        return max(min([usual, *retries]), 0.05)

    async def _poll(self, resource: Resource, http: Http, settings: Settings) -> None:
        """One resource, to the end; what goes wrong with the provider is written down, not raised."""
        try:
            if resource.baseline is None:
                await self._first(resource, http, settings)
            else:
                await self._next(resource, http, settings)
        except AWAY:
            raise
        except Transient as error:
            await self._failed(resource, error, retry_after=error.retry_after)
        except (ElementError, Invalid, ConfigError) as error:
            await self._failed(resource, error)
        except Exception as error:
            log.exception("poll failed unexpectedly", resource=resource.plan.resource)
            await self._failed(resource, error)

    async def _first(self, resource: Resource, http: Http, settings: Settings) -> None:
        """Set the baseline."""
        plan, instance_id = resource.plan, self._instance.id
        start = self._backfill_from()
        # From a little earlier, as every poll asks: what changed just before is thus known, and not taken for new.
        since = self._polling.clock() - max(OVERLAP, plan.grain) if start is None else start
        asked: datetime | None = None
        latest: datetime | None = None
        found = 0
        query = plan.query(since, self._polling.clock())
        resource.path = query.resource
        async with aclosing(self._element.read(http, settings, query)) as pages:
            async for page in pages:
                asked = asked or page.asked
                latest = _later(latest, plan, page)
                if start is None:
                    known = [
                        (i, fingerprint(record), plan.updated(record))
                        for i, record in self._identified(plan, page)
                    ]
                    if known:
                        entry = objects.known_entry(instance_id, plan.resource, known)
                        await self._polling.writer.append(Unit([entry]))
                    found += len(known)
                else:
                    found += await self._page(resource, page, since=start, baseline=start)
        if not plan.complete:
            # What the question does not show is known by its id, so that its end can be noticed.
            found += await self._know_inventory(resource, http, settings)
        moment = asked or self._polling.clock()
        resource.cursor = (
            min(latest, moment) if latest is not None and start is not None else moment
        )
        resource.baseline = moment if start is None else start
        resource.swept = moment
        await self._write(
            resource,
            "poll.baseline",
            cursor=resource.cursor,
            baseline=resource.baseline,
            polled=moment,
            swept=moment,
        )
        log.info(
            "baseline taken", resource=plan.resource, objects=found, backfill=start is not None
        )

    async def _next(self, resource: Resource, http: Http, settings: Settings) -> None:
        """Read what changed since the cursor, and what is gone."""
        plan = resource.plan
        assert resource.cursor is not None and resource.baseline is not None  # noqa: S101, PT018 — set with the baseline; for the type checker
        # A question that names only a day asks from that day's beginning, or it loses what is younger.
        asked_since = resource.cursor - max(OVERLAP, plan.grain)
        since = max(asked_since, resource.baseline)
        asked: datetime | None = None
        latest: datetime | None = None
        changed = 0
        query = plan.query(asked_since, self._polling.clock())
        resource.path = query.resource
        async with aclosing(self._element.read(http, settings, query)) as pages:
            async for page in pages:
                asked = asked or page.asked
                latest = _later(latest, plan, page)
                changed += await self._page(resource, page, since=since, baseline=resource.baseline)
        gone, swept = await self._gone(resource, http, settings, asked_since)
        changed += gone
        moment = asked or self._polling.clock()
        # A record dated in the future must not carry the cursor past what is still to come.
        reached = max(resource.cursor, moment if latest is None else min(latest, moment))
        if changed or resource.failures or (swept and resource.allow_sweep):
            resource.cursor = reached
            await self._write(
                resource,
                "poll.recovered" if resource.failures else "poll.completed",
                cursor=reached,
                polled=moment,
                swept=moment if swept else None,
            )
            log.info("poll found changes", resource=plan.resource, changes=changed)
        if swept:
            resource.swept = moment
        if resource.failures:
            log.info("poll works again", resource=plan.resource, after_failures=resource.failures)
        resource.failures, resource.retry, resource.allow_sweep = (
            0,
            None,
            resource.allow_sweep and not swept,
        )

    async def _page(
        self, resource: Resource, page: Page, *, since: datetime, baseline: datetime
    ) -> int:
        """Append what of *page* is news; how many changes that were."""
        plan = resource.plan
        records = self._identified(plan, page)
        known = await objects.known(
            self._polling.pool,
            self._instance.id,
            plan.resource,
            [object_id for object_id, _ in records],
        )
        changes: list[Change] = []
        for object_id, record in records:
            mark, before = fingerprint(record), known.get(object_id)
            gone = before is not None and before["deleted"]
            there = before is not None and not gone
            if self._element.deleted(resource.path, record):
                if there:
                    changes.append(deleted(plan, object_id, plan.updated(record)))
                continue
            if before is not None and not gone and before["fingerprint"] == mark:
                continue
            dates = plan.dates(record)
            if dates.unreadable:
                log.warning(
                    "unreadable date",
                    resource=plan.resource,
                    fields=dates.unreadable,
                    object=object_id,
                )
            change = plan.judge(
                record,
                last_poll=since,
                poll_started=page.asked,
                known=there,
                baseline=baseline,
                dates=dates,
            )
            if change is None:
                continue
            if gone:
                change = ChangeType.CREATED  # it is back
            data = orjson.dumps(record)
            changes.append(
                Change(plan.resource, object_id, change, plan.updated(record), mark, data)
            )
        if not changes:
            return 0
        receipt = await self._polling.writer.append(
            Unit(intakes=[Intake(self._instance.id, changes, polled=page.asked)])
        )
        return receipt.appended

    async def _gone(
        self, resource: Resource, http: Http, settings: Settings, since: datetime
    ) -> tuple[int, bool]:
        """Append the deletions since the last time; how many, and whether an inventory was taken."""
        plan, pool = resource.plan, self._polling.pool
        told = deletions(self._element, http, settings, plan, since)
        if told is not None:
            count = 0
            async with aclosing(told):
                async for ids in told:
                    known = await objects.known(pool, self._instance.id, plan.resource, ids)
                    count += await self._delete(
                        plan, [i for i in ids if i in known and not known[i]["deleted"]]
                    )
            return count, False
        now = self._polling.clock()
        if (
            resource.swept is not None
            and (now - resource.swept).total_seconds() < self._sweep_every
        ):
            return 0, False
        left = await missing(
            self._element,
            http,
            settings,
            plan,
            known=await objects.present(pool, self._instance.id, plan.resource),
            limit=self._polling.sweep_limit,
            allowed=resource.allow_sweep,
        )
        return (0, False) if left is None else (await self._delete(plan, left), True)

    async def _delete(self, plan: ResourcePlan, ids: list[str]) -> int:
        if not ids:
            return 0
        changes = [deleted(plan, object_id) for object_id in ids]
        intake = Intake(self._instance.id, changes, polled=self._polling.clock())
        return (await self._polling.writer.append(Unit(intakes=[intake]))).appended

    async def _know_inventory(self, resource: Resource, http: Http, settings: Settings) -> int:
        plan, count = resource.plan, 0
        pages = self._element.inventory(http, settings, plan.query(EPOCH, EPOCH).resource)
        if pages is None:
            return 0
        async with aclosing(pages):
            async for page in pages:
                found = self._identified(plan, page)
                there = await objects.known(
                    self._polling.pool,
                    self._instance.id,
                    plan.resource,
                    [object_id for object_id, _ in found],
                )
                fresh = [
                    (i, fingerprint(record), plan.updated(record))
                    for i, record in found
                    if i not in there
                ]
                if fresh:
                    await self._polling.writer.append(
                        Unit([objects.known_entry(self._instance.id, plan.resource, fresh)])
                    )
                count += len(fresh)
        return count

    def _identified(self, plan: ResourcePlan, page: Page) -> list[tuple[str, dict[str, object]]]:
        found = [(plan.object_id(record), record) for record in page.records]
        nameless = sum(object_id is None for object_id, _ in found)
        if nameless:
            log.warning(
                "records without an id", resource=plan.resource, records=nameless,
                remedy=f"idField of {plan.resource} in event.poller.configuration leads to nothing in them",
            )  # fmt: skip
        return [(object_id, record) for object_id, record in found if object_id is not None]

    def _backfill_from(self) -> datetime | None:
        """From when the first poll tells, None when it only sets the baseline."""
        wanted = (self._instance.configuration.get("event.poller.backfill") or "").strip()
        if wanted.lower() in {"", "false"}:
            return None
        return (
            EPOCH
            if wanted.lower() == "true"
            else DatePattern.compile("yyyy-MM-dd'T'HH:mm:ssXXX").parse(wanted)
        )

    async def _failed(
        self, resource: Resource, error: Exception, *, retry_after: float | None = None
    ) -> None:
        """Write down that a poll failed and when the next may be."""
        resource.failures += 1
        message = (str(error) or type(error).__name__)[:ERROR_MOST]
        if resource.failures == 1:
            log.warning("poll failed", resource=resource.plan.resource, error=message)
        pause = BACKOFF.delay(resource.failures, self._polling.chance)
        if isinstance(error, Transient):
            pause = max(pause, retry_after or 0.0)
        else:
            # Trying again soon does not help; the usual interval is often enough to see that somebody mended it.
            pause = max(pause, self.interval)
        resource.retry = self._polling.clock() + timedelta(seconds=pause)
        kind = "poll.failed"
        if resource.failures >= self._polling.disable_after_failures:
            kind, resource.disabled = "poll.disabled", True
            log.error(
                "polling disabled",
                resource=resource.plan.resource,
                failures=resource.failures,
                error=message,
            )
        await self._write(
            resource, kind, failures=resource.failures, error=message, retry=resource.retry
        )

    async def _write(self, resource: Resource, kind: str, **facts: object) -> None:
        entry = objects.poll_entry(kind, self._instance.id, resource.plan.resource, **facts)
        await self._polling.writer.append(Unit([entry]))

    async def _save(self, secrets: dict[str, str]) -> None:
        """Keep rotated credentials, before they are used: the old ones may be worthless already."""
        await self._polling.writer.append(
            Unit(instance_id=self._instance.id, secrets=dict(secrets)), patient=True
        )
        self._polling.directory.forget_settings(self._instance.id)


def _later(latest: datetime | None, plan: ResourcePlan, page: Page) -> datetime | None:
    moments = [moment for moment in map(plan.updated, page.records) if moment is not None]
    return max(moments if latest is None else [latest, *moments], default=None)


def _minutes(text: str | None) -> float:
    """`event.poller.sweep_interval` in seconds; 0, with every poll, unless it is given."""
    if not text:
        return 0.0
    try:
        return max(float(text), 0.0) * 60
    except ValueError:
        raise Invalid(
            {"event.poller.sweep_interval": f"is {text!r}, but should be a number of minutes"}
        ) from None
