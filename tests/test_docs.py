"""Documentation that can be checked."""

import re
import subprocess
from pathlib import Path

import pytest

from daemon.config import SECTIONS, variable

ROOT = Path(__file__).parent.parent
PAGES = [path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.is_file()]
UNIT = ROOT / "systemd" / "tidings.service"


def anchors(page: Path) -> set[str]:
    """Return the names under which the headings of *page* can be linked to, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of ours, and to a heading in it, has its target."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page

        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_settings_exist(page: Path) -> None:
    """Each `[section] key` and TIDINGS_ variable that a page names is one of the configuration."""
    text = page.read_text(encoding="utf-8")
    keys = re.findall(r"`\[(\w+)\] (\w+)", text)
    names = {
        variable(section, key) for section, model in SECTIONS.items() for key in model.model_fields
    }
    variables = set(re.findall(r"\bTIDINGS_[A-Z_]+[A-Z]\b(?!<|_)", text)) - {
        "TIDINGS_TEST_POSTGRES",
        "TIDINGS_CONFIG",
    }

    assert [] == [
        f"[{section}] {key}"
        for section, key in keys
        if section in SECTIONS and key not in SECTIONS[section].model_fields
    ]
    assert set() == variables - names


def test_every_setting_of_the_unit_has_its_reason() -> None:
    """In [Service], each group of settings stands below a comment; values that pages repeat are the unit's."""
    unit = UNIT.read_text(encoding="utf-8")
    service = unit.split("[Service]")[1].split("[Install]")[0].strip()
    for group in service.split("\n\n"):
        assert group.startswith("#"), group
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for setting in ("TimeoutStartSec=5min", "LoadCredential=vault.key:tidings.vault.key"):
        assert setting in operations
        assert f"\n{setting}\n" in unit
    assert "\nWatchdogSec=60s\n" in unit
    assert "for 60 s (`WatchdogSec`)" in operations


def test_every_target_of_make_that_is_named_exists() -> None:
    """`make …` in a page is a target, and `make` without a target names them all."""
    named = {
        name
        for page in PAGES
        for name in re.findall(
            r"(?:^ {4}|`)(?:[A-Z_]+=\S+ )*make ([a-z-]+)",
            page.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert named <= targets
    assert targets == set(re.findall(r"make ([a-z-]+) ", said))


def test_decisions_are_numbered() -> None:
    """The ADRs are numbered without gaps, and each has Nygard's parts."""
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))

    assert list(range(1, len(decisions) + 1)) == [int(path.name[:4]) for path in decisions]
    for path in decisions:
        text = path.read_text(encoding="utf-8")

        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        for part in ("## Context", "## Decision", "## Consequences"):
            assert f"\n{part}\n" in text, f"{path.name}: {part}"
