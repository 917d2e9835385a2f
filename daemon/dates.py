"""Dates as providers write them: Java `SimpleDateFormat` patterns, compiled once, and time zones by name.

A configuration says how a provider writes its dates; providers then do something slightly different.
So `DatePattern.parse` is lenient where leniency cannot change the moment:

- a zone letter (`z`, `Z`, `X`…) and a literal `'Z'` fit `Z`, `GMT`, `+0000`, `+00:00` and nothing at all;
- a fraction of a second may be longer or shorter than the pattern's, absent, or there unasked;
- where the pattern does not fit, a complete ISO 8601, RFC 822 or `Date.toString()` date is read as that.

Where Java surprises, this does not: `SSSSSS` is a fraction (Java pads milliseconds), `Y` is the calendar
year (Java's week year is wrong around New Year), and a bare `T` stands for itself.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import arrow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SECOND = timedelta(seconds=1)

# Spelled out: what strftime prints depends on the locale of the process.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip
_MONTH_NUMBERS = {name[:3].lower(): number for number, name in enumerate(_MONTHS, 1)}

_LONGEST_DATE = 100  # characters; a longer text is no date, and not worth a regex
_EPOCH_UNITS = {"milliseconds": 1_000, "seconds": 1}  # ticks per second; `seconds` is our addition

_PRECISIONS = {"y": 366, "Y": 366, "M": 31, "L": 31, "d": 1, "D": 1}  # days
_CLOCK_PRECISIONS = {"H": 3600, "h": 3600, "k": 3600, "K": 3600, "m": 60, "s": 1}  # seconds

_LETTERS = frozenset("GyYMLdDEaHhkKmsSzZXx")
_NUMBERS = frozenset("yYdDHhkKmsS")  # and M, L of one or two letters
_ZONES = frozenset("zZXx")
_GROUPS = {"Y": "y", "L": "M", "z": "zone", "Z": "zone", "X": "zone", "x": "zone", "O": "zone"}
_LITERAL_OFFSET = re.compile(r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$")
_OFFSET = re.compile(
    r"(?:GMT|UTC|UT)?(?P<sign>[+-])(?P<hours>[0-9]{1,2})(?::?(?P<minutes>[0-9]{2}))?",
    re.IGNORECASE,
)
_ZONE_TEXT = r"\s*(?P<zone>(?:GMT|UTC|UT)?[+-][0-9]{1,2}(?::?[0-9]{2})?|[A-Za-z]{1,5})?"
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?")
_ISO = re.compile(
    r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}(?P<time>[T ][0-9:.,]+)?(?P<zone>\s*(?:Z|[+-][0-9:]+))?"
)
# RFC 822, and the two orders in which Java and Twitter write the same words.
_CLOCK = r"(?P<H>[0-9]{1,2}):(?P<m>[0-9]{2})(?::(?P<s>[0-9]{2}))?"
_WORDY = tuple(
    re.compile(text, re.ASCII | re.IGNORECASE)
    for text in (
        rf"(?:[a-z]{{3}},? +)?(?P<d>[0-9]{{1,2}}) +(?P<M>[a-z]{{3}}) +(?P<y>[0-9]{{4}}) +{_CLOCK}{_ZONE_TEXT}",
        rf"[a-z]{{3}} +(?P<M>[a-z]{{3}}) +(?P<d>[0-9]{{1,2}}) +{_CLOCK}{_ZONE_TEXT} +(?P<y>[0-9]{{4}})",
    )
)

# What an abbreviation means inside a date: an offset, no daylight saving about it.
_ABBREVIATIONS = {
    "Z": 0, "UTC": 0, "GMT": 0, "UT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3,
    "MSK": 3, "JST": 9, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13, "EST": -5, "EDT": -4, "CST": -6,
    "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AKST": -9, "AKDT": -8, "HST": -10,
}  # fmt: skip
# What Java's TimeZone takes an abbreviation for when it *names* a zone: PST is Los Angeles, summer and winter.
_REGIONS = {"PST": "America/Los_Angeles", "CST": "America/Chicago", "IST": "Asia/Kolkata"}
_AMBIGUOUS = {"BST": "Europe/London or Asia/Dhaka", "AST": "America/Halifax or Asia/Riyadh"}


@lru_cache(maxsize=256)
def find_zone(name: str) -> tzinfo:
    """The zone of an abbreviation (`GMT`, `PST`), an offset (`-6:00`, `+0530`, `GMT+2`) or an Olson name.

    A blank name is UTC.  Abbreviations mean what they mean to Java: `PST` and `CST` follow daylight
    saving, `EST`, `MST` and `HST` do not.  Raises ValueError with a sentence for anything else.
    """
    name = name.strip()
    if not name:
        return UTC
    upper = name.upper()
    if upper in _REGIONS:
        return ZoneInfo(_REGIONS[upper])
    if upper in _AMBIGUOUS:
        raise ValueError(f"the time zone {name!r} has several meanings: write {_AMBIGUOUS[upper]}")
    fixed = _offset(name)
    if fixed is not None:
        return fixed
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: `America` is a folder
        raise ValueError(
            f"there is no time zone {name!r}: write an abbreviation such as GMT or PST, an offset such as "
            f"-06:00, or a name such as America/Denver"
        ) from None


def _offset(text: str) -> timezone | None:
    if (hours := _ABBREVIATIONS.get(text.upper())) is not None:
        return timezone(timedelta(hours=hours), "UTC" if text.upper() == "Z" else text.upper())
    if (found := _OFFSET.fullmatch(text)) is None:
        return None
    offset = timedelta(hours=int(found["hours"]), minutes=int(found["minutes"] or 0))
    if offset > timedelta(hours=18) or int(found["minutes"] or 0) > 59:  # noqa: PLR2004 — Java's limits
        return None
    return timezone(-offset if found["sign"] == "-" else offset)


@dataclass(frozen=True, slots=True)
class Reading:
    """A date as it was read: the moment (UTC), and how long a time the text may stand for.

    `2018-08-20` may be any moment of that day: its *precision* is a day.  A clock time that a zone has twice, where
    daylight saving ends, is the first of the two, an hour less precise.
    """

    moment: datetime
    precision: timedelta


@dataclass(frozen=True, slots=True)
class _Token:
    """A run of one pattern *letter*, or with *letter* `'` a text that stands for itself.

    The letter `O` is a literal offset that ends a pattern: `'Z'`, `-0800`.
    """

    letter: str
    text: str

    @property
    def number(self) -> bool:
        return self.letter in _NUMBERS or (self.letter in "ML" and len(self.text) < 3)  # noqa: PLR2004 — MMM is a name


@dataclass(frozen=True, slots=True)
class DatePattern:
    """A Java date pattern, or one of the words `milliseconds` and `seconds` for Unix time.

    *repair* says in a sentence what was mended in the pattern as it was given; empty when nothing was.
    """

    pattern: str
    repair: str
    precision: timedelta
    _tokens: tuple[_Token, ...]
    _regex: re.Pattern[str] | None
    _ticks: int  # per second, of Unix time; 0 of a pattern with letters

    @staticmethod
    @lru_cache(maxsize=1024)  # the same few patterns read every record and every webhook
    def compile(pattern: str) -> "DatePattern":
        """Raise ValueError, with a sentence a person can act on, for what is no pattern.

        A quote too many at the very end is dropped: it can only be a slip, since it quotes nothing.
        """
        if len(pattern) > _LONGEST_DATE:
            raise ValueError(f"a date pattern has at most {_LONGEST_DATE} characters")
        given, repair = pattern, ""
        pattern = pattern.strip()
        if pattern.count("'") % 2:
            if not pattern.endswith("'"):
                raise ValueError(
                    f"a quote in the date pattern {given!r} is never closed: add the missing '"
                )
            pattern = pattern[:-1]
            repair = f"the quote at the end of {given!r} closes nothing and was dropped"
        if pattern.lower() in _EPOCH_UNITS:
            ticks = _EPOCH_UNITS[pattern.lower()]
            return DatePattern(
                pattern.lower(), repair, timedelta(seconds=1) / ticks, (), None, ticks
            )
        tokens = tuple(_tokens(pattern))
        if all(token.letter in "'O" for token in tokens):
            raise ValueError(
                f"{given!r} is no date pattern, it has none of the letters y M d H m s: write for example "
                f"yyyy-MM-dd'T'HH:mm:ssXXX, or milliseconds or seconds for Unix time"
            )
        regex = re.compile(_regex(tokens), re.ASCII | re.IGNORECASE)
        return DatePattern(pattern, repair, _precision(tokens), tokens, regex, 0)

    @property
    def dated(self) -> bool:
        """Whether the pattern names a day: a year with a month and a day, or Unix time."""
        letters = {token.letter for token in self._tokens}
        day = letters & set("D") or (letters & set("ML") and letters & set("d"))
        return self._ticks > 0 or bool(letters & set("yY") and day)

    def format(self, moment: datetime, zone: tzinfo = UTC) -> str:
        """*moment* (aware) in *zone*, cut to the pattern's precision, as Java writes it in English.

        An offset that the pattern spells out (`HH:mm:ss -0800`) is obeyed before *zone*: otherwise the
        text would name another moment.  A literal `'Z'` is only a letter, as in Java.
        """
        if self._ticks:
            return str((moment - EPOCH) // timedelta(microseconds=1) * self._ticks // 1_000_000)
        last = self._tokens[-1]
        if last.letter == "O" and last.text != "Z":
            zone = _offset(last.text) or zone
        local = moment.astimezone(zone)
        return "".join(_write(token, local) for token in self._tokens)

    def parse(self, value: str | float, zone: tzinfo = UTC) -> datetime:
        """The moment, in UTC; a date without an offset of its own is in *zone*.

        Raises ValueError when *value* fits neither the pattern nor any complete standard date.
        """
        return self.read(value, zone).moment

    def read(self, value: str | float, zone: tzinfo = UTC) -> Reading:
        """As `parse`, with the precision that the text turned out to have."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"a date is a text or a number, not {type(value).__name__}")  # noqa: TRY004 — one error for all bad dates
        text = str(value).strip()
        if len(text) > _LONGEST_DATE:
            raise ValueError("the text is too long for a date")
        try:
            if self._ticks and _NUMBER.fullmatch(text):
                return Reading(EPOCH + self.precision * float(text), self.precision)
            if self._regex is not None and (found := self._regex.fullmatch(text)):
                last = self._tokens[-1]
                literal = _offset(last.text) if last.letter == "O" else None
                zone = literal or zone
                return _reading(found, zone, self._precision(found))
            return _standard(text, zone)
        except OverflowError:
            raise ValueError(f"{text!r} lies outside the years 1 to 9999") from None
        except ValueError as error:
            raise ValueError(f"{text!r} is no date of the form {self.pattern}: {error}") from None

    def _precision(self, found: re.Match[str]) -> timedelta:
        """The pattern's precision, unless the text has another fraction of a second, or none."""
        if found.groupdict().get("S") is not None:
            return timedelta(microseconds=10 ** max(0, 6 - len(found["S"])))
        return max(self.precision, timedelta(seconds=1))


