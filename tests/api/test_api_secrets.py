"""No secret leaves: not in an answer, not in a log line, not in the log table."""

import asyncpg
import pytest
import structlog
from api.running import Open, Run

from daemon.api.provision import is_secret

SENTINEL = "s3ntinel"
SECRETS = {
    name: f"{SENTINEL}-{number}"
    for number, name in enumerate(
        (
            *("oauth.api.key", "oauth.api.secret", "signature.secret", "apim.subscription.key"),
            *("event.notification.signature.key", "event.notification.basic.password"),
            *("event.notification.callback.headers", "hubspot.authorization.apikey"),
            *("password", "my.accessToken", "private_key", "webhook.token", "api-key"),
        )
    )
} | {"some.url": f"https://user:{SENTINEL}@db.example.com/"}


def test_a_secret_is_shown_nowhere(
    run: Run, open_api: Open, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is done with secrets, right or wrong, none is in an answer, a log line or the log table."""

    async def main() -> None:
        lines: list[object] = []
        structlog.configure(
            processors=[lambda _, __, event: lines.append(dict(event)) or "", lambda *_: ""],
            logger_factory=structlog.ReturnLoggerFactory(),
        )
        async with open_api() as api:
            made = await api.create(
                configuration=SECRETS, providerData={"code": f"{SENTINEL}-code"}
            )
            path = f"/instances/{made['id']}"
            assert all("********" == made["configuration"][key] for key in SECRETS)
            await api.call("PATCH", path, {"configuration": {"password": f"{SENTINEL}-new"}})
            await api.call("PUT", path, {"name": "a", "configuration": SECRETS})
            for tail in ("", "/configuration", "/events"):
                await api.call("GET", path + tail)
            await api.call(
                "PATCH", f"{path}/configuration/password", {"propertyValue": f"{SENTINEL}-9"}
            )
            callback = "event.notification.callback.url"
            for wrong in (
                {callback: f"https://user:{SENTINEL}@x.example/"},
                {"event.notification.enabled": SENTINEL, "event.vendor.type": SENTINEL},
                {"element.token": SENTINEL, "event.poller.refresh_interval": SENTINEL},
                {"password": [SENTINEL, "\0"]},
            ):
                assert 400 == (await api.call("PATCH", path, {"configuration": wrong})).status
            for text in (f'{{"password": "{SENTINEL}" "x"}}', f'{{"password": "{SENTINEL}'):
                assert 400 == (await api.call("POST", "/instances", data=text)).status
            refused = {"providerData": {"code": "refused"}, "configuration": SECRETS}
            assert 400 == (await api.call("PATCH", path, refused)).status
            auth = f"User {SENTINEL}, Organization {SENTINEL}"
            assert 401 == (await api.call("GET", "/instances", auth=auth)).status
            assert 404 == (await api.call("GET", f"/{SENTINEL}?token={SENTINEL}")).status
            await api.call(
                "GET", f"/elements/boxlike/oauth/url?apiKey=id&apiSecret={SENTINEL}", auth=None
            )

            for answer in api.answers:
                assert SENTINEL not in answer.text
                assert SENTINEL not in str(answer.headers)
            conn = await asyncpg.connect(api.dsn)
            try:
                for table in ("log", "instances", "vault"):
                    rows = await conn.fetch(f"SELECT t::text AS row FROM {table} AS t")  # noqa: S608 — one of three names
                    assert rows
                    assert SENTINEL not in str(rows)
                    assert "access-" not in str(rows)
            finally:
                await conn.close()
        assert lines
        assert SENTINEL not in str(lines)

    run(main())
    said = capsys.readouterr()
    assert SENTINEL not in said.out + said.err + caplog.text


def test_a_bug_is_told_without_its_message(
    run: Run, open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is 500 with a requestId; the log has its type and place, not what it quotes."""
    with structlog.testing.capture_logs() as lines:

        async def main() -> None:
            async with open_api() as api:

                def broken(*_: object) -> None:
                    raise RuntimeError(f"cannot digest {SENTINEL}")

                monkeypatch.setattr(api.context.directory, "of_organization", broken)
                answer = await api.call("GET", "/instances")
                assert 500 == answer.status
                assert SENTINEL not in answer.text

        run(main())
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert "RuntimeError" == line["error"]
    assert "in find" in line["traceback"]
    assert SENTINEL not in str(lines)


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("oauth.api.key", True),
        ("oauth.user.token", True),
        ("oauth.token.url", False),
        ("oauth.callback.url", False),
        ("authentication.type", False),
        ("oauth.user.id", False),
        ("oauth.user.refresh_interval", False),
        ("event.notification.callback.url", False),
        ("event.notification.callback.headers", True),
        ("event.notification.basic.username", False),
        ("country", False),
        ("bulk.query.field_name", False),
        ("clientSecret", True),
        ("hapikey", True),
        ("AWS_ACCESS_KEY", True),
    ],
)
def test_names_tell_secrets(run: Run, open_api: Open, key: str, secret: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """A key that no element describes is a secret when its name sounds like one."""

    async def main() -> None:
        async with open_api() as api:
            assert secret == is_secret(api.context.elements.get("crmlike"), key, "value")

    run(main())
