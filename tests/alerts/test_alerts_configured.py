"""`[alerts]`: what is accepted, what is refused and in which words."""

from pathlib import Path

import pytest

from daemon.config import load
from daemon.errors import ConfigError
from daemon.service import destination
from daemon.signatures import signing_key

HOME = {"HOME": "/home/op"}


def refusal(tmp_path: Path, text: str) -> str:
    """The words with which the configuration is refused."""
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, HOME)
    return str(caught.value)


def test_without_an_address_there_are_no_alerts() -> None:
    """Alerts are off where nobody gave an address, with a key or without."""
    assert destination(load(None, HOME)) is None
    assert destination(load(None, HOME | {"TIDINGS_ALERTS_KEY": "a key"})) is None


def test_address_and_key_are_secrets() -> None:
    """Of the address its origin is shown, of the key nothing: the path may be what nobody may know."""
    given = {
        "TIDINGS_ALERTS_URL": "https://alerts.example.com:8443/hooks/T0P?token=s3cret",
        "TIDINGS_ALERTS_KEY": "not for eyes",
    }
    config = load(None, HOME | given)
    to = destination(config)
    assert to is not None
    assert to.key is not None
    assert "https://alerts.example.com:8443" == str(to.url)
    assert given["TIDINGS_ALERTS_URL"] == to.url.reveal()
    assert b"not for eyes" == signing_key(to.key.reveal())
    for secret in ("T0P", "s3cret", "eyes"):
        assert secret not in repr(config) + repr(to)


@pytest.mark.parametrize("key", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAA", "ä b"])
def test_a_key_that_is_accepted_signs(key: str) -> None:
    """Whatever key the configuration takes is one that a signature can be made with."""
    to = destination(
        load(None, HOME | {"TIDINGS_ALERTS_URL": "http://a/", "TIDINGS_ALERTS_KEY": key})
    )
    assert to is not None
    assert to.key is not None
    assert signing_key(to.key.reveal())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "ftp://s3cret.example.com"', "[alerts] url (not shown) should be a URL such as"),
        ('url = "https://s3cret:word@example.com/"', "without user and password"),
        ('url = "https://"', "[alerts] url (not shown) should be a URL such as"),
        ("url = 1", "[alerts] url (not shown) should be a URL such as"),
        ('key = "whsec_s3cret!"', "[alerts] key (not shown) should be a text on one line"),
        ('key = "whsec_s3cret!"', 'what follows "whsec_" must be base64'),
        ('key = "whsec_s3cre"', 'what follows "whsec_" must be base64'),
        ('key = "whsec_"', 'what follows "whsec_" must be base64'),
        ('key = "whsec_s3cr=t"', 'what follows "whsec_" must be base64'),
        ('key = "s3cret\\n"', "should be a text on one line"),
        ("key = 1", "should be a text on one line"),
        ('adress = "x"', "[alerts] has no key adress; it knows url, key"),
    ],
)
def test_what_is_wrong_is_named_and_not_shown(tmp_path: Path, text: str, said: str) -> None:
    """A mistake is told with its key and what should stand there, and without what stands there."""
    words = refusal(tmp_path, f"[alerts]\n{text}")
    assert said in words
    assert "s3c" not in words
