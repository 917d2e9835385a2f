"""The dropbox element against a simulated Dropbox and recorded bodies: access, reading, the feed, what goes wrong."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from daemon.elements import built_in
from daemon.elements.base import Element
from daemon.elements.connection import Connection
from daemon.elements.simulators.dropbox.server import Dropbox
from daemon.errors import Invalid, Refused, TokenLost, Transient, Unauthorized
from daemon.model import Condition, FeedEntry, FeedPage, Page, Query, Request, Response
from daemon.outbound.client import Client
from daemon.plans import compile_plans

HERE = Path(__file__).parent / "dropbox"
SETTINGS = {
    "oauth.api.key": "client",
    "oauth.api.secret": "s3cret",
    "oauth.callback.url": "https://mycoolapp.com/auth",
}
FILES, FOLDERS = Query("files"), Query("folders")


class Box:
    """A simulated account, the element beside it, and a connected instance."""

    def __init__(self, server: Dropbox, element: Element, http: Client) -> None:
        self.server, self.element, self.http = server, element, http
        self.settings = SETTINGS | server.access()
        self.saved: list[dict[str, str]] = []

    @property
    def connection(self) -> Connection:
        """A new one."""

        async def save(settings: dict[str, str]) -> None:
            self.saved.append(settings)

        return Connection(http=self.http, element=self.element, settings=self.settings, save=save)

    async def read(self, query: Query = FILES, **settings: str) -> list[Page]:
        """The pages that answer *query*; `__` in a setting's name is a dot."""
        return await collect(
            self.element.read(self.connection, self.settings | dotted(settings), query)
        )

    async def feed(
        self, token: str | None = None, query: Query = FILES, **settings: str
    ) -> list[FeedPage]:
        """The pages of the feed from *token* on."""
        return await collect(
            self.element.feed(self.connection, self.settings | dotted(settings), query, token)
        )


def dotted(settings: dict[str, str]) -> dict[str, str]:
    """With dots for `__`."""
    return {name.replace("__", "."): value for name, value in settings.items()}


async def collect(pages: AsyncGenerator[Any] | None) -> list[Any]:
    """All pages."""
    assert pages is not None
    async with aclosing(pages):
        return [page async for page in pages]


def with_box(test: Callable[[Box], Awaitable[Any]], **chosen: Any) -> Any:
    """Run *test* on a simulated account."""

    async def main() -> Any:
        server = Dropbox(app_key="client", app_secret="s3cret", **chosen)
        async with server.running() as origin, Client() as http, asyncio.timeout(20):
            return await test(Box(server, built_in("dropbox").beside(origin), http))

    return asyncio.run(main())


class Recorded:
    """A connection that gives recorded answers in turn."""

    def __init__(self, *bodies: bytes) -> None:
        self.bodies = list(bodies)
        self.asked: list[tuple[str, Any]] = []

    async def send(self, request: Request) -> Response:
        """The next answer."""
        self.asked.append((request.url, orjson.loads(request.body or b"null")))
        return Response(200, {}, self.bodies.pop(0), request.url)


def names(pages: list[Page]) -> list[str]:
    """The paths of all records, in order."""
    return [record["path_display"] for page in pages for record in page.records]


def paths(pages: list[FeedPage]) -> list[str]:
    """The places of all entries, in order; in brackets where there is nothing any more."""
    return [
        one.place if one.object_id else f"({one.place})" for page in pages for one in page.entries
    ]


# Access.


@pytest.mark.element("dropbox", "OAuth")
def test_a_person_grants_access_for_good():
    """The address asks for offline access; the code brings both tokens and the account that webhooks will name."""

    async def test(box: Box) -> dict[str, str]:
        url = built_in("dropbox").authorize_url(SETTINGS, state="s1")
        asked = {name: value for name, [value] in parse_qs(urlsplit(url).query).items()}
        assert "https://www.dropbox.com/oauth2/authorize" == url.partition("?")[0]
        assert {
            "response_type": "code",
            "client_id": "client",
            "redirect_uri": SETTINGS["oauth.callback.url"],
            "token_access_type": "offline",
            "scope": "account_info.read files.metadata.read",
            "state": "s1",
        } == asked
        code = box.server.grant(SETTINGS["oauth.callback.url"])
        return await box.element.exchange(box.http, SETTINGS, code, {})

    kept = with_box(test)
    assert {
        "oauth.user.id", "oauth.user.token", "oauth.user.refresh_token", "oauth.user.refresh_interval",
    } == set(kept)  # fmt: skip
    assert "dbid:AAH4f99T0taONIb-OurWxbNQ6ywGRopQngc" == kept["oauth.user.id"]
    assert "14400" == kept["oauth.user.refresh_interval"]


