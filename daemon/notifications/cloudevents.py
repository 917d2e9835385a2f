"""CloudEvents 1.0, JSON format: structured (one event a POST) and batched (an array of one event per change).

Source: https://github.com/cloudevents/spec, `spec.md`, `formats/json-format.md`.  Extension attributes have lower-case
letters and digits only, as the specification wants.
"""

from typing import Any

import orjson

from daemon.dates import iso_seconds
from daemon.notifications.values import Notification, StoredChange, raw


def structured(notification: Notification) -> bytes:
    """One event.  Several changes that travel together are one event of type `….changes`, each in its data."""
    if len(notification.changes) == 1:
        return orjson.dumps(_event(notification, notification.changes[0], notification.id))
    data = {
        "events": [
            {
                "eventType": change.change,
                "objectType": change.object_type,
                "objectId": change.object_id,
                "date": _time(notification, change),
            }
            for change in notification.changes
        ],
        "raw": orjson.Fragment(raw(notification)),
    }
    head = _attributes(notification, notification.id, "changes")
    return orjson.dumps({**head, "time": iso_seconds(notification.appended), "data": data})


def batched(notification: Notification) -> bytes:
    """An array with an event per change; their ids are the notification's with a number behind."""
    return orjson.dumps(
        [
            _event(notification, change, f"{notification.id}.{number}")
            for number, change in enumerate(notification.changes)
        ]
    )


def _event(notification: Notification, change: StoredChange, event_id: str) -> dict[str, Any]:
    data = change.data if notification.polled is not None else notification.raw
    return {
        **_attributes(notification, event_id, change.change.lower()),
        "subject": change.object_id,
        "time": _time(notification, change),
        "data": orjson.Fragment(data or "{}"),
    }


def _attributes(notification: Notification, event_id: str, what: str) -> dict[str, Any]:
    instance = notification.instance
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/elements/{instance.element_key}/instances/{instance.id}",
        "type": f"tidings.{notification.changes[0].object_type}.{what}",
        "datacontenttype": "application/json",
        "elementkey": instance.element_key,
        "hubkey": instance.hub,
        # The type system's Integer has 32 bits.
        "instanceid": str(instance.id),
        "objecttype": notification.changes[0].object_type,
    }


def _time(notification: Notification, change: StoredChange) -> str:
    return iso_seconds(change.changed or notification.appended)
