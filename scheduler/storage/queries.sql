-- Every statement of the package, each one transaction by itself: no client ever holds a lock between two round trips.
-- `-- name: purpose` opens a query; storage/store.py reads this file once.

-- insert: accept jobs; a row whose id or idempotency key exists is skipped, the caller looks it up
INSERT INTO scheduler.jobs (id, type, payload, max_attempts, timeout_seconds, run_at, reconcile_at, idempotency_key, fingerprint)
SELECT n.id, n.type, n.payload::json, n.max_attempts, n.timeout_seconds,
       greatest(now(), coalesce(to_timestamp(n.run_at), now() + n.delay * interval '1 second')),
       CASE WHEN n.delay > 0 OR n.run_at IS NOT NULL THEN '-infinity' ELSE now() + interval '1 second' END,
       n.idempotency_key, n.fingerprint
FROM unnest(%(ids)s::uuid[], %(types)s::text[], %(payloads)s::text[], %(max_attempts)s::int[], %(timeouts)s::float8[],
            %(delays)s::float8[], %(run_ats)s::float8[], %(keys)s::text[], %(fingerprints)s::bytea[])
     AS n(id, type, payload, max_attempts, timeout_seconds, delay, run_at, idempotency_key, fingerprint)
ON CONFLICT DO NOTHING

-- submit: accept one job inside the caller's transaction; nobody publishes it, so the reconciler does at once
INSERT INTO scheduler.jobs (id, type, payload, max_attempts, timeout_seconds, run_at, idempotency_key, fingerprint)
VALUES (%(id)s::uuid, %(type)s, %(payload)s::json, %(max_attempts)s, %(timeout)s,
        greatest(now(), coalesce(to_timestamp(%(run_at)s::float8), now() + %(delay)s::float8 * interval '1 second')),
        %(key)s, %(fingerprint)s)
ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING

-- accepted: which of these ids and keys exist
SELECT id, idempotency_key, fingerprint, status FROM scheduler.jobs
WHERE id = ANY(%(ids)s::uuid[]) OR idempotency_key = ANY(%(keys)s::text[])

-- claim: PENDING -> PROCESSING for one live worker; exactly one winner a job, never before run_at. A job that this
-- worker holds already is one whose earlier claim lost its reply: it is taken up with a new fence, no attempt spent, and
-- whatever its lease says: refused, the worker would go on holding a job that it does not have in hand
UPDATE scheduler.jobs
SET attempt = attempt + CASE status WHEN 'PENDING' THEN 1 ELSE 0 END,
    status = 'PROCESSING', fence = fence + 1, worker_id = %(worker)s, started_at = now()
WHERE id = ANY(%(ids)s::uuid[])
  AND (status = 'PROCESSING' AND worker_id = %(worker)s OR status = 'PENDING' AND run_at <= now()
       AND EXISTS (SELECT FROM scheduler.workers w WHERE w.id = %(worker)s AND w.expires_at > now()))
RETURNING id, fence, type, attempt, max_attempts, timeout_seconds, payload,
          extract(epoch FROM now() - run_at)::float8, crashes

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

-- not_held: which of these jobs a worker does not hold any more
SELECT w.id FROM unnest(%(ids)s::uuid[]) AS w(id) LEFT JOIN scheduler.jobs j USING (id)
WHERE j.status IS DISTINCT FROM 'PROCESSING' OR j.worker_id IS DISTINCT FROM %(worker)s

-- heartbeat: renew (or first take) a worker's lease; says whether it was still unbroken, and hands over cancellations
WITH before AS MATERIALIZED (
    SELECT expires_at > clock_timestamp() AS unbroken, cancelled FROM scheduler.workers WHERE id = %(id)s FOR UPDATE
), renewed AS (
    INSERT INTO scheduler.workers AS w (id, name, expires_at, types, counters)
    SELECT %(id)s, %(name)s, clock_timestamp() + %(lease)s * interval '1 second', %(types)s, %(counters)s::json
    FROM (SELECT count(*) FROM before) AS locked_first
    ON CONFLICT (id) DO UPDATE
    SET expires_at = excluded.expires_at, cancelled = '{}', counters = excluded.counters
)
SELECT unbroken, cancelled FROM before

-- deregister: a worker leaves; what it holds without knowing, as a claim's reply was lost, goes back unburned
WITH gone AS (
    DELETE FROM scheduler.workers WHERE id = %(id)s
)
UPDATE scheduler.jobs SET status = 'PENDING', attempt = attempt - 1, reconcile_at = '-infinity'
WHERE finished_at IS NULL AND status = 'PROCESSING' AND worker_id = %(id)s

-- workers: who is alive, and what they can run
SELECT id, name, types, counters, extract(epoch FROM now() - started_at)::float8 FROM scheduler.workers
WHERE expires_at > now() ORDER BY started_at, id

-- any_dead: is there a lease that ran out
SELECT EXISTS (SELECT FROM scheduler.workers WHERE expires_at <= now())

