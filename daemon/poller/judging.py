"""Judging records against what is known: which of them are news, and of what kind.

What has the fingerprint that is known is no news.  The rest is judged by the plan's table (`daemon.plans.judgement`);
two things come before it: a record that carries the provider's mark of a deleted one, and one that was deleted and
is back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from types import MappingProxyType

import orjson
import structlog

from daemon.model import Change, ChangeType, Json, Page
from daemon.plans import ResourcePlan, fingerprint
from daemon.poller.ledger import Ledger, Silent
from daemon.poller.source import Source, identified

log = structlog.get_logger()


def deleted(
    plan: ResourcePlan,
    object_id: str,
    changed: datetime | None = None,
    *,
    known: Mapping[str, str] = MappingProxyType({}),
) -> Change:
    """The change that says that an object is no more.  Of the record its id is left, and what is *known* of it."""
    return Change(
        object_type=plan.resource,
        object_id=object_id,
        change=ChangeType.DELETED,
        changed=changed,
        fingerprint=blake2b(b"deleted", digest_size=16).digest(),
        data=orjson.dumps({plan.id_path.text if plan.id_path else "id": object_id, **known}),
    )


def silently(plan: ResourcePlan, records: list[tuple[str, Json]]) -> list[Silent]:
    """*records* as they become known without being told."""
    return [(i, fingerprint(record), plan.updated(record)) for i, record in records]


@dataclass(slots=True)
class _Known:
    """What is known of one object, followed through a page: pages that shift show a record twice."""

    mark: bytes | None = None
    there: bool = False
    gone: bool = False

    @property
    def never_seen(self) -> bool:
        return not self.there and not self.gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Judges what one round reads: a question from *since* on, of an instance that was told of nothing before *baseline*."""

    source: Source
    ledger: Ledger
    since: datetime
    baseline: datetime

    async def take(self, page: Page, *, live: set[str] | None = None) -> int:
        """Append what of *page* is news; how many changes that were.  Adds to *live* the ids that exist."""
        records = identified(self.source.plan, page)
        rows = await self.ledger.known([object_id for object_id, _ in records])
        known = {
            i: _Known(row["fingerprint"], not row["deleted"], row["deleted"])
            for i, row in rows.items()
        }
        changes: list[Change] = []
        for object_id, record in records:
            before = known.setdefault(object_id, _Known())
            if self.source.deleted(record):
                change = self._told_deleted(object_id, record, before)
            else:
                if live is not None:
                    live.add(object_id)
                change = self._change(object_id, record, before, page.asked)
            if change is not None:
                is_gone = change.change == ChangeType.DELETED
                known[object_id] = _Known(change.fingerprint, not is_gone, is_gone)
                changes.append(change)
        return await self.ledger.tell(changes, page.asked)

    def _told_deleted(self, object_id: str, record: Json, before: _Known) -> Change | None:
        """The change of a record that is marked as deleted."""
        plan = self.source.plan
        if before.there or (before.never_seen and self._was_there(record)):
            return deleted(plan, object_id, plan.updated(record))
        return None

    def _was_there(self, record: Json) -> bool:
        """Whether an unknown *record*, marked as deleted, is news: it was there before, and no poll had a reason to show it."""
        plan = self.source.plan
        dates = plan.dates(record)
        if plan.complete or dates.updated is None or dates.updated.moment < self.since:
            return False
        return dates.created is not None and dates.created.moment < self.baseline

    def _change(
        self, object_id: str, record: Json, before: _Known, asked: datetime
    ) -> Change | None:
        """The change of a record that exists."""
        plan, mark = self.source.plan, fingerprint(record)
        if before.there and before.mark == mark:
            return None
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
            last_poll=self.since,
            poll_started=asked,
            known=before.there,
            baseline=self.baseline,
            dates=dates,
        )
        if change is None:
            return None
        if before.gone:
            change = ChangeType.CREATED  # it is back
        changed = dates.updated.moment if dates.updated is not None else None
        return Change(plan.resource, object_id, change, changed, mark, orjson.dumps(record))
