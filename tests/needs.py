"""What a test needs of the machine, said aloud: elsewhere it is skipped, in CI it fails."""

import os

import pytest


def need(there: object, what: str) -> None:
    """Go on if *there*; else skip the test for want of *what*.  With CI=true nothing is skipped."""
    if there:
        return
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"CI must have {what}", pytrace=False)
    pytest.skip(f"needs {what}")
