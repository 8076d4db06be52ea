"""Brings a database's schema up to date: each step of migrations/*.sql runs once, whoever starts at the same time.

A step is one transaction, sent whole: what it locks is locked for no round trip, and a crash leaves it done and
recorded, or neither. A file is one step, unless lines `-- step NAME: purpose` part it.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import psycopg

from scheduler.errors import ConfigurationError, Locked, SchemaUnusable, StoreUnavailable, ValueRefused
from scheduler.storage.postgres import Postgres

# A step may look at every row of a large table; nobody waits for it but who starts.
DEADLINE_SECONDS = 600.0
# A step that asks for a table lock sets a short lock_timeout: who submits waits behind it. In between they go on.
LOCK_TRIES, PAUSE_SECONDS = 20, 1.0
# Classes of errors that pass by themselves: links, restarts, deadlocks, a server short of something.
_PASSING = {"08", "40", "53", "57"}
# An API and a worker read and write the rows of every table, and read which migrations there were.
_LACKING = """
SELECT format('%s ON scheduler.%I TO %I', string_agg(needed, ', ' ORDER BY place), relname, current_user) FROM pg_class,
    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS needed(needed, place)
WHERE relnamespace = 'scheduler'::regnamespace AND relkind IN ('r', 'p') AND NOT has_table_privilege(oid, needed)
  AND (relname <> 'migrations' OR needed = 'SELECT') GROUP BY relname ORDER BY relname"""
_BIND = "INSERT INTO scheduler.settings (name, value) VALUES ('stream', %(stream)s) ON CONFLICT DO NOTHING"
_BY_OWNER = "run `scheduler migrate` as a role that may change the schema"
_STEP = re.compile(r"^-- step ([a-z_]+): .*\n", re.MULTILINE)
_BOOTSTRAP = """
SELECT pg_advisory_xact_lock(hashtext('scheduler.migrate'));
CREATE SCHEMA IF NOT EXISTS scheduler;
CREATE TABLE IF NOT EXISTS scheduler.migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"""
_RECORD = "SET LOCAL statement_timeout = 0; INSERT INTO scheduler.migrations (name) VALUES ('{}');\n"


async def migrate(postgres: Postgres) -> list[str]:
    """Apply the steps that this database has not seen, in order. Returns their names.

    Raises StoreUnavailable, SchemaUnusable when it cannot be brought up to date, ConfigurationError for a server that
    forgets what it has committed, and for a role that lacks a right.
    """
    await _require_durable(postgres)
    if (known := await _known(postgres)) is None:
        async with postgres.use() as connection:
            await connection.execute(_BOOTSTRAP.encode(), prepare=False)
        known = await _known(postgres) or set()
    steps = _steps()
    if newer := known - {name for name, _ in steps}:
        raise SchemaUnusable(
            f"a newer release has applied {', '.join(sorted(newer))}; start that release, or a later one"
        )
    return [name for name, text in steps if name not in known and await _apply(postgres, name, text)]


async def bind(postgres: Postgres, stream: str) -> None:
    """See that the role may do what an API and a worker do, and that this is the database's only stream: its first.

    Raises ConfigurationError.
    """
    if lacking := [name for (name,) in await postgres.fetch(_LACKING)]:
        grants = f"`GRANT {'; GRANT '.join(lacking)}`, as docs/deploying.md does"
        raise ConfigurationError(f"the role of SCHEDULER_DATABASE_URL lacks rights: {grants}")
    await postgres.fetch(_BIND, {"stream": stream})
    [(bound,)] = await postgres.fetch("SELECT value FROM scheduler.settings WHERE name = 'stream'")
    if bound != stream:
        remedy = "every queue needs a database of its own; to rename one, delete that row of scheduler.settings first"
        raise ConfigurationError(f"SCHEDULER_STREAM={stream!r}, but this database's jobs are on {bound!r}; {remedy}")


async def _require_durable(postgres: Postgres) -> None:
    off = await postgres.fetch(
        "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'"
    )
    for (name,) in off:
        harm = "a crash of its machine would lose or spoil accepted jobs"
        raise ConfigurationError(f"PostgreSQL runs with {name}=off: {harm}; set {name}=on")


async def _known(postgres: Postgres) -> set[str] | None:
    """The names of the steps that were applied; None where there is no table of them."""
    [(is_there,)] = await postgres.fetch("SELECT to_regclass('scheduler.migrations') IS NOT NULL")
    return {row[0] for row in await postgres.fetch("SELECT name FROM scheduler.migrations")} if is_there else None


def _steps() -> list[tuple[str, str]]:
    steps = []
    for path in sorted((Path(__file__).parent / "migrations").glob("[0-9]*.sql")):
        first, *parts = _STEP.split(path.read_text())
        steps += [(f"{path.stem}.{name}", text) for name, text in zip(parts[::2], parts[1::2], strict=True)]
        steps += [] if parts else [(path.stem, first)]
    return steps


async def _apply(postgres: Postgres, name: str, text: str) -> bool:
    """Record the step and run it; whether it was left to do. Its name is the lock that keeps others from doing it."""
    for _ in range(LOCK_TRIES):
        try:
            async with postgres.use(DEADLINE_SECONDS) as connection:
                await connection.execute((_RECORD.format(name) + text).encode(), prepare=False)
            return True
        except Locked:
            await asyncio.sleep(PAUSE_SECONDS)
        except (StoreUnavailable, ValueRefused, psycopg.Error) as error:
            cause = error if isinstance(error, psycopg.Error) else error.__cause__
            if isinstance(cause, psycopg.errors.UniqueViolation) and cause.diag.constraint_name == "migrations_pkey":
                return False
            if not isinstance(cause, psycopg.Error) or (cause.sqlstate or "08")[:2] in _PASSING:
                raise
            raise SchemaUnusable(f"migration {name} failed: {cause}; {_BY_OWNER}") from error
    remedy = "end the transaction that keeps the table locked; pg_stat_activity shows it"
    raise StoreUnavailable("PostgreSQL", f"migration {name} got no lock in {LOCK_TRIES} tries: {remedy}")
