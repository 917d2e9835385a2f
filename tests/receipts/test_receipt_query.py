"""Asking for receipts: what is sent, and that only a whole and right answer settles anything."""

import base64
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from servers import serving
from standardwebhooks import Webhook

from daemon.dispatcher.receipts import NoAnswer, ask, judge, problem, wanted
from daemon.errors import Invalid, NotSent, Unanswered
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.sender import Answer, Limits, Sender
from daemon.receipts import (
    CONTENT_TYPE,
    Question,
    Receipts,
    read_answer,
    read_question,
    write_answer,
    write_question,
)
from daemon.signatures import signing_key, standard_secret, verify_elements

KEY = "a key of the instance"
IDS = ["AAECAwAAAAAAAAAAACkB", "AAECAwAAAAAAAAAAACoB"]
URL = "https://app.test/callback"

ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=200)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from([*IDS, "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["received", "unknown", "ids"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def answered(
    body: bytes, status: int = 200, content_type: str | None = CONTENT_TYPE, **headers: str
) -> Answer:
    """An answer as the sender gives it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        named["content-type"] = content_type
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    return Answer(status, pairs, body, truncated=False)


class Raising:
    """A sender that cannot."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def post(self, url: str, *, headers: Any, body: bytes) -> Answer:
        """Fail."""
        raise self._error


def sender(**limits: float) -> Sender:
    """A sender to this machine."""
    from ipaddress import ip_network

    policy = AddressPolicy(allow=[ip_network("127.0.0.0/8")])
    return Sender(policy=policy, limits=Limits(**limits))


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_bodies_of_the_specification() -> None:
    """Question and answer are, byte for byte, the JSON that the page shows."""
    question = Question(tuple(IDS), 1760000000)

    assert orjson.loads(write_question(question)) == {"ids": IDS, "since": 1760000000}
    assert orjson.loads(write_question(Question(("a",)))) == {"ids": ["a"]}
    assert (
        write_answer(Receipts(frozenset({"b", "a"}), frozenset({"c"})))
        == b'{"received":["a","b"],"unknown":["c"]}'
    )


@given(st.lists(ids, min_size=1, max_size=100), st.none() | st.integers(0, 2**40))
def test_a_question_arrives_as_it_was_asked(asked: list[str], since: int | None) -> None:
    """Every question that can be written is read as the same question."""
    question = Question(tuple(asked), since)

    assert read_question(write_question(question)) == question


@given(st.sets(ids, max_size=50), st.sets(ids, max_size=50))
def test_an_answer_arrives_as_it_was_given(some: set[str], others: set[str]) -> None:
    """Every answer that can be written is read as the same answer."""
    receipts = Receipts(frozenset(some), frozenset(others - some))

    assert read_answer(write_answer(receipts), some | others) == receipts


@pytest.mark.parametrize("asked", [(), ("a",) * 101, ("",), ("a" * 201,), ("é",), ("a\nb",)])
def test_impossible_questions_are_neither_written_nor_read(asked: tuple[str, ...]) -> None:
    """No ids, too many, and ids that no header can hold are refused on both sides."""
    with pytest.raises(ValueError, match="id"):
        write_question(Question(asked))
    with pytest.raises(ValueError, match="id"):
        read_question(orjson.dumps({"ids": asked}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"ids": "a"}',
        b'{"ids": [1]}',
        b'{"ids": ["a"], "since": -1}',
        b'{"ids": ["a"], "since": true}',
        b'{"ids": ["a"], "since": 1.5}',
    ],
)
def test_what_is_no_question(body: bytes) -> None:
    """Other bodies are not read as questions."""
    with pytest.raises(ValueError, match=r"must|JSON"):
        read_question(body)


def test_unknown_members_are_ignored() -> None:
    """A newer asker or receiver may add members."""
    assert read_question(b'{"ids": ["a"], "new": 1}') == Question(("a",))
    assert read_answer(b'{"received": ["a"], "unknown": [], "new": 1}', ["a"]).received == {"a"}


