-- What keeps the index true and the table small.

-- overlooked: jobs that nobody has told Redis of, and as many whose queued id Redis has lost; neither kind delays the other.
-- A mark that a crash of the server takes back is set again, and the job published twice: nobody waits for the disk
WITH asynchronous AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), untold AS MATERIALIZED (
    SELECT ctid FROM scheduler.jobs WHERE finished_at IS NULL AND status = 'PENDING' AND reconcile_at = '-infinity'
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), lost AS MATERIALIZED (
    SELECT ctid FROM scheduler.jobs WHERE finished_at IS NULL AND status = 'PENDING'
      AND reconcile_at > '-infinity' AND reconcile_at <= now() - %(queued_for)s * interval '1 second'
    ORDER BY reconcile_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE scheduler.jobs SET reconcile_at = greatest(least(run_at, now() + interval '1000 years'), now()) + interval '1 second'
WHERE ctid = ANY(ARRAY(SELECT ctid FROM untold UNION ALL SELECT ctid FROM lost)) AND EXISTS (SELECT FROM asynchronous)
RETURNING id, CASE WHEN run_at > now() THEN (extract(epoch FROM run_at) * 1000)::float8 END AS due_ms

-- clock: this server's clock in epoch milliseconds
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8

-- prune: delete jobs, from an id on, that ended long enough ago; dead letters stay until purged
WITH old AS MATERIALIZED (
    SELECT ctid, id FROM scheduler.jobs j
    WHERE id > %(after)s AND id < %(before)s AND finished_at < now() - %(retention)s * interval '1 second'
      AND NOT EXISTS (SELECT FROM scheduler.dead_letters d WHERE d.job_id = j.id)
    ORDER BY id LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
), gone AS (
    DELETE FROM scheduler.jobs WHERE ctid = ANY(ARRAY(SELECT ctid FROM old))
)
SELECT id FROM old ORDER BY id
