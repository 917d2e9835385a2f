"""The settings of an instance: described wherever somebody looks for them, and checked when they are given."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api.running import Open, Run

from daemon import elements
from daemon.api.parameters import WRITTEN, known
from daemon.errors import Invalid
from daemon.plans import backfill_from, sweep_interval

ROOT = Path(__file__).parents[2]
SETTING = re.compile(
    r"(?:event\.(?:notification|vendor|poller)\.|filter\.)[a-z_.]+[a-z]|event\.objects"
)


def described() -> set[str]:
    """What `known` has of an element without settings of its own, and what tidings writes."""
    bare = [one.key for one in known(elements.load().get("workshop"))]
    return {key for key in bare if SETTING.fullmatch(key)} | {one.key for one in WRITTEN}


def read() -> Iterator[tuple[str, str]]:
    """Every text in the daemon's code that is the name of a setting, and where it stands."""
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        if "simulators" in path.parts or "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and SETTING.fullmatch(text):
                yield text, f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined] # a constant has a line


def test_every_setting_that_is_read_is_described() -> None:
    """No module reads a setting that `known` does not describe, and none is described that nobody reads."""
    places: dict[str, list[str]] = {}
    for name, place in read():
        places.setdefault(name, []).append(place)

    assert {} == {name: where for name, where in places.items() if name not in described()}
    elsewhere = {
        name
        for name, where in places.items()
        if any("api/parameters.py" not in place for place in where)
    }
    assert described() - {"webhook.secret"} == elsewhere


def test_the_table_has_every_setting() -> None:
    """docs/api.md has a row for each setting that tidings reads, and names those that it writes."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = text.split("### Settings\n")[1].split("\n### ")[0]
    rows = set(re.findall(r"^\| `([a-z_.]+)` \|", section, re.MULTILINE))
    written = {one.key for one in WRITTEN}

    assert described() - written == rows
    assert written <= set(re.findall(r"`([a-z_.]+)`", section))


def test_elements_show_every_setting(run: Run, open_api: Open) -> None:
    """GET /elements/{key} and …/metadata list the settings; polling's only where the element polls."""

    async def main() -> None:
        async with open_api() as api:
            for tail in ("", "/metadata"):
                there = {}
                for element in ("crmlike", "boxlike"):
                    body = (await api.call("GET", f"/elements/{element}{tail}")).body
                    there[element] = {one["key"]: one for one in body["configuration"]}
                assert described() - {one.key for one in WRITTEN} <= set(there["crmlike"])
                assert "event.notification.format" in there["boxlike"]
                assert "event.poller.backfill" not in there["boxlike"]
                assert all(one["name"] for one in there["crmlike"].values())

    run(main())


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        (
            "event.poller.backfill",
            ("yesterday", "2026-13-01", "1", "0"),
            (True, "FALSE", "2026-01-31", "2026-01-31T08:00:00Z", "", "<DATE>"),
        ),
        (
            "event.poller.sweep_interval",
            ("nan", "inf", -1, "often", "1e400", True),
            (0, "0.5", 1440, "", "<MINUTES>"),
        ),
        ("filter.response.nulls", ("no", 0), (True, "false")),
    ],
)
def test_settings_are_checked_when_they_are_given(
    run: Run, open_api: Open, key: str, wrong: tuple[Any, ...], right: tuple[Any, ...]
) -> None:
    """A value that would not be obeyed is 400 under its name, at creating and at changing; one that would is taken."""

    async def main() -> None:
        async with open_api() as api:
            made = await api.create(element={"key": "crmlike"})
            for value in wrong:
                given = {"configuration": {key: value}}
                answer = await api.call("PATCH", f"/instances/{made['id']}", given)
                assert (400, {f"configuration.{key}"}) == (
                    answer.status,
                    set(answer.body["fields"]),
                ), value
            body = {"element": {"key": "crmlike"}, "configuration": {key: wrong[0]}}
            answer = await api.call("POST", "/instances", body)
            assert f"configuration.{key}" in answer.body["fields"]
            for value in right:
                given = {"configuration": {key: value}}
                answer = await api.call("PATCH", f"/instances/{made['id']}", given)
                assert 200 == answer.status, (value, answer.text)

    run(main())


def test_what_is_accepted_is_read_alike() -> None:
    """A placeholder is as nothing; minutes become seconds, and the element's own interval holds where none is given."""
    assert backfill_from({"event.poller.backfill": "<DATE>"}) is None
    assert (0.0, 3600.0) == (sweep_interval({}), sweep_interval({}, 3600.0))
    assert 0.0 == sweep_interval({"event.poller.sweep_interval": "0"}, 3600.0)
    assert 30.0 == sweep_interval({"event.poller.sweep_interval": "0.5"}, 3600.0)
    with pytest.raises(Invalid, match="minutes"):
        sweep_interval({"event.poller.sweep_interval": "-1"})
