"""The receiver for development: what it believes, what it answers, what it remembers."""

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from daemon.cli import receiver as module
from daemon.cli.listen import as_object, line, question_line, question_object
from daemon.cli.receiver import Event, Received, Receiver
from daemon.receipts import ID_PREFIX, Question, Receipts, read_answer, write_question
from daemon.signatures import elements_signature, signing_key, standard_secret

KEY = "the signature key"
NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)


def body(*events: Event, instance: int = 7, polled: bool = True) -> bytes:
    """A notification of *events*."""
    told = [
        {
            "eventType": event.change,
            "objectType": event.object_type,
            "objectId": event.object_id,
            **({"pollDate": "2026-11-20T08:00:00Z"} if polled else {}),
        }
        for event in events
    ]
    return orjson.dumps({"message": {"instanceId": instance, "events": told}})


def headers(content: bytes, message_id: str = "m1", key: str = KEY) -> dict[str, str]:
    """What a daemon with *key* sends; the second signature is made by the judges of Standard Webhooks."""
    signature = Webhook(standard_secret(signing_key(key))).sign(message_id, NOW, content.decode())
    return {
        "webhook-id": message_id,
        "Elements-Webhook-Id": message_id,
        "webhook-timestamp": str(int(NOW.timestamp())),
        "webhook-signature": signature,
        "Elements-Webhook-Signature": elements_signature(key, content),
    }


def receiver(status: int = 200, key: str | None = KEY, late: float = 0.0) -> Receiver:
    """A receiver whose clock is *late* seconds late."""
    return Receiver(
        heard=lambda _: None, key=key, status=lambda: status, now=lambda: NOW.timestamp() + late
    )


def test_both_signatures_are_verified() -> None:
    """A notification that is signed rightly is verified by both signatures, read, and answered 200."""
    content = body(Event("CREATED", "customers", "c1"))
    received = receiver().judge(headers(content), content)

    assert received.verified
    assert (200, 7, True, False) == (
        received.answered,
        received.instance,
        received.polled,
        received.again,
    )
    assert (Event("CREATED", "customers", "c1"),) == received.events


@given(st.binary(max_size=50), st.integers(0, 2**16))
def test_no_other_body_is_verified(extra: bytes, place: int) -> None:
    """Whatever is put into a signed body, wherever, is refused with 401."""
    content = body(Event("CREATED", "customers", "c1"))
    place %= len(content) + 1
    other = content[:place] + extra + content[place:]
    received = receiver().judge(headers(content), other)

    assert (other == content) == received.verified
    assert (200 if other == content else 401) == received.answered


def test_another_key_is_refused() -> None:
    """What is signed by another key, or not at all, is answered 401 and not remembered."""
    content = body(Event("CREATED", "customers", "c1"))
    mine = receiver()

    assert 401 == mine.judge(headers(content, key="another"), content).answered
    assert 401 == mine.judge({"webhook-id": "m1"}, content).answered
    assert not mine.judge(headers(content), content).again


def test_an_old_notification_is_refused() -> None:
    """A signature whose timestamp is more than five minutes old is refused: it may be a recording."""
    content = body(Event("CREATED", "customers", "c1"))

    assert 200 == receiver(late=299).judge(headers(content), content).answered
    assert 401 == receiver(late=301).judge(headers(content), content).answered


def test_a_repeat_is_recognised_once_it_was_accepted() -> None:
    """An id that was answered 2xx is known when it comes again; one that was answered 503 is not."""
    content = body(Event("CREATED", "customers", "c1"))
    statuses = iter([503, 200, 200])
    mine = Receiver(heard=lambda _: None, key=KEY, status=lambda: next(statuses), now=NOW.timestamp)

    assert [False, False, True] == [mine.judge(headers(content), content).again for _ in range(3)]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the latest ids are remembered; the oldest are forgotten first."""
    monkeypatch.setattr(module, "REMEMBERED", 2)
    content = body(Event("CREATED", "customers", "c1"))
    mine = receiver()
    for name in ("a", "b", "c"):
        mine.judge(headers(content, name), content)

    assert [True, False] == [
        mine.judge(headers(content, name), content).again for name in ("c", "a")
    ]


def test_without_a_key_nothing_is_verified() -> None:
    """Without a key everything is answered as told, and said to be not verified."""
    content = body(Event("CREATED", "customers", "c1"))
    received = receiver(key=None).judge(headers(content), content)

    assert (200, False) == (received.answered, received.verified)
    assert "not verified" in line(received).plain


ASKED = Question(("m1", "m2"), int(NOW.timestamp()))


def test_a_question_is_answered_by_what_was_accepted() -> None:
    """What was answered 2xx is received, what was refused or never came is unknown, what may be forgotten is neither."""
    content = body(Event("CREATED", "customers", "c1"))
    statuses = iter([503, 200])
    mine = Receiver(heard=lambda _: None, key=KEY, status=lambda: next(statuses), now=NOW.timestamp)

    def ask(question: Question) -> Receipts:
        written = write_question(question)
        asked = mine.answer(headers(written, f"{ID_PREFIX}1"), written)
        assert 200 == asked.answered
        return read_answer(asked.body, question.ids)

    mine.judge(headers(content), content)
    assert Receipts(frozenset(), frozenset({"m1", "m2"})) == ask(ASKED)
    mine.judge(headers(content), content)
    for _ in range(
        2
    ):  # a question changes nothing, and asks for no status: the third would be StopIteration
        assert Receipts(frozenset({"m1"}), frozenset({"m2"})) == ask(ASKED)
    for since in (None, ASKED.since - 1 if ASKED.since else 0):
        assert Receipts(frozenset({"m1"})) == ask(Question(ASKED.ids, since))


def test_a_question_is_refused_as_a_notification_is() -> None:
    """With a key an unsigned or wrongly signed question is 401, without one it is answered; a body that is none is 400."""
    written = write_question(ASKED)
    given: list[tuple[dict[str, str], bytes, int]] = [
        (headers(written), written, 200),
        (headers(written, key="another"), written, 401),
        ({}, written, 401),
        (headers(b"{}"), b"{}", 400),
        (headers(b"x"), b"x", 400),
    ]
    for sent, content, status in given:
        asked = receiver(status=503).answer(sent, content)
        assert status == asked.answered
        assert bool(asked.problem) == (status != 200) == (asked.body == b"")
        assert str(status) in question_line(asked).plain
        assert status == question_object(asked)["answered"]
    assert 200 == receiver(key=None).answer({}, written).answered


@given(st.binary(max_size=200))
def test_any_body_is_survived(content: bytes) -> None:
    """Whatever is posted gets an answer, and a line to print."""
    received = receiver(key=None).judge({}, content)

    assert 200 == received.answered
    assert line(received).plain
    assert orjson.dumps(as_object(received))
    assert receiver(key=None).answer({}, content).answered in {200, 400}


def test_a_line_says_it_all() -> None:
    """The printed line has change, object, instance, id, verdict, and whether it came again."""
    received = Received(
        id="m1",
        instance=7,
        events=tuple(Event("DELETED", "customers", f"c{n}\x1b") for n in range(6)),
        polled=True,
        elements=True,
        standard=True,
        again=True,
        redelivery=True,
        answered=200,
        at=NOW.timestamp(),
    )
    text = line(received).plain

    for part in (
        "08:00:00.000",
        "200",
        "DELETED",
        "customers c0",
        "and 2 more",
        "instance 7",
        "m1",
        "✓ verified",
        "again",
    ):
        assert part in text
    assert "\x1b" not in text
