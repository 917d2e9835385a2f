"""Runs the daemon with a clock that can be set, or with one of its mechanisms switched off.

    python -m faults.launcher [--clock FILE] [--without MECHANISM]

FILE holds eight bytes, a double: the seconds by which the clock is wrong.  What measures durations (the
monotonic clock) stays right, as on a machine whose time is set.
"""

import argparse
import datetime as dt
import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Any

from faults.switches import SWITCHES


def wrong_clock(path: Path) -> None:
    """Make `time.time`, `time.time_ns` and `datetime.now` wrong by what *path* holds, for the modules of the daemon."""
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    right, right_ns, real = time.time, time.time_ns, dt.datetime

    def offset() -> float:
        return float(struct.unpack_from("d", shared)[0])

    # Before the daemon is imported: it takes `time.time` as a default argument.
    time.time = lambda: right() + offset()
    time.time_ns = lambda: right_ns() + int(offset() * 1e9)

    class Here(type):
        """Stands for `datetime` in a module: all of it, with another `now`."""

        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

        def __call__(cls, *args: Any, **named: Any) -> Any:
            return real(*args, **named)

        def __getattr__(cls, name: str) -> Any:
            return getattr(real, name)

    class Wrong(metaclass=Here):
        @staticmethod
        def now(tz: dt.tzinfo | None = None) -> dt.datetime:
            return real.now(tz) + dt.timedelta(seconds=offset())

    import daemon.cli  # noqa: F401 — so that all its modules are there

    for name, module in list(sys.modules.items()):
        if name.startswith("daemon") and getattr(module, "datetime", None) is real:
            module.datetime = Wrong  # type: ignore[attr-defined]  # it has one


def main() -> None:
    """Run `tidings run`, changed as asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--without", choices=sorted(SWITCHES))
    chosen = parser.parse_args()
    if chosen.clock is not None:
        wrong_clock(chosen.clock)
    if chosen.without is not None:
        SWITCHES[chosen.without].off()
    from daemon.cli import main as tidings

    sys.argv = ["tidings", "run"]
    tidings()


if __name__ == "__main__":
    main()
