"""Instances over HTTP: made, found, changed, switched, deleted."""

import asyncio

import orjson
import pytest
from api.running import Open, Run

from daemon.store import instances, log, objects, vault
from daemon.store.writer import Unit

CALLBACK = "event.notification.callback.url"


def test_an_instance_is_created_with_every_documented_key(run: Run, open_api: Open) -> None:
    """POST /instances answers 200 with all that the documented API shows, texts and null in `configuration`."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                name="Test",
                tags=["one", "two", "one"],
                configuration={
                    "event.notification.enabled": True,
                    CALLBACK: "https://app.example.com/events",
                    "my.own.key": 5,
                    "another": {"deep": [1, None]},
                    "nothing": None,
                },
            )
            assert ("Test", ["one", "two"]) == (made["name"], made["tags"])
            assert {
                "event.notification.enabled": "true",
                "my.own.key": "5",
                "another": '{"deep":[1,null]}',
                "nothing": None,
                "event.notification.signature.key": None,
            }.items() <= made["configuration"].items()
            assert (True, False, True) == (made["valid"], made["disabled"], made["eventsEnabled"])
            assert "https://app.example.com/events" == made["eventsNotificationCallbackUrl"]
            assert "boxlike" == made["element"]["key"]
            assert (1002, 1002) == (made["element"]["id"], made["elementId"])
            assert "first@example.com" == made["user"]["emailAddress"]
            assert "initial" == made["externalAuthentication"]
            again = await api.call("GET", f"/instances/{made['id']}")
            assert made == again.body
            assert str(made["id"]) == again.headers["Elements-Element-Instance-Id"]

    run(main())


def test_the_log_has_one_entry_that_says_all(run: Run, open_api: Open) -> None:
    """Creating appends one `instance.created` with callback and resources, and the token to the vault."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                element={"key": "crmlike"},
                configuration={
                    "event.notification.enabled": "true",
                    CALLBACK: "https://x.example/cb",
                },
            )
            (row,) = await log.life_of_instance(api.context.pool, made["id"])
            data = orjson.loads(row["data"])
            assert ("instance.created", made["id"]) == (row["kind"], row["position"])
            assert "https://x.example/cb" == data["callback"]
            assert ["accounts", "contacts"] == data["resources"]
            secrets = await vault.get(api.context.pool, api.context.keys, made["id"])
            assert made["token"] == secrets["element.token"]
            assert instances.digest(made["token"]).hex() == data["token_digest"]

    run(main())


@pytest.mark.parametrize("enabled", ["false", None])
def test_without_events_nothing_is_polled_or_told(run: Run, open_api: Open, enabled: str) -> None:
    """While events are off an instance has no callback and no resources."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                element={"key": "crmlike"},
                configuration={
                    "event.notification.enabled": enabled,
                    CALLBACK: "https://x.example/",
                },
            )
            (row,) = await log.life_of_instance(api.context.pool, made["id"])
            data = orjson.loads(row["data"])
            assert (None, []) == (data["callback"], data["resources"])
            assert not made["eventsEnabled"]

    run(main())


def test_the_element_may_stand_in_the_path_or_be_an_id(run: Run, open_api: Open) -> None:
    """POST /elements/{keyOrId}/instances and element.id do as element.key does; two that differ are refused."""

    async def main() -> None:
        async with open_api() as api:
            for path, element in (
                ("/elements/rest/instances", None),
                ("/elements/1/instances", None),
                ("/elements/rest/instances", {"key": "rest"}),
                ("/instances", {"id": 1}),
                ("/instances", {"key": "rest"}),
            ):
                body = {"name": "a", "configuration": {"base.url": "https://api.example.com"}}
                answer = await api.call(
                    "POST", path, body | ({"element": element} if element else {})
                )
                assert 200 == answer.status, answer.text
                assert "rest" == answer.body["element"]["key"]
            body = {"name": "a", "element": {"key": "boxlike"}}
            answer = await api.call("POST", "/elements/rest/instances", body)
            assert (400, {"element.key"}) == (answer.status, set(answer.body["fields"]))
            assert 404 == (await api.call("POST", "/elements/nothing/instances", body)).status

    run(main())


def test_names_and_tags_lose_their_markup(run: Run, open_api: Open) -> None:
    """HTML is stripped from names and tags; a name without anything else becomes the element's."""

    async def main() -> None:
        async with open_api() as api:
            evil = "<a href='#' onClick=\"alert('xss')\">churros-xss</a>"
            made = await api.create(name=evil, tags=[evil, "<b></b>", "<Add_Your_Tag>"])
            assert ("churros-xss", ["churros-xss", "<Add_Your_Tag>"]) == (
                made["name"],
                made["tags"],
            )
            assert "Box-like" == (await api.create(name="<br>"))["name"]

    run(main())


