"""Reading providers for changes: one coroutine per instance, its resources in turn, page by page into the log.

When
    pollers     which instances are polled, followed through the directory
    poller      one instance: when its resources are read
    progress    how far a resource is, and what stands in its way
    trouble     what went wrong, written down, and the wait that follows
    polling     what all of them share

One round of reading a resource: from a source, judged, into the ledger
    rounds      what a round works with
    baseline    the first
    changes     each later one; webhooks' hints alone, where that is enough
    feeding     walk    of a resource that has a feed of changes, instead

With what
    source      the resource at its provider
    ledger      the resource in the log
    judging     which records are news, and of what kind
    sweep       objects that are no more
    reach       how far the cursor may go
    clocks      a provider's clock that is put back
    hints       what webhooks spoke of
"""

from daemon.poller.pollers import Pollers
from daemon.poller.polling import Polling

__all__ = ["Pollers", "Polling"]
