"""Parcels, nobody's carrier: the seventh element, which a test adds to a copy of the package.

Its list is asked for by POST, which a definition cannot say; all the rest is one.
"""

from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime

import orjson

from daemon.elements.base import Http, Settings
from daemon.elements.defined import Defined
from daemon.model import Page, Query, Request

SEARCH = "https://api.parcels.example/v1/parcels/search"
MOST_PAGES = 1000

DEFINITION = """
id = 999
key = "parcels"
name = "Parcels"
hub = "logistics"
description = "A carrier's parcels, to poll, and labels, which it posts webhooks about."

[[parameters]]
key = "signature.secret"
name = "Webhook secret"
secret = true

[connection]
base = "https://api.parcels.example/v1"

[auth]
kind = "bearer"

[resources.parcels]
poll = "/hubs/logistics/parcels?where=changed>='${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'"
id = "number"
updated = "scan.at"
created = "handed.at"

[webhook]
routing_key = "parcels.account"

[webhook.signature]
header = "X-Parcels-Signature"

[webhook.events]
items = "events"
id = "of.number"
object_type_source = "of.kind"
type = "what"
types = { "*.printed" = "CREATED", "*.void" = "DELETED", "*" = "UPDATED" }
date = "at"
identity = "event"
route = "$.account"
"""


class Parcels(Defined):
    """The element."""

    source = DEFINITION

    def read(self, http: Http, settings: Settings, query: Query) -> AsyncGenerator[Page]:
        """Yield the pages of the search for what changed since the query's moment."""
        return self._searched(http, query)

    async def _searched(self, http: Http, query: Query) -> AsyncGenerator[Page]:
        wanted = {one.attribute: one.value for one in query.conditions}
        for number in range(1, MOST_PAGES + 1):
            answer = await http.send(
                Request(
                    "POST",
                    self.at(SEARCH),
                    {"Content-Type": "application/json"},
                    orjson.dumps({"filter": wanted, "page": number}),
                )
            )
            body = orjson.loads(answer.body)
            asked = parsedate_to_datetime(answer.headers["Date"])
            yield Page(tuple(body["parcels"]), asked, last=not body["more"])
            if not body["more"]:
                return
