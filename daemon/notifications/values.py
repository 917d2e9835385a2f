"""A notification, as it is read from the log."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import orjson

from daemon.dates import EPOCH
from daemon.model import Instance

_MILLISECOND = timedelta(milliseconds=1)


class StoredChange(NamedTuple):
    """One change as the log has it; *data* is JSON text, None for what only a webhook's body shows."""

    position: int
    object_type: str
    object_id: str
    change: str
    changed: datetime | None
    data: str | None


class Notification(NamedTuple):
    """Consecutive changes of one instance and one object type, which travel together.

    *position* is that of the first change, *id* its event id, *instance* as it was then.  *polled* is when
    the provider answered a poll; *raw* is the provider's body of a webhook.
    """

    position: int
    id: str
    appended: datetime
    instance: Instance
    changes: tuple[StoredChange, ...]
    polled: datetime | None
    raw: str | None

    @property
    def last(self) -> int:
        """The position of its last change."""
        return self.changes[-1].position

    @property
    def objects(self) -> tuple[tuple[str, str], ...]:
        """The objects that it is about, each once: (type, id)."""
        if len(self.changes) == 1:
            only = self.changes[0]
            return ((only.object_type, only.object_id),)
        return tuple({(change.object_type, change.object_id): None for change in self.changes})


def raw(notification: Notification) -> bytes:
    """The `raw` part: a webhook's body as the provider sent it, or a poll's records with when and what."""
    if notification.polled is None:
        return (notification.raw or "{}").encode()
    kind = _quoted(notification.changes[0].object_type)
    records = ",".join([change.data or "{}" for change in notification.changes])
    milliseconds = (notification.polled - EPOCH) // _MILLISECOND
    return f'{{{kind}:[{records}],"pollDate":{milliseconds},"objectType":{kind}}}'.encode()


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    """*text* as JSON."""
    return orjson.dumps(text).decode()
