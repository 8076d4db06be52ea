"""Negative controls: builds of the scheduler broken on purpose, from outside, each of which a check must catch.

Loaded by SCHEDULER_JOBS=chaos.controls in the processes that are to be broken, and in those only; CHAOS_CONTROL names
the control. A check whose control passes has proved nothing. HARMLESS holds faults of the same kind that the design
outlives: they must lose nothing. With `breakage` the only module here that reaches into the scheduler.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from chaos.controls import breakage
from chaos.errors import UsageError

EVERYWHERE, CLIENT = "*", "client"


@dataclass(frozen=True, slots=True)
class Control:
    """What is broken, in which processes, the scenario that shows it, and the checks that must turn invalid.

    Each check must do so in one of the first `runs` seeds. Harmless: `breaks` may turn invalid, nothing else.
    """

    name: str
    does: str
    breaks: tuple[str, ...]
    scenario: str
    apply: Callable[[], None]
    on: str = "worker"  # a role, a process name, everywhere, or the client that submits
    drain_seconds: float = 15.0
    runs: int = 3


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control(
            "settle-before-body",
            "writes the final status before the body runs",
            ("at-least-once", "status-effect"),
            "worker-killed",
            breakage.settle_before_body,
        ),
        Control("no-fence", "settles without presenting the fence", ("fencing",), "worker-paused", breakage.no_fence),
        Control(
            "no-status-guard",
            "claims whatever it is handed, finished or not",
            ("repetition", "fencing"),
            "redis-partition",
            breakage.no_status_guard,
        ),
        Control("retry-early", "halves every back-off", ("retry-schedule",), "calm", breakage.retry_early),
        Control(
            "retry-due-lost",
            "keeps the due time of a retry in Redis alone",
            ("retry-schedule",),
            "redis-flushed",
            breakage.retry_due_lost,
        ),
        Control(
            "attempts-uncounted",
            "gives the attempt back with every retry",
            ("retry-bound", "terminal"),
            "calm",
            breakage.attempts_uncounted,
        ),
        Control(
            "crashes-uncounted",
            "counts an attempt only when it fails cleanly, not when its worker dies",
            ("retry-bound",),
            "worker-poisoned",
            breakage.crashes_uncounted,
            drain_seconds=45.0,
        ),
        Control(
            "dlq-missing", "writes no dead letter to Redis", ("dlq-exact",), "calm", breakage.dlq_missing, EVERYWHERE
        ),
        Control(
            "dlq-first",
            "writes the DLQ entry before the FAILED row",
            ("dlq-exact",),
            "postgres-cut",
            breakage.dlq_first,
        ),
        Control(
            "heartbeat-off",
            "one live worker renews its lease every other lease only",
            ("repetition",),
            "redis-flushed",
            breakage.heartbeat_off,
            "worker-1",
        ),
        Control(
            "heartbeat-in-loop",
            "renews the lease from the event loop that bodies block",
            ("repetition",),
            "worker-blocked",
            breakage.heartbeat_in_loop,
        ),
        Control(
            "lease-own-clock",
            "dates the lease by the worker's own clock, which is a minute ahead",
            ("recovery-time",),
            "worker-killed",
            breakage.lease_own_clock,
        ),
        Control(
            "rescuer-off",
            "nobody gives back what dead workers hold",
            ("recovery-time", "terminal"),
            "worker-killed",
            breakage.rescuer_off,
        ),
        Control(
            "reconciler-off",
            "nobody publishes what Redis has forgotten",
            ("terminal",),
            "redis-flushed",
            breakage.reconciler_off,
            EVERYWHERE,
        ),
        Control(
            "no-outbox",
            "publishes the id first and inserts the row after, with nothing to reconcile it by",
            ("terminal",),
            "redis-flushed",
            breakage.no_outbox,
            "api",
        ),
        Control(
            "settle-async",
            "settles with synchronous_commit=off",
            ("fencing",),
            "postgres-restarted",
            breakage.commit_async,
            runs=5,
        ),
        Control(
            "submit-keyless",
            "sends an unanswered submit again without its idempotency key",
            ("idempotent-submit", "no-phantom"),
            "kill@api.after-commit-2",
            breakage.nothing,
            CLIENT,
        ),
        Control(
            "keys-ignored", "forgets idempotency keys", ("idempotent-submit",), "calm", breakage.keys_ignored, "api"
        ),
        Control(
            "release-burns",
            "spends an attempt on every job given back at SIGTERM",
            ("release",),
            "worker-terminated",
            breakage.release_burns,
        ),
        Control(
            "overload-dropped",
            "says 202 to what the backlog cannot hold",
            ("at-least-once", "terminal"),
            "overload",
            breakage.overload_dropped,
            "api",
        ),
        Control(
            "gives-up",
            "one worker ends at the first error of a store",
            ("survival",),
            "redis-partition",
            breakage.gives_up,
            "worker-1",
        ),
        Control(
            "suspects-together",
            "runs what workers died with side by side again",
            ("bystanders",),
            "worker-poisoned",
            breakage.suspects_together,
            drain_seconds=60.0,
        ),
        Control(
            "no-trim",
            "leaves acknowledged entries in the stream",
            ("redis-empty",),
            "calm",
            breakage.no_trim,
            EVERYWHERE,
        ),
        Control("phantom-jobs", "invents a job with each batch", ("no-phantom",), "calm", breakage.phantom_jobs, "api"),
    )
}

HARMLESS: dict[str, Control] = {
    control.name: control
    for control in (
        Control(
            "early-ack",
            "acknowledges a delivery as soon as it is read",
            (),
            "worker-killed",
            breakage.early_ack,
            drain_seconds=60.0,
        ),
        Control("noack", "reads with NOACK", (), "worker-killed", breakage.noack, drain_seconds=60.0),
        Control(
            "group-at-end",
            "creates the consumer group at `$`, past what is there already",
            (),
            "redis-flushed",
            breakage.group_at_end,
            EVERYWHERE,
            drain_seconds=60.0,
        ),
        Control(
            "cursor-dropped",
            "adopts one entry of a dead consumer and forgets where it was",
            ("redis-empty",),
            "worker-killed",
            breakage.cursor_dropped,
            drain_seconds=60.0,
        ),
        Control(
            "redis-resends",
            "has redis-py send every command again whose reply is lost",
            (),
            "redis-ack-lost",
            breakage.redis_resends,
            EVERYWHERE,
            drain_seconds=60.0,
        ),
        Control(
            "clock-behind",
            "runs one worker by a clock that is an hour behind",
            (),
            "worker-killed",
            breakage.clock_behind,
            "worker-1",
            drain_seconds=60.0,
        ),
    )
}


def find(name: str) -> Control:
    """The control of that name, harmless or not. Raises UsageError with the nearest known name."""
    known = CONTROLS | HARMLESS
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        raise UsageError(f"no control is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return known[name]


if _name := os.environ.get("CHAOS_CONTROL"):
    find(_name).apply()