@pytest.mark.element("dropbox", "refresh")
def test_an_expired_token_is_refreshed_and_the_refresh_token_stays():
    """In the middle of a walk a 401 leads to a new access token; no new refresh token comes, and the old one goes on."""

    async def test(box: Box) -> None:
        for n in range(4):
            box.server.upload(f"/{n}.txt")
        pages = box.element.read(box.connection, box.settings, FILES)
        seen = []
        async with aclosing(pages):
            async for page in pages:
                seen += page.records
                box.server.expire_access()
        assert 4 == len(seen)
        assert {"oauth.user.token", "oauth.user.refresh_interval"} == set(box.saved[0])
        box.settings |= box.saved[-1]
        assert 4 == len(names(await box.read()))
        box.server.revoke()
        with pytest.raises(Unauthorized):
            await box.read()

    with_box(test, page=2)


def test_a_scope_that_is_missing_is_not_refreshed():
    """401 that no new token mends leads to no refresh; 401 for an expired token does, and so does one without a reason."""
    dropbox = built_in("dropbox")

    def renewable(body: bytes) -> bool:
        return dropbox.renewable(Unauthorized("no", status=401, body=body))

    assert not renewable(
        b'{"error_summary": "missing_scope/", "error": {".tag": "missing_scope", "required_scope": "x"}}'
    )
    assert renewable(b'{"error": {".tag": "expired_access_token"}}')
    assert renewable(b"")


def test_an_api_key_is_refused_with_what_to_use_instead():
    """The documents' authentication.type apiKey never worked with Dropbox's API: the sentence says what does."""
    with pytest.raises(Invalid, match=r"no API keys.*oauth\.user\.token"):
        built_in("dropbox").check_settings(SETTINGS | {"authentication.type": "apiKey"})
    built_in("dropbox").check_settings(SETTINGS | {"authentication.type": "oauth2"})


def test_whose_account_it_is_is_found_out_where_only_tokens_were_given():
    """Without the account's id, webhooks would find nobody: it is asked for; where it is known it is not."""

    async def test(box: Box) -> None:
        assert {} == await box.element.tend(box.connection, box.settings, "https://t.example")
        known = {n: v for n, v in box.settings.items() if n != "oauth.user.id"}
        told = await box.element.tend(box.connection, known, "https://t.example")
        assert {"oauth.user.id": box.server.account_id} == told
        assert [("POST", "/2/users/get_current_account")] == list(box.server.requests)

    with_box(test)


def test_an_instance_with_events_alone_has_all_it_needs():
    """Its own poller configuration watches files and folders by the feed, dated by Dropbox's server."""
    [plan] = compile_plans({}, built_in("dropbox").poller_defaults)

    assert ("files", "files") == (plan.resource, plan.path)
    [entry, *_] = orjson.loads((HERE / "entries.json").read_bytes())["entries"]
    assert "id:a4ayc_80_OEAAAAAAAAAXw" == plan.object_id(entry)
    assert "2015-05-12T15:50:38+00:00" == str(plan.updated(entry)).replace(" ", "T")


# Reading.


@pytest.mark.element("dropbox", "polling")
def test_reading_shows_what_is_there():
    """Files and folders below the watched one, page by page; a path, one level, folders alone when asked."""

    async def test(box: Box) -> None:
        for path in ("/A/b/one.txt", "/A/two.txt", "/C/three.txt"):
            box.server.upload(path, path.encode())
        pages = await box.read()
        assert ["/A", "/A/b", "/A/b/one.txt", "/A/two.txt", "/C", "/C/three.txt"] == names(pages)
        assert [False, False, True] == [page.last for page in pages]
        assert ["/A", "/A/b", "/C"] == names(await box.read(FOLDERS))
        assert ["/C", "/C/three.txt"] == names(await box.read(dropbox__path="c"))
        one = Query("files", (Condition("path", "=", "/A"),), (("recursive", "false"),))
        assert ["/A/b", "/A/two.txt"] == names(await box.read(one))
        assert 6 == len(await box.read(Query("files", page_size=1)))

    with_box(test, page=2)


def test_what_dropbox_cannot_be_asked_is_refused():
    """A filter that Dropbox does not know is refused when it is configured, and a resource that there is not."""
    dropbox = built_in("dropbox")
    for query in (Query("files", (Condition("name", "=", "x"),)), Query("sharing")):
        with pytest.raises(Invalid):
            dropbox.check_query(query)
    dropbox.check_query(Query("files", (Condition("path", "=", "/x"),)))
    # A date means nothing to a feed.
    dropbox.check_query(
        Query("files", (Condition("lastModifiedDate", ">=", "2026-11-20T10:00:00Z"),))
    )
    assert dropbox.feed(Recorded(), SETTINGS, Query("sharing"), None) is None


