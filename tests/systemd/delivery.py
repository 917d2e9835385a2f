"""What the service is for, proven inside the machine: a change that goes in comes out at a callback, once."""

from systemd.machine import Machine


def prove_delivery(inside: Machine, name: str) -> None:
    """Make a change called *name* known to the running service and see it arrive at a receiver, once."""
