"""How a verb ends: its exit code, and what is said of each error: what happened, and what to do next.

This is the one place where errors become words and numbers; docs/cli.md has the same table.
"""

import signal
from dataclasses import dataclass
from enum import IntEnum

import asyncpg

from daemon.errors import ConfigError, ElementError, Invalid, NotFound, Outage, TidingsError
from daemon.forms import masked


class Code(IntEnum):
    """Exit codes.  They are a promise to scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2  # click's own
    CONFIGURATION = 3
    DATABASE = 4
    NOT_FOUND = 5
    RUN_CONFIGURATION = 78  # of `run` only: EX_CONFIG, after which the unit does not start it again
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


class Failed(TidingsError):
    """A verb did not do what it was asked; *remedy* says what to do next."""

    def __init__(self, message: str, *, remedy: str = "", code: Code = Code.FAILED) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.code = code


class Interrupted(TidingsError):
    """Somebody sent SIGINT or SIGTERM; whoever raises it has cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = Code(128 + number)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to say of an error, and with which code to end."""

    code: Code
    message: str
    remedy: str = ""


# A server that answers and does not let us in: an edit mends it, waiting does not.
NOT_LET_IN = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.exceptions.ClientConfigurationError,
)

# The first row whose errors it is counts: code, what stands before the error's own words, what to do next.
_TABLE: tuple[tuple[tuple[type[Exception], ...], Code, str, str], ...] = (
    (
        (ConfigError,),
        Code.CONFIGURATION,
        "",
        "correct it, then `tidings check` looks at it all again",
    ),
    (
        NOT_LET_IN,
        Code.CONFIGURATION,
        "PostgreSQL does not let tidings in: ",
        "correct [database] dsn (or TIDINGS_DATABASE_DSN), or the server's rights",
    ),
    (
        (Outage,),
        Code.DATABASE,
        "the database is away: ",
        "see that PostgreSQL runs where [database] dsn leads; `tidings check` tries again",
    ),
    ((NotFound,), Code.NOT_FOUND, "", ""),
    (
        (ElementError,),
        Code.FAILED,
        "the provider: ",
        "`tidings instances list` shows which are failing",
    ),
    ((TidingsError,), Code.FAILED, "", ""),
)


def judge(error: BaseException) -> Judgement | None:
    """What *error* comes to; None for a bug, of which the traceback says most.

    Of a group, a bug counts; else the first error that is not an outage: whoever waits for a loop that has failed is
    told that tidings is stopping, and that is not why it did.
    """
    if isinstance(error, BaseExceptionGroup):
        found = [judge(one) for one in error.exceptions]
        if None in found:
            return None
        return min(found, key=lambda one: one is not None and one.code is Code.DATABASE)
    if isinstance(error, Failed):
        return Judgement(error.code, str(error), error.remedy)
    if isinstance(error, Invalid):
        problems = [f"{field}: {problem}" for field, problem in error.problems.items()]
        return Judgement(Code.FAILED, "\n".join(problems))
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
        return Judgement(
            Code.FAILED, message, "see that it is there, and that this user may use it"
        )
    for kinds, code, before, remedy in _TABLE:
        if isinstance(error, kinds):
            return Judgement(code, before + (masked(str(error)) or type(error).__name__), remedy)
    return None
