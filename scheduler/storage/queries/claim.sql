-- How a worker gets a job, and learns that it has lost one.

-- claim: PENDING -> PROCESSING for one live worker; exactly one winner a job, never before run_at, and of no type but
-- these (NULL: of any). A job that this worker holds already is one whose earlier claim lost its reply: it is taken up (reclaim)
-- with a new fence, no attempt spent, and whatever its lease says: refused, the worker would go on holding a job that it does not
-- have in hand. Large payloads stay behind until their job starts: what a claim brings is bounded
UPDATE scheduler.jobs
SET attempt = attempt + CASE status WHEN 'PENDING' THEN 1 ELSE 0 END,
    status = 'PROCESSING', fence = fence + 1, worker_id = %(worker)s, started_at = now()
WHERE id = ANY(%(ids)s::uuid[])
  AND (status = 'PROCESSING' AND worker_id = %(worker)s OR status = 'PENDING' AND run_at <= now()
       AND EXISTS (SELECT FROM scheduler.workers w WHERE w.id = %(worker)s AND w.expires_at > now()))
  AND (%(types)s::text[] IS NULL OR status = 'PROCESSING' OR type = ANY(%(types)s::text[]))
RETURNING id, fence, type, attempt, max_attempts, timeout_seconds,
          CASE WHEN octet_length(payload::text) <= %(most_bytes)s THEN payload END AS payload, crashes

-- payload: what a claim left behind
SELECT payload FROM scheduler.jobs WHERE id = %(id)s

-- not_held: which of these jobs a worker does not hold any more
SELECT w.id FROM unnest(%(ids)s::uuid[]) AS w(id) LEFT JOIN scheduler.jobs j USING (id)
WHERE j.status IS DISTINCT FROM 'PROCESSING' OR j.worker_id IS DISTINCT FROM %(worker)s

-- misfits: of jobs that a worker did not get, those that are due and of a type which it lacks; the reconciler lets them be
-- for a second. Says which type to route by, when a live worker lists it; else the refusal is noted, and `hopeless` are those
-- refused and due for too long, with no worker that listed the type in between
WITH misfit AS (
    SELECT id, type, run_at, EXISTS (SELECT FROM scheduler.workers w WHERE w.expires_at > now() AND j.type = ANY(w.types)) AS is_listed
    FROM scheduler.jobs j
    WHERE id = ANY(%(ids)s::uuid[]) AND status = 'PENDING' AND run_at <= now() AND type <> ALL(%(types)s::text[])
), refused AS (
    INSERT INTO scheduler.types AS t (name, refused_at) SELECT DISTINCT type, now() FROM misfit WHERE NOT is_listed ORDER BY type
    ON CONFLICT (name) DO UPDATE SET refused_at = coalesce(t.refused_at, now()) RETURNING name, refused_at
), put_off AS (
    UPDATE scheduler.jobs j SET reconcile_at = now() + interval '1 second'
    FROM misfit m WHERE j.id = m.id AND j.status = 'PENDING'
)
SELECT m.id, m.type, m.is_listed,
       coalesce(greatest(r.refused_at, m.run_at) < now() - %(patience)s * interval '1 second', false)
       -- A lease that ran out is still one that was there meanwhile: its end starts the clock anew.
       AND NOT EXISTS (SELECT FROM scheduler.workers w WHERE m.type = ANY(w.types)) AS is_hopeless
FROM misfit m LEFT JOIN refused r ON r.name = m.type
