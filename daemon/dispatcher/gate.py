"""When a callback may be sent to, as far as that is up to the callback: its breaker, its wish for quiet, its pace.

    closed ── `breaker` failures in a row ──► open ── probe_at: one attempt ──► accepted: closed
                                               ▲                        └─────► failed: twice the pause
                                               └──────────────────────────────────┘

Without I/O, and the time is passed in: seconds of a clock that nobody sets.
"""

from dataclasses import dataclass

from daemon.dispatcher.items import Rules

PACE_SLACK = 0.05
"""Seconds by which an attempt may have been late and the next ones come sooner for it, so that a rate is reached."""

DOUBLINGS = 20  # of the pause between two probes; the rules have a most of their own


@dataclass(slots=True)
class Gate:
    """What one callback's answers so far mean for the next attempt."""

    failing: float | None = None  # since when nothing was accepted
    failures: int = 0  # in a row
    probe_at: float = 0.0  # an open breaker lets one through then
    not_before: float = 0.0  # the receiver asked for quiet (Retry-After)
    next_at: float = 0.0  # the rate lets the next attempt go then

    def is_open(self, rules: Rules) -> bool:
        """Whether the breaker is open: one attempt at a time, each a probe."""
        return self.failures >= rules.breaker

    def admits(self, now: float, in_flight: int, rules: Rules) -> bool:
        """Whether another attempt may begin, with *in_flight* of them under way."""
        if now < self.not_before or now < self.next_at or in_flight >= rules.concurrency:
            return False
        return self.failures < rules.breaker or (not in_flight and now >= self.probe_at)

    def passed(self, now: float, rules: Rules) -> None:
        """An attempt begins."""
        if rules.rate:
            # What timers made late is made good, but no more than that.
            self.next_at = max(self.next_at, now - PACE_SLACK) + 1 / rules.rate

    def accepted(self) -> None:
        """The receiver accepted something."""
        # Not `not_before`: it may be another attempt's answer that asked for quiet.
        self.failures, self.failing, self.probe_at = 0, None, 0.0

    def failed(self, now: float, rules: Rules, *, probe: bool, quiet: float, jitter: float) -> None:
        """An attempt failed, perhaps a *probe*; *quiet*: seconds that the receiver wants; *jitter*: -1..1."""
        # Attempts that were out together when the breaker opened are one outage: only a failed probe adds to the pause.
        if probe or self.failures < rules.breaker:
            self.failures += 1
        if self.failing is None:
            self.failing = now
        if self.failures >= rules.breaker:
            over = min(self.failures - rules.breaker, DOUBLINGS)
            pause = min(rules.probe_first * 2**over, rules.probe_most)
            self.probe_at = now + pause * (1 + 0.2 * jitter)
        if quiet:
            self.not_before = max(self.not_before, now + quiet)

    def forgive(self) -> None:
        """A person says that it is well again."""
        self.failures, self.probe_at, self.not_before, self.failing = 0, 0.0, 0.0, None

    def follow(self, before: "Gate") -> None:
        """Go on as *before*, but for the pace."""
        self.failing, self.failures = before.failing, before.failures
        self.probe_at, self.not_before = before.probe_at, before.not_before
