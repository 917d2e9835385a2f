"""Names and tags without HTML.

Cloud Elements strips markup from them, and applications that show them rely on it.  The documents' own
placeholders (`<INSTANCE_NAME>`) look like markup and are none: what is taken away is comments, scripts with
what is in them, and tags that a browser would act on.
"""

import re

_SCRIPTS = re.compile(r"<(script|style)\b[^>]*>.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(
    r"<!--.*?(?:-->|$)|<[/!?][^>]*(?:>|$)|<(?P<name>[a-z][^\s/>]*)(?P<rest>[^>]*)(?:>|$)",
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(r"\w+", re.ASCII)
_KNOWN = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "address",
        "applet",
        "area",
        "article",
        "aside",
        "audio",
        "b",
        "base",
        "basefont",
        "bdi",
        "bdo",
        "big",
        "blink",
        "blockquote",
        "body",
        "br",
        "button",
        "canvas",
        "caption",
        "center",
        "cite",
        "code",
        "col",
        "colgroup",
        "data",
        "datalist",
        "dd",
        "del",
        "details",
        "dfn",
        "dialog",
        "dir",
        "div",
        "dl",
        "dt",
        "em",
        "embed",
        "fieldset",
        "figcaption",
        "figure",
        "font",
        "footer",
        "form",
        "frame",
        "frameset",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "head",
        "header",
        "hgroup",
        "hr",
        "html",
        "i",
        "iframe",
        "img",
        "input",
        "ins",
        "isindex",
        "kbd",
        "keygen",
        "label",
        "legend",
        "li",
        "link",
        "main",
        "map",
        "mark",
        "marquee",
        "math",
        "menu",
        "menuitem",
        "meta",
        "meter",
        "nav",
        "nobr",
        "noframes",
        "noscript",
        "object",
        "ol",
        "optgroup",
        "option",
        "output",
        "p",
        "param",
        "picture",
        "plaintext",
        "pre",
        "progress",
        "q",
        "rp",
        "rt",
        "ruby",
        "s",
        "samp",
        "script",
        "search",
        "section",
        "select",
        "slot",
        "small",
        "source",
        "span",
        "strike",
        "strong",
        "style",
        "sub",
        "summary",
        "sup",
        "svg",
        "table",
        "tbody",
        "td",
        "template",
        "textarea",
        "tfoot",
        "th",
        "thead",
        "time",
        "title",
        "tr",
        "track",
        "tt",
        "u",
        "ul",
        "var",
        "video",
        "wbr",
        "xmp",
    ]
)


def stripped(text: str) -> str:
    """*text* without HTML and without space around it."""
    while True:
        # Again until nothing changes: what is left may have come together to a new tag.
        less = _TAGS.sub(_kept, _SCRIPTS.sub("", text))
        if less == text:
            return text.strip()
        text = less


def _kept(found: re.Match[str]) -> str:
    """What stays of a tag: all, where it is one word that no browser knows."""
    name = found["name"]
    harmless = (
        name is not None
        and not found["rest"].strip()
        and _WORD.fullmatch(name)
        and name.lower() not in _KNOWN
    )
    return found[0] if harmless else ""
