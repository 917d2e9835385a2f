"""What of a provider's words may stand in an error: short, on one line, without any secret of the request.

An error is logged, stored and shown to people.  Providers repeat in their messages what they were sent, so
everything in a request that could be a secret is masked in what comes back.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from daemon.model import MASK, Request

LENGTH = 200  # characters of a provider's message that are shown
SHORTEST = 5  # a shorter value would mask ordinary words
READ = 4096  # bytes of a body that are looked at
_SECRET = re.compile(
    r"(?i)(\"?(?:[\w.-]*(?:token|secret|password|passwd|api[-_.]?key|authorization))\"?\s*[:=]\s*)"
    r"(\"[^\"]*\"?|(?:(?:bearer|basic)\s+)?[^\s,;&\"}]+)"
)


def place(url: str) -> str:
    """*url* for people: without user, query and fragment, where keys travel."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def excerpt(request: Request, body: bytes, content_type: str) -> str:
    """The beginning of a provider's message for people, or nothing where it is a page or not text."""
    if content_type and not re.search(
        r"json|text/plain|xml|urlencoded", content_type, re.IGNORECASE
    ):
        return ""
    text = body[:READ].decode("utf-8", "replace")
    for value in sorted(set(_values(request)), key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _SECRET.sub(rf"\1{MASK}", text)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def _values(request: Request) -> Iterator[str]:
    """Every value in *request* that may be a secret, as it was written and as it was meant."""
    parts = urlsplit(request.url)
    for value in (*_form(parts.query), *_form(_text(request.body, request.headers))):
        if len(value) >= SHORTEST:
            yield value
    if parts.password:
        yield unquote(parts.password)
    for name, value in request.headers.items():
        if name.lower() in ("accept", "content-type", "user-agent"):
            continue
        for word in (value, *value.split()):
            if len(word) >= SHORTEST and word.lower() not in ("bearer", "basic"):
                yield word


def _form(text: str) -> list[str]:
    return [value for _, value in parse_qsl(text, keep_blank_values=True)]


def _text(body: bytes | None, headers: Mapping[str, str]) -> str:
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    return (body or b"").decode("utf-8", "replace") if "urlencoded" in kind else ""
