-- tidings, schema 1.
--
-- THE LOG is the record.  One row is one entry: a change of one object at a provider (kind 'change'), or a
-- moment in the life of the system itself (an instance created, a baseline taken, deliveries settled).  An
-- entry's position is drawn under one advisory lock that is held until commit, so positions become visible
-- in their order and a reader of `position > last` misses nothing.  Rows are never changed; old ones leave as
-- whole partitions.
--
-- THE VAULT is the other record: what providers and owners keep secret, sealed under a key that is not here.
--
-- EVERY OTHER TABLE is a projection: folded from the log in the transaction that appends, and by the same
-- statements in `tidings rebuild`.  Dropping them loses nothing.
--
--     organizations ◄─ users          user.added, user.removed
--     instances                       instance.created … instance.deleted
--     objects, seen                   change, object.known
--     cursors                         poll.baseline, poll.completed, poll.failed, …
--     callbacks ◄─ deliveries, attempts   instance.*, callback.*, delivery, delivery.asked, replay.requested
--
-- A NOTIFICATION is what one POST to a callback carries: consecutive changes of one instance and one object
-- type.  It is named by the position of its first change.  A CALLBACK is an instance's callback URL (its id is
-- the instance's), or a replay (its id is the position of 'replay.requested').
--
-- A callback's `since`: the entry that began it; what came before is not its.
-- A callback's `cursor`: every notification at or below it is settled, or has a row in `deliveries`.
-- A callback's `reserved`: a notification above it has certainly not been sent.  So after a crash those
-- between the two that have no outcome, and only those, may have been sent.

CREATE SEQUENCE log_position;

CREATE TABLE log (
    position     bigint      NOT NULL,
    appended     timestamptz NOT NULL,
    kind         text        NOT NULL,
    instance_id  bigint,                -- position of its instance.created
    -- a change
    object_type  text,
    object_id    text,
    change       text,
    changed      timestamptz,           -- the provider's time, where it gives one
    fingerprint  bytea,                 -- names this version of this object
    notification bigint,                -- position of the first change that travels with this one
    source       bigint,                -- of a webhook: position of the row whose data is the provider's body
    polled       timestamptz,           -- of a poll: when the provider answered
    place        text,                  -- where the object is at the provider, if objects have places there
    -- json, not jsonb: it keeps what the provider wrote, and goes out again without being parsed
    data         json,
    PRIMARY KEY (position),
    CONSTRAINT kind_known CHECK (kind IN (
        'change', 'object.known',
        'log.opened', 'user.added', 'user.removed',
        'instance.created', 'instance.configured', 'instance.enabled', 'instance.disabled', 'instance.deleted',
        'poll.baseline', 'poll.completed', 'poll.failed', 'poll.recovered', 'poll.disabled', 'poll.resumed',
        'poll.set_back', 'sweep.allowed',
        'callback.disabled', 'callback.enabled',
        'alert.began', 'alert.sent', 'alert.ended',
        'delivery', 'delivery.asked', 'replay.requested')),
    CONSTRAINT change_whole CHECK (kind <> 'change' OR (
        instance_id IS NOT NULL AND object_type IS NOT NULL AND object_id IS NOT NULL AND fingerprint IS NOT NULL
        AND notification IS NOT NULL AND notification <= position
        AND change IN ('CREATED', 'UPDATED', 'DELETED', 'UNKNOWN')
        AND (source IS NULL) = (polled IS NOT NULL))),
    CONSTRAINT life_whole CHECK (kind = 'change' OR (notification IS NULL AND data IS NOT NULL))
) PARTITION BY RANGE (position);

-- An instance's changes in order: a lane that is behind, and GET /instances/{id}/events.
CREATE INDEX log_changes ON log (instance_id, position) WHERE kind = 'change';
-- An instance's life: its state at any position (a redelivery is rendered as of its notification).  Its polls are
-- many and not among them.
CREATE INDEX log_life ON log (instance_id, position) WHERE kind LIKE 'instance.%';
-- What may be worth an alert, and how far alerts are told: few among very many.
CREATE INDEX log_alerts ON log (position) WHERE kind IN (
    'instance.disabled', 'callback.disabled', 'poll.disabled', 'alert.began', 'alert.sent', 'alert.ended');

COMMENT ON TABLE log IS 'tidings schema 1';

CREATE FUNCTION log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % is not allowed', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER log_never_changes BEFORE UPDATE OR DELETE ON log
    FOR EACH ROW EXECUTE FUNCTION log_is_append_only();
CREATE TRIGGER log_never_empties BEFORE TRUNCATE ON log
    FOR EACH STATEMENT EXECUTE FUNCTION log_is_append_only();