# ── what an answer means ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "received", "unknown"),
    [
        ({"received": IDS, "unknown": []}, set(IDS), set()),
        ({"received": [], "unknown": IDS}, set(), set(IDS)),
        ({"received": IDS[:1], "unknown": IDS[1:]}, set(IDS[:1]), set(IDS[1:])),
        ({"received": [], "unknown": []}, set(), set()),
        ({"received": IDS[:1] * 2, "unknown": []}, set(IDS[:1]), set()),
    ],
)
def test_answers(body: Any, received: set[str], unknown: set[str]) -> None:
    """What is in a list counts; what is in neither is left open."""
    given_ = judge(answered(orjson.dumps(body)), IDS, now=0)

    assert given_ == Receipts(frozenset(received), frozenset(unknown))


GOOD = orjson.dumps({"received": IDS, "unknown": []})


@pytest.mark.parametrize(
    "answer",
    [
        answered(GOOD, status=201),
        answered(GOOD, status=204),
        answered(GOOD, status=302),
        answered(GOOD, status=404),
        answered(GOOD, status=410),
        answered(GOOD, status=500),
        answered(GOOD, content_type=None),
        answered(GOOD, content_type="application/json"),
        answered(b"OK"),
        answered(b""),
        answered(GOOD[:-1]),
        answered(orjson.dumps({"received": IDS})),
        answered(orjson.dumps({"unknown": IDS})),
        answered(orjson.dumps({"received": None, "unknown": []})),
        answered(orjson.dumps({"received": IDS, "unknown": IDS})),
        answered(orjson.dumps({"received": [], "unknown": ["another"]})),
        answered(orjson.dumps({"ids": IDS})),  # an echo
        answered(b"\xff\xfe"),
    ],
    ids=lambda answer: f"{answer.status} {answer.body[:40]!r}",
)
def test_anything_else_is_no_answer(answer: Answer) -> None:
    """Another status, another type, and a body with any mistake say nothing of any id."""
    assert isinstance(judge(answer, IDS, now=0), NoAnswer)


def test_the_content_type_may_have_parameters() -> None:
    """Case and `charset` do not matter."""
    named = "Application/Webhook-Receipts+JSON; charset=utf-8"

    assert isinstance(judge(answered(GOOD, content_type=named), IDS, now=0), Receipts)


def test_a_wish_for_quiet_is_passed_on() -> None:
    """Retry-After counts with 429 and 503, in seconds and as a date, and with nothing else."""
    date = "Thu, 01 Jan 1970 00:02:00 GMT"
    quiet = [
        judge(answered(b"", status, retry_after=value), IDS, now=60)
        for status, value in [(429, "7"), (503, date), (500, "7"), (429, "soon")]
    ]

    assert [one.quiet for one in quiet if isinstance(one, NoAnswer)] == [7.0, 60.0, 0.0, 0.0]


@given(
    st.sampled_from([200, 200, 200, 404]), st.binary(max_size=60) | json_values.map(orjson.dumps)
)
def test_no_answer_says_more_than_it_says(status: int, body: bytes) -> None:
    """Whatever comes back: nothing raises, no id is named that was not asked for, and none is both."""
    result = judge(answered(body, status), IDS, now=0)

    if isinstance(result, Receipts):
        named = orjson.loads(body)
        assert set(named["received"]) == result.received <= set(IDS)
        assert set(named["unknown"]) == result.unknown <= set(IDS)
        assert not result.received & result.unknown
        assert status == 200


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_question_over_http(run: Any) -> None:
    """It is a POST signed as a notification is (the standard's own library agrees), with an id of its own."""
    requests: list[tuple[dict[str, str], bytes]] = []

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        requests.append(({k.lower(): v for k, v in request.headers.items()}, body))
        receipts = Receipts(frozenset(IDS[:1]), frozenset(IDS[1:]))
        return web.Response(body=write_answer(receipts), content_type=CONTENT_TYPE)

    settings = {
        "event.notification.signature.key": KEY,
        "event.notification.basic.username": "me",
        "event.notification.basic.password": "pw",
        "event.notification.callback.headers": "X-Own: yes",
    }

    async def main() -> Any:
        import time

        async with serving(receive) as origin, sender() as client:
            now = time.time()
            first = await ask(client, origin + "/cb", settings, IDS, since=now - 9.5, now=now)
            again = await ask(client, origin + "/cb", settings, IDS, since=now - 9.5, now=now)
            return int(now - 9.5), first, again

    since, first, again = run(main())

    assert first == again == Receipts(frozenset(IDS[:1]), frozenset(IDS[1:]))
    for headers, body in requests:
        assert orjson.loads(body) == {"ids": IDS, "since": since}
        assert headers["content-type"] == CONTENT_TYPE
        assert headers["webhook-id"].startswith("receipts_")
        assert headers["elements-webhook-id"] == headers["webhook-id"]
        assert headers["authorization"] == "Basic " + base64.b64encode(b"me:pw").decode()
        assert headers["x-own"] == "yes"
        assert "webhook-redelivery" not in headers
        assert verify_elements(KEY, body, headers["elements-webhook-signature"])
        Webhook(standard_secret(signing_key(KEY))).verify(body, headers)
    assert requests[0][0]["webhook-id"] != requests[1][0]["webhook-id"]


