"""The protocol of sd_notify, against a real socket."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.systemd import ALIVE, READY, STOPPING, Watchdog, notify, status, watchdog_seconds


@contextlib.contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    """The receiving end that systemd has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        yield receiver


@pytest.mark.parametrize("abstract", [False, True])
def test_lines_arrive(tmp_path: Path, abstract: bool) -> None:  # noqa: FBT001 — a parameter of the case
    """One call is one datagram of lines, to a path or to an abstract address."""
    name = f"tidings-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with systemd(f"\0{name}" if abstract else name) as receiver:
        environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else name}

        assert notify(READY, status("polling\n3 instances"), environ=environ)
        assert b"READY=1\nSTATUS=polling 3 instances" == receiver.recv(1000)
        assert notify(STOPPING, environ=environ)
        assert b"STOPPING=1" == receiver.recv(1000)


def test_without_systemd_nothing_is_sent(tmp_path: Path) -> None:
    """No socket, a socket that is gone and one that is full give false, and no exception."""
    assert not notify(READY, environ={})
    assert not notify(READY, environ={"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with systemd(str(tmp_path / "full")):
        answers = [
            notify(ALIVE, environ={"NOTIFY_SOCKET": str(tmp_path / "full")}) for _ in range(2000)
        ]

    assert answers[0]
    assert not answers[-1]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_who_is_watched(environ: dict[str, str], seconds: float | None) -> None:
    """The limit is ours only when it is a number and names no other process."""
    assert seconds == watchdog_seconds(environ)


def test_a_beat_needs_a_ping(tmp_path: Path) -> None:
    """A ping that fails or hangs sends no beat and is survived; the next that succeeds sends one."""
    failures = iter([ValueError("no"), None, TimeoutError()])

    async def ping() -> None:
        match next(failures):
            case TimeoutError():
                await asyncio.Event().wait()
            case ValueError() as error:
                raise error

    async def main(environ: dict[str, str]) -> list[bool]:
        watchdog = Watchdog(ping, environ=environ)
        return [await watchdog.beat_once(0.02) for _ in range(3)]

    with systemd(str(tmp_path / "notify")) as receiver:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000"}

        assert [False, True, False] == asyncio.run(main(environ))
        assert b"WATCHDOG=1" == receiver.recv(1000)
        receiver.setblocking(False)  # noqa: FBT003 — the socket's own signature
        with pytest.raises(BlockingIOError):
            receiver.recv(1000)


def test_it_beats_three_times_in_the_limit(tmp_path: Path) -> None:
    """Beats come every third of the limit, counted from beat to beat, and end with the loop."""
    beats: list[float] = []

    async def main(environ: dict[str, str]) -> None:
        enough = asyncio.Event()

        async def ping() -> None:
            beats.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.02)  # a slow ping does not stretch the interval
            if len(beats) == 4:
                enough.set()

        task = asyncio.create_task(Watchdog(ping, environ=environ).run())
        await asyncio.wait_for(enough.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with systemd(str(tmp_path / "notify")):
        asyncio.run(main({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "150000"}))

    # The first three intervals, not one: a busy machine may delay a single one.
    assert pytest.approx(3 * 0.05, abs=0.04) == beats[3] - beats[0]


def test_unwatched_it_waits() -> None:
    """Without a watchdog the loop neither beats nor returns: a loop that returns is a fault."""

    async def ping() -> None:
        raise AssertionError

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Watchdog(ping, environ={}).run(), 0.05)

    asyncio.run(main())
