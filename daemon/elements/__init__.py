"""Elements: what tidings knows about providers.

An element is described in a TOML file (`definition`, `hook_definition`), read by `loading`, and put to work by
`defined`.  `Registry` holds them all: those that come with tidings, and the operator's.

    base            the interface
    definition      hook_definition  tables  paths     the TOML file
    loading         defined  parameters                from file to element
    address         authentication  paging  reading    the API side
    verification    challenges  hooks                  the webhook side
    connection      one instance's signed requests, refreshed when its token expires
    watching        which resources of an instance are polled
    simulators/     servers that behave like providers, for tests and the demo
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from daemon.elements.base import Element
from daemon.elements.campaignmonitor.element import CampaignMonitor
from daemon.elements.defined import Defined
from daemon.elements.dropbox.element import Dropbox
from daemon.elements.hubspot.element import HubSpot
from daemon.elements.loading import Now, parse, system_clock
from daemon.elements.loading import load as load_file
from daemon.elements.quickbooks.element import QuickBooks
from daemon.elements.sageone.element import SageOne
from daemon.elements.salesforce.element import Salesforce, SalesforceByName
from daemon.errors import ConfigError, NotFound

BUILT_IN: dict[str, type[Defined]] = {
    "campaignmonitor": CampaignMonitor,
    "dropbox": Dropbox,
    "hubspot": HubSpot,
    "quickbooks": QuickBooks,
    "rest": Defined,
    "sageone": SageOne,
    "salesforce": SalesforceByName,
    "sfdc": Salesforce,
    "workshop": Defined,
}
"""The elements that come with tidings: of its key's file beside this one, or of a class that knows more than data."""

HERE = Path(__file__).parent


class Registry:
    """The elements there are; does not change once built."""

    def __init__(self, elements: Iterable[Element]) -> None:
        self._by_key = {one.key: one for one in elements}
        self._by_id = {one.id: one for one in self._by_key.values()}

    def get(self, key_or_id: str | int) -> Element:
        """The element by its key, or by its id as a number or a text; raises `NotFound`."""
        found = self._by_key.get(str(key_or_id))
        if found is None and str(key_or_id).isascii() and str(key_or_id).isdigit():
            found = self._by_id.get(int(key_or_id))
        if found is None:
            shown = str(key_or_id)[:40]
            raise NotFound(
                f"there is no element {shown!r}; there are {', '.join(sorted(self._by_key))}"
            )
        return found

    def all(self) -> tuple[Element, ...]:
        """Every element, by key."""
        return tuple(self._by_key[key] for key in sorted(self._by_key))


def load(places: Iterable[Path] = (), *, stand_ins: Mapping[str, str] | None = None) -> Registry:
    """The built-in elements, and those in *places*: TOML files, or directories of them.

    *stand_ins* has, by element, the origin of a server that stands in for the provider.  Two elements of one key or
    id are an error, unless the later file says `replaces = true` and has both of the element that it replaces.
    Raises `ConfigError` with all that is wrong in all files.
    """
    stand_ins = stand_ins or {}
    elements: dict[str, Defined] = {}
    origins: dict[str, Path] = {}
    problems: list[str] = []
    own = {written(key): key for key in BUILT_IN}
    for path in (*own, *_files(places, problems)):
        try:
            key = own.get(path)
            element = load_file(path) if key is None else built_in(key)
            if element.key in stand_ins:
                element = element.beside(stand_ins[element.key])
        except ConfigError as error:
            problems.append(str(error))
            continue
        problem = _collision(element, elements, origins)
        if problem:
            problems.append(f"{path}: {problem}")
            continue
        elements[element.key] = element
        origins[element.key] = path
    problems += [
        f"[elements] stand_ins: there is no element {key}; there are {', '.join(sorted(elements))}"
        for key in stand_ins
        if key not in elements
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return Registry(elements.values())


def written(key: str) -> Path:
    """Where the definition of a built-in element stands, unless its class has it."""
    folder = HERE / key
    return folder / "definition.toml" if folder.is_dir() else HERE / f"{key}.toml"


def built_in(key: str, *, now: Now = system_clock) -> Defined:
    """The element *key* that comes with tidings."""
    made = BUILT_IN[key]
    path = written(key)
    text = made.source if made.source is not None else path.read_text(encoding="utf-8")
    return parse(text, path, made=made, now=now)


def _files(places: Iterable[Path], problems: list[str]) -> list[Path]:
    """The files in *places*; a place that cannot be read is added to *problems*."""
    files: list[Path] = []
    for place in places:
        try:
            found = sorted(place.iterdir()) if place.is_dir() else [place]
        except OSError as error:
            problems.append(f"{place}: cannot be read: {error.strerror}")
            continue
        files += [one for one in found if one.suffix == ".toml"] if place.is_dir() else found
    return files


def _collision(
    element: Defined, known: Mapping[str, Defined], origins: Mapping[str, Path]
) -> str | None:
    """What is wrong with *element* among those *known* already; None: nothing."""
    same_key = known.get(element.key)
    same_id = next((one for one in known.values() if one.id == element.id), None)
    if element.definition.replaces:
        if same_key is None or same_key is not same_id:
            return f"replaces = true, but no element has both key {element.key} and id {element.id}"
        return None
    if same_key is not None:
        return f"key: {element.key} is taken by {origins[element.key]}; choose another, or say replaces = true"
    if same_id is not None:
        return (
            f"id: {element.id} is taken by {same_id.key} in {origins[same_id.key]}; choose another"
        )
    return None
