"""Sends one job until it is accepted, every try recorded. A timeout or a cut is info, and sent again with its key."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import httpx

from chaos.load.mix import Job
from chaos.record.recorder import Recorder
from chaos.targets.target import Request, Target

REQUEST_SECONDS = 3.0  # then a submit is unknown, and sent again; not measured


class Client:
    """Sends one job until it is accepted; after an unknown outcome it goes on as a new process, as Jepsen's do."""

    def __init__(
        self, number: int, target: Target, http: httpx.AsyncClient, recorder: Recorder, *, keyed: bool = True
    ) -> None:
        self._number, self._target, self._http, self._recorder, self._keyed = number, target, http, recorder, keyed
        self._incarnation = 1
        self._rng = random.Random(number)

    async def see_accepted(self, job: Job, intended_ns: int, stop: asyncio.Event) -> bool:
        """Whether it came to an end: accepted, or refused for good; False once `stop` is set."""
        tries = 0
        while not await self.submit(job, intended_ns):
            tries += 1
            if stop.is_set():
                return False
            await asyncio.sleep(self._rng.uniform(0.5, 1) * min(2.0, 0.1 * 2**tries))
        return True

    async def submit(self, job: Job, intended_ns: int) -> bool:
        """Whether there is nothing more to try: accepted, or refused for good."""
        request = self._target.submit(job.type, job.payload, job.idempotency_key if self._keyed else None)
        return await self._ask("submit", {**job.body(), "intended_ns": intended_ns}, request)

    async def cancel(self, job_id: str) -> bool:
        """Ask once for the job to be cancelled. Whether that was answered for good."""
        return await self._ask("cancel", {"id": job_id}, self._target.cancel(job_id))

    async def _ask(self, f: str, value: dict[str, Any], request: Request) -> bool:
        op = self._recorder.invoke(f"client-{self._number}.{self._incarnation}", f, value)
        try:
            response = await self._http.post(request.path, content=request.content)
            answer = self._target.answer(response.status_code, response.json())
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._recorder.fail(op, type(error).__name__)
            return False
        except (httpx.HTTPError, ValueError) as error:
            return self._unknown(op, f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            self._unknown(op, "the run ended")
            raise
        match answer.type:
            case "ok":
                self._recorder.ok(op, answer.value)
            case "info":
                return self._unknown(op, answer.error)
            case "fail":
                self._recorder.fail(op, answer.error)
        return not answer.again

    async def submit_together(self, jobs: Sequence[Job], intended_ns: int) -> list[str]:
        """A crowd in one request, all or nothing; without keys, so it is not sent again. Returns its ids."""
        process = f"client-{self._number}.{self._incarnation}"
        ops = [self._recorder.invoke(process, "submit", {**job.bare(), "intended_ns": intended_ns}) for job in jobs]
        request = self._target.submit_batch([(job.type, job.payload) for job in jobs])
        try:
            response = await self._http.post(request.path, content=request.content)
            ids = self._target.accepted(response.status_code, response.json())
        except (httpx.HTTPError, ValueError) as error:
            for op in ops:
                self._unknown(op, f"{type(error).__name__}: {error}")
            return []
        for op, job_id in zip(ops, ids, strict=True):
            self._recorder.ok(op, {"id": job_id})
        return ids

    def _unknown(self, op: int, error: str) -> bool:
        self._recorder.info(op, error)
        self._incarnation += 1
        return False
