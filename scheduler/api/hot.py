"""What stands in front of every path: keys, one limit and one deadline for bodies; and the raw ASGI path for POST /jobs
and POST /jobs/batch, which takes a third of the time a route would. Everything else, and the documentation of these
two, is in `routes`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler.api.access.guard import Guard
from scheduler.api.problems import from_error
from scheduler.api.schemas import SubmittedBatch, SubmittedJob, as_json, read_batch, read_job
from scheduler.api.types import Types
from scheduler.errors import InvalidJob, PayloadTooLarge
from scheduler.jobs.job import IdSequence, NewJob, id_text
from scheduler.settings import Settings
from scheduler.submission.intake import Intake
from scheduler.submission.submission import Submission

Headers = dict[bytes, bytes]
Handle = Callable[[Headers, bytes], Awaitable[Response]]

BODY_SECONDS = 30.0
ROOM_AROUND_PAYLOAD = 64 << 10


class HotPath:
    """An ASGI app that answers the two POSTs itself; all else goes to `behind`, with the body as `scope["body"]`."""

    def __init__(self, behind: ASGIApp, settings: Settings, intake: Intake, types: Types, guard: Guard) -> None:
        self._behind, self._settings, self._guard = behind, settings, guard
        self._intake, self._types, self._ids = intake, types, IdSequence()
        self._own: dict[tuple[str, str], tuple[Handle | None, int]] = {
            ("POST", "/jobs"): (self._submit, settings.max_payload_bytes + ROOM_AROUND_PAYLOAD),
            ("POST", "/jobs/batch"): (self._submit_batch, settings.max_request_bytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        handle, limit = self._own.get((method, path), (None, self._settings.max_request_bytes))
        try:
            await self._guard.check(scope, headers)
            scope["body"] = await read_body(headers, receive, limit)
            answer: ASGIApp = await handle(headers, scope["body"]) if handle else self._behind
        except Exception as error:
            answer = from_error(error, method, path)
        await answer(scope, receive, send)

    async def _submit(self, headers: Headers, content: bytes) -> Response:
        asked = read_job(content)
        if key := headers.get(b"idempotency-key", b"").decode("latin-1"):
            if asked.idempotency_key not in (None, key):
                raise InvalidJob("idempotency_key", "differs from the Idempotency-Key header; send one of them")
            asked = msgspec.structs.replace(asked, idempotency_key=key)
        [job] = await self._jobs([asked], "")
        [receipt] = await self._intake.submit([job])
        text = id_text(receipt.id)
        answer = SubmittedJob(text, receipt.status, job.type, job.max_attempts)
        return as_json(answer, 200 if receipt.is_repeat else 202, {"location": f"/jobs/{text}"})

    async def _submit_batch(self, headers: Headers, content: bytes) -> Response:
        asked = read_batch(content).jobs
        if b"idempotency-key" in headers:
            raise InvalidJob("Idempotency-Key", "a batch takes idempotency_key in each job, not the header")
        receipts = await self._intake.submit(await self._jobs(asked, "jobs[{}]."))
        return as_json(SubmittedBatch([id_text(receipt.id) for receipt in receipts]), 202)

    async def _jobs(self, asked: list[Submission], path: str) -> list[NewJob]:
        """The jobs to store; `path` says where in the body the n-th one stands. Raises InvalidJob."""
        ids = self._ids.take(len(asked), time.time_ns(), os.urandom(8 * len(asked)))
        jobs: list[NewJob] = []
        now, keys = time.time(), dict[str, int]()
        for n, one in enumerate(asked):
            try:
                jobs.append(one.job(ids[n], now, self._settings))
                if one.type not in self._types:
                    await self._types.require(one.type, "type")
            except InvalidJob as error:
                error.field = path.format(n) + error.field
                raise
            if (key := one.idempotency_key) and keys.setdefault(key, n) != n:
                raise InvalidJob(f"jobs[{n}].idempotency_key", f"repeats that of jobs[{keys[key]}]")
        return jobs


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The request's body. Raises PayloadTooLarge past `limit` bytes, InvalidJob if the client is too slow or gone."""
    declared, content, more = headers.get(b"content-length", b"0"), bytearray(), True
    size = int(declared) if declared.isdigit() else 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more and size <= limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise InvalidJob("body", "the connection ended before the body did", status=400)
                content += message.get("body", b"")
                size, more = len(content), message.get("more_body", False)
    except TimeoutError as error:
        raise InvalidJob("body", f"did not arrive within {BODY_SECONDS:g} s", status=408) from error
    if size > limit:
        raise PayloadTooLarge("body", size, limit, "send less at once")
    return bytes(content)
