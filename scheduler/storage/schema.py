"""Brings a database's schema up to date: each step of migrations/*.sql runs once, whoever starts at the same time.

A step is one transaction, sent whole: what it locks is locked for no round trip, and a crash leaves it done and
recorded, or neither. A file is one step, unless lines `-- step NAME: purpose` part it.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import psycopg

from scheduler.errors import Locked, StoreUnavailable
from scheduler.storage.postgres import Postgres

# A step may look at every row of a large table; nobody waits for it but who starts.
DEADLINE_SECONDS = 600.0
# A step that asks for a table lock sets a short lock_timeout: who submits waits behind it. In between they go on.
LOCK_TRIES, PAUSE_SECONDS = 20, 1.0
_STEP = re.compile(r"^-- step ([a-z_]+): .*\n", re.MULTILINE)
_BOOTSTRAP = """
SELECT pg_advisory_xact_lock(hashtext('scheduler.migrate'));
CREATE SCHEMA IF NOT EXISTS scheduler;
CREATE TABLE IF NOT EXISTS scheduler.migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"""
_RECORD = "SET LOCAL statement_timeout = 0; INSERT INTO scheduler.migrations (name) VALUES ('{}');\n"


async def migrate(postgres: Postgres) -> list[str]:
    """Apply the steps that this database has not seen, in order. Returns their names. Raises StoreUnavailable."""
    async with postgres.use() as connection:
        await connection.execute(_BOOTSTRAP.encode(), prepare=False)
    known = {row[0] for row in await postgres.fetch("SELECT name FROM scheduler.migrations")}
    return [name for name, text in _steps() if name not in known and await _apply(postgres, name, text)]


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
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name != "migrations_pkey":
                raise
            return False
        except Locked:
            await asyncio.sleep(PAUSE_SECONDS)
    remedy = "end the transaction that keeps the table locked; pg_stat_activity shows it"
    raise StoreUnavailable("PostgreSQL", f"migration {name} got no lock in {LOCK_TRIES} tries: {remedy}")
