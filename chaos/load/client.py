"""Sends one job until it is accepted, every try recorded.

An answer decides the kind of an operation: accepted is ok, refused is fail, a timeout, a cut or a 5xx is info, and info
is sent again with its key.
"""

from __future__ import annotations

import asyncio
import random

import httpx

from chaos.load.mix import Arrival
from chaos.record.recorder import Recorder

REQUEST_SECONDS = 3.0


class Client:
    """Sends one job until it is accepted; after an unknown outcome it goes on as a new process, as Jepsen's do."""

    def __init__(
        self, number: int, http: httpx.AsyncClient, recorder: Recorder, stop: asyncio.Event, *, keyed: bool
    ) -> None:
        self._number, self._http, self._recorder, self._stop, self._keyed = number, http, recorder, stop, keyed
        self._incarnation = 1
        self._rng = random.Random(number)

    async def see_accepted(self, arrival: Arrival, intended_ns: int) -> None:
        tries = 0
        while not await self._submit(arrival, intended_ns):
            tries += 1
            if self._stop.is_set():
                return
            await asyncio.sleep(self._rng.uniform(0.5, 1) * min(2.0, 0.1 * 2**tries))
        if arrival.twice:
            await self._submit(arrival, intended_ns)

    async def _submit(self, arrival: Arrival, intended_ns: int) -> bool:
        """Whether there is nothing more to try: accepted, or refused for good."""
        process = f"client-{self._number}.{self._incarnation}"
        body = arrival.body()
        op = self._recorder.invoke(process, "submit", {**body, "intended_ns": intended_ns})
        if not self._keyed:
            del body["idempotency_key"]
        try:
            answer = await self._http.post("/jobs", json=body)
            body = answer.json()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._recorder.fail(op, type(error).__name__)
            return False
        except (httpx.HTTPError, ValueError) as error:
            return self._unknown(op, f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            self._unknown(op, "the run ended")
            raise
        if answer.is_success:
            self._recorder.ok(op, {"id": body["id"], "status": body["status"]})
            return True
        told = f"{answer.status_code} {body.get('detail', '')}"[:200]
        if answer.status_code >= 500:
            return self._unknown(op, told)
        self._recorder.fail(op, told)
        return answer.status_code != 429

    def _unknown(self, op: int, error: str) -> bool:
        self._recorder.info(op, error)
        self._incarnation += 1
        return False
