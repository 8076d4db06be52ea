"""What happened, as values: operations, effects of job bodies, final answers, samples, and a run of them.

An operation is `invoke`, then `ok`, `fail` (certainly did not happen) or `info` (may have happened).
A timeout is never `fail`. All times are CLOCK_MONOTONIC nanoseconds, comparable within one host.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from chaos.record.aim import API, SOME_WORKER, Aim
from chaos.record.plan import Manifest, Settings

NEMESIS = "nemesis"
SECOND = 1_000_000_000

Kind = Literal["invoke", "ok", "fail", "info"]
Event = Literal["start", "end", "error"]
Status = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]


class Operation(msgspec.Struct, frozen=True):
    """One line of the history; `op` joins an invoke with its completion."""

    index: int
    op: int
    process: str
    type: Kind
    f: str
    value: Any
    time_ns: int
    error: str | None = None


class Effect(msgspec.Struct, frozen=True):
    """What a job's body wrote itself, not through the queue."""

    job_id: str
    attempt: int
    event: Event
    time_ns: int
    pid: int
    type: str


class Attempt(msgspec.Struct, frozen=True):
    """One attempt as the API tells it; a first attempt that succeeded may be missing."""

    attempt: int
    status: str
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None


class Final(msgspec.Struct, frozen=True):
    """A job as the queue tells it after the drain."""

    id: str
    type: str
    status: Status
    attempt: int
    max_attempts: int
    created_at: str | None = None
    run_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    result: Any = None
    error: str | None = None
    attempts: list[Attempt] = []

    @property
    def is_final(self) -> bool:
        """Whether the status can change no more."""
        return self.status in {"COMPLETED", "FAILED", "CANCELLED"}


class Sample(msgspec.Struct, frozen=True):
    """The stores at one moment; None where a store was out of reach."""

    time_ns: int
    unfinished: int | None = None
    processing: int | None = None
    stream: int | None = None
    pending: int | None = None
    retry: int | None = None
    dlq: int | None = None
    workers: int | None = None


class Stores(msgspec.Struct, frozen=True):
    """Redis after the drain; `dlq` holds the job id of every entry, `dlq_ms` when it was written (epoch ms)."""

    stream: int | None = None
    pending: int | None = None
    retry: int | None = None
    dlq: list[str] | None = None
    dlq_ms: list[int] = []


class Call(msgspec.Struct, frozen=True):
    """An operation with both its ends; one that never completed counts as info."""

    begun: Operation
    done: Operation | None

    @property
    def type(self) -> Kind:
        """How it ended."""
        return self.done.type if self.done else "info"


class Execution(msgspec.Struct, frozen=True):
    """One run of a job's body, from the ledger; `event` is how it closed, None if it never did."""

    job_id: str
    type: str
    attempt: int
    pid: int
    start_ns: int
    event: Event | None = None
    close_ns: int | None = None


class Window(msgspec.Struct, frozen=True):
    """A fault that fired: set in between `invoked_ns` and `onset_ns`, healed by `healed_ns` (None: never)."""

    fault: str
    target: Aim
    pid: int | None
    invoked_ns: int
    onset_ns: int
    healed_ns: int | None

    def covers(self, first_ns: int, last_ns: int) -> bool:
        """Whether it acted at any moment between the two."""
        return self.invoked_ns <= last_ns and (self.healed_ns is None or first_ns <= self.healed_ns)


