"""Elements over HTTP, and the API's description of itself."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import orjson
from api.running import Open, Run
from openapi_spec_validator import validate

from daemon import api as package


def test_elements_are_listed_and_shown(run: Run, open_api: Open) -> None:
    """GET /elements, by key and by id; what there is not is 404."""

    async def main() -> None:
        async with open_api() as api:
            keys = [one["key"] for one in (await api.call("GET", "/elements")).body]
            assert sorted(keys) == keys
            assert {"rest", "sageone", "crmlike", "boxlike"} <= set(keys)
            element = (await api.call("GET", "/elements/sageone")).body
            assert element == (await api.call("GET", "/elements/2")).body
            parameters = {one["key"]: one for one in element["configuration"]}
            assert parameters["oauth.api.key"]["required"]
            assert "NUMBER" == parameters["event.poller.refresh_interval"]["type"]
            for wrong in ("nothing", "99999", "9" * 90, "%00"):
                assert 404 == (await api.call("GET", f"/elements/{wrong}")).status
            assert 401 == (await api.call("GET", "/elements", auth=None)).status

    run(main())


def test_metadata_says_what_an_element_can_do(run: Run, open_api: Open) -> None:
    """/elements/{key}/metadata has the methods, and per resource how it is polled."""

    async def main() -> None:
        async with open_api() as api:
            events = (await api.call("GET", "/elements/crmlike/metadata")).body["events"]
            assert (True, ["polling", "webhook"]) == (events["supported"], events["methods"])
            assert events["polling"]["accounts"]["pollUrl"].startswith("/hubs/crm/accounts")
            events = (await api.call("GET", "/elements/1002/metadata")).body["events"]
            assert (["webhook"], {}) == (events["methods"], events["polling"])

    run(main())


def test_the_address_for_granting_access(run: Run, open_api: Open) -> None:
    """GET and POST …/oauth/url need no Authorization; missing parameters are named as the query names them."""

    async def main() -> None:
        async with open_api() as api:
            path = "/elements/boxlike/oauth/url"
            query = "?apiKey=id&apiSecret=hush&callbackUrl=https://a.example/cb&state=s%201"
            got = (await api.call("GET", path + query, auth=None)).body
            body = {"apiKey": "id", "callbackUrl": "https://a.example/cb", "state": "s 1"}
            assert got == (await api.call("POST", path, body, auth=None)).body
            assert got == (await api.call("POST", path + query, auth=None)).body
            assert "boxlike" == got["element"]
            url = urlsplit(got["oauthUrl"])
            assert ("box.example.com", "/authorize") == (url.netloc, url.path)
            asked = parse_qs(url.query)
            assert ["id"] == asked["client_id"]
            assert ["https://a.example/cb"] == asked["redirect_uri"]
            assert ["s 1"] == asked["state"]
            answer = await api.call("GET", path, auth=None)
            assert (400, {"apiKey"}) == (answer.status, set(answer.body["fields"]))
            assert (
                400
                == (await api.call("GET", "/elements/rest/oauth/url?apiKey=x", auth=None)).status
            )
            assert 404 == (await api.call("GET", "/elements/nothing/oauth/url", auth=None)).status

    run(main())


def test_the_description_is_valid(run: Run, open_api: Open) -> None:
    """GET /openapi.json, at the root and below the prefix, is a valid OpenAPI 3.1 document."""

    async def main() -> None:
        async with open_api() as api:
            answer = await api.call("GET", "!/openapi.json", auth=None)
            below = await api.call("GET", "/openapi.json", auth=None)
            assert answer.text == below.text
            await asyncio.to_thread(validate, orjson.loads(answer.text))
            assert "https://tidings.example.com" == answer.body["servers"][0]["url"]

    run(main())


def test_every_route_is_described_and_every_description_routed(run: Run, open_api: Open) -> None:
    """The routes of the application and the operations of the document are the same."""

    async def main() -> None:
        async with open_api() as api:
            document = (await api.call("GET", "!/openapi.json")).body
            described = {
                (method.upper(), path)
                for path, item in document["paths"].items()
                for method in item
            }
            routed = {(operation.method, operation.address) for operation in package.OPERATIONS}
            assert routed == described
            assert len(routed) == len(package.OPERATIONS)
            names = [o["operationId"] for item in document["paths"].values() for o in item.values()]
            assert len(set(names)) == len(names)
            for method, path in sorted(described):
                filled = (
                    path.replace("{id}", "1")
                    .replace("{key}", "rest")
                    .replace("{", "")
                    .replace("}", "")
                )
                answer = await api.call(
                    method, f"!{filled}", {} if method in {"POST", "PUT", "PATCH"} else None
                )
                allowed = document["paths"][path][method.lower()]["responses"]
                assert str(answer.status) in allowed, (method, path, answer.status)
                assert "nothing at this address" not in answer.text

    run(main())
