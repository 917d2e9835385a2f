"""Definitions for tests, as an operator would write them."""

from datetime import UTC, datetime
from pathlib import Path

from daemon.elements.defined import Defined
from daemon.elements.loading import parse

NOW = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
HEAD = """
id = 1000
key = "shop"
name = "Shop"
"""
API = """
[connection]
base = "https://shop.example/v1"
override = true
"""
HOOK = """
[webhook]
unsigned = true
[webhook.events]
id = "id"
object_type = "orders"
"""


def element(*parts: str, directory: Path = Path("/nowhere")) -> Defined:
    """The element that HEAD and *parts* define, at the time NOW."""
    return parse(HEAD + "\n".join(parts), directory / "shop.toml", now=lambda: NOW)
