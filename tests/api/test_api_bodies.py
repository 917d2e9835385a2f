"""What may be posted, and what is said of what may not."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from api.running import Api, Open, Run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon.api.markup import stripped

MISSION = Path(__file__).parent / "mission"
CALLBACK = "event.notification.callback.url"
GRANTED = {"oauth.api.key": "k", "oauth.api.secret": "s", "oauth.callback.url": "https://a.example"}


def mission(name: str, element: str) -> str:
    """A JSON body of the mission documents, for this element."""
    return (MISSION / name).read_text().replace("{{page.elementKey}}", element)


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("polling-template.json", "sageone"),
        ("polling-example.json", "sageone"),
        ("hubspot-polling-keys.json", "crmlike"),
        ("hubspot-polling.json", "crmlike"),
        ("hubspot-webhook-keys.json", "crmlike"),
        ("hubspot-webhooks.json", "crmlike"),
        ("dropbox-keys.json", "boxlike"),
        ("dropbox-webhooks.json", "boxlike"),
        ("campaignmonitor-webhooks.json", "boxlike"),
    ],
)
def test_every_body_of_the_documents_is_accepted(
    run: Run, open_api: Open, name: str, element: str
) -> None:
    """Each is accepted as it stands, placeholders included, and its keys are kept."""

    async def main() -> None:
        async with open_api() as api:
            text = mission(name, element)
            if "keys" in name:
                body = {"element": {"key": element}, "name": "a"}
                text = orjson.dumps(body | {"configuration": GRANTED | orjson.loads(text)}).decode()
            answer = await api.call("POST", "/instances", data=text)
            assert 200 == answer.status, answer.text
            sent = orjson.loads(text)
            configuration = answer.body["configuration"]
            assert sent["configuration"].keys() <= configuration.keys()
            assert (sent["name"], sent.get("tags", [])) == (
                answer.body["name"],
                answer.body["tags"],
            )
            assert all(v is None or isinstance(v, str) for v in configuration.values())
            shown = configuration.get("event.poller.configuration")
            if shown is not None:
                assert sent["configuration"]["event.poller.configuration"] == orjson.loads(shown)

    run(main())


def test_the_documents_own_mistake_is_explained(run: Run, open_api: Open) -> None:
    """The cURL example of Campaign Monitor lacks a comma: the answer says the line, the column and the key."""

    async def main() -> None:
        async with open_api() as api:
            text = mission("campaignmonitor-curl.txt", "boxlike")
            answer = await api.call("POST", "/instances", data=text)
            assert 400 == answer.status
            said = answer.body["fields"]["body"]
            assert "line 12, column 5" in said
            assert 'a comma is missing before "event.notification.enabled"' in said
            mended = text.replace('xxx"\n    "event', 'xxx",\n    "event', 1)
            assert 200 == (await api.call("POST", "/instances", data=mended)).status

    run(main())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("[]", "should be a JSON object"),
        ("null", "should be a JSON object"),
        ('"text"', "should be a JSON object"),
        ('{"a": 1,}', "line 1, column 8: trailing comma"),
        ('{\n"a": tru}', "line 2, column 6"),
        ('{"a": 1 "b": 2}', 'line 1, column 9: a comma is missing before "b"'),
        ('{"a": [1] "b": 2}', 'a comma is missing before "b"'),
        ('{"a": null "b c" : 2}', 'a comma is missing before "b c"'),
        ('{"a" "b": 2}', "line 1, column 6"),
        ('{"a": "secret" "other"}', "line 1, column 16"),
        (b'{"a": "\xff"}', "is not UTF-8 text (byte 7)"),
        ("[" * 5000, "not valid JSON"),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": "\\ud800"}', "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_explained(
    run: Run, open_api: Open, text: str | bytes, said: str
) -> None:
    """Line and column where JSON ends, and why; values are not repeated."""

    async def main() -> None:
        async with open_api() as api:
            answer = await api.call("POST", "/instances", data=text)
            assert 400 == answer.status
            assert said in answer.body["fields"]["body"]
            assert "secret" not in answer.text

    run(main())


C = "configuration."
POLLER = "event.poller.configuration"


@pytest.mark.parametrize(
    ("element", "body", "problem"),
    [
        (None, {"name": "a"}, ("element.key", "missing")),
        (None, {"element": {"key": "nothing"}}, ("element.key", "names no element")),
        (None, {"element": {"key": 5}}, ("element.key", "should be a text")),
        (None, {"element": "boxlike"}, ("element", "should be an object")),
        ("rest", {"configuration": []}, ("configuration", "should be an object")),
        ("rest", {"configuration": {}}, (f"{C}base.url", "is missing")),
        ("boxlike", {"configuration": {}}, (f"{C}oauth.api.key", "is missing")),
        ("boxlike", {"name": ["a"]}, ("name", "should be a text")),
        ("boxlike", {"name": "a" * 1001}, ("name", "at most 1000 characters")),
        ("boxlike", {"name": "a\0b"}, ("name", "NUL")),
        ("boxlike", {"tags": [1]}, ("tags.0", "should be a text")),
        ("boxlike", {"tags": ["t"] * 101}, ("tags", "at most 100 entries")),
        ("boxlike", {"configuration": {"a\0": 1}}, ("configuration", "NUL")),
        ("boxlike", {"configuration": {"a": ["\0"]}}, (f"{C}a.0", "NUL")),
        ("boxlike", {"configuration": {"": 1}}, (C, "1 to 255")),
        ("boxlike", {"configuration": {"k" * 256: 1}}, (f"{C}{'k' * 255}", "1 to 255")),
        ("boxlike", {"configuration": {"element.token": "t"}}, (f"{C}element.token", "reserved")),
        (
            "boxlike",
            {"configuration": {"a.secret": "********"}},
            (f"{C}a.secret", "the secret itself"),
        ),
        (
            "boxlike",
            {"configuration": dict.fromkeys(map(str, range(1001)))},
            ("configuration", "1000"),
        ),
        ("boxlike", {"configuration": {"a": "x" * 1048576}}, ("configuration", "1048576 bytes")),
        (
            "boxlike",
            {"configuration": {"event.notification.enabled": "yes"}},
            (f"{C}event.notification.enabled", "true or false"),
        ),
        (
            "boxlike",
            {"configuration": {"event.vendor.type": "carrier pigeon"}},
            (f"{C}event.vendor.type", "one of polling"),
        ),
        (
            "boxlike",
            {"configuration": {"event.vendor.type": "polling"}},
            (f"{C}event.vendor.type", "boxlike cannot"),
        ),
        (
            "boxlike",
            {"configuration": {"event.notification.type": "email"}},
            (f"{C}event.notification.type", "webhook"),
        ),
        ("boxlike", {"configuration": {CALLBACK: "mycoolapp"}}, (C + CALLBACK, "the URL")),
        ("boxlike", {"configuration": {CALLBACK: "ftp://a.example/"}}, (C + CALLBACK, "the URL")),
        ("boxlike", {"configuration": {CALLBACK: "http://127.0.0.1/"}}, (C + CALLBACK, "loopback")),
        (
            "boxlike",
            {"configuration": {CALLBACK: "http://169.254.169.254/"}},
            (C + CALLBACK, "metadata"),
        ),
        (
            "boxlike",
            {"configuration": {CALLBACK: "https://u:p@a.example/"}},
            (C + CALLBACK, "the URL"),
        ),
        (
            "crmlike",
            {"configuration": {"event.poller.refresh_interval": "often"}},
            (f"{C}event.poller.refresh_interval", "number"),
        ),
        ("crmlike", {"configuration": {POLLER: "{"}}, (C + POLLER, "JSON")),
        (
            "crmlike",
            {"configuration": {POLLER: {"a": {"url": 5}}}},
            (f"{C}{POLLER}.a.url", "should be a text"),
        ),
        (
            "crmlike",
            {"configuration": {"event.objects": "accounts,sheep"}},
            (f"{C}event.objects", "sheep"),
        ),
        ("boxlike", {"providerData": {"code": 5}}, ("providerData.code", "a text")),
        ("boxlike", {"providerData": "code"}, ("providerData", "should be an object")),
    ],
)
def test_a_problem_names_its_field(
    run: Run, open_api: Open, element: str | None, body: dict[str, Any], problem: tuple[str, str]
) -> None:
    """The answer is 400, `fields` has the field as the caller wrote it, and says what it should be."""

    async def main() -> None:
        async with open_api() as api:
            if element is not None:
                body["element"] = {"key": element}
                given = body.get("configuration", {"a": "b"})
                if given and element != "rest":
                    body["configuration"] = {**GRANTED, **given}
            answer = await api.call("POST", "/instances", body)
            field, said = problem
            assert 400 == answer.status
            assert field in answer.body["fields"], answer.text
            assert said in answer.body["fields"][field]
            assert f"{field}: " in answer.body["message"]

    run(main())


def test_all_problems_are_told_at_once(run: Run, open_api: Open) -> None:
    """One answer names everything that is wrong with a configuration."""

    async def main() -> None:
        async with open_api() as api:
            wrong = {
                "event.notification.enabled": 5,
                CALLBACK: "x",
                "event.poller.refresh_interval": "x",
            }
            body = {"element": {"key": "crmlike"}, "configuration": wrong}
            answer = await api.call("POST", "/instances", body)
            missing = {"oauth.api.key", "oauth.api.secret", "oauth.callback.url"}
            assert {C + key for key in (*wrong, *missing)} == set(answer.body["fields"])

    run(main())


def test_the_same_holds_for_patch(run: Run, open_api: Open) -> None:
    """A PATCH that would make an instance impossible is refused and changes nothing."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create()
            path = f"/instances/{made['id']}"
            for wrong in (
                {"configuration": {"oauth.api.secret": None}},
                {"configuration": {CALLBACK: "x"}},
                {"element": {"key": "rest"}},
                {"element": {"id": 1}},
            ):
                assert 400 == (await api.call("PATCH", path, wrong)).status
            assert made == (await api.call("GET", path)).body

    run(main())


