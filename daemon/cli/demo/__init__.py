"""`tidings demo`: a provider, a daemon, a receiver, on this machine alone; what happens, live.

household   the daemon: a process, a directory, the API
life        what happens at the providers
score       what was done and what was told
show        what is printed
stage       all of it together
"""

import click

from daemon.cli.app import App, pass_app
from daemon.cli.demo.household import directory
from daemon.cli.demo.show import Show
from daemon.cli.demo.stage import Stage
from daemon.cli.outcome import Code, Interrupted


@click.command()
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(1, 86_400),
    envvar="DEMO_FOR",
    show_envvar=True,
    metavar="SECONDS",
    help="End by itself after so long.  [default: Ctrl-C ends it]",
)
@click.option(
    "--keep", is_flag=True, help="Keep the directory with configuration, database and log."
)
@pass_app
def demo(app: App, *, seconds: float | None, keep: bool) -> int:
    """See it work: simulated providers, a daemon, a receiver that verifies.

    \b
    Everything is on 127.0.0.1, in a directory of its own, and gone afterwards.
    With --for it ends with 0 only if a CREATED, an UPDATED and a DELETED change were delivered and
    verified, by poll and by webhook, and nothing was lost or told twice.  Without, Ctrl-C ends it with 0
    unless something was told twice, wrongly signed or out of nowhere.

    \b
    Examples:
      tidings demo
      DEMO_FOR=20 tidings demo
    """
    show = Show(app.display)
    show.title(seconds)
    interrupted: Interrupted | None = None
    with directory(keep=keep) as place:
        stage = Stage(show=show, place=place)
        with show.live():
            try:
                app.run(stage.play(seconds), patient=True)
            except Interrupted as error:
                interrupted = error
        show.result(stage.score, interrupted=interrupted is not None)
        show.next(kept=str(place.path) if keep else None)
    if interrupted is None:
        return Code.OK if stage.score.good else Code.FAILED
    if seconds is not None or interrupted.code is not Code.INTERRUPTED:
        raise interrupted
    return Code.FAILED if stage.score.wrong else Code.OK  # Ctrl-C is how it ends