def test_instances_are_found_by_tag_and_text(run: Run, open_api: Open) -> None:
    """tags[] wants every tag, searchText looks everywhere, and no match is 404."""

    async def main() -> None:
        async with open_api() as api:
            assert [] == (await api.call("GET", "/instances")).body
            await api.create(name="Alpha", tags=["x", "y"])
            await api.create(name="Beta", tags=["x"])

            async def names(query: str) -> list[str]:
                return [one["name"] for one in (await api.call("GET", f"/instances?{query}")).body]

            assert ["Alpha", "Beta"] == await names("tags[]=x")
            assert ["Alpha"] == await names("tags[]=x&tags[]=y")
            assert ["Beta"] == await names("searchText=bet")
            assert ["Alpha", "Beta"] == await names("searchText=BOXLIKE&hydrate=false")
            for query in ("tags[]=z", "searchText=gamma"):
                assert 404 == (await api.call("GET", f"/instances?{query}")).status

    run(main())


def test_paging_shows_every_instance_once(run: Run, open_api: Open) -> None:
    """Following Elements-Next-Page-Token shows every instance once, also one that was added meanwhile."""

    async def main() -> None:
        async with open_api() as api:
            ids = [(await api.create(name=str(n)))["id"] for n in range(5)]
            seen: list[int] = []
            query = "pageSize=2"
            while query:
                answer = await api.call("GET", f"/instances?{query}")
                page = [one["id"] for one in answer.body]
                assert str(len(page)) == answer.headers["Elements-Returned-Count"]
                assert str(len(ids)) == answer.headers["Elements-Total-Count"]
                if not seen:
                    ids.append((await api.create(name="late"))["id"])
                seen += page
                token = answer.headers.get("Elements-Next-Page-Token")
                query = f"nextPage={token}" if token else ""
            assert ids == seen
            page = (await api.call("GET", "/instances?page=2&pageSize=4")).body
            assert ids[4:] == [one["id"] for one in page]
            for wrong in (
                "pageSize=0",
                "pageSize=x",
                "pageSize=2001",
                "nextPage=eyJ9",
                "page=0",
                "page=²",
            ):
                assert 400 == (await api.call("GET", f"/instances?{wrong}")).status

    run(main())


def test_patch_merges_and_put_replaces(run: Run, open_api: Open) -> None:
    """PATCH changes what it names (null removes, tags whole); PUT starts anew but keeps what was granted."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                tags=["a", "b"],
                configuration={"keep": "1", "drop": "2"},
                providerData={"code": "c"},
            )
            path = f"/instances/{made['id']}"
            patch = {"tags": ["c"], "configuration": {"drop": None, "new": True}}
            changed = (await api.call("PATCH", path, patch)).body
            assert ("box", ["c"]) == (changed["name"], changed["tags"])
            assert {"keep": "1", "new": "true"}.items() <= changed["configuration"].items()
            assert "drop" not in changed["configuration"]

            put = {
                "name": "other",
                "configuration": {
                    "oauth.api.key": "********",
                    "oauth.api.secret": "********",
                    "oauth.callback.url": "https://app.example.com/2",
                },
            }
            replaced = (await api.call("PUT", path, put)).body
            assert ("other", []) == (replaced["name"], replaced["tags"])
            assert not {"keep", "new"} & replaced["configuration"].keys()
            secrets = await vault.get(api.context.pool, api.context.keys, made["id"])
            assert {
                "oauth.api.key": "client",
                "oauth.user.token": "access-Yw==",
            }.items() <= secrets.items()
            assert made["token"] == replaced["token"]
            assert replaced == (await api.call("GET", path)).body
            rows = await log.life_of_instance(api.context.pool, made["id"])
            assert ["created", "configured", "configured"] == [r["kind"][9:] for r in rows]

    run(main())


def test_what_an_answer_showed_can_be_sent_back(run: Run, open_api: Open) -> None:
    """A GET's body PUT or PATCHed back changes nothing, adds no entry and keeps every secret."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                configuration={"some.password": "pw", "empty": ""}, providerData={"code": "c"}
            )
            before = await vault.get(api.context.pool, api.context.keys, made["id"])
            for method in ("PUT", "PATCH"):
                answer = await api.call(method, f"/instances/{made['id']}", made)
                assert made == answer.body, answer.text
            assert before == await vault.get(api.context.pool, api.context.keys, made["id"])

    run(main())


