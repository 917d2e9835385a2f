"""One instance's poller: its resources in turn, page by page into the log.

The first poll of a resource sets the baseline: what it finds becomes known and nobody is told, unless the
instance asks for a backfill (`event.poller.backfill`: true, or a date to begin at).  Each later poll asks for
what changed since the cursor, a little before it, and what is known already falls away by its fingerprint.

The cursor is the provider's time: the latest change seen, or, where records carry no dates, the provider's
clock when the poll began.  It moves with the entry that ends a poll, after all pages are in the log; a poll
that breaks off is simply done again.

What goes wrong outside stays here: it is written down with the resource, and the wait before it is tried again
grows; the other resources go on.  A database that is away is nobody's fault: the poll is done again soon.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import structlog

from daemon.backoff import Exponential
from daemon.elements.base import Element, Http, Settings
from daemon.elements.connection import Connection
from daemon.errors import ConfigError, ElementError, Invalid, Transient
from daemon.model import Change, ChangeType, Instance, Page
from daemon.plans import ResourcePlan, compile_plans, fingerprint, refresh_interval
from daemon.poller.reading import EPOCH, backfill_from, heard, identified, sweep_interval
from daemon.poller.sweep import SweepRefused, deleted, deletions, missing
from daemon.store import objects
from daemon.store.database import Pool, is_outage
from daemon.store.directory import Directory
from daemon.store.writer import Intake, Unit, Writer

log = structlog.get_logger()

OVERLAP = timedelta(seconds=60)
"""How far before the cursor a poll asks again: providers show changes late (indexes, long transactions)."""

ERROR_MOST = 500  # characters of an error that the log keeps

BACKOFF = Exponential(base=15.0, most=3600.0, jitter=0.2)

CLOCKS_DIFFER = timedelta(seconds=2)
"""By less than this a provider's `Date`, in whole seconds and from a moment ago, may be behind a clock that is right."""

LEAST_PAUSE = 0.05  # seconds between two polls, whatever else says so

OUTAGE_PAUSE = 2.0
"""Seconds until a poll is tried again that broke off because the database is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """What pollers share: their collaborators, and the operator's rules (`[polling]`).

    *turns* bounds the polls that run at a time; of them at most *per_provider* may be at one provider, so
    that one which is slow does not use up the turns of the others.
    """

    pool: Pool
    writer: Writer
    directory: Directory
    http: Http
    turns: asyncio.Semaphore
    per_provider: int = 8
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
        self._woken = asyncio.Event()
        self._hurry = False

    def wake(self, *, hurry: bool = False) -> None:
        """Poll now; with *hurry* what waits after a failure as well."""
        self._hurry = self._hurry or hurry
        self._woken.set()

    async def run(self, *, first_after: float, turns: asyncio.Semaphore) -> None:
        """Poll, wait, poll again, until cancelled; *turns* are those at its provider."""
        loop = asyncio.get_running_loop()
        with structlog.contextvars.bound_contextvars(
            instance=self._instance.id, element=self._element.key
        ):
            due = loop.time() + first_after
            pause, woken, hurry = first_after, False, False
            while True:
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    pass  # it is time
                # What was asked for before a poll broke off is still asked for.
                woken, hurry = woken or self._woken.is_set(), hurry or self._hurry
                self._woken.clear()
                self._hurry = False
                everything = woken or loop.time() >= due
                async with turns, self._polling.turns:
                    ended = await self.poll_once(hurry=hurry, retries_only=not everything)
                if not ended:
                    pause = OUTAGE_PAUSE
                    continue
                woken = hurry = False
                if everything:
                    due = loop.time() + self._usual()
                pause = max(min(due - loop.time(), self._until_retry()), LEAST_PAUSE)

    async def poll_once(self, *, hurry: bool = False, retries_only: bool = False) -> bool:
        """Poll every resource that does not wait after a failure; false when the database went away meanwhile.

        With *hurry* those that wait are polled too; with *retries_only* none but those whose wait is over.
        """
        try:
            for row in await objects.cursors(self._polling.pool, self._instance.id):
                if row["resource"] in self.resources:
                    self.resources[row["resource"]].load(row)
            due = [
                resource
                for resource in self.resources.values()
                if not resource.disabled and self._is_due(resource, hurry, retries_only)
            ]
            if due:
                await self._poll_all(due)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning(
                "poll broken off, the database is away", error=str(error) or type(error).__name__
            )
            return False
        return True

    def _is_due(self, resource: Resource, hurry: bool, retries_only: bool) -> bool:  # noqa: FBT001 — called once, above
        if resource.retry is None:
            return not retries_only
        return hurry or resource.retry <= self._polling.clock()

    async def _poll_all(self, due: list[Resource]) -> None:
        try:
            settings = await self._polling.directory.settings(self._instance)
        except ConfigError as error:
            # A secret that no key of ours opens: this instance's trouble only.
            for resource in due:
                await self._failed(resource, error)
            return
        http = Connection(
            http=self._polling.http, element=self._element, settings=settings, save=self._save
        )
        for resource in due:
            await self._poll(resource, http, settings)

    def _usual(self) -> float:
        """Seconds from one poll to the next: the interval, a little shorter or longer."""
        return self.interval * (1 + self._polling.jitter * (self._polling.chance() * 2 - 1))

    def _until_retry(self) -> float:
        """Seconds until the first of those that wait after a failure is due."""
        now = self._polling.clock()
        return min(
            (
                (resource.retry - now).total_seconds()
                for resource in self.resources.values()
                if resource.retry is not None and not resource.disabled
            ),
            default=math.inf,
        )

    async def _poll(self, resource: Resource, http: Http, settings: Settings) -> None:
        """One resource, to the end; what goes wrong with the provider is written down, not raised."""
        try:
            if resource.baseline is None:
                await self._first(resource, http, settings)
            else:
                await self._next(resource, http, settings)
        except Transient as error:
            await self._failed(resource, error, retry_after=error.retry_after)
        except (ElementError, Invalid, ConfigError) as error:
            await self._failed(resource, error)
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("poll failed unexpectedly", resource=resource.plan.resource)
            await self._failed(resource, error)

    async def _first(self, resource: Resource, http: Http, settings: Settings) -> None:
        """Set the baseline."""
        plan = resource.plan
        start = backfill_from(self._instance.configuration)
        reach = Reach(plan)
        if start is None:
            asked, found = await self._know_recent(resource, http, settings)
        else:
            asked, found = None, 0
            query = plan.query(start, self._polling.clock())
            resource.path = query.resource
            async with aclosing(heard(self._element.read(http, settings, query))) as pages:
                async for page in pages:
                    asked = asked or page.asked
                    reach.take(page)
                    found += await self._page(resource, page, since=start, baseline=start)
        if not plan.complete:
            # What the question does not show is known by its id, so that its end can be noticed.
            found += await self._know_inventory(resource, http, settings)
        moment = asked or self._polling.clock()
        resource.cursor = moment if start is None else reach.upto(moment) or start
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
        resource.failures, resource.retry = 0, None
        log.info(
            "baseline taken", resource=plan.resource, objects=found, backfill=start is not None
        )

    async def _know_recent(
        self, resource: Resource, http: Http, settings: Settings
    ) -> tuple[datetime | None, int]:
        """Make known what a question from a little before now shows; when the provider was asked, and how many.

        A little, as every poll asks: what changed just before is not taken for new then.  Where the provider's
        clock turns out to be behind ours, the question is put once more by its own.
        """
        plan, before = resource.plan, max(OVERLAP, resource.plan.grain)
        since = self._polling.clock() - before
        asked, found = await self._know_since(resource, http, settings, since)
        if asked is not None and not plan.complete and asked - before < since - CLOCKS_DIFFER:
            asked, found = await self._know_since(resource, http, settings, asked - before)
        return asked, found

    async def _know_since(
        self, resource: Resource, http: Http, settings: Settings, since: datetime
    ) -> tuple[datetime | None, int]:
        plan, found = resource.plan, 0
        asked: datetime | None = None
        query = plan.query(since, self._polling.clock())
        resource.path = query.resource
        async with aclosing(heard(self._element.read(http, settings, query))) as pages:
            async for page in pages:
                asked = asked or page.asked
                # What is marked as deleted already never was there, as far as anybody here knows.
                known = [
                    (i, fingerprint(record), plan.updated(record))
                    for i, record in identified(plan, page)
                    if not self._element.deleted(resource.path, record)
                ]
                if known:
                    entry = objects.known_entry(self._instance.id, plan.resource, known)
                    await self._polling.writer.append(Unit([entry]))
                found += len(known)
        return asked, found

    async def _next(self, resource: Resource, http: Http, settings: Settings) -> None:
        """Read what changed since the cursor, and what is gone."""
        plan = resource.plan
        assert resource.cursor is not None and resource.baseline is not None  # noqa: S101, PT018 — set with the baseline; for the type checker
        # A question that names only a day asks from that day's beginning, or it loses what is younger.
        asked_since = resource.cursor - max(OVERLAP, plan.grain)
        since = max(asked_since, resource.baseline)
        asked: datetime | None = None
        reach = Reach(plan)
        told = deletions(self._element, http, settings, plan, since)
        live: set[str] | None = None if told is None else set()
        changed = 0
        query = plan.query(asked_since, self._polling.clock())
        resource.path = query.resource
        async with aclosing(heard(self._element.read(http, settings, query))) as pages:
            async for page in pages:
                asked = asked or page.asked
                reach.take(page)
                changed += await self._page(
                    resource, page, since=since, baseline=resource.baseline, live=live
                )
        if told is not None and live is not None:
            changed += await self._told_gone(plan, told, live)
            swept = False
        else:
            gone, swept = await self._sweep(resource, http, settings)
            changed += gone
        moment = asked or self._polling.clock()
        reached = max(resource.cursor, reach.upto(moment) or resource.cursor)
        if changed or resource.failures or (swept and resource.allow_sweep):
            resource.cursor = reached
            await self._write(
                resource,
                "poll.recovered" if resource.failures else "poll.completed",
                cursor=reached,
                polled=moment,
                swept=moment if swept else None,
            )
        if changed:
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
        self,
        resource: Resource,
        page: Page,
        *,
        since: datetime,
        baseline: datetime,
        live: set[str] | None = None,
    ) -> int:
        """Append what of *page* is news; how many changes that were.  Adds to *live* the ids that exist."""
        plan = resource.plan
        records = identified(plan, page)
        rows = await objects.known(
            self._polling.pool,
            self._instance.id,
            plan.resource,
            [object_id for object_id, _ in records],
        )
        # Followed through the page: pages that shift show a record twice.
        known = {i: (row["fingerprint"], row["deleted"]) for i, row in rows.items()}
        changes: list[Change] = []
        for object_id, record in records:
            mark = fingerprint(record)
            before, gone = known.get(object_id, (None, False))
            there = object_id in known and not gone
            if self._element.deleted(resource.path, record):
                if there or (object_id not in known and _was_there(plan, record, since, baseline)):
                    changes.append(deleted(plan, object_id, plan.updated(record)))
                    known[object_id] = (None, True)
                continue
            if live is not None:
                live.add(object_id)
            if there and before == mark:
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
            known[object_id] = (mark, False)
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

    async def _told_gone(
        self, plan: ResourcePlan, told: AsyncGenerator[list[str]], live: set[str]
    ) -> int:
        """Append the deletions that the provider tells; how many.

        Those *live* in the same poll came back since, or went only now: then the next poll is told so again.
        One that is not known may be older than the baseline, whose polls showed only what was new.
        """
        count = 0
        async with aclosing(told):
            async for ids in told:
                known = await objects.known(
                    self._polling.pool, self._instance.id, plan.resource, ids
                )
                news = [
                    i
                    for i in ids
                    if i not in live
                    and (not known[i]["deleted"] if i in known else not plan.complete)
                ]
                count += await self._delete(plan, news)
        return count

    async def _sweep(self, resource: Resource, http: Http, settings: Settings) -> tuple[int, bool]:
        """Append what an inventory shows to be gone; how many, and whether one was taken."""
        plan, pool = resource.plan, self._polling.pool
        every = sweep_interval(self._instance.configuration)
        now = self._polling.clock()
        if resource.swept is not None and (now - resource.swept).total_seconds() < every:
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
        async with aclosing(heard(pages)) as answers:
            async for page in answers:
                found = identified(plan, page)
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
        if isinstance(error, SweepRefused):
            # It asks a person; what the polls themselves find goes on meanwhile.
            resource.retry = self._polling.clock() + timedelta(seconds=self.interval)
        elif resource.failures >= self._polling.disable_after_failures:
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


def _was_there(
    plan: ResourcePlan, record: dict[str, object], since: datetime, baseline: datetime
) -> bool:
    """Whether an unknown *record*, marked as deleted, is news: it was there before, and no poll had a reason to show it."""
    dates = plan.dates(record)
    if plan.complete or dates.updated is None or dates.updated.moment < since:
        return False
    return dates.created is not None and dates.created.moment < baseline


class Reach:
    """How far a poll has read: the latest change that it saw.

    A record dated in the future does not count: it must not carry the cursor past what is still to come.
    """

    def __init__(self, plan: ResourcePlan) -> None:
        self._plan = plan
        self._dated = False
        self._latest: datetime | None = None

    def take(self, page: Page) -> None:
        """Count the records of *page*."""
        dates = [date for date in map(self._plan.updated, page.records) if date is not None]
        self._dated = self._dated or bool(dates)
        past = [date for date in dates if date <= page.asked]
        self._latest = max(past if self._latest is None else [self._latest, *past], default=None)

    def upto(self, asked: datetime) -> datetime | None:
        """The cursor; *asked*, when the poll began, where records have no dates; None where all are in the future."""
        if self._latest is not None:
            return min(self._latest, asked)
        return None if self._dated else asked