-- Makes the partitions that hold positions up to *upto*, ten million each; returns the first position that
-- has none.  The daemon's role may not create tables, so this runs as the owner.  A table is made first and
-- attached then: that waits for no reader of the log (a dump takes hours), and nobody waits for it.
CREATE FUNCTION log_extend(upto bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    span CONSTANT bigint := 10000000;
    low bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7434603);
    SELECT coalesce(max(substr(relname, 5)::bigint + 1), 0) * span INTO low
      FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'log'::regclass;
    WHILE low <= upto LOOP
        EXECUTE format('CREATE TABLE log_%s (LIKE log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', low / span);
        EXECUTE format('ALTER TABLE log ATTACH PARTITION log_%s FOR VALUES FROM (%s) TO (%s)', low / span, low, low + span);
        -- Row triggers are inherited by a partition; TRUNCATE triggers are not.
        EXECUTE format('CREATE TRIGGER log_never_empties BEFORE TRUNCATE ON log_%s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION log_is_append_only()', low / span);
        low := low + span;
    END LOOP;
    RETURN low;
END $$;
SELECT log_extend(10000000);

-- Draws *n* consecutive positions.  Whoever calls it holds the append lock until the transaction ends: call
-- it as late as possible.  The transaction's id lets a writer whose connection broke during COMMIT ask, by
-- the entries that have it, what became of it.
CREATE FUNCTION log_draw(n integer, OUT first bigint, OUT xid text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7434602);
    first := nextval('log_position');
    IF n > 1 THEN
        PERFORM setval('log_position', first + n - 1);
    END IF;
    xid := pg_current_xact_id()::text;
END $$;


-- The vault: the second record.  One secret of one instance: a provider's credential, a signing key.
CREATE TABLE vault (
    instance_id bigint NOT NULL,
    name        text   NOT NULL,
    key_id      text   NOT NULL,        -- which key of the key file sealed it
    sealed      bytea  NOT NULL,        -- AES-256-GCM, nonce first, bound to instance_id and name
    PRIMARY KEY (instance_id, name)
);


-- Projections.

CREATE TABLE organizations (
    id   bigint PRIMARY KEY,            -- position of the user.added that first named it
    name text   NOT NULL UNIQUE
);

CREATE TABLE users (
    id                  bigint PRIMARY KEY,
    organization_id     bigint NOT NULL,
    name                text   NOT NULL,
    user_digest         bytea  NOT NULL UNIQUE,   -- SHA-256 of the user secret
    organization_digest bytea  NOT NULL,          -- SHA-256 of this user's organization secret
    added               timestamptz NOT NULL,
    removed             timestamptz
);

CREATE TABLE instances (
    id              bigint PRIMARY KEY,
    organization_id bigint  NOT NULL,
    user_id         bigint  NOT NULL,
    element_key     text    NOT NULL,
    hub             text    NOT NULL,
    name            text    NOT NULL,
    tags            text[]  NOT NULL,
    configuration   jsonb   NOT NULL,             -- strings or null; secrets masked
    token_digest    bytea   NOT NULL UNIQUE,      -- SHA-256 of the element token
    disabled        boolean NOT NULL,
    created         timestamptz NOT NULL,
    updated         timestamptz NOT NULL,
    revision        bigint  NOT NULL,             -- position of the entry that made it what it is
    reason          text                          -- why it is off, where tidings switched it off
);
CREATE INDEX instances_organization ON instances (organization_id, id);

CREATE TABLE objects (
    instance_id bigint  NOT NULL,
    object_type text    NOT NULL,
    object_id   text    NOT NULL,
    fingerprint bytea,                            -- of the latest version seen; null when only webhooks told of it
    changed     timestamptz,
    deleted     boolean NOT NULL,
    position    bigint  NOT NULL,
    place       text COLLATE "C",                 -- as the latest entry has it: a path, its parts divided by /
    PRIMARY KEY (instance_id, object_type, object_id)
) WITH (fillfactor = 85);
-- What is at a place or below it.  Of a place its beginning, for an index holds no key of any length.
CREATE INDEX objects_place ON objects (instance_id, object_type, left(place, 500)) WHERE place IS NOT NULL;

-- Events that webhooks brought, to recognise one that comes again.
CREATE TABLE seen (
    instance_id bigint NOT NULL,
    fingerprint bytea  NOT NULL,
    position    bigint NOT NULL,
    PRIMARY KEY (instance_id, fingerprint)
);

