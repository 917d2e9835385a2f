"""One instance's poller: its resources in turn, page by page into the log.

The first poll of a resource sets the baseline: what it finds becomes known and nobody is told, unless the
instance asks for a backfill (`event.poller.backfill`: true, or a date to begin at).  Each later poll asks for
what changed since the cursor, a little before it, and what is known already falls away by its fingerprint.

The cursor is the provider's time: the latest change seen, or, where records carry no dates, the provider's
clock when the poll began.  It moves with the entry that ends a poll, after all pages are in the log; a poll
that breaks off is simply done again.  A provider whose clock is put back has its cursor put back, too (`clocks`).
Waits are measured by the monotonic clock; only what outlives the process is written as a time of day.

What goes wrong outside stays here: it is written down with the resource, and the wait before it is tried again
grows; the other resources go on.  A database that is away is nobody's fault: the poll is done again soon.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import structlog

from daemon.backoff import Exponential
from daemon.connections import Connections
from daemon.dates import EPOCH
from daemon.elements.base import Element, Http, Settings
from daemon.errors import ConfigError, ElementError, Invalid, NotFound, Transient
from daemon.model import Change, ChangeType, Instance, Page
from daemon.plans import (
    ResourcePlan,
    backfill_from,
    compile_plans,
    fingerprint,
    refresh_interval,
    sweep_interval,
)
from daemon.poller.clocks import ProviderClock
from daemon.poller.feeding import Feed, opener
from daemon.poller.hints import Hints
from daemon.poller.reading import heard, identified
from daemon.poller.sweep import SweepRefused, deleted, deletions, missing
from daemon.store import objects
from daemon.store.database import Pool, is_outage
from daemon.store.directory import Directory
from daemon.store.writer import Intake, Unit, Writer

log = structlog.get_logger()

ERROR_MOST = 500  # characters of an error that the log keeps

BACKOFF = Exponential(base=15.0, most=3600.0, jitter=0.2)

CLOCKS_DIFFER = timedelta(seconds=2)
"""By less than this a provider's `Date`, in whole seconds and from a moment ago, may be behind a clock that is right."""

RETRY_MOST = 86_400.0
"""Seconds that a wait which was written down is believed to last, whatever the clocks say: none is longer."""

LEAST_PAUSE = 0.05  # seconds between two polls, whatever else says so

TOKEN_KEPT = timedelta(hours=1)
"""So long a feed's token is kept that has brought nothing: a provider forgets tokens that are not used."""

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
    connections: Connections
    turns: asyncio.Semaphore
    per_provider: int = 8
    jitter: float = 0.1
    disable_after_failures: int = 100
    sweep_limit: float = 0.5
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random


STORED = (
    "cursor", "baseline", "swept", "failures", "retry", "disabled", "allow_sweep", "polled", "token",
)  # fmt: skip
"""The columns of `cursors` that a poller follows."""


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
    hints: Hints = field(default_factory=Hints)
    compared: bool = False  # whole, by this poller
    read_at: float = -math.inf  # by the monotonic clock, as a question by date would be asked
    polled: datetime | None = None
    token: str | None = None  # of a change feed
    provider: ProviderClock = field(default_factory=ProviderClock)
    # By the monotonic clock, what `retry` and `swept` say by clocks that can be set.
    retry_at: float = 0.0
    swept_at: float | None = None

    def load(self, row: asyncpg.Record, *, now: datetime, monotonic: float) -> None:
        """Take the state of a stored row; *now* and *monotonic* are our own clocks."""
        retry = self.retry
        for name in STORED:
            setattr(self, name, row[name])
        if self.retry is not None and self.retry != retry:
            # Another process wrote it, perhaps by a clock that has been set since.
            wait = (self.retry - now).total_seconds()
            self.retry_at = monotonic + min(max(wait, 0.0), RETRY_MOST)
        if self.swept is not None and self.swept_at is None:
            ago = (now - self.swept).total_seconds()
            self.swept_at = monotonic - ago if ago >= 0 else -math.inf
        if row["age"] is not None:
            self.provider.recall(row["polled"], monotonic - max(row["age"], 0.0))


