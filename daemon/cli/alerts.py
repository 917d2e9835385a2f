"""`tidings alerts`: are alerts heard?"""

import secrets
import time

import click

from daemon.alerts import REMEDY, Destination, Outcome, post, trial
from daemon.cli.app import App, Verbs, json_option, pass_app
from daemon.cli.outcome import Code, Failed
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.outbound.addresses import AddressPolicy
from daemon.service import AGENT, destination, open_sender


@click.group(cls=Verbs)
def alerts() -> None:
    """What needs a person, told at [alerts] url."""


@alerts.command()
@json_option
@pass_app
def test(app: App, *, as_json: bool) -> int:
    """Send a test alert to [alerts] url, as the daemon sends real ones, and say what became of it.

    \b
    Ends with 0 if it was accepted.  Neither the database nor a running daemon is needed.
    """
    config = app.config()
    to = destination(config)
    if to is None:
        raise ConfigError("[alerts] url is not set: it says where alerts are sent to")
    message_id = f"test_{secrets.token_hex(8)}"
    outcome = app.run(_send(config, to, message_id))
    if as_json:
        app.display.json(
            {
                "ok": outcome.error is None,
                "to": str(to.url),
                "id": message_id,
                "signed": to.key is not None,
                "status": outcome.status,
                "error": outcome.error,
                "answer": outcome.said or None,
            }
        )
        return Code.OK if outcome.error is None else Code.FAILED
    if outcome.error is not None:
        said = f": {outcome.said}" if outcome.said else ""
        raise Failed(f"{to.url}: {outcome.error}{said}", remedy=REMEDY)
    signed = "signed" if to.key is not None else "not signed"
    app.display.line(f"{to.url} accepted it with {outcome.status} ({message_id}, {signed}).")
    return Code.OK


async def _send(config: Config, to: Destination, message_id: str) -> Outcome:
    policy = AddressPolicy(allow=config.outbound.allow_networks)
    now = time.time()
    async with open_sender(config, policy) as sender:
        return await post(sender, to, trial(now), message_id=message_id, now=now, agent=AGENT)
