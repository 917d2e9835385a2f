"""`tidings vault`: the key that seals credentials."""

import click

from daemon.cli.app import App, Verbs, pass_app
from daemon.store import vault as store


@click.group(cls=Verbs)
def vault() -> None:
    """The key that seals providers' credentials."""


@vault.command()
@pass_app
def rotate(app: App) -> None:
    """Seal every credential under the first key of the key file.

    \b
    To change the key: put a new line `<id>:<base64 of 32 bytes>` first in the key file, restart the
    daemon, run this, then take the old line away and restart the daemon again.
    """
    number = app.run(_rotate(app))
    app.display.line(
        f"{number} credentials were sealed anew."
        if number
        else "all credentials are under the first key."
    )


async def _rotate(app: App) -> int:
    number = 0
    async with app.base() as base, base.pool.acquire() as conn:
        while True:
            async with conn.transaction():
                done = await store.rotate(conn, base.keys)
            number += done
            if done == 0:
                return number
