"""Salesforce's outbound messages: SOAP that a stranger may have written, read without believing more than its text.

An envelope holds up to 100 notifications of one organization; each has an id of its own and the record as it was
when the message was sent, or nothing of it where it was deleted meanwhile.  A document type, and with it every
entity, is refused before anything is made of it; nothing outside the message is ever fetched.

https://developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_om_outboundmessaging_notifications.htm
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from daemon.errors import Invalid
from daemon.model import Json

ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
OUTBOUND = "http://soap.sforce.com/2005/09/outbound"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

MOST_NOTIFICATIONS = 100
MOST_ELEMENTS = 100_000
DEEPEST = 16
LONGEST = 16 * 1024 * 1024  # bytes

ACK = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    f'<soapenv:Envelope xmlns:soapenv="{ENVELOPE}"><soapenv:Body>'
    f'<notificationsResponse xmlns="{OUTBOUND}"><Ack>true</Ack></notificationsResponse>'
    "</soapenv:Body></soapenv:Envelope>"
).encode()
"""The only answer that Salesforce takes for an acknowledgement: a 200 without it is sent again, for a day."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


@dataclass(frozen=True, slots=True)
class Notification:
    """One record of a message: *kind* is its object (`Contact`), *fields* what the message says of it.

    *fields* is empty where the record was deleted before it could be sent.
    """

    id: str
    kind: str
    fields: Json


@dataclass(frozen=True, slots=True)
class Message:
    """A whole outbound message, without the session id that old ones carry."""

    organization: str
    action: str
    addresses: Mapping[str, str]
    notifications: tuple[Notification, ...]

    def as_json(self) -> Json:
        """The message as it is kept: its own names, a list of notifications."""
        return {
            "OrganizationId": self.organization,
            "ActionId": self.action,
            **self.addresses,
            "Notification": [
                {"Id": one.id, "sObject": {"attributes": {"type": one.kind}, **one.fields}}
                for one in self.notifications
            ],
        }


@dataclass(slots=True)
class _Element:
    name: str  # namespace and local name, a space between them
    attributes: Mapping[str, str]
    children: list["_Element"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def local(self) -> str:
        return self.name.rpartition(" ")[2]

    @property
    def text(self) -> str:
        return "".join(self.texts).strip()

    def child(self, name: str) -> "_Element | None":
        return next((one for one in self.children if one.name == name), None)

    def said(self, name: str) -> str:
        found = self.child(f"{OUTBOUND} {name}")
        return "" if found is None else found.text


def parse(body: bytes) -> Message:
    """The message that *body* is; raises `Invalid` for anything else."""
    root = _tree(body)
    soap = root.child(f"{ENVELOPE} Body") if root.name == f"{ENVELOPE} Envelope" else None
    told = None if soap is None else soap.child(f"{OUTBOUND} notifications")
    if told is None:
        raise Invalid({"body": "is not an outbound message: Envelope, Body, notifications"})
    organization = told.said("OrganizationId")
    if not organization:
        raise Invalid({"OrganizationId": "is missing"})
    found = [one for one in told.children if one.name == f"{OUTBOUND} Notification"]
    if len(found) > MOST_NOTIFICATIONS:
        raise Invalid(
            {"Notification": f"stands there {len(found)} times; at most {MOST_NOTIFICATIONS} do"}
        )
    return Message(
        organization=organization,
        action=told.said("ActionId"),
        addresses={name: told.said(name) for name in ("EnterpriseUrl", "PartnerUrl")},
        notifications=tuple(_notification(one) for one in found),
    )


def _notification(element: _Element) -> Notification:
    identity = element.said("Id")
    if not identity:
        raise Invalid({"Notification": "has no Id"})
    record = element.child(f"{OUTBOUND} sObject")
    if record is None:
        return Notification(identity, "", {})
    kind = record.attributes.get(f"{INSTANCE} type", "").rpartition(":")[2]
    return Notification(identity, kind, {one.local: _value(one) for one in record.children})


def _value(element: _Element) -> object:
    """A field's value: a text, or an object for a compound one such as an address."""
    if element.attributes.get(f"{INSTANCE} nil") in ("true", "1"):
        return None
    if element.children:
        return {one.local: _value(one) for one in element.children}
    return element.text


def _tree(body: bytes) -> _Element:
    if len(body) > LONGEST:
        raise Invalid({"body": f"is longer than {LONGEST} bytes"})
    open_: list[_Element] = [_Element("", {})]
    count = 0

    def refuse(*_: object) -> None:
        raise Invalid(
            {"body": "holds a document type or an entity, which no outbound message does"}
        )

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS or len(open_) > DEEPEST:
            raise Invalid(
                {"body": "holds more elements, or deeper ones, than any outbound message"}
            )
        element = _Element(name, attributes)
        open_[-1].children.append(element)
        open_.append(element)

    def end(name: str) -> None:
        open_.pop()

    def text(data: str) -> None:
        open_[-1].texts.append(data)

    # Whatever it says of itself: other encodings would be looked up among Python's own.
    parser = expat.ParserCreate("UTF-8", " ")
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(body, True)  # noqa: FBT003 — expat takes it by position only
    except expat.ExpatError as error:
        raise Invalid({"body": f"is not XML that can be read: {error}"}) from error
    return open_[0].children[0]


def eighteen(identifier: str) -> str:
    """An id of 15 characters, which case tells apart, as the 18 that are unique without it.

    What is not of 15 characters is returned as it is.
    """
    if len(identifier) != 15:  # noqa: PLR2004 — the length of such an id
        return identifier
    chunks = (identifier[at : at + 5] for at in (0, 5, 10))
    return identifier + "".join(
        _LETTERS[sum(1 << place for place, one in enumerate(chunk) if "A" <= one <= "Z")]
        for chunk in chunks
    )


def same(one: str, other: str) -> bool:
    """Whether two ids, of 15 or 18 characters, are the same: the first 15 are, case and all."""
    return one[:15] == other[:15]
