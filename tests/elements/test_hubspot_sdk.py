"""HubSpot's own Python client works against the simulated HubSpot, and its signature helper judges its webhooks and ours."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from hubspot import HubSpot as Client
from hubspot.crm.contacts import ApiException, BatchReadInputSimplePublicObjectId
from hubspot.crm.contacts import PublicMergeInput as Merge
from hubspot.crm.contacts import PublicObjectSearchRequest as Search
from hubspot.crm.contacts import SimplePublicObjectInput as Fields
from hubspot.crm.contacts import SimplePublicObjectInputForCreate as NewFields
from hubspot.utils.signature import Signature
from servers import serving

from daemon.elements.simulators.hubspot.server import PRIVATE_TOKEN, HubSpot


def with_client(test: Callable[[Client, HubSpot], Any], simulated: HubSpot | None = None) -> Any:
    """Run *test*, which blocks, in a thread while the simulator serves."""
    hubspot = simulated or HubSpot()

    async def main() -> Any:
        async with hubspot.running() as origin:
            client = Client(access_token=PRIVATE_TOKEN, host=origin, retry=False)
            return await asyncio.to_thread(test, client, hubspot)

    return asyncio.run(main())


def test_the_client_creates_reads_changes_lists_and_archives():
    """What HubSpot's client writes it reads back, by record, by list, among the archived."""

    def test(client: Client, hubspot: HubSpot) -> None:
        api = client.crm.contacts.basic_api
        made = api.create(NewFields(properties={"email": "ann@example.com", "firstname": "Ann"}))
        assert "ann@example.com" == made.properties["email"]
        assert made.created_at == made.updated_at
        api.update(made.id, Fields(properties={"lastname": "Lee"}))
        found = api.get_by_id(made.id, properties=["firstname", "lastname"])
        assert ("Ann", "Lee") == (found.properties["firstname"], found.properties["lastname"])
        for number in range(205):
            hubspot.create("contacts", email=f"{number}@example.com")
        assert 206 == len(client.crm.contacts.get_all())
        api.archive(made.id)
        with pytest.raises(ApiException) as caught:
            api.get_by_id(made.id)
        assert 404 == caught.value.status
        [gone] = client.crm.contacts.get_all(archived=True)
        assert (made.id, True) == (gone.id, gone.archived)
        assert gone.archived_at is not None

    with_client(test)


def test_the_client_searches_page_by_page():
    """Filters, sort, total and `after` are what HubSpot's client expects; 10,000 results is the end."""

    def test(client: Client, hubspot: HubSpot) -> None:
        for number in range(450):
            hubspot.create("contacts", firstname="Ann" if number % 3 == 0 else "Bob")
        api = client.crm.contacts.search_api
        filters = [{"propertyName": "firstname", "operator": "EQ", "value": "ann"}]
        sorts = [{"propertyName": "hs_object_id", "direction": "ASCENDING"}]
        found: list[int] = []
        after = None
        while True:
            request = Search(
                filter_groups=[{"filters": filters}], sorts=sorts, limit=100, after=after
            )
            page = api.do_search(public_object_search_request=request)
            assert 150 == page.total
            found += [int(one.id) for one in page.results]
            if page.paging is None:
                break
            after = page.paging.next.after
        assert sorted(set(found)) == found
        assert 150 == len(found)
        with pytest.raises(ApiException) as caught:
            api.do_search(public_object_search_request=Search(limit=100, after="9901"))
        assert 400 == caught.value.status

    with_client(test)


