-- How an attempt ends.

-- settle: every way out of PROCESSING but a cancel: what came of jobs, each fenced; failed attempts are recorded, spent jobs
-- dead-lettered, all in one statement. `of_dead`: not if their holder's lease holds (again). What a transition does to the
-- row comes as the columns of the table of transitions, and with each outcome the place of its rule in them. `is_far`: due in
-- more than a minute; until a minute before, Redis need not know
WITH outcome AS (
    SELECT o.*, (%(target)s::text[])[o.rule] AS status, (%(attempt)s::int[])[o.rule] AS attempt,
           (%(crashes)s::int[])[o.rule] AS crashes, (%(moves_due)s::bool[])[o.rule] AS moves_due, (%(at_once)s::bool[])[o.rule] AS at_once,
           (%(moves_due)s::bool[])[o.rule] AND delay > 60 AS is_far
    FROM unnest(%(ids)s::uuid[], %(fences)s::int[], %(rules)s::int[], %(delays)s::float8[], %(results)s::text[], %(errors)s::text[],
                %(traces)s::text[]) AS o(id, fence, rule, delay, result, error, trace)
), settled AS (
    UPDATE scheduler.jobs j
    SET status = o.status, attempt = j.attempt + o.attempt, crashes = coalesce(j.crashes + o.crashes, 0),
        result = o.result::json, error = o.error,
        finished_at = CASE WHEN o.status <> 'PENDING' THEN now() END,
        run_at = CASE WHEN o.moves_due THEN now() + o.delay * interval '1 second' ELSE j.run_at END,
        reconcile_at = CASE WHEN o.status <> 'PENDING' THEN j.reconcile_at WHEN o.at_once THEN '-infinity'
                            WHEN o.is_far THEN now() + (o.delay - 60) * interval '1 second'
                            ELSE now() + (o.delay + 1) * interval '1 second' END
    FROM outcome o
    -- Whoever waits for a row's lock sees that row anew, but not the workers: the fence tells that the holder is the same.
    WHERE j.id = o.id AND j.fence = o.fence AND j.status = 'PROCESSING'
      AND (NOT %(of_dead)s OR NOT EXISTS (SELECT FROM scheduler.workers w WHERE w.id = j.worker_id AND w.expires_at > now()))
    RETURNING j.id, j.fence, j.status, j.attempt, j.type, j.error, j.worker_id, j.started_at, j.run_at, o.delay, o.is_far, o.trace
), recorded AS (
    INSERT INTO scheduler.attempts (job_id, fence, attempt, worker_id, started_at, error, trace)
    SELECT id, fence, attempt, worker_id, started_at, error, trace FROM settled WHERE error IS NOT NULL
), buried AS (
    INSERT INTO scheduler.dead_letters (job_id, type, error)
    SELECT id, type, error FROM settled WHERE status = 'FAILED'
)
SELECT id, CASE WHEN status = 'PENDING' AND NOT is_far THEN
       (extract(epoch FROM greatest(run_at, now() + delay * interval '1 second')) * 1000)::float8 END AS due_ms FROM settled

-- complete: the fast settle, for completions without a result that share one fence; it leaves the row that settle would
UPDATE scheduler.jobs SET status = 'COMPLETED', finished_at = now(), error = NULL
WHERE id = ANY(%(ids)s::uuid[]) AND fence = %(fence)s AND status = 'PROCESSING'

-- settled_as: which outcomes an earlier try has settled, its reply lost: their rows say just what they would make them say
SELECT o.id FROM unnest(%(ids)s::uuid[], %(fences)s::int[], %(statuses)s::text[], %(errors)s::text[]) AS o(id, fence, status, error)
    JOIN scheduler.jobs j USING (id)
WHERE j.fence = o.fence AND j.status = o.status AND j.error IS NOT DISTINCT FROM o.error

-- cancel: end a job that is not final; its worker hears of it with the next heartbeat
WITH cancelled AS (
    UPDATE scheduler.jobs SET status = 'CANCELLED', finished_at = now()
    WHERE id = %(id)s AND finished_at IS NULL RETURNING id, worker_id, started_at, attempt
), told AS (
    UPDATE scheduler.workers w SET cancelled = w.cancelled || c.id FROM cancelled c WHERE w.id = c.worker_id
)
SELECT id FROM cancelled
