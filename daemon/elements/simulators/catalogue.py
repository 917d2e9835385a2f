"""The simulated providers there are: how each is made, where it listens, what to try first."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from daemon.elements.simulators.campaignmonitor.server import CampaignMonitor
from daemon.elements.simulators.dropbox.server import Dropbox
from daemon.elements.simulators.hubspot.server import HubSpot
from daemon.elements.simulators.quickbooks.server import QuickBooks
from daemon.elements.simulators.sageone import Sage
from daemon.elements.simulators.salesforce.server import Salesforce
from daemon.elements.simulators.workshop import Workshop


class Simulator(Protocol):
    """A provider on this machine."""

    def running(self, *, host: str, port: int) -> AbstractAsyncContextManager[str]:
        """Serve; the value is the origin.  Raises `OSError` when the port is taken."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """One line of the catalogue; `{origin}` in a hint is where it serves."""

    made: Callable[[], Simulator]
    port: int
    hints: tuple[str, ...]


_SALESFORCE = Simulation(
    Salesforce,
    8094,
    (
        "{origin}/services/oauth2/authorize?response_type=code&redirect_uri=…    grants access at once",
        'curl -X POST {origin}/simulator/Contact -d \'{{"LastName": "Ann"}}\'    creates a contact (Account, Lead, …)',
        'curl -X PUT {origin}/simulator/outbound -d \'{{"url": "http://…/events/sfdc/<id>.<secret>"}}\'    posts outbound messages',
    ),
)

SIMULATORS: dict[str, Simulation] = {
    "campaignmonitor": Simulation(
        CampaignMonitor,
        8095,
        (
            "configuration authentication.type: apiKey, api.key: campaignmonitor-key; or OAuth:",
            "{origin}/oauth?type=web_server&scope=ManageLists&redirect_uri=…    grants access at once",
            'curl -X POST {origin}/simulator/subscribers -d \'{{"EmailAddress": "ann@example.com", "Name": "Ann"}}\'    subscribes',
            "curl -X POST {origin}/simulator/fault -d '{{\"deactivate\": true}}'    deactivates the webhooks, as after a week of errors",
        ),
    ),
    "dropbox": Simulation(
        Dropbox,
        8096,
        (
            "{origin}/oauth2/authorize?response_type=code&redirect_uri=…    grants access at once",
            "configuration oauth.api.secret: dropbox-secret, with which webhooks are signed",
            'curl -X POST {origin}/simulator/files -d \'{{"path": "/a.txt", "content": "hello"}}\'    writes a file',
            'curl -X POST {origin}/simulator/move -d \'{{"from": "/a.txt", "to": "/b.txt"}}\'    moves it',
            'curl -X PUT {origin}/simulator/webhook -d \'{{"url": "http://…/events/dropbox"}}\'    posts that there is news',
        ),
    ),
    "hubspot": Simulation(
        HubSpot,
        8097,
        (
            "configuration hubspot.access.token: pat-na1-11111111-2222-3333-4444-555555555555, signature.secret: hubspot-secret",
            "{origin}/oauth/authorize?scope=oauth&redirect_uri=…    grants access at once",
            'curl -X POST {origin}/simulator/contacts -d \'{{"email": "ann@example.com"}}\'    creates a contact (companies, deals, …)',
            'curl -X PUT {origin}/simulator/webhook -d \'{{"url": "http://…/events/hubspot/<id>"}}\'    posts changes there',
            'curl -X PUT {origin}/simulator/faults -d \'{{"status": 429, "times": 2}}\'    fails (also slow, lag, searchLimit)',
        ),
    ),
    "quickbooks": Simulation(
        QuickBooks,
        8093,
        (
            "configuration realm.id: 4620816365291273850, quickbooks.verifier.token: quickbooks-verifier",
            "{origin}/connect/oauth2?response_type=code&redirect_uri=…    grants access at once",
            'curl -X POST {origin}/simulator/Customer -d \'{{"DisplayName": "Ann"}}\'    creates a customer (Invoice, Vendor, …)',
            'curl -X PUT {origin}/simulator/webhook -d \'{{"url": "http://…/events/quickbooks"}}\'    posts changes there',
        ),
    ),
    "sageone": Simulation(
        Sage,
        8098,
        (
            "{origin}/oauth2/auth/central?response_type=code&redirect_uri=…    grants access at once",
            'curl -X POST {origin}/simulator/customers -d \'{{"name": "Ann"}}\'    creates a customer',
        ),
    ),
    "salesforce": _SALESFORCE,
    "sfdc": _SALESFORCE,
    "workshop": Simulation(
        Workshop,
        8099,
        (
            "configuration api.key: workshop-key, signature.secret: workshop-secret",
            'curl -X POST {origin}/simulator/customers -d \'{{"name": "Ann"}}\'    creates a customer (customers, orders, tickets)',
            'curl -X PUT {origin}/simulator/webhook -d \'{{"url": "http://…/events/workshop/<id>"}}\'    posts tickets there',
        ),
    ),
}
