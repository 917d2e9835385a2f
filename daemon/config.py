"""The configuration: defaults < the file < the environment, checked whole, frozen.

Every key `[section] key` of the file is also the variable `TIDINGS_<SECTION>_<KEY>`.  An empty value means
the default.  Everything wrong is reported at once, each with its place, what stands there and what
should stand there.  A new key is one line in a section below and one in config.example.toml.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.errors import ConfigError
from daemon.forms import (
    Address,
    Bind,
    Choice,
    Count,
    Database,
    Duration,
    Endpoint,
    Location,
    Locations,
    Network,
    Networks,
    Origins,
    Schedule,
    Share,
    SigningKey,
    Size,
    Variable,
    WebAddress,
    masked,
)
from daemon.model import Secret

HOUR = 3600.0
DAY = 24 * HOUR
MIB = 1024 * 1024
PREFIX = "TIDINGS_"
LINE = 60  # characters of a value that are shown

# Read by the command line and by the tests, and no settings of the daemon.
NOT_SETTINGS = frozenset({"TIDINGS_CONFIG", "TIDINGS_TEST_POSTGRES"})


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class Server(Section):
    """Where providers, integrators and the console are answered."""

    listen: Annotated[Address, Bind()] = Address("127.0.0.1", 8080)
    public_url: Annotated[str | None, WebAddress()] = None
    body_limit: Annotated[int, Size(1024, 256 * MIB)] = 4 * MIB
    body_timeout: Annotated[float, Duration(1, 600)] = 30.0
    idle_timeout: Annotated[float, Duration(1, HOUR)] = 75.0
    webhook_timeout: Annotated[float, Duration(0.1, 60)] = 2.5
    stop_grace: Annotated[float, Duration(0, 600)] = 10.0

    @property
    def url(self) -> str:
        """Return the address under which the world reaches the daemon, without a slash at its end."""
        return self.public_url or f"http://{self.listen}"


class DatabaseSection(Section):
    """The PostgreSQL; without *dsn* one of our own under the state directory."""

    dsn: Annotated[Secret | None, Database()] = None
    pool_size: Annotated[int, Count(1, 1000)] = 10
    connect_timeout: Annotated[float, Duration(0.1, 600)] = 10.0
    command_timeout: Annotated[float, Duration(0.1, HOUR)] = 30.0


class State(Section):
    """Where the daemon keeps what is not in PostgreSQL."""

    directory: Annotated[Path, Location()]


class Vault(Section):
    """The key that encrypts providers' credentials."""

    key_file: Annotated[Path, Location()]


class Elements(Section):
    """The operators' own elements."""

    directories: Annotated[tuple[Path, ...], Locations()] = ()
    stand_ins: Annotated[Mapping[str, str], Origins()] = Field(default_factory=dict)


class Outbound(Section):
    """HTTP to providers, and the addresses that any request may go to."""

    allow_networks: Annotated[tuple[Network, ...], Networks()] = ()
    proxy: Annotated[Secret | None, WebAddress(secret=True)] = None
    connect_timeout: Annotated[float, Duration(0.1, 300)] = 10.0
    total_timeout: Annotated[float, Duration(0.1, HOUR)] = 60.0
    body_limit: Annotated[int, Size(1024, 1024 * MIB)] = 32 * MIB
    per_host: Annotated[int, Count(1, 1000)] = 4


class Delivery(Section):
    """POSTs to callbacks."""

    retries: Annotated[tuple[float, ...], Schedule(1, 7 * DAY)] = (
        *(5.0, 300.0, 1800.0),
        *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
    )  # ten attempts over a little more than three days: a long weekend
    connect_timeout: Annotated[float, Duration(0.1, 300)] = 5.0
    total_timeout: Annotated[float, Duration(0.1, 600)] = 30.0
    concurrency: Annotated[int, Count(1, 1000)] = 16
    window: Annotated[int, Count(1, 100_000)] = 1000
    disable_after: Annotated[float, Duration(60, 365 * DAY)] = 5 * DAY


class Polling(Section):
    """Reading providers for changes."""

    concurrency: Annotated[int, Count(1, 10_000)] = 64
    jitter: Annotated[float, Share()] = 0.1
    disable_after_failures: Annotated[int, Count(1, 1_000_000)] = 100
    sweep_limit: Annotated[float, Share()] = 0.5


class Alerts(Section):
    """Where the operator is told what needs a person; nowhere without *url*."""

    url: Annotated[Secret | None, Endpoint()] = None
    key: Annotated[Secret | None, SigningKey()] = None


class Log(Section):
    """What the daemon writes to its standard output."""

    level: Annotated[str, Choice("debug", "info", "warning", "error")] = "info"
    format: Annotated[str, Choice("auto", "json", "console")] = "auto"


