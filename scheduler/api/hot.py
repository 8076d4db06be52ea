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
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.access.guard import Guard
from scheduler.api.problems import from_error
from scheduler.api.schemas import SubmittedBatch, SubmittedJob, as_json, read_job, reading_batch
from scheduler.api.types import Types
from scheduler.errors import InvalidJob, PayloadTooLarge
from scheduler.jobs.job import IdSequence, NewJob, id_text
from scheduler.settings import Settings
from scheduler.submission.intake import Intake
from scheduler.submission.submission import PIECE_BYTES, Made, Steps

Headers = dict[bytes, bytes]
Handle = Callable[[Headers, bytes], Awaitable[Response]]

BODY_SECONDS = 30.0
ROOM_AROUND_PAYLOAD = 64 << 10
TURN_SECONDS = 0.003
MAX_OTHER_BYTES = 1 << 20
MAX_HELD_BYTES = 128 << 20


class HotPath:
    """An ASGI app that answers the two POSTs itself; all else goes to `behind`, with the body as `scope["body"]`."""

    def __init__(self, behind: ASGIApp, settings: Settings, intake: Intake, types: Types, guard: Guard) -> None:
        self._behind, self._settings, self._guard = behind, settings, guard
        self._intake, self._types, self._ids = intake, types, IdSequence()
        self._held, self._turn = 0, asyncio.Lock()
        self._job_bytes = settings.max_payload_bytes + ROOM_AROUND_PAYLOAD
        self._other_bytes = min(settings.max_request_bytes, MAX_OTHER_BYTES)
        self._own: dict[tuple[str, str], tuple[Handle | None, int]] = {
            ("POST", "/jobs"): (self._submit, self._job_bytes),
            ("POST", "/jobs/batch"): (self._submit_batch, settings.max_request_bytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        handle, limit = self._own.get((method, path), (None, self._other_bytes))
        try:
            await self._guard.check(scope, headers)
            if method == "HEAD":  # the server sends no body after it
                scope = {**scope, "method": (method := "GET")}
            scope["body"] = await self._body(headers, receive, limit)
            if method == "GET":
                scope["body"] = b""  # nothing reads it, and a long poll would keep it
            answer: ASGIApp = await handle(headers, scope["body"]) if handle else self._behind
        except Exception as error:
            answer = from_error(error, method, path)
        await answer(scope, receive, _to_who_may_be_gone(send))

    async def _submit(self, headers: Headers, content: bytes) -> Response:
        [job] = await self._jobs(len(content), self._reading(content, _key(headers)))
        [receipt] = await self._intake.submit([job])
        text = id_text(receipt.id)
        answer = SubmittedJob(text, receipt.status, job.type, job.max_attempts)
        return as_json(answer, 200 if receipt.is_repeat else 202, {"location": f"/jobs/{text}"})

    async def _submit_batch(self, headers: Headers, content: bytes) -> Response:
        if _key(headers) is not None:
            raise InvalidJob("Idempotency-Key", "a batch takes idempotency_key in each job, not the header")
        receipts = await self._intake.submit(await self._jobs(len(content), self._reading_batch(content), "jobs[{}]."))
        return as_json(SubmittedBatch([id_text(receipt.id) for receipt in receipts]), 202)

    async def _jobs(self, size: int, steps: Steps[list[NewJob]], path: str = "") -> list[NewJob]:
        """The jobs to store; `path` says where in the body the n-th one stands. Raises InvalidJob."""
        if size <= PIECE_BYTES:
            jobs = await _in_turns(steps)
        else:
            self._held += size
            try:
                async with self._turn:
                    jobs = await _in_turns(steps)
            finally:
                self._held -= size
        for n, job in enumerate(jobs):
            if job.type not in self._types:
                await self._types.require(job.type, path.format(n) + "type")
        return jobs

    def _reading(self, content: bytes, key: str | None) -> Steps[list[NewJob]]:
        asked = read_job(content)
        if key is not None:
            if asked.idempotency_key not in (None, key):
                raise InvalidJob("idempotency_key", "differs from the Idempotency-Key header; send one of them")
            asked = msgspec.structs.replace(asked, idempotency_key=key)
        [job_id] = self._ids.take(1, time.time_ns(), os.urandom(8))
        return [(yield from asked.checking(job_id, time.time(), self._settings))]

    def _reading_batch(self, content: bytes) -> Steps[list[NewJob]]:
        asked = yield from reading_batch(content, self._job_bytes)
        ids = self._ids.take(len(asked), time.time_ns(), os.urandom(8 * len(asked)))
        jobs: list[NewJob] = []
        now, keys = time.time(), dict[str, int]()
        for n, one in enumerate(asked):
            try:
                jobs.append((yield from one.checking(ids[n], now, self._settings)))
            except InvalidJob as error:
                error.field = f"jobs[{n}].{error.field}"
                raise
            if (key := one.idempotency_key) and keys.setdefault(key, n) != n:
                raise InvalidJob(f"jobs[{n}].idempotency_key", f"repeats that of jobs[{keys[key]}]")
            yield
        return jobs

    async def _body(self, headers: Headers, receive: Receive, limit: int) -> bytes:
        """The request's body. Raises PayloadTooLarge past `limit`, InvalidJob if the client is too slow or gone."""
        declared, content, more = headers.get(b"content-length", b"0"), bytearray(), True
        size = int(declared) if declared.isdigit() else 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and size <= limit:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise InvalidJob("body", "the connection ended before the body did", status=400)
                    content += (piece := message.get("body", b""))
                    self._held += len(piece)
                    size, more = len(content), message.get("more_body", False)
                    if size > PIECE_BYTES and self._held > MAX_HELD_BYTES:
                        what = f"{self._held} bytes of large bodies are under way and {MAX_HELD_BYTES} are allowed"
                        raise HTTPException(503, f"{what}; retry in a moment", {"retry-after": "1"})
        except TimeoutError as error:
            raise InvalidJob("body", f"did not arrive within {BODY_SECONDS:g} s", status=408) from error
        finally:
            self._held -= len(content)
        if size > limit:
            raise PayloadTooLarge("body", size, limit, "send less at once")
        return bytes(content)


async def _in_turns(steps: Steps[Made]) -> Made:
    """What these steps lead to. Whoever else has something to do on this loop does it every TURN_SECONDS."""
    until = 0.0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: Made = end.value
            return made
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + TURN_SECONDS


def _to_who_may_be_gone(send: Send) -> Send:
    """uvloop raises when something is sent to a client that hung up a moment ago, before anybody is told of it."""

    async def told(message: Message) -> None:
        try:
            await send(message)
        except RuntimeError as error:
            if "the handler is closed" not in str(error):
                raise

    return told


def _key(headers: Headers) -> str | None:
    """The Idempotency-Key header, in UTF-8 or else latin-1, as the same key in a body."""
    if (found := headers.get(b"idempotency-key")) is None:
        return None
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found.decode("latin-1")