-- rescue: give back what dead or vanished workers hold; the crash was an attempt
WITH dead AS (
    DELETE FROM scheduler.workers
    WHERE id IN (SELECT id FROM scheduler.workers WHERE expires_at <= now() FOR UPDATE SKIP LOCKED)
), rescued AS (
    UPDATE scheduler.jobs j
    SET status = CASE WHEN attempt < max_attempts THEN 'PENDING' ELSE 'FAILED' END,
        finished_at = CASE WHEN attempt < max_attempts THEN NULL ELSE now() END,
        run_at = CASE WHEN attempt < max_attempts THEN now() ELSE run_at END,
        reconcile_at = CASE WHEN attempt < max_attempts THEN '-infinity' ELSE reconcile_at END,
        crashes = crashes + 1, error = 'the worker died: its lease ran out during attempt ' || attempt
    FROM (SELECT h.id AS held, h.fence AS held_fence FROM scheduler.jobs h
          WHERE h.finished_at IS NULL AND h.status = 'PROCESSING'
            AND NOT EXISTS (SELECT FROM scheduler.workers w WHERE w.id = h.worker_id AND w.expires_at > now())) orphan
    -- Fenced: whoever waits for the row's lock sees the row anew, but not the workers.
    WHERE j.id = held AND j.fence = held_fence AND j.status = 'PROCESSING'
    RETURNING id, fence, status, attempt, type, error, worker_id, started_at
), recorded AS (
    INSERT INTO scheduler.attempts (job_id, fence, attempt, worker_id, started_at, error)
    SELECT id, fence, attempt, worker_id, started_at, error FROM rescued
), buried AS (
    INSERT INTO scheduler.dead_letters (job_id, type, error)
    SELECT id, type, error FROM rescued WHERE status = 'FAILED'
)
SELECT id, status, error, type FROM rescued

-- overlooked: due (or soon due) jobs that nobody has published, or whose queued id Redis has lost
UPDATE scheduler.jobs
SET reconcile_at = greatest(run_at, now()) + interval '1 second'
WHERE id IN (
    SELECT id FROM scheduler.jobs
    WHERE finished_at IS NULL AND status = 'PENDING' AND reconcile_at <= now() - %(queued_for)s * interval '1 second'
    ORDER BY reconcile_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, CASE WHEN run_at > now() THEN (extract(epoch FROM run_at) * 1000)::float8 END

-- clock: this server's clock in epoch milliseconds
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8

-- prune: delete finished jobs past their retention; dead letters stay until purged
DELETE FROM scheduler.jobs WHERE id IN (
    SELECT id FROM scheduler.jobs j
    WHERE id < %(before)s AND finished_at < now() - %(retention)s * interval '1 second'
      AND NOT EXISTS (SELECT FROM scheduler.dead_letters d WHERE d.job_id = j.id)
    ORDER BY id LIMIT %(limit)s)

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

-- list_dead: dead letters, newest job first, before a cursor
SELECT j.id, j.type, j.status, j.attempt, j.max_attempts, j.created_at, j.run_at, j.started_at, j.finished_at, j.error
FROM scheduler.dead_letters d JOIN scheduler.jobs j ON j.id = d.job_id
WHERE (%(before)s::uuid IS NULL OR d.job_id < %(before)s) AND (%(type)s::text IS NULL OR d.type = %(type)s)
ORDER BY d.job_id DESC LIMIT %(limit)s

-- cancel: end a job that is not final; its worker hears of it with the next heartbeat
WITH cancelled AS (
    UPDATE scheduler.jobs SET status = 'CANCELLED', finished_at = now()
    WHERE id = %(id)s AND finished_at IS NULL RETURNING id, worker_id, started_at, attempt
), told AS (
    UPDATE scheduler.workers w SET cancelled = w.cancelled || c.id FROM cancelled c WHERE w.id = c.worker_id
)
SELECT id FROM cancelled

-- dead_ids: the ids of all dead letters
SELECT job_id, type, error FROM scheduler.dead_letters ORDER BY failed_at, job_id

-- dead_count: how many dead letters there are
SELECT count(*) FROM scheduler.dead_letters

-- match_dead: dead letters that a filter selects, oldest first
SELECT job_id FROM scheduler.dead_letters
WHERE (%(ids)s::uuid[] IS NULL OR job_id = ANY(%(ids)s::uuid[])) AND (%(type)s::text IS NULL OR type = %(type)s)
  AND (%(error)s::text IS NULL OR error ILIKE '%%' || %(error)s || '%%')
  AND (%(older)s::float8 IS NULL OR failed_at < now() - %(older)s * interval '1 second')
ORDER BY failed_at, job_id LIMIT %(limit)s

-- redrive: send dead letters back with a fresh count of attempts; spread over time when a rate is given
WITH gone AS (
    DELETE FROM scheduler.dead_letters WHERE job_id = ANY(%(ids)s::uuid[]) RETURNING job_id
), numbered AS (
    SELECT g.job_id, n.place FROM gone g JOIN unnest(%(ids)s::uuid[]) WITH ORDINALITY AS n(id, place) ON n.id = g.job_id
)
UPDATE scheduler.jobs j
SET status = 'PENDING', attempt = 0, crashes = 0, finished_at = NULL, error = NULL, result = NULL, worker_id = NULL, started_at = NULL,
    run_at = now() + n.place * %(interval)s::float8 * interval '1 second', reconcile_at = '-infinity'
FROM numbered n WHERE j.id = n.job_id AND j.status = 'FAILED'
RETURNING j.id

-- purge: delete dead letters and their jobs for good
DELETE FROM scheduler.jobs j USING scheduler.dead_letters d WHERE d.job_id = j.id AND j.id = ANY(%(ids)s::uuid[]) AND j.status = 'FAILED' RETURNING j.id

-- backlog: unfinished jobs, counted no further than a limit
SELECT count(*) FROM (SELECT FROM scheduler.jobs WHERE finished_at IS NULL LIMIT %(limit)s) AS counted

-- live_counts: unfinished jobs by status, and the age in seconds of the oldest one that is due
SELECT count(*) FILTER (WHERE status = 'PENDING' AND run_at <= now()), count(*) FILTER (WHERE status = 'PENDING' AND run_at > now()),
       count(*) FILTER (WHERE status = 'PROCESSING'),
       extract(epoch FROM now() - min(run_at) FILTER (WHERE status = 'PENDING' AND run_at <= now()))::float8
FROM (SELECT status, run_at FROM scheduler.jobs WHERE finished_at IS NULL LIMIT %(limit)s) AS live