def test_a_body_says_that_it_is_json(run: Run, open_api: Open) -> None:
    """Another media type or encoding is 415; no media type at all is taken for JSON."""

    async def main() -> None:
        async with open_api() as api:
            data = orjson.dumps(
                {"element": {"key": "rest"}, "configuration": {"base.url": "https://a.example"}}
            )
            for kind, status in {
                "application/json": 200,
                "application/json; charset=UTF-8": 200,
                "application/vnd.api+json": 200,
                "text/plain": 415,
                "application/x-www-form-urlencoded": 415,
                "application/json; charset=utf-16": 415,
            }.items():
                answer = await api.call(
                    "POST", "/instances", data=data, headers={"Content-Type": kind}
                )
                assert status == answer.status, kind
            async with api.session.post(
                f"{api.origin}/elements/api-v2/instances",
                data=data,
                headers={"Authorization": api.customers[0].whole},
                skip_auto_headers=["Content-Type"],
            ) as answer:
                assert 200 == answer.status

    run(main())


TEXTS = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just("********"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
KEYS = TEXTS | st.sampled_from(
    [
        *("event.notification.enabled", CALLBACK, "event.vendor.type", POLLER, "event.poller.urls"),
        *("event.objects", "event.poller.refresh_interval", "event.notification.signature.key"),
        *(
            "base.url",
            "oauth.api.key",
            "oauth.api.secret",
            "oauth.callback.url",
            "authentication.type",
        ),
    ]
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "url": VALUES | st.sampled_from(["/hubs/crm/contacts?where=a>'${date}'", "/x/{y}", "${"]),
        "idField": VALUES,
        "datesConfiguration": VALUES | st.dictionaries(TEXTS, VALUES, max_size=2),
        "pageSize": VALUES,
        "pollDelay": VALUES,
    },
)
CONFIGURATIONS = st.dictionaries(KEYS, VALUES, max_size=5) | st.dictionaries(
    st.just(POLLER), st.dictionaries(TEXTS, ENTRIES | VALUES, max_size=2), max_size=1
)
BODIES = VALUES | st.fixed_dictionaries(
    {},
    optional={
        "element": VALUES
        | st.sampled_from(
            [{"key": key} for key in ("rest", "crmlike", "boxlike", "sageone", "no")]
        ),
        "configuration": VALUES | CONFIGURATIONS,
        "providerData": VALUES | st.just({"code": "c"}),
        "tags": VALUES,
        "name": VALUES,
    },
)