@dataclass(frozen=True)
class Run:
    """Everything recorded about one run, indexed on demand. Judging it touches no file and no server."""

    manifest: Manifest
    history: list[Operation] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    stores: Stores = field(default_factory=Stores)
    path: Path | None = None

    @property
    def settings(self) -> Settings:
        """Of the plan."""
        return self.manifest.settings

    @cached_property
    def submits(self) -> list[Call]:
        """Every try of every client."""
        return calls(self.history, "submit")

    @cached_property
    def accepted(self) -> dict[str, Operation]:
        """Job id → the invoke that was first answered with it."""
        found: dict[str, Operation] = {}
        for call in self.submits:
            if call.done and call.type == "ok":
                found.setdefault(call.done.value["id"], call.begun)
        return found

    @cached_property
    def undecided(self) -> list[Operation]:
        """One invoke for each logical submit that was never answered, but may have been accepted."""
        answered = {logical(call.begun) for call in self.submits if call.type == "ok"}
        maybe = {logical(call.begun): call.begun for call in self.submits if call.type == "info"}
        return [invoke for key, invoke in maybe.items() if key not in answered]

    @cached_property
    def final(self) -> dict[str, Final]:
        """Job id → what it came to."""
        return {each.id: each for each in self.finals}

    @cached_property
    def executions(self) -> dict[str, list[Execution]]:
        """Job id → its executions by start. A close belongs to the open one of its attempt and process."""
        found: dict[str, list[Execution]] = defaultdict(list)
        for effect in sorted(self.effects, key=lambda each: each.time_ns):
            runs = found[effect.job_id]
            if effect.event == "start":
                runs.append(Execution(effect.job_id, effect.type, effect.attempt, effect.pid, effect.time_ns))
            else:
                _close(runs, effect)
        return dict(found)

    @cached_property
    def windows(self) -> list[Window]:
        """The faults that certainly fired, by onset: those of the schedule, and those that jobs and clients made."""
        injected = [call for call in calls(self.history, process=NEMESIS) if call.begun.f != "heal"]
        heals = [call for call in calls(self.history, "heal", NEMESIS) if call.type == "ok"]
        found = [_window(call, heals) for call in injected if call.type == "ok"]
        return sorted([*found, *self.own_windows], key=lambda each: each.invoked_ns)

    @cached_property
    def own_windows(self) -> list[Window]:
        """What the load did: CRASH kills its own worker, END-LOOP one of its loops, BLOCK its event loop, RAISE raises
        what is no Exception, OVERTIME goes on past its time-out, a crowd fills the backlog.
        """
        runs = [each for runs in self.executions.values() for each in runs]
        crashes = [each for each in runs if each.type == "CRASH" or (each.type == "END-LOOP" and each.attempt == 1)]
        blocks = [each for each in runs if each.type == "BLOCK"]
        raised = [each for each in runs if each.type in {"RAISE", "RAISE-PLAIN"} and each.event == "error"]
        overtime = [each for each in runs if each.type in {"OVERTIME", "OVERTIME-PLAIN"} and each.event == "error"]
        return [
            *(Window("overtime", SOME_WORKER, e.pid, e.start_ns, e.start_ns, e.close_ns) for e in overtime),
            *(Window("raise", SOME_WORKER, e.pid, e.start_ns, e.start_ns, e.close_ns) for e in raised),
            *(Window("crash", SOME_WORKER, e.pid, e.start_ns, e.start_ns + SECOND, None) for e in crashes),
            *(Window("block", SOME_WORKER, e.pid, e.start_ns, e.start_ns, e.close_ns) for e in blocks),
            *_overloads(self.submits),
        ]

    @property
    def fault_count(self) -> int:
        """Independent faults: a cut of one store for two roles at once is one, and so are crashes within a second."""
        last: dict[tuple[str, str], int] = {}
        count = 0
        for each in self.windows:
            what = (each.fault, each.target if each.pid else each.target.store or each.target)
            count += each.invoked_ns - last.get(what, -SECOND) >= SECOND
            last[what] = each.invoked_ns
        return count

    @cached_property
    def called(self) -> set[tuple[str, int]]:
        """What the webhook sink saw: (job id, attempt)."""
        return {(call.begun.value["id"], call.begun.value["attempt"]) for call in calls(self.history, "webhook")}


def calls(history: list[Operation], f: str | None = None, process: str | None = None) -> list[Call]:
    """Invokes joined with their completions, in order of invocation."""
    completions = {each.op: each for each in history if each.type != "invoke"}
    wanted = (e for e in history if e.type == "invoke" and f in {None, e.f} and process in {None, e.process})
    return [Call(each, completions.get(each.op)) for each in wanted]


def logical(invoke: Operation) -> str:
    """What the client meant as one job: its idempotency key, or else the single call."""
    return str(invoke.value.get("idempotency_key") or f"op {invoke.op}")


def _close(runs: list[Execution], effect: Effect) -> None:
    for at in range(len(runs) - 1, -1, -1):
        run = runs[at]
        if run.event is None and (run.attempt, run.pid) == (effect.attempt, effect.pid):
            runs[at] = msgspec.structs.replace(run, event=effect.event, close_ns=effect.time_ns)
            return


def _overloads(submits: list[Call]) -> list[Window]:
    """One window for each series of refusals (429) that no second without any interrupts."""
    refused = sorted(c.done.time_ns for c in submits if c.done and c.type == "fail" and _is_refusal(c.done))
    found: list[Window] = []
    for at in refused:
        if found and at - (found[-1].healed_ns or 0) < SECOND:
            found[-1] = msgspec.structs.replace(found[-1], healed_ns=at)
        else:
            found.append(Window("overload", API, None, at, at, at))
    return found


def _is_refusal(done: Operation) -> bool:
    return (done.error or "").startswith("429")


def _window(call: Call, heals: list[Call]) -> Window:
    done = call.done or call.begun
    value = done.value
    healed = (
        heal.done.time_ns
        for heal in heals
        if heal.done
        and heal.begun.time_ns >= call.begun.time_ns
        and (heal.begun.value["fault"], heal.begun.value["target"]) == (call.begun.f, value["target"])
    )
    begun_ns, done_ns = call.begun.time_ns, done.time_ns
    return Window(call.begun.f, Aim(value["target"]), value.get("pid"), begun_ns, done_ns, next(healed, None))
