"""event.objects of an element whose defaults hold for any object."""

import pytest

from daemon.elements import load
from daemon.errors import Invalid
from daemon.plans import compile_plans


def test_objects_that_the_defaults_do_not_name_are_polled():
    """Salesforce has custom objects: each is polled as the defaults say of any, and none unless it is named."""
    defaults = load().get("sfdc").poller_defaults

    assert 4 == len(compile_plans({}, defaults))
    plans = compile_plans({"event.objects": "account, Invoice__c,Case"}, defaults)
    assert ["Account", "Invoice__c", "Case"] == [one.resource for one in plans]
    assert plans[1].url.startswith("/hubs/crm/Invoice__c?where=SystemModstamp>=")
    with pytest.raises(Invalid, match="cannot be polled here"):
        compile_plans({"event.objects": "Contact,a b"}, defaults)
