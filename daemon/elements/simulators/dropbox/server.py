"""A simulated Dropbox: what its documentation says, all hosts on one.

    GET  /oauth2/authorize       a person who grants access at once
    POST /oauth2/token           access tokens of four hours; a refresh token that stays the same (offline)
    POST /2/files/list_folder[/continue|/get_latest_cursor|/longpoll]
    POST /2/files/{upload,create_folder_v2,delete_v2,move_v2,get_metadata}    /2/users/get_current_account
    …    /simulator/…            change files, lose cursors, expire tokens, answer errors, post webhooks: without any token

The facts and where they come from: docs/elements/dropbox.md.

    tree     files and folders, and the journal that cursors go through
    access   tokens
    hooks    webhooks
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import BasicAuth, web

from daemon.elements.simulators import beside, serving
from daemon.elements.simulators.dropbox.access import Access, Denied
from daemon.elements.simulators.dropbox.hooks import WAITS, Hooks
from daemon.elements.simulators.dropbox.tree import LARGEST_PAGE, Conflict, Cursor, Node, Tree
from daemon.elements.simulators.ledger import Now, system_clock
from daemon.elements.simulators.tokens import Grant
from daemon.model import Json

ACCESS_SECONDS = 14400.0
PAGE = 500
LARGEST_UPLOAD = 150 * 1024 * 1024
LONGPOLL = range(30, 481)  # seconds that a longpoll may wait

Called = Callable[[Any, web.Request], Awaitable[Json]]


class Dropbox:
    """The simulated server; see `running`.

    *app_key* is held to when it is given, as *app_secret* is, which also signs the webhooks.  *page* bounds every page
    of a listing, *waits* are the seconds between attempts to post a webhook.
    """

    def __init__(
        self,
        *,
        app_key: str | None = None,
        app_secret: str | None = None,
        account_id: str = "dbid:AAH4f99T0taONIb-OurWxbNQ6ywGRopQngc",
        uid: int = 4245623,
        access_seconds: float = ACCESS_SECONDS,
        page: int = LARGEST_PAGE,
        waits: Sequence[float] = WAITS,
        now: Now = system_clock,
    ) -> None:
        self.tree = Tree(now=now)
        self.hooks = Hooks(
            secret=app_secret or "dropbox-secret", account_id=account_id, uid=uid, waits=waits
        )
        self.tokens = Access(
            now=now,
            seconds=access_seconds,
            account_id=account_id,
            uid=uid,
            client=(app_key, app_secret),
        )
        self.account_id = account_id
        self.page = page
        self.delay = 0.0
        """Seconds before each answer of the API."""
        self.requests: deque[tuple[str, str]] = deque(maxlen=1000)
        """Method and path of the latest requests to the API and the token address."""
        self._now = now
        self._failures: deque[tuple[int, int | None, bool]] = deque()
        self._changed = asyncio.Event()
        self.app = self._application()

    @asynccontextmanager
    async def running(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
        """Serve and post; the value is the origin.  Raises `OSError` when the port is taken."""
        async with serving(self.app, host=host, port=port) as origin, beside(self.hooks.run()):
            yield origin

    def grant(self, redirect: str = "") -> str:
        """An authorization code, as if a person had just granted access."""
        return self.tokens.grant(redirect)

    def honour(self, code: str) -> None:
        """Take *code* (the one in an example) for a granted one, for as long as the server runs."""
        self.tokens.codes[code] = Grant(self._now() + timedelta(days=365))

    def access(self) -> dict[str, str]:
        """An access token and a refresh token, as settings of an instance, with the account that they are of."""
        given = self.tokens.granted()
        return {
            "oauth.user.token": given["access_token"],
            "oauth.user.refresh_token": given["refresh_token"],
            "oauth.user.id": self.account_id,
        }

    def expire_access(self) -> None:
        """Let every access token be too old from now on."""
        self.tokens.tokens.clear()

    def revoke(self) -> None:
        """Let a person unlink the app: no token is any good."""
        self.tokens.tokens.clear()
        self.tokens.refresh.clear()

    def lose_cursors(self) -> None:
        """Answer `reset` to every cursor given out so far."""
        self.tree.epoch += 1

    def fail(
        self, status: int, *, times: int = 1, retry_after: int | None = None, plain: bool = False
    ) -> None:
        """Answer the next *times* requests to the API with *status*; *plain*: with text and a header, not JSON."""
        self._failures.extend([(status, retry_after, plain)] * times)

    def upload(self, path: str, content: bytes = b"", **how: str) -> Json:
        """Write a file; raises `Conflict`, as all that change something."""
        return self._noted(self.tree.upload(path, content, **how))

    def folder(self, path: str) -> Json:
        """Make a folder."""
        return self._noted(self.tree.folder(path))

    def delete(self, path: str) -> Json:
        """Delete a file, or a folder with all in it."""
        return self._noted(self.tree.delete(path))

    def move(self, source: str, target: str) -> Json:
        """Move a file, or a folder with all in it."""
        return self._noted(self.tree.move(source, target))

    def _noted(self, node: Node) -> Json:
        self.hooks.note()
        self._changed.set()
        self._changed = asyncio.Event()
        return node.metadata()

    # The addresses.

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=LARGEST_UPLOAD)
        routes: dict[str, Called] = {
            "files/list_folder": self._list,
            "files/list_folder/continue": self._continue,
            "files/list_folder/get_latest_cursor": self._latest,
            "files/upload": self._upload,
            "files/create_folder_v2": self._folder,
            "files/delete_v2": self._delete,
            "files/move_v2": self._move,
            "files/get_metadata": self._metadata,
            "users/get_current_account": self._account,
        }
        app.add_routes(
            [
                web.get("/oauth2/authorize", self._authorize),
                web.post("/oauth2/token", self._token),
                web.post("/2/files/list_folder/longpoll", self._longpoll),
                *(web.post(f"/2/{name}", self._route(call)) for name, call in routes.items()),
                web.post("/simulator/{what:files|folders|move|delete}", self._change),
                web.post("/simulator/fail", self._fail),
                web.post("/simulator/slow", self._slow),
                web.post("/simulator/{what:expire|reset|revoke}", self._spoil),
                web.put("/simulator/webhook", self._register),
                web.get("/simulator/deliveries", self._delivered),
                web.get("/simulator/requests", self._seen),
            ]
        )
        return app

    async def _authorize(self, request: web.Request) -> web.Response:
        redirect = request.query.get("redirect_uri", "")
        if not redirect or request.query.get("response_type") != "code":
            return _json({"error": "redirect_uri and response_type=code are needed"}, 400)
        answer = {"code": self.grant(redirect), "state": request.query.get("state", "")}
        given = urlencode({name: value for name, value in answer.items() if value})
        raise web.HTTPFound(f"{redirect}{'&' if '?' in redirect else '?'}{given}")

    async def _token(self, request: web.Request) -> web.Response:
        self.requests.append(("POST", "/oauth2/token"))
        try:
            given = BasicAuth.decode(request.headers["Authorization"])
            basic: tuple[str, str] | None = (given.login, given.password)
        except (KeyError, ValueError):
            basic = None
        try:
            return _json(self.tokens.answer(await request.post(), basic))
        except Denied as denied:
            error, *more = denied.args
            said = {"error_description": more[0]} if more else {}
            return _json({"error": error, **said}, 400)

    def _route(self, call: Called) -> Callable[[web.Request], Awaitable[web.Response]]:
        """*call* behind the token and whatever failure was asked for; its argument stands in the body or a header."""

        async def answer(request: web.Request) -> web.Response:
            self.requests.append((request.method, request.path))
            await asyncio.sleep(self.delay)
            if self._failures:
                return _failure(*self._failures.popleft())
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not self.tokens.good(token):
                return _error("expired_access_token", 401)
            told = request.headers.get("Dropbox-API-Arg") or await request.text()
            if (
                "Dropbox-API-Arg" not in request.headers
                and request.content_type != "application/json"
            ):
                return _bad(request, f'Bad HTTP "Content-Type" header: "{request.content_type}"')
            try:
                return _json(await call(orjson.loads(told or "null"), request))
            except Conflict as conflict:
                return _error(str(conflict), 409, upload=request.path.endswith("/upload"))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                return _bad(request, f"request body: {type(error).__name__}: {error}")

        return answer

    async def _list(self, asked: Json, request: web.Request) -> Json:
        return self._page(self._begin(asked, listed=True))

    async def _latest(self, asked: Json, request: web.Request) -> Json:
        return {"cursor": self._begin(asked, listed=False).text()}

    def _begin(self, asked: Json, *, listed: bool) -> Cursor:
        limit = min(int(asked.get("limit") or PAGE), self.page)
        if limit < 1:
            raise ValueError("limit should be 1 to 2000")
        recursive = bool(asked.get("recursive"))
        return self.tree.begin(asked["path"], recursive=recursive, limit=limit, listed=listed)

    async def _continue(self, asked: Json, request: web.Request) -> Json:
        return self._page(Cursor.of(asked["cursor"]))

    def _page(self, cursor: Cursor) -> Json:
        entries, cursor, more = self.tree.page(cursor)
        return {"entries": entries, "cursor": cursor.text(), "has_more": more}

    async def _longpoll(self, request: web.Request) -> web.Response:
        """Wait until there is something to read; needs no token."""
        self.requests.append((request.method, request.path))
        try:
            asked = orjson.loads(await request.read())
            cursor, seconds = Cursor.of(asked["cursor"]), int(asked.get("timeout", 30))
        except (KeyError, TypeError, ValueError) as error:
            return _bad(request, f"request body: {error}")
        if seconds not in LONGPOLL:
            return _bad(request, "request body: timeout: should be 30 to 480")
        if cursor.epoch != self.tree.epoch:
            return _error("reset", 409)
        try:
            async with asyncio.timeout(seconds):
                while not self.tree.has_news(cursor):
                    await self._changed.wait()
        except TimeoutError:
            return _json({"changes": False})
        return _json({"changes": True})

    async def _upload(self, asked: Json, request: web.Request) -> Json:
        mode = asked.get("mode", "add")
        tag = mode[".tag"] if isinstance(mode, dict) else mode
        rev = str(mode.get("update", "")) if isinstance(mode, dict) else ""
        node = self.upload(asked["path"], await request.read(), mode=tag, rev=rev)
        return {name: value for name, value in node.items() if name != ".tag"}

    async def _folder(self, asked: Json, request: web.Request) -> Json:
        return {"metadata": self.folder(asked["path"])}

    async def _delete(self, asked: Json, request: web.Request) -> Json:
        return {"metadata": self.delete(asked["path"])}

    async def _move(self, asked: Json, request: web.Request) -> Json:
        return {"metadata": self.move(asked["from_path"], asked["to_path"])}

    async def _metadata(self, asked: Json, request: web.Request) -> Json:
        return self.tree.at(asked["path"]).metadata()

    async def _account(self, asked: None, request: web.Request) -> Json:
        name = {"given_name": "Ann", "surname": "Example", "familiar_name": "Ann"}
        return {
            "account_id": self.account_id,
            "name": {**name, "display_name": "Ann Example", "abbreviated_name": "AE"},
            "email": "ann@example.com",
            "email_verified": True,
            "disabled": False,
            "locale": "en",
            "referral_link": "https://www.dropbox.com/referrals/example",
            "is_paired": False,
            "account_type": {".tag": "basic"},
            "root_info": {".tag": "user", "root_namespace_id": "1", "home_namespace_id": "1"},
        }

    # Without a token.

    async def _change(self, request: web.Request) -> web.Response:
        """{"path", "content"}, {"path"}, {"from", "to"}, {"path"}."""
        try:
            asked = orjson.loads(await request.read())
            match request.match_info["what"]:
                case "files":
                    made = self.upload(asked["path"], str(asked.get("content", "")).encode())
                case "folders":
                    made = self.folder(asked["path"])
                case "move":
                    made = self.move(asked["from"], asked["to"])
                case _:
                    made = self.delete(asked["path"])
        except Conflict as conflict:
            return _error(str(conflict), 409)
        except (KeyError, TypeError, ValueError) as error:
            return _json({"error": f"the body is wrong: {error}"}, 400)
        return _json(made)

    async def _fail(self, request: web.Request) -> web.Response:
        """{"status", "times", "retry_after", "plain"}: only the first is needed."""
        try:
            asked = orjson.loads(await request.read())
            how = {name: asked[name] for name in ("times", "retry_after", "plain") if name in asked}
            self.fail(int(asked["status"]), **how)
        except (KeyError, TypeError, ValueError) as error:
            return _json({"error": f"the body is wrong: {error}"}, 400)
        return web.Response(status=204)

    async def _slow(self, request: web.Request) -> web.Response:
        """{"seconds"}: before each answer of the API."""
        try:
            self.delay = float(orjson.loads(await request.read())["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            return _json({"error": f"the body is wrong: {error}"}, 400)
        return web.Response(status=204)

    async def _spoil(self, request: web.Request) -> web.Response:
        what = {"expire": self.expire_access, "reset": self.lose_cursors, "revoke": self.revoke}
        what[request.match_info["what"]]()
        return web.Response(status=204)

    async def _register(self, request: web.Request) -> web.Response:
        """{"url"}: where to post; asked with a challenge first.  {"copies"}: how often each notification comes."""
        try:
            asked = orjson.loads(await request.read())
            self.hooks.copies = int(asked.get("copies", self.hooks.copies))
            problem = await self.hooks.register(asked["url"]) if "url" in asked else None
        except (TypeError, ValueError, AttributeError) as error:
            return _json({"error": f"the body is wrong: {error}"}, 400)
        if problem is not None:
            return _json({"error": problem}, 422)
        return _json({"url": self.hooks.target, "copies": self.hooks.copies})

    async def _delivered(self, request: web.Request) -> web.Response:
        told = [
            {"notification": one.notification, "attempt": one.attempt, "outcome": one.outcome}
            for one in self.hooks.deliveries
        ]
        return _json(told)

    async def _seen(self, request: web.Request) -> web.Response:
        return _json([{"method": method, "path": path} for method, path in self.requests])


def _json(body: object, status: int = 200) -> web.Response:
    # Without a charset, as Dropbox: its SDK compares the whole header.
    return web.Response(
        body=orjson.dumps(body), status=status, headers={"Content-Type": "application/json"}
    )


def _error(tags: str, status: int, *, upload: bool = False) -> web.Response:
    """An error of a route: `path/not_found` is {".tag": "path", "path": {".tag": "not_found"}}.

    Of an *upload* `path` is no union but a struct, whose fields stand beside the tag.
    """
    names = tags.split("/")
    told: Json = {".tag": names[-1]}
    for name in reversed(names[:-1]):
        outer = upload and name == names[0]
        told = (
            {".tag": name, "reason": told, "upload_session_id": ""}
            if outer
            else {".tag": name, name: told}
        )
    return _json({"error_summary": f"{tags}/..", "error": told}, status)


def _failure(status: int, retry_after: int | None, plain: bool) -> web.Response:  # noqa: FBT001 — it comes out of a tuple
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if plain or status != web.HTTPTooManyRequests.status_code:
        return web.Response(text="asked for", status=status, headers=headers)
    reason = {".tag": "too_many_requests"}
    told = {"reason": reason, **({} if retry_after is None else {"retry_after": retry_after})}
    return _json({"error_summary": "too_many_requests/..", "error": told}, status)


def _bad(request: web.Request, problem: str) -> web.Response:
    name = request.path.removeprefix("/2/")
    return web.Response(status=400, text=f'Error in call to API function "{name}": {problem}')
