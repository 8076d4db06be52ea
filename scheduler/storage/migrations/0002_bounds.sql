-- The bounds of a submission (submission/submission.py), repeated where every writer must pass.
--
-- They bind what is created from now on. An older release let other values in, and a row that breaks a CHECK cannot be
-- updated any more: one such row would make the claim of a whole batch fail. There is none on payload, which every
-- UPDATE would have to read from TOAST. A database in SQL_ASCII counts bytes: up to four a character.

-- step bind: no writer waits for longer than lock_timeout; a CHECK that is not validated reads no row
SET LOCAL lock_timeout = '100ms';
LOCK TABLE scheduler.jobs IN ACCESS EXCLUSIVE MODE;
DO $$
DECLARE
    bounds text[] := ARRAY[
        'type', 'char_length(type) BETWEEN 1 AND 200 * %1$s',
        'key', 'char_length(idempotency_key) BETWEEN 1 AND 255 * %1$s',
        'max_attempts', 'max_attempts <= 1000',
        'timeout', 'timeout_seconds <= 366 * 86400'];
    width int := CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 4 ELSE 1 END;
BEGIN
    FOR n IN 1 .. array_length(bounds, 1) BY 2 LOOP
        EXECUTE format('ALTER TABLE scheduler.jobs ADD CONSTRAINT jobs_%s_bounds CHECK (created_at < %L OR %s) NOT VALID',
                       bounds[n], clock_timestamp(), format(bounds[n + 1], width));
    END LOOP;
END $$;

-- step validate: reads every row once; readers and writers go on
ALTER TABLE scheduler.jobs
    VALIDATE CONSTRAINT jobs_type_bounds, VALIDATE CONSTRAINT jobs_key_bounds,
    VALIDATE CONSTRAINT jobs_max_attempts_bounds, VALIDATE CONSTRAINT jobs_timeout_bounds;
