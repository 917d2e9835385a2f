"""Hubs: the records of an account, read from a real server while the caller waits."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from api.running import Answer, Api, Open, Run
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import serving

from daemon import elements
from daemon.api import asking, hubs, readings
from daemon.api.arrivals import TooManyWaiting
from daemon.api.readings import Reading, Readings, Subject
from daemon.elements.simulators.workshop import Workshop
from daemon.errors import Invalid, NotFound, Transient
from daemon.model import Condition, Json, Page, Query, Request, Response

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)


class Account:
    """An account at a provider with Link headers: `/things` has *records*, *size* a page; anything else *answer*s."""

    def __init__(self, records: list[Json], *, size: int = 3) -> None:
        self.records = records
        self.size = size
        self.asked: list[str] = []
        self.answer: Callable[[web.Request], Any] = lambda request: web.HTTPNotFound(text="no")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append(request.path_qs)
        if request.path != "/things":
            answered = self.answer(request)
            if asyncio.iscoroutine(answered):
                answered = await answered
            if isinstance(answered, web.HTTPException):
                raise answered
            found: web.StreamResponse = answered
            return found
        at = int(request.query.get("at", 0))
        end = at + self.size
        more = {"Link": f'</things?at={end}>; rel="next"'} if end < len(self.records) else {}
        return web.json_response(self.records[at:end], headers=more)


class Reader:
    """Somebody with an element token."""

    def __init__(self, api: Api, made: Any) -> None:
        self._api = api
        self.id = made["id"]
        self.auth = api.customers[0].element(made["token"])

    async def get(self, path: str, **query: Any) -> Answer:
        """GET *path*."""
        params = {name: str(value) for name, value in query.items()}
        return await self._api.call("GET", path, auth=self.auth, params=params)


@asynccontextmanager
async def reading(api: Api, account: Account, **more: Any) -> AsyncGenerator[Reader]:
    """An instance of `rest` at *account*."""
    async with serving(account.handle) as origin:
        made = await api.create(element={"key": "rest"}, configuration={"base.url": origin, **more})
        yield Reader(api, made)


@asynccontextmanager
async def workshop(api: Api) -> AsyncGenerator[tuple[Workshop, Reader]]:
    """An instance at a workshop."""
    there = Workshop()
    async with there.running() as origin:
        settings = {"base.url": f"{origin}/v1", "api.key": "workshop-key"}
        made = await api.create(element={"key": "workshop"}, configuration=settings)
        yield there, Reader(api, made)


def things(count: int) -> list[Json]:
    """So many records."""
    return [{"id": number, "name": f"n{number}"} for number in range(count)]


def test_the_records_of_a_resource_are_read(run: Run, open_api: Open) -> None:
    """Whatever the hub, and without one, the element token's account is read; the headers count the records."""

    async def main() -> None:
        async with open_api() as api, reading(api, Account(things(2))) as reader:
            for path in ("/hubs/general/things", "/hubs/crap/things", "/things"):
                answer = await reader.get(path)
                assert things(2) == answer.body
                assert ("2", "2") == (
                    answer.headers["Elements-Returned-Count"],
                    answer.headers["Elements-Total-Count"],
                )
                assert "Elements-Next-Page-Token" not in answer.headers
                assert str(reader.id) == answer.headers["Elements-Element-Instance-Id"]

    run(main())


def test_who_may_read(run: Run, open_api: Open) -> None:
    """Without the element token it is 401 below hubs and 404 beside them; switched off it is 403; deleted, 401."""

    async def main() -> None:
        async with open_api() as api, reading(api, Account(things(1))) as reader:
            assert 401 == (await api.call("GET", "/hubs/general/things")).status
            assert 404 == (await api.call("GET", "/things")).status
            assert 404 == (await api.call("GET", "/things", auth=None)).status
            await api.call("DELETE", f"/instances/{reader.id}/enabled")
            answer = await reader.get("/hubs/general/things")
            assert (403, True) == (answer.status, "disabled" in answer.body["message"])
            await api.call("PUT", f"/instances/{reader.id}/enabled")
            assert 200 == (await reader.get("/hubs/general/things")).status
            await api.call("DELETE", f"/instances/{reader.id}")
            assert 401 == (await reader.get("/hubs/general/things")).status

    run(main())


