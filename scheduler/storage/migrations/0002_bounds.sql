-- The bounds of a submission (submission/submission.py), repeated where every writer must pass.
--
-- They bind what is created from now on, until its first claim: what a job is made of does not change, and claims and
-- settles stay as cheap as before. An older release let other values in, and a row that breaks a CHECK cannot be updated
-- any more: one such row would make the claim of a whole batch fail. There is none on payload, which would have to be
-- read from TOAST. A database in SQL_ASCII counts bytes: up to four a character.

-- step bind: no writer waits for longer than lock_timeout; a CHECK that is not validated reads no row
SET LOCAL lock_timeout = '100ms';
LOCK TABLE scheduler.jobs IN ACCESS EXCLUSIVE MODE;
DO $$ BEGIN
    EXECUTE format(
        'ALTER TABLE scheduler.jobs ADD CONSTRAINT jobs_bounds CHECK (fence > 0 OR created_at < %1$L OR (
             char_length(type) BETWEEN 1 AND 200 * %2$s AND char_length(idempotency_key) BETWEEN 1 AND 255 * %2$s
             AND max_attempts <= 1000 AND timeout_seconds <= 366 * 86400)) NOT VALID',
        clock_timestamp(), CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 4 ELSE 1 END);
END $$;

-- step validate: reads every row once; readers and writers go on
ALTER TABLE scheduler.jobs VALIDATE CONSTRAINT jobs_bounds;
