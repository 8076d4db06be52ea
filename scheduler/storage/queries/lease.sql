-- Who lives, and what the dead and the leaving hold.

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

-- deregister: a worker leaves; what it held has been given back
DELETE FROM scheduler.workers WHERE id = %(id)s

-- workers: who is alive, and what they can run
SELECT id::text, name,
       greatest(least(round(extract(epoch FROM now()) - extract(epoch FROM started_at), 3), 1e9), 0)::float8 AS age_seconds, types, counters
FROM scheduler.workers w WHERE expires_at > now() ORDER BY w.started_at, w.id

-- leases: when each runs out
SELECT id, extract(epoch FROM expires_at)::float8 AS expires_at,
       (extract(epoch FROM expires_at) - extract(epoch FROM clock_timestamp()))::float8 AS left_seconds FROM scheduler.workers

-- held_by: what a worker holds, knowing it or not: the reply to a claim may have been lost
SELECT id, fence, type, attempt, max_attempts FROM scheduler.jobs
WHERE finished_at IS NULL AND status = 'PROCESSING' AND worker_id = %(worker)s

-- orphans: what dead or vanished workers hold; `settle` gives it back. When the clock has stepped, the rescuer's own lease
-- may have run out too: then nothing
SELECT id, fence, type, attempt, max_attempts FROM scheduler.jobs j
WHERE finished_at IS NULL AND status = 'PROCESSING'
  AND NOT EXISTS (SELECT FROM scheduler.workers w WHERE w.id = j.worker_id AND w.expires_at > now())
  AND (%(rescuer)s::uuid IS NULL OR EXISTS (SELECT FROM scheduler.workers WHERE id = %(rescuer)s AND expires_at > now()))
ORDER BY id LIMIT %(limit)s

-- forget_dead: end the leases that ran out and hold nothing any more; last, so that a rescue cut short is seen to be due
DELETE FROM scheduler.workers w
WHERE id IN (SELECT id FROM scheduler.workers WHERE expires_at <= now() FOR UPDATE SKIP LOCKED)
  AND NOT EXISTS (SELECT FROM scheduler.jobs j WHERE j.finished_at IS NULL AND j.status = 'PROCESSING' AND j.worker_id = w.id)
