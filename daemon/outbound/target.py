"""What of a request can be known before it is sent: its URL taken apart, and its head as bytes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import quote, urlsplit

from yarl import URL

from daemon.errors import Invalid

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Those frame the message or steer the connection, and are the sender's own.
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_CONTROL = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = "/%:@!$&'()*+,;=-._~"
_QUERY = _PATH + "?[]|^`{}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.

    *host* is ASCII, in lower case, without brackets; *origin* is scheme, host and port, for people and as
    a key: it holds nothing of the path, which may be secret.  *line* is the request head from behind the
    method up to and with the `Host` line.
    """

    tls: bool
    host: str
    port: int
    origin: str
    line: str


@lru_cache(maxsize=4096)
def target(url: str) -> Target:
    """Take *url* apart; raise `Invalid` when it is not one that a request can go to.

    The path and the query are sent as they are written; only what a request line cannot hold is percent-
    encoded.  A fragment is for the receiver's eyes only and is dropped.
    """
    if _CONTROL.search(url):
        raise _invalid("must not contain blanks, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid("is not a URL; write https://host/path") from error
    if parts.scheme not in {"http", "https"}:
        raise _invalid("must begin with https:// or http://")
    if "@" in parts.netloc:
        raise _invalid("must not hold a user or password; put them in a header")
    if port == 0:
        raise _invalid("has port 0, which does not exist")
    tls = parts.scheme == "https"
    host = _host(parts.hostname or "", bracketed="[" in parts.netloc)
    usual = 443 if tls else 80
    shown = f"[{host}]" if ":" in host else host
    address = shown if port in {None, usual} else f"{shown}:{port}"
    query = f"?{quote(parts.query, safe=_QUERY)}" if parts.query else ""
    return Target(
        tls=tls,
        host=host,
        port=port or usual,
        origin=f"{parts.scheme}://{address}",
        line=f" {quote(parts.path, safe=_PATH) or '/'}{query} HTTP/1.1\r\nHost: {address}\r\n",
    )


def head(method: str, to: Target, headers: Iterable[tuple[str, str]], length: int) -> bytes:
    """The head of a request with *headers* and a body of *length* bytes.

    Raises `Invalid` for a method or header that cannot be sent, or that is the sender's own business; the
    message names the header and never holds its value.
    """
    if method not in METHODS:
        raise Invalid({"method": f"must be one of {', '.join(sorted(METHODS))}"})
    begun = method + to.line + lines(headers)
    if length or method not in {"GET", "DELETE", "OPTIONS"}:
        begun += f"Content-Length: {length}\r\n"
    return f"{begun}\r\n".encode("ascii")


def lines(headers: Iterable[tuple[str, str]]) -> str:
    """*headers* as lines of a request's head; raises `Invalid` as `head` does."""
    parts: list[str] = []
    for name, value in headers:
        # Printable ASCII has neither CR nor LF nor NUL: nobody smuggles a header or a request in a value.
        if not (value.isascii() and value.isprintable()):
            raise Invalid({f"headers.{_shown(name)}": "must be printable ASCII on one line"})
        parts += _name(name), value, "\r\n"
    return "".join(parts)


@lru_cache(maxsize=1024)
def _name(name: str) -> str:
    """*name* as it begins a header line."""
    if not _TOKEN.fullmatch(name):
        raise Invalid({f"headers.{_shown(name)}": "is not the name of a header"})
    if name.lower() in _OURS:
        raise Invalid({f"headers.{name}": "is set by the sender; leave it out"})
    return f"{name}: "


def _shown(name: str) -> str:
    return ascii(name)[1:-1][:64]


def _host(host: str, *, bracketed: bool) -> str:
    """*host* as ASCII: an address in its shortest form, or a name in IDNA form."""
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        if isinstance(address, IPv6Address) and address.scope_id:
            raise _invalid("must not name a network interface")
        if bracketed == isinstance(address, IPv6Address):
            return str(address)
    if bracketed:
        raise _invalid("has no IPv6 address between its brackets")
    if not host.isascii():
        try:
            host = URL.build(scheme="http", host=host).raw_host or ""
        except ValueError as error:
            raise _invalid("has a host name that cannot be written in IDNA") from error
    if not _NAME.fullmatch(host) or len(host) > len(".") + 253:
        raise _invalid("has no valid host name")
    return host


def _invalid(problem: str) -> Invalid:
    return Invalid({"url": problem})
