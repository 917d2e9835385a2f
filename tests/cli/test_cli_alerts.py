"""`tidings alerts`, and what `check` says of them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cli.calling import Caller
from cli.test_cli_verbs import append, in_log, make_instance
from standardwebhooks import Webhook

from daemon.store import alerts, deliveries

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Operator(ThreadingHTTPServer):
    """A receiver of alerts in a thread of its own; *status* is what it answers."""

    status = 204
    got: list[tuple[dict[str, str], bytes]]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}/hooks/T0P"


class Answer(BaseHTTPRequestHandler):
    """Keeps what was posted."""

    server: Operator

    def do_POST(self) -> None:
        """Answer one alert."""
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((headers, body))
        said = b"" if self.server.status == 204 else b"no such hook"
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — http.server's
        """Say nothing."""


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    """A receiver to which alerts are configured."""
    with Operator(("127.0.0.1", 0), Answer) as server:
        server.got = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("TIDINGS_ALERTS_URL", server.url)
        monkeypatch.setenv("TIDINGS_ALERTS_KEY", KEY)
        monkeypatch.setenv("TIDINGS_OUTBOUND_ALLOW_NETWORKS", "127.0.0.0/8")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def no_database(tidings: Caller, monkeypatch: pytest.MonkeyPatch) -> Caller:
    """The command where there is no database."""
    monkeypatch.setenv("TIDINGS_DATABASE_DSN", "postgresql://127.0.0.1:1/none")
    return tidings


def test_a_test_alert_is_sent(no_database: Caller, operator: Operator) -> None:
    """`alerts test` posts a signed alert and ends with 0 when it is accepted; it needs no database."""
    assert 0 == no_database("alerts", "test"), no_database.err
    assert "accepted it with 204" in no_database.out
    found: Any = no_database.json("alerts", "test")
    [(_, _), (headers, body)] = operator.got
    told = Webhook(KEY).verify(body, headers)
    assert "alerts.test" == told["type"]
    assert (headers["webhook-id"], 204, True) == (found["id"], found["status"], found["ok"])
    assert headers["user-agent"].startswith("tidings/")
    assert "T0P" not in no_database.out


def test_one_that_is_refused_fails(no_database: Caller, operator: Operator) -> None:
    """What the receiver refuses ends with 1, says what it answered and what to do; `--json` says it in JSON."""
    operator.status = 404
    assert 1 == no_database("alerts", "test")
    assert "answered 404: no such hook" in no_database.err
    assert "[alerts] url" in no_database.err
    assert "T0P" not in no_database.err
    assert 1 == no_database("alerts", "test", "--json")
    assert '"ok":false' in no_database.out
    assert '"answer":"no such hook"' in no_database.out


def test_an_address_that_is_not_allowed_is_named(
    no_database: Caller, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert to a private address is not sent, as no callback's is; the key that allows it is named, also by `check`."""
    monkeypatch.delenv("TIDINGS_OUTBOUND_ALLOW_NETWORKS")
    assert 1 == no_database("alerts", "test")
    assert "[outbound] allow_networks" in no_database.err
    assert [] == operator.got
    assert 3 == no_database("check")
    assert "✗ alerts" in no_database.out
    assert "[outbound] allow_networks" in no_database.out


def test_without_an_address_there_is_nothing_to_try(no_database: Caller) -> None:
    """Where no address is configured `alerts test` ends with 3 and names the key."""
    assert 3 == no_database("alerts", "test")
    assert "[alerts] url is not set" in no_database.err


def test_check_says_where_alerts_go(
    tidings: Caller, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` shows the origin that alerts go to and whether they are signed, or that they are off."""
    make_instance()
    said: list[str] = []
    for name in ("", "TIDINGS_ALERTS_KEY", "TIDINGS_ALERTS_URL"):
        if name:
            monkeypatch.delenv(name)
        found: Any = tidings.json("check")
        [alert] = [one for one in found["checks"] if one["name"] == "alerts"]
        assert alert["ok"]
        said.append(alert["detail"])
    assert f"to {operator.url.removesuffix('/hooks/T0P')}, signed" == said[0]
    assert "not signed" in said[1]
    assert "off" in said[2]


@pytest.mark.parametrize(
    "arguments", [("instances", "pause", "{}", "--callback"), ("callbacks", "disable", "{}")]
)
def test_what_is_done_here_is_no_alert(tidings: Caller, arguments: tuple[str, ...]) -> None:
    """A callback that somebody disables at the command line is told to nobody; one that the daemon disables is."""
    instance = make_instance()
    assert 0 == tidings(*[one.format(instance) for one in arguments])
    assert in_log(lambda base: alerts.next_after(base.pool, 0)) is None
    by_daemon = append(deliveries.callback_entry("callback.disabled", instance, instance, "gone"))
    assert by_daemon == in_log(lambda base: alerts.next_after(base.pool, 0)).position


def test_a_replay_that_is_cancelled_is_no_alert(tidings: Caller) -> None:
    """Who cancels a replay knows that it has ended."""
    from cli.test_cli_verbs import change, poll

    instance = make_instance()
    poll(instance, change("one"))
    assert 0 == tidings("replay", "--instance", instance, "--no-wait"), tidings.err
    replays: Any = tidings.json("replay", "list", "--all")
    assert 0 == tidings("replay", "cancel", replays[0]["id"]), tidings.err
    assert in_log(lambda base: alerts.next_after(base.pool, 0)) is None


def test_alerts_are_read_in_the_log(tidings: Caller) -> None:
    """`log tail` says what an `alert.sent` is about, and that it was given up."""
    append(alerts.began())
    append(alerts.sent(17, attempts=1, status=204, error=None))
    append(alerts.sent(18, attempts=9, status=404, error="answered 404"))
    assert 0 == tidings("log", "tail")
    assert "alert.began" in tidings.out
    assert "about 17\n" in tidings.out
    assert "about 18, given up: answered 404" in tidings.out
