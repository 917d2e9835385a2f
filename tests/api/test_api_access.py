"""Who may see what."""

import pytest
from api.running import Open, Run


def test_organizations_do_not_see_one_another(run: Run, open_api: Open) -> None:
    """Everything about another organization's instance is 404, and its lists do not have it."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(
                name="private", configuration={"event.notification.enabled": True}
            )
            polled = await api.create(
                element={"key": "crmlike"}, configuration={"event.notification.enabled": True}
            )
            other = await api.customer("second")
            (entry, *_) = (await api.call("GET", f"/instances/{made['id']}/configuration")).body
            for method, tail, body in (
                ("GET", "", None),
                ("PUT", "", {"name": "mine"}),
                ("PATCH", "", {"name": "mine"}),
                ("DELETE", "", None),
                ("PUT", "/enabled", None),
                ("DELETE", "/enabled", None),
                ("GET", "/configuration", None),
                ("GET", f"/configuration/{entry['id']}", None),
                ("PATCH", f"/configuration/{entry['id']}", {"propertyValue": "x"}),
                ("GET", "/events", None),
                ("GET", "/events/AQIDBAAAAAAAAAAAAAAB", None),
            ):
                path = f"/instances/{made['id']}{tail}"
                assert 404 == (await api.call(method, path, body, auth=other.whole)).status, path
            assert [] == (await api.call("GET", "/instances", auth=other.whole)).body
            records = "/instances/event-poller-records"
            assert [] == (await api.call("GET", records, auth=other.whole)).body
            assert {polled["id"]} == {
                r["instanceId"] for r in (await api.call("GET", records)).body
            }
            assert (
                401
                == (await api.call("GET", "/instances", auth=other.element(made["token"]))).status
            )
            assert made == (await api.call("GET", f"/instances/{made['id']}")).body

    run(main())


def test_an_element_token_opens_its_instance_only(run: Run, open_api: Open) -> None:
    """With User and Element alone another instance is 404, and what concerns the organization 401."""

    async def main() -> None:
        async with open_api() as api:
            one, two = await api.create(), await api.create()
            auth = api.customers[0].element(one["token"])
            assert 200 == (await api.call("GET", f"/instances/{one['id']}", auth=auth)).status
            assert 404 == (await api.call("GET", f"/instances/{two['id']}", auth=auth)).status
            answer = await api.call("POST", "/instances", {}, auth=auth)
            assert 401 == answer.status
            assert "Organization" in answer.body["message"]

    run(main())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer abc",
        "User",
        "User {user}",
        "Organization {organization}",
        "User {user} Organization {organization}",
        "User {user}, Organization wrong",
        "User wrong, Organization {organization}",
        "User {user}, Organization {other}",
        "User {user}, Organization {organization}, Element wrong",
        "User {user}, Organization {organization}, Element",
        "User {user}, User {user}, Organization {organization}",
        "User {user}, Organization {organization}, Basic abc",
        "User ü, Organization {organization}",
    ],
)
def test_who_is_not_known_is_refused(run: Run, open_api: Open, header: str | None) -> None:
    """401 says how the header should look, names the scheme, and repeats nothing of what was sent."""

    async def main() -> None:
        async with open_api() as api:
            first, other = api.customers[0], await api.customer("second")
            sent = header and header.format(
                user=first.user, organization=first.organization, other=other.organization
            )
            answer = await api.call("GET", "/instances", auth=sent)
            assert 401 == answer.status
            assert answer.headers["WWW-Authenticate"]
            assert first.user not in answer.text
            assert first.organization not in answer.text

    run(main())


@pytest.mark.parametrize(
    "header",
    [
        "User {user}, Organization {organization}",
        "user {user},organization {organization}",
        "Organization {organization}  ,  USER {user}",
    ],
)
def test_order_and_case_do_not_matter(run: Run, open_api: Open, header: str) -> None:
    """The parts of the header may come in any order and case."""

    async def main() -> None:
        async with open_api() as api:
            first = api.customers[0]
            sent = header.format(user=first.user, organization=first.organization)
            assert 200 == (await api.call("GET", "/instances", auth=sent)).status

    run(main())
