"""What the stores do by themselves: the least that a durable queue must ask of each, in the same batches.

The yardstick of the benchmark. It knows no queue: a table, a stream and their clients are all there is to it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from struct import pack

import psycopg
import redis
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

DEADLINE_SECONDS = 60.0  # of one call to a store; not measured
SCHEMA = """
DROP TABLE IF EXISTS bare;
CREATE TABLE bare (id uuid PRIMARY KEY, payload json NOT NULL, status text NOT NULL DEFAULT 'PENDING',
                   attempt int NOT NULL DEFAULT 0, started_at timestamptz, finished_at timestamptz)
    WITH (fillfactor = 50, autovacuum_vacuum_cost_delay = 0)
"""
INSERT = "INSERT INTO bare (id, payload) SELECT id, %(payload)s::json FROM unnest(%(ids)s::uuid[]) AS n(id)"
CLAIM = """
UPDATE bare SET status = 'PROCESSING', attempt = attempt + 1, started_at = now()
WHERE id = ANY(%(ids)s::uuid[]) AND status = 'PENDING' RETURNING id, payload
"""
COMPLETE = """
UPDATE bare SET status = 'COMPLETED', finished_at = now() WHERE id = ANY(%(ids)s::uuid[]) AND status = 'PROCESSING'
"""
PUBLISH = """
for at = 1, #ARGV[1], 16 do redis.call('XADD', KEYS[1], '*', 'id', string.sub(ARGV[1], at, at + 15)) end
"""


class _Ids(list[bytes]):
    """Raw 16-byte ids, sent as one packed uuid[]: an array of UUID objects costs the client ten times as much."""


class _IdsDumper(Dumper):
    format, oid = Format.BINARY, 2951

    def dump(self, obj: _Ids) -> Buffer:
        return pack("!iiIii", 1, 0, 2950, len(obj), 1) + b"".join(b"\x00\x00\x00\x10" + raw for raw in obj)


def bare_postgres(url: str, jobs: int, batch: int, payload: str) -> float:
    """Jobs per second through insert, claim and complete on one connection, each statement a commit of its own."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        connection.adapters.register_dumper(_Ids, _IdsDumper)
        connection.execute(SCHEMA)
        batches = list(_batches(jobs, batch))
        began = time.monotonic()
        for ids in batches:
            values = {"ids": _Ids(ids), "payload": payload}
            for statement in (INSERT, CLAIM, COMPLETE):
                connection.execute(statement, values, prepare=True, binary=True)
        rate = jobs / (time.monotonic() - began)
        connection.execute("DROP TABLE bare")
    return rate


def bare_redis(url: str, jobs: int, batch: int) -> float:
    """Ids per second through a stream: put on in one call a batch, read by a group, acknowledged."""
    options = {"protocol": 2, "socket_timeout": DEADLINE_SECONDS, "socket_connect_timeout": 10}
    with redis.Redis.from_url(url, **options) as client:
        client.response_callbacks.pop("XREADGROUP", None)  # a dict an entry is the client's cost, not the server's
        client.delete("bare")
        client.xgroup_create("bare", "bench", id="0", mkstream=True)
        publish = client.register_script(PUBLISH)
        batches = list(_batches(jobs, batch))
        began = time.monotonic()
        for ids in batches:
            publish(keys=["bare"], args=[b"".join(ids)])
            [[_, entries]] = client.execute_command(
                "XREADGROUP", "GROUP", "bench", "one", "COUNT", batch, "STREAMS", "bare", ">"
            )
            client.xack("bare", "bench", *[entry for entry, _ in entries])
        rate = jobs / (time.monotonic() - began)
        client.delete("bare")
    return rate


def _batches(jobs: int, batch: int) -> Iterator[Sequence[bytes]]:
    """Ids in rising order, as a queue would make them: time first, chance after."""
    now = time.time_ns() // 1_000_000
    for first in range(0, jobs, batch):
        size = min(batch, jobs - first)
        yield [
            uuid.UUID(int=(now + (first + n)) << 80 | 7 << 76 | int.from_bytes(os.urandom(8), "big")).bytes
            for n in range(size)
        ]
