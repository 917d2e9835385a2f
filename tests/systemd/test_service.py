"""The wheel, installed as docs/operations.md says, under a real systemd: started, killed, stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need
from systemd.delivery import prove_delivery
from systemd.machine import Machine, machine, missing

ROOT = Path(__file__).parents[2]
UNIT = "tidings.service"
HEALTH = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/health', timeout=10).status)"


@pytest.mark.early(50)
def test_the_life_of_the_service() -> None:
    """The service becomes ready, comes back after kill -9 and after hanging, and stops in order."""
    need(not missing(), missing())
    need(
        Path("/usr/bin/python3").exists()
        and subprocess.run(
            [
                "/usr/bin/python3",
                "-c",
                "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))",
            ],
            capture_output=True,
            check=False,
        ).returncode
        == 0,
        "Debian's Python 3.11 with venv, for users other than root",
    )
    with machine() as inside:
        install(inside)

        started(inside)
        hardened(inside)
        prove_delivery(inside, "before")
        killed(inside)
        prove_delivery(inside, "after kill -9")
        hung(inside)
        stopped(inside)
        key_from_credential(inside)
        misconfigured(inside)


def install(inside: Machine) -> None:
    """Do what docs/operations.md says, with this checkout's wheel and the versions of constraints.txt."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(inside.share),
        str(ROOT),
    ]
    subprocess.run(build, check=True, timeout=180)
    (wheel,) = inside.share.glob("tidings-*.whl")
    (inside.share / "constraints.txt").write_bytes((ROOT / "constraints.txt").read_bytes())
    pip = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "SSL_")) or "proxy" in name
    }
    pip["PIP_CONSTRAINT"] = "/mnt/constraints.txt"

    inside.run(
        *("useradd", "--system", "--user-group", "--home-dir", "/var/lib/tidings"),
        *("--shell", "/usr/sbin/nologin", "tidings"),
    )
    inside.run("/usr/bin/python3", "-m", "venv", "/opt/tidings")
    environ = (f"{name}={value}" for name, value in pip.items())
    install = ("/opt/tidings/bin/pip", "install", "-q", f"/mnt/{wheel.name}")
    inside.run("env", *environ, *install, limit=300, online=True)
    packaged = "$(/opt/tidings/bin/python -c 'import daemon; print(daemon.__path__[0])')"
    inside.run(
        *("sh", "-euc"),
        f"mkdir /etc/tidings; cp {packaged}/config.example.toml /etc/tidings/config.toml;"
        f"cp {packaged}/tidings.service /etc/systemd/system/;"
        # The callback of this test is on the loopback, which an operator must allow.
        "mkdir /etc/systemd/system/tidings.service.d;"
        "printf '[Service]\\nEnvironment=TIDINGS_OUTBOUND_ALLOW_NETWORKS=127.0.0.0/8\\n'"
        " >/etc/systemd/system/tidings.service.d/loopback.conf;"
        "systemctl daemon-reload",
    )


def started(inside: Machine) -> None:
    """`systemctl start` returns when the daemon answers: not as root, with its state where it belongs."""
    inside.run("systemctl", "start", UNIT, check=False, limit=120)

    assert "active" == inside.property(UNIT, "ActiveState"), inside.journal(UNIT)
    assert "200" == healthy(inside)
    user = inside.run("stat", "-c", "%U", f"/proc/{inside.property(UNIT, 'MainPID')}")
    assert "tidings" == user
    assert "700 tidings" == inside.run("stat", "-c", "%a %U", "/var/lib/tidings")
    assert "600 tidings" == inside.run("stat", "-c", "%a %U", "/var/lib/tidings/vault.key")


def hardened(inside: Machine) -> None:
    """systemd's own audit finds no error in the unit and calls its exposure low (10 is open, 0 is closed)."""
    assert "" == inside.run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")
    audit = inside.run("systemd-analyze", "security", "--no-pager", "--threshold=20", UNIT)
    assert "OK" in audit.splitlines()[-1], audit


def killed(inside: Machine) -> None:
    """After kill -9 of the main process another is ready, and nothing of the old one is left."""
    before = inside.property(UNIT, "MainPID")
    restarts = int(inside.property(UNIT, "NRestarts"))
    inside.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)

    inside.wait(UNIT, "NRestarts", str(restarts + 1))
    inside.wait(UNIT, "ActiveState", "active", limit=120)
    assert before != inside.property(UNIT, "MainPID")
    assert "200" == healthy(inside)


def hung(inside: Machine) -> None:
    """A process that does not beat is killed by the watchdog and replaced."""
    inside.run(
        *("sh", "-euc"),
        f"mkdir -p /run/systemd/system/{UNIT}.d;"
        f"printf '[Service]\\nWatchdogSec=3s\\n' >/run/systemd/system/{UNIT}.d/test.conf;"
        f"systemctl daemon-reload; systemctl restart {UNIT}",
        limit=120,
    )
    restarts = int(inside.property(UNIT, "NRestarts"))
    inside.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)

    inside.wait(UNIT, "NRestarts", str(restarts + 1))
    inside.wait(UNIT, "ActiveState", "active", limit=120)
    assert "Watchdog timeout" in inside.journal(UNIT)
    assert "200" == healthy(inside)


def stopped(inside: Machine) -> None:
    """`systemctl stop` ends the daemon with status 0 and its PostgreSQL in order, even after a kill."""
    inside.run("systemctl", "stop", UNIT)

    assert "inactive" == inside.property(UNIT, "ActiveState"), inside.journal(UNIT)
    assert "success" == inside.property(UNIT, "Result")
    assert "0" == inside.property(UNIT, "ExecMainStatus")
    # A PostgreSQL that was killed leaves it.
    assert "" == inside.run("find", "/var/lib/tidings", "-name", "postmaster.pid"), inside.journal(
        UNIT
    )


def key_from_credential(inside: Machine) -> None:
    """With the vault's key in systemd's credential store the daemon uses that and makes no other."""
    inside.run(
        *("sh", "-euc"),
        "install -d -m 700 /etc/credstore; mv /var/lib/tidings/vault.key /etc/credstore/tidings.vault.key;"
        f"chown root:root /etc/credstore/tidings.vault.key; systemctl start {UNIT}",
        limit=120,
    )

    assert "200" == healthy(inside)
    assert "" == inside.run("find", "/var/lib/tidings", "-name", "vault.key")
    inside.run("systemctl", "stop", UNIT)


def misconfigured(inside: Machine) -> None:
    """A mistake in the configuration is named in the journal, and is not tried again and again."""
    inside.run("sh", "-euc", "printf '[server]\\nlisen = 1\\n' >/etc/tidings/config.toml")
    inside.run("systemctl", "start", UNIT, check=False)

    assert "failed" == inside.wait(UNIT, "ActiveState", "failed")
    assert "78" == inside.property(UNIT, "ExecMainStatus")
    assert "[server] has no key lisen; did you mean listen?" in inside.journal(UNIT)


def healthy(inside: Machine) -> str:
    """Return the status of GET /health."""
    return inside.run("/opt/tidings/bin/python", "-c", HEALTH)
