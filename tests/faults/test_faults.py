"""The fault harness in its short form; `make faults` is the long one, docs/reliability.md says what it counts."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import in_memory
from faults.__main__ import again
from faults.catalogue import SHORT, play
from faults.postgres import postgres

Run = Callable[..., Any]

early = pytest.mark.early


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("kills", marks=early(35)),
        pytest.param("embedded", marks=early(25)),
        pytest.param("provider_clock", marks=early(25)),
        pytest.param("commits", marks=early(15)),
    ],
)
def test_nothing_is_lost_or_told_twice(name: str, tmp_path: Path, run: Run) -> None:
    """Whatever is killed or cut off, every change arrives once, in order, and the log says the same."""
    seed = secrets.randbelow(10**6)
    said: list[str] = [f"seed {seed}"]

    async def played() -> Any:
        async with postgres(in_memory()) as server:
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
