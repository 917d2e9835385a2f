"""Every `event.notification.format`, judged by others' packages; what no instance may ask for is refused."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from api.running import running
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, from_structured_event
from dispatching import headers_of
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from daemon.model import Instance
from daemon.notifications import FORMATS, Notification, StoredChange, render
from daemon.signatures import signing_key, standard_secret
from daemon.store.vault import Keys

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = "event.notification.signature.key"

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
changes = st.builds(
    StoredChange,
    position=st.integers(10, 2**40),
    object_type=st.just("contacts"),
    object_id=texts.filter(bool),
    change=st.sampled_from(["CREATED", "UPDATED", "DELETED", "UNKNOWN"]),
    changed=st.one_of(st.none(), st.just(NOW)),
    data=st.dictionaries(texts, st.one_of(texts, st.integers(-(2**53), 2**53))).map(
        lambda data: orjson.dumps(data).decode()
    ),
)


def notification(kind: str, stored: list[StoredChange], *, polled: bool = True) -> Notification:
    """One of that format."""
    instance = Instance(
        id=3,
        organization_id=2,
        user_id=2,
        element_key="rest",
        hub="general",
        name="n",
        tags=(),
        configuration={"event.notification.format": kind},
        token_digest=b"",
        disabled=False,
        created=NOW,
        updated=NOW,
        revision=1,
    )
    raw = None if polled else '{"of": "provider"}'
    when = NOW if polled else None
    return Notification(9, "AQIDBAAAAAAAAAAAABeY", NOW, instance, tuple(stored), when, raw)


def message(one: Notification, body: bytes) -> HTTPMessage:
    """The request as the package takes it."""
    pairs = headers_of(one, body, {}, NOW.timestamp(), repeat=False)
    return HTTPMessage({name.lower(): value for name, value in pairs}, body)


@pytest.mark.parametrize("kind", FORMATS)
@given(stored=st.lists(changes, min_size=1, max_size=4), polled=st.booleans())
def test_every_format_verifies(kind: str, stored: list[StoredChange], polled: bool) -> None:  # noqa: FBT001 — hypothesis draws it
    """The package `standardwebhooks` verifies each format's request and reads its body."""
    one = notification(kind, stored, polled=polled)
    body = render(one)
    sent = dict(
        headers_of(one, body, {KEY: "k"}, datetime.now(UTC).timestamp(), repeat=False, agent="t/1")
    )
    said = Webhook(standard_secret(signing_key("k"))).verify(body, sent)
    assert orjson.loads(body) == said
    assert FORMATS[kind].content_type == sent["content-type"]
    assert "t/1" == sent["user-agent"]


@given(stored=st.lists(changes, min_size=1, max_size=4), polled=st.booleans())
def test_structured_is_a_cloudevent(stored: list[StoredChange], polled: bool) -> None:  # noqa: FBT001 — hypothesis draws it
    """The package `cloudevents` reads the request as one valid event, with the notification's id and what changed."""
    one = notification("cloudevents", stored, polled=polled)
    event = from_http_event(message(one, render(one)))
    assert "1.0" == event.get_specversion()
    assert one.id == event.get_id()
    assert "/elements/rest/instances/3" == event.get_source()
    assert "contacts" == event.get_extension("objecttype")
    data: Any = event.get_data()
    if len(stored) > 1:
        assert "tidings.contacts.changes" == event.get_type()
        assert NOW == event.get_time()
        assert [change.object_id for change in stored] == [e["objectId"] for e in data["events"]]
        return
    assert f"tidings.contacts.{stored[0].change.lower()}" == event.get_type()
    assert stored[0].object_id == event.get_subject()
    assert orjson.loads(stored[0].data or "") == data if polled else {"of": "provider"} == data


@given(stored=st.lists(changes, min_size=1, max_size=4))
def test_batched_is_an_array_of_cloudevents(stored: list[StoredChange]) -> None:
    """Each member of the array is a valid event for `cloudevents`; ids differ, subjects and data are the changes'."""
    one = notification("cloudevents-batched", stored)
    body = render(one)
    assert "application/cloudevents-batch+json" == message(one, body).headers["content-type"]
    single = {"content-type": "application/cloudevents+json"}
    events = [
        from_structured_event(HTTPMessage(single, orjson.dumps(each)))
        for each in orjson.loads(body)
    ]
    assert [change.object_id for change in stored] == [event.get_subject() for event in events]
    assert [orjson.loads(c.data or "") for c in stored] == [event.get_data() for event in events]
    assert len(stored) == len({event.get_id() for event in events})


REFUSED = {
    "event.notification.format": (
        ["xml", "CloudEvents"],
        "cloud-elements, cloudevents, cloudevents-batched, standard-webhooks",
    ),
    "event.notification.redelivery": (["never"], "resend or hold"),
    "event.notification.receipts": (["yes", "ftp://a.example", "https://a:b@c.example"], "true"),
    "event.notification.rate": (["fast", "-1", "nan", "inf", "10001"], "deliveries a second"),
    "event.notification.concurrency": (["0", "1.5", "101", "-1", "9" * 5000], "whole number"),
    "event.notification.signature.overlap": (["-1", "721", "a day"], "hours"),
    "event.notification.signature.key": (["whsec_%"], "base64"),
}
TAKEN = {
    "event.notification.format": [*FORMATS, ""],
    "event.notification.redelivery": ["hold", "Resend"],
    "event.notification.receipts": ["true", "False", "https://app.example.com/receipts"],
    "event.notification.rate": [0.5, "10000"],
    "event.notification.concurrency": [1, "100"],
    "event.notification.signature.overlap": ["0", 1.5, "720"],
    "event.notification.signature.key": ["whsec_MTIz", "any text"],
}


def test_what_is_no_setting_is_refused(dsn: str, keys: Keys, tmp_path: Path, run: Any) -> None:
    """The API refuses settings of notifications that nothing would obey, under their names and with what they should be."""

    async def main() -> None:
        async with running(dsn, keys, tmp_path) as api:
            made = await api.create()
            path = f"/instances/{made['id']}"
            for key, (values, said) in REFUSED.items():
                for value in values:
                    answer = await api.call("PATCH", path, {"configuration": {key: value}})
                    assert 400 == answer.status, (key, value)
                    assert f"configuration.{key}" in answer.text
                    assert said in answer.text
            for key, good in TAKEN.items():
                for value in good:
                    answer = await api.call("PATCH", path, {"configuration": {key: value}})
                    assert 200 == answer.status, answer.text

    run(main())


def test_nobody_is_asked_for_receipts_at_an_inner_address(
    dsn: str, keys: Keys, tmp_path: Path, run: Any
) -> None:
    """The URL to ask for receipts is held to the same policy as a callback's."""

    async def main() -> None:
        async with running(dsn, keys, tmp_path) as api:
            made = await api.create()
            wanted = {"event.notification.receipts": "http://169.254.169.254/latest"}
            answer = await api.call("PATCH", f"/instances/{made['id']}", {"configuration": wanted})
            assert 400 == answer.status

    run(main())
