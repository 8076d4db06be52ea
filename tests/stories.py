"""Hand-made runs, told event by event in seconds: the smallest history that shows what a check or a chart must see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from chaos.record.aim import worker
from chaos.record.history import NEMESIS, SECOND, Effect, Event, Final, Kind, Operation, Run, Sample, Status, Stores
from chaos.record.plan import Guards, Manifest, Phase, Planned
from chaos.record.recorder import write_records
from chaos.record.runs import Folder

A, B = 101, 102  # pids of two workers
SHORT = 0.01  # seconds that an operation takes unless a story says otherwise


class Story:
    """Collects what happened; `run` is the value that checks judge. Lease 5 s, back-off 2 s, 4 attempts."""

    def __init__(self, guards: Guards | None = None, manifest: Manifest | None = None) -> None:
        self.manifest = manifest or Manifest(
            run="story",
            scenario="story",
            seed=1,
            schedule=[Planned(0, "kill", worker(1), 1)],
            phases=[Phase("drain", 50 * SECOND, 60 * SECOND)],
            guards=guards or Guards(faults=0, overlap=False),
            troubles=[],
            deaths=[],
        )
        self.history: list[Operation] = []
        self.effects: list[Effect] = []
        self.finals: list[Final] = []
        self.samples: list[Sample] = []
        self.stores = Stores(stream=0, pending=0, retry=0, dlq=[])

    # -- what clients do

    def submit(
        self,
        job: str,
        job_type: str = "NOOP",
        *,
        key: str | None = None,
        payload: dict[str, Any] | None = None,
        told: Kind | None = "ok",
        at: float = 0,
        until: float | None = None,
        intended: float | None = None,
        process: str = "client",
        error: str = "timeout",
    ) -> Story:
        """One try to submit the job; `told` None: it was never answered."""
        value: dict[str, Any] = {"type": job_type, "payload": payload or {}, "idempotency_key": key or f"key-{job}"}
        if intended is not None:
            value["intended_ns"] = self._ns(intended)
        answer = {"id": job, "status": "PENDING"} if told == "ok" else value
        return self._pair(process, "submit", value, answer, at, until, told, error)

    def refused(self, job: str, *, at: float) -> Story:
        """The backlog was full."""
        return self.submit(job, told="fail", at=at, error="429 backlog full")

    def cancel(self, job: str, *, at: float, told: Kind | None = "ok") -> Story:
        """The client asks for its cancelling."""
        return self._pair("client", "cancel", {"id": job}, {"id": job, "status": "CANCELLED"}, at, None, told)

    # -- what bodies write

    def start(self, job: str, attempt: int = 1, *, at: float, pid: int = A, job_type: str = "NOOP") -> Story:
        """The body begins."""
        return self._effect(job, attempt, "start", at, pid, job_type)

    def end(self, job: str, attempt: int = 1, *, at: float, pid: int = A, job_type: str = "NOOP") -> Story:
        """The body has done its work."""
        return self._effect(job, attempt, "end", at, pid, job_type)

    def error(self, job: str, attempt: int = 1, *, at: float, pid: int = A, job_type: str = "NOOP") -> Story:
        """The body fails."""
        return self._effect(job, attempt, "error", at, pid, job_type)

    def ran(self, job: str, attempt: int = 1, *, at: float = 1, pid: int = A) -> Story:
        """A body of 0.1 s that does its work."""
        return self.start(job, attempt, at=at, pid=pid).end(job, attempt, at=at + 0.1, pid=pid)

    def failed(self, job: str, attempt: int = 1, *, at: float, pid: int = A) -> Story:
        """A body that fails after 0.1 s."""
        return self.start(job, attempt, at=at, pid=pid).error(job, attempt, at=at + 0.1, pid=pid)

    def call(self, job: str, attempt: int = 1, *, at: float = 1) -> Story:
        """The webhook sink is called by a body."""
        value = {"id": job, "attempt": attempt}
        return self._pair("sink", "webhook", value, value, at, at)

    # -- what the scheduler says

    def final(self, job: str, status: Status = "COMPLETED", attempt: int = 1, **more: Any) -> Story:
        """The job as the API tells it after the drain."""
        more = {"type": "NOOP", "max_attempts": 4, **more}
        self.finals.append(Final(id=job, status=status, attempt=attempt, **more))
        return self

    def done(self, job: str) -> Story:
        """The whole life of a job that nothing disturbs."""
        return self.submit(job).ran(job).final(job)

    def observe(self, *finished: tuple[str, str, int], at: float = 5) -> Story:
        """Jobs are seen to be final, as (id, status, attempt)."""
        return self._pair("observer", "observe", {}, {"finished": [list(each) for each in finished]}, at, at)

    def letters(self, *jobs: str) -> Story:
        """The dead-letter stream holds these."""
        return self.left(dlq=list(jobs))

    def left(self, **counts: Any) -> Story:
        """What Redis holds after the drain."""
        self.stores = msgspec.structs.replace(self.stores, **counts)
        return self

    def sample(self, *, at: float, **counts: int | None) -> Story:
        """The stores at one moment."""
        self.samples.append(Sample(self._ns(at), **counts))
        return self

    # -- what breaks

    def fault(
        self,
        name: str,
        target: str,
        *,
        at: float,
        until: float | None = None,
        pid: int | None = None,
        heal: float | None = None,
    ) -> Story:
        """A fault sets in between `at` and `until`, and is healed from `heal` on."""
        self._pair(NEMESIS, name, {"target": target}, {"target": target, "pid": pid}, at, until)
        return self if heal is None else self.heal(name, target, at=heal)

    def heal(self, name: str, target: str, *, at: float, until: float | None = None) -> Story:
        """A fault is healed between the two moments."""
        value = {"fault": name, "target": target}
        return self._pair(NEMESIS, "heal", value, value, at, until)

    def died(self, process: str) -> Story:
        """A process ended that no fault was aimed at."""
        self.manifest.deaths.append(f"{process} ended by itself with 1")
        return self

    # -- the whole

    @property
    def run(self) -> Run:
        """All of it, the history in order of time."""
        history = sorted(self.history, key=lambda each: each.time_ns)
        told = [msgspec.structs.replace(each, index=index) for index, each in enumerate(history)]
        return Run(self.manifest, told, self.effects, self.finals, self.samples, self.stores)

    def write(self, path: Path) -> Folder:
        """The folder that such a run leaves before it is judged."""
        path.mkdir(parents=True, exist_ok=True)
        folder, run = Folder(path), self.run
        folder.write(folder.manifest, run.manifest)
        folder.write(folder.stores, run.stores)
        write_records(folder.history, run.history)
        write_records(folder.effects, run.effects)
        write_records(folder.finals, run.finals)
        write_records(folder.samples, run.samples)
        return folder

    def _effect(self, job: str, attempt: int, event: Event, at: float, pid: int, job_type: str) -> Story:
        self.effects.append(Effect(job, attempt, event, self._ns(at), pid, job_type))
        return self

    def _pair(
        self,
        process: str,
        f: str,
        value: Any,
        answer: Any,
        begun: float,
        done: float | None,
        told: Kind | None = "ok",
        error: str | None = None,
    ) -> Story:
        op, until = len(self.history), begun + SHORT if done is None else done
        self.history.append(Operation(0, op, process, "invoke", f, value, self._ns(begun)))
        if told:
            error = None if told == "ok" else error
            self.history.append(Operation(0, op, process, told, f, answer, self._ns(until), error))
        return self

    def _ns(self, seconds: float) -> int:
        return self.manifest.mono_origin_ns + round(seconds * SECOND)
