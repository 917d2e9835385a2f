"""The configuration: what is accepted, what is refused and in which words."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import keys, load, variable
from daemon.errors import ConfigError
from daemon.forms import Address
from daemon.model import MASK, Secret

ROOT = Path(__file__).parent.parent
HOME = {"HOME": "/home/op"}


def write(tmp_path: Path, text: str) -> Path:
    """Return a configuration file that holds *text*."""
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    """Return the lines with which the configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        load(path, HOME | (environ or {}))
    return str(caught.value).splitlines()


def uncommented() -> str:
    """Return the example with each key switched on."""
    text = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    return re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE)


def test_the_example_shows_every_key_with_its_default(tmp_path: Path) -> None:
    """The example, uncommented, has each key once, in our order, and is the configuration without a file."""
    text = uncommented()
    shown: list[tuple[str, str]] = []
    section = ""
    for line in text.splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line):
            section = head[1]
        elif key := re.match(r"(\w+) = ", line):
            shown.append((section, key[1]))

    assert list(keys()) == shown
    assert load(None, HOME) == load(write(tmp_path, text), HOME)


def test_the_example_explains_every_key() -> None:
    """Above each key of the example stands a comment that ends like a sentence."""
    paragraphs = (ROOT / "config.example.toml").read_text(encoding="utf-8").split("\n\n")
    for paragraph in paragraphs[1:]:
        *before, key = [line for line in paragraph.strip().splitlines() if line[0] != "["]

        assert re.match(r"#[a-z_]+ = ", key), paragraph
        assert before, paragraph
        assert before[-1].endswith("."), paragraph


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """The order is defaults, file, environment, key by key."""
    path = write(tmp_path, '[log]\nlevel = "debug"\n[server]\nlisten = "[::1]:1"\n')

    config = load(path, HOME | {"TIDINGS_SERVER_LISTEN": "localhost:2"})

    assert Address("localhost", 2) == config.server.listen
    assert "debug" == config.log.level
    assert "auto" == config.log.format


def test_an_empty_value_means_the_default(tmp_path: Path) -> None:
    """An empty variable takes back what the file says."""
    path = write(tmp_path, '[database]\ndsn = "postgresql://db/tidings"\n[polling]\njitter = 0.3\n')

    config = load(path, HOME | {"TIDINGS_DATABASE_DSN": "", "TIDINGS_POLLING_JITTER": ""})

    assert load(None, HOME) == config


