-- How an attempt ends.

-- complete: the fast settle, for attempts without a result that share one fence
UPDATE scheduler.jobs SET status = 'COMPLETED', finished_at = now(), error = NULL
WHERE id = ANY(%(ids)s::uuid[]) AND fence = %(fence)s AND status = 'PROCESSING'

-- settle: apply outcomes, each fenced; failed attempts are recorded, spent jobs dead-lettered, all in one statement
WITH outcome AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(fences)s::int[], %(statuses)s::text[], %(refunds)s::int[],
                         %(delays)s::float8[], %(results)s::text[], %(errors)s::text[])
        AS o(id, fence, status, refund, delay, result, error)
), settled AS (
    UPDATE scheduler.jobs j
    SET status = o.status, attempt = j.attempt - o.refund, result = o.result::json, error = o.error,
        crashes = CASE WHEN o.refund = 0 THEN 0 ELSE j.crashes END,
        finished_at = CASE WHEN o.status <> 'PENDING' THEN now() END,
        run_at = CASE WHEN o.status = 'PENDING' AND (o.refund = 0 OR o.delay > 0)
                      THEN now() + o.delay * interval '1 second' ELSE j.run_at END,
        reconcile_at = CASE WHEN o.status = 'PENDING' THEN now() + (o.delay + 1) * interval '1 second'
                            ELSE j.reconcile_at END
    FROM outcome o
    WHERE j.id = o.id AND j.fence = o.fence AND j.status = 'PROCESSING'
    RETURNING j.id, j.fence, j.status, j.attempt, j.type, j.error, j.worker_id, j.started_at, j.run_at
), recorded AS (
    INSERT INTO scheduler.attempts (job_id, fence, attempt, worker_id, started_at, error)
    SELECT id, fence, attempt, worker_id, started_at, error FROM settled WHERE error IS NOT NULL
), buried AS (
    INSERT INTO scheduler.dead_letters (job_id, type, error)
    SELECT id, type, error FROM settled WHERE status = 'FAILED'
)
SELECT id, (extract(epoch FROM run_at) * 1000)::float8 FROM settled

-- postpone: give back jobs whose type this worker cannot run: unburned, due time kept, dead-lettered once overdue
WITH settled AS (
    UPDATE scheduler.jobs j
    SET attempt = j.attempt - CASE WHEN overdue THEN 0 ELSE 1 END,
        status = CASE WHEN overdue THEN 'FAILED' ELSE 'PENDING' END,
        finished_at = CASE WHEN overdue THEN now() END,
        error = CASE WHEN overdue THEN o.error END,
        reconcile_at = now() + interval '1 second'
    FROM (SELECT o.id, o.fence, o.error, j.run_at < now() - %(unhandled)s * interval '1 second' AS overdue
          FROM unnest(%(ids)s::uuid[], %(fences)s::int[], %(errors)s::text[]) AS o(id, fence, error)
          JOIN scheduler.jobs j USING (id)) o
    WHERE j.id = o.id AND j.fence = o.fence AND j.status = 'PROCESSING'
    RETURNING j.id, j.fence, j.status, j.attempt, j.type, j.error, j.worker_id, j.started_at
), recorded AS (
    INSERT INTO scheduler.attempts (job_id, fence, attempt, worker_id, started_at, error)
    SELECT id, fence, attempt, worker_id, started_at, error FROM settled WHERE error IS NOT NULL
), buried AS (
    INSERT INTO scheduler.dead_letters (job_id, type, error)
    SELECT id, type, error FROM settled WHERE status = 'FAILED'
)
SELECT id, status, error, type, (extract(epoch FROM now()) * 1000 + 1000)::float8 FROM settled

-- settled_as: what a job's row says now, to tell a lost lease from a lost reply
SELECT id, fence, status, error FROM scheduler.jobs WHERE id = ANY(%(ids)s::uuid[])

-- cancel: end a job that is not final; its worker hears of it with the next heartbeat
WITH cancelled AS (
    UPDATE scheduler.jobs SET status = 'CANCELLED', finished_at = now()
    WHERE id = %(id)s AND finished_at IS NULL RETURNING id, worker_id, started_at, attempt
), told AS (
    UPDATE scheduler.workers w SET cancelled = w.cancelled || c.id FROM cancelled c WHERE w.id = c.worker_id
)
SELECT id FROM cancelled
