"""Redis: the rebuildable index of what is due now. Every write here may be lost or repeated without harm.

Bulk writes are one script call with the ids packed into a single argument: redis-py pipelines cost seven times as much.
redis-py's own retries are off, each command has a deadline, and the blocking reader has a connection of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from scheduler.errors import ConfigurationError, StoreUnavailable
from scheduler.facts import facts
from scheduler.facts.facts import tell
from scheduler.jobs.job import id_text
from scheduler.storage.rows import Letter

MAX_IDS_A_CALL = 1_000
BLOCK_MS = 1_000
_LEFT = {"READONLY", "MISCONF", "LOADING", "NOREPLICAS", "MASTERDOWN"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A stream entry and the job id that it carries; empty when it was trimmed meanwhile."""

    entry: bytes
    job_id: bytes


@dataclass(frozen=True, slots=True)
class Trimmed:
    """How many entries went, and where the next round begins to look for pending ones."""

    removed: int
    cursor: bytes


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many entries or ids each key holds."""

    stream: int
    pending: int
    retry: int
    dlq: int


class _Leaving:
    """A connection that hangs up on a server which does not take writes (any more): the next one may reach another."""

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]
        except RedisError as error:
            if getattr(error, "status_code", None) in _LEFT or str(error).partition(" ")[0] in _LEFT:
                await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise


def connect(url: str, *, deadline_seconds: float, name: str, connections: int = 8) -> Redis:
    """A client that neither retries nor waits longer than the deadline. Raises ConfigurationError."""
    try:
        pool: ConnectionPool = BlockingConnectionPool.from_url(
            url,
            protocol=2,
            client_name=name,
            socket_timeout=deadline_seconds,
            socket_connect_timeout=deadline_seconds,
            max_connections=connections,
            timeout=deadline_seconds,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
    except ValueError:  # its message may hold the password
        raise ConfigurationError("SCHEDULER_REDIS_URL is no redis://user:password@host:6379/0") from None
    pool.connection_class = type("LeavingConnection", (_Leaving, pool.connection_class), {})
    return Redis.from_pool(pool)


class Stream:
    """One stream, its consumer group, its retry ZSET and its DLQ stream."""

    def __init__(self, url: str, *, stream: str, group: str, deadline_seconds: float, name: str) -> None:
        self.stream, self.group = stream, group
        self.retry, self.dlq = f"{{{stream}}}:retry", f"{stream}:dlq"
        self._dlq_index = f"{{{stream}:dlq}}:entries"
        self._turn, self._probe = f"{{{stream}}}:reconciler", f"{{{stream}}}:probe"
        self._redis = connect(url, deadline_seconds=deadline_seconds, name=name)
        self._reader = connect(url, deadline_seconds=BLOCK_MS / 1000 + deadline_seconds, name=f"{name}-reader")
        # The stock callback builds a dict an entry; the raw reply is what `_deliveries` wants.
        self._reader.response_callbacks.pop("XREADGROUP", None)
        here = Path(__file__).parent
        self._scripts: dict[str, AsyncScript] = {
            path.stem: self._redis.register_script(path.read_text()) for path in here.glob("*.lua")
        }

    async def close(self) -> None:
        """Close both clients."""
        await self._redis.aclose()
        await self._reader.aclose()

    async def _script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        async with translated():
            return await self._scripts[name](keys=keys, args=arguments)

    async def require_writable(self) -> None:
        """Raises StoreUnavailable when Redis does not answer, is full, or a replica."""
        async with translated():
            await self._redis.set(self._probe, b"", px=1_000)

    async def eviction_policy(self) -> str | None:
        """The server's maxmemory-policy, None where it will not say."""
        try:
            async with translated():
                return str((await self._redis.config_get("maxmemory-policy")).get("maxmemory-policy", "")) or None
        except StoreUnavailable:
            return None

    async def ensure_group(self) -> None:
        """Create the stream and its group, at 0: a group at `$` would skip what is there already."""
        async with translated():
            try:
                await self._redis.xgroup_create(self.stream, self.group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def publish(self, job_ids: Sequence[bytes]) -> None:
        """Put ids on the stream; twice is no harm."""
        for at in range(0, len(job_ids), MAX_IDS_A_CALL):
            batch = job_ids[at : at + MAX_IDS_A_CALL]
            await self._script("publish", [self.stream], [b"".join(batch)])
            tell(facts.PUBLISHED, batch)

    async def schedule(self, due_ms: Mapping[bytes, float]) -> int:
        """Note when jobs are due again, by id, in epoch milliseconds. Returns how many there were."""
        scores: dict[Any, float] = dict(due_ms)
        if scores:
            async with translated():
                await self._redis.zadd(self.retry, scores)
            tell(facts.SCHEDULED, scores)
        return len(scores)

    async def promote(self, now_ms: float, limit: int = 100) -> int:
        """Move up to `limit` ids that are due at `now_ms` (epoch ms) to the stream; returns how many."""
        tell(facts.PROMOTING)
        moved = int(await self._script("promote", [self.retry, self.stream], [f"{now_ms:.0f}", limit]))
        tell(facts.PROMOTED, moved)
        return moved

    async def read(self, consumer: str, limit: int) -> list[Delivery]:
        """Up to `limit` new deliveries, waiting up to BLOCK_MS for the first."""
        deliveries = await self._read_group(consumer, limit, ">", "BLOCK", BLOCK_MS)
        tell(facts.DELIVERED, deliveries)
        return deliveries

    async def own_pending(self, consumer: str, limit: int) -> list[Delivery]:
        """What this consumer was handed and has not acknowledged: also what it never heard of (ghost deliveries)."""
        return await self._read_group(consumer, limit, "0")

    async def _read_group(self, consumer: str, limit: int, start: str, *options: object) -> list[Delivery]:
        command = (
            "XREADGROUP",
            "GROUP",
            self.group,
            consumer,
            "COUNT",
            limit,
            *options,
            "STREAMS",
            self.stream,
            start,
        )
        async with translated():
            try:
                reply = await self._reader.execute_command(*command)  # type: ignore[no-untyped-call]
            except ResponseError as error:
                if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
                    raise
                reply = None
                await self.ensure_group()
        return _deliveries(reply)

    async def ack(self, entries: Sequence[bytes]) -> None:
        """Acknowledge entries; twice is no harm."""
        if entries:
            async with translated():
                await self._redis.xack(self.stream, self.group, *entries)
            tell(facts.ACKNOWLEDGED, entries)

    async def trim(self, cursor: bytes, spare: int) -> Trimmed:
        """Remove acknowledged entries; returns how many, and the cursor for the next call."""
        removed, cursor = await self._script("trim", [self.stream], [self.group, spare, cursor])
        return Trimmed(int(removed), cursor)

    async def queued_ms(self) -> int:
        """How long the oldest undelivered entry has waited; 0 when every entry has been delivered."""
        return int(await self._script("horizon", [self.stream], [self.group]))

    async def take_turn(self, seconds: float) -> bool:
        """True for one caller in every `seconds`, whoever asks: a lock that only its time-out releases."""
        async with translated():
            return bool(await self._redis.set(self._turn, b"1", nx=True, px=max(1, int(seconds * 1000))))

    async def consumers(self) -> dict[str, int]:
        """Consumer name -> how many entries it holds."""
        async with translated():
            found = await self._redis.xinfo_consumers(self.stream, self.group)
        return {c["name"].decode(): int(c["pending"]) for c in found}

    async def adopt(self, dead: str, heir: str, limit: int = 100) -> int:
        """Make a dead consumer's entries this heir's own; it meets them with its next `own_pending`."""
        async with translated():
            held = await self._redis.xpending_range(self.stream, self.group, "-", "+", limit, dead)
            entries: list[Any] = [item["message_id"] for item in held]
            if entries:
                await self._redis.xclaim(self.stream, self.group, heir, 0, entries, justid=True)
        tell(facts.ADOPTED, entries)
        return len(entries)

    async def forget(self, consumer: str) -> bool:
        """Delete a consumer that holds nothing; whether it was deleted."""
        return bool(await self._script("forget", [self.stream], [self.group, consumer]))

    async def dead_letter(self, letters: Sequence[Letter]) -> None:
        """Put dead letters on the DLQ stream, each once."""
        for at in range(0, len(letters), 100):
            arguments = [x for one in letters[at : at + 100] for x in (id_text(one.id), one.type, one.error)]
            await self._script("dead_letter", [self.dlq, self._dlq_index], arguments)

    async def exhume(self, job_ids: Sequence[bytes]) -> None:
        """Take jobs off the DLQ stream."""
        for at in range(0, len(job_ids), MAX_IDS_A_CALL):
            texts = [id_text(raw) for raw in job_ids[at : at + MAX_IDS_A_CALL]]
            await self._script("exhume", [self.dlq, self._dlq_index], texts)

    async def dead_ids(self) -> list[bytes]:
        """The ids (text, as bytes) that the DLQ stream holds."""
        async with translated():
            keys: list[Any] = await self._redis.hkeys(self._dlq_index)
            return keys

    async def lengths(self) -> Lengths:
        """Of all keys, at about one moment."""
        async with translated():
            held = await self._redis.xpending(self.stream, self.group)
            return Lengths(
                stream=int(await self._redis.xlen(self.stream)),
                pending=int(held["pending"]),
                retry=int(await self._redis.zcard(self.retry)),
                dlq=int(await self._redis.xlen(self.dlq)),
            )


def _deliveries(reply: Any) -> list[Delivery]:
    if not reply:
        return []
    # An entry that was trimmed while pending comes without fields: nothing but its acknowledgement is left to do.
    return [Delivery(entry, fields[1] if fields else b"") for entry, fields in reply[0][1]]


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn what redis-py raises into StoreUnavailable."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        tell(facts.STORE_ERRORS)
        raise StoreUnavailable("Redis", str(error).partition("\n")[0] or type(error).__name__) from error
