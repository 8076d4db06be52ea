-- What the outside asks.

-- job: one job
SELECT id::text, type, status, attempt, max_attempts, created_at, run_at, started_at, finished_at, error,
       payload, result, timeout_seconds, idempotency_key, worker_id::text
FROM scheduler.jobs WHERE id = %(id)s

-- attempts: the attempts of one job that did not complete, in order
SELECT attempt, 'FAILED' AS status, worker_id::text, started_at, finished_at, error, trace AS traceback
FROM scheduler.attempts WHERE job_id = %(id)s ORDER BY fence

-- finished: which of these jobs are final, or gone
SELECT w.id FROM unnest(%(ids)s::uuid[]) AS w(id) LEFT JOIN scheduler.jobs j USING (id)
WHERE j.id IS NULL OR j.finished_at IS NOT NULL

-- list: jobs, newest first, between two ids
SELECT j.id::text, type, status, attempt, max_attempts, created_at, run_at, started_at, finished_at, error
FROM scheduler.jobs j
WHERE j.id < %(before)s AND j.id >= %(end)s AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(type)s::text IS NULL OR type = %(type)s)
ORDER BY j.id DESC LIMIT %(limit)s

-- list_end: the id that ends a look at so many jobs; none when fewer are left
SELECT id FROM scheduler.jobs WHERE id < %(before)s ORDER BY id DESC LIMIT 1 OFFSET %(most)s

-- backlog: jobs that are due or run, counted no further than a limit; what is due has a `reconcile_at` that is not far
SELECT count(*) FROM (
    SELECT FROM scheduler.jobs WHERE finished_at IS NULL AND run_at <= now() AND reconcile_at < now() + interval '1 minute'
    LIMIT %(limit)s) AS counted

-- live_counts: unfinished jobs by status, and the age in seconds of the oldest one that is due
SELECT count(*) FILTER (WHERE status = 'PENDING' AND run_at <= now()) AS due,
       count(*) FILTER (WHERE status = 'PENDING' AND run_at > now()) AS waiting,
       count(*) FILTER (WHERE status = 'PROCESSING') AS processing,
       -- From epochs: times that are infinite cannot be subtracted before PostgreSQL 17.
       least(coalesce(round(extract(epoch FROM now())
           - extract(epoch FROM min(run_at) FILTER (WHERE status = 'PENDING' AND run_at <= now())), 3), 0), 1e9)::float8
           AS oldest_due_seconds
FROM (SELECT status, run_at FROM scheduler.jobs WHERE finished_at IS NULL ORDER BY reconcile_at LIMIT %(limit)s) AS live

-- starved: how long the oldest due job has waited that a live worker could run, while no live worker runs any; of those that
-- Redis has been told of first, among which are those that run
WITH live AS MATERIALIZED (SELECT id, types FROM scheduler.workers WHERE expires_at > now())
SELECT CASE WHEN coalesce(bool_or(status = 'PROCESSING' AND worker_id IN (SELECT id FROM live)), false) THEN 0
       ELSE least(coalesce(extract(epoch FROM now()) - extract(epoch FROM min(run_at) FILTER (
           WHERE status = 'PENDING' AND type IN (SELECT unnest(types) FROM live))), 0), 1e9) END::float8
FROM (SELECT status, type, run_at, worker_id FROM scheduler.jobs
      WHERE finished_at IS NULL AND run_at <= now() AND reconcile_at < now() + interval '1 minute'
      ORDER BY reconcile_at LIMIT 1000) AS first

-- fleet: every type that a worker ever registered, and whether some of the live workers list it, but not all
SELECT t.name, bool_or(t.name = ANY(w.types)) IS TRUE AND bool_and(t.name = ANY(w.types)) IS FALSE AS is_partial
FROM scheduler.types t LEFT JOIN scheduler.workers w ON w.expires_at > now() WHERE t.seen_at IS NOT NULL GROUP BY t.name
