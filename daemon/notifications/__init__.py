"""What is POSTed to a callback.

    values            a notification as it is read from the log
    cloud_elements    its body in the format of the Cloud Elements Events framework, the default
    standard          … in the form that Standard Webhooks recommends
    cloudevents       … as CloudEvents 1.0, structured or batched
    signing           the headers that sign it, with two keys while one is replaced

A body is a pure function of the log up to the notification, the format included (`event.notification.format` as the
instance had it then), so that sending it again, today or from a replay next year, sends the same bytes.  The
provider's records are spliced in as they were stored.
"""

from collections.abc import Callable
from dataclasses import dataclass

from daemon.notifications import cloud_elements, cloudevents, standard
from daemon.notifications.values import Notification, StoredChange, raw


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a notification.  *handshake*: the receiver must have agreed to be sent it."""

    content_type: str
    body: Callable[[Notification], bytes]
    handshake: bool = False


FORMATS = {
    "cloud-elements": Format("application/json", cloud_elements.render),
    "standard-webhooks": Format("application/json", standard.render),
    "cloudevents": Format("application/cloudevents+json", cloudevents.structured, handshake=True),
    "cloudevents-batched": Format(
        "application/cloudevents-batch+json", cloudevents.batched, handshake=True
    ),
}
"""Every value of `event.notification.format`."""

DEFAULT = FORMATS["cloud-elements"]


def format_of(notification: Notification) -> Format:
    """The format that the instance wanted when the notification was appended."""
    wanted = notification.instance.configuration.get("event.notification.format")
    return FORMATS.get(wanted or "", DEFAULT)


def render(notification: Notification) -> bytes:
    """The body of the POST."""
    return format_of(notification).body(notification)


__all__ = ["FORMATS", "Format", "Notification", "StoredChange", "format_of", "raw", "render"]
