-- What keeps the index true and the table small.

-- overlooked: due (or soon due) jobs that nobody has published, or whose queued id Redis has lost
UPDATE scheduler.jobs
SET reconcile_at = greatest(run_at, now()) + interval '1 second'
WHERE id IN (
    SELECT id FROM scheduler.jobs
    WHERE finished_at IS NULL AND status = 'PENDING' AND reconcile_at <= now() - %(queued_for)s * interval '1 second'
    ORDER BY reconcile_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, CASE WHEN run_at > now() THEN (extract(epoch FROM run_at) * 1000)::float8 END AS due_ms

-- clock: this server's clock in epoch milliseconds
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8

-- prune: delete finished jobs past their retention; dead letters stay until purged
DELETE FROM scheduler.jobs WHERE id IN (
    SELECT id FROM scheduler.jobs j
    WHERE id < %(before)s AND finished_at < now() - %(retention)s * interval '1 second'
      AND NOT EXISTS (SELECT FROM scheduler.dead_letters d WHERE d.job_id = j.id)
    ORDER BY id LIMIT %(limit)s)
