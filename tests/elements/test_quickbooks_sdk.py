"""The simulated company judged by code that is not ours: python-quickbooks on intuit-oauth."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from elements.quickbooks.books import START, sample

from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.quickbooks.server import REALM, QuickBooks

REDIRECT = "https://mycoolapp.com"


@pytest.fixture(autouse=True)
def _plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """oauthlib sends tokens over plain HTTP only when it is told to, as here on the loopback."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


def clients(origin: str, code: str) -> tuple[Any, Any]:
    """The two SDKs' clients, granted access: their addresses come from the discovery document and a subclass."""
    from intuitlib.client import AuthClient
    from quickbooks import QuickBooks as Client

    class Here(Client):
        api_url_v3 = f"{origin}/v3"

    discovery = f"{origin}/.well-known/openid_configuration/"
    auth = AuthClient("client", "s3cret", REDIRECT, discovery)
    auth.get_bearer_token(code, realm_id=REALM)
    client = Here(
        auth_client=auth, refresh_token=auth.refresh_token, company_id=REALM, minorversion=75
    )
    return auth, client


def judged(script: Callable[[Any, Any, QuickBooks, Clock], None]) -> QuickBooks:
    """Run the blocking *script* in a thread while the simulator serves."""

    async def main() -> QuickBooks:
        clock = Clock(START)
        server = QuickBooks(client_id="client", client_secret="s3cret", now=clock)
        async with server.running() as origin, asyncio.timeout(30):
            code = server.grant(REDIRECT)

            def run() -> None:
                auth, client = clients(origin, code)
                try:
                    script(auth, client, server, clock)
                finally:
                    client.session.close()
                    auth.close()

            await asyncio.to_thread(run)
        return server

    return asyncio.run(main())


def invoice(customer: Any) -> Any:
    """An invoice with one line."""
    from quickbooks.objects import Invoice, SalesItemLine, SalesItemLineDetail

    line = SalesItemLine()
    line.Amount = 120
    line.SalesItemLineDetail = SalesItemLineDetail()
    made = Invoice()
    made.CustomerRef = customer.to_ref()
    made.Line.append(line)
    return made


def test_the_sdk_creates_queries_changes_and_deletes():
    """Every call of a record's life answers what the SDK can read: create, get, query, count, update, void, delete."""

    def script(auth: Any, client: Any, server: QuickBooks, clock: Clock) -> None:
        from quickbooks.exceptions import (
            ObjectNotFoundException,
            QuickbooksException,
            ValidationException,
        )
        from quickbooks.objects import Customer, Invoice

        customer = Customer()
        customer.DisplayName = "Cust & Co's"
        customer = customer.save(qb=client)
        assert ("1", "0", True) == (customer.Id, customer.SyncToken, customer.Active)
        assert "2026-11-20T02:00:00-08:00" == customer.MetaData["CreateTime"]
        clock.advance(1)
        customer.CompanyName = "Cust and Company"
        customer = customer.save(qb=client)
        assert "1" == Customer.get(1, qb=client).SyncToken
        stale = Customer.get(1, qb=client)
        stale.SyncToken = "0"
        with pytest.raises(QuickbooksException, match="Stale"):
            stale.save(qb=client)

        made = invoice(customer).save(qb=client)
        assert 120 == made.TotalAmt
        assert ["1"] == [one.Id for one in Customer.filter(DisplayName="Cust & Co's", qb=client)]
        assert ["1"] == [
            one.Id for one in Customer.filter(Active=True, order_by="DisplayName", qb=client)
        ]
        assert ["1"] == [one.Id for one in Invoice.choose(["1", "2"], qb=client)]
        assert ["1"] == [one.Id for one in Invoice.all(order_by="Id DESC", qb=client)]
        where = "MetaData.LastUpdatedTime >= '2026-11-20T02:00:01-08:00'"
        assert 1 == Invoice.count(where, qb=client)
        assert 1 == Customer.count(where, qb=client)
        with pytest.raises(ValidationException, match="parsing"):
            Invoice.where("Id = '1' OR Id = '2'", qb=client)

        made.void(qb=client)
        voided = Invoice.get(1, qb=client)
        assert (0, "Voided") == (voided.TotalAmt, voided.PrivateNote)
        voided.delete(qb=client)
        assert [] == Invoice.all(qb=client)
        with pytest.raises(ObjectNotFoundException):
            Invoice.get(1, qb=client)

    judged(script)


def test_the_sdk_reads_pages():
    """STARTPOSITION counts from 1, and 100 records come unless MAXRESULTS says otherwise."""

    def script(auth: Any, client: Any, server: QuickBooks, clock: Clock) -> None:
        from quickbooks.objects import Customer

        for number in range(130):
            server.create("Customer", DisplayName=f"c{number:03}")
        assert 100 == len(Customer.where(qb=client))
        page = Customer.where("", order_by="Id", start_position=101, max_results=20, qb=client)
        assert ["101", "120"] == [page[0].Id, page[-1].Id]

    judged(script)


def test_the_sdk_captures_changes():
    """One CDC call answers the changed and the deleted of several entities, and the time to go on from."""

    def script(auth: Any, client: Any, server: QuickBooks, clock: Clock) -> None:
        from quickbooks.cdc import change_data_capture
        from quickbooks.objects import Customer, Estimate, Invoice

        customer = Customer()
        customer.DisplayName = "A"
        customer = customer.save(qb=client)
        gone, kept = invoice(customer).save(qb=client), invoice(customer).save(qb=client)
        clock.advance(10)
        gone.delete(qb=client)
        kept.PrivateNote = "changed"
        kept.save(qb=client)
        stamp = (START + timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = change_data_capture([Invoice, Customer, Estimate], stamp, qb=client)
        assert [("2", None), ("1", "Deleted")] == sorted(
            ((one.Id, getattr(one, "status", None)) for one in found.Invoice), reverse=True
        )
        assert not hasattr(found, "Customer")
        assert not hasattr(found, "Estimate")
        assert "2026-11-20T02:00:10.000-08:00" == found.time

    judged(script)


def test_the_sdk_refreshes_and_revokes():
    """The refresh token stays for a day and then changes; a revoked one is refused, and so is a wrong secret."""

    def script(auth: Any, client: Any, server: QuickBooks, clock: Clock) -> None:
        from intuitlib.exceptions import AuthClientError
        from quickbooks.exceptions import AuthorizationException
        from quickbooks.objects import Customer

        first = auth.refresh_token
        clock.advance(3601)
        with pytest.raises(AuthorizationException):
            Customer.all(qb=client)
        auth.refresh()
        assert (first, 3600) == (auth.refresh_token, auth.expires_in)
        clock.advance(86400)
        auth.refresh()
        assert first != auth.refresh_token
        assert auth.revoke()
        with pytest.raises(AuthClientError):
            auth.refresh()
        auth.client_secret = "wrong"
        with pytest.raises(AuthClientError, match="401"):
            auth.get_bearer_token("code")

    judged(script)


def test_the_sdk_accepts_the_signatures():
    """What the simulator signs, the SDK verifies; and it agrees with the vector of the facts."""

    def script(auth: Any, client: Any, server: QuickBooks, clock: Clock) -> None:
        body = sample("cloudevents.json")
        signature = server.posting.signature(body)
        assert client.validate_webhook_signature(body.decode(), signature, "quickbooks-verifier")
        known = "ilqwtIIGIj6T4sFgSJxcHRKASZHkicUGoXmOGuMQO7E="
        assert client.validate_webhook_signature(body.decode(), known, "test-verifier-token")
        assert not client.validate_webhook_signature(body.decode(), signature, "another")

    judged(script)
