"""The configuration keys of an element's instances: those of the element, and the `event.*` keys of all.

Names are those that the documents of Cloud Elements give them.
"""

from daemon.elements.base import Element, Parameter

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
        "Further headers of every notification.",
        "TEXTAREA",
        secret=True,
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
)


def known(element: Element) -> tuple[Parameter, ...]:
    """Every key that *element* or tidings itself looks at, each once; the element's own word goes first."""
    every = (*element.parameters, *_EVENTS, *(_POLLING if element.polls else ()))
    return tuple({parameter.key: parameter for parameter in reversed(every)}.values())[::-1]
