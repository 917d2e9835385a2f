"""The fault harness in its short form; `make faults` is the long one, docs/reliability.md says what it counts."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.__main__ import again
from faults.catalogue import SHORT, play
from faults.postgres import postgres

Run = Callable[..., Any]

pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.parametrize("name", ["kills", "embedded", "commits", "provider_clock"])
def test_nothing_is_lost_or_told_twice(name: str, tmp_path: Path, run: Run) -> None:
    """Whatever is killed or cut off, every change arrives once, in order, and the log says the same."""
    seed = secrets.randbelow(10**6)
    said: list[str] = [f"seed {seed}"]

    async def played() -> Any:
        async with postgres() as server:
            return await play(
                name,
                server=server,
                directory=tmp_path,
                seed=seed,
                say=said.append,
                faults=SHORT[name],
            )

    outcome = run(played(), limit=240)
    told = "\n".join([*said, f"again: {again(outcome, SHORT[name])}"])
    assert {} == {name: outcome.counts[name] for name in outcome.counts if outcome.counts[name]}, (
        outcome.examples,
        told,
    )
    assert outcome.facts["changes a second"] >= 300, told
