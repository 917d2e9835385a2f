"""What the service is for, proven inside the machine: a change that goes in comes out at a callback, once."""

from pathlib import Path

from systemd.machine import Machine


def prove_delivery(inside: Machine, name: str) -> None:
    """Make a change called *name* known to the running service and see it arrive at a receiver, once."""
    script = inside.share / "deliver.py"
    script.write_bytes(Path(__file__).with_name("deliver.py").read_bytes())
    inside.run("/opt/tidings/bin/python", "/mnt/deliver.py", name, limit=90)
