"""tidings as a contestant in a benchmark of job queues that deliver webhooks: one command, three phases.

The benchmark says by the environment what to do: `PHASE` (`prepare`: commit `N` notifications for the callbacks
`RECEIVER_URL/cb/0` … and print how long it took; `deliver`: be the daemon until SIGTERM; `trickle`: append `N`, one
transaction each, and print when), `DATABASE_URL`, `CALLBACKS`, `WEBHOOK_SECRET`, `INTERVAL_MS`, `STATE` (a folder for
the vault's key).  The deliverer is the daemon as it is installed, with its API and its pollers, signing twice.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from daemon.model import Change, ChangeType  # noqa: E402 — after the path is set
from daemon.store import accounts, database, instances, vault  # noqa: E402 — likewise
from daemon.store.log import SELF, Entry  # noqa: E402 — likewise
from daemon.store.writer import Intake, Unit, Writer, append_once  # noqa: E402 — likewise

N = int(os.environ.get("N", "0"))
CALLBACKS = int(os.environ.get("CALLBACKS", "100"))
BATCH = 500
DSN = os.environ.get("DATABASE_URL", "")
STATE = Path(os.environ.get("STATE", Path(tempfile.gettempdir()) / "tidings-contestant"))
KEY = STATE / "vault.key"
RECORD = {
    "type": "order.status_changed", "api_version": "2026-01", "livemode": True,
    "data": {"object": "order", "status": "shipped", "currency": "EUR", "amount": 12950, "note": "x" * 300},
}  # fmt: skip


def change(number: int) -> Change:
    """The change of one notification."""
    name = f"evt_{number}"
    mark = blake2b(name.encode(), digest_size=16).digest()
    data = json.dumps({"id": name, "seq": number, **RECORD}, separators=(",", ":")).encode()
    return Change("orders", name, ChangeType.CREATED, None, mark, data)


def instance(number: int) -> Unit:
    """An instance whose callback is the receiver's number *number*."""
    url = f"{os.environ['RECEIVER_URL']}/cb/{number}"
    entry = instances.entry(
        "instance.created",
        instance_id=SELF,
        organization_id=2,
        user_id=2,
        element_key="rest",
        hub="general",
        name=f"Shop {number}",
        tags=(),
        configuration={
            "event.notification.enabled": "true",
            "event.notification.callback.url": url,
            "event.notification.signature.key": "********",
            "event.vendor.type": "webhooks",
        },
        token_digest=instances.digest(instances.new_token()),
        disabled=False,
        callback=url,
        resources=(),
    )
    return Unit([entry], secrets={"event.notification.signature.key": os.environ["WEBHOOK_SECRET"]})


async def prepare() -> None:
    """The schema, the instances, and N changes in batches."""
    keys = vault.load_keys(KEY, create=True)
    await database.install(DSN)
    writer = Writer(dsn=DSN, keys=keys)
    await writer.open()
    writing = asyncio.create_task(writer.run())
    opened = Entry("log.opened", data='{"id":"01020304"}')
    await writer.append(Unit([opened, accounts.new_user("ann", "acme")[0]]))
    ids = [(await writer.append(instance(number))).position for number in range(CALLBACKS)]
    now = datetime.now(UTC)
    units = [
        Unit(
            intakes=[
                Intake(ids[n % CALLBACKS], [change(n)], polled=now)
                for n in range(at, min(at + BATCH, N))
            ]
        )
        for at in range(0, N, BATCH)
    ]
    began = time.monotonic()
    for unit in units:
        await writer.append(unit)
    say({"enqueued": N, "seconds": time.monotonic() - began})
    writing.cancel()
    await asyncio.wait({writing})


async def trickle() -> None:
    """N changes, one transaction each, at the interval; when each was called and committed."""
    keys = vault.load_keys(KEY, create=False)
    conn = await database.connect(DSN)
    ids = [row["id"] for row in await conn.fetch("SELECT id FROM instances ORDER BY id")]
    times: list[tuple[int, int]] = []
    due = time.monotonic() + 0.2
    for number in range(N):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        intake = Intake(ids[number % CALLBACKS], [change(number)], polled=datetime.now(UTC))
        called = time.monotonic_ns()
        await append_once(conn, keys, Unit(intakes=[intake]))
        times.append((called, time.monotonic_ns()))
        due += float(os.environ.get("INTERVAL_MS", "20")) / 1000
    say({"trickle": times})
    await conn.close()


def deliver() -> None:
    """Become the daemon."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")
    } | {
        "TIDINGS_DATABASE_DSN": DSN,
        "TIDINGS_SERVER_LISTEN": "127.0.0.1:0",
        "TIDINGS_STATE_DIRECTORY": str(STATE),
        "TIDINGS_VAULT_KEY_FILE": str(KEY),
        "TIDINGS_OUTBOUND_ALLOW_NETWORKS": "127.0.0.0/8",
        "TIDINGS_LOG_LEVEL": "warning",
    }
    os.chdir(Path(__file__).parents[2])
    os.execve(sys.executable, [sys.executable, "-m", "daemon", "run"], environment)  # noqa: S606 — our own program


def say(found: object) -> None:
    """One line for the benchmark."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


PHASES: dict[str, Callable[[], object]] = {
    "prepare": lambda: asyncio.run(prepare()),
    "trickle": lambda: asyncio.run(trickle()),
    "deliver": deliver,
}

PENDING = """
select count(*) from log join callbacks on callbacks.instance_id = log.instance_id
where kind = 'change' and position > cursor
"""
"""What counts the notifications that have no outcome in the log yet: for the benchmark's `pending`."""

if __name__ == "__main__":
    if sys.argv[1:] == ["--entry"]:
        command = [str(Path(sys.executable)), str(Path(__file__).resolve())]
        entry = {"name": "tidings", "command": command, "pending": " ".join(PENDING.split()), "n": 60_000}  # fmt: skip
        say([entry])
    else:
        PHASES[os.environ["PHASE"]]()