def test_a_secret_follows_its_key(run: Run, open_api: Open) -> None:
    """A changed secret is in the vault, a removed one is out of it, one that is no secret any more as well."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                configuration={
                    "a.password": "1",
                    "b.password": "2",
                    "plain": "https://u:p@x.example/",
                }
            )
            patch = {
                "configuration": {
                    "a.password": "one",
                    "b.password": None,
                    "plain": "https://x.example/",
                }
            }
            changed = (await api.call("PATCH", f"/instances/{made['id']}", patch)).body
            assert "********" == made["configuration"]["plain"]
            assert "https://x.example/" == changed["configuration"]["plain"]
            secrets = await vault.get(api.context.pool, api.context.keys, made["id"])
            assert "one" == secrets["a.password"]
            assert not {"b.password", "plain"} & secrets.keys()
            settings = await api.context.directory.settings(
                api.context.directory.get(made["id"])  # type: ignore[arg-type] # it exists
            )
            assert ("one", "https://x.example/") == (settings["a.password"], settings["plain"])

    run(main())


def test_a_token_refreshed_meanwhile_survives_a_patch(run: Run, open_api: Open) -> None:
    """A PATCH of something else does not write back the token that it had read before the poller renewed it."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(providerData={"code": "c"})
            fresh = {"oauth.user.token": "renewed"}
            await api.writer.append(Unit(instance_id=made["id"], secrets=fresh))
            await api.call("PATCH", f"/instances/{made['id']}", {"name": "x"})
            secrets = await vault.get(api.context.pool, api.context.keys, made["id"])
            assert "renewed" == secrets["oauth.user.token"]

    run(main())


def test_changes_side_by_side_are_all_kept(run: Run, open_api: Open) -> None:
    """Twenty PATCHes of different keys at the same time all have their effect."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create()
            path = f"/instances/{made['id']}"
            await asyncio.gather(
                *(api.call("PATCH", path, {"configuration": {f"key.{n}": n}}) for n in range(20))
            )
            configuration = (await api.call("GET", path)).body["configuration"]
            assert {f"key.{n}": str(n) for n in range(20)}.items() <= configuration.items()

    run(main())


def test_an_element_token_stands_for_its_instance(run: Run, open_api: Open) -> None:
    """GET, PATCH, PUT and DELETE of /instances, /enabled and /configuration take the instance from the token."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create()
            first = api.customers[0]
            for auth in (first.element(made["token"]), f"{first.whole}, Element {made['token']}"):
                assert made["id"] == (await api.call("GET", "/instances", auth=auth)).body["id"]
                by_id = await api.call("GET", f"/instances/{made['id']}", auth=auth)
                assert made["id"] == by_id.body["id"]
                answer = await api.call("PATCH", "/instances", {"name": auth[:4]}, auth=auth)
                assert "User" == answer.body["name"]
                for path in ("/configuration", "/events"):
                    assert 200 == (await api.call("GET", f"/instances{path}", auth=auth)).status
            assert 200 == (await api.call("DELETE", "/instances/enabled", auth=auth)).status
            assert (await api.call("GET", "/instances", auth=auth)).body["disabled"]
            assert 200 == (await api.call("PUT", "/instances/enabled", auth=auth)).status
            put = {"name": "put", "configuration": made["configuration"]}
            assert "put" == (await api.call("PUT", "/instances", put, auth=auth)).body["name"]
            assert 200 == (await api.call("DELETE", "/instances", auth=auth)).status
            # The token died with its instance.
            assert 401 == (await api.call("GET", "/instances", auth=auth)).status
            assert 401 == (await api.call("PATCH", "/instances", {})).status

    run(main())


def test_a_deleted_instance_is_gone_with_its_secrets(run: Run, open_api: Open) -> None:
    """DELETE answers 200 without a body; afterwards everything about the instance is 404 and the vault empty."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(providerData={"code": "c"})
            path = f"/instances/{made['id']}"
            answer = await api.call("DELETE", path)
            assert (200, "") == (answer.status, answer.text)
            for method, tail in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("PUT", "/enabled")):
                body = {} if method == "PATCH" else None
                assert 404 == (await api.call(method, path + tail, body)).status
            assert {} == await vault.get(api.context.pool, api.context.keys, made["id"])

    run(main())


def test_switching_off_and_on_keeps_everything(run: Run, open_api: Open) -> None:
    """PUT and DELETE …/enabled append once, are repeatable, and the cursors of its resources survive."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                element={"key": "crmlike"}, configuration={"event.notification.enabled": True}
            )
            path = f"/instances/{made['id']}"
            baseline = objects.poll_entry(
                "poll.baseline", made["id"], "accounts", baseline="2026-01-01T00:00:00Z"
            )
            await api.writer.append(Unit(entries=[baseline]))
            for method in ("DELETE", "DELETE", "PUT", "PUT"):
                answer = await api.call(method, f"{path}/enabled")
                assert (200, "") == (answer.status, answer.text)
            rows = await log.life_of_instance(api.context.pool, made["id"])
            assert ["created", "disabled", "enabled"] == [r["kind"][9:] for r in rows]
            (cursor,) = await objects.cursors(api.context.pool, made["id"])
            assert "accounts" == cursor["resource"]

    run(main())


