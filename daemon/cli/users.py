"""`tidings users`: who may use the API."""

import asyncpg
import click

from daemon.cli.app import App, Verbs, json_option, pass_app
from daemon.cli.display import as_text
from daemon.cli.outcome import Failed
from daemon.errors import NotFound
from daemon.store import accounts
from daemon.store.writer import Unit, append_once


@click.group(cls=Verbs)
def users() -> None:
    """Who may use the API."""


@users.command()
@click.argument("name")
@click.option(
    "--organization",
    metavar="ORG",
    help="Whose instances they share; default: one of their own, named as they are.",
)
@json_option
@pass_app
def add(app: App, *, name: str, organization: str | None, as_json: bool) -> None:
    """Add a user and show the two secrets, this once.

    \b
    Examples:
      tidings users add ann --organization acme
      tidings users add ann --json | jq -r .authorization
    """
    if not name.strip() or (organization is not None and not organization.strip()):
        raise click.UsageError("a name should hold more than spaces")
    user, secret, company = app.run(_add(app, name, organization or name))
    authorization = f"User {user}, Organization {secret}"
    if as_json:
        app.display.json(
            {
                "name": name,
                "organization_name": company,
                "user": user,
                "organization": secret,
                "authorization": authorization,
            }
        )
        return
    app.display.line(
        f"{name} of {company} was added.  The secrets are shown this once; only their digests are kept."
    )
    app.display.line(f"  user          {user}")
    app.display.line(f"  organization  {secret}")
    app.display.line(f"  Authorization: {authorization}")


async def _add(app: App, name: str, organization: str) -> tuple[str, str, str]:
    async with app.base() as base, base.pool.acquire() as conn:
        if await accounts.named(conn, name) is not None:
            raise Failed(
                f"there is a user {name} already, and secrets cannot be shown again",
                remedy=f"choose another name, or `tidings users remove {name}` first",
            )
        entry, user, secret = accounts.new_user(name, organization)
        await append_once(conn, base.keys, Unit([entry]))
    return user, secret, organization


@users.command("list")
@json_option
@pass_app
def list_(app: App, *, as_json: bool) -> None:
    """List the users, removed ones too."""

    async def read() -> list[asyncpg.Record]:
        async with app.base() as base:
            return await accounts.users(base.pool)

    found = app.run(read())
    if as_json:
        app.display.json([{key: as_text(value) for key, value in row.items()} for row in found])
        return
    app.display.table(
        ("id", "name", "organization", "added", "removed"),
        [(u["id"], u["name"], u["organization"], u["added"], u["removed"]) for u in found],
    )
    if not found:
        app.display.say("nobody yet: `tidings users add NAME`")


@users.command()
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Remove a user: their secrets open nothing any more.  Instances stay."""

    async def forget() -> None:
        async with app.base() as base, base.pool.acquire() as conn:
            found = await accounts.named(conn, name)
            if found is None:
                raise NotFound(f"there is no user {name}; `tidings users list` shows all")
            await append_once(conn, base.keys, Unit([accounts.removed_user(found["id"])]))

    app.run(forget())
    app.display.line(f"{name} was removed.")
