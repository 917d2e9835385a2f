"""A real REST server that nobody here wrote: json-server from npm, described in one file, polled."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from journey.running import KEY, Api, add_user, receiving, running
from needs import need

VERSION = "0.17.4"

ELEMENT = """
id = 5001
key = "json-server"
name = "json-server"
description = "Any json-server: https://www.npmjs.com/package/json-server"

[[parameters]]
key = "base.url"
name = "Address"
required = true

[connection]
base = "{base.url}"

[defaults]
id = "id"
deletes = "sweep"
parameters = { _page = 1 }
paging = { kind = "link_header", size_parameter = "_limit", size = 5 }

[resources.posts]
item = "posts/{id}"
"""


@pytest.fixture(scope="module")
def json_server(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs json-server, installed from npm."""
    need(shutil.which("npm") and shutil.which("node"), "Node.js with npm")
    directory = tmp_path_factory.mktemp("npm")
    subprocess.run(
        [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(directory),
            f"json-server@{VERSION}",
        ],
        check=True,
        timeout=150,
    )
    return ["node", str(directory / "node_modules/json-server/lib/cli/bin.js")]


@asynccontextmanager
async def serving_posts(
    command: list[str], directory: Path, posts: list[dict[str, Any]]
) -> AsyncGenerator[str]:
    """json-server with *posts*; its address."""
    database = directory / "db.json"
    database.write_text(json.dumps({"posts": posts}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *command, "--host", "127.0.0.1", "--port", str(port), "--quiet", str(database)
    )
    origin = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{origin}/posts") as answer:
                        await answer.read()
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)
        yield origin
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.early(15)
def test_changes_at_json_server_arrive_at_the_callback(
    json_server: list[str], dsn: str, tmp_path: Path, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    """Created, changed and deleted through json-server's own API, each arrives once, even over a SIGKILL."""
    posts = [{"id": number, "title": f"post {number}"} for number in range(1, 13)]
    (tmp_path / "json-server.toml").write_text(ELEMENT)

    async def journey() -> None:
        async with (
            serving_posts(json_server, tmp_path, posts) as origin,
            receiving() as receiver,
            running(
                dsn, tmp_path, TIDINGS_ELEMENTS_DIRECTORIES=str(tmp_path / "json-server.toml")
            ) as daemon,
            aiohttp.ClientSession() as there,
        ):
            api = Api(daemon, await add_user(dsn, tmp_path))
            made = await api.create(
                "json-server",
                {
                    "base.url": origin,
                    "event.notification.enabled": True,
                    "event.notification.callback.url": receiver.url,
                    "event.notification.signature.key": KEY,
                    "event.poller.refresh_interval": "0.02",
                    "event.poller.configuration": {
                        "posts": {"url": "/hubs/general/posts", "idField": "id"}
                    },
                },
            )
            await api.until_polled(made["id"])
            assert [] == receiver.events

            async with there.post(f"{origin}/posts", json={"title": "new"}) as answer:
                number = str((await answer.json())["id"])
            await receiver.until(("CREATED", "posts", number))
            await (await there.patch(f"{origin}/posts/3", json={"title": "changed"})).read()
            await receiver.until(("UPDATED", "posts", "3"))

            await daemon.kill()
            await (await there.delete(f"{origin}/posts/12")).read()
            await (
                await there.put(f"{origin}/posts/4", json={"title": "changed while it was dead"})
            ).read()
            await daemon.start()
            await receiver.until(("DELETED", "posts", "12"), ("UPDATED", "posts", "4"))

            assert 4 == len(receiver.events)
            assert [] == receiver.faults
            body = receiver.received[0]
            assert f"instance-{made['id']}-json-server-events" == body["topic"]
            assert "new" == body["message"]["raw"]["posts"][0]["title"]
            assert 0 == await daemon.stop()

    run(journey(), limit=120)
