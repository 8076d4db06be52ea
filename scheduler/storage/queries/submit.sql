-- How a job comes in.

-- insert: accept jobs; a row whose id or idempotency key exists is skipped, the caller looks it up. A key that an open
-- transaction is submitting is waited for, but only for a moment. Redis hears of a job that waits from the reconciler, a minute before its time
INSERT INTO scheduler.jobs (id, type, payload, max_attempts, timeout_seconds, run_at, reconcile_at, idempotency_key, fingerprint)
SELECT n.id, n.type, n.payload::json, n.max_attempts, n.timeout_seconds, due.at,
       CASE WHEN due.at > now() + interval '1 minute' THEN due.at - interval '1 minute'
            WHEN n.delay > 0 OR n.run_at IS NOT NULL THEN '-infinity' ELSE now() + interval '1 second' END,
       n.idempotency_key, n.fingerprint
FROM unnest(%(ids)s::uuid[], %(types)s::text[], %(payloads)b::text[], %(max_attempts)s::int[], %(timeouts)s::float8[],
            %(delays)s::float8[], %(run_ats)s::float8[], %(keys)s::text[], %(fingerprints)s::bytea[])
     AS n(id, type, payload, max_attempts, timeout_seconds, delay, run_at, idempotency_key, fingerprint),
     greatest(now(), coalesce(to_timestamp(n.run_at), now() + n.delay * interval '1 second')) AS due(at),
     (SELECT set_config('lock_timeout', '50ms', true)) AS patience
ON CONFLICT DO NOTHING

-- submit: accept one job inside the caller's transaction; nobody publishes it, so the reconciler does at once
INSERT INTO scheduler.jobs (id, type, payload, max_attempts, timeout_seconds, run_at, reconcile_at, idempotency_key, fingerprint)
SELECT %(id)s::uuid, %(type)s, %(payload)s::json, %(max_attempts)s, %(timeout_seconds)s, due.at,
       CASE WHEN due.at > now() + interval '1 minute' THEN due.at - interval '1 minute' ELSE '-infinity' END,
       %(idempotency_key)s, %(fingerprint)s
FROM greatest(now(), coalesce(to_timestamp(%(run_at)s::float8), now() + %(delay_seconds)s::float8 * interval '1 second')) AS due(at)
ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING

-- submit_many: the same for several
INSERT INTO scheduler.jobs (id, type, payload, max_attempts, timeout_seconds, run_at, reconcile_at, idempotency_key, fingerprint)
SELECT n.id, n.type, n.payload::json, n.max_attempts, n.timeout_seconds, due.at,
       CASE WHEN due.at > now() + interval '1 minute' THEN due.at - interval '1 minute' ELSE '-infinity' END,
       n.idempotency_key, n.fingerprint
FROM unnest(%(ids)s::uuid[], %(types)s::text[], %(payloads)b::text[], %(max_attempts)s::int[], %(timeouts)s::float8[],
            %(delays)s::float8[], %(run_ats)s::float8[], %(keys)s::text[], %(fingerprints)s::bytea[])
     AS n(id, type, payload, max_attempts, timeout_seconds, delay, run_at, idempotency_key, fingerprint),
     greatest(now(), coalesce(to_timestamp(n.run_at), now() + n.delay * interval '1 second')) AS due(at)
ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING

-- accepted: which of these ids and keys exist
SELECT id, idempotency_key AS key, fingerprint, status FROM scheduler.jobs
WHERE id = ANY(%(ids)s::uuid[]) OR idempotency_key = ANY(%(keys)s::text[])
