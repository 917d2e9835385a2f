"""Which resources of an instance are polled: one reading of its configuration, for all who need to know.

The configuration has a word in it (`event.vendor.type`, and what `daemon.plans` reads), and so has the element: one
that cannot be polled never is, and one whose webhooks only ring always.
"""

from collections.abc import Iterable, Mapping

from daemon.elements import Registry
from daemon.elements.base import Element
from daemon.errors import Invalid, NotFound
from daemon.model import Instance
from daemon.plans import ResourcePlan, compile_plans, leaves_to_polls


def pollable(element: Element, settings: Mapping[str, str | None]) -> tuple[ResourcePlan, ...]:
    """The plans of what polls find with these *settings*, were events on; none where webhooks tell it all.

    Raises `Invalid` for a configuration that does not compile.
    """
    if not element.polls or not (element.bell or leaves_to_polls(settings)):
        return ()
    return compile_plans(settings, element.poller_defaults)


def polled(element: Element, instance: Instance) -> tuple[ResourcePlan, ...]:
    """The plans of what is polled of *instance* while it is switched on; raises `Invalid`.

    What was right when it was stored may be wrong now: an element's file can change.
    """
    return pollable(element, instance.configuration) if instance.notifies else ()


def resources(elements: Registry, instance: Instance, *, so_far: Iterable[str]) -> list[str]:
    """The names of what is polled of *instance*, for the log; it keeps them while it is off.

    Where its element is gone, or reads it otherwise than when it was stored, they are those polled *so_far*.
    """
    try:
        plans = polled(elements.get(instance.element_key), instance)
    except (Invalid, NotFound):
        return list(so_far)
    return [plan.resource for plan in plans]
