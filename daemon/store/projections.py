"""Every table but the log and the vault, folded from the log.

The same statements run in the transaction that appends and in `rebuild`.  A fold reads the entries in a range
of positions from the log itself, so there is nothing that only the live path could know.

Two ways of folding.  *whole*: one statement for a range, whatever is in it; the outcome must not depend on how
the log is cut into ranges, so each says what the last entry of the range wins.  *each*: one entry at a time in
order, where an entry's effect depends on what stood before; these kinds are few, or carry many facts in a row.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from daemon.store.database import Conn

FOLD_ORGANIZATION = """
INSERT INTO organizations (id, name)
SELECT position, data->>'organization' FROM log WHERE position BETWEEN $1 AND $2 AND kind = 'user.added'
ON CONFLICT (name) DO NOTHING
"""

FOLD_USER_ADDED = """
INSERT INTO users (id, organization_id, name, user_digest, organization_digest, added)
SELECT position, organizations.id, data->>'name', decode(data->>'user_digest', 'hex'),
       decode(data->>'organization_digest', 'hex'), appended
  FROM log JOIN organizations ON organizations.name = data->>'organization'
 WHERE position BETWEEN $1 AND $2 AND kind = 'user.added'
"""

FOLD_USER_REMOVED = """
UPDATE users SET removed = appended
  FROM log WHERE position BETWEEN $1 AND $2 AND kind = 'user.removed' AND users.id = (data->>'user')::bigint
"""

# Every instance entry carries the whole state, so the last one says all.
FOLD_INSTANCE = """
INSERT INTO instances (id, organization_id, user_id, element_key, hub, name, tags, configuration, token_digest,
                       disabled, created, updated, revision, reason)
SELECT instance_id, (data->>'organization')::bigint, (data->>'user')::bigint, data->>'element', data->>'hub', data->>'name',
       ARRAY(SELECT json_array_elements_text(data->'tags')), (data->'configuration')::jsonb,
       decode(data->>'token_digest', 'hex'), (data->>'disabled')::boolean, appended, appended, position, data->>'reason'
  FROM log
 WHERE position BETWEEN $1 AND $2 AND kind LIKE 'instance.%' AND kind <> 'instance.deleted'
ON CONFLICT (id) DO UPDATE SET
       user_id = excluded.user_id, name = excluded.name, tags = excluded.tags,
       configuration = excluded.configuration, token_digest = excluded.token_digest,
       disabled = excluded.disabled, updated = excluded.updated, revision = excluded.revision, reason = excluded.reason
"""

FOLD_INSTANCE_DELETED = """
DELETE FROM instances USING log
 WHERE position BETWEEN $1 AND $2 AND kind = 'instance.deleted' AND instances.id = instance_id
"""

# A baseline's entry holds many objects: [id, fingerprint, changed in ms or null, and its place if it has one].  An
# object is where its latest entry says, so one that is deleted is nowhere.  A webhook's fingerprint names
# an event and no version, so it does not hide the version that a poll has seen; only after a DELETED every
# version is a new one.
FOLD_OBJECTS = """
INSERT INTO objects (instance_id, object_type, object_id, fingerprint, changed, deleted, position, place)
SELECT instance_id, object_type, object_id,
       (array_agg(fingerprint ORDER BY position DESC, n DESC) FILTER (WHERE fingerprint IS NOT NULL))[1],
       (array_agg(changed ORDER BY position DESC, n DESC) FILTER (WHERE changed IS NOT NULL))[1],
       (array_agg(deleted ORDER BY position DESC, n DESC))[1],
       max(position),
       (array_agg(place ORDER BY position DESC, n DESC))[1]
  FROM (SELECT instance_id, object_type, object_id,
               CASE WHEN polled IS NOT NULL OR change = 'DELETED' THEN fingerprint END AS fingerprint,
               changed, change = 'DELETED' AS deleted, position, 1 AS n, place
          FROM log WHERE position BETWEEN $1 AND $2 AND kind = 'change'
        UNION ALL
        SELECT instance_id, object_type, object->>0, decode(object->>1, 'hex'),
               to_timestamp((object->>2)::double precision / 1000), false, position, n, object->>3
          FROM (SELECT instance_id, data->>'object_type' AS object_type, data->'objects' AS objects, position
                  FROM log WHERE position BETWEEN $1 AND $2 AND kind = 'object.known'
                -- Or the whole of data is parsed again for each object in it.
                OFFSET 0) AS entry,
               json_array_elements(objects) WITH ORDINALITY AS known (object, n)) AS version
 GROUP BY instance_id, object_type, object_id
