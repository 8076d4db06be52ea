"""What the tests of servers share: a mark that a server acknowledges, impostors of its program, who runs the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

from scheduler.embedded import Postgres, Redis, Server

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="concerns root, who has to run PostgreSQL as somebody else")
not_as_root = pytest.mark.skipif(ROOT, reason="concerns an ordinary user")

Make = Callable[..., Server]
both = pytest.mark.parametrize("kind", [Postgres, Redis])


def write(server: Server) -> None:
    """Leave a mark that the server acknowledges."""
    if isinstance(server, Postgres):
        with psycopg.connect(server.url, connect_timeout=5) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS mark (id int)")
            connection.execute("INSERT INTO mark VALUES (1)")
    else:
        with redis.Redis.from_url(server.url, socket_timeout=5) as client:
            client.incr("mark")


def marks(server: Server) -> int:
    """How many marks are there."""
    if isinstance(server, Postgres):
        with psycopg.connect(server.url, connect_timeout=5) as connection:
            row = connection.execute("SELECT count(*) FROM mark").fetchone()
            return int(row[0]) if row else 0
    with redis.Redis.from_url(server.url, socket_timeout=5) as client:
        return int(client.get("mark") or 0)


def impostor(folder: Path, name: str, body: str) -> Path:
    """A program of that name, to be found first on PATH."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program
