"""Events pulled by position, long polls, and the test event."""

import asyncio

import orjson
import pytest
from api.running import Answer, Api, Open, Run
from api.test_api_events import ON, changes

from daemon.api import arrivals

CRM = {"element": {"key": "crmlike"}, "configuration": ON}


async def waiting(api: Api, number: int) -> None:
    """Return when *number* requests wait."""
    async with asyncio.timeout(10):
        while len(api.context.arrivals._waiting) != number:  # noqa: ASYNC110 — nobody is told that a request waits
            await asyncio.sleep(0.005)


def names(answer: Answer) -> list[str]:
    """The objects that the events of *answer* are about."""
    return [
        record["id"]
        for event in answer.body
        for record in orjson.loads(event["providerData"])["accounts"]
    ]


def test_a_consumer_that_keeps_its_own_cursor_sees_each_event_once(
    run: Run, open_api: Open
) -> None:
    """Pages after a position have every event once, in log order, whole, whatever comes meanwhile."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(**CRM)
            other = await api.create(**CRM)
            for name in "abcde":
                await changes(api, made["id"], name, f"{name}2", f"{name}3")
                await changes(api, other["id"], f"not {name}")
            seen: list[str] = []
            after = "0"
            while True:
                path = f"/instances/{made['id']}/events?after={after}&limit=2"
                answer = await api.call("GET", path)
                if not answer.body:
                    break
                seen += names(answer)
                after = answer.headers["Elements-Next-Position"]
                assert int(after) == answer.body[-1]["position"]
                if len(seen) == 6:
                    await changes(api, made["id"], "late")
            assert after == answer.headers["Elements-Next-Position"]
            assert [f"{name}{n}" for name in "abcde" for n in ("", "2", "3")] + ["late"] == seen

    run(main())


def test_a_long_poll_ends_as_soon_as_there_is_something(run: Run, open_api: Open) -> None:
    """It answers when its own instance has an event; another's wakes nobody; no connection is held meanwhile."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(**CRM)
            other = await api.create(**CRM)
            path = f"/instances/{made['id']}/events?after=0&wait=20"
            polls = [asyncio.create_task(api.call("GET", path)) for _ in range(8)]
            await waiting(api, 8)
            await changes(api, other["id"], "not yours")
            # The pool has four connections: eight requests that held one each would leave none.
            assert 200 == (await api.call("GET", "/instances")).status
            await waiting(api, 8)
            await changes(api, made["id"], "a")
            async with asyncio.timeout(5):
                assert [["a"]] * 8 == [names(answer) for answer in await asyncio.gather(*polls)]
            await waiting(api, 0)

    run(main())


def test_a_long_poll_without_events_is_an_empty_list(run: Run, open_api: Open) -> None:
    """After its seconds the answer is an empty list, and the position to ask after is the same."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(**CRM)
            answer = await api.call("GET", f"/instances/{made['id']}/events?after=7&wait=1")
            assert ([], "7") == (answer.body, answer.headers["Elements-Next-Position"])

    run(main())


def test_those_who_wait_are_bounded(run: Run, open_api: Open) -> None:
    """One more than may wait is 429 with Retry-After; when the server stops, those who wait are let go."""

    async def main() -> None:
        async with open_api(stop_grace=20.0) as api:
            made = await api.create(**CRM)
            path = f"/instances/{made['id']}/events?after=0&wait=60"
            most = arrivals.MOST_OF_ONE
            polls = [asyncio.create_task(api.call("GET", path)) for _ in range(most)]
            await waiting(api, most)
            refused = await api.call("GET", path)
            assert (429, "5") == (refused.status, refused.headers["Retry-After"])
            assert 200 == (await api.call("GET", path.removesuffix("&wait=60"))).status
            api.context.arrivals.close()
            async with asyncio.timeout(5):
                assert [[]] * most == [answer.body for answer in await asyncio.gather(*polls)]

    run(main())


def test_a_database_that_is_away_is_told_to_those_who_wait(run: Run, open_api: Open) -> None:
    """When the log cannot be asked, a long poll ends with 503 and not as if there were nothing."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(**CRM)
            path = f"/instances/{made['id']}/events?after=0&wait=20"
            poll = asyncio.create_task(api.call("GET", path))
            await waiting(api, 1)
            api.context.pool.terminate()
            api.context.arrivals.look()
            async with asyncio.timeout(5):
                assert 503 == (await poll).status

    run(main())


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=x", "after"),
        ("after=-1", "after"),
        ("after=0&limit=0", "limit"),
        ("after=0&limit=201", "limit"),
        ("after=0&wait=61", "wait"),
        ("wait=5", "wait"),
        ("limit=5", "limit"),
    ],
)
def test_what_cannot_be_pulled_is_named(run: Run, open_api: Open, query: str, field: str) -> None:
    """A bad after, limit or wait is 400 under its name; limit and wait without after too."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(**CRM)
            answer = await api.call("GET", f"/instances/{made['id']}/events?{query}")
            assert (400, [field]) == (answer.status, list(answer.body["fields"]))

    run(main())


def test_a_test_event_goes_through_the_log(run: Run, open_api: Open) -> None:
    """A test event is a change UNKNOWN of a `test`, new each time, stored and pulled as any other."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(**CRM)
            path = f"/instances/{made['id']}/events"
            sent = [(await api.call("POST", f"{path}/test")).body for _ in range(2)]
            assert sent == (await api.call("GET", f"{path}?after=0")).body
            assert sent[0]["id"] != sent[1]["id"]
            raw = orjson.loads(sent[0]["providerData"])
            assert raw["test"]
            async with api.context.pool.acquire() as conn:
                row = await conn.fetchrow(
                    "SELECT * FROM log WHERE position = $1", sent[0]["position"]
                )
            assert ("change", "test", raw["id"], "UNKNOWN") == (
                *(row["kind"], row["object_type"], row["object_id"], row["change"]),
            )
            await api.customer("second")
            stranger = api.customers[1].whole
            assert 404 == (await api.call("POST", f"{path}/test", auth=stranger)).status

    run(main())
