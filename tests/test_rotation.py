"""A signing key is replaced without a gap: the old one signs beside the new one for a while."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api.running import Api, running
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from daemon.dispatcher.receipts import headers as question_headers
from daemon.model import Instance
from daemon.notifications.signing import (
    KEY,
    OVERLAP,
    PREVIOUS,
    ROTATED,
    Seal,
    keys_at,
    rotate,
)
from daemon.signatures import signing_key, standard_secret, verify_elements
from daemon.store.vault import Keys

NOW = datetime.now(UTC)
BODY = b'{"a": 1}'
HOUR = 3600.0
OAUTH = {
    "oauth.api.key": "client",
    "oauth.api.secret": "client-secret",
    "oauth.callback.url": "https://app.example.com/granted",
}


def signed(settings: dict[str, str], now: float) -> dict[str, str]:
    """The headers of BODY."""
    made = dict(Seal(settings).signatures(BODY, message_id="msg_1", now=now))
    return made | {"webhook-id": "msg_1", "webhook-timestamp": str(int(now))}


def verifies(key: str, headers: dict[str, str]) -> bool:
    """Whether the package `standardwebhooks` accepts BODY with *key*."""
    try:
        Webhook(standard_secret(signing_key(key))).verify(BODY, headers)
    except WebhookVerificationError:
        return False
    return True


async def settings_of(api: Api, path: str) -> dict[str, str]:
    """The instance's settings, in clear, as the dispatcher reads them."""
    await api.context.directory.refresh()
    instance = api.context.directory.get(int(path.rsplit("/", 1)[1]))
    assert isinstance(instance, Instance)
    return await api.context.directory.settings(instance)


@pytest.fixture
def with_api(dsn: str, keys: Keys, tmp_path: Path, run: Any) -> Any:
    """Run a function of the API and of an instance whose key is `old`, and of the instance's path."""

    def runner(work: Any) -> None:
        async def main() -> None:
            async with running(dsn, keys, tmp_path) as api:
                made = await api.create(configuration={KEY: "old"})
                await work(api, f"/instances/{made['id']}")

        run(main())

    return runner


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_both_keys_sign_after_a_change(with_api: Any, method: str) -> None:
    """After PATCH or PUT the receiver may verify with either key, by both kinds of signature, and the API shows when, not what."""

    async def work(api: Api, path: str) -> None:
        body = {"name": "box", "configuration": {**OAUTH, KEY: "new"}}
        answer = await api.call(method, path, body)
        assert 200 == answer.status, answer.text
        shown = answer.body["configuration"]
        assert ("********", "********") == (shown[KEY], shown[PREVIOUS])
        assert abs(datetime.fromisoformat(shown[ROTATED]) - datetime.now(UTC)) < timedelta(
            minutes=1
        )

        settings = await settings_of(api, path)
        headers = signed(settings, datetime.now(UTC).timestamp())
        assert verifies("new", headers)
        assert verifies("old", headers)
        assert not verifies("other", headers)
        assert 2 == len(headers["webhook-signature"].split(" "))
        assert verify_elements("new", BODY, headers["Elements-Webhook-Signature"])
        assert verify_elements("old", BODY, headers["Elements-Webhook-Signature-Previous"])
        # A question for receipts is signed as a notification is.
        asked = question_headers(
            BODY, settings, message_id="msg_1", now=datetime.now(UTC).timestamp()
        )
        assert verifies("old", dict(asked))
        assert verifies("new", dict(asked))

    with_api(work)


def test_after_the_overlap_the_new_key_signs_alone(with_api: Any) -> None:
    """A day after the change, or after the hours that the instance asks for, the old key signs nothing any more."""

    async def work(api: Api, path: str) -> None:
        await api.call("PATCH", path, {"configuration": {KEY: "new"}})
        settings = await settings_of(api, path)
        now = datetime.now(UTC).timestamp()
        assert ("new", "old") == keys_at(settings, now + 23.9 * HOUR)
        assert ("new",) == keys_at(settings, now + 24.1 * HOUR)
        after = signed(settings, now + 24.1 * HOUR)
        assert "Elements-Webhook-Signature-Previous" not in after
        assert " " not in after["webhook-signature"]

        await api.call("PATCH", path, {"configuration": {OVERLAP: 48}})
        longer = await settings_of(api, path)
        assert ("new", "old") == keys_at(longer, now + 47.9 * HOUR)
        assert ("new",) == keys_at(longer, now + 48.1 * HOUR)

    with_api(work)