def test_pages_lead_through_everything_once(run: Run, open_api: Open) -> None:
    """By token or by number the pages are the whole list; by token the provider is asked for each of its pages once."""

    async def main() -> None:
        account = Account(things(11), size=3)
        async with open_api() as api, reading(api, account) as reader:
            seen: list[Json] = []
            query: dict[str, Any] = {"pageSize": 4}
            while True:
                answer = await reader.get("/hubs/general/things", **query)
                seen += answer.body
                if "Elements-Next-Page-Token" not in answer.headers:
                    break
                query = {"nextPage": answer.headers["Elements-Next-Page-Token"]}
            assert things(11) == seen
            assert "11" == answer.headers["Elements-Total-Count"]
            assert 4 == len(account.asked)

            by_number = [
                (await reader.get("/things", page=number, pageSize=4)).body for number in (1, 2, 3)
            ]
            assert things(11) == [one for page in by_number for one in page]
            beyond = await reader.get("/things", page=9, pageSize=4)
            assert ([], "11") == (beyond.body, beyond.headers["Elements-Total-Count"])

    run(main())


def test_a_token_goes_on_after_its_list_was_closed(run: Run, open_api: Open) -> None:
    """A token may be sent twice, and with another question; each time the answer is that of its place in the list."""

    async def main() -> None:
        account = Account(things(10), size=4)
        async with open_api() as api, reading(api, account) as reader:
            first = await reader.get("/things", pageSize=3)
            token = first.headers["Elements-Next-Page-Token"]
            for _ in range(2):
                assert things(6)[3:] == (await reader.get("/things", nextPage=token)).body
            other = await reader.get("/things", nextPage=token, where="name='x'", pageSize=2)
            assert things(5)[3:] == other.body
            assert "/things?name=x" == account.asked[-2]  # at=… follows
            await reader.get("/things", nextPage=token, pageSize=200)

    run(main())


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 40),
    st.integers(1, 7),
    st.lists(st.integers(1, 9), min_size=41, max_size=41),
    st.sets(st.integers(0, 40)),
    st.booleans(),
)
def test_however_it_is_cut_the_list_is_whole(
    count: int,
    size: int,
    takes: list[int],
    dropped: set[int],
    says_last: bool,  # noqa: FBT001 — hypothesis gives it
) -> None:
    """Provider's pages, ours, and lists that were closed in between: what is taken is each record once, in order."""

    async def pages() -> AsyncGenerator[Page]:
        records = things(count)
        for at in range(0, max(count, 1), size):
            yield Page(tuple(records[at : at + size]), NOW, last=says_last and at + size >= count)

    async def main() -> list[Json]:
        subject = Subject(1, 1, "question")
        lists, seen, name = Readings(), [], ""
        for number, take in enumerate(takes):
            if number in dropped:
                await lists.close()
            one = lists.resume(name, subject, len(seen)) or Reading(subject, pages())
            await one.skip(len(seen))
            seen += await one.take(take)
            if one.over:
                return seen
            name = await lists.keep(one)
        await lists.close()
        return seen

    assert things(count) == asyncio.run(main())


def test_a_list_is_gone_on_with_for_its_own_question_only() -> None:
    """Another instance, revision, question or place gets nothing of a list that is open; its own gets it once."""

    async def pages() -> AsyncGenerator[Page]:
        yield Page(tuple(things(5)), NOW)

    async def main() -> None:
        lists, subject = Readings(), Subject(7, 1, "question")
        one = Reading(subject, pages())
        await one.take(2)
        name = await lists.keep(one)
        for other in (Subject(8, 1, "question"), Subject(7, 2, "question"), Subject(7, 1, "")):
            assert lists.resume(name, other, 2) is None
        assert lists.resume(name, subject, 3) is None
        assert lists.resume("", subject, 2) is None
        assert one is lists.resume(name, subject, 2)
        assert lists.resume(name, subject, 2) is None
        await one.close()

    asyncio.run(main())


def test_open_lists_are_bounded() -> None:
    """Of one instance only the latest lists stay open, of all no more than there is room for; late ones are closed."""

    async def pages() -> AsyncGenerator[Page]:
        yield Page(tuple(things(5)), NOW)

    async def main() -> None:
        lists = Readings()
        kept: list[tuple[str, Subject]] = []
        for instance in range(50):
            for _ in range(6):
                subject = Subject(instance, 1, None)
                one = Reading(subject, pages())
                await one.take(1)
                kept.append((await lists.keep(one), subject))
        left = [lists.resume(name, subject, 1) for name, subject in kept]
        assert 32 == sum(one is not None for one in left)
        assert [4] * 8 == [
            sum(one is not None for one in left[at * 6 : at * 6 + 6]) for at in range(42, 50)
        ]
        for one in left:
            if one is not None:
                await one.close()

    asyncio.run(main())


