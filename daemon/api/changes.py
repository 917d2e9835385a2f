"""What an instance becomes: the element, name, tags and configuration that a body asks for, and the unit that says so."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from daemon.api.bodies import NewInstance
from daemon.api.context import Context
from daemon.api.markup import stripped
from daemon.api.provision import provision, refuse_masks
from daemon.elements.base import Element
from daemon.errors import Invalid, NotFound
from daemon.model import MASK, Instance
from daemon.notifications.signing import rotate
from daemon.store import instances as store
from daemon.store.writer import Unit


async def configure(context: Context, instance: Instance, given: Mapping[str, str | None]) -> None:
    """Change single keys of an instance's configuration; raises what PATCH raises."""
    async with context.changing(instance) as now:
        element = context.elements.get(now.element_key)
        await change(
            context, element, now, merged(now, given), granted={}, name=now.name, tags=now.tags
        )


def merged(instance: Instance, given: Mapping[str, str | None]) -> dict[str, str | None]:
    """The instance's configuration with *given* laid over it, null taking a key away; raises `Invalid`."""
    refuse_masks(given, instance.configuration)
    kept = {key: value for key, value in instance.configuration.items() if key not in given}
    return kept | {key: value for key, value in given.items() if value is not None}


async def change(
    context: Context,
    element: Element,
    now: Instance,
    wanted: Mapping[str, str | None],
    *,
    granted: Mapping[str, object],
    name: str,
    tags: tuple[str, ...],
) -> None:
    """Make *now* an instance with the configuration *wanted*, where `********` is the secret that it has."""
    settings = await context.directory.settings(now)
    clear = {key: settings.get(key) if value == MASK else value for key, value in wanted.items()}
    clear = rotate(settings, clear, datetime.now(UTC))
    made = await provision(context, element, clear, granted)
    # A secret that did not change is not written: the poller may have put a fresher token there meanwhile.
    secrets: dict[str, str | None] = {k: v for k, v in made.secrets.items() if settings.get(k) != v}
    had = {key for key, value in now.configuration.items() if value == MASK}
    secrets |= dict.fromkeys(had - made.secrets.keys())
    if not secrets and (name, tags, made.configuration) == (now.name, now.tags, now.configuration):
        return
    entry = store.changed(
        "instance.configured",
        now,
        resources=made.resources,
        name=name,
        tags=tags,
        configuration=made.configuration,
    )
    await context.append(Unit(entries=[entry], instance_id=now.id, secrets=secrets))


def named_element(context: Context, named: str | None, body: NewInstance) -> Element:
    """The element that the path or the body names; raises `Invalid` or `NotFound`."""
    if named is not None:
        element = context.elements.get(named)
        _same_element(element, body)
        return element
    wanted = body.element
    if wanted is None or (wanted.key is None and wanted.id is None):
        raise Invalid(
            {
                "element.key": "is missing; it should be the key of an element, as GET /elements lists them"
            }
        )
    try:
        element = context.elements.get(wanted.key if wanted.key is not None else str(wanted.id))
    except NotFound:
        field = "element.id" if wanted.key is None else "element.key"
        raise Invalid({field: "names no element; GET /elements lists them"}) from None
    _same_element(element, body)
    return element


def own_element(context: Context, instance: Instance, body: NewInstance) -> Element:
    """The instance's element; raises `Invalid` where *body* names another, `NotFound` where it is gone."""
    element = context.elements.get(instance.element_key)
    _same_element(element, body)
    return element


def _same_element(element: Element, body: NewInstance) -> None:
    """Raise `Invalid` where *body* names another element."""
    wanted = body.element
    if wanted is None:
        return
    if wanted.key is not None and wanted.key not in {element.key, str(element.id)}:
        raise Invalid(
            {"element.key": f"should be {element.key}: an instance stays with its element"}
        )
    if wanted.id is not None and wanted.id != element.id:
        raise Invalid({"element.id": f"should be {element.id}, which is {element.key}"})


def defaults(element: Element) -> dict[str, str | None]:
    """The element's defaults: copied, so that a later change of them does not reach instances that exist."""
    return {p.key: p.default for p in element.parameters if p.default is not None}


def name_of(body: NewInstance, element: Element) -> str:
    """The name that *body* gives, without HTML; the element's where it gives none."""
    return stripped(body.name or "") or element.name


def tags_of(tags: Iterable[str] | None) -> tuple[str, ...]:
    """*tags* without HTML, each once; none that is empty."""
    return tuple(dict.fromkeys(tag for tag in map(stripped, tags or ()) if tag))
