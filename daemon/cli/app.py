"""What every verb works with: the configuration, the database, signals, and how things are shown."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from daemon import config, service
from daemon.cli.display import Display
from daemon.cli.outcome import Interrupted
from daemon.config import Config
from daemon.errors import Outage
from daemon.store.database import OUTAGE

Value = TypeVar("Value")

DEFAULT_FILE = Path("/etc/tidings/config.toml")


class App:
    """One call of the command: where its configuration is, and its output."""

    def __init__(self) -> None:
        self.display = Display()
        self.file: Path | None = None
        """The configuration file that was named, by `--config` or TIDINGS_CONFIG."""

    def config_file(self) -> Path | None:
        """The configuration file: the one that was named, else /etc/tidings/config.toml where there is one."""
        if self.file is not None:
            return self.file
        try:
            return DEFAULT_FILE if DEFAULT_FILE.exists() else None
        except PermissionError:
            return DEFAULT_FILE  # it is there or not: reading it will say that it may not be read

    def config(self) -> Config:
        """The configuration; raises `ConfigError`."""
        return config.load(self.config_file(), os.environ)

    @asynccontextmanager
    async def base(
        self, settings: Config | None = None, *, opened: bool = True
    ) -> AsyncGenerator[service.Base]:
        """The log, opened as the configuration says.  Raises `ConfigError`, or `Outage` then and inside.

        With *opened* false, a new log stays empty.
        """
        try:
            async with service.open_base(settings or self.config(), opened=opened) as base:
                yield base
        except BrokenPipeError:
            raise  # whoever read our output has gone; that is no outage
        except OUTAGE as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # a file of ours, not PostgreSQL
            raise Outage(str(error) or type(error).__name__) from error

    def run(self, work: Coroutine[Any, Any, Value], *, patient: bool = False) -> Value:
        """Run *work*; SIGINT and SIGTERM cancel it and come out as `Interrupted` when it has cleaned up.

        A second signal ends the process at once, unless *patient*: then cleaning up is not disturbed.
        """
        return uvloop.run(_interruptible(work, patient=patient))


async def _interruptible(work: Coroutine[Any, Any, Value], *, patient: bool) -> Value:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        if not received and task is not None:
            task.cancel()
        received.append(number)
        if not patient:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None


pass_app = click.make_pass_decorator(App)


class Verb(click.Command):
    """A verb that reads the configuration: it takes `--config`, as the whole command does."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.append(config_option())


class Verbs(click.Group):
    """Verbs under one word."""

    command_class = Verb
    group_class = type


def config_option(**attributes: Any) -> click.Option:
    """The option `--config FILE`, which the command and each of its verbs take; the inner one wins."""
    return click.Option(
        ["--config"],
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        expose_value=False,
        callback=_take_file,
        help="The configuration file.",
        **attributes,
    )


def _take_file(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(App).file = value


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--json`, handed on as *as_json*."""
    return click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")(command)