class Config(Section):
    """The whole configuration.  *state* and *vault* depend on where the daemon runs: see `load`."""

    server: Server = Server()
    database: DatabaseSection = DatabaseSection()
    state: State
    vault: Vault
    elements: Elements = Elements()
    outbound: Outbound = Outbound()
    delivery: Delivery = Delivery()
    polling: Polling = Polling()
    alerts: Alerts = Alerts()
    log: Log = Log()


SECTIONS: Mapping[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration of the file *path* (none: only defaults), overridden by *environ*.

    Relative paths in the file are meant from the file's folder, those in variables from the working
    directory.  Raise `ConfigError` with one line per problem; no line holds a secret.
    """
    values = {} if path is None else _tables(path)
    problems = list(_unknown(values, path))
    problems += _override(values, environ)
    _drop_empty(values)
    state = values.setdefault("state", {})
    vault = values.setdefault("vault", {})
    if isinstance(state, dict) and isinstance(vault, dict):
        state.setdefault("directory", str(_state_directory(environ)))
        if "key_file" not in vault:
            base = Path.cwd() if path is None else path.resolve().parent
            vault["key_file"] = str(_vault_key(environ, state["directory"], base))
    try:
        config = Config.model_validate(values, context=path)
    except ValidationError as error:
        problems += _problems(error, path)
    else:
        if not problems:
            return config
    raise ConfigError("\n".join(problems))


def keys() -> Iterator[tuple[str, str]]:
    """Yield every key there is as (section, key), in the order of the file."""
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            yield section, key


def variable(section: str, key: str) -> str:
    """Return the environment variable that sets *key* of *section*."""
    return f"{PREFIX}{section}_{key}".upper()


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error


def _unknown(values: Mapping[str, Any], path: Path | None) -> Iterator[str]:
    """Yield a sentence for each name in the file that means nothing."""
    for section, table in values.items():
        if section not in SECTIONS:
            yield f"{path}: [{section}] is no section; {_known(section, SECTIONS)}"
        elif isinstance(table, dict):
            fields = SECTIONS[section].model_fields
            for key in table:
                if key not in fields:
                    yield f"{path}: [{section}] has no key {key}; {_known(key, fields)}"


def _known(name: str, names: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name.lower(), names, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}it knows {', '.join(names)}"


def _override(values: dict[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    """Put the environment's values over those of the file; yield a sentence for each unknown variable."""
    names = {variable(section, key): (section, key) for section, key in keys()}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            guess = f"did you mean {close[0]}?" if close else "settings are TIDINGS_<SECTION>_<KEY>"
            yield f"environment: {name} is no setting; {guess}"
            continue
        section, key = names[name]
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = Variable(environ[name], name)


def _drop_empty(values: Mapping[str, Any]) -> None:
    for table in values.values():
        if isinstance(table, dict):
            for key in [key for key, value in table.items() if value == ""]:
                del table[key]


def _state_directory(environ: Mapping[str, str]) -> Path:
    """Return systemd's StateDirectory= (the first, if there are several), else the user's own."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if "XDG_STATE_HOME" in environ:
        return Path(environ["XDG_STATE_HOME"]) / "tidings"
    return Path(environ.get("HOME") or Path.home()) / ".local" / "state" / "tidings"


def _vault_key(environ: Mapping[str, str], state: object, base: Path) -> Path:
    """Return systemd's credential `vault.key` where there is one, else the file in the state directory."""
    credential = Path(environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / "vault.key"
    try:
        if credential.exists():
            return credential
    except PermissionError as error:  # not known to be absent: a new key would not fit the vault
        raise ConfigError(f"{credential}: cannot be read; or set [vault] key_file") from error
    folder = Path(str(state)).expanduser()
    return (Path.cwd() if isinstance(state, Variable) else base) / folder / "vault.key"


def _problems(error: ValidationError, path: Path | None) -> Iterator[str]:
    """Yield a sentence for each value that does not fit."""
    for problem in error.errors(include_url=False):
        if problem["type"] == "missing":  # only where [state] or [vault] is no table: said already
            continue
        value = problem["input"]
        match problem["loc"]:
            case (str(section),):
                if section in SECTIONS:
                    yield f"{path}: {section} is {_form(value)}; it should be a table, [{section}]"
            case (str(section), str(key)) if key in SECTIONS[section].model_fields:
                (kind,) = SECTIONS[section].model_fields[key].metadata
                looks = "(not shown)" if kind.secret else f"is {_form(value)}; it"
                detail = str(problem.get("ctx", {}).get("error", "")) or kind.should
                by_variable = isinstance(value, Variable)
                place = (
                    f"environment: {value.name}" if by_variable else f"{path}: [{section}] {key}"
                )
                yield f"{place} {looks} should be {detail}"


def _form(value: object) -> str:
    """Return what *value* looks like to the person who wrote it."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f'the text "{_cut(value)}"'
        case list():
            return f"the list {_cut(str(value))}"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _cut(text: str) -> str:
    text = masked(text)
    return text if len(text) <= LINE else f"{text[:LINE]}…"
