"""The demo, set up and played: two providers, a daemon, a receiver, and somebody who looks on."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack

import aiohttp
import orjson

from daemon.cli.demo.household import Api, Household, Place, random_key
from daemon.cli.demo.life import Actor, SageRecords, WorkshopRecords, furnish
from daemon.cli.demo.score import Score
from daemon.cli.demo.show import Show
from daemon.cli.outcome import Failed
from daemon.cli.receiver import Received, Receiver, serving
from daemon.elements.simulators.sageone import Sage
from daemon.elements.simulators.workshop import Workshop
from daemon.webhook_urls import encode_id

BEAT = 0.5  # seconds from one step at a provider to the next
REFRESH = "0.01"  # minutes from one poll to the next
LAST_STEPS = 2.5  # seconds before the end in which nothing more is done, so that all can be told
ROUND = 8.0  # seconds that a whole round of changes takes, with the last steps
GRACE = 5.0  # seconds that what was done may take to be told once the time is over
BASELINES = 20.0  # seconds
LOOK = 0.2  # seconds

# From the example in the documentation of Sage One's events (docs/elements/sageone.md).
CODE = "1c6ff4089d58d80e86482ab7d5b97f15dd7b041d"
SAGE_URL = (
    "/hubs/finance/customers?where=lastModifiedDate>='${date:yyyy-MM-dd'T'HH:mm:ss'Z'}'"
    " and attributes='created_at,updated_at"
)
SAGE_DATE = "yyyy-MM-dd'T'HH:mm:ss'Z'"


class Stage:
    """One demo, played in *place*."""

    def __init__(self, *, show: Show, place: Place) -> None:
        self.score = Score()
        self._show = show
        self._place = place
        self._key = random_key()
        self._api_key, self._signing_secret = random_key(), random_key()
        self._workshop = Workshop(api_key=self._api_key, signing_secret=self._signing_secret)
        self._sage = Sage()
        self._names: dict[int, str] = {}

    async def play(self, seconds: float | None) -> None:
        """Play for *seconds* from now, or until cancelled.  Raises `Failed` when it cannot be set up.

        On a machine that takes long to set it up there is still a whole round of changes to see.
        """
        now = asyncio.get_running_loop().time
        began = now()
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            self._show.step(
                "two providers: the workshop (polled, and posts webhooks) and a simulated Sage (polled)"
            )
            furnish(self._workshop, self._sage)
            workshop = await enter(self._workshop.running())
            sage = await enter(self._sage.running())
            self._show.step("a receiver that verifies every signature")
            callback = await enter(serving(Receiver(heard=self._heard, key=self._key)))
            self._show.step("the daemon, with a PostgreSQL of its own")
            household = Household(
                place=self._place,
                stand_ins={"sageone": sage, "workshop": workshop},
                complain=self._show.complaint,
            )
            await enter(household.daemon())
            self._show.step("a user, and three instances through the HTTP API")
            await household.add_user("demo")
            api = await enter(household.api())
            actors = await self._settle(api, household, workshop, f"{callback}/events")
            self._show.where(household, callback)
            end = None if seconds is None else max(began + seconds, now() + ROUND)
            await self._live(actors, household, end)

    async def _settle(
        self, api: Api, household: Household, workshop: str, callback: str
    ) -> Sequence[Actor]:
        """Create the instances and wait until each knows what was there before."""
        events = {
            "event.notification.enabled": True,
            "event.notification.callback.url": callback,
            "event.notification.signature.key": self._key,
        }
        account = {"api.key": self._api_key}
        polled = await api.create_instance(
            {
                "name": "workshop, polled",
                "element": {"key": "workshop"},
                "configuration": {
                    **events,
                    **account,
                    "event.vendor.type": "polling",
                    "event.poller.refresh_interval": REFRESH,
                },
            }
        )
        posting = await api.create_instance(
            {
                "name": "workshop, webhooks",
                "element": {"key": "workshop"},
                "configuration": {
                    **events,
                    **account,
                    "event.vendor.type": "webhook",
                    "signature.secret": self._signing_secret,
                    "workshop.account": self._workshop.account,
                },
            }
        )
        self._sage.honour(CODE)
        accounting = await api.create_instance(self._sage_example(events))
        self._names = {polled: "workshop", posting: "workshop", accounting: "sage"}
        await _register(
            workshop, f"{household.origin}/elements/api-v2/events/workshop/{encode_id(posting)}"
        )
        await self._baselines(api, {polled, accounting})
        return (
            Actor(
                name="workshop",
                instance=polled,
                way="poll",
                object_type="customers",
                prefix="customer",
                records=WorkshopRecords(self._workshop, "customers"),
            ),
            Actor(
                name="workshop",
                instance=posting,
                way="webhook",
                object_type="tickets",
                prefix="ticket",
                records=WorkshopRecords(self._workshop, "tickets"),
            ),
            Actor(
                name="sage",
                instance=accounting,
                way="poll",
                object_type="customers",
                prefix="sage-customer",
                records=SageRecords(self._sage),
            ),
        )

    def _sage_example(self, events: dict[str, object]) -> dict[str, object]:
        """The body of the documentation's example, with this demo's addresses and interval."""
        return {
            "element": {"key": "sageone"},
            "providerData": {"code": CODE},
            "configuration": {
                "oauth.api.key": random_key(),
                "oauth.api.secret": random_key(),
                "signature.secret": random_key(),
                "apim.subscription.key": random_key(),
                "country": "US",
                "oauth.callback.url": "https://mycoolapp.com",
                **events,
                "event.poller.refresh_interval": REFRESH,
                "event.poller.configuration": {
                    "customers": {
                        "url": SAGE_URL,
                        "idField": "id",
                        "datesConfiguration": {
                            "updatedDateField": "updated_at",
                            "updatedDateFormat": SAGE_DATE,
                            "updatedDateTimezone": "GMT",
                            "createdDateField": "created_at",
                            "createdDateFormat": SAGE_DATE,
                            "createdDateTimezone": "GMT",
                        },
                    }
                },
            },
            "tags": ["Test"],
            "name": "API_Polling",
        }

    async def _baselines(self, api: Api, polled: set[int]) -> None:
        """Wait until what is there is known, so that what comes is news."""
        try:
            async with asyncio.timeout(BASELINES):
                while True:
                    records = await api.pollers()
                    known = {one["instanceId"] for one in records}
                    if polled <= known and all(one["baselineDate"] for one in records):
                        return
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise Failed(
                f"the first polls took more than {BASELINES:g} s",
                remedy="`tidings demo --keep` keeps the daemon's log, which says why",
            ) from None

    async def _live(self, actors: Sequence[Actor], household: Household, end: float | None) -> None:
        """One step after the other, by whoever can take one; then wait for what is still to be told."""
        now = asyncio.get_running_loop().time
        for actor in itertools.cycle(actors):
            if end is not None and now() > end - (0 if self.score.missing else LAST_STEPS):
                break
            household.check()
            if (step := actor.act(self.score)) is not None:
                deed, words = step
                self.score.did(deed, now())
                self._show.did(actor.name, deed, words, self.score)
                await asyncio.sleep(BEAT / 2 if self.score.missing else BEAT)
            else:
                await asyncio.sleep(BEAT / 10)
        while self.score.lost and now() < (end or 0) + GRACE:
            household.check()
            await asyncio.sleep(LOOK)
        if end is not None and (left := end - now()) > 0:
            await asyncio.sleep(left)

    def _heard(self, received: Received) -> None:
        """The receiver had a notification."""
        now = asyncio.get_running_loop().time()
        if not received.verified:
            self.score.unverified += 1
            self._show.unverified(received)
            return
        for event in received.events:
            key = (received.instance or 0, event.object_type, event.object_id, event.change)
            told = self.score.told(key, now)
            if told is None:
                self._show.unexpected(received, event, self.score)
            else:
                self._show.told(self._names.get(key[0], ""), *told, received, self.score)


async def _register(workshop: str, url: str) -> None:
    """Tell the workshop where to post; it asks that address whether it is right."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session,
            session.put(f"{workshop}/simulator/webhook", data=orjson.dumps({"url": url})) as answer,
        ):
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Failed(f"the workshop did not take the address {url}: {error}") from error
    if answer.status != 200:  # noqa: PLR2004 — the workshop's yes
        raise Failed(f"the workshop did not take the address {url}: {text[:300]}")
