-- Dead letters: look at them, send them back, delete them.

-- list_dead: dead letters, newest job first, between two ids
SELECT j.id::text, j.type, j.status, j.attempt, j.max_attempts, j.created_at, j.run_at, j.started_at, j.finished_at, j.error
FROM scheduler.dead_letters d JOIN scheduler.jobs j ON j.id = d.job_id
WHERE d.job_id < %(before)s AND d.job_id >= %(end)s AND (%(type)s::text IS NULL OR d.type = %(type)s)
ORDER BY d.job_id DESC LIMIT %(limit)s

-- list_dead_end: the id that ends a look at so many dead letters; none when fewer are left
SELECT job_id FROM scheduler.dead_letters WHERE job_id < %(before)s ORDER BY job_id DESC LIMIT 1 OFFSET %(most)s

-- dead_letters: what the DLQ stream shows: the letters of the newest jobs, the oldest of them first
SELECT * FROM (SELECT job_id AS id, type, error FROM scheduler.dead_letters ORDER BY job_id DESC LIMIT %(limit)s) AS shown ORDER BY id

-- dead_digest: how many letters those are, and the sum of a hash of each id, as letters.lua keeps it: `amount:sum`
SELECT count(*) || ':' || coalesce(
    mod(sum(('x' || encode(substr(sha256(uuid_send(job_id)), 1, 6), 'hex'))::bit(48)::bigint), 1::bigint << 48), 0)
FROM (SELECT job_id FROM scheduler.dead_letters ORDER BY job_id DESC LIMIT %(limit)s) AS shown

-- dead_count: how many dead letters there are
SELECT count(*) FROM scheduler.dead_letters

-- match_dead: dead letters that a filter selects, oldest first
SELECT job_id FROM scheduler.dead_letters
WHERE (%(ids)s::uuid[] IS NULL OR job_id = ANY(%(ids)s::uuid[])) AND (%(type)s::text IS NULL OR type = %(type)s)
  AND (%(error)s::text IS NULL OR error ILIKE '%%' || %(error)s || '%%')
  AND (%(older)s::float8 IS NULL OR failed_at < now() - %(older)s * interval '1 second')
ORDER BY failed_at, job_id LIMIT %(limit)s

-- redrive: send dead letters back with a fresh count of attempts; spread over time when a rate is given, and then Redis hears
-- of each a minute before its time
WITH gone AS (
    DELETE FROM scheduler.dead_letters WHERE job_id = ANY(%(ids)s::uuid[]) RETURNING job_id
), numbered AS (
    SELECT g.job_id, n.place FROM gone g JOIN unnest(%(ids)s::uuid[]) WITH ORDINALITY AS n(id, place) ON n.id = g.job_id
)
UPDATE scheduler.jobs j
SET status = 'PENDING', attempt = 0, crashes = 0, finished_at = NULL, error = NULL, result = NULL, worker_id = NULL, started_at = NULL,
    run_at = now() + n.place * %(interval)s::float8 * interval '1 second',
    reconcile_at = CASE WHEN n.place * %(interval)s::float8 > 60 THEN now() + (n.place * %(interval)s::float8 - 60) * interval '1 second'
                        ELSE '-infinity' END
FROM numbered n WHERE j.id = n.job_id AND j.status = 'FAILED'
RETURNING j.id

-- purge: delete dead letters and their jobs for good
DELETE FROM scheduler.jobs j USING scheduler.dead_letters d WHERE d.job_id = j.id AND j.id = ANY(%(ids)s::uuid[]) AND j.status = 'FAILED' RETURNING j.id
