"""What all pollers share."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.connections import Connections
from daemon.store.database import Pool
from daemon.store.directory import Directory
from daemon.store.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """The pollers' collaborators, and the operator's rules (`[polling]`).

    *turns* bounds the polls that run at a time; of them at most *per_provider* may be at one provider, so
    that one which is slow does not use up the turns of the others.  *clock* is the time of day, *monotonic* only
    goes forward (seconds), *chance* is from 0 to 1.
    """

    pool: Pool
    writer: Writer
    directory: Directory
    connections: Connections
    turns: asyncio.Semaphore
    per_provider: int = 8
    jitter: float = 0.1
    disable_after_failures: int = 100
    sweep_limit: float = 0.5
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