ON CONFLICT (instance_id, object_type, object_id) DO UPDATE SET
       fingerprint = coalesce(excluded.fingerprint, objects.fingerprint), changed = coalesce(excluded.changed, objects.changed),
       deleted = excluded.deleted, position = excluded.position, place = excluded.place
"""

FOLD_SEEN = """
INSERT INTO seen (instance_id, fingerprint, position)
SELECT instance_id, fingerprint, position
  FROM log WHERE position BETWEEN $1 AND $2 AND kind = 'change' AND polled IS NULL
ON CONFLICT DO NOTHING
"""

# A poller may still be writing when its instance has gone or has stopped watching the resource.  What the instance
# was when the entry came decides, so a rebuild sees what was seen then.
FOLD_CURSOR = """
INSERT INTO cursors AS cursors (instance_id, resource, cursor, baseline, polled, noted, swept, failures, failed, retry, error, disabled,
                                allow_sweep, token)
SELECT instance_id, data->>'resource', (data->>'cursor')::timestamptz, (data->>'baseline')::timestamptz,
       (data->>'polled')::timestamptz, CASE WHEN data->>'polled' IS NOT NULL THEN appended END,
       (data->>'swept')::timestamptz, coalesce((data->>'failures')::integer, 0),
       CASE WHEN data->>'error' IS NOT NULL THEN appended END, (data->>'retry')::timestamptz, data->>'error',
       kind = 'poll.disabled', kind = 'sweep.allowed', data->>'token'
  FROM log
 WHERE position BETWEEN $1 AND $2
   AND (kind LIKE 'poll.%' OR kind LIKE 'sweep.%')
   AND data->>'resource' IN (
       SELECT json_array_elements_text(was.data->'resources')
         FROM (SELECT life.kind, life.data FROM log AS life
                WHERE life.instance_id = log.instance_id AND life.kind LIKE 'instance.%' AND life.position < log.position
                ORDER BY life.position DESC LIMIT 1) AS was
        WHERE was.kind <> 'instance.deleted')
ON CONFLICT (instance_id, resource) DO UPDATE SET
       cursor = coalesce(excluded.cursor, cursors.cursor),
       baseline = coalesce(excluded.baseline, cursors.baseline),
       polled = coalesce(excluded.polled, cursors.polled), noted = coalesce(excluded.noted, cursors.noted),
       swept = coalesce(excluded.swept, cursors.swept),
       failures = excluded.failures, failed = excluded.failed, retry = excluded.retry, error = excluded.error,
       disabled = excluded.disabled,
       allow_sweep = excluded.allow_sweep OR (cursors.allow_sweep AND excluded.swept IS NULL),
       token = coalesce(excluded.token, cursors.token)
"""

# An instance that goes, or stops watching a resource, forgets where it was: watching it again starts anew.
FORGET_CURSORS = """
DELETE FROM cursors USING log
 WHERE log.position BETWEEN $1 AND $2 AND log.kind LIKE 'instance.%' AND cursors.instance_id = log.instance_id
   AND (log.kind = 'instance.deleted' OR NOT cursors.resource IN (SELECT json_array_elements_text(data->'resources')))
"""

FORGET_OBJECTS = """
DELETE FROM objects USING log
 WHERE log.position BETWEEN $1 AND $2 AND log.kind = 'instance.deleted' AND objects.instance_id = log.instance_id
"""

FORGET_SEEN = """
DELETE FROM seen USING log
 WHERE log.position BETWEEN $1 AND $2 AND log.kind = 'instance.deleted' AND seen.instance_id = log.instance_id
"""

# A callback exists from the entry that first gave the instance an address; what came before is not its.
# Taking the address away ends it, giving one again begins anew; a new address goes on where the old one was.
FOLD_CALLBACK = """
INSERT INTO callbacks AS callbacks (id, instance_id, state, since, cursor, reserved)
SELECT instance_id, instance_id, 'active', position, position, position
  FROM log
 WHERE position BETWEEN $1 AND $2 AND kind LIKE 'instance.%' AND data->>'callback' IS NOT NULL
