-- Keys, and the audit of what was done with them and without.

-- api_keys: every key, by its hash
SELECT name, role, sha256, created_at FROM scheduler.api_keys ORDER BY name LIMIT %(most)s

-- add_key: a key of a new name, if there is room for it
WITH added AS (
    INSERT INTO scheduler.api_keys (name, role, sha256)
    SELECT %(name)s::text, %(role)s::text, %(sha256)s::bytea
    WHERE %(name)s ~ '^[A-Za-z0-9._-]{1,100}$' AND (SELECT count(*) FROM scheduler.api_keys) < %(most)s
    ON CONFLICT DO NOTHING RETURNING name, role
), noted AS (
    INSERT INTO scheduler.audit (caller, address, action, detail)
    SELECT current_user, coalesce(host(inet_client_addr()), 'local'), 'keys add', name || ' ' || role FROM added
)
SELECT name FROM added

-- revoke_key: end a key
WITH gone AS (
    DELETE FROM scheduler.api_keys WHERE name = %(name)s RETURNING name, role
), noted AS (
    INSERT INTO scheduler.audit (caller, address, action, detail)
    SELECT current_user, coalesce(host(inet_client_addr()), 'local'), 'keys revoke', name || ' ' || role FROM gone
)
SELECT name FROM gone

-- note: write what was asked, by a clock of the caller's
INSERT INTO scheduler.audit (at, caller, address, action, detail, status, calls)
SELECT now() - (%(now)s - at) * interval '1 second', caller, address, action, detail, status, calls
FROM json_to_recordset(%(asked)s::text::json)
     AS asked(at float8, caller text, address text, action text, detail text, status int, calls int)

-- prune_audit: delete the oldest rows whose retention has passed, and refusals beyond the newest so many
DELETE FROM scheduler.audit WHERE id = ANY(ARRAY(
    SELECT id FROM (SELECT id, at FROM scheduler.audit ORDER BY id LIMIT %(limit)s) AS oldest
    WHERE at < now() - %(retention)s * interval '1 second'
    UNION ALL
    (SELECT id FROM scheduler.audit WHERE status IS NOT NULL ORDER BY id DESC LIMIT %(limit)s OFFSET %(most)s)))