def test_one_record_is_read_by_its_id(run: Run, open_api: Open) -> None:
    """A record of a resource whose element can ask for one is answered by id; one that is not there is 404."""

    async def main() -> None:
        async with open_api() as api, workshop(api) as (there, reader):
            made = there.create("customers", name="Ann", city=None)
            answer = await reader.get(f"/hubs/crm/customers/{made['id']}")
            assert {k: v for k, v in made.items() if v is not None} == answer.body
            only = await reader.get(f"/customers/{made['id']}", fields="name")
            assert {"name": "Ann"} == only.body
            assert 404 == (await reader.get("/hubs/crm/customers/nobody")).status
            assert 404 == (await reader.get("/hubs/crm/nothing")).status
            assert 404 == (await reader.get("/hubs/crm/customers/..%2f..")).status
            wrong = await reader.get(f"/customers/{made['id']}", where="a=1")
            assert (400, {"where"}) == (wrong.status, set(wrong.body["fields"]))

    run(main())


def test_a_resource_may_have_several_parts(run: Run, open_api: Open) -> None:
    """Where no single record can be asked for, the whole path below the hub is the resource."""

    async def main() -> None:
        account = Account([])
        account.answer = lambda request: web.json_response([{"id": request.path}])
        async with open_api() as api, reading(api, account) as reader:
            answer = await reader.get("/hubs/general/calendars/primary/changed-events")
            assert [{"id": "/calendars/primary/changed-events"}] == answer.body

    run(main())


def test_conditions_are_asked_of_the_provider(run: Run, open_api: Open) -> None:
    """What the element can ask is asked; anything else is 400 and names the attribute and the operator."""

    async def main() -> None:
        async with open_api() as api, workshop(api) as (there, reader):
            there.create("orders", id="o1", status="open")
            there.create("orders", id="o2", status="shut")

            async def ids(where: str) -> list[str]:
                answer = await reader.get("/hubs/crm/orders", where=where)
                assert 200 == answer.status, answer.text
                return sorted(one["id"] for one in answer.body)

            assert ["o1"] == await ids("status='open'")
            assert ["o1", "o2"] == await ids("updated_at >= '2020-01-01T00:00:00Z'")
            assert [] == await ids("(`updated_at` >= '2999-01-01T00:00:00Z' AND status = 'open')")
            for where, named in (
                ("status != 'open'", "status !="),
                ("status='open' or status='shut'", "OR"),
                ("updated_at > '2020-01-01T00:00:00Z'", "updated_at >"),
                ("created_at >= '2020-01-01T00:00:00Z'", "created_at >="),
                ("created_at >= '2020-01-01' or created_at < '2019-01-01'", "created_at"),
                ("status IS NULL", "status IS NULL"),
                ("status LIKE 'o%'", "status LIKE"),
                ("status IN ('open')", "status IN"),
                ("status =", "status"),
            ):
                answer = await reader.get("/hubs/crm/orders", where=where)
                assert (400, {"where"}) == (answer.status, set(answer.body["fields"])), where
                assert named in answer.body["fields"]["where"]

    run(main())


def test_an_operator_that_is_lost_is_refused(run: Run, open_api: Open) -> None:
    """`rest` makes a parameter of `=`; of another operator it would make the same one, so that is 400."""

    async def main() -> None:
        account = Account(things(1))
        async with open_api() as api, reading(api, account) as reader:
            assert 200 == (await reader.get("/things", where="a='1' and b=2")).status
            assert "/things?a=1&b=2" == account.asked[-1]
            for operator in (">", ">=", "<", "<=", "!=", "LIKE"):
                answer = await reader.get("/things", where=f"a {operator} '1'")
                assert (400, True) == (
                    answer.status,
                    f"a {operator} " in answer.body["fields"]["where"],
                )
            answer = await reader.get("/things", orderBy="name asc")
            assert (400, {"orderBy"}) == (answer.status, set(answer.body["fields"]))
            assert 2 == len(account.asked) + 1

    run(main())


ASKS = """
id = 4001
key = "asks"
name = "Asks"
any_resource = true
[connection]
base = "https://api.example.com"
[defaults]
where_parameter = "q"
passes = ["orderBy"]
[resources.things]
item = "things/{id}"
---
id = 4002
key = "some"
name = "Some"
any_resource = true
[connection]
base = "https://api.example.com"
[defaults.where]
"a=" = "a"
"a!=" = "not_a"
"when>=" = { parameter = "since", date = "milliseconds" }
"name LIKE" = { parameter = "name", template = "~{value}" }
"kind IN" = "kinds"
"""


