"""Described REST APIs against a provider with recorded answers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from elements.files import API, NOW, element
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Script, serving

from daemon.elements.defined import Defined
from daemon.errors import Invalid, Refused, Transient
from daemon.model import Condition, Json, Page, Query
from daemon.outbound.client import Client

SINCE = Condition("updated", ">=", "2026-11-20T10:00:00Z")


async def collect(pages: AsyncGenerator[Page] | None) -> list[Page]:
    """All pages."""
    assert pages is not None
    async with aclosing(pages):
        return [page async for page in pages]


def read(
    shop: Defined,
    answers: dict[str, Any],
    query: Query | None = None,
    *,
    inventory: bool = False,
    **configuration: str,
) -> tuple[list[Page], Script]:
    """What *query* (or an inventory) of orders yields, and the script with what was asked."""
    script = Script(answers)

    async def main() -> list[Page]:
        async with serving(script.answer) as origin, Client() as client:
            known = {"base.url": f"{origin}/v1", **configuration}
            if inventory:
                return await collect(shop.inventory(client, known, "orders"))
            return await collect(shop.read(client, known, query or Query("orders")))

    return asyncio.run(main()), script


def ids(pages: list[Page]) -> list[list[Any]]:
    """The ids page by page."""
    return [[record["id"] for record in page.records] for page in pages]


def rows(*numbers: int) -> list[Json]:
    """Records of these ids."""
    return [{"id": number} for number in numbers]


def orders(text: str) -> Defined:
    """A shop whose resource orders is described by *text*."""
    return element(API, "[resources.orders]", text)


def test_without_paging_one_answer_is_all():
    """Kind none asks once; the body itself is the list; the page is the last one."""
    pages, script = read(orders(""), {"/v1/orders": rows(1, 2)})

    assert [[1, 2]] == ids(pages)
    assert pages[0].last
    assert ["/v1/orders"] == script.asked


def test_pages_by_number_end_with_an_empty_page():
    """Kind page counts up, keeps the size, and ends where nothing more comes."""
    shop = orders('paging = { kind = "page", parameter = "p", size_parameter = "n", size = 2 }')
    answers = {
        f"/v1/orders?n=2&p={n}": rows(*found) for n, found in ((1, (1, 2)), (2, (3,)), (3, ()))
    }

    pages, _ = read(shop, answers)

    assert [[1, 2], [3], []] == ids(pages)
    assert [False, False, True] == [page.last for page in pages]


def test_a_short_page_may_be_the_last():
    """With short_is_last a page that is not full saves the question after it."""
    shop = orders(
        'paging = { kind = "page", parameter = "p", first = 0, size_parameter = "n", size = 2, short_is_last = true }'
    )
    pages, script = read(shop, {"/v1/orders?n=2&p=0": rows(1, 2), "/v1/orders?n=2&p=1": rows(3)})

    assert [[1, 2], [3]] == ids(pages)
    assert 2 == len(script.asked)


def test_the_wanted_page_size_is_bounded_by_the_providers():
    """pageSize of the poller's configuration is asked for, but never more than size_max."""
    shop = orders(
        'paging = { kind = "page", parameter = "p", size_parameter = "n", size = 20, size_max = 50 }'
    )

    for wanted, asked in ((None, 20), (7, 7), (10_000, 50)):
        _, script = read(shop, {f"/v1/orders?n={asked}&p=1": []}, Query("orders", page_size=wanted))

        assert [f"/v1/orders?n={asked}&p=1"] == script.asked


def test_a_repeated_page_ends_the_walk():
    """A provider that answers a number past the end with its last page again does not loop or repeat."""
    shop = orders('paging = { kind = "page", parameter = "p" }')
    answers = {
        f"/v1/orders?p={n}": rows(*found)
        for n, found in ((1, (1, 2)), (2, (3,)), (3, (3,)), (4, (3,)))
    }

    pages, script = read(shop, answers)

    assert [[1, 2], [3]] == ids(pages)
    assert 3 == len(script.asked)


def test_more_says_whether_a_page_follows():
    """A null at `more` ends the walk without another question."""
    shop = orders('items = "rows"\npaging = { kind = "page", parameter = "p", more = "next" }')
    answers = {
        "/v1/orders?p=1": {"rows": rows(1), "next": "/p2"},
        "/v1/orders?p=2": {"rows": rows(2), "next": None},
    }
    pages, _ = read(shop, answers)

    assert [[1], [2]] == ids(pages)
    assert pages[-1].last


