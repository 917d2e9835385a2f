"""The counts, for people (a table in `docs/reliability.md`) and for programs (a JSON file)."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults.stage import Outcome
from faults.switches import SWITCHES

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"

BEGIN, END = "<!-- measured: made by `make faults` -->", "<!-- end of measured -->"

MAIN = (
    "changes lost",
    "second accepted deliveries recorded",
    "unmarked repeats",
    "repeats at receivers with receipts",
    "order violations",
    "projection rows that differ after a rebuild",
)
"""What every scenario counts and the table shows in columns; other counts stand in a column of their own."""


def as_json(outcomes: Sequence[Outcome], form: dict[str, int]) -> str:
    """Everything, to keep."""
    return json.dumps(
        {
            "form": form,
            "machine": machine(),
            "good": all(one.good for one in outcomes if one.without is None)
            and all(shown(one) for one in outcomes if one.without is not None),
            "scenarios": [one.as_json() for one in outcomes if one.without is None],
            "switched off": [
                {**one.as_json(), "shown": shown(one)}
                for one in outcomes
                if one.without is not None
            ],
        },
        indent=1,
    )


def shown(outcome: Outcome) -> bool:
    """Whether a run without a mechanism was found out by the check that watches over it."""
    assert outcome.without is not None
    return outcome.counts.get(SWITCHES[outcome.without].check, 0) > 0


def table(outcomes: Sequence[Outcome]) -> str:
    """The scenarios in Markdown: what was done, what was counted."""
    rows = [
        ["scenario", "faults and load", *MAIN, "all else that must be 0"],
        ["---", "---", *["--:"] * (len(MAIN) + 1)],
    ]
    for one in outcomes:
        if one.without is None:
            others = sum(number for name, number in one.counts.items() if name not in MAIN)
            counts = [str(one.counts[name]) for name in MAIN]
            rows.append([one.scenario, _facts(one), *counts, str(others)])
    return _lines(rows)


def switched_off(outcomes: Sequence[Outcome]) -> str:
    """What the checks find without each mechanism."""
    rows = [
        ["switched off", "scenario", "what is then found", "count"],
        ["---", "---", "---", "--:"],
    ]
    for one in outcomes:
        if one.without is not None:
            switch = SWITCHES[one.without]
            count = str(one.counts.get(switch.check, 0))
            rows.append([switch.mechanism, one.scenario, switch.check, count])
    return _lines(rows) if len(rows) > 2 else ""


def _facts(one: Outcome) -> str:
    return "; ".join(f"{name} {number:,g}" for name, number in one.facts.items())


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def write(
    outcomes: Sequence[Outcome], form: dict[str, int], out: Path, document: Path | None
) -> None:
    """Write *out*, and the measured part of *document* where there is one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(as_json(outcomes, form) + "\n")
    if document is None:
        return
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    seeds = ", ".join(sorted({str(one.seed) for one in outcomes}))
    measured = [
        f"On {os.cpu_count()} cores, Python {platform.python_version()}, seed {seeds}.",
        table(outcomes),
        switched_off(outcomes),
    ]
    document.write_text(
        before + BEGIN + "\n\n" + "\n\n".join(filter(None, measured)) + "\n\n" + END + after,
        encoding="utf-8",
    )
