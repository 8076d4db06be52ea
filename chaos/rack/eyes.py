"""The stores seen directly, past every proxy: samples at 4 Hz, the end of a drain, what Redis holds at last.

Reads only, what the target says. A store that is out of reach is a None in the sample, not an error.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self

import psycopg
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from chaos.record.history import Sample, Stores
from chaos.targets.target import Look

DEADLINE_SECONDS = 2.0  # of one look at a store, which a fault may hold; not measured
PAGE = 10_000  # dead letters read in one call; not measured

VERSION = "SHOW server_version"

Lengths = tuple[int | None, int | None, int | None, int | None]


class Eyes:
    """One connection to each store, made anew after it broke. Every call is answered or given up within 2 s."""

    def __init__(self, look: Look, database_url: str, redis_url: str) -> None:
        self._look, self._database_url = look, database_url
        self._postgres: psycopg.AsyncConnection[Any] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._redis = redis.asyncio.Redis.from_url(
            redis_url,
            protocol=2,
            socket_timeout=DEADLINE_SECONDS,
            socket_connect_timeout=DEADLINE_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._disconnect()
        await self._redis.aclose()

    async def unfinished(self) -> int | None:
        """Jobs without a final status."""
        rows = await self._rows(self._look.unfinished)
        return int(rows[0][0]) if rows else None

    async def failed(self) -> int | None:
        """Jobs whose attempts are spent."""
        rows = await self._rows(self._look.failed)
        return int(rows[0][0]) if rows else None

    async def just_finished(self) -> list[tuple[str, str, int]]:
        """The jobs that became final in the last ten seconds, as (id, status, attempt)."""
        return [(row[0], row[1], row[2]) for row in await self._rows(self._look.finished) or ()]

    async def job_ids(self) -> list[str] | None:
        """Every job that exists, also those that no client was told of."""
        rows = await self._rows(self._look.ids)
        return None if rows is None else [row[0] for row in rows]

    async def sample(self) -> Sample:
        """Both stores at this moment."""
        rows, lengths = await asyncio.gather(self._rows(self._look.counts), self._lengths())
        unfinished, processing, workers = rows[0] if rows else (None, None, None)
        stream, pending, retry, dlq = lengths
        return Sample(time.monotonic_ns(), unfinished, processing, stream, pending, retry, dlq, workers)

    async def stores(self) -> Stores:
        """What Redis holds, with the job id of every dead letter."""
        stream, pending, retry, _ = await self._lengths()
        letters = await self._dead_letters()
        if letters is None:
            return Stores(stream, pending, retry)
        return Stores(stream, pending, retry, [job for job, _ in letters], [written_ms for _, written_ms in letters])

    async def versions(self) -> dict[str, str]:
        """Of both servers."""
        rows = await self._rows(VERSION)
        found = {"postgres": str(rows[0][0]) if rows else "unknown"}
        try:
            info = await self._redis.info("server")
            found["redis"] = f"valkey {info['valkey_version']}" if "valkey_version" in info else info["redis_version"]
        except (RedisError, OSError):
            found["redis"] = "unknown"
        return found

    async def _rows(self, query: str) -> list[tuple[Any, ...]] | None:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    connection = await self._connected()
                    cursor = await connection.execute(query)
                    return await cursor.fetchall()
            except (psycopg.Error, OSError, TimeoutError):
                await self._disconnect()
                return None

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._postgres is None or self._postgres.closed:
            self._postgres = await psycopg.AsyncConnection.connect(self._database_url, autocommit=True)
        return self._postgres

    async def _disconnect(self) -> None:
        if self._postgres is not None:
            connection, self._postgres = self._postgres, None
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await connection.close()
            except (psycopg.Error, OSError, TimeoutError):
                return

    async def _lengths(self) -> Lengths:
        await self._redis.connection_pool.disconnect()  # another server may have taken its place
        try:
            stream = await self._redis.xlen(self._look.stream)
            retry, dlq = await self._redis.zcard(self._look.retry), await self._redis.xlen(self._look.letters)
            return int(stream), await self._pending(), int(retry), int(dlq)
        except (RedisError, OSError, TimeoutError):
            return None, None, None, None

    async def _pending(self) -> int:
        try:
            return int((await self._redis.xpending(self._look.stream, self._look.group))["pending"])
        except ResponseError:  # no group, as after FLUSHALL
            return 0

    async def _dead_letters(self) -> list[tuple[str, int]] | None:
        """Job id and time of writing (epoch ms, from the entry's own id) of every entry."""
        found: list[tuple[str, int]] = []
        start = "-"
        try:
            while page := await self._redis.xrange(self._look.letters, start, "+", count=PAGE):
                entries: list[Any] = page
                found += [
                    (fields.get(self._look.letter_id, b"?").decode(errors="replace"), int(entry.partition(b"-")[0]))
                    for entry, fields in entries
                ]
                start = f"({entries[-1][0].decode()}"
        except (RedisError, OSError, TimeoutError):
            return None
        return found
