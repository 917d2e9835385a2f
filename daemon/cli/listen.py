"""`tidings listen`: a receiver that verifies, prints, and answers as told."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from rich.text import Text

from daemon.cli.app import App, pass_app
from daemon.cli.display import clean
from daemon.cli.entries import STYLES
from daemon.cli.outcome import Failed
from daemon.cli.receiver import Asked, Received, Receiver, serving

MOST_EVENTS = 4  # of a notification that are named in its line


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8090,
    show_default=True,
    help="The port; 0: the system chooses.",
)
@click.option(
    "--key",
    envvar="LISTEN_KEY",
    show_envvar=True,
    metavar="KEY",
    help="The instance's event.notification.signature.key.",
)
@click.option(
    "--status",
    type=click.IntRange(200, 599),
    default=200,
    show_default=True,
    help="The status to answer; not to questions for receipts.",
)
@click.option(
    "--status-for", type=click.IntRange(1), metavar="N", help="Answer --status N times, then 200."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@pass_app
def listen(
    app: App,
    *,
    host: str,
    port: int,
    key: str | None,
    status: int,
    status_for: int | None,
    as_json: bool,
) -> None:
    """Receive notifications until Ctrl-C: verify, print, answer.

    \b
    A daemon sends to this machine only if the operator lets it: [outbound] allow_networks = ["127.0.0.0/8"].
    What is not signed rightly by --key is answered 401.  A question for receipts (event.notification.receipts)
    is answered by what was accepted since it listens.

    \b
    Examples:
      tidings listen --key "$KEY"
      tidings listen --status 503 --status-for 3      see it try again
      tidings listen --json | jq .events
    """
    answer = _Answers(status, status_for)

    def show(text: Text, value: dict[str, Any]) -> None:
        if as_json:
            app.display.out.file.write(orjson.dumps(value).decode() + "\n")
            app.display.out.file.flush()
        else:
            app.display.line(text)

    try:
        receiver = Receiver(
            heard=lambda received: show(line(received), as_object(received)),
            asked=lambda asked: show(question_line(asked), question_object(asked)),
            key=key,
            status=answer,
        )
    except ValueError as error:
        raise click.UsageError(f"--key: {error}") from error
    app.run(_listen(app, receiver, host, port, verifies=key is not None))


async def _listen(app: App, receiver: Receiver, host: str, port: int, *, verifies: bool) -> None:
    try:
        async with serving(receiver, host=host, port=port) as origin:
            app.display.say(
                f"Listening on {origin}; give it as event.notification.callback.url.  Ctrl-C ends it."
            )
            if not verifies:
                app.display.say(
                    "Signatures are not verified: say --key, the instance's event.notification.signature.key."
                )
            await asyncio.get_running_loop().create_future()
    except OSError as error:
        raise Failed(
            f"{host}:{port} cannot be listened on: {error.strerror}", remedy="choose another --port"
        ) from error


class _Answers:
    """The status to answer: *status*, always or a number of times."""

    def __init__(self, status: int, times: int | None) -> None:
        self._status, self._left = status, times

    def __call__(self) -> int:
        if self._left is None:
            return self._status
        if self._left == 0:
            return 200
        self._left -= 1
        return self._status


def line(received: Received) -> Text:
    """One notification in a line: when, what, of whom, and whether to believe it."""
    text = _begun(received.at, received.answered)
    for event in received.events[:MOST_EVENTS]:
        text.append(f" {event.change:<7}", STYLES.get(event.change, ""))
        text.append(f" {clean(event.object_type)} {clean(event.object_id)} ")
    if len(received.events) > MOST_EVENTS:
        text.append(f" and {len(received.events) - MOST_EVENTS} more ")
    if received.instance is not None:
        text.append(f" instance {received.instance}", "cyan")
    text.append(f"  {clean(received.id) or 'no id'}", "dim")
    said, style = verdict(received)
    text.append(f"  {said}", style)
    if received.again:
        text.append("  again", "magenta")
    if received.redelivery:
        text.append("  marked as redelivery", "magenta")
    if received.problem:
        text.append(f"  {clean(received.problem)}", "red")
    return text


def question_line(asked: Asked) -> Text:
    """One question for receipts in a line."""
    text = _begun(asked.at, asked.answered)
    if asked.problem:
        return text.append(f" receipts: {clean(asked.problem)}", "red")
    silent = asked.ids - asked.received - asked.unknown
    return text.append(
        f" receipts of {asked.ids}: {asked.received} received, {asked.unknown} unknown"
        + (f", {silent} that cannot be told" if silent else "")
    )


def _begun(at: float, answered: int) -> Text:
    """The beginning of a line: when, and the status."""
    text = Text()
    text.append(f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"[:-3] + "  ", "dim")
    return text.append(f"{answered} ", "green" if answered < 300 else "red")  # noqa: PLR2004 — HTTP's success


def verdict(received: Received) -> tuple[str, str]:
    """What the signatures say, and its colour."""
    if received.elements is False or received.standard is False:
        wrong = [name for name, good in _both(received) if good is False]
        return f"✗ wrong signature ({' and '.join(wrong)})", "bold red"
    if received.verified:
        return "✓ verified", "green"
    right = [name for name, good in _both(received) if good]
    return (f"✓ verified ({right[0]} alone)", "green") if right else ("not verified", "yellow")


def _both(received: Received) -> tuple[tuple[str, bool | None], ...]:
    return (
        ("Elements-Webhook-Signature", received.elements),
        ("webhook-signature", received.standard),
    )


def as_object(received: Received) -> dict[str, Any]:
    """One notification for a script."""
    return {
        "at": _moment(received.at),
        "id": received.id,
        "instance": received.instance,
        "events": [
            {"eventType": e.change, "objectType": e.object_type, "objectId": e.object_id}
            for e in received.events
        ],
        "verified": {"elements": received.elements, "standard": received.standard},
        "again": received.again,
        "redelivery": received.redelivery,
        "answered": received.answered,
        "problem": received.problem or None,
    }


def question_object(asked: Asked) -> dict[str, Any]:
    """One question for receipts for a script."""
    return {
        "at": _moment(asked.at),
        "receipts": {"asked": asked.ids, "received": asked.received, "unknown": asked.unknown},
        "answered": asked.answered,
        "problem": asked.problem or None,
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
