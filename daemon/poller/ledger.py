"""One resource of one instance in the log: what is known of its objects, and how more is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import asyncpg

from daemon.model import Change
from daemon.store import objects
from daemon.store.database import Pool
from daemon.store.writer import Intake, Unit, Writer

Silent = tuple[str, bytes, datetime | None]
"""An object to make known without telling anybody: its id, its version's fingerprint, when it was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Reads by *pool*, appends by *writer*; every method raises what they raise when the database is away."""

    pool: Pool
    writer: Writer
    instance_id: int
    resource: str

    async def known(self, ids: Sequence[str]) -> dict[str, asyncpg.Record]:
        """Those of *ids* that are known: fingerprint, changed, deleted, place."""
        return await objects.known(self.pool, self.instance_id, self.resource, ids)

    async def present(self, *, root: str = "") -> set[str]:
        """The ids of all that is known and not deleted; with *root*, of those at that place or below it."""
        return await objects.present(self.pool, self.instance_id, self.resource, root=root)

    async def displaced(self, places: Sequence[tuple[str, str, bool]]) -> list[int]:
        """Which of *places* have another object than they should, or one below them; see `objects.displaced`."""
        return await objects.displaced(self.pool, self.instance_id, self.resource, places)

    async def at_or_below(self, place: str, *, below: bool, limit: int) -> list[tuple[str, str]]:
        """Ids and places of the objects at *place* and, if *below*, of those below it: at most *limit* of each."""
        return await objects.at_or_below(
            self.pool, self.instance_id, self.resource, place, below=below, limit=limit
        )

    async def tell(
        self,
        changes: Sequence[Change],
        polled: datetime,
        *,
        silent: Sequence[Silent] = (),
        places: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        """Append *changes*, as the provider showed them at *polled*; how many of them were news.

        With them, and as one, *silent* objects become known; *places* has, by id, where they are.
        """
        if not changes and not silent:
            return 0
        known = objects.known_entry(self.instance_id, self.resource, silent, places=places)
        unit = Unit(
            [known] if silent else [],
            intakes=[Intake(self.instance_id, changes, polled=polled)] if changes else [],
        )
        return (await self.writer.append(unit)).appended

    async def know(self, found: Sequence[Silent]) -> None:
        """Make objects known without telling anybody."""
        if found:
            entry = objects.known_entry(self.instance_id, self.resource, found)
            await self.writer.append(Unit([entry]))

    async def note(self, kind: str, **facts: object) -> None:
        """Append how a poll went: a `poll.*` entry with *facts*, see `objects.poll_entry`."""
        entry = objects.poll_entry(kind, self.instance_id, self.resource, **facts)
        await self.writer.append(Unit([entry]))