@pytest.fixture
def registry(tmp_path: Path) -> elements.Registry:
    """An element that passes the clause on, and one that knows some conditions."""
    for number, text in enumerate(ASKS.split("---")):
        (tmp_path / f"{number}.toml").write_text(text)
    return elements.load([tmp_path])


def test_a_clause_that_is_passed_on_says_all(registry: elements.Registry) -> None:
    """An element that passes `where` and orderBy on as they are is refused nothing."""
    conditions = tuple(
        Condition("a b", operator, value, joined)
        for operator, value, joined in (
            ("=", "it's", "AND"),
            ("IS NULL", "", "AND"),
            ("IN", "'x', 'y'", "OR"),
            ("LIKE", "%", "AND"),
            ("<=", "2026-02-28T00:00:00Z", "AND"),
        )
    )
    query = Query("things", conditions, (("orderBy", "a desc"),))

    asyncio.run(asking.refuse_unsaid(registry.get("asks"), {}, query))


class _Recorder:
    """An `Http` that answers *body* and keeps what was asked."""

    def __init__(self, body: bytes = b"[]") -> None:
        self.asked: list[str] = []
        self._body = body

    async def send(self, request: Request) -> Response:
        self.asked.append(request.url)
        return Response(200, {}, self._body)


def test_only_the_record_itself_is_answered(registry: elements.Registry) -> None:
    """What a provider answers for one record is the record when it has that id, and else nothing that is handed on."""

    async def ask(body: bytes) -> Json | None:
        return await hubs._one(registry.get("asks"), _Recorder(body), {}, "things", "7")

    assert {"id": 7} == asyncio.run(ask(b'{"id": 7}'))
    for body in (b'{"thing": {"id": 7}}', b'[{"id": 7}]', b'{"id": 8}', b"7"):
        with pytest.raises(NotFound):
            asyncio.run(ask(body))
    with pytest.raises(Transient):
        asyncio.run(ask(b"<html>"))


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.builds(
            Condition,
            st.sampled_from(["a", "when", "name", "kind", "other"]),
            st.sampled_from(["=", "!=", ">=", ">", "LIKE", "IN", "IS NULL"]),
            st.sampled_from(
                ["x1y", "1700000000000", "2026-02-28T00:00:00Z", "2024-02-29T00:00:00Z"]
            ),
            st.sampled_from(["AND", "OR"]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_nothing_is_left_out_in_silence(conditions: list[Condition]) -> None:
    """Whatever is asked: it is refused, or each condition stands in the request as the definition says it."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        (Path(folder) / "some.toml").write_text(ASKS.split("---")[1])
        element = elements.load([Path(folder)]).get("some")
    query = Query("things", tuple(conditions))

    async def asked() -> str | None:
        try:
            element.check_query(query)
            await asking.refuse_unsaid(element, {}, query)
        except Invalid:
            return None
        http = _Recorder()
        async for _ in element.read(http, {}, query):
            pass
        return http.asked[0]

    url = asyncio.run(asked())
    known = {
        "a=": "a=",
        "a!=": "not_a=",
        "when>=": "since=1",
        "nameLIKE": "name=~",
        "kindIN": "kinds=",
    }
    for one in conditions:
        assert url is None or known[f"{one.attribute}{one.operator}"] in url


def test_fields_choose_and_nulls_are_left_out(run: Run, open_api: Open) -> None:
    """`fields` leaves what it names, also inside; nulls go, unless filter.response.nulls is false."""
    record = {"id": 1, "a": None, "b": {"c": 1, "d": None, "e": [None, {"f": None}]}, "x.y": 2}

    async def main() -> None:
        async with open_api() as api:
            async with reading(api, Account([record])) as reader:
                assert [{"id": 1, "b": {"c": 1, "e": [None, {}]}, "x.y": 2}] == (
                    await reader.get("/things")
                ).body
                chosen = await reader.get("/things", fields="id, b.c ,b.e,x.y,no.thing")
                assert [{"id": 1, "b": {"c": 1, "e": [None, {}]}, "x.y": 2}] == chosen.body
                assert [{"b": {"c": 1}}] == (await reader.get("/things", fields="b.c")).body
                whole = await reader.get("/things", fields="b,b.c")
                assert [{"b": {"c": 1, "e": [None, {}]}}] == whole.body
            settings = {"filter.response.nulls": False}
            async with reading(api, Account([record]), **settings) as reader:
                assert [record] == (await reader.get("/things")).body

    run(main())


WRONG: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("pageSize", (0, 201, "x")),
    ("page", (0, -1, "x")),
    ("nextPage", ("x", "eyJwYWdlU2l6ZSI6MiwicGFnZSI6Mn0")),
    ("fields", ("a,,b", "a.", ".")),
    ("orderBy", ("a sideways",)),
    ("where", ("a =", "(", "=1", "a ~ 1")),
)


def test_what_cannot_be_asked_is_named(run: Run, open_api: Open) -> None:
    """A parameter that means nothing is 400 under its name, and the provider is not asked."""

    async def main() -> None:
        account = Account(things(1))
        async with open_api() as api, reading(api, account) as reader:
            for field, values in WRONG:
                for value in values:
                    answer = await reader.get("/hubs/general/things", **{field: value})
                    assert (400, {field}) == (answer.status, set(answer.body["fields"])), value
            path = "/hubs/general/things?where=a=1&where=b=2"
            twice = await api.call("GET", path, auth=reader.auth)
            assert (400, {"where"}) == (twice.status, set(twice.body["fields"]))
            assert [] == account.asked

    run(main())


def test_what_the_provider_refuses(run: Run, open_api: Open) -> None:
    """403 and 404 stay what they are, a pause is 503 with its length, all else 502; the provider is quoted."""

    async def main() -> None:
        account = Account([])
        async with open_api() as api, reading(api, account) as reader:
            for status, pause, answered in (
                *((400, None, 502), (401, None, 502), (403, None, 403), (404, None, 404)),
                *((409, None, 502), (429, "7", 503), (500, None, 502), (503, "7", 503)),
            ):
                headers = {"Retry-After": pause} if pause else {}
                response = web.Response(status=status, text="the books are closed", headers=headers)
                account.answer = lambda request, response=response: response
                answer = await reader.get("/hubs/general/accounts")
                assert (status, answered) == (status, answer.status)
                assert "the books are closed" in answer.body["providerMessage"]
                assert pause == answer.headers.get("Retry-After")
            account.answer = lambda request: web.Response(text="<html>")
            assert 502 == (await reader.get("/hubs/general/accounts")).status

    run(main())


def test_a_provider_that_hangs_is_given_up(
    run: Run, open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that takes longer than the limit is 502, and its turn is free again."""
    monkeypatch.setattr(hubs, "LIMIT", 0.2)

    async def main() -> None:
        account = Account(things(1))

        async def hang(request: web.Request) -> web.Response:
            await asyncio.Event().wait()
            return web.Response()

        account.answer = hang
        async with open_api() as api, reading(api, account) as reader:
            for _ in range(2):
                answer = await reader.get("/hubs/general/slow")
                assert (502, True) == (answer.status, "0.2 s" in answer.body["message"])
            monkeypatch.setattr(hubs, "LIMIT", 20)
            assert 200 == (await reader.get("/hubs/general/things")).status

    run(main())


def test_those_who_read_at_once_are_bounded(
    run: Run, open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request more for an account than may be under way is 429 with Retry-After; afterwards there is room again."""
    monkeypatch.setattr(readings, "READERS_OF_ONE", 2)

    async def main() -> None:
        account = Account([])
        go_on, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def slow(request: web.Request) -> web.Response:
            begun.release()
            await go_on.wait()
            return web.json_response([])

        account.answer = slow
        async with open_api() as api, reading(api, account) as reader:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(reader.get("/hubs/general/slow")) for _ in range(2)]
                for _ in asked:
                    await begun.acquire()
                answer = await reader.get("/hubs/general/slow")
                assert (429, "5") == (answer.status, answer.headers["Retry-After"])
                go_on.set()
            assert [200, 200] == [one.result().status for one in asked]
            assert 200 == (await reader.get("/hubs/general/slow")).status

    run(main())


def test_all_readers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many accounts are read, no more requests read at once than there is room for."""
    monkeypatch.setattr(readings, "READERS", 3)
    turns = Readings()
    with ExitStack() as stack:
        for instance in range(3):
            stack.enter_context(turns.turn(instance))
        with pytest.raises(TooManyWaiting), turns.turn(9):
            pass
    with turns.turn(9):
        pass
