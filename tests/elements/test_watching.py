"""What an instance polls: one reading of its configuration, with the element's word in it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from daemon.elements import Registry, built_in
from daemon.elements.watching import pollable, polled, resources
from daemon.errors import Invalid
from daemon.model import Instance

NAMES = ["customers", "orders"]
INSTANCE = Instance(
    id=1, organization_id=1, user_id=1, element_key="workshop", hub="crm", name="w", tags=(),
    configuration={"event.notification.enabled": "true"}, token_digest=b"", disabled=False,
    created=datetime(2026, 1, 1, tzinfo=UTC), updated=datetime(2026, 1, 1, tzinfo=UTC), revision=1,
)  # fmt: skip


def with_settings(**settings: str) -> Instance:
    """That instance with more settings; `__` in a name is a dot."""
    more = {name.replace("__", "."): value for name, value in settings.items()}
    return replace(INSTANCE, configuration={**INSTANCE.configuration, **more})


@pytest.mark.parametrize(
    ("vendor", "workshop", "dropbox"),
    [
        ("", True, True),
        ("polling", True, True),
        (" Both ", True, True),
        ("<EVENT_VENDOR_TYPE>", True, True),
        ("webhooks", False, True),
        ("webhook", False, True),
    ],
)
def test_the_vendor_and_the_element_decide(vendor: str, *, workshop: bool, dropbox: bool) -> None:
    """`event.vendor.type` chooses, a placeholder of the documents chooses nothing; a bell is always followed by polls."""
    instance = with_settings(event__vendor__type=vendor)
    for key, wanted in (("workshop", workshop), ("dropbox", dropbox)):
        element = built_in(key)
        assert wanted == bool(polled(element, instance))
        assert polled(element, instance) == pollable(element, instance.configuration)


def test_without_events_nothing_is_polled() -> None:
    """With events off nothing is polled, though it could be; while it is switched off it keeps what it polls."""
    element = built_in("workshop")
    off = with_settings(event__notification__enabled="false")
    assert () == polled(element, off)
    assert NAMES == [plan.resource for plan in pollable(element, off.configuration)]
    assert polled(element, replace(INSTANCE, disabled=True)) == polled(element, INSTANCE)


def test_what_its_element_no_longer_reads_is_kept() -> None:
    """An instance whose element is gone, or does not understand it any more, has in the log what it polled so far."""
    here = Registry([built_in("workshop")])
    assert NAMES == resources(here, INSTANCE, so_far=["old"])
    assert ["old"] == resources(Registry([]), INSTANCE, so_far=["old"])
    strange = with_settings(event__objects="nothing")
    with pytest.raises(Invalid):
        polled(built_in("workshop"), strange)
    assert ["old"] == resources(here, strange, so_far=["old"])