def test_an_answer_for_as_many_ids_as_may_be_asked_fits(run: Any) -> None:
    """A hundred ids of tidings' length, written as wastefully as json.dumps can, come back whole."""
    import json

    many = [f"{number:020}" for number in range(100)]

    async def receive(request: web.Request) -> web.Response:
        asked = json.loads(await request.read())["ids"]
        text = json.dumps({"received": asked, "unknown": []}, indent=4)
        return web.Response(text=text, content_type=CONTENT_TYPE)

    async def main() -> Any:
        async with serving(receive) as origin, sender() as client:
            return await ask(client, origin, {}, many, since=0, now=0)

    assert run(main()) == Receipts(frozenset(many))


def test_a_receiver_that_closes_or_is_silent_has_not_answered(run: Any) -> None:
    """A connection that ends, and a timeout, are no answer."""

    async def receive(request: web.Request) -> web.Response:
        if request.path == "/closes":
            assert request.transport is not None
            request.transport.abort()
        else:
            import asyncio

            await asyncio.get_running_loop().create_future()
        return web.Response()

    async def main() -> list[Any]:
        async with serving(receive) as origin, sender(head=0.1) as client:
            return [
                await ask(client, origin + path, {}, IDS, since=0, now=0)
                for path in ("/closes", "/silent")
            ]

    assert [type(one) for one in run(main())] == [NoAnswer, NoAnswer]


@pytest.mark.parametrize("error", [NotSent("no way"), Unanswered("lost"), Invalid({"url": "bad"})])
def test_a_question_that_cannot_be_put_is_not_answered(run: Any, error: Exception) -> None:
    """Whatever the sender raises on purpose becomes `NoAnswer`, with its words."""
    result = run(ask(Raising(error), URL, {}, IDS, since=0, now=0))

    assert isinstance(result, NoAnswer)
    assert str(error) in result.error


def test_an_impossible_key_is_no_answer_and_is_not_told(run: Any) -> None:
    """A signature key that cannot be one means that nobody was asked; the error does not hold it."""
    settings = {"event.notification.signature.key": "whsec_$ecret"}
    result = run(ask(Raising(AssertionError()), URL, settings, IDS, since=0, now=0))

    assert isinstance(result, NoAnswer)
    assert "$ecret" not in result.error


def test_too_many_ids_are_the_callers_mistake(run: Any) -> None:
    """A question that is too long raises, instead of looking like a receiver that never answers."""
    with pytest.raises(ValueError, match="1 to 100"):
        run(ask(Raising(AssertionError()), URL, {}, IDS * 51, since=0, now=0))


# ── the setting ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (None, None),
        ("", None),
        ("false", None),
        ("False", None),
        ("true", URL),
        (" TRUE ", URL),
        ("https://app.test/receipts", "https://app.test/receipts"),
    ],
)
def test_where_to_ask(value: str | None, where: str | None) -> None:
    """`true` means the callback, a URL itself, everything else nobody."""
    assert wanted({"event.notification.receipts": value}, URL) == where
    assert wanted({}, URL) is None


@pytest.mark.parametrize(
    "value", ["true", "false", "", "TRUE", "https://a.test/x", "http://[::1]/"]
)
def test_settings_that_can_be_taken(value: str) -> None:
    """Booleans and URLs are fine."""
    assert problem(value) is None


@pytest.mark.parametrize(
    "value",
    ["yes", "1", "ftp://a.test/", "https://", "/receipts", "http://[", "https://u:p@a.test/"],
)
def test_settings_that_cannot(value: str) -> None:
    """All else is named as a mistake, and nobody's password is repeated."""
    said = problem(value)

    assert said is not None
    assert ":p@" not in said
