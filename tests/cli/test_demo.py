"""`tidings demo`, as a person starts it."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.calling import whole_program
from databases import in_memory


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for the demo; its name is short, as /tmp is: a socket's path has a limit."""
    with tempfile.TemporaryDirectory(prefix="t-", dir=in_memory()) as name:
        yield Path(name)


def left(place: Path) -> list[str]:
    """What a demo in *place* left behind: files, and processes that have to do with it."""
    # The lock under which embedded servers start is shared by all of them, and empty.
    found = [str(path) for path in place.iterdir() if path.name != ".lockfile"]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (
                    (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue  # it has just ended
            if str(place) in command:
                found.append(command)
    return found


@pytest.mark.early(17)
def test_the_demo_delivers_and_ends_by_itself(place: Path) -> None:
    """DEMO_FOR=14 ends with 0 after a created, an updated and a deleted change came by poll and by webhook."""
    with whole_program("demo", DEMO_FOR="14", TMPDIR=str(place)) as demo:
        status = demo.end()
    text = "".join(demo.said)

    assert 0 == status, text
    for change in ("CREATED", "UPDATED", "DELETED"):
        assert f"└► {change}" in text
    for way in ("by poll, ✓ verified", "by webhook, ✓ verified"):
        assert way in text
    assert "none lost, none twice." in text
    assert "log tail -f --config" in text
    assert [] == left(place), text


@pytest.mark.early(10)
def test_ctrl_c_ends_everything(place: Path) -> None:
    """SIGINT to the whole group, as Ctrl-C sends it, ends the demo with 0 within 5 s; nothing is left running."""
    with whole_program("demo", TMPDIR=str(place)) as demo:
        demo.until("✓ verified")
        began = os.times().elapsed
        assert 0 == demo.end(signal.SIGINT)
        took = os.times().elapsed - began

    assert took < 5
    assert [] == left(place)


def test_a_demo_that_was_cut_short_is_no_success(place: Path) -> None:
    """SIGTERM while it starts ends the demo with 143 and leaves nothing, neither files nor processes."""
    with whole_program("demo", "--for", 15, TMPDIR=str(place)) as demo:
        demo.until("the daemon, with a PostgreSQL of its own")
        assert 143 == demo.end(signal.SIGTERM)

    assert [] == left(place)
