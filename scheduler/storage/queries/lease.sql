-- Who lives, and what becomes of what the dead held.

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
