"""The subscriber lists of a simulated Campaign Monitor, in memory, and what its webhooks say of a change.

An address is in one state at a time; a change of state moves its `Date`, an edit does not, and a changed address
leaves nothing behind.  With a *lag* readers see everything so much later than it happened.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from daemon.elements.simulators.ledger import Now
from daemon.model import Json

STATES = ("Active", "Unconfirmed", "Unsubscribed", "Bounced", "Deleted")
NEVER_BACK = {"Deleted": 205, "Unsubscribed": 206, "Bounced": 207, "Unconfirmed": 208}
"""The code that refuses to add an address in this state without `Resubscribe`."""


class Unfit(Exception):
    """Campaign Monitor answers 400 with this code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One address of a list, as it is from *since* on; *entered* is when it came into its state."""

    address: str
    name: str
    state: str
    entered: datetime
    joined: datetime
    turn: int
    since: datetime
    fields: tuple[tuple[str, str], ...] = ()
    consent: str = "Unchanged"
    reads_with: str = ""
    mobile: str = ""

    def row(self, offset: timedelta, *, tracking: bool, sms: bool) -> Json:
        """It as the API writes it, dates in the client's time."""
        row: Json = {
            "EmailAddress": self.address,
            "Name": self.name,
            "Date": stamp(self.entered + offset),
            "ListJoinedDate": stamp(self.joined + offset),
            "State": self.state,
            "CustomFields": [{"Key": key, "Value": value} for key, value in self.fields],
            "ReadsEmailWith": self.reads_with,
        }
        if tracking:
            row["ConsentToTrack"] = self.consent
        if self.mobile and sms:
            row |= {"MobileNumber": self.mobile, "ConsentToSendSms": "No"}
        return row


@dataclass(slots=True)
class Hook:
    """A registered webhook; *pending* are the events that it has yet to post."""

    events: list[str]
    url: str
    payload_format: str
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    status: str = "Active"
    pending: list[Json] = field(default_factory=list)
    failing_since: datetime | None = None

    def shown(self) -> Json:
        """It as the API writes it."""
        return {
            "WebhookID": self.id,
            "Events": self.events,
            "Url": self.url,
            "Status": self.status,
            "PayloadFormat": self.payload_format.title(),
        }


@dataclass(slots=True)
class MailingList:
    """One list of a client; *offset* is how far the client's clocks are ahead of UTC, *tell* takes its events."""

    client_id: str
    title: str
    offset: timedelta
    now: Now
    tell: Callable[["MailingList", Json], None]
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    hooks: dict[str, Hook] = field(default_factory=dict)
    lag: timedelta = timedelta()
    _versions: dict[str, list[Subscriber | None]] = field(default_factory=dict)
    _gone: dict[str, datetime] = field(default_factory=dict)
    _turn: int = 0

    def get(self, address: str) -> Subscriber | None:
        """The subscriber as it is; None where there is none."""
        versions = self._versions.get(address.lower())
        return versions[-1] if versions else None

    def seen(self, address: str) -> Subscriber | None:
        """The subscriber as a reader sees it."""
        until = self.now() - self.lag
        versions = self._versions.get(address.lower(), [])
        gone = self._gone.get(address.lower())
        if gone is not None and gone <= until:
            return None
        return next((one for one in reversed(versions) if one and one.since <= until), None)

    def all(self) -> list[Subscriber]:
        """Every subscriber as it is."""
        return [one for versions in self._versions.values() if (one := versions[-1])]

    def in_state(self, state: str, after: datetime | None) -> list[Subscriber]:
        """Those whom a reader sees in *state*, entered later than *after*, by when they entered it."""
        found = (
            one
            for one in self._visible()
            if one.state == state and (after is None or one.entered > after)
        )
        return sorted(found, key=lambda one: one.turn)

    def add(self, address: str, *, resubscribe: bool = True, **facts: Any) -> Subscriber:
        """Add an address, or edit it where it is there; raises `Unfit`."""
        if "@" not in address:
            raise Unfit(1, "Invalid Email Address")
        there = self.get(address)
        if there is None:
            state = facts.pop("state", "Active")
            fresh = Subscriber(address, "", state, self.now(), self.now(), self._next(), self.now())
            return self._keep(None, replace(fresh, **_known(facts)))
        if there.state != "Active" and not resubscribe:
            raise Unfit(NEVER_BACK[there.state], f"Is {there.state}")
        return self.change(address, **{"state": "Active", **facts})

    def change(self, address: str, **facts: Any) -> Subscriber:
        """Edit a subscriber or move it to another state; raises `Unfit`."""
        there = self.get(address)
        if there is None:
            raise Unfit(203, "Subscriber Not In List")
        known = _known(facts)
        if known.get("state", there.state) != there.state:
            known |= {"entered": self.now(), "turn": self._next()}
        return self._keep(there, replace(there, **known, since=self.now()))

    def rename(self, address: str, new: str) -> Subscriber:
        """Change the address itself; raises `Unfit`."""
        there, taken = self.get(address), self.get(new)
        if there is None:
            raise Unfit(203, "Subscriber Not In List")
        if taken is not None and new.lower() != address.lower():
            raise Unfit(201, "Already Subscribed")
        if new.lower() != address.lower():
            self._versions[address.lower()].append(None)
            self._gone[address.lower()] = self.now()
        return self._keep(there, replace(there, address=new, since=self.now()))

    def _keep(self, before: Subscriber | None, after: Subscriber) -> Subscriber:
        name = after.address.lower()
        if self._gone.pop(name, None) is not None:
            self._versions[name] = []
        self._versions.setdefault(name, []).append(after)
        del self._versions[name][:-20]
        event = self._event(before, after)
        if event is not None:
            self.tell(self, event)
        return after

    def _event(self, before: Subscriber | None, after: Subscriber) -> Json | None:
        """What the webhooks say of a change; None where no event is of its kind."""
        event: Json = {
            "CustomFields": [{"Key": key, "Value": value} for key, value in after.fields],
            "Date": stamp(self.now() + self.offset),
            "EmailAddress": after.address,
            "Name": after.name,
        }
        was = before.state if before else ""
        if after.state == "Active" and was != "Active":
            return {**event, "SignupIPAddress": "192.0.2.7", "Type": "Subscribe"}
        if before is not None and after.state == was:
            old = {"OldEmailAddress": before.address}
            return {**event, **old, "Type": "Update", "State": after.state}
        if was == "Active":
            return {**event, "Type": "Deactivate", "State": after.state}
        return None

    def _visible(self) -> Iterator[Subscriber]:
        for address in self._versions:
            one = self.seen(address)
            if one is not None:
                yield one

    def _next(self) -> int:
        self._turn += 1
        return self._turn


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that were given."""
    return {name: value for name, value in facts.items() if value is not None}


def stamp(moment: datetime) -> str:
    """A date as the API writes it: to the second, without a zone."""
    return moment.strftime("%Y-%m-%d %H:%M:%S")
