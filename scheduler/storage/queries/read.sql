-- What the outside asks.

-- job: one job
SELECT id, type, status, attempt, max_attempts, created_at, run_at, started_at, finished_at, timeout_seconds, payload,
       result, error, idempotency_key, worker_id
FROM scheduler.jobs WHERE id = %(id)s

-- attempts: the attempts of one job that did not complete, in order
SELECT attempt, worker_id, started_at, finished_at, error FROM scheduler.attempts WHERE job_id = %(id)s ORDER BY fence

-- finished: which of these jobs are final, or gone
SELECT w.id FROM unnest(%(ids)s::uuid[]) AS w(id) LEFT JOIN scheduler.jobs j USING (id)
WHERE j.id IS NULL OR j.finished_at IS NOT NULL

-- list: jobs, newest first, before a cursor
SELECT id, type, status, attempt, max_attempts, created_at, run_at, started_at, finished_at, error
FROM scheduler.jobs
WHERE (%(before)s::uuid IS NULL OR id < %(before)s) AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(type)s::text IS NULL OR type = %(type)s)
ORDER BY id DESC LIMIT %(limit)s

-- backlog: unfinished jobs, counted no further than a limit
SELECT count(*) FROM (SELECT FROM scheduler.jobs WHERE finished_at IS NULL LIMIT %(limit)s) AS counted

-- live_counts: unfinished jobs by status, and the age in seconds of the oldest one that is due
SELECT count(*) FILTER (WHERE status = 'PENDING' AND run_at <= now()), count(*) FILTER (WHERE status = 'PENDING' AND run_at > now()),
       count(*) FILTER (WHERE status = 'PROCESSING'),
       extract(epoch FROM now() - min(run_at) FILTER (WHERE status = 'PENDING' AND run_at <= now()))::float8
FROM (SELECT status, run_at FROM scheduler.jobs WHERE finished_at IS NULL LIMIT %(limit)s) AS live
