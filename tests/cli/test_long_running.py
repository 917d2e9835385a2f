"""The verbs that run until somebody stops them: as processes, stopped as people and systemd do."""

import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import orjson
import pytest
from cli.calling import ROOT, program, whole_program

from daemon.receipts import CONTENT_TYPE, Question, Receipts, read_answer, write_question


def post(url: str, body: bytes = b"{}") -> int:
    """POST *body*; the status."""
    request = urllib.request.Request(url, data=body, headers={"webhook-id": "m1"})  # noqa: S310 — http, to ourselves
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 — likewise
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def origin(text: str) -> str:
    """The address in *text*."""
    return next(word for word in text.replace(";", " ").split() if word.startswith("http://"))


def test_listen_answers_as_told() -> None:
    """`listen --status 503 --status-for 2` answers 503 twice, then 200, and recognises what comes again."""
    with program("listen", "--port", 0, "--status", 503, "--status-for", 2, "--json") as listen:
        url = origin(listen.until("Listening on"))
        assert [503, 503, 200, 200] == [post(url) for _ in range(4)]
        assert 130 == listen.end(signal.SIGINT)
        told = [orjson.loads(line) for line in listen.said if line.startswith("{")]

    assert [(503, False), (503, False), (200, False), (200, True)] == [
        (one["answered"], one["again"]) for one in told
    ]


def test_listen_answers_questions_for_receipts() -> None:
    """A question gets its answer with its content type whatever --status says, and does not count for --status-for."""
    with program("listen", "--port", 0, "--status", 503, "--status-for", 1, "--json") as listen:
        url = origin(listen.until("Listening on"))
        question = write_question(Question(("m1", "m2"), int(time.time())))

        def ask() -> Receipts:
            request = urllib.request.Request(  # noqa: S310 — http, to ourselves
                url, data=question, headers={"Content-Type": CONTENT_TYPE}
            )
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 — likewise
                assert CONTENT_TYPE == answer.headers["Content-Type"]
                return read_answer(answer.read(), ("m1", "m2"))

        assert Receipts(frozenset(), frozenset({"m1", "m2"})) == ask()
        assert [503, 200] == [post(url) for _ in range(2)]
        assert Receipts(frozenset({"m1"}), frozenset({"m2"})) == ask()
        assert 130 == listen.end(signal.SIGINT)
        told = [orjson.loads(line) for line in listen.said if line.startswith("{")]

    assert {"asked": 2, "received": 1, "unknown": 1} == told[-1]["receipts"]
    assert [200, 503, 200, 200] == [one["answered"] for one in told]


def test_simulate_serves_until_it_is_stopped() -> None:
    """`simulate workshop` takes records, and ends with 143 by SIGTERM."""
    with program("simulate", "workshop", "--port", 0) as simulate:
        url = origin(simulate.until("workshop is at"))
        assert 201 == post(f"{url}/simulator/customers", b'{"name": "Ann"}')
        assert 143 == simulate.end(signal.SIGTERM)


def test_run_refuses_a_wrong_configuration(tmp_path: Path) -> None:
    """`run` with an unknown key ends with 78, at which the unit does not start it again."""
    file = tmp_path / "config.toml"
    file.write_text("[server]\nlisen = 1\n")
    with program("run", "--config", file) as run:
        run.until("did you mean listen?")
        assert 78 == run.end()

    assert "RestartPreventExitStatus=78" in (ROOT / "systemd" / "tidings.service").read_text()


def test_run_says_that_its_database_is_away(tmp_path: Path) -> None:
    """`run` without its PostgreSQL ends with 4: systemd starts it again until it is there."""
    with program(
        "run",
        TIDINGS_DATABASE_DSN="postgresql://127.0.0.1:1/x",
        TIDINGS_STATE_DIRECTORY=str(tmp_path),
    ) as run:
        run.until("the database is away")
        assert 4 == run.end()


def test_run_stops_in_order_and_log_tail_follows(tmp_path: Path, dsn: str) -> None:
    """SIGTERM ends `run` with 0; `log tail -f` beside it shows an entry as it comes, and ends with 130 by SIGINT."""
    place = {
        "TIDINGS_DATABASE_DSN": dsn,
        "TIDINGS_STATE_DIRECTORY": str(tmp_path),
        "TIDINGS_SERVER_LISTEN": "127.0.0.1:0",
    }
    with (
        whole_program("run", TIDINGS_LOG_FORMAT="json", **place) as run,
        program("log", "tail", "-f", **place) as tail,
    ):
        run.until('"ready"')
        tail.until("log.opened")
        with program("users", "add", "ann", **place) as add:
            assert 0 == add.end()
        tail.until("user.added")
        assert 130 == tail.end(signal.SIGINT)
        assert 0 == run.end(signal.SIGTERM)


def test_a_pipe_that_closes_is_no_fault(tmp_path: Path, dsn: str) -> None:
    """When the reader of `log tail -f` goes away it ends quietly, without a traceback."""
    place = {"TIDINGS_DATABASE_DSN": dsn, "TIDINGS_STATE_DIRECTORY": str(tmp_path)}
    with program("users", "add", "ann", **place) as add:
        assert 0 == add.end()
    import subprocess
    import sys

    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m daemon log tail -n 100 --json | head -c 1"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **place},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert "Traceback" not in done.stderr
    assert "{" == done.stdout


@pytest.mark.parametrize("arguments", [("listen",), ("simulate", "workshop")])
def test_a_port_that_is_taken_is_said(arguments: tuple[str, ...]) -> None:
    """A port that somebody else has ends with 1 and the advice to choose another."""
    with program("listen", "--port", 0) as first:
        port = origin(first.until("Listening on")).rsplit(":", 1)[1].rstrip("/")
        with program(*arguments, "--port", port) as second:
            second.until("choose another --port")
            assert 1 == second.end()