ON CONFLICT (id) DO UPDATE SET
       state = 'active', since = excluded.since, cursor = excluded.cursor, reserved = excluded.reserved
 WHERE callbacks.state = 'removed'
"""

FOLD_CALLBACK_REMOVED = """
UPDATE callbacks SET state = 'removed', reason = NULL, failing = NULL
  FROM log
 WHERE log.position BETWEEN $1 AND $2 AND log.kind LIKE 'instance.%' AND data->>'callback' IS NULL
   AND callbacks.instance_id = log.instance_id AND state <> 'finished'
   AND (replay IS NULL OR log.kind = 'instance.deleted')  -- a replay has an address of its own, or waits for one
"""

# What was open there is not sent any more, by whatever comes later.
FOLD_CALLBACK_CLOSED = """
UPDATE deliveries SET state = 'dead', due = NULL, settled = appended, error = 'the callback was taken away'
  FROM log, callbacks
 WHERE log.position BETWEEN $1 AND $2 AND log.kind LIKE 'instance.%' AND data->>'callback' IS NULL
   AND callbacks.instance_id = log.instance_id AND callback_id = callbacks.id
   AND (replay IS NULL OR log.kind = 'instance.deleted')
   AND deliveries.state NOT IN ('delivered', 'dead')
"""

# A person who enables a callback gives it all the time again that it has to work.
FOLD_CALLBACK_STATE = """
UPDATE callbacks SET state = CASE kind WHEN 'callback.disabled' THEN 'disabled' ELSE 'active' END,
       reason = CASE kind WHEN 'callback.disabled' THEN data->>'reason' END,
       failing = CASE kind WHEN 'callback.disabled' THEN failing END
  FROM log
 WHERE log.position BETWEEN $1 AND $2 AND kind LIKE 'callback.%' AND callbacks.id = (data->>'callback')::bigint
   AND state IN ('active', 'disabled')
"""

FOLD_REPLAY = """
INSERT INTO callbacks (id, instance_id, state, since, cursor, reserved, until, replay)
SELECT position, (data->>'instance')::bigint, 'active', position, (data->>'after')::bigint, (data->>'after')::bigint,
       (data->>'until')::bigint, data::jsonb
  FROM log
 WHERE position BETWEEN $1 AND $2 AND kind = 'replay.requested'
"""

# How far each callback is: [id, cursor, reserved, finished, failing since ms or null].  What was written while the
# callback was taken away, and given again, is not about the one that began then.
FOLD_PROGRESS = """
UPDATE callbacks SET cursor = (progress->>1)::bigint, reserved = (progress->>2)::bigint,
       failing = to_timestamp((progress->>4)::double precision / 1000),
       state = CASE WHEN (progress->>3)::boolean THEN 'finished' ELSE state END,
       reason = CASE WHEN NOT (progress->>3)::boolean THEN reason END
  FROM log, json_array_elements(data->'callbacks') AS progress
 WHERE position BETWEEN $1 AND $2 AND kind = 'delivery' AND callbacks.id = (progress->>0)::bigint
   AND state IN ('active', 'disabled') AND cursor <= (progress->>1)::bigint
"""

# What became of notifications: [callback, notification, state, attempts, due ms, settled ms, status, error, doubtful].
# A lane may write before it has heard what a person said meanwhile: that stands, but for one that was accepted after all.
FOLD_OUTCOMES = """
INSERT INTO deliveries (callback_id, notification, state, attempts, due, settled, status, error, doubtful)
SELECT callbacks.id, (o->>1)::bigint, CASE WHEN closed THEN 'dead' ELSE o->>2 END, (o->>3)::smallint,
       CASE WHEN NOT closed THEN to_timestamp((o->>4)::double precision / 1000) END,
       to_timestamp((o->>5)::double precision / 1000),
       (o->>6)::smallint, CASE WHEN closed THEN 'the callback was taken away' ELSE o->>7 END, (o->>8)::boolean
  FROM log
 CROSS JOIN json_array_elements(data->'outcomes') AS o
  JOIN callbacks ON callbacks.id = (o->>0)::bigint
 CROSS JOIN LATERAL (SELECT o->>2 NOT IN ('delivered', 'dead')
                            AND (callbacks.state = 'removed' OR (callbacks.replay IS NULL AND (o->>1)::bigint < since))) AS of (closed)
 WHERE position BETWEEN $1 AND $2 AND kind = 'delivery'
