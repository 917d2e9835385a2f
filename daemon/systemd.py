"""Tells systemd how the daemon is: the protocol of sd_notify(3), a datagram of lines `NAME=value`.

Without systemd (no NOTIFY_SOCKET) all of this does nothing, and says so by what it returns.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

import structlog

log = structlog.get_logger()

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def status(text: str) -> str:
    """Return the line that `systemctl status` shows as *text*."""
    return f"STATUS={' '.join(text.split())}"


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send *lines*; return whether systemd, or whoever started us, has them.

    Never blocks and never raises: a message that is lost shows as a start or a watchdog that times out.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux' abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(0)
        try:
            sender.connect(address)
            sender.send("\n".join(lines).encode())
        except OSError as error:
            log.warning("systemd was not notified", lines=lines, error=str(error))
            return False
    return True


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return after how many seconds without a beat systemd kills this process; None: it never does."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000


class Watchdog:
    """Beats as long as *ping* succeeds, three times in systemd's limit, so that one beat may fail."""

    def __init__(
        self, ping: Callable[[], Awaitable[None]], *, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._ping = ping
        self._environ = environ
        self._limit = watchdog_seconds(environ)

    async def run(self) -> None:
        """Beat until cancelled; without a watchdog just wait."""
        if self._limit is None:
            await asyncio.get_running_loop().create_future()
            return
        loop, interval = asyncio.get_running_loop(), self._limit / 3
        while True:
            began = loop.time()
            await self.beat_once(interval)
            await asyncio.sleep(max(0.0, began + interval - loop.time()))

    async def beat_once(self, within: float) -> bool:
        """Return whether systemd was told that all is well: *ping* succeeded *within* so many seconds."""
        try:
            async with asyncio.timeout(within):
                await self._ping()
        except Exception as error:  # noqa: BLE001 — whatever it is, systemd acts on the missing beat
            log.warning("watchdog ping failed", error=repr(error))
            return False
        return notify(ALIVE, environ=self._environ)