def test_entries_are_what_the_specification_shows():
    """A file brings its revision and takes the place of all below, a folder keeps it, a deletion has a place only."""
    body = (HERE / "entries.json").read_bytes()
    file, folder, _ = orjson.loads(body)["entries"]

    async def read(query: Query) -> tuple[list[FeedPage], Recorded]:
        recorded = Recorded(body)
        return await collect(built_in("dropbox").feed(recorded, SETTINGS, query, None)), recorded

    [page], recorded = asyncio.run(read(FILES))
    assert (
        FeedEntry(
            "/homework/math/prime_numbers.txt", "id:a4ayc_80_OEAAAAAAAAAXw", "a1c10ce0dd78", file
        ),
        FeedEntry("/homework/math", "id:a4ayc_80_OEAAAAAAAAAXz", "", folder, keeps_below=True),
        FeedEntry("/homework/math/pi.txt"),
    ) == page.entries
    assert (True, "", "path_lower") == (page.last, page.root, page.place_field)
    assert [
        (
            "https://api.dropboxapi.com/2/files/list_folder",
            {"path": "", "recursive": True, "limit": 2000},
        )
    ] == recorded.asked

    [page], _ = asyncio.run(read(FOLDERS))
    assert ["(/homework/math/prime_numbers.txt)", "/homework/math", "(/homework/math/pi.txt)"] == (
        paths([page])
    )
    assert [False, True, False] == [one.keeps_below for one in page.entries]


def test_what_is_not_mounted_has_no_place():
    """An entry without a path, of a shared folder that is not mounted, is left out."""
    entry = {".tag": "folder", "name": "x", "id": "id:x"}
    body = orjson.dumps({"entries": [entry], "cursor": "c", "has_more": False})
    [page] = asyncio.run(collect(built_in("dropbox").feed(Recorded(body), SETTINGS, FILES, None)))

    assert () == page.entries


def test_the_feed_goes_on_from_its_token():
    """The first walk shows all; from its token on there is only what changed, and an empty page brings a token too."""

    async def test(box: Box) -> None:
        box.server.upload("/A/one.txt")
        *_, last = await box.feed()
        [silent] = await box.feed(last.token)
        assert ((), True) == (silent.entries, silent.last)
        box.server.move("/A/one.txt", "/B.txt")
        box.server.delete("/A")
        assert ["(/a/one.txt)", "/b.txt", "(/a)"] == paths(await box.feed(silent.token))

    with_box(test)


def test_a_watched_folder_is_the_root_of_its_feed():
    """The root is the folder as Dropbox names it, whatever case and slashes its setting has; what is beside is not told."""

    async def test(box: Box) -> None:
        box.server.upload("/Äpfel/one.txt")
        box.server.upload("/äpfelmus/two.txt")
        [page] = await box.feed(dropbox__path="ÄPFEL/")
        assert ("/äpfel", ["/äpfel", "/äpfel/one.txt"]) == (page.root, paths([page]))
        with pytest.raises(Refused, match="not_found"):
            await box.feed(dropbox__path="/nowhere")

    with_box(test)


def test_one_object_is_asked_for_by_its_id():
    """Wherever a file was moved, its id finds it; deleted it is gone, and what is no id cannot be asked for."""

    async def test(box: Box) -> list[bool | None]:
        made = box.server.upload("/A/one.txt")
        box.server.move("/A", "/B")
        asked = [
            await box.element.gone(box.connection, box.settings, "files", name)
            for name in (made["id"], "7")
        ]
        box.server.delete("/B")
        return [*asked, await box.element.gone(box.connection, box.settings, "files", made["id"])]

    assert [False, None, True] == with_box(test)


# What goes wrong.


def test_a_lost_cursor_is_told_from_other_errors():
    """409 reset and a cursor that Dropbox cannot read lose the token; a folder that is gone does not; another path begins anew."""

    async def test(box: Box) -> None:
        box.server.upload("/A/one.txt")
        [page] = await box.feed(dropbox__path="/A")
        with pytest.raises(TokenLost) as caught:
            await box.feed(page.token, dropbox__path="/B")
        assert caught.value.elsewhere
        box.server.delete("/A")
        [gone] = await box.feed(page.token, dropbox__path="/A")
        assert ["(/a)"] == paths([gone])
        with pytest.raises(Refused, match="not_found"):
            await box.feed(gone.token, dropbox__path="/A")
        box.server.lose_cursors()
        for token in (page.token, orjson.dumps(["/A", True, "/a", "nonsense"]).decode(), "{"):
            with pytest.raises(TokenLost) as caught:
                await box.feed(token, dropbox__path="/A")
            assert not caught.value.elsewhere

    with_box(test)


@pytest.mark.element("dropbox", "rate limit")
@pytest.mark.parametrize("plain", [True, False])
def test_a_limit_says_how_long_to_wait(*, plain: bool):
    """429 comes as JSON, the wait inside it, or as text, the wait in a header: both are obeyed."""

    async def test(box: Box) -> None:
        box.server.fail(429, retry_after=17, plain=plain)
        with pytest.raises(Transient) as caught:
            await box.feed()
        assert 17 == caught.value.retry_after

    with_box(test)


def test_a_page_for_people_is_no_listing():
    """What a gateway answers while Dropbox is being repaired is tried again, and not taken for an empty account."""
    feed = built_in("dropbox").feed(Recorded(b"<h1>Back soon</h1>"), SETTINGS, FILES, None)
    with pytest.raises(Transient):
        asyncio.run(collect(feed))
