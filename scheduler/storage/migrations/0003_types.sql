-- Every type that a worker ever registered, or refused as nobody had it. The clock of a refusal starts anew when a worker
-- that lists the type comes or goes; triggers see to that, so a lease is renewed for the price that it had.
CREATE TABLE scheduler.types (
    name       text PRIMARY KEY,
    -- When a worker that lists it came or went last; NULL: none ever did.
    seen_at    timestamptz,
    -- When it was refused first since then; NULL: never.
    refused_at timestamptz
);

CREATE FUNCTION scheduler.note_types() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO scheduler.types (name, seen_at) SELECT DISTINCT unnest(types) AS name, now() FROM changed ORDER BY name
    ON CONFLICT (name) DO UPDATE SET seen_at = now(), refused_at = NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER arrived AFTER INSERT ON scheduler.workers REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION scheduler.note_types();
CREATE TRIGGER departed AFTER DELETE ON scheduler.workers REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION scheduler.note_types();

INSERT INTO scheduler.types (name, seen_at) SELECT DISTINCT unnest(types), now() FROM scheduler.workers;