class Poller:
    """Polls one instance, as it is at one revision, until cancelled."""

    def __init__(self, polling: Polling, instance: Instance, element: Element) -> None:
        """Raises `Invalid` for a configuration that does not compile."""
        self._polling = polling
        self._instance = instance
        self._element = element
        # Providers show changes late (indexes, long transactions).
        self._overlap = timedelta(seconds=element.overlap)
        self.interval = refresh_interval(instance.configuration)
        plans = compile_plans(instance.configuration, element.poller_defaults)
        self.resources = {plan.resource: Resource(plan) for plan in plans}
        self._woken = asyncio.Event()
        self._hurry = False

    def wake(self, *, hurry: bool = False) -> None:
        """Poll now; with *hurry* what waits after a failure as well."""
        self._hurry = self._hurry or hurry
        self._woken.set()

    def hint(self, names: Sequence[tuple[str, str]]) -> None:
        """Look at objects (type and id) with the next poll, where the element cannot find an edit by its date."""
        if self._element.edits_undated:
            for resource in self.resources.values():
                mine = (resource.plan.resource, resource.plan.path)
                resource.hints.add(object_id for kind, object_id in names if kind in mine)

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
                    self.resources[row["resource"]].load(
                        row, now=self._polling.clock(), monotonic=self._polling.monotonic()
                    )
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
        return hurry or resource.retry_at <= self._polling.monotonic()

    async def _poll_all(self, due: list[Resource]) -> None:
        try:
            http = await self._polling.connections.of(self._instance)
        except (ConfigError, NotFound) as error:
            # A secret that no key of ours opens: this instance's trouble only.
            for resource in due:
                await self._failed(resource, error)
            return
        for resource in due:
            await self._poll(resource, http, http.settings)

    def _usual(self) -> float:
        """Seconds from one poll to the next: the interval, a little shorter or longer."""
        return self.interval * (1 + self._polling.jitter * (self._polling.chance() * 2 - 1))

    def _until_retry(self) -> float:
        """Seconds until the first of those that wait after a failure is due."""
        now = self._polling.monotonic()
        return min(
            (
                resource.retry_at - now
                for resource in self.resources.values()
                if resource.retry is not None and not resource.disabled
            ),
            default=math.inf,
        )

    async def _poll(self, resource: Resource, http: Http, settings: Settings) -> None:
        """One resource, to the end; what goes wrong with the provider is written down, not raised."""
        try:
            if await self._follow(resource, http, settings):
                pass
            elif resource.baseline is None:
                await self._first(resource, http, settings)
            elif not await self._heed(resource, http, settings):
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

    async def _follow(self, resource: Resource, http: Http, settings: Settings) -> bool:
        """Read the provider's own feed of changes, where the resource has one; false where it has none."""
        plan, stored = resource.plan, resource.token
        query = plan.query(EPOCH, self._polling.clock())
        opened = opener(self._element, http, settings, query)
        if opened is None:
            return False
        resource.path = query.resource
        backfill = backfill_from(self._instance.configuration)
        feed = Feed(
            pool=self._polling.pool,
            writer=self._polling.writer,
            instance_id=self._instance.id,
            plan=plan,
            opened=opened,
            limit=self._polling.sweep_limit,
            allowed=resource.allow_sweep,
        )
        went = await feed.follow(stored, baseline=resource.baseline, backfill=backfill)
        news = went.began or went.told or resource.failures or went.compared
        if news or (went.token != stored and _old(resource.polled, went.asked)):
            kind = "poll.recovered" if resource.failures else "poll.completed"
            await self._write(
                resource,
                "poll.baseline" if went.began else kind,
                token=went.token,
                cursor=went.asked,
                polled=went.asked,
                baseline=(backfill or went.asked) if went.began else None,
                swept=went.asked if went.compared else None,
            )
        resource.failures, resource.retry = 0, None
        if went.began:
            log.info("baseline taken", resource=plan.resource, backfill=backfill is not None)
        elif went.changes:
            log.info("poll found changes", resource=plan.resource, changes=went.changes)
        return True

    async def _first(self, resource: Resource, http: Http, settings: Settings) -> None:
        """Set the baseline."""
        plan, hinted = resource.plan, resource.hints.look()
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
                    asked = asked or self._look(resource, page)
                    reach.take(page)
                    found += await self._page(resource, page, since=start, baseline=start)
        if not plan.complete:
            # What the question does not show is known by its id, so that its end can be noticed.
            found += await self._know_inventory(resource, http, settings)
        moment = asked or self._polling.clock()
        resource.cursor = moment if start is None else reach.upto(moment) or start
        resource.baseline = moment if start is None else start
        resource.swept, resource.swept_at = moment, self._polling.monotonic()
        await self._write(
            resource,
            "poll.baseline",
            cursor=resource.cursor,
            baseline=resource.baseline,
            polled=moment,
            swept=moment,
        )
        resource.failures, resource.retry, resource.compared = 0, None, True
        resource.read_at = self._polling.monotonic()
        resource.hints.done(hinted)
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
        plan, before = resource.plan, max(self._overlap, resource.plan.grain)
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
                asked = asked or self._look(resource, page)
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

    def _look(self, resource: Resource, page: Page) -> datetime:
        """The provider's clock, as the first page of a poll shows it."""
        resource.provider.look(page.asked, self._polling.monotonic())
        return page.asked

    async def _set_back(self, resource: Resource, page: Page) -> bool:
        """Look at the provider's clock, and put the cursor back where that was put back; whether it was so.

        Whatever was changed since the last look is dated after the new cursor, and whatever was changed before it
        and is not read yet after the old one.  What is known and read again falls away by its fingerprint.
        """
        assert resource.cursor is not None and resource.baseline is not None  # noqa: S101, PT018 — set with the baseline; for the type checker
        low = resource.provider.look(page.asked, self._polling.monotonic())
        # What it was put back by, if it was, the overlap may cover; but what is older than the baseline is not told.
        if low >= resource.cursor - self._overlap / 2 and low >= resource.baseline - CLOCKS_DIFFER:
            return False
        log.warning(
            "the provider's clock went back",
            resource=resource.plan.resource,
            cursor=resource.cursor.isoformat(),
            reads_again_from=low.isoformat(),
        )
        resource.cursor = min(resource.cursor, low)
        # A little before, as every poll asks: no moment here is exact, and what is older is never told.
        resource.baseline = min(resource.baseline, low - self._overlap)
        await self._write(
            resource,
            "poll.set_back",
            cursor=resource.cursor,
            baseline=resource.baseline,
            polled=page.asked,
        )
        return True

    async def _next(
        self, resource: Resource, http: Http, settings: Settings, *, again: bool = False
    ) -> None:
        """Read what changed since the cursor, and what is gone; *again*: the cursor was put back a moment ago."""
        plan, hinted = resource.plan, resource.hints.look()
        assert resource.cursor is not None and resource.baseline is not None  # noqa: S101, PT018 — set with the baseline; for the type checker
        # A question that names only a day asks from that day's beginning, or it loses what is younger.
        asked_since = resource.cursor - max(self._overlap, plan.grain)
        since = max(asked_since, resource.baseline)
        asked: datetime | None = None
        reach = Reach(plan)
        told = deletions(self._element, http, settings, plan, since)
        live: set[str] | None = None if told is None and not hinted.ids else set()
        changed, set_back = 0, False
        query = plan.query(asked_since, self._polling.clock())
        resource.path = query.resource
        async with aclosing(heard(self._element.read(http, settings, query))) as pages:
            async for page in pages:
                if (
                    asked is None
                    and not again
                    and (set_back := await self._set_back(resource, page))
                ):
                    break
                asked = asked or page.asked
                reach.take(page)
                changed += await self._page(
                    resource, page, since=since, baseline=resource.baseline, live=live
                )
        if set_back:
            await self._next(resource, http, settings, again=True)
            return
        unseen = [one for one in hinted.ids if live is None or one not in live]
        changed += await self._reread(resource, http, settings, unseen, since=since)
        if told is not None and live is not None:
            changed += await self._told_gone(plan, told, live)
            swept = False
        else:
            gone, swept = await self._sweep(resource, http, settings, since=since, now=hinted.many)
            changed += gone
        resource.hints.done(hinted)
        resource.read_at = self._polling.monotonic()
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
            resource.swept, resource.swept_at = moment, self._polling.monotonic()
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

    async def _heed(self, resource: Resource, http: Http, settings: Settings) -> bool:
        """Read what webhooks named and nothing else; false where everything is due, or not enough is known for that."""
        hinted = resource.hints.look()
        fresh = self._polling.monotonic() - resource.read_at < self.interval / 2
        if not (fresh and hinted.ids) or hinted.many or resource.failures:
            return False
        resource.path = resource.plan.path
        since = (resource.cursor or EPOCH) - timedelta(seconds=self._element.overlap)
        changed = await self._reread(resource, http, settings, list(hinted.ids), since=since)
        resource.hints.done(hinted)
        if changed:
            log.info("poll found changes", resource=resource.plan.resource, changes=changed)
        return True

    async def _reread(
        self, resource: Resource, http: Http, settings: Settings, ids: list[str], *, since: datetime
    ) -> int:
        """Append what has become of the objects *ids*; how many changes that were."""
        pages = self._element.reread(http, settings, resource.path, ids) if ids else None
        if pages is None or resource.baseline is None:
            return 0
        changed = 0
        async with aclosing(heard(pages)) as answers:
            async for page in answers:
                changed += await self._page(resource, page, since=since, baseline=resource.baseline)
        return changed

    async def _sweep(
        self,
        resource: Resource,
        http: Http,
        settings: Settings,
        *,
        since: datetime,
        now: bool,
    ) -> tuple[int, bool]:
        """Append what an inventory shows to be gone, or edited; how many, and whether one was taken.

        *now* and not only at its interval, and so is the first of this poller where hints may have been lost.
        """
        plan, pool, whole = resource.plan, self._polling.pool, self._element.edits_undated
        every = sweep_interval(self._instance.configuration, self._element.sweep_interval)
        now = now or (whole and not resource.compared)
        last = -math.inf if resource.swept_at is None else resource.swept_at
        if not now and self._polling.monotonic() - last < every:
            return 0, False
        edited = 0

        async def compare(page: Page) -> None:
            nonlocal edited
            baseline = resource.baseline or since
            edited += await self._page(resource, page, since=since, baseline=baseline)

        left = await missing(
            self._element,
            http,
            settings,
            plan,
            known=await objects.present(pool, self._instance.id, plan.resource),
            limit=self._polling.sweep_limit,
            allowed=resource.allow_sweep,
            see=compare if whole else None,
        )
        if left is None:
            return 0, False
        resource.compared = True
        return edited + await self._delete(plan, left), True

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
        kind = "poll.failed"
        if isinstance(error, SweepRefused):
            # It asks a person; what the polls themselves find goes on meanwhile.
            pause = self.interval
        elif resource.failures >= self._polling.disable_after_failures:
            kind, resource.disabled = "poll.disabled", True
            log.error(
                "polling disabled",
                resource=resource.plan.resource,
                failures=resource.failures,
                error=message,
            )
        resource.retry = self._polling.clock() + timedelta(seconds=pause)
        resource.retry_at = self._polling.monotonic() + pause
        await self._write(
            resource, kind, failures=resource.failures, error=message, retry=resource.retry
        )

    async def _write(self, resource: Resource, kind: str, **facts: object) -> None:
        entry = objects.poll_entry(kind, self._instance.id, resource.plan.resource, **facts)
        await self._polling.writer.append(Unit([entry]))


def _old(written: datetime | None, now: datetime) -> bool:
    """Whether a token that was *written* then, and leads to nothing new, should be written anew."""
    return written is None or now - written > TOKEN_KEPT


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