CREATE TABLE cursors (
    instance_id bigint NOT NULL,
    resource    text   NOT NULL,
    cursor      timestamptz,                      -- the provider's time up to which it is read
    baseline    timestamptz,                      -- null until the first poll has ended
    polled      timestamptz,                      -- the last poll that wrote a row, by the provider's clock
    noted       timestamptz,                      -- when the log was told of it, by this database's clock
    swept       timestamptz,
    failures    integer NOT NULL DEFAULT 0,       -- polls failed in a row
    failed      timestamptz,
    retry       timestamptz,                      -- not before this
    error       text,
    disabled    boolean NOT NULL DEFAULT false,
    allow_sweep boolean NOT NULL DEFAULT false,   -- a person allowed a sweep beyond the brake
    token       text,                             -- of a change feed: the provider's word for what is read
    PRIMARY KEY (instance_id, resource),
    CONSTRAINT failing_or_not CHECK ((failures = 0) = (error IS NULL))
);

CREATE TABLE callbacks (
    id          bigint PRIMARY KEY,
    instance_id bigint NOT NULL,
    state       text   NOT NULL,
    reason      text,                             -- why it is disabled
    since       bigint NOT NULL,
    cursor      bigint NOT NULL,
    reserved    bigint NOT NULL,
    failing     timestamptz,                      -- since when nothing was accepted, null while it works
    until       bigint,                           -- a replay's last position
    replay      jsonb,                            -- a replay's selection and address
    CONSTRAINT state_known CHECK (state IN ('active', 'disabled', 'removed', 'finished')),
    CONSTRAINT reason_given CHECK ((state = 'disabled') = (reason IS NOT NULL)),
    CONSTRAINT replay_bounded CHECK ((replay IS NULL) = (until IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX callbacks_instance ON callbacks (instance_id);

--     (no row: pending, or in flight within the reserved window)
--        │
--        ▼                 ┌──── due ────┐
--     in flight ──2xx──► delivered       │
--        ├──── failed ──► retrying ──► in_flight ──► …
--        │                   └─ schedule ends ─► dead
--        └──── crash ───► in_doubt ──► delivered | retrying | held
--     waiting: an earlier notification about one of its objects is not settled yet
CREATE TABLE deliveries (
    callback_id  bigint   NOT NULL,
    notification bigint   NOT NULL,
    state        text     NOT NULL,
    attempts     smallint NOT NULL,
    due          timestamptz,                     -- of a retry: not before this
    settled      timestamptz,                     -- when the latest outcome was known
    status       smallint,                        -- the receiver's HTTP status
    error        text,
    doubtful     boolean  NOT NULL,               -- an attempt may have been accepted without our knowing
    decided      boolean  NOT NULL DEFAULT false, -- a person settled it
    PRIMARY KEY (callback_id, notification),
    CONSTRAINT state_known CHECK (state IN
        ('in_flight', 'waiting', 'retrying', 'in_doubt', 'held', 'delivered', 'dead')),
    CONSTRAINT delivered_by_2xx CHECK (state <> 'delivered' OR (status BETWEEN 200 AND 299 AND error IS NULL)),
    CONSTRAINT retry_is_due CHECK ((state = 'retrying') = (due IS NOT NULL))
) WITH (fillfactor = 85);
CREATE INDEX deliveries_open ON deliveries (callback_id, notification) WHERE state NOT IN ('delivered', 'dead');
CREATE INDEX deliveries_dead ON deliveries (callback_id, notification) WHERE state = 'dead';

-- The attempts of what was not delivered at the first: for whoever asks why.
CREATE TABLE attempts (
    callback_id  bigint   NOT NULL,
    notification bigint   NOT NULL,
    position     bigint   NOT NULL,               -- of the 'delivery' entry that tells of it
    attempt      smallint NOT NULL,
    state        text     NOT NULL,               -- what it led to
    settled      timestamptz NOT NULL,
    status       smallint,
    error        text,
    PRIMARY KEY (callback_id, notification, position)
);

-- For each notification and callback at most one accepted delivery is ever recorded.
CREATE FUNCTION delivered_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'notification % was already delivered to callback %', OLD.notification, OLD.callback_id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER delivered_is_final BEFORE UPDATE ON deliveries
    FOR EACH ROW WHEN (OLD.state = 'delivered') EXECUTE FUNCTION delivered_is_final();


-- The daemon works as this role: it can append to the log, and cannot change it.
DO $$
BEGIN
    CREATE ROLE tidings_daemon NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- roles are the cluster's: another database of it has made this one
END $$;
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'tidings_daemon', 'MEMBER') THEN
        GRANT tidings_daemon TO CURRENT_USER;
    END IF;
END $$;
GRANT USAGE ON SCHEMA public TO tidings_daemon;
GRANT SELECT, INSERT ON log TO tidings_daemon;
REVOKE EXECUTE ON FUNCTION log_extend FROM PUBLIC;
GRANT EXECUTE ON FUNCTION log_extend TO tidings_daemon;
GRANT USAGE, SELECT, UPDATE ON SEQUENCE log_position TO tidings_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    vault, organizations, users, instances, objects, seen, cursors, callbacks, deliveries, attempts TO tidings_daemon;
