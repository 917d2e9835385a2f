"""`tidings replay` and `tidings deliveries` as processes of their own, beside a daemon that runs."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import processes
from journey.running import KEY, PATIENCE, Api, Daemon, Receiver, add_user, receiving, running

Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def tidings(daemon: Daemon, *arguments: object) -> str:
    """What `tidings` beside *daemon* printed; it must end with 0."""
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith("TIDINGS_")},
        "TIDINGS_DATABASE_DSN": daemon.dsn,
        "TIDINGS_STATE_DIRECTORY": str(daemon.directory),
        "TIDINGS_OUTBOUND_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    process = await processes.tidings([*map(str, arguments)], environ, errors_apart=True)
    out, err = await process.communicate()
    assert 0 == process.returncode, err.decode()
    return out.decode()


async def instance(daemon: Daemon, receiver: Receiver) -> tuple[Api, int]:
    """Somebody with an instance whose notifications go to *receiver*."""
    api = Api(daemon, await add_user(daemon.dsn, daemon.directory))
    settings = {
        "api.key": "workshop-key",
        "event.vendor.type": "webhooks",
        "event.notification.enabled": True,
        "event.notification.callback.url": receiver.url,
        "event.notification.signature.key": KEY,
    }
    return api, (await api.create("workshop", settings))["id"]


async def tell(api: Api, instance_id: int) -> tuple[str, int, tuple[str, str, str]]:
    """Append a test event: its id, its position, and what a receiver hears of it."""
    status, event = await api.call("POST", f"/instances/{instance_id}/events/test")
    assert 200 == status, event
    raw = json.loads(event["providerData"])
    return event["id"], event["position"], ("UNKNOWN", "test", raw["id"])


async def until_deliveries(api: Api, instance_id: int, wanted: list[tuple[str, str]]) -> None:
    """Wait until what is not delivered is *wanted*: event ids and their statuses."""
    found: list[tuple[str, str]] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                _, listed = await api.call("GET", f"/instances/{instance_id}/deliveries")
                found = [(one["eventId"], one["status"]) for one in listed]
                if found == wanted:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never so: {wanted}; it is {found}") from None


def test_a_replay_reaches_another_receiver(dsn: str, tmp_path: Path, run: Run) -> None:
    """`replay --to` ends when the daemon has sent the chosen ones there, with their ids; the first receiver hears nothing."""

    async def journey() -> None:
        async with (
            receiving() as first,
            receiving() as second,
            running(dsn, tmp_path) as daemon,
        ):
            api, mine = await instance(daemon, first)
            told = [await tell(api, mine) for _ in range(3)]
            await first.until(*(heard for _, _, heard in told))
            (_, since, _), (_, until, _) = told[1:]

            asked = ("--instance", mine, "--since", since, "--until", until, "--to", second.url)
            result = json.loads(await tidings(daemon, "replay", *asked, "--json"))
            assert "finished" == result["state"]
            # Three objects: none has to wait for another, so there is no order among them.
            assert sorted(event for event, _, _ in told[1:]) == sorted(second.ids)
            assert sorted(heard for _, _, heard in told[1:]) == sorted(second.events)
            assert 3 == len(first.ids)
            assert [] == first.faults + first.repeats + second.faults + second.repeats
            assert [2] == [one["notifications"] for one in result["replays"]]

    run(journey())


def test_a_dead_letter_is_found_and_sent_again(dsn: str, tmp_path: Path, run: Run) -> None:
    """`deliveries list` tells of what was given up; `retry --all` has the daemon send it, and then there is nothing."""

    async def journey() -> None:
        async with (
            receiving() as receiver,
            running(dsn, tmp_path, TIDINGS_DELIVERY_RETRIES="1s") as daemon,
        ):
            receiver.status = lambda: 500
            api, mine = await instance(daemon, receiver)
            event, position, heard = await tell(api, mine)
            await until_deliveries(api, mine, [(event, "dead")])
            listed = await tidings(daemon, "deliveries", "list", "--instance", mine, "--json")
            assert [(position, "dead", 2, 500)] == [
                (one["notification"], one["state"], one["attempts"], one["status"])
                for one in json.loads(listed)
            ]
            assert [] == receiver.received

            receiver.status = lambda: 200
            said = await tidings(daemon, "deliveries", "retry", mine, "--all")
            assert "1" in said
            await receiver.until(heard)
            await until_deliveries(api, mine, [])
            assert [event] == receiver.ids
            assert [] == receiver.faults

    run(journey())