ON CONFLICT (callback_id, notification) DO UPDATE SET
       state = excluded.state, attempts = excluded.attempts, due = excluded.due,
       settled = excluded.settled, status = excluded.status, error = excluded.error, doubtful = excluded.doubtful
 WHERE NOT deliveries.decided OR (deliveries.state = 'dead' AND excluded.state = 'delivered')
"""


FOLD_ATTEMPTS = """
INSERT INTO attempts (callback_id, notification, position, attempt, state, settled, status, error)
SELECT callbacks.id, (o->>1)::bigint, position, (o->>3)::smallint, o->>2,
       to_timestamp((o->>5)::double precision / 1000), (o->>6)::smallint, o->>7
  FROM log
 CROSS JOIN json_array_elements(data->'outcomes') AS o
  JOIN callbacks ON callbacks.id = (o->>0)::bigint
 WHERE position BETWEEN $1 AND $2 AND kind = 'delivery' AND o->>5 IS NOT NULL
   AND (o->>2 <> 'delivered' OR (o->>3)::smallint > 1)
ON CONFLICT DO NOTHING
"""

# What is delivered stays so, whatever is asked, and so does what was open when the callback was taken away.
FOLD_ASKED = """
UPDATE deliveries SET
       state = CASE data->>'how' WHEN 'retry' THEN 'retrying' ELSE data->>'how' END,
       attempts = CASE data->>'how' WHEN 'retry' THEN 0 ELSE attempts END,
       due = CASE data->>'how' WHEN 'retry' THEN appended END,
       settled = appended,
       decided = data->>'how' <> 'retry',
       status = CASE data->>'how' WHEN 'delivered' THEN 200 ELSE status END,
       error = CASE data->>'how' WHEN 'delivered' THEN NULL ELSE error END
  FROM log JOIN callbacks ON callbacks.id = (data->>'callback')::bigint
 WHERE position BETWEEN $1 AND $2 AND kind = 'delivery.asked' AND callback_id = callbacks.id
   AND callbacks.state IN ('active', 'disabled') AND (callbacks.replay IS NOT NULL OR deliveries.notification >= callbacks.since)
   AND deliveries.notification IN (SELECT json_array_elements_text(log.data->'notifications')::bigint)
   AND deliveries.state <> 'delivered' AND deliveries.state <> 'in_flight'
