"""A run folder as the harness writes it, from a small simulation: the same seed gives the same bytes.

1,000 jobs by a Poisson process on two workers; a worker is killed mid-job, both workers are cut from Redis
for five seconds, flaky jobs retry, always-failing ones end in the dead letters. `lost` jobs are accepted and
never heard of again, which makes the verdict invalid. No server, no clock, no sleep.

`python -m tests.notebooks.synthetic FOLDER [SEED] [LOST]` writes one to look at.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MONO_ORIGIN_NS = 5_000_000_000_000
WALL_ORIGIN = 1_789_000_000.0
LEASE, BASE, MAX_ATTEMPTS, SLOTS = 5.0, 2.0, 4, 8
KILL_AT, RESTART_AT, CUT_AT, CUT_UNTIL = 8.304, 9.02, 13.0, 18.0
RATE, FIRST, CUTOFF = 50.0, 1.0, 37.0
MIX = {"NOOP": 55, "SLEEP": 20, "WEBHOOK": 10, "FLAKY": 10, "FAIL": 5}


@dataclass(eq=False)
class Execution:
    """One attempt on one worker process, as its job body saw it."""

    attempt: int
    pid: int
    start: float
    end: float | None = None
    ok: bool = False


@dataclass(eq=False)
class Job:
    """One submitted job and what becomes of it."""

    number: int
    id: str
    type: str
    payload: dict[str, Any]
    intended: float
    accepted: float = 0.0
    executions: list[Execution] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    finished: float | None = None
    status: str = "PENDING"


class Simulation:
    """Two workers, a stream, retries and a rescuer, by a heap of events."""

    def __init__(self, seed: int, jobs: int, lost: int) -> None:
        self.rng = random.Random(seed)
        self.events: list[tuple[float, int, str, Any]] = []
        self.ready: deque[Job] = deque()
        self.running: dict[int, set[Job]] = {4101: set(), 4102: set()}
        self.sequence = 0
        self.jobs = [self._job(number, at) for number, at in enumerate(self._arrivals(jobs), 1)]
        self.lost = {job.id for job in self.rng.sample(self.jobs[len(self.jobs) // 3 :], lost)}
        for job in self.jobs:
            self.at(job.accepted + self.rng.uniform(0.001, 0.004), "publish", job)
        self.at(KILL_AT, "kill", 4101)
        self.at(RESTART_AT, "restart", 4107)
        self.at(CUT_UNTIL + 0.12, "heal", None)

    def at(self, when: float, kind: str, subject: Any) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (when, self.sequence, kind, subject))

    def run(self) -> list[Job]:
        while self.events:
            now, _, kind, subject = heapq.heappop(self.events)
            getattr(self, f"_{kind}")(now, subject)
            if not CUT_AT <= now < CUT_UNTIL:
                self._claim(now)
        return self.jobs

    def _arrivals(self, jobs: int) -> list[float]:
        at, arrivals = FIRST, []
        for _ in range(jobs):
            at += self.rng.expovariate(RATE)
            arrivals.append(at)
        return arrivals

    def _job(self, number: int, at: float) -> Job:
        (kind,) = self.rng.choices(list(MIX), list(MIX.values()))
        payload: dict[str, Any] = {}
        if kind == "SLEEP":
            payload = {"seconds": round(self.rng.uniform(0.1, 1.0), 3)}
        elif kind == "FLAKY":
            payload = {"failures": self.rng.choice((1, 1, 1, 2))}
        return Job(number, str(uuid.UUID(int=self.rng.getrandbits(128), version=4)), kind, payload, at, self._ack(at))

    def _ack(self, at: float) -> float:
        slow = self.rng.uniform(0.03, 0.25) if CUT_AT <= at < CUT_AT + 0.6 else 0.0
        return at + self.rng.lognormvariate(-5.4, 0.45) + slow

    def _publish(self, _now: float, job: Job) -> None:
        if job.id not in self.lost:
            self.ready.append(job)

    def _claim(self, now: float) -> None:
        while self.ready:
            pid = min(self.running, key=lambda each: len(self.running[each]))
            if len(self.running[pid]) >= SLOTS:
                return
            job = self.ready.popleft()
            start = now + self.rng.uniform(0.001, 0.006)
            execution = Execution(len(job.executions) + 1, pid, start)
            job.executions.append(execution)
            job.status = "PROCESSING"
            self.running[pid].add(job)
            self.at(start + self._seconds(job), "end", (job, execution))

    def _seconds(self, job: Job) -> float:
        if job.type == "SLEEP":
            return float(job.payload["seconds"]) + 0.001
        return self.rng.uniform(0.02, 0.08) if job.type == "WEBHOOK" else self.rng.uniform(0.001, 0.005)

    def _end(self, now: float, subject: tuple[Job, Execution]) -> None:
        job, execution = subject
        if job not in self.running.get(execution.pid, ()):
            return
        self.running[execution.pid].discard(job)
        failures = {"FLAKY": job.payload.get("failures", 0), "FAIL": 99}.get(job.type, 0)
        execution.end, execution.ok = now, execution.attempt > failures
        settled = now + self.rng.uniform(0.002, 0.012)
        if execution.ok or execution.attempt == MAX_ATTEMPTS:
            job.finished, job.status = settled, "COMPLETED" if execution.ok else "FAILED"
            return
        due = settled + BASE * 2 ** (execution.attempt - 1) + self.rng.uniform(0.005, 0.12)
        if CUT_AT <= due < CUT_UNTIL:
            due = CUT_UNTIL + self.rng.uniform(0.1, 0.3)
        job.status = "PENDING"
        job.waits.append((settled, due))
        self.at(due, "publish", job)

    def _kill(self, now: float, pid: int) -> None:
        for job in sorted(self.running.pop(pid), key=lambda each: each.number):
            self.at(now + LEASE - self.rng.uniform(0.35, 0.9), "publish", job)

    def _restart(self, _now: float, pid: int) -> None:
        self.running[pid] = set()

    def _heal(self, _now: float, _subject: None) -> None:
        """Only there so that somebody claims at once after the cut."""


def write(folder: Path, *, seed: int = 7, jobs: int = 1000, lost: int = 0) -> Path:
    """Simulate and write a whole run folder; returns it."""
    done = Simulation(seed, jobs, lost).run()
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed + 1)
    _lines(folder / "history.jsonl", _history(done, rng))
    _lines(folder / "effects.jsonl", _effects(done))
    _lines(folder / "finals.jsonl", [_final(job) for job in done])
    _lines(folder / "samples.jsonl", _samples(done))
    dead = [job.id for job in done if job.status == "FAILED"]
    _document(folder / "stores.json", {"stream": 0, "pending": 0, "retry": 0, "dlq": dead})
    _document(folder / "manifest.json", _manifest(folder, seed, jobs))
    _document(folder / "verdict.json", _verdict(done, [job.id for job in done if job.finished is None]))
    return folder


def _history(jobs: list[Job], rng: random.Random) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    def pair(op: int, process: str, f: str, begun: Any, done: Any, at: float, until: float, **kind: Any) -> None:
        one = {"op": op, "process": process, "f": f}
        lines.append({**one, "type": "invoke", "value": begun, "time_ns": _ns(at), "error": None})
        lines.append({**one, "type": "ok", "value": done, "time_ns": _ns(until), "error": None, **kind})

    for op, (name, target, at, until, extra) in enumerate(_faults()):
        begun = {"target": target, **extra} if name != "heal" else extra | {"target": target}
        pair(op, "nemesis", name, begun, begun, at, until)
    for job in jobs:
        value = {
            "type": job.type,
            "payload": job.payload,
            "idempotency_key": f"synthetic-{job.number}",
            "intended_ns": _ns(job.intended),
        }
        op, process, at = 1_000_000 + 2 * job.number, f"locust-{job.number % 50}", job.intended
        if job.number % 97 == 0:
            until = at + 0.002
            pair(op, process, "submit", value, value, at, until, type="fail", error="429 Backlog full")
            at = until + 0.1
        elif CUT_AT <= job.intended < CUT_AT + 0.5 and job.number % 3 == 0:
            pair(op, process, "submit", value, value, at, at + 1.0, type="info", error="TimeoutError: 1 s")
            process, at = f"locust-{1000 + job.number}", at + 1.1
        accepted = max(job.accepted, at + rng.lognormvariate(-5.4, 0.4) if at > job.intended else 0)
        answer = {"id": job.id, "status": "PENDING"}
        pair(op + 1, process, "submit", value, answer, at + rng.uniform(0, 0.0004), accepted)
    lines.sort(key=lambda line: (line["time_ns"], line["op"]))
    return [{"index": index, **line} for index, line in enumerate(lines)]


def _faults() -> list[tuple[str, str, float, float, dict[str, Any]]]:
    cut = {"fault": "partition.hold"}
    return [
        ("kill", "worker-1", KILL_AT - 0.004, KILL_AT + 0.002, {"pid": 4101}),
        ("heal", "worker-1", RESTART_AT - 0.3, RESTART_AT, {"fault": "kill"}),
        ("partition.hold", "worker-redis", CUT_AT - 0.02, CUT_AT, {}),
        ("heal", "worker-redis", CUT_UNTIL - 0.01, CUT_UNTIL, cut),
    ]


def _effects(jobs: list[Job]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for job in jobs:
        for each in job.executions:
            line = {"job_id": job.id, "attempt": each.attempt, "pid": each.pid, "type": job.type}
            lines.append({**line, "event": "start", "time_ns": _ns(each.start)})
            if each.end is not None:
                lines.append({**line, "event": "end" if each.ok else "error", "time_ns": _ns(each.end)})
    return sorted(lines, key=lambda line: int(line["time_ns"]))


def _final(job: Job) -> dict[str, Any]:
    failed = [each for each in job.executions if not each.ok and each.end is not None]
    error = f"RuntimeError: {job.type} fails" if job.status == "FAILED" else None
    return {
        "id": job.id,
        "type": job.type,
        "status": job.status,
        "attempt": len(job.executions),
        "max_attempts": MAX_ATTEMPTS,
        "created_at": _wall(job.accepted - 0.001),
        "run_at": _wall(job.accepted - 0.001),
        "started_at": _wall(job.executions[-1].start) if job.executions else None,
        "finished_at": _wall(job.finished) if job.finished is not None else None,
        "result": None,
        "error": error,
        "attempts": [
            {
                "attempt": each.attempt,
                "status": "FAILED",
                "started_at": _wall(each.start),
                "finished_at": _wall(each.end or each.start),
                "error": f"RuntimeError: {job.type} fails",
            }
            for each in failed
        ],
    }


def _samples(jobs: list[Job]) -> list[dict[str, Any]]:
    samples = []
    for tick in range(int(CUTOFF * 4)):
        at = tick / 4
        there = [job for job in jobs if job.accepted <= at and (job.finished is None or job.finished > at)]
        running = sum(any(e.start <= at and _until(job, e) > at for e in job.executions) for job in there)
        retry = sum(any(begin <= at < end for begin, end in job.waits) for job in there)
        stuck = sum(not job.executions and job.finished is None for job in there)
        redis: dict[str, int | None] = {
            "stream": len(there) - retry - stuck,
            "pending": running,
            "retry": retry,
            "dlq": sum(job.status == "FAILED" and (job.finished or at) <= at for job in jobs),
        }
        if CUT_AT <= at < CUT_AT + 0.5:
            redis = dict.fromkeys(redis)
        workers = 2 if at < KILL_AT or at >= RESTART_AT else 1
        samples.append(
            {"time_ns": _ns(at), "unfinished": len(there), "processing": running, **redis, "workers": workers}
        )
    return samples


def _until(job: Job, execution: Execution) -> float:
    """A killed execution stays PROCESSING until the rescue, that is until the next one starts."""
    if execution.end is not None:
        return execution.end
    later = [each.start for each in job.executions if each.attempt > execution.attempt]
    return min(later, default=CUTOFF)


def _manifest(folder: Path, seed: int, jobs: int) -> dict[str, Any]:
    bounds = {
        "steady": (0, 8),
        "inject": (8, 18),
        "heal": (18, 20),
        "drain": (20, CUTOFF),
        "judge": (CUTOFF, CUTOFF + 0.4),
    }
    return {
        "run": folder.name,
        "scenario": "synthetic",
        "seed": seed,
        "started_at": _wall(0),
        "finished_at": _wall(CUTOFF + 0.4),
        "wall_origin": WALL_ORIGIN,
        "mono_origin_ns": MONO_ORIGIN_NS,
        "versions": {"python": "3.13.0", "scheduler": "0.1.0", "redis": "7.0.15", "postgres": "18.0"},
        "settings": {
            "lease_seconds": LEASE,
            "max_attempts": MAX_ATTEMPTS,
            "backoff_base_seconds": BASE,
            "concurrency": SLOTS,
            "workers": 2,
            "jobs": jobs,
            "duration": 20,
        },
        "schedule": [
            {"at": 8.3, "fault": "kill", "target": "worker-1", "seconds": 0.7, "arguments": {}},
            {
                "at": 13.0,
                "fault": "partition.hold",
                "target": "worker-redis",
                "seconds": 5.0,
                "arguments": {},
            },
        ],
        "phases": [{"name": name, "start_ns": _ns(start), "end_ns": _ns(end)} for name, (start, end) in bounds.items()],
        "machine": {"cpus": 2, "memory_bytes": 8_000_000_000, "platform": "Linux", "python": "3.13.0"},
        "commit": None,
    }


def _verdict(jobs: list[Job], lost: list[str]) -> dict[str, Any]:
    accepted, dead = len(jobs), sum(job.status == "FAILED" for job in jobs)
    redelivered = sum(each.end is None for job in jobs for each in job.executions)
    gone = f"{len(lost)} of {accepted:,} accepted jobs never ran" if lost else f"all {accepted:,} accepted jobs ran"
    checks = [
        ("at-least-once", "invalid" if lost else "valid", gone, lost),
        ("no phantom", "valid", "no effect without a submit", []),
        ("fencing", "valid", f"{redelivered} jobs were redelivered, none settled by a stale attempt", []),
        ("status = effect", "valid", "every final status agrees with the ledger", []),
        (
            "terminal",
            "invalid" if lost else "valid",
            f"{accepted - len(lost):,} of {accepted:,} are final",
            lost,
        ),
        ("retry schedule", "valid", "no retry started before 2, 4 or 8 s had passed", []),
        ("DLQ exact", "valid", f"{dead} dead letters, each once, and nothing else", []),
        ("Redis empty", "valid", "stream, pending and retries empty 0.4 s after the drain", []),
    ]
    sentence = (
        f"{len(lost)} accepted jobs were lost: never run, never final."
        if lost
        else f"A worker's death and a 5 s cut from Redis delayed jobs, and lost none of {accepted:,}."
    )
    return {
        "verdict": "invalid" if lost else "valid",
        "checks": [
            {"name": name, "verdict": verdict, "summary": summary, "details": {}, "examples": examples[:5]}
            for name, verdict, summary, examples in checks
        ],
        "faults": 2,
        "jobs": accepted,
        "sentence": sentence,
    }


def _ns(seconds: float) -> int:
    return MONO_ORIGIN_NS + round(seconds * 1e9)


def _wall(seconds: float) -> str:
    return datetime.fromtimestamp(WALL_ORIGIN + seconds, UTC).isoformat().replace("+00:00", "Z")


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _document(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    write(Path(sys.argv[1]), **dict(zip(("seed", "lost"), numbers, strict=False)))