def test_offsets_count_what_came():
    """Kind offset goes on by the records that came, not by those asked for, and stops at the total."""
    shop = orders(
        'items = "rows"\npaging = { kind = "offset", parameter = "o", size_parameter = "n", size = 5, total = "all" }'
    )
    answers = {
        "/v1/orders?n=5&o=0": {"rows": rows(1, 2), "all": 3},
        "/v1/orders?n=5&o=2": {"rows": rows(3), "all": 3},
    }
    pages, script = read(shop, answers)

    assert [[1, 2], [3]] == ids(pages)
    assert 2 == len(script.asked)


def test_tokens_are_followed_through_empty_pages():
    """Kind token goes on as long as there is a token: a filter may leave a page in between empty."""
    shop = orders(
        'items = "d"\npaging = { kind = "token", parameter = "after", next = "paging.next.after" }'
    )
    answers = {
        "/v1/orders": {"d": rows(1), "paging": {"next": {"after": "a+b"}}},
        "/v1/orders?after=a+b": {"d": [], "paging": {"next": {"after": 7}}},
        "/v1/orders?after=7": {"d": rows(2), "paging": {}},
    }
    pages, _ = read(shop, answers)

    assert [[1], [], [2]] == ids(pages)


def test_a_token_may_stand_in_a_header():
    """`header:NAME` names a header, whatever its case."""
    shop = orders('paging = { kind = "token", parameter = "t", next = "header:X-Next" }')
    pages, _ = read(
        shop, {"/v1/orders": (200, rows(1), {"x-next": "2"}), "/v1/orders?t=2": rows(2)}
    )

    assert [[1], [2]] == ids(pages)


def test_a_circle_of_tokens_is_refused():
    """A token that was there before would walk for ever: that is an error, not an end."""
    shop = orders('items = "d"\npaging = { kind = "token", parameter = "t", next = "n" }')
    with pytest.raises(Refused, match="circle"):
        read(
            shop,
            {
                "/v1/orders": {"d": rows(1), "n": "a"},
                "/v1/orders?t=a": {"d": rows(2), "n": "b"},
                "/v1/orders?t=b": {"d": rows(3), "n": "a"},
            },
        )


@pytest.mark.parametrize(
    ("link", "relative_to"),
    [
        ("{origin}/v1/orders?c=2", "request"),
        ("/v1/orders?c=2", "request"),
        ("?c=2", "request"),
        ("/orders?c=2", "base"),
        ("/v1/orders?c=2", "base"),
        ("{origin}/v1/orders?c=2", "base"),
    ],
)
def test_next_links_are_followed(link: str, relative_to: str):
    """A link may be absolute, or relative to the request, or to the base address with and without its path."""
    shop = orders(
        f'items = "d"\npaging = {{ kind = "next_link", next = "n", relative_to = "{relative_to}" }}'
    )
    pages, _ = read(
        shop, {"/v1/orders": {"d": rows(1), "n": link}, "/v1/orders?c=2": {"d": rows(2)}}
    )

    assert [[1], [2]] == ids(pages)


@pytest.mark.parametrize(
    "link", ["https://evil.example/v1/orders", "//evil.example/x", "http://127.0.0.1:1/v1"]
)
def test_a_next_link_to_another_server_is_refused(link: str):
    """The provider's answer cannot send the credentials elsewhere."""
    shop = orders('items = "d"\npaging = { kind = "next_link", next = "n" }')
    with pytest.raises(Refused, match="another server"):
        read(shop, {"/v1/orders": {"d": rows(1), "n": link}})


def test_link_headers_are_followed():
    """RFC 8288: among other links, whatever the order and the quotes, rel=next is the next page."""
    shop = orders('paging = { kind = "link_header" }')
    link = (
        '<{origin}/v1/orders?c=9>; rel="last", <{origin}/v1/orders?c=2>; title="a, b"; rel="next x"'
    )
    pages, _ = read(
        shop,
        {
            "/v1/orders": (200, rows(1), {"Link": link}),
            "/v1/orders?c=2": (200, rows(2), {"Link": "</v1/orders?c=1>; rel=prev"}),
        },
    )

    assert [[1], [2]] == ids(pages)


def test_too_many_pages_are_refused():
    """A walk is bounded; what it has read so far was given page by page."""
    shop = orders('paging = { kind = "page", parameter = "p", max_pages = 3 }')
    with pytest.raises(Refused, match="more than 3 pages"):
        read(shop, {f"/v1/orders?p={n}": rows(n) for n in range(1, 10)})


