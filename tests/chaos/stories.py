"""Hand-made runs, told event by event in seconds: the smallest history that shows what a check must see."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.record.aim import worker
from chaos.record.history import (
    NEMESIS,
    SECOND,
    Effect,
    Event,
    Final,
    Kind,
    Operation,
    Run,
    Sample,
    Status,
    Stores,
)
from chaos.record.plan import Guards, Manifest, Phase, Planned, Settings

A, B = 101, 102  # pids of two workers


class Story:
    """Collects what happened; `run` is the value that checks judge. Lease 5 s, back-off 2 s, 4 attempts."""

    def __init__(self, guards: Guards | None = None) -> None:
        self.guards = guards or Guards(faults=0, overlap=False)
        self.history: list[Operation] = []
        self.effects: list[Effect] = []
        self.finals: list[Final] = []
        self.samples: list[Sample] = []
        self.stores = Stores(stream=0, pending=0, retry=0, dlq=[])
        self.troubles: list[str] = []
        self.deaths: list[str] = []
        self._ops = 0

    def submit(
        self, job: str, job_type: str = "NOOP", *, key: str | None = None, kind: Kind = "ok", at: float = 0
    ) -> Story:
        value = {"type": job_type, "payload": {}, "idempotency_key": key or f"key-{job}"}
        answer = {"id": job, "status": "PENDING"} if kind == "ok" else value
        return self._pair("client", "submit", value, kind, answer, at, at + 0.01)

    def refused(self, job: str, *, at: float) -> Story:
        value = {"type": "NOOP", "payload": {}, "idempotency_key": f"key-{job}"}
        return self._pair("client", "submit", value, "fail", None, at, at, error="429 backlog full")

    def start(self, job: str, attempt: int = 1, *, at: float, pid: int = A, job_type: str = "NOOP") -> Story:
        return self._effect(job, attempt, "start", at, pid, job_type)

    def end(self, job: str, attempt: int = 1, *, at: float, pid: int = A, job_type: str = "NOOP") -> Story:
        return self._effect(job, attempt, "end", at, pid, job_type)

    def error(self, job: str, attempt: int = 1, *, at: float, pid: int = A, job_type: str = "NOOP") -> Story:
        return self._effect(job, attempt, "error", at, pid, job_type)

    def ran(self, job: str, attempt: int = 1, *, at: float = 1, pid: int = A) -> Story:
        return self.start(job, attempt, at=at, pid=pid).end(job, attempt, at=at + 0.1, pid=pid)

    def failed(self, job: str, attempt: int = 1, *, at: float, pid: int = A) -> Story:
        return self.start(job, attempt, at=at, pid=pid).error(job, attempt, at=at + 0.1, pid=pid)

    def final(self, job: str, status: Status = "COMPLETED", attempt: int = 1, **more: Any) -> Story:
        self.finals.append(
            Final(id=job, type=more.pop("type", "NOOP"), status=status, attempt=attempt, max_attempts=4, **more)
        )
        return self

    def done(self, job: str) -> Story:
        """The whole life of a job that nothing disturbs."""
        return self.submit(job).ran(job).final(job)

    def fault(self, name: str, target: str, *, at: float, pid: int | None = None, heal: float | None = None) -> Story:
        value: dict[str, Any] = {"target": target}
        self._pair(NEMESIS, name, value, "ok", {**value, "pid": pid}, at, at + 0.01)
        if heal is not None:
            value = {"fault": name, "target": target}
            self._pair(NEMESIS, "heal", value, "ok", value, heal, heal + 0.01)
        return self

    def observe(self, *finished: tuple[str, str, int], at: float = 5) -> Story:
        return self._pair("observer", "observe", {}, "ok", {"finished": [list(each) for each in finished]}, at, at)

    def call(self, job: str, attempt: int = 1, *, at: float = 1) -> Story:
        value = {"id": job, "attempt": attempt}
        return self._pair("sink", "webhook", value, "ok", value, at, at)

    def died(self, process: str) -> Story:
        self.deaths.append(f"{process} ended by itself with 1")
        return self

    def letters(self, *jobs: str) -> Story:
        self.stores = msgspec.structs.replace(self.stores, dlq=list(jobs))
        return self

    def left(self, **counts: int | list[int] | None) -> Story:
        self.stores = msgspec.structs.replace(self.stores, **counts)
        return self

    def sample(self, *, at: float, stream: int, pending: int) -> Story:
        self.samples.append(Sample(time_ns=_ns(at), stream=stream, pending=pending))
        return self

    @property
    def run(self) -> Run:
        history = sorted(self.history, key=lambda each: each.time_ns)
        manifest = Manifest(
            run="story",
            scenario="story",
            seed=1,
            settings=Settings(),
            schedule=[Planned(0, "kill", worker(1), 1)],
            phases=[Phase("drain", _ns(50), _ns(60))],
            guards=self.guards,
            troubles=self.troubles,
            deaths=self.deaths,
        )
        return Run(manifest, history, self.effects, self.finals, self.samples, self.stores)

    def _effect(self, job: str, attempt: int, event: Event, at: float, pid: int, job_type: str) -> Story:
        self.effects.append(Effect(job, attempt, event, _ns(at), pid, job_type))
        return self

    def _pair(
        self,
        process: str,
        f: str,
        value: Any,
        kind: Kind,
        answer: Any,
        begun: float,
        done: float,
        error: str = "timeout",
    ) -> Story:
        op, self._ops = self._ops, self._ops + 1
        told = None if kind == "ok" else error
        self.history.append(Operation(2 * op, op, process, "invoke", f, value, _ns(begun)))
        self.history.append(Operation(2 * op + 1, op, process, kind, f, answer, _ns(done), told))
        return self


def _ns(seconds: float) -> int:
    return round(seconds * SECOND)
