-- How a worker gets a job, and learns that it has lost one.

-- claim: PENDING -> PROCESSING for one live worker; exactly one winner a job, never before run_at. A job that this
-- worker holds already is one whose earlier claim lost its reply: it is taken up (reclaim) with a new fence, no attempt spent, and
-- whatever its lease says: refused, the worker would go on holding a job that it does not have in hand
UPDATE scheduler.jobs
SET attempt = attempt + CASE status WHEN 'PENDING' THEN 1 ELSE 0 END,
    status = 'PROCESSING', fence = fence + 1, worker_id = %(worker)s, started_at = now()
WHERE id = ANY(%(ids)s::uuid[])
  AND (status = 'PROCESSING' AND worker_id = %(worker)s OR status = 'PENDING' AND run_at <= now()
       AND EXISTS (SELECT FROM scheduler.workers w WHERE w.id = %(worker)s AND w.expires_at > now()))
RETURNING id, fence, type, attempt, max_attempts, timeout_seconds, payload,
          extract(epoch FROM now() - run_at)::float8 AS waited_seconds, crashes

-- not_held: which of these jobs a worker does not hold any more
SELECT w.id FROM unnest(%(ids)s::uuid[]) AS w(id) LEFT JOIN scheduler.jobs j USING (id)
WHERE j.status IS DISTINCT FROM 'PROCESSING' OR j.worker_id IS DISTINCT FROM %(worker)s