def test_the_client_merges_and_reads_the_history():
    """After a merge the old id leads to the winner, and the history of hs_merged_object_ids says when it ended."""

    def test(client: Client, hubspot: HubSpot) -> None:
        winner, loser = (hubspot.create("contacts", email=f"{n}@example.com")["id"] for n in "ab")
        api = client.crm.contacts
        merged = api.basic_api.merge(Merge(primary_object_id=winner, object_id_to_merge=loser))
        assert winner == merged.id
        assert winner == api.basic_api.get_by_id(loser).id
        asked = BatchReadInputSimplePublicObjectId(
            inputs=[{"id": winner}],
            properties=["hs_object_id"],
            properties_with_history=["hs_merged_object_ids"],
        )
        [read] = api.batch_api.read(asked).results
        [version] = read.properties_with_history["hs_merged_object_ids"]
        assert loser == version.value
        assert [] == api.get_all(archived=True)

    with_client(test)


def test_the_client_gets_tokens():
    """A code becomes tokens of 30 minutes, a refresh token works again and again, and the token says whose it is."""

    def test(client: Client, hubspot: HubSpot) -> None:
        api = client.oauth.tokens_api
        common = {"client_id": "id", "client_secret": "hubspot-secret"}
        code = hubspot.grant("https://app.example/back")
        told = api.create(
            grant_type="authorization_code",
            code=code,
            redirect_uri="https://app.example/back",
            **common,
        )
        assert 1800 == told.expires_in
        for _ in range(2):
            hubspot.expire_access()
            told = api.create(
                grant_type="refresh_token", refresh_token=told.refresh_token, **common
            )
            client.access_token = told.access_token
            assert [] == client.crm.deals.get_all()
        assert 62515 == client.oauth.access_tokens_api.get(told.access_token).hub_id

    with_client(test)


def test_one_request_too_many_is_told_as_hubspot_does():
    """Of searches five a second are let through; the rest is a 429 with the policy in its body."""

    def test(client: Client, hubspot: HubSpot) -> None:
        hubspot.search_limit = 5
        for _ in range(5):
            client.crm.contacts.search_api.do_search(public_object_search_request=Search(limit=1))
        with pytest.raises(ApiException) as caught:
            client.crm.contacts.search_api.do_search(public_object_search_request=Search(limit=1))
        assert 429 == caught.value.status
        assert "SECONDLY" in caught.value.body
        assert "X-HubSpot-RateLimit-Max" not in caught.value.headers

    with_client(test)


@pytest.mark.parametrize("path", ["/hook", "/hook?instance=1&to=x", "/a:b/@c,d;e!f"])
def test_the_clients_helper_accepts_every_signature_of_a_webhook(path: str):
    """Versions 1, 2 and 3 of what the simulator posts are right in the eyes of HubSpot's helper, and no other body is."""
    seen: list[tuple[str, Any, str]] = []

    async def main() -> None:
        hubspot = HubSpot()

        async def answer(request: web.Request) -> web.Response:
            body = await request.text()
            seen.append((str(request.url), dict(request.headers), body))
            return web.Response()

        async with serving(answer) as there, hubspot.running():
            hubspot.webhooks.target = there + path
            for versions in (("v1", "v3"), ("v2",)):
                hubspot.webhooks.versions = versions
                hubspot.create("contacts", email="ann@example.com")
                await hubspot.webhooks.posted()
            for _, headers, body in seen:
                uri = there + path
                older = headers["X-HubSpot-Signature"]
                version = headers["X-HubSpot-Signature-Version"]
                given = {"http_uri": uri, "http_method": "POST", "signature_version": version}
                assert Signature.is_valid(older, "hubspot-secret", body, **given)
                assert not Signature.is_valid(older, "hubspot-secret", body + " ", **given)
                if "X-HubSpot-Signature-v3" in headers:
                    given |= {
                        "signature_version": "v3",
                        "timestamp": headers["X-HubSpot-Request-Timestamp"],
                    }
                    newest = headers["X-HubSpot-Signature-v3"]
                    assert Signature.is_valid(newest, "hubspot-secret", body, **given)
                    assert not Signature.is_valid(newest, "other", body, **given)

    asyncio.run(main())

    assert ["v1", "v2"] == [headers["X-HubSpot-Signature-Version"] for _, headers, _ in seen]