def test_whatever_is_posted_is_answered(run: Run, open_api: Open) -> None:
    """Any JSON is 200, or 400 with a message and a requestId: never 500, and what was made can be read and deleted."""

    async def main() -> None:
        async with open_api() as api:
            loop = asyncio.get_running_loop()

            @settings(
                max_examples=150,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate],
            )
            @given(BODIES)
            def anything(body: Any) -> None:
                asyncio.run_coroutine_threadsafe(post(api, body), loop).result(20)

            await asyncio.to_thread(anything)

    run(main(), limit=120)


async def post(api: Api, body: Any) -> None:
    """Post *body* with what the elements need beside."""
    if isinstance(body, dict) and isinstance(body.get("configuration"), dict):
        body["configuration"] = {"base.url": "https://a.example", **GRANTED} | body["configuration"]
    answer = await api.call("POST", "/instances", data=json.dumps(body))
    assert answer.status in {200, 400}, answer.text
    if answer.status == 200:
        path = f"/instances/{answer.body['id']}"
        assert answer.body == (await api.call("PATCH", path, answer.body)).body
        assert 200 == (await api.call("GET", f"{path}/configuration")).status
        assert 200 == (await api.call("GET", "/instances/event-poller-records")).status
        assert 200 == (await api.call("DELETE", path)).status


@given(st.text(alphabet="<>/!-ab script=\"'&;x", max_size=60))
def test_stripping_is_complete(text: str) -> None:
    """What is left has no tag that a browser acts on, and stripping it again changes nothing."""
    left = stripped(text)
    assert left == stripped(left)
    for tag in re.findall(r"<([a-z/!][^>]*)(?:>|$)", left, re.IGNORECASE):
        assert re.fullmatch(r"\w+\s*", tag)
        assert tag.strip().lower() not in {"a", "b", "script", "s", "i", "p"}
