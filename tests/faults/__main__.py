"""`python -m faults`, with `tests` on PYTHONPATH: the long form; see `docs/reliability.md`.

python -m faults --kills 200 --seed 7 --out build/faults.json
python -m faults --only kills --kills 20
python -m faults --without recovery
"""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop
from faults import report
from faults.catalogue import LONG, SCENARIOS, SHORT, SWITCHED, play
from faults.postgres import postgres
from faults.stage import SETTLED, Outcome, Size
from faults.switches import SWITCHES


async def run(
    chosen: argparse.Namespace, form: dict[str, int], names: Sequence[str], switches: Sequence[str]
) -> list[Outcome]:
    """Play the scenarios, then the switches, and give their outcomes."""
    outcomes: list[Outcome] = []
    began = time.monotonic()

    def say(text: str) -> None:
        _print(f"{time.monotonic() - began:7.1f} s  {text}")

    with tempfile.TemporaryDirectory(prefix="tidings-faults-") as directory:
        async with postgres() as server:
            for name in names:
                say(f"{name}: {SCENARIOS[name].__doc__}")
                one = await play(
                    name, server=server, directory=Path(directory), seed=chosen.seed, say=say,
                    faults=form[name], size=Size(rate=chosen.rate), patience=chosen.patience,
                )  # fmt: skip
                outcomes.append(one)
                _tell(one, form[name])
            for name in switches:
                switch = SWITCHES[name]
                say(f"without: {switch.mechanism}")
                one = await play(
                    switch.scenario, server=server, directory=Path(directory), seed=chosen.seed, say=say,
                    faults=SWITCHED[switch.scenario], size=Size(rate=chosen.rate), without=name,
                )  # fmt: skip
                outcomes.append(one)
                found = one.counts.get(switch.check, 0)
                say(
                    f"  {switch.check}: {found}"
                    + ("" if found else ", so the check proves nothing")
                )
    return outcomes


def main() -> int:
    """Parse, play, write; the exit status says whether everything was as it must be."""
    parser = argparse.ArgumentParser(
        prog="faults", description="Break tidings, and count what that does."
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--rate", type=float, default=Size().rate, help="changes a second")
    parser.add_argument(
        "--patience", type=float, default=SETTLED, help="seconds to wait for what is missing"
    )
    parser.add_argument("--short", action="store_true", help="as in CI")
    parser.add_argument(
        "--only", action="append", choices=sorted(SCENARIOS), help="may be repeated"
    )
    parser.add_argument(
        "--without", action="append", choices=sorted(SWITCHES), help="only this mechanism off"
    )
    parser.add_argument(
        "--no-switches", action="store_true", help="leave the runs without a mechanism out"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the JSON file; a whole long run writes docs/reliability.md as well",
    )
    for name in SCENARIOS:
        parser.add_argument(f"--{name}", type=int, help=SCENARIOS[name].__doc__)
    chosen = parser.parse_args()
    form = dict(SHORT if chosen.short else LONG)
    form |= {name: given for name in SCENARIOS if (given := getattr(chosen, name)) is not None}
    names = chosen.only or ([] if chosen.without else list(SCENARIOS))
    switches = chosen.without or ([] if chosen.no_switches or chosen.only else list(SWITCHES))
    _print(f"seed {chosen.seed}")
    outcomes = uvloop.run(run(chosen, form, names, switches))
    _print(report.table(outcomes))
    if off := report.switched_off(outcomes):
        _print(off)
    if chosen.out is not None:
        # The page shows whole long runs only.
        whole = not (chosen.only or chosen.without or chosen.no_switches or chosen.short)
        report.write(outcomes, form, chosen.out, report.DOCUMENT if whole else None)
    good = all(one.good if one.without is None else report.shown(one) for one in outcomes)
    return 0 if good else 1


def _tell(one: Outcome, faults: int) -> None:
    _print("\n".join(f"    {number:>8,}  {name}" for name, number in one.counts.items()))
    for name, examples in one.examples.items():
        _print(f"    {name}:\n" + "\n".join(f"      {line}" for line in examples))
    if not one.good:
        _print(f"    again: {again(one, faults)}")


def again(one: Outcome, faults: int) -> str:
    """The command that plays this scenario again."""
    name = next(name for name, play in SCENARIOS.items() if play.__name__ == one.scenario)
    return f"PYTHONPATH=tests python -m faults --only {name} --{name} {faults} --seed {one.seed}"


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 — it is a command


if __name__ == "__main__":
    sys.exit(main())
