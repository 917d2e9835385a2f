"""Addresses built from a definition and an instance's settings, so that a setting never leads elsewhere.

A setting in the host part of a template may be labels of a name only; in the path it is quoted.  Whatever a
provider gives as the address of the next page must be of the base's origin: credentials go nowhere else.
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit, urlunsplit

from daemon.elements.paths import fill, places
from daemon.errors import Invalid, Refused

Pairs = list[tuple[str, str]]

_LABELS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PORTS = {"http": 80, "https": 443}


def whole(template: str, settings: Mapping[str, str], *, override: str | None = None) -> str:
    """The address that *template* gives with *settings*, or the one that the setting *override* holds.

    Raises `Invalid` with the configuration key at fault.
    """
    if override is not None and settings.get(override):
        return checked(settings[override], override)
    keys = places(template)
    for key in keys:
        if not settings.get(key):
            raise Invalid({f"configuration.{key}": "is missing: the provider's address needs it"})
    if len(keys) == 1 and template == f"{{{keys[0]}}}":
        return checked(settings[keys[0]], keys[0])
    scheme, _, rest = template.partition("://")
    host, slash, path = rest.partition("/")
    for key in places(host):
        if not _LABELS.fullmatch(settings[key]) or ".." in settings[key]:
            raise Invalid(
                {
                    f"configuration.{key}": "should be a part of a host name: letters, digits and hyphens"
                }
            )
    for key in places(path):
        if settings[key] in (".", ".."):
            raise Invalid({f"configuration.{key}": "should be a part of a path, not dots"})
    # Both are there: fill() is None for missing values only.
    return f"{scheme}://{fill(host, settings)}{slash}{fill(path, settings, _segment)}"


def checked(value: str, key: str) -> str:
    """*value* of the configuration *key* as an address, without a slash at its end; raises `Invalid`."""
    try:
        parts = urlsplit(value)
        fits = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        fits = fits and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        fits = False
    if not fits or re.search(r"[\s\\\x00-\x1f]", value):
        raise Invalid(
            {
                f"configuration.{key}": "should be an http or https address such as "
                '"https://api.example.com/v1", without user, query and fragment'
            }
        )
    return value.rstrip("/")


def below(base: str, path: str) -> str:
    """*path* below *base*, quoted; raises `Invalid` for one that leaves it."""
    path = path.strip("/")
    if path and any(unquote(part) in ("", ".", "..") for part in path.split("/")):
        raise Invalid({"resource": f"{path!r} is not a path below the base address"})
    return f"{base}/{quote(path, safe=_PATH)}" if path else base


_PATH = "/-._~!$&'()*+,;=:@%"


def _segment(value: str) -> str:
    return quote(value, safe="")


def segment(value: str) -> str:
    """*value* as one part of a path."""
    # A server may take dots for directories, quoted or not.
    if value in (".", ".."):
        raise Refused(f"{value!r} cannot be the id of an object")
    return _segment(value)


def with_query(url: str, pairs: Iterable[tuple[str, str]]) -> str:
    """*url* with *pairs* in its query; a name that was there is replaced."""
    pairs = list(pairs)
    parts = urlsplit(url)
    names = {name for name, _ in pairs}
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in names]
    query = urlencode([*kept, *pairs], quote_via=quote)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def following(link: str, *, here: str, base: str, relative_to: str) -> str:
    """The address of a next page that a provider gave as *link* in its answer to *here*.

    With *relative_to* `base` a link such as `/orders?page=2` lies below the path of *base* (Sage writes its links
    so).  Raises `Refused` for another origin.
    """
    try:
        if relative_to == "base" and link.startswith("/") and not link.startswith("//"):
            root = urlsplit(base).path.rstrip("/")
            inside = link == root or link.startswith((root + "/", root + "?"))
            there = urljoin(base, link) if root and inside else base + link
        else:
            there = urljoin(here, link)
        same = origin(there) == origin(base)
    except ValueError as error:
        raise Refused("the provider's next page has an address that cannot be read") from error
    if not same:
        raise Refused(
            f"the provider's next page lies on another server, {urlsplit(there).hostname}"
        )
    return there


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: what must be equal for two addresses to be one server."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
