"""What is POSTed to a callback: a notification in the format of the Cloud Elements Events framework.

The body is a pure function of the log up to the notification, so that sending it again, today or from a
replay next year, sends the same bytes.  The provider's records are spliced in as they were stored.

Source of the format: the two complete examples that Cloud Elements published (facts, 1.1 and 1.2); `raw` of a
webhook is the provider's body, as their documentation says.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from daemon.dates import iso_seconds, java_date
from daemon.model import Instance

SENDER = "notifications@cloud-elements.com"
"""`user` of every notification: applications written for Cloud Elements may look at it."""


@dataclass(frozen=True, slots=True)
class StoredChange:
    """One change as the log has it; *data* is JSON text, None for what only a webhook's body shows."""

    position: int
    object_type: str
    object_id: str
    change: str
    changed: datetime | None
    data: str | None


@dataclass(frozen=True, slots=True)
class Notification:
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
    def objects(self) -> frozenset[tuple[str, str]]:
        """The objects that it is about: (type, id)."""
        return frozenset((change.object_type, change.object_id) for change in self.changes)


def raw(notification: Notification) -> bytes:
    """The `raw` part: a webhook's body as the provider sent it, or a poll's records with when and what."""
    if notification.polled is None:
        return (notification.raw or "{}").encode()
    kind = orjson.dumps(notification.changes[0].object_type).decode()
    records = ",".join(change.data or "{}" for change in notification.changes)
    milliseconds = _milliseconds(notification.polled)
    return f'{{{kind}:[{records}],"pollDate":{milliseconds},"objectType":{kind}}}'.encode()


def render(notification: Notification) -> bytes:
    """The body of the POST."""
    instance = notification.instance
    created = iso_seconds(notification.appended)
    polled = None if notification.polled is None else iso_seconds(notification.polled)
    return orjson.dumps(
        {
            "severity": "medium",
            "createdDate": java_date(notification.appended),
            "topic": f"instance-{instance.id}-{instance.element_key}-events",
            # The notification is what is created; what happened to the objects stands in each event.
            "action": "create",
            "id": str(notification.position),
            "message": {
                "elementKey": instance.element_key,
                "accountId": instance.organization_id,
                "eventId": notification.id,
                "companyId": instance.organization_id,
                "instanceId": instance.id,
                "instance_id": instance.id,
                "instanceName": instance.name,
                "instanceTags": [instance.name, *(tag for tag in instance.tags if tag != instance.name)],
                "raw": orjson.Fragment(raw(notification)),
                "userId": instance.user_id,
                "events": [
                    {
                        "date": created if change.changed is None else iso_seconds(change.changed),
                        "elementKey": instance.element_key,
                        **({} if polled is None else {"pollDate": polled}),
                        "eventType": change.change,
                        "hubKey": instance.hub,
                        "objectId": change.object_id,
                        "objectType": change.object_type,
                    }
                    for change in notification.changes
                ],
            },
            "user": SENDER,
        }
    )


def _milliseconds(moment: datetime) -> int:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
