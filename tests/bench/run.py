"""`make bench`: what this machine does, each figure beside its ceiling in the same run.

    ingest      webhooks accepted a second (signed, durable) : a bare aiohttp handler
    delivery    notifications delivered a second from a backlog over 100 callbacks : a bare aiohttp client loop
    steady      statements of the daemon per delivered notification, at 500 a second that another process appends
    start       seconds from the start of the process to the first delivery, with the backlog waiting
    memory      of the daemon with 1,000 idle pollers

The daemon is the real one, in a process of its own, on the embedded PostgreSQL with fsync on.  Ceilings are
measured before and after what they are compared with; the ratio is to their mean.
"""

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from journey.running import Api, Daemon, add_user  # noqa: E402 — after the path is set

from daemon.model import Change, ChangeType  # noqa: E402 — likewise
from daemon.store import database, embedded, vault  # noqa: E402 — likewise
from daemon.store.writer import Intake, Unit, Writer, append_once  # noqa: E402 — likewise

SECRET = "what the workshop signs with"
CALLBACKS = 100
FIGURES = ("ingest", "steady", "delivery", "memory")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def script(name: str, *arguments: object) -> str:
    """Run one of this folder's scripts to its end; what it prints."""
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@asynccontextmanager
async def serving(name: str, *arguments: str) -> AsyncGenerator[str]:
    """One of this folder's servers, in a process of its own; its origin."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / name), *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


async def count(receiver: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{receiver}/count") as answer:
        return int(await answer.text())


async def until(receiver: str, number: int, limit: float) -> list[tuple[float, int]]:
    """Wait until the receiver has *number*; (moment, count) as it was seen."""
    seen: list[tuple[float, int]] = []
    deadline = time.perf_counter() + limit
    while not seen or seen[-1][1] < number:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"the receiver has {seen[-1][1]} of {number}")
        await asyncio.sleep(0.02)
        seen.append((time.perf_counter(), await count(receiver)))
    return seen


async def bench(scale: float, only: frozenset[str]) -> dict[str, Any]:
    """The figures of *only*."""
    found: dict[str, Any] = {"machine": {"cores": os.cpu_count()}}
    directory = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    async with (
        embedded.embedded_postgres(directory / "postgres") as dsn,
        serving("receiver.py") as receiver,
    ):
        await database.install(dsn)
        # With a path of its own it is started whole, not forked as tests do: its start is measured.
        daemon = Daemon(
            dsn,
            directory,
            PYTHONPATH=str(HERE.parents[1]),
            TIDINGS_POLLING_JITTER="0",
            TIDINGS_LOG_LEVEL="warning",
        )
        try:
            await start(daemon)
            api = Api(daemon, await add_user(dsn, directory))
            made = [
                await api.create("workshop", configuration(f"{receiver}/cb/{n}"))
                for n in range(CALLBACKS)
            ]
            ids = [m["id"] for m in made]
            if "ingest" in only:
                found["ingest"] = await ingest(daemon, ids[0], receiver, int(20_000 * scale))
            if "steady" in only:
                found["steady"] = await steady(
                    dsn, directory, ids=ids, receiver=receiver, seconds=10 * scale
                )
            if "delivery" in only:
                await daemon.stop()
                found["delivery"] = await delivery(
                    daemon,
                    dsn,
                    directory,
                    ids=ids,
                    receiver=receiver,
                    number=int(50_000 * scale),
                )
            if "memory" in only:
                found["memory"] = await memory(daemon, api, int(1000 * scale))
        finally:
            await daemon.kill()
    return found


async def start(daemon: Daemon) -> None:
    """Start, though nothing below a warning is logged: it answers when it is ready."""
    daemon.settings["TIDINGS_LOG_LEVEL"] = "info"
    await daemon.start()


def configuration(callback: str, **more: str) -> dict[str, str]:
    return {
        "api.key": "none",
        "signature.secret": SECRET,
        "event.vendor.type": "webhooks",
        "event.notification.enabled": "true",
        "event.notification.callback.url": callback,
        "event.notification.signature.key": "what the callback verifies with",
        **more,
    }


async def ingest(daemon: Daemon, instance_id: int, receiver: str, number: int) -> dict[str, Any]:
    """Webhooks a second: signed, verified, committed with fsync, then answered."""
    say(f"ingest: {number} webhooks, 64 connections")
    before = await count(receiver)
    async with serving("bare.py", "serve") as bare:

        async def load(url: str) -> dict[str, Any]:
            return json.loads(await asyncio.to_thread(script, "load.py", url, number, 64, SECRET))  # type: ignore[no-any-return]  # our own script's

        first = await load(f"{bare}/x")
        mine = await load(f"{daemon.origin}/events/workshop/{instance_id}")
        second = await load(f"{bare}/x")
    if mine["statuses"] != {"200": number}:
        raise AssertionError(mine)
    await until(receiver, before + number, 120)
    ceiling = (first["per_second"] + second["per_second"]) / 2
    return {**mine, "ceiling": ceiling, "ratio": mine["per_second"] / ceiling}


async def steady(
    dsn: str, directory: Path, *, ids: Sequence[int], receiver: str, seconds: float
) -> dict[str, Any]:
    """Statements of the daemon per notification that it delivers at 500 a second, as PostgreSQL logs them.

    Another process appends, five at a time; what that costs is not counted.
    """
    rate, at_once = 500, 5
    number = int(rate * seconds) // at_once * at_once
    say(f"steady: {rate} notifications a second for {seconds:.0f} s")
    keys, before = vault.load_keys(directory / "vault.key", create=False), await count(receiver)
    conn = await database.connect(dsn)
    owner = await asyncpg.connect(dsn)
    await owner.execute("ALTER SYSTEM SET log_statement = 'all'")
    await owner.execute("SELECT pg_reload_conf()")
    log = Path(dsn.partition("host=")[2]) / "log"
    await asyncio.sleep(0.5)
    at = log.stat().st_size
    began = time.perf_counter()
    for n in range(0, number, at_once):
        await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
        now = datetime.now(UTC)
        intakes = [
            Intake(ids[k % len(ids)], [change(f"steady{k}")], polled=now)
            for k in range(n, n + at_once)
        ]
        await append_once(conn, keys, Unit(intakes=intakes))
    took = time.perf_counter() - began
    await until(receiver, before + number, 30)
    await asyncio.sleep(0.5)
    ours = {f"[{conn.get_server_pid()}]", f"[{owner.get_server_pid()}]"}
    lines = log.read_bytes()[at:].decode("utf-8", "replace").splitlines()
    statements = [
        line
        for line in lines
        if ("LOG:  execute " in line or "LOG:  statement: " in line)
        and not any(pid in line for pid in ours)
    ]
    await owner.execute("ALTER SYSTEM RESET log_statement")
    await owner.execute("SELECT pg_reload_conf()")
    await owner.close()
    await conn.close()
    return {"rate": number / took, "per_notification": len(statements) / number}


def change(name: str) -> Change:
    """A change that nobody has seen."""
    mark = blake2b(name.encode(), digest_size=16).digest()
    record = json.dumps({"id": name, "title": "x" * 300}).encode()
    return Change("orders", name, ChangeType.CREATED, None, mark, record)


async def delivery(
    daemon: Daemon, dsn: str, directory: Path, *, ids: Sequence[int], receiver: str, number: int
) -> dict[str, Any]:
    """Notifications a second from a backlog, and the time from start to the first."""
    say(f"delivery: a backlog of {number} over {len(ids)} callbacks")
    writer = Writer(dsn=dsn, keys=vault.load_keys(directory / "vault.key", create=False))
    await writer.open()
    writing = asyncio.create_task(writer.run())
    run = secrets.token_hex(4)
    now = datetime.now(UTC)
    for at in range(0, number, 500):
        some = range(at, min(at + 500, number))
        await writer.append(
            Unit(
                intakes=[Intake(ids[n % len(ids)], [change(f"{run}{n}")], polled=now) for n in some]
            )
        )
    writing.cancel()
    await asyncio.wait([writing])
    before = await count(receiver)
    posts = max(number // 4, 1000)
    first = float(await asyncio.to_thread(script, "bare.py", "post", receiver, posts))
    began, base = time.perf_counter(), before + posts
    watching = asyncio.create_task(until(receiver, base + number, 300))
    await daemon.start()
    seen = await watching
    to_first = next(moment for moment, n in seen if n > base) - began
    start_at, at_start = next((moment, n) for moment, n in seen if n > base)
    per_second = (base + number - at_start) / (seen[-1][0] - start_at)
    second = float(await asyncio.to_thread(script, "bare.py", "post", receiver, posts))
    ceiling = (first + second) / 2
    return {
        "per_second": per_second,
        "ceiling": ceiling,
        "ratio": per_second / ceiling,
        "start_to_first": to_first,
    }


async def memory(daemon: Daemon, api: Api, number: int) -> dict[str, Any]:
    """Resident memory with *number* idle pollers."""
    say(f"memory: {number} idle pollers")
    before = resident(daemon.pid)
    polled = {
        "event.vendor.type": "polling",
        "event.poller.refresh_interval": "999999",
        "base.url": "http://127.0.0.1:9/v1",
    }
    limit = asyncio.Semaphore(16)

    async def one(n: int) -> None:
        async with limit:
            await api.create(
                "workshop", configuration("http://127.0.0.1:9/", **polled), tags=[str(n)]
            )

    async with asyncio.TaskGroup() as group:
        for n in range(number):
            group.create_task(one(n))
    await asyncio.sleep(5)
    after = resident(daemon.pid)
    return {
        "before_mib": before,
        "after_mib": after,
        "per_poller_kib": (after - before) * 1024 / number,
    }


def resident(pid: int) -> float:
    """MiB."""
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="how long it takes, relative to the usual"
    )
    parser.add_argument(
        "--only", choices=FIGURES, action="append", help="one figure; may be given again"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    arguments = parser.parse_args()
    found = asyncio.run(bench(arguments.scale, frozenset(arguments.only or FIGURES)))
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for figure in FIGURES:
        if figure in found:
            sys.stdout.write(LINES[figure].format(**found[figure]))


LINES = {
    "ingest": "ingest    {per_second:8,.0f} webhooks/s       {ratio:.2f} of a bare aiohttp handler ({ceiling:,.0f}/s); "
    "p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms\n",
    "steady": "steady    {per_notification:8.2f} statements of the daemon per delivered notification at {rate:.0f} a second\n",
    "delivery": "delivery  {per_second:8,.0f} notifications/s  {ratio:.2f} of a bare aiohttp client loop ({ceiling:,.0f}/s)\n"
    "start     {start_to_first:8.2f} s from the process to the first delivery\n",
    "memory": "memory    {after_mib:8.0f} MiB with {per_poller_kib:.0f} KiB for each idle poller\n",
}


if __name__ == "__main__":
    main()