def java_date(moment: datetime) -> str:
    """Java's `Date.toString()` in UTC: `Mon Aug 20 15:30:07 UTC 2018`."""
    return _java_date((moment - EPOCH) // _SECOND)


def iso_seconds(moment: datetime) -> str:
    """`2018-08-20T15:29:06Z`: UTC, cut to whole seconds."""
    return _iso_seconds((moment - EPOCH) // _SECOND)


# What is sent in one second mostly happened within a few, and to format a date costs as much as to sign a body.


@lru_cache(maxsize=256)
def _java_date(second: int) -> str:
    utc = EPOCH + _SECOND * second
    clock = f"{utc.hour:02}:{utc.minute:02}:{utc.second:02}"
    return f"{_DAYS[utc.weekday()][:3]} {_MONTHS[utc.month - 1][:3]} {utc.day:02} {clock} UTC {utc.year:04}"


@lru_cache(maxsize=1024)
def _iso_seconds(second: int) -> str:
    return (EPOCH + _SECOND * second).replace(tzinfo=None).isoformat() + "Z"


def _tokens(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    for found in re.finditer(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+", pattern):
        text, letter = found[0], found[2]
        if letter is None:
            text = text if text[0] != "'" else found[1].replace("''", "'") or "'"
            if tokens and tokens[-1].letter == "'":
                text = tokens.pop().text + text
            tokens.append(_Token("'", text))
        elif letter == "T":
            tokens.append(_Token("'", text))
        elif letter in _LETTERS:
            tokens.append(_Token(letter, text))
        else:
            raise ValueError(
                f"the letter {letter!r} means nothing in the date pattern {pattern!r}: put text that stands "
                f"for itself in quotes, or write milliseconds or seconds for Unix time"
            )
    if tokens and tokens[-1].letter == "'" and not any(token.letter in _ZONES for token in tokens):
        text = tokens[-1].text
        if (offset := _LITERAL_OFFSET.search(text)) is not None:
            tokens[-1:] = [_Token("'", text[: offset.start()])] if offset.start() else []
            tokens.append(_Token("O", offset[0]))
    names = [_GROUPS.get(token.letter, token.letter) for token in tokens if token.letter != "'"]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"the date pattern {pattern!r} has the same part twice: {', '.join(twice)}"
        )
    return tokens


def _precision(tokens: tuple[_Token, ...]) -> timedelta:
    shortest = timedelta(days=366)
    for token in tokens:
        if token.letter in _PRECISIONS:
            shortest = min(shortest, timedelta(days=_PRECISIONS[token.letter]))
        elif token.letter in _CLOCK_PRECISIONS:
            shortest = min(shortest, timedelta(seconds=_CLOCK_PRECISIONS[token.letter]))
        elif token.letter == "S":
            shortest = min(shortest, timedelta(microseconds=10 ** max(0, 6 - len(token.text))))
    return shortest


def _regex(tokens: tuple[_Token, ...]) -> str:
    """A regular expression with one group per letter that tells something about the moment."""
    parts: list[str] = []
    for token, following in pairwise((*tokens, _Token("'", ""))):
        name = _GROUPS.get(token.letter, token.letter)
        if token.letter == "'":
            parts.append(_literal(token.text, fraction_follows=following.letter == "S"))
        elif name == "zone":
            parts.append(_ZONE_TEXT)
        elif token.letter == "S":
            parts.append("(?:[.,]?(?P<S>[0-9]{1,9}))?")
        elif token.number:
            parts.append(f"(?P<{name}>{_digits(token, exact=following.number)})")
            if token.letter == "s" and not any(other.letter == "S" for other in tokens):
                parts.append("(?:[.,](?P<S>[0-9]{1,9}))?")
        elif token.letter == "a":
            parts.append("(?P<a>AM|PM)")
        else:  # E, G, and months by name
            parts.append(f"(?P<{name}>[A-Za-z]+)\\.?")
    return "".join(parts)


def _digits(token: _Token, *, exact: bool) -> str:
    count = len(token.text)
    if token.letter in "yY":
        return "[0-9]{2}" if count == 2 else "[0-9]{4}"  # noqa: PLR2004 — yy; "18" must not be the year 18
    if token.letter == "D":
        return "[0-9]{3}" if exact else "[0-9]{1,3}"
    return f"[0-9]{{{count}}}" if exact else "[0-9]{1,2}"


def _literal(text: str, *, fraction_follows: bool) -> str:
    if fraction_follows and text[-1:] in {".", ","}:
        text = text[:-1]  # the fraction brings its own point, so that both may be absent
    return "".join(
        r"\s+" if part.isspace() else re.escape(part) for part in re.split(r"(\s+)", text) if part
    )


def _write(token: _Token, local: datetime) -> str:
    count = len(token.text)
    match token.letter:
        case "'" | "O":
            return token.text
        case "y" | "Y":
            return f"{local.year % 100:02}" if count == 2 else str(local.year).zfill(count)  # noqa: PLR2004 — yy
        case "M" | "L" if count > 2:  # noqa: PLR2004 — MMM is a name
            return _MONTHS[local.month - 1][: 3 if count == 3 else None]  # noqa: PLR2004 — short or whole
        case "E":
            return _DAYS[local.weekday()][: 3 if count < 4 else None]  # noqa: PLR2004 — short or whole
        case "G":
            return "AD"
        case "a":
            return "AM" if local.hour < 12 else "PM"  # noqa: PLR2004 — noon
        case "S":
            return f"{local.microsecond:06}".ljust(count, "0")[:count]
        case "z" | "Z" | "X" | "x":
            return _write_zone(token, local)
        case _:
            numbers = {
                "M": local.month,
                "L": local.month,
                "d": local.day,
                "D": local.timetuple().tm_yday,
                "H": local.hour,
                "k": local.hour or 24,
                "K": local.hour % 12,
                "h": local.hour % 12 or 12,
                "m": local.minute,
                "s": local.second,
            }
            return str(numbers[token.letter]).zfill(count)


def _write_zone(token: _Token, local: datetime) -> str:
    offset = local.utcoffset() or timedelta()
    minutes = abs(offset) // timedelta(minutes=1)
    sign = "-" if offset < timedelta() else "+"
    if token.letter == "z":
        name = local.tzname() or ""
        # Zones without an abbreviation call themselves `-03` or `UTC-03:00`; Java says GMT-03:00.
        return name if name.isalpha() else f"GMT{sign}{minutes // 60:02}:{minutes % 60:02}"
    if token.letter == "X" and not minutes:
        return "Z"
    if token.letter != "Z" and len(token.text) == 1:
        return f"{sign}{minutes // 60:02}"
    colon = ":" if token.letter != "Z" and len(token.text) == 3 else ""  # noqa: PLR2004 — XXX
    return f"{sign}{minutes // 60:02}{colon}{minutes % 60:02}"


def _reading(found: re.Match[str], zone: tzinfo, precision: timedelta) -> Reading:
    moment = _moment(found, zone)
    if found.groupdict().get("zone") is None:
        precision += _again(moment, zone)
    return Reading(moment, precision)


def _again(moment: datetime, zone: tzinfo) -> timedelta:
    """How much later the clocks of *zone* show the same once more: an hour where daylight saving ends, else nothing."""
    if isinstance(zone, timezone):
        return timedelta()
    first = moment.astimezone(zone)
    there, later = first.utcoffset(), first.replace(fold=1).utcoffset()
    return there - later if there is not None and later is not None else timedelta()


def _moment(found: re.Match[str], zone: tzinfo) -> datetime:
    """The moment, in UTC, that the groups of *found*, named by pattern letters, tell of."""
    part = {name: value for name, value in found.groupdict().items() if value is not None}
    year = int(part.get("y", "1970"))
    if len(part.get("y", "")) == 2:  # noqa: PLR2004 — two digits: the century turns at 69, as in POSIX
        year += 1900 if year >= 69 else 2000  # noqa: PLR2004 — likewise
    day = date(year, _month(part.get("M", "1")), int(part.get("d", "1")))
    if "D" in part:
        day = date(year, 1, 1) + timedelta(days=int(part["D"]) - 1)
    hour = int(part.get("H", "0"))
    if "k" in part:
        hour = int(part["k"]) % 24
    if twelve := part.get("h") or part.get("K"):
        hour = int(twelve) % 12 + 12 * (part.get("a", "am").lower() == "pm")
    own = _offset(part["zone"]) if "zone" in part else zone
    if own is None:
        raise ValueError(f"{part['zone']!r} is no time zone")
    clock = time(
        hour,
        int(part.get("m", "0")),
        int(part.get("s", "0")),
        int(part.get("S", "0")[:6].ljust(6, "0")),
    )
    return datetime.combine(day, clock, own).astimezone(UTC)


def _month(text: str) -> int:
    if text.isdigit():
        return int(text)
    if (number := _MONTH_NUMBERS.get(text[:3].lower())) is None:
        raise ValueError(f"{text!r} is no English month")
    return number


def _standard(text: str, zone: tzinfo) -> Reading:
    """A complete ISO 8601, RFC 822 or `Date.toString()` date; raises ValueError for anything else."""
    if (found := _ISO.fullmatch(text)) is not None:
        # A zone given for a text that has one would replace it.
        moment = (arrow.get(text) if found["zone"] else arrow.get(text, tzinfo=zone)).datetime
        moment, precision = moment.astimezone(UTC), _iso_precision(found["time"] or "")
        return Reading(moment, precision + (timedelta() if found["zone"] else _again(moment, zone)))
    for wordy in _WORDY:
        if (found := wordy.fullmatch(text)) is not None:
            return _reading(found, zone, timedelta(seconds=1 if found["s"] else 60))
    raise ValueError("nor is it a complete ISO 8601 or RFC 822 date")


def _iso_precision(clock: str) -> timedelta:
    digits = sum(character.isdigit() for character in clock)
    if digits > 6:  # noqa: PLR2004 — HHmmss and a fraction
        return timedelta(microseconds=10 ** max(0, 12 - digits))
    return {0: timedelta(days=1), 2: timedelta(hours=1), 4: timedelta(minutes=1)}.get(
        digits, timedelta(seconds=1)
    )
