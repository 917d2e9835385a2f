"""`tidings simulate`: a provider on this machine, to try an integration with."""

import asyncio
from contextlib import AbstractAsyncContextManager

import click

from daemon.cli.app import App, pass_app
from daemon.cli.outcome import Failed
from daemon.elements.simulators import serving
from daemon.elements.simulators.sageone import Sage
from daemon.elements.simulators.workshop import Workshop

PORTS = {"workshop": 8099, "sageone": 8098}

HINTS = {
    "workshop": (
        "element: workshop; configuration api.key: workshop-key, signature.secret: workshop-secret",
        'curl -X POST {origin}/simulator/customers -d \'{{"name": "Ann"}}\'    creates a customer (customers, orders, tickets)',
        'curl -X PUT {origin}/simulator/webhook -d \'{{"url": "http://…/events/workshop/<id>"}}\'    posts tickets there',
    ),
    "sageone": (
        "{origin}/oauth2/auth/central?response_type=code&redirect_uri=…    grants access at once",
        'curl -X POST {origin}/simulator/customers -d \'{{"name": "Ann"}}\'    creates a customer',
        "an element that speaks to it: tidings simulate sageone --definition > sageone.toml, then [elements] directories",
    ),
}


@click.command()
@click.argument("provider", type=click.Choice(sorted(PORTS)))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="The port; 0: the system chooses.  [default: workshop 8099, sageone 8098]",
)
@click.option(
    "--definition", is_flag=True, help="Print the TOML of an element that speaks to it, and end."
)
@pass_app
def simulate(app: App, *, provider: str, host: str, port: int | None, definition: bool) -> None:
    """Serve a simulated PROVIDER until Ctrl-C.  It keeps nothing.

    \b
    Examples:
      tidings simulate workshop
      tidings simulate sageone --port 9000
    """
    chosen = PORTS[provider] if port is None else port
    simulated = Workshop() if provider == "workshop" else Sage()
    if definition:
        app.display.out.file.write(simulated.definition(f"http://{host}:{chosen}"))
        return
    app.run(_serve(app, provider, simulated, host, chosen))


async def _serve(app: App, provider: str, simulated: Workshop | Sage, host: str, port: int) -> None:
    try:
        async with _running(simulated, host, port) as origin:
            app.display.line(f"{provider} is at {origin}; Ctrl-C ends it")
            for hint in HINTS[provider]:
                app.display.line(f"  {hint.format(origin=origin)}")
            await asyncio.get_running_loop().create_future()
    except OSError as error:
        raise Failed(
            f"{host}:{port} cannot be listened on: {error.strerror}", remedy="choose another --port"
        ) from error


def _running(simulated: Workshop | Sage, host: str, port: int) -> AbstractAsyncContextManager[str]:
    if isinstance(simulated, Workshop):
        return simulated.running(host=host, port=port)
    return serving(simulated.app, host=host, port=port)
