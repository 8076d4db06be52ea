"""Redis: the rebuildable index of what is due now. Every write here may be lost or repeated without harm.

Bulk writes are one script call with the ids packed into a single argument: redis-py pipelines cost seven times as much.
redis-py's own retries are off, each command has a deadline, and the blocking reader has a connection of its own.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from scheduler.errors import ConfigurationError, StoreUnavailable
from scheduler.facts import facts
from scheduler.facts.facts import tell
from scheduler.jobs.job import id_text
from scheduler.storage.garbage import FOREIGN, ID_BYTES, flaws_of, sound
from scheduler.storage.rows import Letter

MAX_IDS_A_CALL = 1_000
MAX_IDS_BY_LUA = 100
SAMPLE = 100
MAX_LETTERS = 10_000
MAX_ERROR = 200
MOST_BLOCK_SECONDS = 2.0
_NO_URL = "SCHEDULER_REDIS_URL is no redis://user:password@host:6379/0; in a password / is %2F, # is %23, ? is %3F"
_LEFT = {"READONLY", "MISCONF", "LOADING", "NOREPLICAS", "MASTERDOWN"}


class Delivery(NamedTuple):
    """A stream entry, of a lane with `@` and the lane's type behind it, and its job id; empty when it has none."""

    entry: bytes
    job_id: bytes


class Share(NamedTuple):
    """What was read of a worker's share, and how much waits undelivered beyond it."""

    deliveries: list[Delivery]
    waiting: int


class Look(NamedTuple):
    """Whether the turn is ours; if so, how long the oldest undelivered entry has been queued (0: there is none), else
    how long the other's turn lasts.
    """

    mine: bool
    seconds: float


class Lengths(NamedTuple):
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
            encoding_errors=FOREIGN,
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
        parts = urlsplit(url)
    except (TypeError, ValueError):  # its message may hold the password
        raise ConfigurationError(_NO_URL) from None
    if parts.scheme != "unix" and not (parts.hostname and re.fullmatch(r"(/\d*)?", parts.path)):
        raise ConfigurationError(_NO_URL)
    pool.connection_class = type("LeavingConnection", (_Leaving, pool.connection_class), {})
    return Redis.from_pool(pool)


