"""A poller `url` taken apart: the path below the hub, the `where`, the other parameters in order.

    /hubs/crm/contacts?where=updated>'${gmtDate:…}'&orderBy=name
          ─┬─ ───┬────       ────────┬───────────── ─────┬──────
         ignored path              where             parameters

The hub says nothing, and may be absent with its `/hubs`.  Percent-encoding is undone in the query and
stays in the path, which is a path as it stands in a url; `+` is a plus, because dates have one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from daemon.errors import Invalid
from daemon.plans.placeholders import Template, mask, spans
from daemon.plans.where import parse_clause

_LONGEST = 8_000  # characters
_PARAMETER = re.compile(
    r"&(?=[A-Za-z_$@][\w.$@\[\]-]*=)", re.ASCII
)  # an & in a value begins no parameter
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_SPRING_DOLLAR = "#{'$'}"  # how the source of an element spells $ for Spring; some were copied so
_EXAMPLE = re.compile(r"<[A-Z][A-Z0-9_ -]*>")
_UNFIT = re.compile(r"[\s\\#]|[\x00-\x1f\x7f]")
_IN_A_SEGMENT = "!$&'()*+,;=:@-._~"  # RFC 3986, pchar


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the `where`, its value still a template."""

    attribute: str
    operator: str
    value: Template
    joined: str


@dataclass(frozen=True, slots=True)
class Address:
    """A url, ready to be filled in.  *notes* say what was mended in it or looks unfinished."""

    path: Template
    where: Template
    terms: tuple[Term, ...]
    parameters: tuple[tuple[str, Template], ...]
    notes: tuple[str, ...]

    @property
    def templates(self) -> tuple[Template, ...]:
        return (self.path, self.where, *(value for _, value in self.parameters))


def compile_address(url: str, settings: Mapping[str, Any]) -> Address:
    """Take *url* apart; `{name}` is filled in from *settings* where they have it.

    Raises ValueError with a sentence that says what is wrong and where.
    """
    url = url.strip().replace(_SPRING_DOLLAR, "$")
    if len(url) > _LONGEST:
        raise ValueError(f"the url is longer than {_LONGEST:,} characters")
    end = mask(url).find("?")
    path, query = (url, "") if end < 0 else (url[:end], url[end + 1 :])
    notes: list[str] = []
    where: str | None = None
    parameters: list[tuple[str, Template]] = []
    for piece in _pieces(query):
        name, _, value = piece.partition("=")
        if name.lower() == "where":
            if where is not None:
                raise ValueError("the url has where= twice: join the two clauses with and")
            where = value
        else:
            value = _without_stray_quote(_decoded(value), notes)
            parameters.append((unquote(name), Template.compile(value, settings)))
    try:
        clause = parse_clause(_decoded(where or ""))
    except Invalid as error:
        raise ValueError(error.problems["where"]) from None
    notes += clause.notes
    terms = tuple(
        Term(one.attribute, one.operator, Template.compile(one.value, settings), one.joined)
        for one in clause.conditions
    )
    address = Address(
        path=_path(path, settings),
        where=Template.compile(clause.text, settings),
        terms=terms,
        parameters=tuple(parameters),
        notes=(),
    )
    notes += [note for template in address.templates for note in template.notes]
    notes += [
        f"{example} looks like an example that was to be replaced"
        for example in _EXAMPLE.findall(url)
    ]
    return Address(
        address.path, address.where, terms, address.parameters, tuple(dict.fromkeys(notes))
    )


def _path(path: str, settings: Mapping[str, Any]) -> Template:
    segments = path.strip().strip("/").split("/")
    if segments[0].lower() == "hubs":
        segments = segments[2:]
    below = "/".join(segments)
    if "://" in below:
        raise ValueError(
            f"the url is a path, such as /hubs/crm/contacts, without the {below.split('/')[0]}//… before it"
        )
    if not below:
        raise ValueError(
            "the url names no resource: write /hubs/<hub>/<resource>, such as /hubs/crm/contacts"
        )
    if (unfit := _UNFIT.search(mask(below).replace("\0", ""))) is not None:
        raise ValueError(
            f"the path of the url has the character {unfit[0]!r} in it: percent-encode it"
        )
    template = Template.compile(
        below, settings, encode=lambda value: quote(value, safe=_IN_A_SEGMENT)
    )
    # Filled-in values count as well: a path must not climb out of its resource.
    fixed = "".join(part if isinstance(part, str) else "{}" for part in template.parts)
    if any(unquote(segment) in {"", ".", ".."} for segment in fixed.split("/")):
        raise ValueError("the path of the url has an empty segment, '.' or '..' in it")
    return template


def _pieces(query: str) -> list[str]:
    """The `name=value` of *query*; nothing of an empty query."""
    at = 0
    pieces: list[str] = []
    for found in _PARAMETER.finditer(mask(query)):
        pieces.append(query[at : found.start()])
        at = found.end()
    pieces.append(query[at:])
    return [piece for piece in pieces if piece.strip()]


def _decoded(text: str) -> str:
    """*text* with percent-encoding undone, outside of placeholders and where it is UTF-8 (not in `'%de%'`)."""
    decoded, at = "", 0
    for start, end in [*spans(text), (len(text), len(text))]:
        decoded += _ESCAPES.sub(_character, text[at:start]) + text[start:end]
        at = end
    return decoded


def _character(found: re.Match[str]) -> str:
    try:
        return unquote(found[0], errors="strict")
    except UnicodeDecodeError:
        return found[0]


def _without_stray_quote(value: str, notes: list[str]) -> str:
    value = value.strip()
    if value.endswith("'") and mask(value).count("'") % 2:
        notes.append(f"the quote after {value[:-1]!r} closes nothing and was dropped")
        return value[:-1]
    return value
