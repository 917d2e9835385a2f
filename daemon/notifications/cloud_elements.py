"""The format of the Cloud Elements Events framework: the default.

Source: the two complete examples that Cloud Elements published (facts, 1.1 and 1.2); `raw` of a webhook is the
provider's body, as their documentation says.
"""

import orjson

from daemon.dates import iso_seconds, java_date
from daemon.notifications.values import Notification, raw

SENDER = "notifications@cloud-elements.com"
"""`user` of every notification: applications written for Cloud Elements may look at it."""


def render(notification: Notification) -> bytes:
    """The body: one notification in the format of the Cloud Elements Events framework."""
    instance = notification.instance
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
                "instanceTags": [
                    instance.name,
                    *[tag for tag in instance.tags if tag != instance.name],
                ],
                "raw": orjson.Fragment(raw(notification)),
                "userId": instance.user_id,
                "events": _events(notification),
            },
            "user": SENDER,
        }
    )


def _events(notification: Notification) -> list[dict[str, str]]:
    instance, found = notification.instance, []
    for change in notification.changes:
        event = {
            "date": iso_seconds(change.changed or notification.appended),
            "elementKey": instance.element_key,
        }
        if notification.polled is not None:
            event["pollDate"] = iso_seconds(notification.polled)
        event["eventType"] = change.change
        event["hubKey"] = instance.hub
        event["objectId"] = change.object_id
        event["objectType"] = change.object_type
        found.append(event)
    return found
