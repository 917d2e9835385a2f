"""Alerts in the log: what is worth one, and how far they are told.

Worth an alert is what the daemon gave up by itself and only a person can mend: an instance whose access was refused
for good, a callback that was disabled, polls that failed too often.  What a person did is none: an instance that
somebody switched off has no reason, a callback that somebody disabled has a `by`.

    alert.began     alerts are on from here; what came before is not told
    alert.sent      about one of those entries: it was accepted, or given up, with the receiver's status
    alert.ended     alerts are off from here; what comes now is not told

They are told one after another in the order of the log, so the last of these entries says how far that is.
"""

from dataclasses import dataclass
from datetime import datetime

import orjson

from daemon.store.database import Db
from daemon.store.log import Entry

KINDS = frozenset({"instance.disabled", "callback.disabled", "poll.disabled"})
"""The kinds of entries that may be worth an alert."""

LAST = """
SELECT kind, CASE kind WHEN 'alert.sent' THEN (data->>'about')::bigint ELSE position END AS place
  FROM log
 WHERE kind IN ('alert.began', 'alert.sent', 'alert.ended')
 ORDER BY position DESC
 LIMIT 1
"""

# The instance as it was then: of an instance's own entry that is the entry itself.  The names of users and
# organizations never change, so whenever this is asked it finds the same.
NEXT = """
SELECT told.position, told.appended, told.kind, told.instance_id,
       extract(epoch FROM statement_timestamp() - told.appended)::double precision AS age,
       coalesce(told.data->>'reason', told.data->>'error', '') AS reason,
       CASE told.kind WHEN 'callback.disabled' THEN (told.data->>'callback')::bigint END AS callback_id,
       CASE told.kind WHEN 'poll.disabled' THEN told.data->>'resource' END AS resource,
       was.data->>'name' AS instance_name, was.data->>'element' AS element_key,
       (SELECT name FROM organizations WHERE id = (was.data->>'organization')::bigint) AS organization,
       (SELECT name FROM users WHERE id = (was.data->>'user')::bigint) AS user_name
  FROM log AS told
  LEFT JOIN LATERAL (SELECT data FROM log AS life
                      WHERE life.instance_id = told.instance_id AND life.kind LIKE 'instance.%'
                        AND life.position <= told.position
                      ORDER BY life.position DESC
                      LIMIT 1) AS was ON true
 WHERE told.kind IN ('instance.disabled', 'callback.disabled', 'poll.disabled') AND told.position > $1
   AND CASE told.kind WHEN 'instance.disabled' THEN told.data->>'reason' IS NOT NULL
                      WHEN 'callback.disabled' THEN told.data->>'by' IS NULL ELSE true END
 ORDER BY told.position
 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Happening:
    """An entry that is worth an alert, with the names that stood at its position.

    *age* is how many seconds ago it was appended when it was read, by the database's clock.  *callback_id* is given
    for a callback only (an instance's own has the instance's id, a replay's another), *resource* for polls only.
    """

    position: int
    appended: datetime
    kind: str
    instance_id: int
    age: float
    reason: str
    callback_id: int | None
    resource: str | None
    instance_name: str | None
    element_key: str | None
    organization: str | None
    user_name: str | None


async def next_after(db: Db, position: int) -> Happening | None:
    """The first entry after *position* that is worth an alert; None where there is none yet."""
    row = await db.fetchrow(NEXT, position)
    return None if row is None else Happening(**row)


async def place(db: Db) -> int | None:
    """The position up to which everything is told, or is not to be told; None while alerts are off."""
    row = await db.fetchrow(LAST)
    return None if row is None or row["kind"] == "alert.ended" else row["place"]


def began() -> Entry:
    """The entry from which on alerts are told."""
    return Entry("alert.began", data="{}")


def ended() -> Entry:
    """The entry from which on they are not."""
    return Entry("alert.ended", data="{}")


def sent(about: int, *, attempts: int, status: int | None, error: str | None) -> Entry:
    """The alert about the entry at *about* is settled: accepted where there is no *error*, else given up.

    It is not the instance's entry: that may be deleted by now, and the alert was told all the same.
    """
    data = {"about": about, "attempts": attempts, "status": status, "error": error}
    return Entry("alert.sent", data=orjson.dumps(data).decode())
