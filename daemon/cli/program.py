"""The command and its verbs, and how it ends."""

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from daemon import service
from daemon.cli.alerts import alerts
from daemon.cli.app import App, Verbs, config_option
from daemon.cli.check import check
from daemon.cli.deliveries import callbacks, deliveries
from daemon.cli.demo import demo
from daemon.cli.elements import elements
from daemon.cli.instances import instances
from daemon.cli.listen import listen
from daemon.cli.log import log
from daemon.cli.outcome import Code, Interrupted, judge
from daemon.cli.rebuild import rebuild
from daemon.cli.replay import replay
from daemon.cli.run import run
from daemon.cli.simulate import simulate
from daemon.cli.users import users
from daemon.cli.vault import vault

EPILOG = """\b
Examples:
  tidings demo                             see it work, on this machine alone
  tidings check                            is everything in place?
  tidings users add ann --json             the secrets for the API
  tidings log tail -f                      what is happening
  tidings instances show 17                how far an instance's polls and deliveries are

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration, 4 the database is away,
5 not found, 130 interrupted, 143 terminated.  Everything else: docs/cli.md.
"""


@click.group(
    cls=Verbs,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(service.VERSION, prog_name="tidings")
@click.pass_context
def program(context: click.Context) -> None:
    """Hears of every change in your SaaS accounts and tells your application once."""


program.params.append(config_option(envvar="TIDINGS_CONFIG", show_envvar=True))
for verb in (
    run,
    demo,
    check,
    users,
    elements,
    instances,
    callbacks,
    deliveries,
    log,
    replay,
    alerts,
    rebuild,
    vault,
    listen,
    simulate,
):
    program.add_command(verb)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    sys.exit(int(call(arguments)))


def call(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    app = App()
    try:
        result = program.main(arguments, prog_name="tidings", standalone_mode=False, obj=app)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return Code.INTERRUPTED
    except Interrupted as error:
        return error.code
    except BrokenPipeError:
        _hush()
        return Code.FAILED
    except Exception as error:  # noqa: BLE001 — whatever it is, it becomes words and a code here
        judgement = judge(error)
        if judgement is None:
            traceback.print_exception(error)
            app.display.say(
                "tidings: a bug, not your doing; please report the lines above", style="red"
            )
            return Code.FAILED
        _tell(app, judgement.message, judgement.remedy)
        return judgement.code
    return result if isinstance(result, int) else Code.OK


def _tell(app: App, message: str, remedy: str) -> None:
    lines = message.splitlines() or ["failed"]
    for line in lines:
        app.display.say(f"tidings: {line}", style="red")
    if remedy:
        app.display.say(f"  next: {remedy}")


def _hush() -> None:
    """Let Python's own flush at exit fail in silence: nobody reads our output any more."""
    with suppress(BrokenPipeError):
        sys.stdout.close()
