"""How a value of the configuration may be written, and what it then is.

A form annotates a field of a section.  Its `read` returns the value or raises `ValueError`; *should* ends
the sentence "it should be …".  TOML has types and they are held to; a variable of the environment is
only text, and is read as far as the form allows.
"""

import base64
import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from daemon.model import MASK, Secret

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
BYTES = {
    "B": 1,
    "kB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
}


class Variable(str):
    """The text of an environment variable, with the variable's name."""

    __slots__ = ("name",)
    name: str

    def __new__(cls, text: str, name: str) -> Self:
        self = super().__new__(cls, text)
        self.name = name
        return self


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name, an IPv4 or an IPv6 address) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def masked(text: str) -> str:
    """Return *text* without the passwords of the URLs in it."""
    text = re.sub(r"(://[^/\s:@]*:)[^/\s]*@", rf"\1{MASK}@", text)
    return re.sub(
        r"((?:password|passwd|token|secret)\s*=\s*)[^&\s]+", rf"\1{MASK}", text, flags=re.IGNORECASE
    )


class Form(ABC):
    """One way to write a value."""

    should: str
    secret: bool = False

    @abstractmethod
    def read(self, value: object, base: Path) -> Any:
        """Return what *value* means; relative paths begin at *base*.  Raise `ValueError`."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate)

    def _validate(self, value: object, info: ValidationInfo) -> Any:
        file: Path | None = info.context
        in_file = file is not None and not isinstance(value, Variable)
        return self.read(value, file.resolve().parent if file and in_file else Path.cwd())


class Count(Form):
    """A whole number."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self.should = f"a whole number from {least} to {most}"

    def read(self, value: object, base: Path) -> int:
        if isinstance(value, Variable) and re.fullmatch(r"\d{1,18}", value):
            value = int(value)
        if type(value) is not int or not self._least <= value <= self._most:
            raise ValueError
        return value


class Share(Form):
    """A number from 0 to 1."""

    should = "a number from 0 to 1"

    def read(self, value: object, base: Path) -> float:
        if isinstance(value, Variable):
            value = float(value) if re.fullmatch(r"\d*\.?\d+", value) else value
        if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator] # it is a number
            raise ValueError
        return float(value)  # type: ignore[arg-type] # likewise


class Duration(Form):
    """Seconds as a number, or text such as `30s`, `1h30m`, `2d`."""

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most
        self.should = (
            f'a duration from {_spoken(least)} to {_spoken(most)}, such as "30s", "5m" or "2d"'
        )

    def read(self, value: object, base: Path) -> float:
        seconds = _amount(value, SECONDS)
        if not self._least <= seconds <= self._most:  # nan, too
            raise ValueError
        return seconds


class Schedule(Form):
    """Durations: a list, or text with spaces or commas between them."""

    def __init__(self, least: float, most: float) -> None:
        self._one = Duration(least, most)
        self.should = f'a list such as ["5s", "5m", "2h"], each {self._one.should.split(",")[0]}'

    def read(self, value: object, base: Path) -> tuple[float, ...]:
        items = value.replace(",", " ").split() if isinstance(value, str) else value
        if not isinstance(items, list) or len(items) > 100:  # noqa: PLR2004 — more is a mistake
            raise ValueError
        return tuple(self._one.read(item, base) for item in items)


class Size(Form):
    """Bytes as a whole number, or text such as `64 KiB`, `4 MiB`."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self.should = f'a size from {least} bytes to {most // 1024**2} MiB, such as "4 MiB"'

    def read(self, value: object, base: Path) -> int:
        size = _amount(value, BYTES)
        if not self._least <= size <= self._most:
            raise ValueError
        return int(size)


class Choice(Form):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.should = f"one of {', '.join(words)}"

    def read(self, value: object, base: Path) -> str:
        if value not in self._words:
            raise ValueError
        return str(value)


class Location(Form):
    """A path; `~` is the user's home."""

    should = 'a path, such as "/etc/tidings/vault.key"'

    def read(self, value: object, base: Path) -> Path:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        return base / Path(value).expanduser()


class Locations(Form):
    """Paths."""

    should = 'a list of paths, such as ["/etc/tidings/elements"]'

    def read(self, value: object, base: Path) -> tuple[Path, ...]:
        return tuple(Location().read(item, base) for item in _items(value))


class Networks(Form):
    """IP networks in CIDR notation."""

    should = 'a list of networks, such as ["10.1.0.0/16", "fd00::/8"]'

    def read(self, value: object, base: Path) -> tuple[Network, ...]:
        networks = []
        for item in _items(value):
            if not isinstance(item, str):  # ip_network would take a number for an address
                raise ValueError  # noqa: TRY004 — read() promises ValueError
            try:
                networks.append(ipaddress.ip_network(item))
            except ValueError as error:
                raise ValueError(f"{self.should}; {error}") from None
        return tuple(networks)


