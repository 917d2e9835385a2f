"""Campaign Monitor's webhooks: what one says, and having one for every list.

Nothing is signed: that a webhook may be believed is for the secret in its address to say.
"""

from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Any

import orjson

from daemon.elements.address import segment
from daemon.elements.campaignmonitor.api import Api, canonical, is_list_id, object_id
from daemon.errors import Invalid
from daemon.model import ChangeType, Incoming, WebhookEvent

EVENTS = ("Subscribe", "Update", "Deactivate")
_CHANGES = {
    "Subscribe": ChangeType.CREATED,
    "Update": ChangeType.UPDATED,
    "Deactivate": ChangeType.UPDATED,
}


def parse(incoming: Incoming) -> tuple[str, list[Any]]:
    """The list that a webhook is about, and its events; raises `Invalid`."""
    try:
        body = orjson.loads(incoming.body)
    except orjson.JSONDecodeError as error:
        raise Invalid({"body": f"is not JSON: {error}"}) from error
    events = body.get("Events") if isinstance(body, dict) else None
    list_id = body.get("ListID") if isinstance(body, dict) else None
    if not isinstance(events, list) or not isinstance(list_id, str):
        raise Invalid({"body": "should be an object with Events and ListID"})
    if not is_list_id(list_id):
        raise Invalid({"ListID": "should be 32 hexadecimal digits"})
    return list_id.lower(), events


def changes(resource: str, list_id: str, one: Any, number: int) -> list[WebhookEvent]:
    """What event *number* says: of a changed address, that the old one is gone as well.  Raises `Invalid`."""
    address = one.get("EmailAddress") if isinstance(one, dict) else None
    if not isinstance(address, str) or not address.strip():
        raise Invalid({f"Events[{number}]": "has no EmailAddress"})
    identity = blake2b(canonical([list_id, one]), digest_size=16).hexdigest()
    kind = str(one.get("Type"))
    change = _CHANGES.get(kind, ChangeType.UNKNOWN)
    if kind == "Deactivate" and one.get("State") == "Deleted":
        change = ChangeType.DELETED
    here = object_id(list_id, address)
    found: list[WebhookEvent] = []
    old = one.get("OldEmailAddress")
    if isinstance(old, str) and old.strip() and (was := object_id(list_id, old)) != here:
        found = [WebhookEvent(resource, was, ChangeType.DELETED, None, identity)]
        change = ChangeType.CREATED
    # Its date says no zone: it is no moment.
    return [*found, WebhookEvent(resource, here, change, None, identity)]


async def tended(
    api: Api, list_id: str, address: str, *, known: AbstractSet[str], wanted: bool
) -> str | None:
    """Have one active webhook of the list at *address*, where one is *wanted*; its id, None where not.

    Ours are those *known* by their ids, and those at an address that differs from *address* in its secret only.
    Ours that do not fit, or that there are twice, are removed.  Raises what `Http.send` raises.
    """
    path = f"lists/{segment(list_id)}/webhooks"
    before_secret = address.rpartition(".")[0] + "."
    good: str | None = None
    for hook in (await api.get(f"{path}.json")).body or []:
        hook_id, url = str(hook["WebhookID"]), str(hook.get("Url"))
        if hook_id not in known and not url.startswith(before_secret):
            continue
        fits = set(EVENTS) == set(hook.get("Events") or ())
        fits = fits and str(hook.get("PayloadFormat")).lower() == "json" and url == address
        if not fits or not wanted or good is not None:
            await api.send("DELETE", f"{path}/{segment(hook_id)}.json")
            continue
        good = hook_id
        if hook.get("Status") != "Active":
            await api.send("PUT", f"{path}/{segment(hook_id)}/activate.json", body={})
    if good is None and wanted:
        body = {"Events": list(EVENTS), "Url": address, "PayloadFormat": "json"}
        good = str((await api.send("POST", f"{path}.json", body=body)).body)
    return good