def test_pages_come_as_they_are_read():
    """The first page is there before the second is asked for, and a reader may stop."""
    script = Script({f"/v1/orders?p={n}": rows(n) for n in range(1, 10)})
    shop = orders('paging = { kind = "page", parameter = "p" }')

    async def main() -> None:
        async with serving(script.answer) as origin, Client() as client:
            pages = shop.read(client, {"base.url": f"{origin}/v1"}, Query("orders"))
            async with aclosing(pages):
                await anext(pages)

    asyncio.run(main())

    assert ["/v1/orders?p=1"] == script.asked


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(0, 23),
    size=st.integers(1, 7),
    kind=st.sampled_from(["page", "offset", "token"]),
    total=st.booleans(),
    short=st.booleans(),
)
def test_every_record_comes_once_in_order(
    count: int,
    size: int,
    kind: str,
    total: bool,  # noqa: FBT001 — hypothesis gives it by name
    short: bool,  # noqa: FBT001 — likewise
):
    """Whatever the number of records, the page size and the kind of paging: all of them, once, in order."""
    keys = [f'kind = "{kind}"', 'parameter = "at"', f'size_parameter = "n", size = {size}']
    keys += ['next = "next"'] if kind == "token" else []
    keys += ['total = "total"'] if total else []
    keys += ["short_is_last = true"] if short and kind != "token" else []
    shop = orders(f'items = "rows"\npaging = {{ {", ".join(keys)} }}')
    answers: dict[str, Any] = {}
    for number in range(count // size + 2):
        start = number * size
        found = rows(*range(start, min(start + size, count)))
        body = {
            "rows": found,
            "total": count,
            "next": f"{number + 1}" if start + size < count else None,
        }
        at = {"page": number + 1, "offset": min(start, count), "token": number}[kind]
        query = f"?n={size}&at={at}" if kind != "token" or number else f"?n={size}"
        answers[f"/v1/orders{query}"] = body

    pages, _ = read(shop, answers)

    assert list(range(count)) == [number for page in ids(pages) for number in page]
    assert pages[0].asked <= datetime.now(UTC)


# What a query becomes.


def asked(text: str, query: Query) -> str:
    """The one request that *query* for orders described by *text* leads to."""
    script = Script({}, otherwise=[])

    async def main() -> None:
        async with serving(script.answer) as origin, Client() as client:
            known = {"base.url": f"{origin}/v1", "site": "a/b"}
            await collect(orders(text).read(client, known, query))

    asyncio.run(main())
    [one] = script.asked
    return one


WHERE = """
parameters = { view = "full", archived = false }
[resources.orders.where]
"updated>=" = { parameter = "since", date = "seconds" }
"changed>" = { parameter = "filter", date = "yyyy-MM-dd HH:mm", timezone = "America/New_York", template = "changed gt {value}" }
"status=" = "state"
"""


def test_conditions_become_parameters():
    """An attribute with an operator becomes the parameter that the definition names, dates in its format."""
    query = Query(
        "orders",
        (SINCE, Condition("changed", ">", "1795168800000"), Condition("status", "=", "open & new")),
    )

    assert (
        "/v1/orders?view=full&archived=false&since=1795168800&filter=changed gt 2026-11-20 05:00&state=open & new"
        == asked(WHERE, query)
    )


def test_a_condition_replaces_a_fixed_parameter():
    """A fixed parameter is a default: what the poller asks for takes its place."""
    text = 'parameters = { fields = "all", a = 1 }\nwhere = { "fields=" = "fields" }'

    assert "/v1/orders?a=1&fields=id,name" == asked(
        text, Query("orders", (Condition("fields", "=", "id,name"),))
    )


def test_unknown_date_conditions_are_left_out():
    """A date filter that the provider does not know only costs bytes: the poller filters again."""
    query = Query(
        "orders",
        (Condition("modified", ">", "2026-11-20T10:00:00Z"), Condition("m", "=", "1795168800000")),
    )

    assert "/v1/orders" == asked("", query)


def test_other_unknown_conditions_are_refused():
    """A filter left out in silence would let through what the owner filtered away; both check and read say so."""
    shop = orders(WHERE)
    query = Query("orders", (Condition("total", ">=", "100"),))

    with pytest.raises(Invalid, match=r"total >= is no filter.*updated>=, changed>, status="):
        shop.check_query(query)
    with pytest.raises(Refused, match="total >= is no filter"):
        read(shop, {}, query)


def test_alternatives_are_refused_unless_they_are_dates():
    """OR cannot be said by query parameters; of dates the poller takes care itself."""
    dates = Query("orders", (SINCE, Condition("created", ">=", "2026-11-20T10:00:00Z", "OR")))
    other = Query("orders", (SINCE, Condition("status", "=", "open", "OR")))

    assert "/v1/orders?view=full&archived=false" == asked(WHERE, dates)
    with pytest.raises(Invalid, match="OR"):
        orders(WHERE).check_query(other)


def test_a_where_may_go_out_whole():
    """where_parameter is for providers that take a query text themselves."""
    query = Query("orders", (SINCE,), where="updated>='2026-11-20T10:00:00Z'")

    assert "/v1/orders?q=updated>='2026-11-20T10:00:00Z'" == asked('where_parameter = "q"', query)


def test_pass_through_asks_with_the_attributes_own_names():
    """With pass_through conditions and parameters go out under their own names; those of the platform do not."""
    query = Query("orders", (SINCE,), parameters=(("region", "eu"), ("orderBy", "updated asc")))

    assert "/v1/orders?region=eu&updated=2026-11-20T10:00:00Z" == asked(
        "pass_through = true", query
    )


def test_parameters_of_the_url_need_leave():
    """A query parameter of the poller's url goes out where `passes` names it; another is refused."""
    assert "/v1/orders?search=x" == asked(
        'passes = ["search"]', Query("orders", parameters=(("search", "x"),))
    )
    with pytest.raises(Invalid, match=r"serach: is not a parameter of orders; there are: search"):
        orders('passes = ["search"]').check_query(Query("orders", parameters=(("serach", "x"),)))


def test_a_path_may_hold_settings():
    """A setting in a path is quoted: it cannot lead out of it."""
    assert "/v1/sites/a%2Fb/orders" == asked('path = "sites/{site}/orders"', Query("orders"))


@pytest.mark.parametrize(
    "resource", ["../admin", "a/../../b", "a//b", "a/%2e%2e/b", "..", "nothing"]
)
def test_a_resource_cannot_leave_the_base(resource: str):
    """The resource comes from an instance's configuration: it lies below the base address or is refused."""
    shop = element("any_resource = true", API)
    if resource == "nothing":
        shop = orders("")

    with pytest.raises(Refused):
        read(shop, {}, Query(resource))


def test_fixed_headers_are_filled_in_or_left_out():
    """A header whose setting is empty is not sent."""
    shop = element(
        '[connection]\nbase = "https://x.example"\noverride = true\n'
        'headers = { "X-Business" = "{business.id}", "X-Site" = "{site}", "X-Version" = "2" }\n[resources.orders]'
    )
    _, script = read(shop, {"/v1/orders": []}, site="north")
    sent = script.headers[0]

    assert ("north", "2", "application/json") == (sent["X-Site"], sent["X-Version"], sent["Accept"])
    assert "X-Business" not in sent


# What an answer may be.


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"d": {"rows": [{"id": 1}]}}, [[1]]),
        ({"d": {"rows": None}}, [[]]),
        ({"d": {"rows": ["a", "b"]}}, [["a", "b"]]),
    ],
)
def test_the_list_stands_at_its_path(body: Any, found: list[Any]):
    """Null is an empty list, and bare ids become records."""
    pages, _ = read(orders('items = "d.rows"'), {"/v1/orders": body})

    assert found == ids(pages)