def test_an_overlap_of_nothing_ends_the_old_key_at_once(with_api: Any) -> None:
    """For a key that leaked: with 0 hours the old key is gone from the settings and from the vault."""

    async def work(api: Api, path: str) -> None:
        await api.call("PATCH", path, {"configuration": {KEY: "new"}})
        answer = await api.call("PATCH", path, {"configuration": {OVERLAP: 0}})
        assert {PREVIOUS, ROTATED}.isdisjoint(answer.body["configuration"])
        settings = await settings_of(api, path)
        assert "old" not in settings.values()
        assert ("new",) == keys_at(settings, datetime.now(UTC).timestamp())

    with_api(work)


def test_other_changes_keep_the_overlap(with_api: Any) -> None:
    """A change of something else, also a PUT of what GET showed, neither ends the overlap nor begins it anew."""

    async def work(api: Api, path: str) -> None:
        first = (await api.call("PATCH", path, {"configuration": {KEY: "new"}})).body
        again = await api.call("PUT", path, {"name": "x", "configuration": first["configuration"]})
        assert first["configuration"] == again.body["configuration"]
        named = await api.call("PUT", path, {"configuration": {**OAUTH, KEY: "new"}})
        assert first["configuration"][ROTATED] == named.body["configuration"][ROTATED]
        settings = await settings_of(api, path)
        assert ("new", "old") == keys_at(settings, datetime.now(UTC).timestamp())

        gone = await api.call("PATCH", path, {"configuration": {KEY: None}})
        assert [None] * 3 == [
            gone.body["configuration"].get(key) for key in (KEY, PREVIOUS, ROTATED)
        ]
        assert "old" not in (await settings_of(api, path)).values()

    with_api(work)


def test_the_log_has_neither_key(with_api: Any) -> None:
    """A rotation is one entry, and keys stand in the vault only."""

    async def work(api: Api, path: str) -> None:
        count = "SELECT count(*) FROM log"
        before = await api.context.pool.fetchval(count)
        await api.call("PATCH", path, {"configuration": {KEY: "n3wkey"}})
        assert before + 1 == await api.context.pool.fetchval(count)
        everything = await api.context.pool.fetchval("SELECT string_agg(data::text, '') FROM log")
        assert "n3wkey" not in everything
        assert '"old"' not in everything

    with_api(work)


key_texts = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))


@given(
    changes=st.lists(
        st.tuples(key_texts, st.sampled_from([None, "0", "1", "24", "100"]), st.integers(0, 60)),
        max_size=12,
    )
)
def test_who_had_the_last_key_can_always_verify(
    changes: list[tuple[str | None, str | None, int]],
) -> None:
    """Whatever is changed and when: the key there is signs first, at most one other does, and that is the one before it, within its hours."""
    settings: dict[str, str] = {}
    now = NOW.replace(microsecond=0)
    history: list[tuple[str | None, datetime]] = []
    for key, overlap, hours in changes:
        now += timedelta(hours=hours)
        wanted: dict[str, str | None] = {KEY: key, OVERLAP: overlap}
        if not history or history[-1][0] != key:
            history.append((key, now))
        made = rotate(settings, {**settings, **wanted}, now)
        settings = {name: value for name, value in made.items() if value is not None}
        keys = keys_at(settings, now.timestamp())
        assert (key,) * bool(key) == keys[:1]
        assert len(keys) <= 2
        since = now - history[-1][1]
        allowed = timedelta(hours=24 if overlap is None else int(overlap))
        if len(keys) == 2:
            assert keys[1] == history[-2][0]
            assert since < allowed
        if len(history) > 1 and key and history[-2][0] and since == timedelta(0) < allowed:
            assert (key, history[-2][0]) == keys
