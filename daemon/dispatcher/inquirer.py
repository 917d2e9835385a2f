"""The inquirer: asks receivers what became of what is in doubt, and settles it by their answer."""

from collections.abc import Callable, Sequence

import structlog

from daemon.dispatcher import receipts
from daemon.dispatcher.clocks import Clocks
from daemon.dispatcher.desk import Desk
from daemon.dispatcher.items import Doubt, Item
from daemon.dispatcher.lane import Lane
from daemon.dispatcher.sending import Sender, shown
from daemon.dispatcher.wishes import asked_at, doubt_of
from daemon.errors import ConfigError
from daemon.model import Instance

logger = structlog.get_logger()


class Inquirer:
    """Asks for all lanes."""

    def __init__(self, *, desk: Desk, sender: Sender, clocks: Clocks) -> None:
        self._desk = desk
        self._sender = sender
        self._clocks = clocks

    async def ask(self, lane: Lane, doubts: Sequence[Item], ended: Callable[[Lane], None]) -> None:
        """Ask the receiver which of *doubts* it has, and settle those that it speaks of; then *ended* is told.

        Where it is not to be asked any more, the policy says what becomes of them.
        """
        instance = self._desk.instance(lane.instance_id, lane.replay)
        url = None if instance is None else asked_at(instance, lane.replay)
        names: list[str] = []
        said: receipts.Receipts | receipts.NoAnswer = receipts.NoAnswer("nobody is asked any more")
        if instance is not None and url is not None:
            names, said = await self._said(lane, instance, url, doubts)
        now = self._clocks.monotonic()
        quiet = 0.0
        if isinstance(said, receipts.NoAnswer):
            quiet = said.quiet
            logger.warning("no receipts", callback=lane.id, number=len(doubts), error=said.error)
        nobody = instance is not None and url is None
        heard = nobody or isinstance(said, receipts.Receipts)
        lane.asked(now, heard=heard, chance=self._clocks.chance, quiet=quiet)
        hold = instance is not None and doubt_of(instance, lane.replay) is Doubt.HOLD
        for number, item in enumerate(doubts):
            received: bool | None = None
            if isinstance(said, receipts.Receipts):
                has, has_not = names[number] in said.received, names[number] in said.unknown
                received = True if has else False if has_not else None
            elif nobody and hold:
                lane.hold(item, now)
                continue
            elif nobody:
                received = False  # sent again, marked
            lane.answered(item, now, received=received)
        ended(lane)

    async def _said(
        self, lane: Lane, instance: Instance, url: str, doubts: Sequence[Item]
    ) -> tuple[list[str], receipts.Receipts | receipts.NoAnswer]:
        """The ids under which *doubts* were sent, and what the receiver says of them."""
        try:
            settings = await self._desk.settings(lane, instance)
            about = [await self._desk.notification(lane, item) for item in doubts]
            names = [notification.id for notification in about]
            said = await receipts.ask(
                self._sender,
                url,
                settings,
                names,
                since=min(notification.appended for notification in about).timestamp(),
                now=self._clocks.wall(),
            )
        except (ConfigError, ValueError) as error:
            return [], receipts.NoAnswer(shown(str(error)))
        return names, said
