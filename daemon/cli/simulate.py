"""`tidings simulate`: a provider on this machine, to try an integration with."""

import asyncio

import click

from daemon.cli.app import App, pass_app
from daemon.cli.outcome import Failed
from daemon.elements.simulators.catalogue import SIMULATORS, Simulation


@click.command()
@click.argument("provider", type=click.Choice(sorted(SIMULATORS)))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="The port; 0: the system chooses.  [default: another for each provider]",
)
@pass_app
def simulate(app: App, *, provider: str, host: str, port: int | None) -> None:
    """Serve a simulated PROVIDER until Ctrl-C.  It keeps nothing.

    The daemon talks to it instead of the provider with the two lines of configuration that are printed.

    \b
    Examples:
      tidings simulate workshop
      tidings simulate sageone --port 9000
    """
    simulation = SIMULATORS[provider]
    app.run(_serve(app, provider, simulation, host, simulation.port if port is None else port))


async def _serve(app: App, provider: str, simulation: Simulation, host: str, port: int) -> None:
    try:
        async with simulation.made().running(host=host, port=port) as origin:
            app.display.line(f"{provider} is at {origin}; Ctrl-C ends it")
            app.display.line("  for the daemon's configuration:")
            app.display.line(f'    [elements] stand_ins = {{ {provider} = "{origin}" }}')
            app.display.line('    [outbound] allow_networks = ["127.0.0.0/8"]')
            for hint in simulation.hints:
                app.display.line(f"  {hint.format(origin=origin)}")
            await asyncio.get_running_loop().create_future()
    except OSError as error:
        raise Failed(
            f"{host}:{port} cannot be listened on: {error.strerror}", remedy="choose another --port"
        ) from error
