"""What QuickBooks Online's webhooks say, in both of their formats.

    CloudEvents   [{"type": "qbo.customer.merged.v1", "intuitentityid": "123", "data": {"deletedid": "27"}, …}]
    legacy        {"eventNotifications": [{"realmId": …, "dataChangeEvent": {"entities": [{"name": …}]}}]}

The first is what Intuit has sent since the summer of 2026 ("Upcoming change to webhooks payload structure"); `data` may be
empty or missing.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from daemon.elements.paths import text
from daemon.elements.quickbooks.language import read_time, resource_of
from daemon.errors import Invalid
from daemon.model import ChangeType, WebhookEvent

CHANGES = {
    "create": ChangeType.CREATED, "created": ChangeType.CREATED,
    "update": ChangeType.UPDATED, "updated": ChangeType.UPDATED,
    "delete": ChangeType.DELETED, "deleted": ChangeType.DELETED,
    # What is left of a merger; the other one is told as deleted.
    "merge": ChangeType.UPDATED, "merged": ChangeType.UPDATED,
    # Voided, a transaction stays where it is, with its amounts at zero.
    "void": ChangeType.UPDATED, "voided": ChangeType.UPDATED,
    "emailed": ChangeType.UPDATED,
}  # fmt: skip


def told(body: Any) -> Iterator[WebhookEvent]:
    """The events in *body*; raises `Invalid` for a body of another shape.

    One event in it that cannot be read is left out: refused, all the others would be posted again and again, and
    nothing after them.
    """
    if isinstance(body, dict) and isinstance(body.get("eventNotifications"), list):
        for one in body["eventNotifications"]:
            yield from _legacy(one)
        return
    found = [body] if isinstance(body, dict) and "specversion" in body else body
    if not isinstance(found, list):
        raise Invalid({"body": "should be a list of CloudEvents, or hold eventNotifications"})
    for one in found:
        yield from _cloudevent(one)


def _cloudevent(event: Any) -> Iterator[WebhookEvent]:
    if not isinstance(event, dict):
        return
    kind = (text(event.get("type")) or "").split(".")  # qbo.customer.created.v1
    if len(kind) < 3:  # noqa: PLR2004 — the parts up to the operation
        return
    data = event.get("data")
    yield from _events(
        name=kind[1],
        record_id=text(event.get("intuitentityid")),
        operation=kind[2],
        at=event.get("time"),
        realm=text(event.get("intuitaccountid")),
        identity=text(event.get("id")),
        merged=data.get("deletedid") if isinstance(data, dict) else None,
    )


def _legacy(company: Any) -> Iterator[WebhookEvent]:
    if not isinstance(company, dict) or not isinstance(company.get("dataChangeEvent"), dict):
        return
    for one in company["dataChangeEvent"].get("entities") or []:
        if isinstance(one, dict):
            yield from _events(
                name=text(one.get("name")) or "",
                record_id=text(one.get("id")),
                operation=text(one.get("operation")) or "",
                at=one.get("lastUpdated"),
                realm=text(company.get("realmId")),
                identity=None,
                merged=one.get("deletedId"),
            )


def _events(
    *,
    name: str,
    record_id: str | None,
    operation: str,
    at: Any,
    realm: str | None,
    identity: str | None,
    merged: Any,
) -> Iterator[WebhookEvent]:
    """The event, and with a merger the end of the other record; the old format names no event, so what it says does."""
    if not name or record_id is None:
        return
    event = WebhookEvent(
        object_type=resource_of(name),
        object_id=record_id,
        change=CHANGES.get(operation.lower(), ChangeType.UNKNOWN),
        changed=_told_at(at),
        identity=identity or f"{realm}/{name}/{record_id}/{operation}/{at}",
        route=realm,
    )
    yield event
    away = text(merged)
    if away is not None:
        yield replace(event, object_id=away, change=ChangeType.DELETED)


def _told_at(value: Any) -> datetime | None:
    """The time of an event, with up to nine digits behind the second; one that cannot be read is as good as none."""
    if not isinstance(value, str):
        return None
    try:
        return read_time(value)
    except ValueError:
        return None
