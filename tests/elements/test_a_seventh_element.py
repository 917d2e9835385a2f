"""Adding a provider touches a file of its own and the registry, nothing else."""

import ast
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from journey.running import KEY, Api, add_user, receiving, running
from servers import serving

from daemon.elements import BUILT_IN

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "parcels"
SECRET = "what the carrier signs with"
ELEMENTS = "daemon/elements"

# The words of the six, in whatever case and spelling code has them.
PROVIDERS = re.compile(
    r"hubspot|dropbox|campaign_?monitor|createsend|quickbooks|intuit|salesforce|sfdc|sage_?one|(?<![a-z])sage(?![a-z])",
    re.IGNORECASE,
)
# Where they may stand, and why.
THEIRS = {
    r"daemon/elements/(hubspot|dropbox|campaignmonitor|quickbooks|salesforce|sageone)(\.py|/.*)": "their own",
    r"daemon/elements/__init__\.py": "the registry",
    r"daemon/elements/simulators/.*": "their stand-ins, and the catalogue of these",
    r"daemon/cli/demo/.*": "the demo shows one of them",
}

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the seventh: its file, its import and its line in the registry."""
    top = tmp_path_factory.mktemp("seventh")
    shutil.copytree(ROOT / "daemon", top / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "schema.sql", top)
    shutil.copy(HERE / "parcels.py", top / ELEMENTS)
    registry = top / ELEMENTS / "__init__.py"
    text, begin = registry.read_text(encoding="utf-8"), "BUILT_IN: dict[str, type[Defined]] = {\n"
    assert 1 == text.count(begin)
    registry.write_text(
        text.replace(
            begin,
            f'from daemon.elements.parcels import Parcels\n\n{begin}    "parcels": Parcels,\n',
        ),
        encoding="utf-8",
    )
    return top


def environment(package: Path) -> dict[str, str]:
    """What makes a Python import that copy: without the second, the working directory would come first."""
    return {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}


def python(package: Path, *arguments: str) -> str:
    """What `python …` prints with the seventh; it must succeed."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=known | environment(package),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


class Carrier:
    """The carrier's API: the recorded answer, and what is handed over meanwhile."""

    def __init__(self) -> None:
        self.answer_body = json.loads((HERE / "search.json").read_text(encoding="utf-8"))
        self.asked: list[Any] = []

    def hand(self, number: str) -> None:
        """A new parcel, now."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.answer_body["parcels"].append(
            {"number": number, "handed": {"at": now}, "scan": {"at": now, "where": "Shop 14"}}
        )

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a search."""
        if request.headers.get("Authorization") != "Bearer carriers-key":
            return web.json_response({"error": "whose key is that?"}, status=401)
        if (request.method, request.path) != ("POST", "/v1/parcels/search"):
            return web.json_response({"error": "no such thing"}, status=404)
        self.asked.append(await request.json())
        return web.json_response(self.answer_body)


def test_the_command_line_lists_it(package: Path) -> None:
    """`tidings elements list` has a seventh, with its id and hub, beside all the others."""
    listed = json.loads(python(package, "-m", "daemon", "elements", "list", "--json"))
    [seventh] = [one for one in listed if one["key"] not in BUILT_IN]

    assert {*BUILT_IN, "parcels"} == {one["key"] for one in listed}
    assert ("parcels", 999, "logistics") == (seventh["key"], seventh["id"], seventh["hub"])


def test_it_keeps_the_contract_of_all_elements(package: Path) -> None:
    """The tests that all elements of the registry must pass try it by themselves, and it passes."""
    said = python(
        package, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-k", "parcels",
        "tests/elements/test_element_contract.py",
    )  # fmt: skip

    assert re.search(r"^[1-9]\d* passed", said, re.MULTILINE), said


def test_it_is_polled_and_its_webhooks_are_taken(
    package: Path, dsn: str, tmp_path: Path, run: Run
) -> None:
    """A daemon with it polls its API by its own way, verifies and routes its webhook, and tells each change once."""
    carrier = Carrier()
    body = (HERE / "webhook.json").read_bytes()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()

    async def journey() -> None:
        async with (
            serving(carrier.answer) as origin,
            receiving() as receiver,
            running(
                dsn,
                tmp_path,
                TIDINGS_ELEMENTS_STAND_INS=f"parcels={origin}",
                **environment(package),
            ) as daemon,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            status, described = await api.call("GET", "/elements/parcels")
            assert (200, "Parcels") == (status, described["name"])
            made = await api.create(
                "parcels",
                {
                    "api.key": "carriers-key",
                    "signature.secret": SECRET,
                    "parcels.account": "north",
                    "event.notification.enabled": True,
                    "event.notification.callback.url": receiver.url,
                    "event.notification.signature.key": KEY,
                },
            )
            assert "********" == made["configuration"]["signature.secret"]
            await api.until_polled(made["id"])
            carrier.hand("PX-1003")

            forged = await api.call("POST", "/events/parcels", body, **{"X-Parcels-Signature": "0"})
            taken = await api.call(
                "POST", "/events/parcels", body, **{"X-Parcels-Signature": signature}
            )
            assert (401, 200) == (forged[0], taken[0])
            # The label is told by the webhook; of the parcel it only hurries the poll, which is due in a quarter of an hour.
            await receiver.until(("CREATED", "labels", "L-7"), ("CREATED", "parcels", "PX-1003"))

            assert 2 == len(receiver.events)
            assert [] == receiver.faults
            assert {1} == {asked["page"] for asked in carrier.asked}
            assert all(list(asked["filter"]) == ["changed"] for asked in carrier.asked)

    run(journey(), limit=60)


def decisions(path: Path) -> Iterator[str]:
    """The names in a module, and its texts of one word: what code can decide by.  Prose and comments are not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name
            case ast.alias(name=name, asname=other):
                yield from (name, other or "")
            case ast.ImportFrom(module=name):
                yield name or ""
            case ast.Constant(value=str(text)) if not re.search(r"\s", text):
                yield text
            case _:
                pass


def test_nothing_else_knows_a_provider() -> None:
    """No module but theirs, the registry, the simulators and the demo has the name of one of the six to decide by."""
    found = []
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not any(re.fullmatch(pattern, name) for pattern in THEIRS):
            found += [(name, word) for word in decisions(path) if PROVIDERS.search(word)]

    assert [] == found


def test_neither_does_the_database() -> None:
    """The schema has no column, no row and no check for a provider."""
    statements = re.sub(r"--.*", "", (ROOT / "schema.sql").read_text(encoding="utf-8"))

    assert not PROVIDERS.search(statements)


def test_what_decides_by_a_provider_would_be_found(tmp_path: Path) -> None:
    """The test above sees a comparison, a setting, an import and a name, and takes a sentence for a sentence."""
    path = tmp_path / "one.py"
    path.write_text(
        'import daemon.elements.dropbox\nif key == "hubspot":\n    x = s["hubspot.portal.id"]\n'
        'def sage_only(): """Sage does."""\ny = "is no operator of Salesforce"\nz = "message"\n',
        encoding="utf-8",
    )

    assert ["daemon.elements.dropbox", "hubspot", "hubspot.portal.id", "sage_only"] == sorted(
        word for word in decisions(path) if PROVIDERS.search(word)
    )
