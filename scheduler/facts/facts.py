"""What happens: one record a fact, told once, a batch at a time, and heard by the log, its counter and who listens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from logging import DEBUG, ERROR, INFO, WARNING, getLogger
from typing import Any

from msgspec import Struct

from scheduler.jobs.job import id_text

logger = getLogger("scheduler")
tally: Counter[str] = Counter()  # what this process has counted: name of a fact -> units


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """`unit` says what one unit of it is. `fields` are separated by spaces: `jobs` is the amount, `first` the id of the
    first thing it happened to, `trace` an exception or its text; the others are told. `reply` names the store whose
    reply it is.
    """

    name: str
    unit: str
    fields: str = ""
    level: int = 0  # 0: not logged
    counted: bool = False
    reply: str = ""
    ears: list[Callable[[Told], None]] = field(default_factory=list, repr=False)


class Told(Struct, frozen=True, gc=False):
    """One telling: `amount` units, `of` these jobs, outcomes, deliveries or ids; empty when they are not known."""

    fact: Fact
    amount: int
    of: Collection[Any]
    fields: Mapping[str, object]

    @property
    def shown(self) -> dict[str, object]:
        """The fields in the order of the record, as the log shows them."""
        names = self.fact.fields.split()
        first = {"first": ident(next(iter(self.of)))} if self.of and "first" in names else {}
        known = {"jobs": self.amount, **first, **self.fields}
        return {name: known[name] for name in names if name in known and name != "trace"}


def tell(fact: Fact, what: int | Collection[Any] = 1, /, **fields: object) -> None:
    """Say that `fact` happened to `what`, or so many times; nothing happened to nothing.

    Raises what a listener raises, and has then neither counted nor logged: so a crash point loses a store's reply.
    """
    if not what:
        return
    told = Told(fact, what, (), fields) if isinstance(what, int) else Told(fact, len(what), what, fields)
    for hear in fact.ears[:]:
        hear(told)
    if fact.counted:
        tally[fact.name] += told.amount
    if fact.level and logger.isEnabledFor(fact.level):
        trace: Any = fields.get("trace")
        error, text = (None, trace) if isinstance(trace, str) else (trace, None)
        logger.log(fact.level, fact.name, exc_info=error, extra={"facts": told.shown, "trace": text})


def listen(fact: Fact, hear: Callable[[Told], None]) -> Callable[[], None]:
    """Call `hear` whenever `fact` is told from now on, in the thread that tells it. Returns what ends that."""
    fact.ears.append(hear)
    return lambda: fact.ears.remove(hear)


def ident(what: Any) -> str:
    """The id, as text, of a job, of an outcome's or delivery's job, of a raw id, or of a stream entry."""
    whose = getattr(what, "job", what)
    raw = whose if isinstance(whose, bytes) else whose.job_id if hasattr(whose, "job_id") else whose.id
    # The ninth byte of a uuid is never ASCII; a stream entry is.
    return id_text(raw) if len(raw) == 16 and not raw.isascii() else raw.decode(errors="replace")


# submitting
INSERTING = Fact("inserting", "jobs about to be inserted")
INSERTED = Fact("inserted", "jobs whose insert was answered, new or known before", reply="PostgreSQL")
SUBMITTED = Fact("submitted", "jobs accepted (committed) by this process", counted=True)
REPEATED = Fact("repeated", "submissions answered with the job that their idempotency key already had", counted=True)
REFUSED = Fact("refused", "submissions refused by admission control", counted=True)
PUBLISHED = Fact("published", "job ids put on the stream", counted=True, reply="Redis")
# working
DELIVERED = Fact("delivered", "deliveries read from the stream", reply="Redis")
CLAIMED = Fact("claimed", "jobs claimed", counted=True, reply="PostgreSQL")
CLAIM_REFUSED = Fact("claim_refused", "jobs whose claim PostgreSQL refuses", "first reason", ERROR, True)
UNCLAIMED = Fact("unclaimed", "deliveries whose job was no longer to be claimed", counted=True)
UNHANDLED = Fact("unhandled", "jobs of types that no live worker has a handler for", "jobs types", WARNING)
MALFORMED = Fact("malformed", "what Redis held in the place of an id, and was dropped", "jobs key value", WARNING, True)
FORWARDED = Fact("forwarded", "deliveries moved to the lane of their type", counted=True, reply="Redis")
PAYLOAD_MISSED = Fact("payload_missed", "large payloads that could not be fetched for now", "first reason", WARNING)
HANDLER_STARTED = Fact("handler_started", "handlers about to be called; told only while somebody listens")
HANDLER_ENDED = Fact("handler_ended", "handlers that returned, raised or timed out; told only while somebody listens")
SETTLED = Fact("settled", "outcomes whose settling was answered, in time or too late", reply="PostgreSQL")
COMPLETED = Fact("completed", "attempts that completed", counted=True)
RETRIED = Fact("retried", "attempts that failed with another one to come", counted=True)
FAILED = Fact("failed", "jobs that went to the dead letters", counted=True)
SNOOZED = Fact("snoozed", "jobs put off by their handler", counted=True)
RELEASED = Fact("released", "jobs given back unburned", counted=True)
LEASE_LOST = Fact("lease_lost", "outcomes that came too late: another claim had happened", "jobs first", WARNING, True)
JOB_RETRIED = Fact("job_retried", "errors of attempts with another to come", "job_id type attempt error trace", INFO)
JOB_FAILED = Fact("job_failed", "errors that made a job a dead letter", "job_id type attempt error trace", WARNING)
BACKOFF_FAILED = Fact("backoff_failed", "delays that a type's own function could not tell", "type trace", WARNING)
SCHEDULED = Fact("scheduled", "job ids put in the retry ZSET", reply="Redis")
ACKNOWLEDGED = Fact("acknowledged", "stream entries acknowledged", reply="Redis")
INDEX_NOT_TOLD = Fact("index_not_told", "jobs of whose change Redis has not heard", "jobs reason", DEBUG)
# living and dying
WORKER_STARTED = Fact("worker_started", "workers that took their first lease", "worker concurrency", INFO)
WORKER_DRAINING = Fact("worker_draining", "workers told to stop, and what they still have", "running queued", INFO)
WORKER_STOPPED = Fact("worker_stopped", "workers that ended", "worker", INFO)
LEFT_UNREGISTERED = Fact("left_unregistered", "workers that ended without ending their lease", "reason", WARNING)
LEFT_BODIES = Fact("left_bodies", "bodies that ran on when their worker ended", "jobs", WARNING)
WORKER_USELESS = Fact("worker_useless", "workers that ended themselves so that others take over", "reason", ERROR)
WORKER_WORN = Fact("worker_worn", "workers that stop to be replaced: too many bodies did not end", "lost", ERROR)
LOOP_BLOCKED = Fact("loop_blocked", "event loops that a handler blocked for a lease, and where", "seconds at", WARNING)
BODY_LOST = Fact("body_lost", "bodies that go on after their time-out", "job_id type lost most", WARNING, True)
HEARTBEAT_MISSED = Fact("heartbeat_missed", "heartbeats that PostgreSQL did not answer", "reason", WARNING)
HEARTBEAT_FAILED = Fact("heartbeat_failed", "heartbeats that raised an error of their own", "trace", ERROR)
LEASE_LAPSED = Fact("lease_lapsed", "leases that had run out before they were renewed", "worker", WARNING)
CLAIMS_UNCHECKED = Fact("claims_unchecked", "failed looks, after a lapse, for jobs that others have", "reason", WARNING)
# keeping
PROMOTING = Fact("promoting", "looks into the retry ZSET about to be made")
PROMOTED = Fact("promoted", "ids moved from the retry ZSET to the stream", counted=True, reply="Redis")
RESCUING = Fact("rescuing", "jobs about to be taken from dead workers")
GIVEN_BACK = Fact("given_back", "jobs taken from dead workers, to run again or dead-lettered", reply="PostgreSQL")
RESCUED = Fact("rescued", "jobs given back for a dead worker", "jobs dead_lettered first", WARNING, True)
RESCUE_PUBLISHED = Fact("rescue_published", "jobs taken from dead workers that Redis was told of")
ADOPTED = Fact("adopted", "deliveries taken over from a dead worker", counted=True, reply="Redis")
OVERLOOKED = Fact("overlooked", "jobs found that Redis may not hold, due or waiting", reply="PostgreSQL")
RECONCILED = Fact("reconciled", "due jobs published by the reconciler", counted=True)
KEY_UNUSABLE = Fact("key_unusable", "keys in Redis that cannot be used as they are", "key reason", ERROR, True)
DLQ_RECONCILED = Fact("dlq_reconciled", "times the DLQ stream was made equal to the record", "added removed", INFO)
PRUNED = Fact("pruned", "finished jobs deleted after their retention", counted=True)
# what users ask for
JOB_CANCELLED = Fact("job_cancelled", "jobs cancelled", "job_id", INFO)
REDRIVEN = Fact("redriven", "dead letters sent back", "jobs", INFO)
PURGED = Fact("purged", "dead letters deleted with their jobs", "jobs", INFO)
# who is let in
TURNED_AWAY = Fact("turned_away", "requests that were not let in", "requests caller reason", WARNING, True)
AUDIT_LOST = Fact("audit_lost", "audit rows for which there was no room", counted=True)
# processes and stores
RESOURCE_FAILED = Fact("resource_failed", "resources that could not be opened or closed", "resource trace", ERROR)
STORE_ERRORS = Fact("store_errors", "calls to a store that failed or timed out", counted=True)
STORE_UNAVAILABLE = Fact("store_unavailable", "loops that cannot go on without a store", "service reason", WARNING)
SERVICE_RECOVERED = Fact("service_recovered", "loops that go on again", "service failures", INFO)
TICK_FAILED = Fact("tick_failed", "rounds of a loop that raised an error of their own", "service trace", ERROR)
NOT_READY = Fact("not_ready", "looks that found a store or a loop not well", "reason", WARNING)
REQUEST_FAILED = Fact("request_failed", "requests answered with 500", "path trace", ERROR)
WAITING_FOR_STORE = Fact("waiting_for_store", "looks for the stores at start", "reason retry_seconds", WARNING)
MIGRATED = Fact("migrated", "migrations applied", "migration", INFO)
REDIS_MAY_EVICT = Fact("redis_may_evict", "times Redis may evict keys", "maxmemory_policy remedy", WARNING)
API_LISTENING = Fact("api_listening", "APIs that take connections", "url", INFO)
STARTING_STORES = Fact("starting_stores", "times embedded stores are about to start", "folder", INFO)
UP = Fact("up", "times API and workers are about to start", "api workers stop", INFO)
CHILD_DIED = Fact("child_died", "processes that ended and start again", "child exit_code restart_seconds", WARNING)
STOPPING = Fact("stopping", "times API and workers are told to stop", "grace_seconds", INFO)
KILLED = Fact("killed", "processes that did not stop in time", "child", WARNING)
CRASH_POINT = Fact("crash_point", "crash points that act", "point action", WARNING)

FACTS: tuple[Fact, ...] = tuple(each for each in list(globals().values()) if isinstance(each, Fact))