def test_switching_on_takes_up_polls_that_were_given_up(run: Run, open_api: Open) -> None:
    """GET /instances/polling-disabled lists what failed too often; PUT …/enabled empties it."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                element={"key": "crmlike"}, configuration={"event.notification.enabled": True}
            )
            gave_up = objects.poll_entry(
                "poll.disabled", made["id"], "accounts", failures=100, error="it hurts"
            )
            await api.writer.append(Unit(entries=[gave_up]))
            (record,) = (await api.call("GET", "/instances/polling-disabled")).body
            assert ("accounts", "disabled", "it hurts", 100) == (
                *(record["objectName"], record["status"]),
                *(record["error"], record["failures"]),
            )
            assert 200 == (await api.call("PUT", f"/instances/{made['id']}/enabled")).status
            assert [] == (await api.call("GET", "/instances/polling-disabled")).body

    run(main())


def test_the_code_is_exchanged_for_tokens(run: Run, open_api: Open) -> None:
    """providerData.code is exchanged, at creation and again by PATCH; nothing of it is shown or kept."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(providerData={"code": "first-code"})
            assert "first-code" == api.asked[-1]["code"]
            assert "client" == api.asked[-1]["client_id"]
            patch = {"providerData": {"code": "second-code"}}
            changed = (await api.call("PATCH", f"/instances/{made['id']}", patch)).body
            assert "providerData" not in changed
            secrets = await vault.get(api.context.pool, api.context.keys, made["id"])
            assert "access-c2Vjb25kLWNvZGU=" == secrets["oauth.user.token"]
            # An element without OAuth accepts and ignores it.
            body = {"base.url": "https://api.example.com", "oauth.api.key": None}
            await api.create(
                element={"key": "rest"}, configuration=body, providerData={"code": "x"}
            )
            assert 2 == len(api.asked)

    run(main())


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("refused", 400, "invalid_grant"),
        ("pause", 503, "429"),
        ("broken", 502, "500"),
        (7, 400, None),
    ],
)
def test_a_provider_that_says_no_is_quoted(
    run: Run, open_api: Open, code: object, status: int, said: str | None
) -> None:
    """What the provider says against a code comes back as providerMessage, and no instance is made."""

    async def main() -> None:
        async with open_api() as api:
            body = {
                "element": {"key": "boxlike"},
                "name": "a",
                "providerData": {"code": code},
                "configuration": {
                    "oauth.api.key": "client",
                    "oauth.api.secret": "client-secret",
                    "oauth.callback.url": "https://app.example.com",
                },
            }
            answer = await api.call("POST", "/instances", body)
            assert status == answer.status
            if said is not None:
                assert said in answer.body["providerMessage"]
            assert (code == "pause") == (answer.headers.get("Retry-After") == "7")
            assert [] == (await api.call("GET", "/instances")).body

    run(main())


def test_the_configuration_is_addressed_key_by_key(run: Run, open_api: Open) -> None:
    """An entry is found and changed by its id or its key, and keeps its id."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create()
            path = f"/instances/{made['id']}/configuration"
            entries = {e["key"]: e for e in (await api.call("GET", path)).body}
            entry = entries[CALLBACK]
            assert ("Event Notification Callback URL", None) == (
                entry["name"],
                entry["propertyValue"],
            )
            assert (True, "********") == (
                entries["oauth.api.secret"]["required"],
                entries["oauth.api.secret"]["propertyValue"],
            )
            changed = await api.call(
                "PATCH", f"{path}/{entry['id']}", {"propertyValue": "https://app.example.com/"}
            )
            assert entry | {"propertyValue": "https://app.example.com/"} == changed.body
            assert changed.body == (await api.call("GET", f"{path}/{CALLBACK}")).body
            changed = await api.call(
                "PATCH", f"{path}/event.notification.enabled", {"propertyValue": True}
            )
            assert "true" == changed.body["propertyValue"]
            assert (await api.call("GET", f"/instances/{made['id']}")).body["eventsEnabled"]
            for wrong, field in (
                ({"propertyValue": "ftp://x"}, f"configuration.{CALLBACK}"),
                ({}, "propertyValue"),
            ):
                answer = await api.call("PATCH", f"{path}/{entry['id']}", wrong)
                assert (400, {field}) == (answer.status, set(answer.body["fields"]))
            assert 404 == (await api.call("GET", f"{path}/12345")).status

    run(main())


def test_defaults_are_copied_and_stay(run: Run, open_api: Open) -> None:
    """An element's defaults are part of a new instance's configuration unless the body says otherwise."""

    async def main() -> None:
        async with open_api() as api:
            for given, expected in (
                ({}, "polling"),
                ({"event.vendor.type": "webhooks"}, "webhooks"),
            ):
                made = await api.create(element={"key": "crmlike"}, configuration=given)
                assert expected == made["configuration"]["event.vendor.type"]

    run(main())
