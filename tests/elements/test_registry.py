"""The elements there are: built in and the operator's."""

from pathlib import Path

import pytest
from elements.files import API, HEAD

from daemon.elements import BUILT_IN, load
from daemon.errors import ConfigError, NotFound


def write(directory: Path, name: str, text: str) -> Path:
    """A definition in *directory*."""
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_built_in_elements_are_there():
    """Each is found by its key, its id and its id as text."""
    registry = load()

    assert sorted(BUILT_IN) == [one.key for one in registry.all()]
    for one in registry.all():
        assert one is registry.get(one.key) is registry.get(one.id) is registry.get(str(one.id))


def test_ids_never_change():
    """The numbers stand in customers' databases."""
    ids = {
        "rest": 1,
        "sageone": 2,
        "workshop": 3,
        "hubspot": 4,
        "dropbox": 5,
        "campaignmonitor": 6,
        "sfdc": 7,
        "quickbooks": 8,
        "salesforce": 9,
    }
    assert ids.items() <= {one.key: one.id for one in load().all()}.items()


@pytest.mark.parametrize("name", ["shop", 999, "-1", "\u00b2", "x" * 1000])
def test_an_unknown_element_is_named(name: str | int):
    """`NotFound` lists the keys there are, and does not repeat a flood."""
    with pytest.raises(NotFound, match=r"there are .*rest, sageone") as caught:
        load().get(name)

    assert len(str(caught.value)) < 200


def test_an_operators_files_are_added(tmp_path: Path):
    """A directory gives all its TOML files and nothing else; a file gives itself."""
    write(tmp_path, "shop.toml", HEAD + API)
    write(tmp_path, "notes.txt", "no TOML")
    other = write(tmp_path, "elsewhere", HEAD.replace("1000", "1001").replace("shop", "till") + API)

    assert {"shop", "till"} < {one.key for one in load([tmp_path, other]).all()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD.replace("shop", "rest") + API, "key: rest is taken by"),
        (HEAD.replace("1000", "1") + API, "id: 1 is taken by rest"),
        ("replaces = true\n" + HEAD + API, "no element has both key shop and id 1000"),
        ("replaces = true\n" + HEAD.replace("shop", "rest") + API, "no element has both key rest and id 1000"),
    ],
)  # fmt: skip
def test_keys_and_ids_are_unique(tmp_path: Path, text: str, said: str):
    """Two elements of one key or id are refused; so is a replacement of nothing."""
    path = write(tmp_path, "shop.toml", text)
    with pytest.raises(ConfigError, match=said) as caught:
        load([tmp_path])

    assert str(caught.value).startswith(str(path))


def test_a_built_in_element_can_be_replaced(tmp_path: Path):
    """With replaces = true and both key and id, the operator's file stands in for the built-in."""
    text = HEAD.replace("1000", "1").replace('"shop"', '"rest"')
    write(tmp_path, "rest.toml", "replaces = true\n" + text + API)

    assert "Shop" == load([tmp_path]).get("rest").name


def test_all_files_problems_are_said_at_once(tmp_path: Path):
    """What cannot be read and what is wrong in two files comes in one error."""
    write(tmp_path, "a.toml", "colour = 1")
    write(tmp_path, "b.toml", "x")
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as caught:
        load([tmp_path, tmp_path / "nowhere.toml"])

    for part in (
        "a.toml: colour: is unknown",
        "b.toml: is not TOML",
        "c.toml: is not UTF-8",
        "nowhere.toml: cannot be read",
    ):
        assert part in str(caught.value)
