"""Notifications, as they are made of the log's rows: each with its instance as it was then."""

from collections.abc import Sequence

import asyncpg

from daemon.model import Instance
from daemon.notifications import Notification, StoredChange
from daemon.store import instances, log
from daemon.store.database import Db

LIVES_MOST = 5_000
"""Instances of which a reader keeps in mind what they were and are."""


class Reader:
    """Makes notifications of log rows, each with its instance as it was then.

    *log_id* is asked for with the first of them when it is not given.
    """

    def __init__(self, *, db: Db, log_id: bytes = b"") -> None:
        self._db = db
        self._log_id = log_id
        self._lives: dict[int, list[Instance]] = {}
        self._forgotten = 0

    def forget(self, instance_id: int) -> None:
        """Read the instance's life anew next time: it has changed."""
        self._lives.pop(instance_id, None)
        self._forgotten += 1

    async def notifications(self, rows: Sequence[asyncpg.Record]) -> list[Notification]:
        """*rows* of the log, in order and whole notifications only, as notifications."""
        self._log_id = self._log_id or await log.log_id(self._db)
        missing = {row["source"] for row in rows if row["source"] is not None}
        bodies: dict[int, str] = {}
        for row in rows:
            if row["source"] == row["position"]:
                missing.discard(row["position"])
                bodies[row["position"]] = row["data"]
        if missing:
            bodies |= await log.sources(self._db, list(missing))
        lives = {
            instance_id: await self._life(instance_id)
            for instance_id in {row["instance_id"] for row in rows}
        }
        found: list[Notification] = []
        start, last = 0, len(rows)
        while start < last:
            first = rows[start]
            position: int = first["notification"]
            changes: list[StoredChange] = []
            while start < last and (row := rows[start])["notification"] == position:
                changes.append(
                    StoredChange(
                        row["position"],
                        row["object_type"],
                        row["object_id"],
                        row["change"],
                        row["changed"],
                        row["data"],
                    )
                )
                start += 1
            source = first["source"]
            found.append(
                Notification(
                    position,
                    log.event_id(self._log_id, position),
                    first["appended"],
                    _as_of(lives[first["instance_id"]], position),
                    tuple(changes),
                    first["polled"],
                    None if source is None else bodies[source],
                )
            )
        return found

    async def _life(self, instance_id: int) -> list[Instance]:
        """What the instance was, from each change of it on."""
        life = self._lives.get(instance_id)
        if life is None:
            forgotten = self._forgotten
            rows = await log.life_of_instance(self._db, instance_id)
            life = [instances.as_of(row, instance_id, rows[0]["appended"]) for row in rows]
            # It tells all up to what was asked for; but if something came to it while it was read, not what follows.
            if self._forgotten == forgotten:
                while len(self._lives) >= LIVES_MOST:
                    del self._lives[next(iter(self._lives))]
                self._lives[instance_id] = life
        return life

    def renamed(self, notification: Notification, replay: int) -> Notification:
        """*notification* under the id that a replay with new ids gives it."""
        return notification._replace(id=log.event_id(self._log_id, notification.position, replay))

    async def read(self, notifications: Sequence[int]) -> list[Notification]:
        """The notifications at these positions, in order."""
        return await self.notifications(await log.changes_of_notifications(self._db, notifications))


def _as_of(life: Sequence[Instance], position: int) -> Instance:
    """What the instance was when the entry at *position* was appended."""
    for state in reversed(life):
        if state.revision < position:
            return state
    raise LookupError(f"no entry before {position} created the instance")
