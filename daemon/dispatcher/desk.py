"""What is needed to write to a callback: whose it is, its settings, and the notification."""

from collections.abc import Mapping
from functools import partial

from daemon.dispatcher.items import Item, Replay
from daemon.dispatcher.lane import Lane
from daemon.dispatcher.wishes import shown_settings
from daemon.model import Instance
from daemon.notifications import Notification
from daemon.store import database
from daemon.store.directory import Directory
from daemon.store.reader import Reader

until_there = partial(database.until_there, waiting="dispatcher")


class Desk:
    """Looks things up, in memory where they are at hand; what it reads it reads until the database is there."""

    def __init__(self, *, directory: Directory, reader: Reader) -> None:
        self._directory = directory
        self._reader = reader

    def instance(self, instance_id: int, replay: Replay | None) -> Instance | None:
        """The instance whose callback, key and policy count: its own, unless a replay goes to another's."""
        other = None if replay is None else replay.to
        return self._directory.get(instance_id if other is None else other)

    async def instance_now(self, instance_id: int, replay: Replay | None) -> Instance | None:
        """What `instance` returns, once all is known that the log says of it by now."""
        await until_there(self._directory.refresh)
        return self.instance(instance_id, replay)

    def settings_at_hand(self, instance: Instance) -> Mapping[str, str] | None:
        """The instance's settings in clear, where they were read already."""
        return self._directory.at_hand(instance)

    async def settings(self, lane: Lane, instance: Instance) -> Mapping[str, str]:
        """The instance's settings in clear, as far as the lane's receiver may see them; raises `ConfigError`."""
        settings = self._directory.at_hand(instance)
        if settings is None:
            settings = await until_there(partial(self._directory.settings, instance))
        return shown_settings(settings, instance, lane.replay)

    async def notification(self, lane: Lane, item: Item) -> Notification:
        """What *item* is about, under the id that it has on this lane."""
        if item.notification is None:
            item.notification = (await until_there(partial(self._reader.read, [item.position])))[0]
        if lane.replay is not None and lane.replay.as_new:
            return self._reader.renamed(item.notification, lane.id)
        return item.notification
