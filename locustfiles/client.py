"""What every profile does with one job: submit it until accepted, then wait for its final status.

Owns the classification of answers (ok, fail, info), the retries with the same idempotency key and the
end-to-end event in Locust's statistics. It never judges. Locust has patched the standard library for gevent
by the time it reads this file; a driver written in C (psycopg) must not be imported here.
"""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import FastHttpUser

from chaos.load.mix import Job
from locustfiles.history import Completion
from locustfiles.profile import Test

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
WAIT_SECONDS = 5.0
NEVER_SENT = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)


class NotFinal(Exception):
    """The job had no final status when the wait for it ended: no loss, the record says what became of it."""


class UnexpectedStatus(Exception):
    """The job ended with another status than its type promises."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to. `status_code` is 0 when there was no response."""

    kind: Completion = "info"
    status_code: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = "interrupted"
    retry_after: float = 0.0

    @property
    def retryable(self) -> bool:
        """Unknown, refused or asked to come back; any other 4xx would only be refused again."""
        return self.kind == "info" or self.status_code in (0, 429)


class JobUser(FastHttpUser):
    """A Locust user that can see one job through. Profiles subclass it."""

    abstract = True
    concurrency = 1
    connection_timeout = 5.0
    network_timeout = WAIT_SECONDS + 10.0

    def see_through(self, test: Test, job: Job, intended_ns: int) -> None:
        """Submit `job` and follow it to its final status; latencies count from `intended_ns` (monotonic)."""
        try:
            Follow(self, test, job, intended_ns).run()
        finally:
            test.open -= 1


class Follow:
    """One job on its way: submit, retry, wait, report."""

    def __init__(self, user: JobUser, test: Test, job: Job, intended_ns: int) -> None:
        self._user, self._test, self._job, self._intended_ns = user, test, job, intended_ns
        self._history = test.history
        self._process = 0
        self._give_up = time.monotonic() + test.settings.job_seconds
        self._rng = random.Random(job.idempotency_key)
        key = test.settings.api_key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def run(self) -> None:
        self._process = self._history.processes.acquire()
        job_id, status = None, None
        try:
            job_id = self._submit()
            status = job_id and self._await_final(job_id)
        finally:
            self._history.processes.release(self._process)
            self._report(job_id, status)

    def _submit(self) -> str | None:
        tries = 0
        while True:
            answer = self._submit_once()
            if answer.kind == "ok":
                self._test.submit_seconds.append(self._seconds())
                return str(answer.body["id"])
            tries += 1
            if not answer.retryable or not self._pause(answer.retry_after or self._backoff(tries)):
                return None

    def _submit_once(self) -> Answer:
        value = {**self._job.body(), "intended_ns": self._intended_ns}
        headers = {**self._headers, "Idempotency-Key": self._job.idempotency_key}
        post = self._user.client.post
        return self._operate("submit", value, lambda: post("/jobs", json=self._job.body(), headers=headers))

    def _await_final(self, job_id: str) -> str | None:
        tries = 0
        while (left := self._remaining()) > 0:
            asked = time.monotonic()
            answer = self._wait_once(job_id, min(WAIT_SECONDS, left))
            status = str(answer.body.get("status")) if answer.kind == "ok" else None
            if status in FINAL:
                return status
            tries = 0 if status else tries + 1
            if time.monotonic() - asked < 1:
                self._pause(self._backoff(tries))
        return None

    def _wait_once(self, job_id: str, seconds: float) -> Answer:
        path, get = f"/jobs/{job_id}?wait={seconds:.1f}", self._user.client.get
        return self._operate("wait", {"id": job_id}, lambda: get(path, headers=self._headers, name="/jobs/{id}?wait"))

    def _operate(self, f: str, value: Mapping[str, object], request: Callable[[], Any]) -> Answer:
        """Record, send, record. A user that is killed meanwhile leaves an unknown outcome behind."""
        op = self._history.invoke(self._process, f, value)
        answer = Answer()
        try:
            answer = read(request())
        finally:
            found = {name: answer.body.get(name) for name in ("id", "status")}
            self._history.complete(
                op, self._process, answer.kind, f, found if answer.kind == "ok" else value, answer.error
            )
            if answer.kind == "info":
                self._process = self._history.processes.acquire()
        return answer

    def _report(self, job_id: str | None, status: str | None) -> None:
        seconds = self._seconds()
        problem: Exception | None = None
        if status is None:
            problem = NotFinal("no final status in time" if job_id else "never accepted")
        else:
            self._test.statuses[status] += 1
            self._test.end_to_end_seconds.append(seconds)
            if status != self._job.expected_status:
                problem = UnexpectedStatus(f"{status}, not {self._job.expected_status}")
        self._user.environment.events.request.fire(
            request_type="E2E",
            name=self._job.type,
            response_time=seconds * 1000,
            response_length=0,
            exception=problem,
            context={"job_id": job_id},
            start_time=time.time() - seconds,
        )

    def _seconds(self) -> float:
        return (time.monotonic_ns() - self._intended_ns) / 1e9

    def _remaining(self) -> float:
        return min(self._give_up, self._test.stop_at) - time.monotonic()

    def _backoff(self, tries: int) -> float:
        return self._rng.uniform(0.5, 1.0) * min(2.0, 0.1 * 2.0 ** min(tries, 6))

    def _pause(self, seconds: float) -> bool:
        """Sleep, unless the time for this job would be over by then."""
        if seconds >= self._remaining():
            return False
        gevent.sleep(seconds)
        return True


def read(response: Any) -> Answer:
    """`ok`: it happened. `fail`: it certainly did not. `info`: nobody knows (a timeout, a cut, a 5xx).

    Source: Jepsen's types of operations; a timeout is never `fail`.
    """
    status: int = response.status_code
    if status == 0:
        error = response.error
        told = f"{type(error).__name__}: {error}"[:200]
        return Answer("fail" if _never_sent(error) else "info", error=told)
    body = _json_object(response)
    if status < 300:
        torn = None if isinstance(body.get("id"), str) else f"{status} with a torn body"
        return Answer("info" if torn else "ok", status, body, torn)
    told = f"{status} {body.get('detail') or body.get('title') or ''}".strip()[:200]
    return Answer("fail" if status < 500 else "info", status, body, told, _retry_after(response))


def _json_object(response: Any) -> dict[str, Any]:
    """The JSON object of a response, empty when it has none or the connection broke within it."""
    try:
        body = response.json()
    except (ValueError, TypeError, OSError, gevent.Timeout):
        return {}
    return body if isinstance(body, dict) else {}


def _never_sent(error: BaseException | None) -> bool:
    return isinstance(error, socket.gaierror) or getattr(error, "errno", None) in NEVER_SENT


def _retry_after(response: Any) -> float:
    try:
        return min(5.0, max(0.0, float((response.headers or {}).get("retry-after") or 0)))
    except ValueError:
        return 0.0
