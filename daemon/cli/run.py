"""`tidings run`: the daemon, in the foreground, until SIGINT or SIGTERM."""

import gc

import click
import uvloop

from daemon import logs, service
from daemon.cli.app import App, Verb, pass_app
from daemon.cli.outcome import Code, Failed, judge
from daemon.errors import ConfigError, Outage
from daemon.store.database import OUTAGE

YOUNG = 5_000
"""Objects that are made before the collector looks at the young ones."""


@click.command(cls=Verb)
@pass_app
def run(app: App) -> None:
    """Run the daemon until SIGINT or SIGTERM; the log goes to standard output.

    \b
    Stopped so, it ends with 0: that is how systemd stops it.
    A wrong configuration ends it with 78 (EX_CONFIG): systemd does not start it again.

    \b
    Examples:
      tidings run --config /etc/tidings/config.toml
      TIDINGS_SERVER_LISTEN=0.0.0.0:8080 TIDINGS_LOG_FORMAT=json tidings run
    """
    try:
        config = app.config()
        logs.configure(level=config.log.level, form=config.log.format)
        # What is loaded by now stays: the collector need not walk it again and again.  What a backlog brings is many
        # objects and no cycles: it looks a seventh as often, which is worth a tenth of the time that deliveries take.
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG)
        uvloop.run(service.serve(config))
    except ConfigError as error:
        raise _unconfigured(error) from error
    except OUTAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise Outage(str(error) or type(error).__name__) from error
    except Exception as error:
        judgement = judge(error)
        if judgement is not None and judgement.code == Code.CONFIGURATION:
            raise _unconfigured(error) from error
        raise


def _unconfigured(error: Exception) -> Failed:
    judgement = judge(error)
    message, remedy = (
        (str(error), "") if judgement is None else (judgement.message, judgement.remedy)
    )
    return Failed(message, remedy=remedy, code=Code.RUN_CONFIGURATION)