class Bind(Form):
    """An address to listen on."""

    should = 'a host and a port, such as "127.0.0.1:8080" or "[::1]:8080"'

    def read(self, value: object, base: Path) -> Address:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004 — read() promises ValueError
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})", value)
        if match is None or int(match[3]) > 65535:  # noqa: PLR2004 — TCP's
            raise ValueError
        return Address(match[1] or match[2], int(match[3]))


class WebAddress(Form):
    """An http or https URL; a *secret* one may hold a password."""

    def __init__(self, *, secret: bool = False) -> None:
        self.secret = secret
        self.should = f'a URL such as "{"http://user:password@proxy:3128" if secret else "https://tidings.example.com"}"'

    def read(self, value: object, base: Path) -> str | Secret:
        url = _url(value, "http", "https")
        if not urlsplit(url).hostname:
            raise ValueError
        if self.secret:
            return Secret(url, shown=masked(url))
        if any(mark in url for mark in "@?#"):
            raise ValueError(f"{self.should}, without user, query or fragment")
        return url.rstrip("/")


class Endpoint(Form):
    """An http or https URL to post to.  Its path or query may be what keeps it secret, so only its origin is shown."""

    secret = True
    should = 'a URL such as "https://alerts.example.com/tidings", without user and password'

    def read(self, value: object, base: Path) -> Secret:
        url = _url(value, "http", "https")
        parts = urlsplit(url)
        if not parts.hostname or "@" in parts.netloc:
            raise ValueError
        return Secret(url, shown=f"{parts.scheme}://{parts.netloc}")


class SigningKey(Form):
    """A key that signs: `whsec_` and the base64 of its bytes, or any other text, which is its own bytes."""

    secret = True
    should = 'a text on one line, such as "whsec_" and the base64 of 24 to 64 random bytes'

    def read(self, value: object, base: Path) -> Secret:
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError
        encoded = value.removeprefix("whsec_")
        if encoded != value and not _decodes(encoded.rstrip("=")):
            raise ValueError(f'{self.should}; what follows "whsec_" must be base64')
        return Secret(str(value))


class Origins(Form):
    """Names, each with the scheme, host and port that stand in for its own."""

    should = 'a table such as { hubspot = "http://127.0.0.1:8097" }'

    def read(self, value: object, base: Path) -> dict[str, str]:
        if isinstance(value, Variable):
            pairs = [item.partition("=") for item in map(str, _items(value))]
            value = {name.strip(): origin.strip() for name, _, origin in pairs}
        if not isinstance(value, dict):
            raise ValueError  # noqa: TRY004 — read() promises ValueError
        return {str(name): self._origin(origin) for name, origin in value.items()}

    def _origin(self, value: object) -> str:
        url = _url(value, "http", "https")
        parts = urlsplit(url)
        if not parts.hostname or "@" in parts.netloc or url.rstrip("/").count("/") > len("//"):
            raise ValueError(f"{self.should}: scheme, host and port, nothing else")
        return url.rstrip("/")


class Database(Form):
    """PostgreSQL's connection URI."""

    secret = True
    should = 'a URI such as "postgresql://tidings:password@db.example.com/tidings"'

    def read(self, value: object, base: Path) -> Secret:
        url = _url(value, "postgresql", "postgres")
        return Secret(url, shown=masked(url))


def _url(value: object, *schemes: str) -> str:
    if not isinstance(value, str) or re.search(r"\s", value):
        raise ValueError
    try:
        parts = urlsplit(value)
        fits = parts.scheme in schemes and parts.port != 0  # reading .port checks its range
    except ValueError:
        fits = False
    if not fits:
        raise ValueError
    return str(value)


def _decodes(text: str) -> bool:
    """Whether *text* is base64, without padding, of at least one byte."""
    try:
        return bool(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except ValueError:
        return False


def _items(value: object) -> Sequence[object]:
    if isinstance(value, Variable):
        return [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list):
        raise ValueError  # noqa: TRY004 — read() promises ValueError
    return value


def _amount(value: object, units: dict[str, float] | dict[str, int]) -> float:
    """Return a number as it is, or the sum of a text such as `1h30m`."""
    if type(value) in (int, float):
        return value  # type: ignore[return-value] # mypy does not narrow by type(); bool must stay out
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 — read() promises ValueError
    number, unit = r"\d{1,15}(?:\.\d{1,9})?", "|".join(units)
    if isinstance(value, Variable) and re.fullmatch(number, value):
        return float(value)
    if not re.fullmatch(rf"\s*(?:{number}\s*(?:{unit})\s*)+", value):
        raise ValueError
    parts = re.findall(rf"({number})\s*({unit})", value)
    return sum(float(count) * units[name] for count, name in parts)


def _spoken(seconds: float) -> str:
    """Return *seconds* in the largest unit that keeps it whole."""
    for name in ("d", "h", "m", "s"):
        if seconds >= SECONDS[name] and seconds % SECONDS[name] == 0:
            return f"{seconds / SECONDS[name]:.0f}{name}"
    return f"{seconds * 1000:.0f}ms" if seconds else "0s"