@pytest.mark.parametrize(
    ("name", "text", "section", "key", "expected"),
    [
        ("TIDINGS_POLLING_CONCURRENCY", "7", "polling", "concurrency", 7),
        ("TIDINGS_POLLING_JITTER", ".25", "polling", "jitter", 0.25),
        ("TIDINGS_DELIVERY_RETRIES", "1s, 2m 3h", "delivery", "retries", (1.0, 120.0, 10800.0)),
        ("TIDINGS_DELIVERY_TOTAL_TIMEOUT", "12", "delivery", "total_timeout", 12.0),
        ("TIDINGS_DELIVERY_DISABLE_AFTER", "1d12h", "delivery", "disable_after", 129600.0),
        ("TIDINGS_SERVER_BODY_LIMIT", "64 KiB", "server", "body_limit", 65536),
        (
            "TIDINGS_SERVER_PUBLIC_URL",
            "https://a.example/t/",
            "server",
            "public_url",
            "https://a.example/t",
        ),
        (
            "TIDINGS_ELEMENTS_DIRECTORIES",
            "/a, /b",
            "elements",
            "directories",
            (Path("/a"), Path("/b")),
        ),
    ],
)
def test_variables_are_text_and_are_read(
    name: str, text: str, section: str, key: str, expected: object
) -> None:
    """Numbers, durations, sizes and lists can be said in a variable."""
    config = load(None, HOME | {name: text})

    assert expected == getattr(getattr(config, section), key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[sever]", "[sever] is no section; did you mean server? it knows server, database, "),
        (
            "[server]\nlisen = 1",
            "[server] has no key lisen; did you mean listen? it knows listen, ",
        ),
        ("server = 1", "server is the number 1; it should be a table, [server]"),
        ("state = 1", "state is the number 1; it should be a table, [state]"),
        (
            '[server]\nlisten = "8080"',
            '[server] listen is the text "8080"; it should be a host and',
        ),
        ('[server]\nlisten = "a:65536"', "; it should be a host and a port"),
        (
            "[server]\nbody_limit = true",
            "[server] body_limit is true; it should be a size from 1024",
        ),
        ('[server]\npublic_url = "https://a?b"', "without user, query or fragment"),
        ('[server]\npublic_url = "https://[a"', "should be a URL such as"),
        (
            '[polling]\nconcurrency = "5"',
            'is the text "5"; it should be a whole number from 1 to 10000',
        ),
        ("[polling]\nconcurrency = 0", "is the number 0; it should be a whole number"),
        ("[polling]\nconcurrency = 1.5", "is the number 1.5; it should be a whole number"),
        ("[polling]\njitter = 1.1", "is the number 1.1; it should be a number from 0 to 1"),
        ("[delivery]\nretries = []\nwindow = {}", "window is a table; it should be a whole number"),
        (
            '[delivery]\nretries = ["5s", "x"]',
            "is the list ['5s', 'x']; it should be a list such as",
        ),
        (
            "[delivery]\ndisable_after = nan",
            "is the number nan; it should be a duration from 1m to 365d",
        ),
        ('[delivery]\ntotal_timeout = "1 fortnight"', 'such as "30s", "5m" or "2d"'),
        ('[outbound]\nallow_networks = ["10.0.0.1/8"]', "10.0.0.1/8 has host bits set"),
        ("[outbound]\nallow_networks = [10]", "it should be a list of networks"),
        (
            "[log]\nlevel = 2020-01-01",
            "is a date or time; it should be one of debug, info, warning",
        ),
        ("[log]\nlevel =", "is not valid TOML: Invalid value (at "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """A refusal is one line: the file, the key, what stands there, what should stand there."""
    path = write(tmp_path, text)

    (line,) = refusal(path)

    assert line.startswith(f"{path}: ")
    assert expected in line


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Problems of the file and of the environment come together."""
    path = write(tmp_path, "[log]\nlevel = 1\nlevl = 2\n")

    lines = refusal(path, {"TIDINGS_LOG_LEVL": "x", "TIDINGS_POLLING_JITTER": "2"})

    assert [
        f"{path}: [log] has no key levl; did you mean level? it knows level, format",
        "environment: TIDINGS_LOG_LEVL is no setting; did you mean TIDINGS_LOG_LEVEL?",
        'environment: TIDINGS_POLLING_JITTER is the text "2"; it should be a number from 0 to 1',
        f"{path}: [log] level is the number 1; it should be one of debug, info, warning, error",
    ] == lines


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file is refused with its path and the system's reason, a binary one as not UTF-8."""
    (tmp_path / "binary.toml").write_bytes(b"a = '\xff'")

    assert [f"{tmp_path}/none.toml: cannot be read: No such file or directory"] == refusal(
        tmp_path / "none.toml"
    )
    assert [f"{tmp_path}/binary.toml: is not UTF-8 text (byte 5)"] == refusal(
        tmp_path / "binary.toml"
    )


@pytest.mark.parametrize(
    "text",
    [
        '[database]\ndsn = "mysql://root:hunter2@db/x"',
        '[database]\ndsn = "host=db password=hunter2"',
        '[outbound]\nproxy = "ftp://u:hunter2@p"',
        '[server]\nlisten = "postgresql://u:hunter2@db"',
        '[server]\npublic_url = "https://u:hunter2@db"',
        '[log]\nlevel = ["password=hunter2"]',
    ],
)
def test_a_refusal_shows_no_secret(tmp_path: Path, text: str) -> None:
    """A password that stands in a wrong value is not repeated, even where none belongs."""
    assert "hunter2" not in "".join(refusal(write(tmp_path, text)))


def test_secrets_are_not_shown() -> None:
    """The configuration's repr masks passwords; `reveal` returns what was given."""
    dsn = "postgresql://u:hunter2@db/x?sslpassword=hunter2"
    config = load(
        None, HOME | {"TIDINGS_DATABASE_DSN": dsn, "TIDINGS_OUTBOUND_PROXY": "http://u:hunter2@p:1"}
    )

    assert config.database.dsn is not None
    assert dsn == config.database.dsn.reveal()
    assert f"postgresql://u:{MASK}@db/x?sslpassword={MASK}" == str(config.database.dsn)
    assert "hunter2" not in f"{config!r} {config} {config.model_dump()}"
    assert MASK == f"{Secret('hunter2')}" == repr(Secret("hunter2"))


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({"STATE_DIRECTORY": "/var/lib/tidings"}, "/var/lib/tidings"),
        ({"STATE_DIRECTORY": "/var/lib/tidings:/var/lib/x"}, "/var/lib/tidings"),
        ({"XDG_STATE_HOME": "/s"}, "/s/tidings"),
        ({}, "/home/op/.local/state/tidings"),
        ({"STATE_DIRECTORY": "/a", "TIDINGS_STATE_DIRECTORY": "/b"}, "/b"),
    ],
)
def test_where_the_state_is(environ: dict[str, str], state: str) -> None:
    """The state directory is the operator's, else systemd's, else the user's; the vault's key is in it."""
    config = load(None, HOME | environ)

    assert Path(state) == config.state.directory
    assert Path(state) / "vault.key" == config.vault.key_file


