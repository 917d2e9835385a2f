"""Addresses: a setting, a resource or a provider's link never leads to another server."""

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.elements.address import below, following, origin, segment, whole, with_query
from daemon.errors import Invalid, Refused

BASE = "https://{site}.shop.example/api/{area}"
wild = st.one_of(st.text(max_size=30), st.text(alphabet="./%\\@:?#[]a1- \t", max_size=15))


@given(wild, wild)
@example("evil.example/", "x")
@example("evil.example#", "x")
@example("a", "../../x")
@example("a", "..")
@example("u:p@evil.example", "x")
def test_a_setting_stays_in_its_part(site: str, area: str):
    """Whatever the settings, the host ends as the template does and the path begins as it does, or it is `Invalid`."""
    try:
        url = whole(BASE, {"site": site, "area": area})
    except Invalid:
        return
    parts = urlsplit(url)

    assert (parts.hostname or "").endswith(".shop.example")
    assert (None, None, "", "") == (parts.username, parts.port, parts.query, parts.fragment)
    assert parts.path.startswith("/api/")
    assert 2 == parts.path.count("/")


@given(wild)
@example("//evil.example/x")
@example("http://evil.example")
@example("a/../../b")
@example("%2e%2e/x")
def test_a_resource_lies_below_the_base(path: str):
    """Whatever the resource, the address begins with the base's, or it is `Invalid`."""
    try:
        url = below("https://shop.example/v1", path)
    except Invalid:
        return
    parts = urlsplit(url)

    assert ("shop.example", "", "") == (parts.netloc, parts.query, parts.fragment)
    assert parts.path == "/v1" or parts.path.startswith("/v1/")
    assert not {".", ".."} & set(parts.path.split("/"))


@given(wild)
@example("https://shop.example.evil.example/")
@example("https://shop.example@evil.example/")
@example("http://shop.example/")
@example("https://shop.example:444/")
@example("//[")
@example("https://shop.example:x/")
@example("@evil.example/x")
@example("/\\evil.example")
@example("https:///evil.example")
def test_a_link_stays_on_its_server(link: str):
    """Whatever the provider names as its next page, it has the base's origin or is `Refused`."""
    for relative_to in ("base", "request"):
        try:
            url = following(
                link,
                here="https://shop.example/v1/orders?a=1",
                base="https://shop.example/v1",
                relative_to=relative_to,
            )
        except Refused:
            continue

        assert ("https", "shop.example", 443) == origin(url)


@given(st.text(max_size=30))
def test_an_id_is_one_part_of_a_path(text: str):
    """Quoted, an id holds nothing that divides a path; dots alone are `Refused`."""
    if text in (".", ".."):
        with pytest.raises(Refused):
            segment(text)
        return

    assert not set("/?#\\") & set(segment(text))


def test_parameters_are_replaced_not_repeated():
    """The page's number of the next page takes the place of this one's."""
    assert "https://x/a?q=a%26b&page=2" == with_query("https://x/a?page=1&q=a%26b", [("page", "2")])
