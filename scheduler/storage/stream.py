"""Redis: the rebuildable index of what is due now. Every write here may be lost or repeated without harm.

Bulk writes are one script call with the ids packed into a single argument: redis-py pipelines cost seven times as much.
redis-py's own retries are off, each command has a deadline, and the blocking reader has a connection of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
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


@dataclass(frozen=True, slots=True)
class Delivery:
    """A stream entry, of a lane with `@` and the lane's type behind it, and its job id; empty when it was trimmed."""

    entry: bytes
    job_id: bytes


@dataclass(frozen=True, slots=True)
class Share:
    """What was read of a worker's share, and how much waits undelivered beyond it."""

    deliveries: list[Delivery]
    waiting: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many entries or ids each key holds."""

    stream: int
    pending: int
    retry: int
    dlq: int


def connect(url: str, *, deadline_seconds: float, name: str, connections: int = 8) -> Redis:
    """A client that neither retries nor waits longer than the deadline. Raises ConfigurationError."""
    try:
        return Redis.from_url(
            url,
            protocol=2,
            client_name=name,
            socket_timeout=deadline_seconds,
            socket_connect_timeout=deadline_seconds,
            max_connections=connections,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
    except ValueError as error:
        raise ConfigurationError(f"SCHEDULER_REDIS_URL is no redis://host:6379/0: {error}") from error


class Stream:
    """One stream, its consumer group, its lanes, its retry ZSET and its DLQ stream.

    A lane is a stream of jobs of one type, which some live workers cannot run. `types`: whose lanes are read here.
    """

    def __init__(self, url: str, *, stream: str, group: str, deadline_seconds: float, name: str) -> None:
        self.stream, self.group = stream, group
        self.retry, self.dlq = f"{{{stream}}}:retry", f"{stream}:dlq"
        self._dlq_index = f"{{{stream}:dlq}}:entries"
        self._turn = f"{{{stream}}}:reconciler"
        self._lane, self._lanes = f"{{{stream}}}:lane:", f"{{{stream}}}:lanes"
        self.types: frozenset[str] = frozenset()
        self.lanes: tuple[str, ...] = ()  # those that exist, as far as known
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

    async def ping(self) -> None:
        """Raises StoreUnavailable when Redis does not answer."""
        async with translated():
            await self._redis.ping()

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
        """Up to `limit` new deliveries of each stream, waiting up to BLOCK_MS for the first."""
        deliveries = await self._read_group(consumer, limit, ">", "BLOCK", BLOCK_MS)
        tell(facts.DELIVERED, deliveries)
        return deliveries

    async def take(self, consumer: str, limit: int, least: int = 0) -> Share:
        """This consumer's share of what waits, at once: up to `limit`, not less than `least` while there is some."""
        arguments: list[Any] = [self.group, consumer, limit, least]
        waiting, reply = await self._reading(self._scripts["take"](self._read_keys(), arguments)) or (0, [])
        share = Share(self._deliveries(reply), waiting)
        tell(facts.DELIVERED, share.deliveries)
        return share

    async def own_pending(self, consumer: str, limit: int) -> list[Delivery]:
        """What this consumer was handed and has not acknowledged: also what it never heard of (ghost deliveries)."""
        return await self._read_group(consumer, limit, "0")

    async def _read_group(self, consumer: str, limit: int, start: str, *options: object) -> list[Delivery]:
        keys = self._read_keys()
        group = ("GROUP", self.group, consumer, "COUNT", limit, *options)
        return self._deliveries(
            await self._reading(
                self._reader.execute_command("XREADGROUP", *group, "STREAMS", *keys, *[start] * len(keys))  # type: ignore[no-untyped-call]
            )
        )

    def _read_keys(self) -> list[str]:
        return [*(self._lane + type for type in self.lanes if type in self.types), self.stream]

    async def _reading(self, command: Awaitable[Any]) -> Any:
        """The reply of a command that reads; None after the groups that it lacked have been made again."""
        async with translated():
            try:
                return await command
            except ResponseError as error:
                if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
                    raise
            await self.ensure_group()
            return await self.open_lanes()

    def _deliveries(self, reply: Any) -> list[Delivery]:
        found = []
        for key, entries in reply or ():
            at = b"" if key == self.stream.encode() else b"@" + key[len(self._lane.encode()) :]
            # An entry that was trimmed while pending comes without fields: only its acknowledgement is left to do.
            found += [Delivery(entry + at, fields[1] if fields else b"") for entry, fields in entries]
        return found

    async def ack(self, entries: Sequence[bytes]) -> None:
        """Acknowledge entries; twice is no harm."""
        by_lane: dict[bytes, list[bytes]] = defaultdict(list)
        for entry in entries:
            by_lane[entry.partition(b"@")[2]].append(entry)
        for type, own in by_lane.items():
            if type:
                ids = [entry.partition(b"@")[0] for entry in own]
                await self._script("leave_lane", [self._lane + type.decode()], [self.group, *ids])
            else:
                async with translated():
                    await self._redis.xack(self.stream, self.group, *own)
        tell(facts.ACKNOWLEDGED, entries)

    async def trim(self) -> int:
        """Remove acknowledged entries, up to the oldest that is pending; returns how many."""
        return int(await self._script("trim", [self.stream], [self.group]))

    # -- lanes

    async def open_lanes(self, types: Sequence[str] | None = None) -> None:
        """Have lanes for exactly these types, None: those that there are, mended; learn in `lanes` which."""
        arguments = [self.group, self._lane, int(types is not None), *(types or ())]
        self.lanes = tuple(sorted(type.decode() for type in await self._script("open_lanes", [self._lanes], arguments)))

    async def forward(self, type: str, deliveries: Sequence[Delivery]) -> None:
        """Move deliveries of the stream to the lane of their type, which acknowledges them."""
        pairs = [x for each in deliveries for x in (each.entry, each.job_id)]
        await self._script("forward", [self.stream, self._lanes, self._lane + type], [self.group, type, *pairs])
        tell(facts.FORWARDED, deliveries)

    async def queued_ms(self) -> int:
        """How long the oldest undelivered entry has waited; 0 when every entry has been delivered."""
        return int(await self._script("horizon", [self.stream, self._lanes], [self.group, self._lane]))

    async def take_turn(self, seconds: float) -> bool:
        """True for one caller in every `seconds`, whoever asks: a lock that only its time-out releases."""
        async with translated():
            return bool(await self._redis.set(self._turn, b"1", nx=True, px=max(1, int(seconds * 1000))))

    async def consumers(self) -> dict[str, int]:
        """Consumer name -> how many entries it holds."""
        held: Counter[str] = Counter()
        for key in self._all_keys():
            async with translated():
                for each in await self._redis.xinfo_consumers(key, self.group):
                    held[each["name"].decode()] += int(each["pending"])
        return dict(held)

    async def adopt(self, dead: str, heir: str, limit: int = 100) -> int:
        """Make a dead consumer's entries this heir's own; it meets them with its next `own_pending`."""
        adopted: list[Any] = []
        for key in self._all_keys():
            async with translated():
                held = await self._redis.xpending_range(key, self.group, "-", "+", limit, dead)
                entries: list[Any] = [item["message_id"] for item in held]
                if entries:
                    adopted += await self._redis.xclaim(key, self.group, heir, 0, entries, justid=True)
        tell(facts.ADOPTED, adopted)
        return len(adopted)

    async def forget(self, consumer: str) -> bool:
        """Delete a consumer that holds nothing; whether it was deleted."""
        return all([await self._script("forget", [key], [self.group, consumer]) for key in self._all_keys()])

    def _all_keys(self) -> list[str]:
        """The stream, and the lanes that were there when it was last looked."""
        return [self.stream, *(self._lane + type for type in self.lanes)]

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


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn what redis-py raises into StoreUnavailable."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        tell(facts.STORE_ERRORS)
        raise StoreUnavailable("Redis", str(error).partition("\n")[0] or type(error).__name__) from error