def test_the_credential_of_systemd_is_the_vaults_key(tmp_path: Path) -> None:
    """A credential vault.key is used where there is one, a credentials directory without it is not."""
    environ = HOME | {"CREDENTIALS_DIRECTORY": str(tmp_path), "STATE_DIRECTORY": "/var/lib/tidings"}
    absent = load(None, environ)
    (tmp_path / "vault.key").write_bytes(b"k")

    assert Path("/var/lib/tidings/vault.key") == absent.vault.key_file
    assert tmp_path / "vault.key" == load(None, environ).vault.key_file


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file they begin at the file's folder, in a variable at the working directory."""
    (tmp_path / "etc").mkdir()
    path = write(tmp_path / "etc", '[state]\ndirectory = "s"\n[elements]\ndirectories = ["e"]\n')
    monkeypatch.chdir(tmp_path)

    config = load(path, HOME)

    assert tmp_path / "etc/s" == config.state.directory
    assert tmp_path / "etc/s/vault.key" == config.vault.key_file
    assert (tmp_path / "etc/e",) == config.elements.directories
    assert (
        tmp_path / "s/vault.key"
        == load(path, HOME | {"TIDINGS_STATE_DIRECTORY": "s"}).vault.key_file
    )


def test_the_configuration_is_frozen() -> None:
    """Neither the configuration nor a section can be changed."""
    config = load(None, HOME)
    for thing, name in ((config, "log"), (config.log, "level")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(thing, name, None)


def test_the_address_of_the_daemon() -> None:
    """Without a public URL the listening address is the address, IPv6 in brackets."""
    assert "http://127.0.0.1:8080" == load(None, HOME).server.url
    assert "http://[::1]:80" == load(None, HOME | {"TIDINGS_SERVER_LISTEN": "[::1]:80"}).server.url


@given(st.floats(min_value=0.001, max_value=100.0), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_mean_what_they_say(number: float, unit: str) -> None:
    """A number with a unit is that many of the unit, whatever both are; beyond the bounds it is refused."""
    text = f"{number:.3f}{unit}"
    seconds = float(f"{number:.3f}") * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    environ = HOME | {"TIDINGS_DATABASE_COMMAND_TIMEOUT": text}

    if 0.1 <= seconds <= 3600:
        assert seconds == pytest.approx(load(None, environ).database.command_timeout)
    else:
        assert "a duration from 100ms to 1h" in refusal(None, environ)[0]


@given(
    st.sampled_from(list(keys())), st.text(st.characters(exclude_characters="\0", codec="utf-8"))
)
def test_any_text_is_read_or_refused(place: tuple[str, str], text: str) -> None:
    """Whatever a variable holds, the answer is a configuration or one sentence about that variable."""
    name = variable(*place)
    try:
        load(None, HOME | {name: text})
    except ConfigError as error:
        answer = str(error)
    else:
        answer = f"environment: {name} is good"

    assert answer.startswith(f"environment: {name} ")


def test_every_key_has_an_effect() -> None:
    """Each key is read somewhere in the daemon, once for each section that has it: none does nothing."""
    reads = Counter(
        node.attr
        for path in (ROOT / "daemon").rglob("*.py")
        if path.name not in {"config.py", "forms.py"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )
    reads["public_url"] += reads["url"]  # Server.url stands for it
    sections = Counter(key for _, key in keys())

    assert [] == [f"{section}.{key}" for section, key in keys() if reads[key] < sections[key]]
