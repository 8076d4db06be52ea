"""A run folder as the harness writes it, from a small simulation: the same seed gives the same bytes.

1,000 jobs by a Poisson process on two workers; a worker is killed mid-job, both workers are cut from Redis
for five seconds, flaky jobs retry, always-failing ones end in the dead letters. `lost` jobs are accepted and
never heard of again, which makes the verdict invalid. No server, no clock, no sleep.

`python -m tests.notebooks.synthetic FOLDER [SEED] [LOST]` writes one to look at.
"""

from __future__ import annotations

import heapq
import random
import sys
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.judge import judge
from chaos.record.aim import Aim
from chaos.record.history import Attempt, Status
from chaos.record.plan import Manifest, Phase, Planned, Settings
from tests.stories import Story

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
    status: Status = "PENDING"


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

    def at(self, when: float, event: str, subject: Any) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (when, self.sequence, event, subject))

    def run(self) -> list[Job]:
        while self.events:
            now, _, event, subject = heapq.heappop(self.events)
            getattr(self, f"_{event}")(now, subject)
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
        (job_type,) = self.rng.choices(list(MIX), list(MIX.values()))
        payload: dict[str, Any] = {}
        if job_type == "SLEEP":
            payload = {"seconds": round(self.rng.uniform(0.1, 1.0), 3)}
        elif job_type == "FLAKY":
            payload = {"failures": self.rng.choice((1, 1, 1, 2))}
        job_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        return Job(number, job_id, job_type, payload, at, self._ack(at))

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
    """Simulate, judge, and write a whole run folder; returns it."""
    story = Story(manifest=_manifest(folder.name, seed, jobs))
    done = Simulation(seed, jobs, lost).run()
    _tell_faults(story)
    _tell_submits(story, done, random.Random(seed + 1))
    for job in done:
        _tell_job(story, job)
    _tell_samples(story, done)
    story.effects.sort(key=lambda each: each.time_ns)
    story.letters(*(job.id for job in done if job.status == "FAILED"))
    written = story.write(folder)
    written.write(written.verdict, judge(story.run))
    return folder


def _tell_faults(story: Story) -> None:
    story.fault("kill", "worker-1", at=KILL_AT - 0.004, until=KILL_AT + 0.002, pid=4101)
    story.heal("kill", "worker-1", at=RESTART_AT - 0.3, until=RESTART_AT)
    story.fault("partition.hold", "worker-redis", at=CUT_AT - 0.02, until=CUT_AT)
    story.heal("partition.hold", "worker-redis", at=CUT_UNTIL - 0.01, until=CUT_UNTIL)


def _tell_submits(story: Story, jobs: list[Job], rng: random.Random) -> None:
    """Some are refused first, and some cut off by the fault: those are sent again by another client."""
    for job in jobs:
        body: dict[str, Any] = {"key": f"synthetic-{job.number}", "payload": job.payload, "intended": job.intended}
        client, at = f"locust-{job.number % 50}", job.intended
        if job.number % 97 == 0:
            refusal = "429 Backlog full"
            story.submit(job.id, job.type, **body, told="fail", at=at, until=at + 0.002, process=client, error=refusal)
            at += 0.102
        elif CUT_AT <= job.intended < CUT_AT + 0.5 and job.number % 3 == 0:
            story.submit(
                job.id, job.type, **body, told="info", at=at, until=at + 1.0, process=client, error="TimeoutError: 1 s"
            )
            client, at = f"locust-{1000 + job.number}", at + 1.1
        accepted = max(job.accepted, at + rng.lognormvariate(-5.4, 0.4) if at > job.intended else 0)
        story.submit(job.id, job.type, **body, at=at + rng.uniform(0, 0.0004), until=accepted, process=client)


def _tell_job(story: Story, job: Job) -> None:
    """What its bodies wrote, and the API's last word on it."""
    error = f"RuntimeError: {job.type} fails"
    for each in job.executions:
        story.start(job.id, each.attempt, at=each.start, pid=each.pid, job_type=job.type)
        if each.end is not None:
            close = story.end if each.ok else story.error
            close(job.id, each.attempt, at=each.end, pid=each.pid, job_type=job.type)
    story.final(
        job.id,
        job.status,
        len(job.executions),
        type=job.type,
        max_attempts=MAX_ATTEMPTS,
        created_at=_wall(job.accepted - 0.001),
        run_at=_wall(job.accepted - 0.001),
        started_at=_wall(job.executions[-1].start) if job.executions else None,
        finished_at=_wall(job.finished) if job.finished is not None else None,
        error=error if job.status == "FAILED" else None,
        attempts=[
            Attempt(each.attempt, "FAILED", _wall(each.start), _wall(each.end), error)
            for each in job.executions
            if each.end is not None and not each.ok
        ],
    )


def _tell_samples(story: Story, jobs: list[Job]) -> None:
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
        story.sample(at=at, unfinished=len(there), processing=running, workers=workers, **redis)


def _until(job: Job, execution: Execution) -> float:
    """A killed execution stays PROCESSING until the rescue, that is until the next one starts."""
    if execution.end is not None:
        return execution.end
    later = [each.start for each in job.executions if each.attempt > execution.attempt]
    return min(later, default=CUTOFF)


def _manifest(run: str, seed: int, jobs: int) -> Manifest:
    return Manifest(
        run=run,
        scenario="synthetic",
        seed=seed,
        started_at=_wall(0),
        finished_at=_wall(CUTOFF + 0.4),
        wall_origin=WALL_ORIGIN,
        mono_origin_ns=MONO_ORIGIN_NS,
        versions={"python": "3.13.0", "scheduler": "0.1.0", "redis": "7.0.15", "postgres": "18.0"},
        settings=Settings(
            lease_seconds=LEASE,
            max_attempts=MAX_ATTEMPTS,
            backoff_base_seconds=BASE,
            concurrency=SLOTS,
            workers=2,
            jobs=jobs,
            duration=20,
        ),
        schedule=[
            Planned(8.3, "kill", Aim("worker-1"), 0.7),
            Planned(13.0, "partition.hold", Aim("worker-redis"), 5.0),
        ],
        phases=[
            Phase("steady", _ns(0), _ns(8)),
            Phase("inject", _ns(8), _ns(18)),
            Phase("heal", _ns(18), _ns(20)),
            Phase("drain", _ns(20), _ns(CUTOFF)),
            Phase("judge", _ns(CUTOFF), _ns(CUTOFF + 0.4)),
        ],
        machine={"cpus": 2, "memory_bytes": 8_000_000_000, "platform": "Linux", "python": "3.13.0"},
    )


def _ns(seconds: float) -> int:
    return MONO_ORIGIN_NS + round(seconds * 1e9)


def _wall(seconds: float) -> str:
    return datetime.fromtimestamp(WALL_ORIGIN + seconds, UTC).isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    write(Path(sys.argv[1]), **dict(zip(("seed", "lost"), numbers, strict=False)))
