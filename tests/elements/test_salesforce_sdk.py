"""The simulated Salesforce, judged by simple-salesforce: what a client that is not ours does through it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from simple_salesforce import Salesforce as Sdk
from simple_salesforce.exceptions import (
    SalesforceAuthenticationFailed,
    SalesforceExpiredSession,
    SalesforceMalformedRequest,
    SalesforceRefusedRequest,
    SalesforceResourceNotFound,
)

from daemon.elements.simulators.ledger import Clock
from daemon.elements.simulators.salesforce.server import Salesforce

START = datetime(2026, 11, 20, 10, 0, 30, tzinfo=UTC)


class ToPlain(HTTPAdapter):
    """Carries what the SDK sends by https, which it insists on, to *origin* by http."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin = origin

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Send to the origin instead of the host that is named."""
        request.url = self._origin + request.path_url
        return super().send(request, *args, **kwargs)


def with_sdk(test: Callable[[Sdk, Salesforce, Clock], Any], **options: Any) -> Any:
    """Run *test* in a thread, with the SDK in a session at a simulated Salesforce."""

    async def main() -> Any:
        clock = Clock(START)
        simulated = Salesforce(now=clock, **options)
        async with simulated.running() as origin:
            with requests.Session() as session:
                session.mount("https://", ToPlain(origin))
                sdk = Sdk(
                    instance_url="https://org.my.salesforce.com",
                    session_id=simulated.session(),
                    session=session,
                    version="67.0",
                )
                return await asyncio.to_thread(test, sdk, simulated, clock)

    return asyncio.run(main())


def test_the_sdk_creates_reads_changes_and_deletes():
    """A record goes its whole way through the SDK: created, read, updated, deleted, and then not found."""

    def test(sdk: Sdk, simulated: Salesforce, clock: Clock) -> None:
        made = sdk.Contact.create({"LastName": "O'Neill", "Email": "jack@example.com"})
        assert made["success"]
        record = sdk.Contact.get(made["id"])
        assert "2026-11-20T10:00:30.000+0000" == record["SystemModstamp"] == record["CreatedDate"]
        clock.advance(60)
        assert 204 == sdk.Contact.update(made["id"], {"FirstName": "Jack"})
        [found] = sdk.query("SELECT Id, FirstName FROM Contact WHERE LastName = 'O\\'Neill'")[
            "records"
        ]
        assert "Jack" == found["FirstName"]
        assert {
            "type": "Contact",
            "url": f"/services/data/v67.0/sobjects/Contact/{made['id']}",
        } == found["attributes"]
        assert 204 == sdk.Contact.delete(made["id"])
        with pytest.raises(SalesforceResourceNotFound, match="ENTITY_IS_DELETED"):
            sdk.Contact.get(made["id"])
        assert 0 == sdk.query("SELECT Id FROM Contact")["totalSize"]
        [gone] = sdk.query("SELECT Id, IsDeleted FROM Contact", include_deleted=True)["records"]
        assert gone["IsDeleted"]

    with_sdk(test)


def test_the_sdk_walks_the_batches_of_a_query():
    """query_more and query_all follow nextRecordsUrl to the end; a batch is 2,000 records."""

    def test(sdk: Sdk, simulated: Salesforce, clock: Clock) -> None:
        for number in range(4500):
            simulated.create("Account", Name=f"a{number}")
        first = sdk.query("SELECT Id FROM Account ORDER BY Id")
        assert (2000, 4500, False) == (len(first["records"]), first["totalSize"], first["done"])
        second = sdk.query_more(first["nextRecordsUrl"], identifier_is_url=True)
        third = sdk.query_more(second["nextRecordsUrl"].rpartition("/")[2])
        assert (2000, 500, True) == (len(second["records"]), len(third["records"]), third["done"])
        ids = [one["Id"] for page in (first, second, third) for one in page["records"]]
        assert 4500 == len(set(ids))
        assert 4500 == len(sdk.query_all("SELECT Id FROM Account")["records"])
        simulated.expire_locators()
        with pytest.raises(SalesforceMalformedRequest, match="INVALID_QUERY_LOCATOR"):
            sdk.query_more(first["nextRecordsUrl"], identifier_is_url=True)

    with_sdk(test)


def test_the_sdk_asks_what_was_deleted_and_updated():
    """deleted() and updated() cut the seconds off their times, and say up to when they know everything."""

    def test(sdk: Sdk, simulated: Salesforce, clock: Clock) -> None:
        kept, gone, purged = (simulated.create("Lead", LastName=name) for name in "abc")
        simulated.delete("Lead", gone["Id"])
        simulated.delete("Lead", purged["Id"], hard=True)
        # Both ends become 10:00:00: what happened at 10:00:30 is in the minute that begins there.
        answer = sdk.Lead.deleted(START - timedelta(minutes=10), START)
        assert [] == answer["deletedRecords"]
        clock.advance(60)
        answer = sdk.Lead.deleted(START, clock())
        assert {gone["Id"], purged["Id"]} == {one["id"] for one in answer["deletedRecords"]}
        assert "2026-11-20T10:01:00.000+0000" == answer["latestDateCovered"]
        assert [kept["Id"]] == sdk.Lead.updated(START, clock())["ids"]
        simulated.create("Lead", LastName="late", late=3600)
        clock.advance(600)
        answer = sdk.Lead.deleted(START, clock())
        assert "2026-11-20T10:01:30.000+0000" == answer["latestDateCovered"]
        with pytest.raises(SalesforceMalformedRequest, match="INVALID_REPLICATION_DATE"):
            sdk.Lead.deleted(START - timedelta(days=16), START)

    with_sdk(test)


def test_the_sdk_is_told_what_it_did_wrong():
    """Errors have the status and the code that the SDK knows: wrong quotes, unknown names, a missing field."""

    def test(sdk: Sdk, simulated: Salesforce, clock: Clock) -> None:
        for soql, code in (
            (
                "SELECT Id FROM Contact WHERE SystemModstamp > '2026-11-20T10:00:00Z'",
                "INVALID_FIELD",
            ),
            ("SELECT Id FROM Contact WHERE LastName = 5", "INVALID_FIELD"),
            (
                "SELECT Id FROM Contact WHERE LastName = 'a' OR LastName = 'b' AND Id != null",
                "MALFORMED_QUERY",
            ),
            ("SELECT FIELDS(ALL) FROM Contact", "MALFORMED_QUERY"),
            ("SELECT Id FROM Nothing", "INVALID_TYPE"),
            ("SELECT Nothing FROM Contact", "INVALID_FIELD"),
        ):
            with pytest.raises(SalesforceMalformedRequest, match=code):
                sdk.query(soql)
        with pytest.raises(SalesforceMalformedRequest, match="REQUIRED_FIELD_MISSING"):
            sdk.Contact.create({"FirstName": "Nobody"})
        with pytest.raises(SalesforceResourceNotFound):
            sdk.Nothing__c.create({"Name": "x"})

    with_sdk(test)


def test_the_sdk_sees_the_allowance():
    """Every answer says how much of the day's allowance is used; beyond it all is refused, as 403."""

    def test(sdk: Sdk, simulated: Salesforce, clock: Clock) -> None:
        sdk.query("SELECT Id FROM Contact")
        assert (1, 2) == (sdk.api_usage["api-usage"].used, sdk.api_usage["api-usage"].total)
        assert 0 == sdk.limits()["DailyApiRequests"]["Remaining"]
        with pytest.raises(SalesforceRefusedRequest, match="REQUEST_LIMIT_EXCEEDED"):
            sdk.query("SELECT Id FROM Contact")
        simulated.expire_access()
        with pytest.raises(SalesforceExpiredSession, match="INVALID_SESSION_ID"):
            sdk.query("SELECT Id FROM Contact")

    with_sdk(test, allowance=2)


def test_the_sdk_logs_in_by_itself():
    """With client credentials the SDK fetches its own session, and another when that one is over."""

    async def main() -> None:
        simulated = Salesforce(client_id="the id", client_secret="the secret")
        async with simulated.running() as origin:

            def test() -> None:
                with requests.Session() as session:
                    session.mount("https://", ToPlain(origin))
                    sdk = Sdk(
                        consumer_key="the id",
                        consumer_secret="the secret",
                        domain="org.my",
                        session=session,
                    )
                    sdk.Contact.create({"LastName": "One"})
                    simulated.expire_access()
                    assert 1 == sdk.query("SELECT COUNT() FROM Contact")["totalSize"]
                    with pytest.raises(SalesforceAuthenticationFailed):
                        Sdk(
                            consumer_key="the id",
                            consumer_secret="wrong",
                            domain="org.my",
                            session=session,
                        )

            await asyncio.to_thread(test)

    asyncio.run(main())
