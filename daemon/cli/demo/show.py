"""What the demo shows: a line for each thing that happens, a status line below, a table at the end."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.status import Status
from rich.text import Text

from daemon.cli.demo.household import Household
from daemon.cli.demo.score import CHANGES, WAYS, Deed, Score
from daemon.cli.display import Display, clean
from daemon.cli.entries import STYLES
from daemon.cli.listen import verdict
from daemon.cli.receiver import Event, Received


class Show:
    """Prints the demo, live where standard output is a terminal."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._began = time.monotonic()
        self._status: Status | None = None

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep a status line below while it goes on, on a terminal."""
        if not self._display.out.is_terminal:
            yield
            return
        with self._display.out.status("starting", spinner="dots") as self._status:
            yield
        self._status = None

    def title(self, seconds: float | None) -> None:
        """What this is, and how it ends."""
        until = "until Ctrl-C" if seconds is None else f"for {seconds:g} s"
        self._display.line(
            f"tidings demo, {until}: a change at a provider, told to an application once",
            style="bold",
        )

    def step(self, what: str) -> None:
        """Something is being set up."""
        self._display.line(self._clock(), "starting", what)
        self._say(f"starting {what}")

    def where(self, household: Household, callback: str) -> None:
        """Where to look while it runs."""
        tail = " ".join(household.command("log", "tail", "-f"))
        listing = " ".join(household.command("instances", "list"))
        self._display.line("")
        self._display.line("Look inside, in another terminal, while it runs:", style="bold")
        self._display.line(f"  {tail}")
        self._display.line(f"  {listing}")
        self._display.line(f"  the API       {household.origin}/openapi.json")
        self._display.line(f"  health        {household.origin}/health")
        self._display.line(f"  the receiver  {callback}")
        self._display.line(f"  daemon's log  {household.log}")
        self._display.line("")

    def did(self, actor: str, deed: Deed, words: str, score: Score) -> None:
        """Something was done at a provider."""
        self._display.line(self._clock(), Text(f"{actor:<9}", "cyan"), clean(words))
        self._count(score)

    def told(
        self, actor: str, deed: Deed, seconds: float, received: Received, score: Score
    ) -> None:
        """The receiver was told of it, and believes it."""
        said, style = verdict(received)
        self._display.line(
            self._clock(),
            Text(f"{actor:<9}", "cyan"),
            Text("  └►"),
            Text(f"{deed.change:<7}", STYLES[deed.change]),
            f"{deed.object_type} {clean(deed.object_id)} delivered by {deed.way},",
            Text(said, style),
            Text(f"after {seconds * 1000:.0f} ms", "dim"),
        )
        self._count(score)

    def unexpected(self, received: Received, event: Event, score: Score) -> None:
        """The receiver was told of something twice, or of something that nobody did."""
        self._display.line(
            self._clock(),
            Text(
                f"unexpected: {event.change} {clean(event.object_type)} {clean(event.object_id)}",
                "bold red",
            ),
            f"in {clean(received.id)}",
        )
        self._count(score)

    def unverified(self, received: Received) -> None:
        """The receiver does not believe what it was sent."""
        said, style = verdict(received)
        self._display.line(self._clock(), Text(f"refused {clean(received.id)}: {said}", style))

    def complaint(self, words: str) -> None:
        """The daemon logged something as wrong."""
        self._display.line(self._clock(), Text(f"the daemon says: {clean(words)}", "yellow"))

    def result(self, score: Score, *, interrupted: bool) -> None:
        """The table, and what it comes to."""
        self._display.line("")
        self._display.table(
            ("", *WAYS),
            [
                (
                    change,
                    *(
                        f"{score.delivered[change, way]} of {score.done[change, way]}"
                        for way in WAYS
                    ),
                )
                for change in CHANGES
            ]
            + [("median", *(_median(score.latencies[way]) for way in WAYS))],
        )
        wrong = [
            f"{number} {what}"
            for number, what in (
                (score.lost, "under way when it was stopped" if interrupted else "lost"),
                (score.twice, "told twice"),
                (score.surprises, "out of nowhere"),
                (score.unverified, "not verified"),
            )
            if number
        ]
        missing = f"never seen: {', '.join(score.missing)}" if score.missing else ""
        for deed in () if interrupted else score.waiting:
            what = f"lost: {deed.change} {deed.object_type} {deed.object_id} by {deed.way}"
            self._display.line(what, f"(instance {deed.instance})", style="bold red")
        delivered = sum(score.delivered.values())
        self._display.line(
            f"{delivered} changes delivered and verified;",
            "; ".join([*wrong, *([missing] if missing else [])]) or "none lost, none twice.",
        )

    def next(self, *, kept: str | None) -> None:
        """Where to go from here."""
        if kept is not None:
            self._display.line(f"Kept: {kept}")
        self._display.line(
            "Next: README.md (a tour in five minutes), docs/cli.md (every verb), `tidings run` (the real thing)"
        )

    def _clock(self) -> Text:
        return Text(f"{time.monotonic() - self._began:6.1f} s ", "dim")

    def _count(self, score: Score) -> None:
        delivered = sum(score.delivered.values())
        self._say(f"{delivered} delivered and verified, {score.lost} under way; Ctrl-C ends it")

    def _say(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)


def _median(latencies: list[float]) -> str:
    return f"{statistics.median(latencies) * 1000:.0f} ms" if latencies else "-"
