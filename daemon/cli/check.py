"""`tidings check`: is everything in place?"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from daemon import elements
from daemon.cli.app import App, Verb, json_option, pass_app
from daemon.cli.outcome import NOT_LET_IN, Code, judge
from daemon.config import Config
from daemon.errors import ConfigError, Outage
from daemon.outbound.addresses import AddressPolicy
from daemon.service import destination
from daemon.store import database, log, vault, writer
from daemon.store.database import OUTAGE, SCHEMA_VERSION, Connection
from daemon.store.embedded import embedded_postgres

OLDEST = 15
"""The oldest PostgreSQL that will do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; *detail* says how it is, *remedy* what to do where it is wrong."""

    name: str
    code: Code
    detail: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is in order."""
        return self.code is Code.OK


@click.command(cls=Verb)
@json_option
@pass_app
def check(app: App, *, as_json: bool) -> int:
    """Look at configuration, elements, the vault's key and the database; change nothing.

    \b
    Ends with 0 only if all is in order; else with the code of the first thing that is not.
    """
    findings = app.run(_findings(app))
    if as_json:
        app.display.json(
            {
                "ok": all(one.ok for one in findings),
                "checks": [
                    {
                        "name": one.name,
                        "ok": one.ok,
                        "detail": one.detail,
                        "remedy": one.remedy or None,
                    }
                    for one in findings
                ],
            }
        )
    else:
        for one in findings:
            _show(app, one)
    return next((one.code for one in findings if not one.ok), Code.OK)


def _show(app: App, finding: Finding) -> None:
    first, *rest = finding.detail.splitlines() or [""]
    app.display.line(
        f"{'✓' if finding.ok else '✗'} {finding.name:<14} {first}",
        style="" if finding.ok else "red",
    )
    for line in rest:
        app.display.line(f"  {'':<14} {line}")
    if finding.remedy:
        app.display.line(f"  {'':<14} next: {finding.remedy}")


async def _findings(app: App) -> list[Finding]:
    try:
        config = app.config()
    except ConfigError as error:
        return [_wrong("configuration", error)]
    found = [
        Finding(
            "configuration",
            Code.OK,
            str(app.config_file() or "no file: defaults and TIDINGS_… variables"),
        )
    ]
    found.append(_elements(config))
    found.append(_vault(config))
    found.append(_alerts(config))
    found.append(await _database(config))
    return found


def _wrong(name: str, error: BaseException) -> Finding:
    judgement = judge(error)
    if judgement is None:
        raise error
    return Finding(name, judgement.code, judgement.message, judgement.remedy)


def _elements(config: Config) -> Finding:
    try:
        known = elements.load(
            config.elements.directories, stand_ins=config.elements.stand_ins
        ).all()
    except ConfigError as error:
        return _wrong("elements", error)
    return Finding("elements", Code.OK, ", ".join(one.key for one in known))


def _vault(config: Config) -> Finding:
    path = config.vault.key_file
    try:
        if not path.exists():
            return Finding(
                "vault key", Code.OK, f"{path} is not there yet: the first start makes it"
            )
        vault.load_keys(path, create=False)
        loose = path.stat().st_mode & 0o077
    except (ConfigError, OSError) as error:
        return _wrong("vault key", error)
    if loose:
        return Finding(
            "vault key", Code.CONFIGURATION, f"{path} can be read by others", f"chmod 600 {path}"
        )
    return Finding("vault key", Code.OK, str(path))


def _alerts(config: Config) -> Finding:
    to = destination(config)
    if to is None:
        return Finding("alerts", Code.OK, "off: [alerts] url says where to")
    policy = AddressPolicy(allow=config.outbound.allow_networks)
    problem = policy.check_url(to.url.reveal())
    if problem is not None:
        remedy = "correct [alerts] url, then `tidings alerts test` tries it"
        return Finding("alerts", Code.CONFIGURATION, f"[alerts] url {problem}", remedy)
    signed = "signed" if to.key is not None else "not signed: [alerts] key is not set"
    return Finding("alerts", Code.OK, f"to {to.url}, {signed}")


async def _database(config: Config) -> Finding:
    try:
        async with _connected(config) as (conn, place):
            if conn is None:
                return Finding("database", Code.OK, place)
            return await _judged(conn, place)
    except NOT_LET_IN as error:
        return _wrong("database", error)
    except OUTAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            return _wrong("database", error)
        return _wrong("database", Outage(str(error) or type(error).__name__))
    except ConfigError as error:
        return _wrong("database", error)


@asynccontextmanager
async def _connected(config: Config) -> AsyncGenerator[tuple[Connection | None, str]]:
    """A connection, with words for where it leads; None for an embedded server that was never started."""
    if config.database.dsn is not None:
        conn = await database.connect(
            config.database.dsn.reveal(), role=None, timeout=config.database.connect_timeout
        )
        try:
            yield conn, "[database] dsn"
        finally:
            await conn.close()
        return
    directory: Path = config.state.directory / "postgres"
    if not (directory / "PG_VERSION").exists():
        yield None, f"embedded, in {directory}: the first start makes it"
        return
    async with embedded_postgres(directory) as dsn:
        conn = await database.connect(dsn, role=None)
        try:
            yield conn, f"embedded, in {directory}"
        finally:
            await conn.close()


async def _judged(conn: Connection, place: str) -> Finding:
    server: Any = conn.get_server_version()
    if server.major < OLDEST:
        return Finding(
            "database",
            Code.CONFIGURATION,
            f"{place}: PostgreSQL {server.major}",
            f"use PostgreSQL {OLDEST} or later",
        )
    schema = await database.installed(conn)
    if schema is None:
        return Finding(
            "database",
            Code.OK,
            f"{place}: PostgreSQL {server.major}, empty: the first start makes the schema",
        )
    if schema != f"tidings schema {SCHEMA_VERSION}":
        return Finding(
            "database",
            Code.CONFIGURATION,
            f"{place}: found {schema!r}, this tidings works with schema {SCHEMA_VERSION}",
            "install the tidings that made it, or give this one a database of its own",
        )
    daemon = "a daemon runs on it" if await writer.owned(conn) else "no daemon runs on it"
    detail = (
        f"{place}: PostgreSQL {server.major}, {schema}, {await log.head(conn)} positions, {daemon}"
    )
    return Finding("database", Code.OK, detail)