"""


@dataclass(frozen=True, slots=True)
class Projection:
    """Tables that belong together, the kinds of entries that shape them, and how."""

    tables: tuple[str, ...]
    kinds: frozenset[str]
    statements: tuple[str, ...]
    each: bool = False


INSTANCE = frozenset(
    {
        "instance.created",
        "instance.configured",
        "instance.enabled",
        "instance.disabled",
        "instance.deleted",
    }
)
POLL = frozenset(
    {
        "poll.baseline",
        "poll.completed",
        "poll.failed",
        "poll.recovered",
        "poll.disabled",
        "poll.resumed",
        "poll.set_back",
        "sweep.allowed",
    }
)

PROJECTIONS = (
    Projection(
        tables=("organizations", "users"),
        kinds=frozenset({"user.added", "user.removed"}),
        statements=(FOLD_ORGANIZATION, FOLD_USER_ADDED, FOLD_USER_REMOVED),
        each=True,
    ),
    Projection(
        tables=("instances",),
        kinds=INSTANCE,
        statements=(FOLD_INSTANCE, FOLD_INSTANCE_DELETED),
        each=True,
    ),
    # Nothing is appended about an instance after its end, so forgetting last is right for any range.
    Projection(
        tables=("objects",),
        kinds=frozenset({"change", "object.known"}),
        statements=(FOLD_OBJECTS,),
    ),
    Projection(tables=("seen",), kinds=frozenset({"change"}), statements=(FOLD_SEEN,)),
    Projection(
        tables=(),
        kinds=frozenset({"instance.deleted"}),
        statements=(FORGET_OBJECTS, FORGET_SEEN),
    ),
    Projection(
        tables=("cursors",),
        kinds=INSTANCE | POLL,
        statements=(FOLD_CURSOR, FORGET_CURSORS),
        each=True,
    ),
    Projection(
        tables=("callbacks", "deliveries", "attempts"),
        kinds=INSTANCE
        | frozenset(
            {
                "callback.disabled",
                "callback.enabled",
                "replay.requested",
                "delivery",
                "delivery.asked",
            }
        ),
        statements=(
            FOLD_CALLBACK,
            FOLD_CALLBACK_REMOVED,
            FOLD_CALLBACK_CLOSED,
            FOLD_CALLBACK_STATE,
            FOLD_REPLAY,
            FOLD_PROGRESS,
            FOLD_OUTCOMES,
            FOLD_ATTEMPTS,
            FOLD_ASKED,
        ),
        each=True,
    ),
)

# Of an *each* projection only the statements that speak of an entry's kind need to run for it.
_SPEAKS_OF = {
    FOLD_ORGANIZATION: frozenset({"user.added"}),
    FOLD_USER_ADDED: frozenset({"user.added"}),
    FOLD_USER_REMOVED: frozenset({"user.removed"}),
    FOLD_INSTANCE: INSTANCE - {"instance.deleted"},
    FOLD_INSTANCE_DELETED: frozenset({"instance.deleted"}),
    FOLD_CURSOR: POLL,
    FORGET_CURSORS: INSTANCE,
    FOLD_CALLBACK: INSTANCE,
    FOLD_CALLBACK_REMOVED: INSTANCE,
    FOLD_CALLBACK_CLOSED: INSTANCE,
    FOLD_CALLBACK_STATE: frozenset({"callback.disabled", "callback.enabled"}),
    FOLD_REPLAY: frozenset({"replay.requested"}),
    FOLD_PROGRESS: frozenset({"delivery"}),
    FOLD_OUTCOMES: frozenset({"delivery"}),
    FOLD_ATTEMPTS: frozenset({"delivery"}),
    FOLD_ASKED: frozenset({"delivery.asked"}),
}

KINDS_IN = "SELECT position, kind FROM log WHERE position BETWEEN $1 AND $2 AND kind = ANY($3::text[]) ORDER BY position"

NEXT_RANGE = "SELECT max(position) FROM (SELECT position FROM log WHERE position > $1 ORDER BY position LIMIT $2) AS chunk"

EMPTY = "TRUNCATE organizations, users, instances, objects, seen, cursors, callbacks, deliveries, attempts"

_EACH_KINDS = sorted(frozenset[str]().union(*(p.kinds for p in PROJECTIONS if p.each)))


async def fold(conn: Conn, first: int, kinds: Sequence[str]) -> None:
    """Fold the entries from *first* on, whose *kinds* are given in order, inside the caller's transaction."""
    await _fold(
        conn, first, first + len(kinds) - 1, frozenset(kinds), list(enumerate(kinds, first))
    )


async def rebuild(conn: Conn, *, chunk: int = 20_000) -> AsyncIterator[int]:
    """Empty every projection and fold the whole log again; yields how far it is.

    Runs in the caller's transaction, as the owner: until it commits everybody sees the old state.
    """
    await conn.execute(EMPTY)
    done = 0
    while (upto := await conn.fetchval(NEXT_RANGE, done, chunk)) is not None:
        each = [
            (r["position"], r["kind"])
            for r in await conn.fetch(KINDS_IN, done + 1, upto, _EACH_KINDS)
        ]
        kinds = frozenset(kind for _, kind in each) | {"change", "object.known"}
        await _fold(conn, done + 1, upto, kinds, each)
        done = upto
        yield done


async def _fold(
    conn: Conn, first: int, last: int, kinds: frozenset[str], entries: Sequence[tuple[int, str]]
) -> None:
    for projection in PROJECTIONS:
        if projection.kinds.isdisjoint(kinds):
            continue
        if not projection.each:
            for statement in projection.statements:
                await conn.execute(statement, first, last)
            continue
        for position, kind in entries:
            if kind in projection.kinds:
                for statement in projection.statements:
                    if kind in _SPEAKS_OF[statement]:
                        await conn.execute(statement, position, position)
