"""The payload that the Standard Webhooks specification recommends: type, timestamp, data.

Source: https://github.com/standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`.
"""

import orjson

from daemon.dates import iso_seconds
from daemon.notifications.values import Notification, raw


def render(notification: Notification) -> bytes:
    """The body; `type` is `<objectType>.<change>`, or `<objectType>.changed` where changes of several kinds travel together."""
    instance = notification.instance
    kinds = {change.change.lower() for change in notification.changes}
    what = kinds.pop() if len(kinds) == 1 else "changed"
    return orjson.dumps(
        {
            "type": f"{notification.changes[0].object_type}.{what}",
            "timestamp": iso_seconds(notification.appended),
            "data": {
                "eventId": notification.id,
                "instanceId": instance.id,
                "instanceName": instance.name,
                "elementKey": instance.element_key,
                "hubKey": instance.hub,
                "events": [
                    {
                        "eventType": change.change,
                        "objectType": change.object_type,
                        "objectId": change.object_id,
                        "date": iso_seconds(change.changed or notification.appended),
                    }
                    for change in notification.changes
                ],
                "raw": orjson.Fragment(raw(notification)),
            },
        }
    )
