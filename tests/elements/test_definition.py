"""The TOML file of an element: what is wrong with it, and what it then offers."""

from pathlib import Path

import pytest
from elements.files import API, HEAD, HOOK, element

from daemon.elements.loading import load
from daemon.errors import ConfigError, Invalid
from daemon.model import Query


def problem(*parts: str) -> str:
    """What is said of a definition, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        element(*parts)
    text = str(caught.value)
    assert all(line.startswith("/nowhere/shop.toml: ") for line in text.splitlines())
    return text.replace("/nowhere/shop.toml: ", "")


RESOURCE = API + "[resources.orders]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1\n" + API, "colour: is unknown; there are any_resource, auth, connection"),
        ("descripton = 'x'\n" + API, "descripton: is unknown; did you mean description?"),
        ("", "connection is missing: give [connection] for polling, or [webhook], or both"),
        ("any_resource = true\n" + HOOK, "connection is missing: resources are read from its base address"),
        ("[connection]\nbase = 'shop'", "connection.base: it should be an address such as"),
        ("[connection]\nbase = 'https://u:p@shop.example'", "connection.base: it should be an address"),
        ("[connection]\nbase = 'https://x.example/?a=1'", "connection.base: it should be an address"),
        ("[connection]\nbase = 1", "connection.base: should be a text in quotes"),
        ("[connection]\noverride = true", "connection.base: is missing"),
        (API + "headers = { 'Content-Length' = '1' }", "connection.headers.Content-Length: Content-Length is not an element's to set"),
        (API + "headers = { 'a b' = '1' }", "connection.headers.a b: 'a b' is not the name of a header"),
        (API + "[auth]\nkind = 'digest'", "auth.kind: should be one of 'none', 'basic', 'header'"),
        (API + "[auth]\nkind = 'header'", 'auth: name is missing: kind = "header" needs it'),
        (API + "[auth]\nkind = 'basic'\nscope = 'x'", 'auth: scope means nothing with kind = "basic": remove it'),
        (API + "[auth]\nkind = 'oauth2'", 'auth: authorize_url is missing: kind = "oauth2" needs it'),
        (RESOURCE + "pageing = 1", "resources.orders.pageing: is unknown; did you mean paging?"),
        (RESOURCE + "paging = { kind = 'pages' }", "resources.orders.paging.kind: should be one of"),
        (RESOURCE + "paging = { kind = 'page' }", 'resources.orders.paging: parameter is missing: kind = "page" needs it'),
        (RESOURCE + "paging = { kind = 'token', parameter = 'c' }", "resources.orders.paging: next is missing"),
        (RESOURCE + "paging = { kind = 'none', first = 1 }", "resources.orders.paging: first means nothing with"),
        (RESOURCE + "paging = { kind = 'page', parameter = 'p', short_is_last = true }", "short_is_last needs size"),
        (RESOURCE + "paging = { size = 9, size_max = 5 }", "resources.orders.paging: size 9 is more than size_max 5"),
        (RESOURCE + "where = { 'updated' = 'since' }", "resources.orders: where.updated: the key should be an attribute and an operator"),
        (RESOURCE + "where = { 'a=' = { parameter = 'b', date = 'yyyy-MM-dd jj' } }", "resources.orders.where.a=.date:"),
        (RESOURCE + "where = { 'a=' = { parameter = 'b', date = 'HH:mm' } }", "names no day"),
        (RESOURCE + "where = { 'a=' = { date = 'seconds' } }", "resources.orders.where.a=.parameter: is missing"),
        (RESOURCE + "timezone = 'Mars'", "resources.orders.timezone:"),
        (RESOURCE + "deletes = 'marker'", 'resources.orders.deleted.field is missing: deletes = "marker" needs it'),
        (RESOURCE + "deletes = 'channel'", "resources.orders.deleted.parameter is missing"),
        (RESOURCE + "item = 'orders'", "resources.orders.item should hold {id}"),
        (API + "[resources.'../x']", "resources.../x: should be of the form"),
        (API + "[[parameters]]\nkey = 'a'\nname = 'A'\n[[parameters]]\nkey = 'a'\nname = 'B'", "parameters: a stands there more than once"),
        (API + "[[parameters]]\nkey = 'a'\nname = 'A'\ntype = 'TEXT'", "parameters.0.type: should be one of"),
        ("[webhook]\n[webhook.events]\nid = 'id'\nobject_type = 'x'", "webhook: signature is missing: give [webhook.signature]"),
        (HOOK.replace('object_type = "orders"', ""), "webhook.events: give object_type (a name) or object_type_source"),
        (HOOK + "types = { a = 'CREATED' }", "webhook.events: type is missing"),
        (HOOK + "type = 'action'\ntypes = { a = 'MADE' }", "webhook.events.types.a: should be one of 'CREATED', 'UPDATED'"),
        (HOOK + "route = 'account'", "webhook: routing_key and events.route belong together"),
        (HOOK.replace("unsigned = true", "unsigned = true\nunguessable = true"), "webhook: unsigned = true contradicts signature and unguessable"),
        (HOOK + "[webhook.signature]\nheader = 'X'\ntext = '{url}'", "webhook.signature: text should hold {body}"),
        (HOOK + "[webhook.signature]\nheader = 'X'\ntext = '{time}{body}'", "webhook.signature: text: {time} is unknown"),
        (HOOK + "[webhook.signature]\nheader = 'X'\ntext = '{timestamp}{body}'", "webhook.signature: timestamp_header is missing"),
        (HOOK + "[webhook.signature]\nheader = 'X'\nalgorithm = 'md5'", "webhook.signature.algorithm: should be one of 'sha1'"),
        (HOOK + "[webhook.signature]\nheader = 'X'\nsecret_file = 'nowhere.key'", "webhook.signature.secret_file: /nowhere/nowhere.key: cannot be read"),
        (HOOK + "[[webhook.challenge]]\nsource = 'query:c'\nanswer = 'hmac'", 'webhook.challenge.0: answer = "hmac" needs key or secret_file'),
        (HOOK + "[[webhook.challenge]]\nsource = 'query:c'\ncontent_type = 'text/html'", "webhook.challenge.0.content_type: should be one of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: str, said: str):
    """Every mistake is named by its place in the file and what should be there; none passes in silence."""
    if "unsigned" in text and "[webhook.signature]" in text:
        text = text.replace("unsigned = true\n", "")

    assert said in problem(text)


def test_all_mistakes_are_said_at_once():
    """An operator mends a file in one go: each line is one mistake."""
    said = problem("colour = 1\n[connection]\nbase = 1\n[auth]\nkind = 'x'").splitlines()

    assert 3 == len(said)


def test_what_is_not_toml_is_said_with_its_line():
    """A slip of syntax is named with the parser's line."""
    assert "is not TOML" in problem("[connection")
    assert "at line 5" in problem("a = = 1")


