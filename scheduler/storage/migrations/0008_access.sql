-- Who may do what: keys, each by its hash alone. And who asked for what cannot be undone, or was refused.

CREATE TABLE scheduler.api_keys (
    name text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9._-]{1,100}$'),
    role text NOT NULL CHECK (role IN ('submit', 'read', 'operate', 'admin')),
    sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE scheduler.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    caller text NOT NULL,  -- the key's name; empty: nobody's; for a command line the role in PostgreSQL
    address text NOT NULL,
    action text NOT NULL,
    detail text NOT NULL,
    status int,  -- that it was refused with; NULL: let in
    calls int NOT NULL DEFAULT 1  -- refusals of one kind are counted, not listed
);
CREATE INDEX audit_refused ON scheduler.audit (id) WHERE status IS NOT NULL;
