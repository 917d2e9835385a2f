"""docs/elements.md and the definitions: each key has its row, and the example is one that works."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from daemon.elements import definition, hook_definition
from daemon.elements.authentication import KINDS
from daemon.elements.loading import parse

PAGE = (Path(__file__).parents[2] / "docs" / "elements.md").read_text(encoding="utf-8")
TABLES = {
    "The top": definition.Definition,
    "`[[parameters]]`": definition.Setting,
    "`[connection]`": definition.Place,
    "`[auth]`": definition.Auth,
    "`[resources.NAME]`": definition.Resource,
    "`where`": definition.Where,
    "`paging`": definition.Paging,
    "`deleted`": definition.Deleted,
    "`[webhook]`": hook_definition.Webhook,
    "`[webhook.signature]`": hook_definition.Signature,
    "`[[webhook.ignore]]`": hook_definition.Match,
    "`[[webhook.challenge]]`": hook_definition.Challenge,
    "`[webhook.events]`": hook_definition.Events,
    "`[webhook.reply]`": hook_definition.Acknowledgement,
}


@pytest.mark.parametrize(("heading", "model"), TABLES.items(), ids=TABLES)
def test_every_key_has_its_row(heading: str, model: type[BaseModel]):
    """The table below a heading lists the keys of that table of the file, all of them, in its order."""
    section = PAGE.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)

    assert list(model.model_fields) == rows


def test_every_table_is_covered():
    """No table of the file is missing from the list above."""
    known = {
        one
        for module in (definition, hook_definition)
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, BaseModel)
        and one.__module__ == module.__name__
    }

    assert known == set(TABLES.values())


def test_the_example_works():
    """The page's complete example is a definition without mistakes."""
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    shop = parse(text, Path("shop.toml"))

    assert ("orders", "customers") == shop.resources
    assert {"site", "api.key", "signature.secret"} == {one.key for one in shop.parameters}


def test_kinds_are_documented():
    """Each kind of authentication and paging stands on the page."""
    for kind in (*definition.AUTH_KEYS, *definition.PAGING_KEYS, *KINDS):
        assert f"`{kind}`" in PAGE