def test_numbers_are_not_texts():
    """No value is bent into another type: "1" is no number, 1 no text, "yes" no flag."""
    assert "should be a whole number" in problem(API, "[resources.orders]\npaging = { size = '5' }")
    assert "should be true or false" in problem("any_resource = 'yes'", API)


def test_defaults_hold_for_every_resource():
    """A resource has what [defaults] says unless it says otherwise itself; filters and parameters add up."""
    shop = element(
        API,
        "[defaults]\nid = 'key'\nitems = 'rows'\nparameters = { a = 1 }\nwhere = { 'x=' = 'x' }\n"
        "[resources.orders]\nid = 'number'\nparameters = { b = 2 }\nwhere = { 'y=' = 'y' }\n[resources.customers]",
    )
    orders, customers = (shop.definition.resource(name) for name in ("orders", "customers"))

    assert orders is not None
    assert customers is not None
    assert ("number", "rows", {"a": 1, "b": 2}, {"x=", "y="}) == (
        orders.id,
        orders.items,
        orders.parameters,
        set(orders.where),
    )
    assert ("key", {"a": 1}) == (customers.id, customers.parameters)


def test_poller_defaults_are_written_as_a_customer_would():
    """A resource with a filter and dates makes a complete `event.poller.configuration` of its own."""
    shop = element(
        "hub = 'erp'",
        API,
        "[resources.orders]\nid = 'no'\nupdated = 'm.at'\ncreated = 'm.made'\ndate_format = 'milliseconds'\n"
        "created_tolerance = 2\nwhere = { 'm.at>' = 'since' }\n[resources.notes]\ncreated = 'at'\n[resources.old]\npolled = false",
    )

    assert {
        "orders": {
            "url": "/hubs/erp/orders?where=m.at>'${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'",
            "idField": "no",
            "datesConfiguration": {
                "updatedDateField": "m.at",
                "updatedDateFormat": "milliseconds",
                "updatedDateTimezone": "GMT",
                "createdDateField": "m.made",
                "createdDateFormat": "milliseconds",
                "createdDateTimezone": "GMT",
            },
            "createdCheckTolerance": 2,
        },
        "notes": {
            "url": "/hubs/erp/notes",
            "idField": "id",
            "datesConfiguration": {
                "updatedDateField": "at",
                "updatedDateFormat": "yyyy-MM-dd'T'HH:mm:ss'Z'",
                "updatedDateTimezone": "GMT",
                "createdDateField": "at",
                "createdDateFormat": "yyyy-MM-dd'T'HH:mm:ss'Z'",
                "createdDateTimezone": "GMT",
            },
            "filterByUpdatedDate": False,
        },
    } == shop.poller_defaults


