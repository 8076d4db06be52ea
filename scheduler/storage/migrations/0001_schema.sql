-- The record. No index mentions `status`, so a claim is a heap-only (HOT) update; `fillfactor` leaves it the room.
CREATE TABLE scheduler.jobs (
    id              uuid PRIMARY KEY,
    created_at      timestamptz NOT NULL DEFAULT now(),
    run_at          timestamptz NOT NULL DEFAULT now(),
    -- From when on the reconciler may publish the job, unless Redis shows it queued; -infinity: at once.
    reconcile_at    timestamptz NOT NULL DEFAULT '-infinity',
    started_at      timestamptz,
    finished_at     timestamptz,
    worker_id       uuid,
    timeout_seconds float8 CHECK (timeout_seconds > 0),
    attempt         int NOT NULL DEFAULT 0,
    max_attempts    int NOT NULL CHECK (max_attempts >= 1),
    -- Rises with every claim and never falls: the token that a settle must present.
    fence           int NOT NULL DEFAULT 0,
    -- How many attempts in a row ended with the death of their worker: from the second on, the job is a suspect.
    crashes         int NOT NULL DEFAULT 0,
    status          text NOT NULL DEFAULT 'PENDING'
        CHECK (status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    type            text NOT NULL,
    payload         json NOT NULL,
    result          json,
    error           text,
    idempotency_key text,
    fingerprint     bytea,
    CHECK (attempt BETWEEN 0 AND max_attempts),
    CHECK ((finished_at IS NOT NULL) = (status IN ('COMPLETED', 'FAILED', 'CANCELLED')))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0);

CREATE INDEX jobs_unfinished ON scheduler.jobs (reconcile_at) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX jobs_idempotency_key ON scheduler.jobs (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- One row an attempt that did not complete; the attempt that did is the job's own row.
CREATE TABLE scheduler.attempts (
    job_id      uuid NOT NULL REFERENCES scheduler.jobs ON DELETE CASCADE,
    fence       int NOT NULL,
    attempt     int NOT NULL,
    worker_id   uuid,
    started_at  timestamptz,
    finished_at timestamptz NOT NULL DEFAULT now(),
    error       text NOT NULL,
    PRIMARY KEY (job_id, fence)
);

CREATE TABLE scheduler.dead_letters (
    job_id    uuid PRIMARY KEY REFERENCES scheduler.jobs ON DELETE CASCADE,
    type      text NOT NULL,
    error     text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now()
);

-- One lease a worker, on this server's clock. `cancelled` is how a running job is told, `counters` how it reports.
CREATE TABLE scheduler.workers (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    types      text[] NOT NULL,
    cancelled  uuid[] NOT NULL DEFAULT '{}',
    counters   json NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 100, autovacuum_vacuum_scale_factor = 0);
