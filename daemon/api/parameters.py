"""The configuration keys of an element's instances: those of the element, and those that tidings itself reads.

Names that the documents of Cloud Elements have are theirs; docs/api.md lists them all, and a test holds it to that.
"""

from daemon import webhook_urls
from daemon.elements.base import Element, Parameter
from daemon.notifications import FORMATS, signing
from daemon.plans.polling import BACKFILL, SWEEP_INTERVAL

_EVENTS = (
    Parameter(
        "event.notification.enabled",
        "Events Enabled",
        "Whether changes are told; false where not given.",
        "BOOLEAN",
    ),
    Parameter(
        "event.vendor.type",
        "Event Type",
        "polling, webhooks or both; what the element can where not given.",
        "TEXTFIELD_32",
    ),
    Parameter(
        "event.notification.type",
        "Event Notification Type",
        "webhook; there is no other.",
        "TEXTFIELD_32",
    ),
    Parameter(
        "event.notification.callback.url",
        "Event Notification Callback URL",
        "Where notifications are sent.",
    ),
    Parameter(
        "event.notification.signature.key",
        "Callback Notification Signature Key",
        "What notifications are signed with.",
        "PASSWORD",
        secret=True,
    ),
    Parameter(
        signing.OVERLAP,
        "Overlap of Signature Keys (hours)",
        f"How long a key that was replaced still signs, 0 to {signing.OVERLAP_MOST:.0f}; "
        f"{signing.OVERLAP_HOURS:.0f} where not given.",
        "NUMBER",
    ),
    Parameter(
        "event.notification.basic.username",
        "Event Notification basic authentication username",
        "For callbacks that want a user and a password.",
    ),
    Parameter(
        "event.notification.basic.password",
        "Event Notification basic authentication password",
        "The password to that user.",
        "PASSWORD",
        secret=True,
    ),
    Parameter(
        "event.notification.callback.headers",
        "Event Notification Callback Headers",
        "Further headers of every notification: a JSON object, or lines Name: value.",
        "TEXTAREA",
        secret=True,
    ),
    Parameter(
        "event.notification.format",
        "Event Notification Format",
        f"{', '.join(sorted(FORMATS))}; cloud-elements where not given.",
        "TEXTFIELD_32",
    ),
    Parameter(
        "event.notification.receipts",
        "Receipts",
        "Whether the receiver is asked what it has: true, false, or the URL to ask; false where not given.",
    ),
    Parameter(
        "event.notification.redelivery",
        "Redelivery",
        "What becomes of a delivery in doubt where nobody can be asked: resend or hold; resend where not given.",
        "TEXTFIELD_32",
    ),
    Parameter(
        "event.notification.rate",
        "Deliveries a Second",
        "At most so many, 0 for no limit; 0 where not given.",
        "NUMBER",
    ),
    Parameter(
        "event.notification.concurrency",
        "Deliveries at Once",
        "At most so many to this callback; what the operator chose where not given.",
        "NUMBER",
    ),
    Parameter(
        "event.objects",
        "Objects to Monitor for Changes",
        "Names joined by commas; all where not given.",
    ),
)
_POLLING = (
    Parameter(
        "event.poller.refresh_interval",
        "Event poller refresh interval (mins)",
        "Minutes from one poll to the next; 15 where not given.",
        "NUMBER",
    ),
    Parameter(
        "event.poller.configuration",
        "Configure Polling",
        "What to poll, as JSON; the element's own where not given.",
        "TEXTAREA",
    ),
    Parameter(
        "event.poller.urls",
        "Event Poller URLs",
        "The older form of what to poll: lines joined by |, or names of resources.",
        "TEXTAREA",
    ),
    Parameter(
        BACKFILL,
        "Tell what is there already",
        "true, or the date from which on; false where not given: the first poll only takes a baseline.",
        "TEXTFIELD_32",
    ),
    Parameter(
        SWEEP_INTERVAL,
        "Sweep interval (mins)",
        "Minutes between two counts of what is still there; with every poll where not given, unless the element says otherwise.",
        "NUMBER",
    ),
    Parameter(
        "filter.response.nulls",
        "Filter null values from the response",
        "Whether records that are read through a hub lose their nulls; true where not given.",
        "BOOLEAN",
    ),
)
WRITTEN = (
    Parameter(
        signing.PREVIOUS,
        "Previous Signature Key",
        "The key before, while its overlap lasts.",
        "PASSWORD",
        secret=True,
    ),
    Parameter(
        signing.ROTATED,
        "Signature Key Replaced",
        "When the key was replaced, while its overlap lasts.",
        "TEXTFIELD_32",
    ),
    Parameter(
        webhook_urls.SECRET,
        "Secret of the Webhook Address",
        "The end of webhookUrl, where the provider does not sign.",
        "PASSWORD",
        secret=True,
    ),
)
"""Keys that tidings writes by itself: an instance has them or has them not, and nobody is to fill them in."""


def known(element: Element) -> tuple[Parameter, ...]:
    """Every key that *element* or tidings itself looks at, each once; the element's own word goes first."""
    every = (
        *element.parameters,
        *_EVENTS,
        *(_POLLING if element.polls else ()),
    )
    return tuple({parameter.key: parameter for parameter in reversed(every)}.values())[::-1]