def test_settings_are_checked_before_they_are_used():
    """What is missing, and an address that is none, is named by its configuration key."""
    shop = element("[connection]\nbase = 'https://{site}.shop.example/{area}'")
    for bad in ("evil.example/", "a@b", "..", "a..b", "x:1", ""):
        with pytest.raises(Invalid) as caught:
            shop.check_settings({"site": bad, "area": "eu"})

        assert ["configuration.site"] == list(caught.value.problems)
    shop.check_settings({"site": "north-1", "area": "a/b?c"})


@pytest.mark.parametrize(
    "url", ["shop", "ftp://x", "https://u@x.example", "https://x.example?a=1", "https://x y", "https://x.example#a", "http://"]
)  # fmt: skip
def test_a_base_address_of_an_instance_is_checked(url: str):
    """base.url is an http address without user, query and fragment."""
    with pytest.raises(
        Invalid, match=r"configuration\.base\.url: should be an http or https address"
    ):
        element(API).check_settings({"base.url": url})


def test_an_unknown_resource_is_named():
    """The message lists the resources there are; an element with any_resource takes all."""
    with pytest.raises(Invalid, match="shop has no 'order'; there is orders"):
        element(API, "[resources.orders]").check_query(Query("order"))
    element("any_resource = true", API).check_query(Query("order"))


def test_a_secret_file_is_read_beside_the_definition(tmp_path: Path):
    """secret_file is relative to the definition, its white space does not count, and it may not be empty."""
    text = HEAD + HOOK.replace("unsigned = true\n", "")
    text += "[webhook.signature]\nheader = 'X'\nsecret_file = 'app.key'\n"
    path = tmp_path / "shop.toml"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "app.key").write_text(" \n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"app\.key is empty"):
        load(path)
    (tmp_path / "app.key").write_text("s3cret\n", encoding="utf-8")

    shop = load(path)

    assert {"webhook.signature.secret_file": "s3cret"} == shop._secrets
    assert "s3cret" not in repr(shop)
    assert () == shop.parameters
