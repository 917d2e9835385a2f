"""The table of docs/elements.md is what the marks of the tests say."""

from pathlib import Path

import pytest
from elements import table
from elements.table import COLUMNS, COMMAND, PAGE, Proof, Unreadable

SIX = {"campaignmonitor", "dropbox", "hubspot", "quickbooks", "sageone", "sfdc"}

MARKED = '''
import pytest

pytestmark = [pytest.mark.element("hubspot", "polling"), pytest.mark.slow]


def of(column):
    """The mark."""
    return pytest.mark.element("hubspot", column)


def helper():
    return 1


@of("OAuth")
def test_one():
    pass


@pytest.mark.element("hubspot", "created")
@pytest.mark.element("hubspot", "updated")
@pytest.mark.parametrize("way", [1, pytest.param(2, marks=pytest.mark.element("dropbox", "webhook"))])
async def test_two(way):
    pass


@pytest.mark.element("hubspot", "deleted")
class TestThree:
    @of(column="refresh")
    def test_four(self):
        pass
'''


def write(folder: Path, text: str, name: str = "test_marked.py") -> Path:
    """A folder of tests with one file in it."""
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / name).write_text(text, encoding="utf-8")
    return folder / "tests"


def test_the_table_is_up_to_date():
    """docs/elements.md has the table that the marks make now, and no mark names what there is not."""
    found = table.proofs()
    text = PAGE.read_text(encoding="utf-8")

    assert [] == table.problems(found)
    assert text == table.renewed(text, table.table(found)), (
        f"docs/elements.md is out of date: run {COMMAND}"
    )


def test_every_system_of_the_mission_is_in_it():
    """Each of the six has its row, and proofs that polls find what was created and what was changed."""
    proven: dict[str, set[str]] = {}
    for one in table.proofs():
        proven.setdefault(one.key, set()).add(one.column)

    assert set(proven) >= SIX
    for key in SIX:
        assert {"polling", "created", "updated"} <= proven[key], key


def test_marks_are_found_wherever_they_may_stand(tmp_path: Path):
    """At a test, a class, a parameter, by a function of the module; a module's and a class's are their first test's."""
    found = table.proofs(write(tmp_path, MARKED))

    assert {
        ("test_one", "hubspot", "polling", True),
        ("test_one", "hubspot", "OAuth", False),
        ("test_two", "hubspot", "created", False),
        ("test_two", "hubspot", "updated", False),
        ("test_two", "dropbox", "webhook", False),
        ("test_four", "hubspot", "deleted", True),
        ("test_four", "hubspot", "refresh", False),
    } == {(one.test, one.key, one.column, one.general) for one in found}
    assert 7 == len(found)


def test_a_tests_own_mark_comes_first(tmp_path: Path):
    """Of several proofs the cell has the first file's, one marked by itself before one of a whole module."""
    one = 'import pytest\n\n@pytest.mark.element("hubspot", "polling")\ndef test_{}():\n    pass\n'
    write(tmp_path, MARKED, "test_a.py")
    write(tmp_path, one.format("b"), "test_b.py")
    lines = table.table(table.proofs(write(tmp_path, one.format("c"), "test_c.py"))).splitlines()
    row = next(line for line in lines if "HubSpot" in line)

    assert "[b](../tests/test_b.py)" == row.split(" | ")[1 + COLUMNS.index("polling")]
    assert "-" == row.split(" | ")[1 + COLUMNS.index("challenge")]
    assert {len(COLUMNS) + 2} == {line.count("|") for line in lines}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("pytest.mark.element(KEY, 'OAuth')", "write key and column as texts"),
        ("pytest.mark.element('hubspot')", "write key and column as texts"),
        ("pytest.mark.element('hubspot', column='OAuth')", "write key and column as texts"),
    ],
)
def test_a_mark_that_cannot_be_read_is_no_silence(tmp_path: Path, written: str, said: str):
    """A mark whose key or column would have to be computed is an error with its place."""
    tests = write(tmp_path, f"import pytest\n\n@{written}\ndef test_it():\n    pass\n")

    with pytest.raises(Unreadable, match=f"tests/test_marked.py:3: .*{said}"):
        table.proofs(tests)


def test_a_misspelt_mark_is_named():
    """A key that no element has and a column that the table has not are told with the test."""
    wrong = Proof(
        general=False,
        path="tests/test_x.py",
        line=1,
        test="test_x",
        key="hubspotty",
        column="Oauth",
    )

    assert 2 == len(table.problems([wrong]))
    assert all("tests/test_x.py: test_x: there is no " in one for one in table.problems([wrong]))


def test_only_what_is_between_the_comments_is_written():
    """The page around the table stays as it is; without the comments nothing is written."""
    page = f"# Title\n\n{table.BEGIN}\n\nold\n\n{table.END}\n\nMore.\n"

    assert page.replace("old", "new") == table.renewed(page, "new")
    assert page == table.renewed(table.renewed(page, "new"), "old")
    with pytest.raises(ValueError, match="needs these two lines"):
        table.renewed("# Title\n", "new")
