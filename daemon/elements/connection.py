"""One instance's way to its provider: requests signed with its credentials, tokens refreshed when they expire.

A refresh token is often good for one use.  So there is one refresh at a time, its result is saved before it is
used, and a caller that is cancelled meanwhile waits until it is saved.  There must be one connection per instance:
two would use up one another's tokens.
"""

import asyncio
from collections.abc import Awaitable, Callable

from daemon.elements.base import Element, Http, Settings
from daemon.errors import Unauthorized
from daemon.model import Request, Response

Save = Callable[[dict[str, str]], Awaitable[None]]
"""Keeps new settings of the instance; returns when they are durable."""

Lost = Callable[[Unauthorized], Awaitable[None]]
"""Is told that the provider refuses to refresh: a person must grant access again."""


async def _nobody(error: Unauthorized) -> None:
    """Nobody needs to be told: whoever sent the request hears of it."""


class Connection:
    """Implements `Http` for one instance.

    *http* is the client, *settings* the instance's configuration with secrets in clear, *save* keeps what a
    refresh brings, *lost* is told of a refresh that was refused.  *grace* is how many seconds a cancelled caller
    waits for a refresh that is under way.
    """

    def __init__(
        self,
        *,
        http: Http,
        element: Element,
        settings: Settings,
        save: Save,
        lost: Lost = _nobody,
        grace: float = 10.0,
    ) -> None:
        self._http = http
        self._element = element
        self._settings = dict(settings)
        self._save = save
        self._lost = lost
        self._grace = grace
        self._refreshing = asyncio.Lock()
        self._unsaved: dict[str, str] | None = None
        self._free_at = 0.0
        self.refreshed: float | None = None
        """When the tokens were last refreshed, by the event loop's clock."""

    @property
    def settings(self) -> Settings:
        """The instance's settings as they are now, tokens included."""
        return self._settings

    def adopt(self, settings: Settings) -> None:
        """Go on with *settings*: those that the instance has now.

        Not while a refresh is under way or unsaved: what it brings is newer than anything that was stored.
        """
        if not self._refreshing.locked() and self._unsaved is None and settings != self._settings:
            self._settings = dict(settings)

    async def refresh(self) -> bool:
        """Refresh now, though no request needs it; false where there is nothing to refresh.

        Raises `Unauthorized` where the provider refuses, and what the client and *save* raise.
        """
        nothing = Unauthorized("there is nothing to refresh")
        try:
            await self._renew(self._settings, nothing)
        except Unauthorized as error:
            if error is nothing:
                return False
            raise
        return True

    async def send(self, request: Request) -> Response:
        """Send *request* signed; on `Unauthorized` refresh and send it once more.

        Raises what the client raises; `Unauthorized` when a refresh does not help; what *save* raises, and then the
        new tokens are kept here and saved before anything else.
        """
        used = self._settings
        try:
            return await self._send(request, used)
        except Unauthorized as error:
            if not self._element.renewable(error):
                raise
            await self._renew(used, error)
        return await self._send(request, self._settings)

    async def _send(self, request: Request, settings: Settings) -> Response:
        await self._pace()
        return await self._http.send(self._element.sign(request, settings))

    async def _pace(self) -> None:
        """Wait for this request's turn."""
        if self._element.pace:
            now = asyncio.get_running_loop().time()
            turn = max(now, self._free_at)
            self._free_at = turn + self._element.pace
            await asyncio.sleep(turn - now)

    async def _renew(self, used: Settings, error: Unauthorized) -> None:
        """Have newer settings than *used*; raises *error* where there are none to be had."""
        async with self._refreshing:
            if self._settings is not used:
                return  # another request's refresh was faster
            task = asyncio.create_task(self._refresh(error))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                # Whoever gives up now must not take the new token along: it may be the only one.
                await asyncio.wait({task}, timeout=self._grace)
                if not task.cancel() and not task.cancelled():
                    task.exception()  # seen; the cancellation is what the caller hears of
                raise

    async def _refresh(self, error: Unauthorized) -> None:
        if self._unsaved is None:
            try:
                self._unsaved = await self._element.refresh(self._http, self._settings)
            except Unauthorized as refused:
                await self._lost(refused)
                raise
        if self._unsaved is None:
            raise error
        await self._save(self._unsaved)
        self._settings, self._unsaved = {**self._settings, **self._unsaved}, None
        self.refreshed = asyncio.get_running_loop().time()
