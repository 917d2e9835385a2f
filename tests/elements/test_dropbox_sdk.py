"""The simulated Dropbox judged by code that is not ours: Dropbox's own SDK."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from requests.adapters import HTTPAdapter

from daemon.elements.simulators.dropbox.server import Dropbox

KEY, SECRET, REDIRECT = "client", "s3cret", "https://mycoolapp.com/auth"


class Here(HTTPAdapter):
    """Sends what is meant for Dropbox's hosts, always https, to *origin*."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        super().__init__()

    def send(self, request: Any, *args: Any, **more: Any) -> Any:
        """Send."""
        parts = urlsplit(request.url)
        assert parts.hostname in {
            "www.dropbox.com", "api.dropboxapi.com", "content.dropboxapi.com", "notify.dropboxapi.com",
        }  # fmt: skip
        request.url = self.origin + parts.path + (f"?{parts.query}" if parts.query else "")
        return super().send(request, *args, **more)


def allowed(flow: Any) -> dict[str, str]:
    """What comes back when a person opens the SDK's address and grants access."""
    answer = flow.requests_session.get(flow.start(), allow_redirects=False)
    place, _, query = answer.headers["Location"].partition("?")
    assert REDIRECT == place
    return dict(parse_qsl(query))


def judged(script: Callable[[Any, Dropbox], None], **chosen: Any) -> Dropbox:
    """Run the blocking *script* with a client in a thread while the simulator serves."""

    async def main() -> Dropbox:
        server = Dropbox(app_key=KEY, app_secret=SECRET, **chosen)
        async with server.running() as origin, asyncio.timeout(30):

            def run() -> None:
                import dropbox
                from dropbox.oauth import DropboxOAuth2Flow

                flow = DropboxOAuth2Flow(
                    KEY, REDIRECT, {}, "csrf", consumer_secret=SECRET, token_access_type="offline"
                )
                flow.requests_session.mount("https://", Here(origin))
                granted = flow.finish(allowed(flow))
                flow.requests_session.close()
                assert server.account_id == granted.account_id
                session = dropbox.create_session()
                session.mount("https://", Here(origin))
                with dropbox.Dropbox(
                    oauth2_access_token=granted.access_token,
                    oauth2_access_token_expiration=granted.expires_at,
                    oauth2_refresh_token=granted.refresh_token,
                    app_key=KEY,
                    app_secret=SECRET,
                    session=session,
                    max_retries_on_rate_limit=3,
                ) as client:
                    script(client, server)

            await asyncio.to_thread(run)
        return server

    return asyncio.run(main())


def test_the_sdk_changes_files_and_reads_the_changes() -> None:
    """Upload, folder, move, delete and metadata; the cursor tells of each as the SDK's types, in order."""
    import dropbox
    from dropbox.files import (
        DeletedMetadata,
        FileMetadata,
        FolderMetadata,
        WriteMode,
    )

    def script(client: Any, server: Dropbox) -> None:
        assert "Ann Example" == client.users_get_current_account().name.display_name
        made = client.files_upload(b"2, 3, 5", "/Homework/math/Prime_Numbers.txt")
        assert isinstance(made, FileMetadata)
        first = client.files_list_folder("", recursive=True)
        assert ["/homework", "/homework/math", made.path_lower] == [
            one.path_lower for one in first.entries
        ]
        again = client.files_upload(b"2", made.path_lower, mode=WriteMode.update(made.rev))
        assert (made.id, False) == (again.id, made.rev == again.rev)
        with pytest.raises(dropbox.exceptions.ApiError) as caught:
            client.files_upload(b"3", made.path_lower, mode=WriteMode.update(made.rev))
        assert caught.value.error.get_path().reason.get_conflict().is_file()
        folder = client.files_create_folder_v2("/New").metadata
        assert isinstance(folder, FolderMetadata)
        moved = client.files_move_v2("/Homework/math", "/New/maths").metadata
        assert "/new/maths" == moved.path_lower
        assert made.id == client.files_get_metadata("/new/maths/Prime_Numbers.txt").id
        assert "/new/maths/prime_numbers.txt" == client.files_get_metadata(made.id).path_lower
        client.files_delete_v2("/homework")
        told = client.files_list_folder_continue(first.cursor)
        assert [
            (FolderMetadata, "/new"),
            (DeletedMetadata, "/homework/math"),
            (FolderMetadata, "/new/maths"),
            (FileMetadata, "/new/maths/prime_numbers.txt"),
            (DeletedMetadata, "/homework"),
        ] == [(type(one), one.path_lower) for one in told.entries]
        assert not told.has_more
        assert [] == client.files_list_folder_continue(told.cursor).entries
        with pytest.raises(dropbox.exceptions.ApiError) as caught:
            client.files_get_metadata("/homework")
        assert caught.value.error.get_path().is_not_found()

    judged(script)


def test_the_sdk_follows_pages_and_longpolls() -> None:
    """Pages of two lead to everything; the latest cursor begins now; a longpoll answers when there is something."""

    def script(client: Any, server: Dropbox) -> None:
        for n in range(5):
            server.upload(f"/{n}.txt", b"x")
        page = client.files_list_folder("", recursive=True, limit=2)
        seen = [one.name for one in page.entries]
        while page.has_more:
            page = client.files_list_folder_continue(page.cursor)
            seen += [one.name for one in page.entries]
        assert [f"{n}.txt" for n in range(5)] == seen
        latest = client.files_list_folder_get_latest_cursor("", recursive=True).cursor
        server.upload("/six.txt", b"x")
        assert client.files_list_folder_longpoll(latest, timeout=30).changes
        assert ["six.txt"] == [
            one.name for one in client.files_list_folder_continue(latest).entries
        ]

    judged(script)


def test_the_sdk_understands_what_goes_wrong() -> None:
    """An expired token is refreshed, a limit waited for as JSON and as text, a lost cursor is a reset."""
    import dropbox

    def script(client: Any, server: Dropbox) -> None:
        server.upload("/a.txt", b"x")
        cursor = client.files_list_folder("").cursor
        server.expire_access()
        assert [] == client.files_list_folder_continue(cursor).entries
        server.fail(429, retry_after=0)
        server.fail(429, retry_after=0, plain=True)
        assert [] == client.files_list_folder_continue(cursor).entries
        server.lose_cursors()
        with pytest.raises(dropbox.exceptions.ApiError) as caught:
            client.files_list_folder_continue(cursor)
        assert caught.value.error.is_reset()
        server.revoke()
        with pytest.raises(dropbox.exceptions.AuthError):
            client.files_list_folder("")

    server = judged(script)
    assert 3 == [path for _, path in server.requests].count("/oauth2/token")