def test_a_missing_list_is_refused_unless_optional():
    """A list that is not there is a mistake in the definition, unless that says that it may be missing."""
    with pytest.raises(Refused, match=r"no list at 'rows'.*an object with data, meta"):
        read(orders('items = "rows"'), {"/v1/orders": {"data": [], "meta": 1}})
    pages, _ = read(orders('items = "rows"\nitems_optional = true'), {"/v1/orders": {"meta": 1}})

    assert [[]] == ids(pages)


def test_what_is_not_json_is_transient():
    """A gateway's page instead of JSON passes."""
    with pytest.raises(Transient, match="without JSON"):
        read(orders(""), {"/v1/orders": "<html>"})


def test_asked_is_the_providers_clock():
    """The page carries the provider's Date; the daemon's clock stands in where it gives none that can be read."""
    date = {"Date": "Fri, 20 Nov 2026 09:59:30 GMT"}
    pages, _ = read(orders(""), {"/v1/orders": (200, [], date)})
    others, _ = read(orders(""), {"/v1/orders": (200, [], {"Date": "today"})})

    assert datetime(2026, 11, 20, 9, 59, 30, tzinfo=UTC) == pages[0].asked
    assert NOW == others[0].asked


# Deletes.

SWEEP = """
deletes = "sweep"
item = "orders/{id}"
parameters = { view = "full" }
deleted = { parameters = { view = "ids" } }
items = "rows"
paging = { kind = "page", parameter = "p", total = "total" }
where = { "updated>=" = "since" }
"""