class Stream:
    """One stream, its consumer group, its lanes, its retry ZSET and its DLQ stream.

    A lane is a stream of jobs of one type, which some live workers cannot run. `types`: whose lanes are read here.
    """

    def __init__(self, url: str, *, stream: str, group: str, deadline_seconds: float, name: str) -> None:
        self.stream, self.group = stream, group
        self.retry, self.dlq = f"{{{stream}}}:retry", f"{stream}:dlq"
        self._dlq_keys = [self.dlq, f"{{{self.dlq}}}:index", f"{{{self.dlq}}}:digest"]
        self._turn, self._probe = f"{{{stream}}}:reconciler", f"{{{stream}}}:probe"
        self._lane, self._lanes = f"{{{stream}}}:lane:", f"{{{stream}}}:lanes"
        own = {stream: "stream", self.retry: "zset", self._lanes: "set", self._turn: "string"}
        self._types = own | dict(zip(self._dlq_keys, ("stream", "zset", "hash"), strict=True))
        self.types: frozenset[str] = frozenset()
        self.lanes: tuple[str, ...] = ()  # those that exist, as far as known
        self.on_scheduled: Callable[[float], None] = lambda _: None
        self._redis = connect(url, deadline_seconds=deadline_seconds, name=name)
        self._reader = connect(url, deadline_seconds=MOST_BLOCK_SECONDS + deadline_seconds, name=f"{name}-reader")
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

    async def flaws(self, *, mend: bool = False) -> dict[str, str]:
        """Key -> what is wrong with it. `mend`: put such keys aside, and sift out what is no id, where that helps."""
        types = self._types | {self._lane + each: "stream" for each in self.lanes}
        flaws = await flaws_of(lambda key, kind: self._script("flaw", [key], [kind, self.group, int(mend)]), types)
        if mend and self.retry not in flaws:
            sound(self.retry, await self._script("sift", [self.retry], [SAMPLE]))
        return flaws

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
            batch = list(sound(self.stream, job_ids[at : at + MAX_IDS_A_CALL]))
            await self._script("publish", [self.stream], [b"".join(batch)])
            tell(facts.PUBLISHED, batch)

    async def schedule(self, due_ms: Mapping[bytes, float]) -> int:
        """Note when jobs are due again, by id, in epoch milliseconds. Returns how many there were."""
        scores: dict[Any, float] = {job_id: due_ms[job_id] for job_id in sound(self.retry, due_ms)}
        if scores:
            async with translated():
                await self._redis.zadd(self.retry, scores)
            tell(facts.SCHEDULED, scores)
            self.on_scheduled(min(scores.values()))
        return len(scores)

    async def unschedule(self, job_id: bytes) -> None:
        """Forget when a job is due again."""
        async with translated():
            await self._redis.zrem(self.retry, job_id)

    async def next_due(self) -> float:
        """When the first of the jobs that wait is due (epoch milliseconds); infinity when none waits."""
        async with translated():
            first = await self._redis.zrange(self.retry, 0, 0, withscores=True)
        return float(first[0][1]) if first else math.inf

    async def promote(self, now_ms: float, limit: int = 100) -> int:
        """Move up to `limit` ids that are due at `now_ms` (epoch ms) to the stream; returns how many."""
        tell(facts.PROMOTING)
        moved, wrong = await self._script("promote", [self.retry, self.stream], [f"{now_ms:.0f}", limit])
        sound(self.retry, wrong)
        tell(facts.PROMOTED, moved - len(wrong))
        return int(moved)

    async def read(self, consumer: str, limit: int, seconds: float = MOST_BLOCK_SECONDS) -> list[Delivery]:
        """Up to `limit` new deliveries of each stream, waiting so long, MOST_BLOCK_SECONDS at most, for the first."""
        block_ms = int(min(seconds, MOST_BLOCK_SECONDS) * 1000)
        deliveries = await self._read_group(consumer, limit, ">", "BLOCK", block_ms)
        tell(facts.DELIVERED, deliveries)
        return deliveries

    async def take(self, consumer: str, limit: int, least: int = 0) -> Share:
        """This consumer's share of what waits, at once: up to `limit`, not less than `least` while there is some."""
        arguments: list[Any] = [self.group, consumer, limit, least, MAX_IDS_BY_LUA]
        taking = self._scripts["take"](self._read_keys(), arguments)
        waiting, reply, left = await self._reading(taking) or (0, [], 0)
        share = Share(self._deliveries(reply), waiting)
        if left:
            share.deliveries.extend(await self._read_group(consumer, left, ">", keys=[self.stream]))
        tell(facts.DELIVERED, share.deliveries)
        return share

    async def own_pending(self, consumer: str, limit: int) -> list[Delivery]:
        """What this consumer was handed and has not acknowledged: also what it never heard of (ghost deliveries)."""
        return await self._read_group(consumer, limit, "0")

    async def _read_group(
        self, consumer: str, limit: int, start: str, *options: object, keys: Sequence[str] | None = None
    ) -> list[Delivery]:
        keys = self._read_keys() if keys is None else keys
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
            sound(key.decode(), [fields[1] for _, fields in entries if fields])
            # One that was trimmed while pending comes without fields, and what is no id is none: they are acknowledged.
            found += [Delivery(entry + at, x[1] if x and len(x[1]) == ID_BYTES else b"") for entry, x in entries]
        return found

    async def ack(self, entries: Sequence[bytes]) -> None:
        """Acknowledge entries; twice is no harm."""
        by_lane: dict[bytes, list[bytes]] = defaultdict(list)
        for entry, _, type in (each.partition(b"@") for each in entries if b"@" in each):
            by_lane[type].append(entry)
        for type, own in by_lane.items():
            await self._script("leave_lane", [self._lane + type.decode()], [self.group, *own])
        if main := [entry for entry in entries if b"@" not in entry]:
            async with translated():
                await self._redis.xack(self.stream, self.group, *main)
        tell(facts.ACKNOWLEDGED, entries)

    async def trim(self) -> int:
        """Remove acknowledged entries, up to the oldest that is pending; returns how many."""
        return int(await self._script("trim", [self.stream], [self.group]))

    # -- lanes

    async def open_lanes(self, types: Sequence[str] | None = None) -> None:
        """Have lanes for exactly these types, None: those that there are, mended; learn in `lanes` which."""
        arguments = [self.group, self._lane, int(types is not None), *(types or ())]
        found = await self._script("open_lanes", [self._lanes], arguments)
        self.lanes = tuple(sorted(type.decode(errors=FOREIGN) for type in found))

    async def forward(self, type: str, deliveries: Sequence[Delivery]) -> None:
        """Move deliveries of the stream to the lane of their type, which acknowledges them."""
        pairs = [x for each in deliveries for x in (each.entry, each.job_id)]
        await self._script("forward", [self.stream, self._lanes, self._lane + type], [self.group, type, *pairs])
        tell(facts.FORWARDED, deliveries)

    async def length(self) -> int:
        """How many entries the stream holds."""
        async with translated():
            return int(await self._redis.xlen(self.stream))

    async def look(self, who: str, seconds: float) -> Look:
        """Ask for the turn, which then lasts so long from now, and for the horizon. Makes a missing group."""
        arguments = [self.group, who, int(seconds * 1000), self._lane]
        mine, ms = await self._script("horizon", [self.stream, self._turn, self._lanes], arguments)
        if ms < 0 and mine:
            await self.ensure_group()
            return await self.look(who, seconds)
        return Look(bool(mine), max(0, ms) / 1000)

    async def consumers(self) -> dict[str, int]:
        """Consumer name -> how many entries it holds."""
        held: Counter[str] = Counter()
        for key in self._all_keys():
            async with translated():
                for each in await self._redis.xinfo_consumers(key, self.group):
                    held[each["name"].decode(errors=FOREIGN)] += int(each["pending"])
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
        """Put dead letters on the DLQ stream, each once; those of the newest jobs stay, their errors cut."""
        for at in range(0, len(letters), 100):
            # 48 bits of its hash, as the statement `dead_digest` takes them.
            sums = [int.from_bytes(sha256(x.id).digest()[:6]) for x in letters[at : at + 100]]
            each = [(id_text(x.id), n, x.type, x.error[:MAX_ERROR]) for x, n in zip(letters[at:], sums, strict=False)]
            await self._script("letters", self._dlq_keys, [MAX_LETTERS, 0, *chain(*each)])

    async def exhume(self, job_ids: Sequence[bytes]) -> None:
        """Take jobs off the DLQ stream."""
        for at in range(0, len(job_ids), MAX_IDS_A_CALL):
            texts = [id_text(raw) for raw in job_ids[at : at + MAX_IDS_A_CALL]]
            await self._script("letters", self._dlq_keys, [MAX_LETTERS, len(texts), *texts])

    async def dead_ids(self) -> list[bytes]:
        """The ids (text, as bytes) of the jobs on the DLQ stream, in their order."""
        async with translated():
            members: list[Any] = await self._redis.zrange(self._dlq_keys[1], 0, -1)
        return [member.partition(b" ")[0] for member in members]

    async def dead_digest(self) -> str:
        """What the DLQ stream shows, as `Store.dead_digest`; empty when others wrote to it or deleted from it."""
        return (await self._script("letters_look", self._dlq_keys, []) or b"").decode(errors="replace")

    async def dead_clear(self) -> None:
        """Begin the DLQ stream anew."""
        async with translated():
            await self._redis.delete(*self._dlq_keys)

    async def lengths(self) -> Lengths:
        """Of all keys, the lanes counted with the stream."""
        keys = [self.stream, self.retry, self.dlq, self._lanes]
        return Lengths(*await self._script("lengths", keys, [self.group, self._lane]))


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn what redis-py raises into StoreUnavailable; and raise the cancellation that it may have swallowed (8.1)."""
    try:
        yield
    except (RedisError, OSError, TimeoutError, RuntimeError) as error:  # the last by uvloop, of a closed handle
        tell(facts.STORE_ERRORS)
        raise StoreUnavailable("Redis", str(error).partition("\n")[0] or type(error).__name__) from error
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError
