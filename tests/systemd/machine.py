"""A throw-away machine with a real systemd: this machine's files, in namespaces of their own.

The root is an overlay in memory, so nothing that is installed or written inside outlives the machine; the
network is private, with a loopback, so a port inside is no port outside.  Needs root, Debian's systemd and
util-linux, and a kernel that lets root make namespaces and overlays.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
BOOT = Path(__file__).with_name("boot.sh")
NAMESPACES = ("--pid", "--mount", "--uts", "--ipc", "--cgroup", "--net")


class MachineError(AssertionError):
    """A command in the machine failed, or the machine did not start; the message holds what it said."""


class Machine:
    """A running systemd; *share* is a folder that is /mnt inside."""

    def __init__(self, pid: int, share: Path) -> None:
        self._pid = pid
        self.share = share

    def run(
        self, *command: str, check: bool = True, limit: float = 60, online: bool = False
    ) -> str:
        """Run *command* inside as root; return what it printed.

        Raise `MachineError` if it fails and *check* is true, or if it takes longer than *limit* seconds.
        *online*: with the network of this machine instead of the private one, for pip.
        """
        spaces = ("-p", "-m", "-u", "-i", "-C", *(() if online else ("-n",)))
        enter = ("nsenter", "-t", str(self._pid), *spaces, "--wdns=/", "--", *command)
        try:
            done = subprocess.run(
                enter,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MachineError(
                f"{' '.join(command)}: took longer than {limit} s: {error.output}"
            ) from None
        if check and done.returncode != 0:
            raise MachineError(f"{' '.join(command)}: status {done.returncode}:\n{done.stdout}")
        return done.stdout.strip()

    def property(self, unit: str, name: str) -> str:
        """Return a property of *unit* as systemd knows it."""
        return self.run("systemctl", "show", "--value", "--property", name, unit)

    def wait(self, unit: str, name: str, *values: str, limit: float = 60) -> str:
        """Return the property's value as soon as it is one of *values*; fail after *limit* seconds."""
        deadline = time.monotonic() + limit
        while (value := self.property(unit, name)) not in values:
            if time.monotonic() > deadline:
                raise MachineError(
                    f"{unit}: {name} is {value}, not {values}:\n{self.journal(unit)}"
                )
            time.sleep(0.1)  # systemd's own state is asked for: there is nothing here to wait on
        return value

    def journal(self, unit: str) -> str:
        """Return the last lines that *unit* and systemd wrote about it."""
        return self.run(
            "journalctl", "--no-pager", "-o", "cat", "-n", "60", "-u", unit, check=False
        )


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """Boot a machine; it is gone at the end, with all its processes and files."""
    lab = Path(tempfile.mkdtemp(prefix="tidings-machine-", dir="/var/tmp"))
    for name in ("memory", "root", "share"):
        (lab / name).mkdir()
    (lab / "share").chmod(0o755)
    log = lab / "log"
    unshare = ("unshare", "--fork", "--kill-child", *NAMESPACES, "sh", str(BOOT), str(lab))
    with (
        log.open("wb") as output,
        subprocess.Popen(unshare, stdout=output, stderr=output, cwd="/") as outer,
    ):
        try:
            yield Machine(_booted(outer, log), lab / "share")
        finally:
            outer.kill()  # --kill-child: systemd goes with it, and with PID 1 everything in its namespace
            outer.wait()
            shutil.rmtree(lab, ignore_errors=True)


def _booted(outer: subprocess.Popen[bytes], log: Path, limit: float = 60) -> int:
    """Return the PID of the systemd under *outer*, once it has started its units."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    deadline = time.monotonic() + limit
    while outer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)  # the shell becomes systemd when it does
        for pid in children.read_text().split():
            if b"systemd" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                continue
            state = subprocess.run(
                ["nsenter", "-t", pid, "-a", "--wdns=/", "systemctl", "is-system-running"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
            if state in {"running", "degraded"}:
                return int(pid)
    raise MachineError(f"systemd did not start:\n{log.read_text(errors='replace')[-4000:]}")


def missing() -> str:
    """Return what this machine lacks for a machine inside it, or an empty text."""
    if os.geteuid() != 0:
        return "root"
    if not SYSTEMD.exists():
        return "systemd (Debian: apt-get install systemd)"
    for program in ("unshare", "nsenter", "pivot_root", "ip"):
        if shutil.which(program) is None:
            return program
    return ""