def test_an_inventory_reads_everything():
    """A sweep asks without a filter, with its own parameters, and is complete when the total says so."""
    answers = {
        "/v1/orders?view=ids&p=1": {"rows": rows(1, 2), "total": 3},
        "/v1/orders?view=ids&p=2": {"rows": rows(3), "total": 3},
    }
    pages, _ = read(orders(SWEEP), answers, inventory=True)

    assert [[1, 2], [3]] == ids(pages)


@pytest.mark.parametrize(
    ("second", "total"), [((2,), 3), ((3,), 4), ((3,), 2)], ids=["shifted", "one came", "one went"]
)
def test_an_inventory_that_shifted_does_not_count(second: tuple[int, ...], total: int):
    """A total that is not reached, or changes on the way, means that a record may have slipped through."""
    answers = {
        "/v1/orders?view=ids&p=1": {"rows": rows(1, 2), "total": 3},
        "/v1/orders?view=ids&p=2": {"rows": rows(*second), "total": total},
        "/v1/orders?view=ids&p=3": {"rows": [], "total": total},
    }
    with pytest.raises(Transient, match="changed while it was counted"):
        read(orders(SWEEP), answers, inventory=True)


def test_no_inventory_unless_the_definition_says_so():
    """Without `deletes = "sweep"` there is no inventory, without "channel" no deletions, without item no asking."""
    shop = orders("")

    async def main() -> tuple[Any, Any, Any]:
        async with Client() as client:
            gone = await shop.gone(client, {}, "orders", "1")
            return (
                shop.inventory(client, {}, "orders"),
                shop.deletions(client, {}, "orders", NOW),
                gone,
            )

    assert (None, None, None) == asyncio.run(main())


@pytest.mark.parametrize(("status", "gone"), [(200, False), (404, True), (410, True)])
def test_one_object_can_be_asked_for(status: int, gone: bool):  # noqa: FBT001 — pytest gives it by name
    """404 and 410 for the object itself mean that it is gone; an id is quoted on its way."""
    script = Script({"/v1/orders/a%2Fb": (status, {"id": "a/b"}, {})})

    async def main() -> bool | None:
        async with serving(script.answer) as origin, Client() as client:
            return await orders(SWEEP).gone(client, {"base.url": f"{origin}/v1"}, "orders", "a/b")

    assert gone is asyncio.run(main())


def test_deletions_come_from_the_channel():
    """A channel is asked with its own path, parameter and date format."""
    shop = orders(
        'deletes = "channel"\nitems = "rows"\n'
        'deleted = { path = "orders/deleted", parameter = "after", date = "milliseconds", parameters = { k = 1 } }'
    )
    script = Script({"/v1/orders/deleted?k=1&after=1795168800000": {"rows": rows(5)}})

    async def main() -> list[Page]:
        async with serving(script.answer) as origin, Client() as client:
            known = {"base.url": f"{origin}/v1"}
            return await collect(shop.deletions(client, known, "orders", NOW))

    assert [[5]] == ids(asyncio.run(main()))


@pytest.mark.parametrize(
    ("deleted", "record", "marked"),
    [
        ('{ field = "is_deleted" }', {"is_deleted": True}, True),
        ('{ field = "is_deleted" }', {"is_deleted": False}, False),
        ('{ field = "is_deleted" }', {}, False),
        ('{ field = "meta.state", values = ["gone", "dead"] }', {"meta": {"state": "gone"}}, True),
        ('{ field = "meta.state", values = ["gone"] }', {"meta": {"state": "live"}}, False),
        ('{ field = "n", values = [1] }', {"n": True}, False),
    ],
)
def test_a_mark_tells_deleted_records(deleted: str, record: Json, marked: bool):  # noqa: FBT001 — pytest gives it by name
    """A marker is a field that is true, or that has one of the values named."""
    assert marked is orders(f'deletes = "marker"\ndeleted = {deleted}').deleted("orders", record)
