"""Dead letters and held deliveries: find them, show them, have them sent again, settle them.

What is asked for is one `delivery.asked` entry per PAGE notifications.  Each is durable by itself, and what it
names is not dead any more; so bulk work that breaks off is gone on with by asking for the same again.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from daemon.errors import TidingsError
from daemon.model import MASK
from daemon.notifications import Notification, format_of, render
from daemon.store import deliveries
from daemon.store.database import Db

PAGE = 500
"""Notifications that one entry asks for."""

STATES = ("dead", "held", "in_doubt", "retrying", "waiting", "in_flight")
"""What is not delivered; what has no row yet is `pending`."""

RETRIABLE = ("dead", "held", "retrying")
"""What a person may have sent again: the others are being sent, are asked about, or come by themselves."""

DECIDABLE = ("dead", "held")
"""What a person may settle: it does not move by itself, so nothing that is under way contradicts."""

ALIVE = frozenset({"active", "disabled"})
"""States of a callback that something can still be sent to."""


class Settled(TidingsError):
    """What is asked for does not fit how things are: look again."""


async def pages(
    db: Db, callback_id: int, *, states: Sequence[str], since: datetime | None = None
) -> AsyncIterator[list[int]]:
    """The notifications at a callback in one of *states*, settled at *since* or later, PAGE at a time."""
    after = 0
    while rows := await deliveries.unsettled(
        db, callback_id, states=states, after=after, since=since, limit=PAGE
    ):
        after = rows[-1]["notification"]
        yield [row["notification"] for row in rows]


def refusal(callback: asyncpg.Record | None) -> str | None:
    """Why nothing can be sent to *callback* any more; None when it can."""
    if callback is None:
        return "there is no such callback"
    if callback["state"] not in ALIVE:
        what = "replay" if callback["replay"] is not None else "callback"
        return f"the {what} is {callback['state']}: nothing is sent there any more"
    return None


def unfit(row: asyncpg.Record | None, callback: asyncpg.Record, how: str) -> str | None:
    """Why the delivery *row* cannot be tried again (`retry`) or settled (`delivered`, `dead`); None when it can."""
    if row is None:
        return "it has not been tried yet"
    fitting = RETRIABLE if how == "retry" else DECIDABLE
    if row["state"] not in fitting:
        return f"it is {row['state'].replace('_', ' ')}, not {' or '.join(fitting)}"
    if callback["replay"] is None and row["notification"] < callback["since"]:
        return "it is from before the callback was taken away and given again; replay it instead"
    return None


def request_of(
    notification: Notification,
    *,
    url: str | None,
    configuration: Mapping[str, str | None],
    doubtful: bool,
) -> dict[str, Any]:
    """The request of a delivery: where to, headers (masked where they carry secrets), body."""
    headers = {
        "content-type": format_of(notification).content_type,
        "Elements-Webhook-Id": notification.id,
        "webhook-id": notification.id,
    }
    if configuration.get("event.notification.signature.key"):
        headers |= {"Elements-Webhook-Signature": MASK, "webhook-signature": MASK}
    if doubtful:
        headers["webhook-redelivery"] = "possible"
    if configuration.get("event.notification.basic.username"):
        headers["authorization"] = MASK
    return {"url": url, "headers": headers, "body": render(notification).decode()}
