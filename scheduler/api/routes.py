"""Every endpoint but the two hot POSTs, which are documented here and answered in `hot`."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, NoReturn

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse

from scheduler.api import schemas
from scheduler.api.parts import Parts
from scheduler.api.problems import MEDIA_TYPE
from scheduler.errors import InvalidJob, JobNotFound, NotCancellable, StoreUnavailable
from scheduler.facts.facts import INDEX_NOT_TOLD, JOB_CANCELLED, PURGED, REDRIVEN, tell
from scheduler.jobs.job import id_bytes, id_text
from scheduler.jobs.lifecycle import Status
from scheduler.storage.postgres import Row
from scheduler.storage.stream import Stream
from scheduler.submission.submission import Batch, Submission

Responses = dict[int | str, dict[str, Any]]

MAX_WAIT_SECONDS = 60.0
STALLED_SECONDS = 10.0


def problems(*codes: int) -> Responses:
    schema = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    titles = {400: "Bad request", 401: "No valid key", 404: "Not found", 409: "Conflict", 413: "Too large",
              422: "Invalid", 429: "Backlog full, see Retry-After", 503: "Store out of reach, see Retry-After",
              408: "The body came too slowly"}  # fmt: skip
    return {code: {"description": titles[code], "content": schema} for code in codes}


def content(shape: type, **more: Any) -> dict[str, Any]:
    """A JSON body of this shape, one of SHAPES; `more` may be an example."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}, **more}}


def takes(shape: type, example: object) -> dict[str, Any]:
    """What a raw POST reads."""
    return {"requestBody": {"required": True, "content": content(shape, example=example)}}


SHAPES = (Submission, Batch, schemas.SubmittedJob, schemas.SubmittedBatch, schemas.Problem)
EXAMPLE = {"type": "EMAIL", "payload": {"to": "ann@example.com", "subject": "hello"}, "idempotency_key": "order-17"}
KEY_HEADER = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255}}
SUBMITTED: Responses = {
    200: {"description": "The key's job, accepted before", "content": content(schemas.SubmittedJob)},
    202: {"content": content(schemas.SubmittedJob)},
}
BATCH_SUBMITTED: Responses = {202: {"content": content(schemas.SubmittedBatch)}}
REFUSED = problems(400, 408, 409, 413, 429)
router = APIRouter(responses=problems(401, 422, 503))
JobId = Annotated[str, PathParameter(description="uuid of the job", max_length=200)]
Limit = Annotated[int, Query(ge=1, le=1_000)]
Type = Annotated[str | None, Query(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=100, description="next_cursor of the page before")]


def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


@router.post(
    "/jobs",
    status_code=202,
    response_model=None,
    responses=SUBMITTED | REFUSED,
    openapi_extra={"parameters": [KEY_HEADER], **takes(Submission, EXAMPLE)},
)
async def submit() -> NoReturn:
    """Submit one job. 202 means its row has committed; a repeat with the same idempotency key answers 200."""
    raise NotImplementedError("answered in scheduler.api.hot")


@router.post(
    "/jobs/batch",
    status_code=202,
    response_model=None,
    responses=BATCH_SUBMITTED | REFUSED,
    openapi_extra=takes(Batch, {"jobs": [EXAMPLE]}),
)
async def submit_batch() -> NoReturn:
    """Submit up to 10,000 jobs, all or nothing; the ids come in order."""
    raise NotImplementedError("answered in scheduler.api.hot")


@router.get("/jobs/{id}", response_model=schemas.Job, responses=problems(404, 429))
async def get_job(
    request: Request,
    id: JobId,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, description="seconds to wait for a final status")] = 0,
) -> Response:
    """One job with its attempts. With `wait`, answers as soon as the status is final, or after that many seconds."""
    job_id = _id(id)
    found = await parts(request).store.job(job_id)
    if found and wait and not Status(found[0][2]).is_final:
        await parts(request).waiters.wait(job_id, wait)
        found = await parts(request).store.job(job_id)
    if not found:
        raise JobNotFound(id)
    return _json(_job(*found))


@router.get("/jobs", response_model=schemas.Page)
async def list_jobs(
    request: Request,
    status: Status | None = None,
    type: Type = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Jobs, newest first."""
    store = parts(request).store
    before = _cursor(cursor)
    if status is Status.FAILED:
        return _page(await store.dead_page(_text(type, "type"), before, limit + 1), limit)
    return _page(await store.page(status, _text(type, "type"), before, limit + 1), limit)


@router.post("/jobs/{id}/cancel", response_model=schemas.Job, responses=problems(404, 409))
async def cancel_job(request: Request, id: JobId) -> Response:
    """Cancel a job that is not final. A running one is told through `ctx.cancelled`; its late result is refused."""
    store, job_id = parts(request).store, _id(id)
    cancelled = await store.cancel(job_id)
    found = await store.job(job_id)
    if not found:
        raise JobNotFound(id)
    if not cancelled:
        raise NotCancellable(id, found[0][2])
    tell(JOB_CANCELLED, job_id=id)
    return _json(_job(*found))


@router.get("/dlq", response_model=schemas.Page)
async def list_dead(request: Request, type: Type = None, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Dead letters: the jobs whose attempts are spent, newest first."""
    rows = await parts(request).store.dead_page(_text(type, "type"), _cursor(cursor), limit + 1)
    return _page(rows, limit)


@router.post("/dlq/redrive", response_model=schemas.Selected, responses=problems(400))
async def redrive(request: Request, selection: schemas.Redrive) -> Response:
    """Send dead letters back with a fresh count of attempts. Without any condition it takes the oldest `limit`."""
    store, stream = parts(request).store, parts(request).stream
    ids = await _matching(request, selection)
    if not selection.dry_run and ids:
        ids = await store.redrive(ids, 1 / selection.rate if selection.rate else 0.0)
        tell(REDRIVEN, ids)
        await _exhume(stream, ids)
    return _json({"ids": [id_text(raw) for raw in ids], "dry_run": selection.dry_run})


@router.delete("/dlq", response_model=schemas.Selected, responses=problems(400))
async def purge(request: Request, selection: schemas.Selection) -> Response:
    """Delete dead letters and their jobs for good. Send `{}` to delete the oldest `limit`, whatever they are."""
    store, stream = parts(request).store, parts(request).stream
    ids = await _matching(request, selection)
    if not selection.dry_run and ids:
        ids = await store.purge(ids)
        tell(PURGED, ids)
        await _exhume(stream, ids)
    return _json({"ids": [id_text(raw) for raw in ids], "dry_run": selection.dry_run})


@router.get("/stats", response_model=schemas.Stats)
async def stats(request: Request) -> Response:
    """Figures of now: backlog, oldest due job, dead letters, Redis lengths, workers and their counters."""
    return _json(await parts(request).gauges.stats())


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    return Response(await parts(request).gauges.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/healthz", response_model=dict[str, str])
async def healthz() -> Response:
    """The process answers."""
    return _json({"status": "ok"})


@router.get("/readyz", response_model=dict[str, str])
async def readyz(request: Request) -> Response:
    """Both stores answer and every loop has ticked lately; 503 names what does not."""
    own = parts(request)
    answer = {"postgres": await _probe(own.store.clock_ms()), "redis": await _probe(own.stream.ping())}
    stalled = [service.name for service in own.services if service.idle_seconds > STALLED_SECONDS]
    answer["loops"] = f"stalled: {', '.join(stalled)}" if stalled else "ok"
    return _json(answer, 200 if set(answer.values()) == {"ok"} else 503)


async def _probe(call: Any) -> str:
    try:
        await call
    except StoreUnavailable as error:
        return error.reason
    return "ok"


async def _exhume(stream: Stream, ids: list[bytes]) -> None:
    """The record is done; when the index cannot be told, the reconciler tells it."""
    try:
        await stream.exhume(ids)
    except StoreUnavailable as error:
        tell(INDEX_NOT_TOLD, ids, reason=error)


async def _matching(request: Request, selection: schemas.Selection) -> list[bytes]:
    ids = None if selection.ids is None else [_listed_id(text, n) for n, text in enumerate(selection.ids)]
    error = None if selection.error is None else _text(selection.error, "error")
    like = error and error.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return await parts(request).store.match_dead(
        ids, _text(selection.type, "type"), like, selection.older_than_seconds, selection.limit
    )


def _id(text: str) -> bytes:
    if (raw := id_bytes(text)) is None:
        raise JobNotFound(text)
    return raw


def _listed_id(text: str, n: int) -> bytes:
    if (raw := id_bytes(text)) is None:
        raise InvalidJob(f"ids[{n}]", f"{text[:60]!r} is not a job id")
    return raw


def _text(value: str | None, field: str) -> str | None:
    """A filter's text, free of what PostgreSQL cannot compare."""
    if value is not None and (
        "\x00" in value or (not value.isascii() and value.encode("utf-8", "ignore").decode() != value)
    ):
        raise InvalidJob(field, "holds a character that no job can have (NUL or a lone surrogate)")
    return value


def _cursor(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        raw = base64.b64decode(text.encode("ascii") + b"==", b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raw = b""
    if len(raw) != 16:
        raise InvalidJob("cursor", f"{text[:60]!r} is not a cursor; use next_cursor of the page before")
    return raw


def _page(rows: list[Row], limit: int) -> Response:
    more = len(rows) > limit
    last = base64.urlsafe_b64encode(rows[limit - 1][0]).rstrip(b"=").decode() if more else None
    return _json({"jobs": [_summary(row) for row in rows[:limit]], "next_cursor": last})


_SUMMARY = (
    "id",
    "type",
    "status",
    "attempt",
    "max_attempts",
    "created_at",
    "run_at",
    "started_at",
    "finished_at",
    "error",
)


def _summary(row: Row) -> dict[str, Any]:
    return {**dict(zip(_SUMMARY, row, strict=True)), "id": id_text(row[0])}


def _job(row: Row, failed: list[Row]) -> dict[str, Any]:
    (
        job_id,
        type,
        status,
        attempt,
        most,
        created,
        run_at,
        started,
        finished,
        timeout,
        payload,
        result,
        error,
        key,
        worker,
    ) = row
    attempts = [_attempt(number, Status.FAILED, by, start, end, why) for number, by, start, end, why in failed]
    if status in (Status.PROCESSING, Status.COMPLETED) or (
        status == Status.CANCELLED and started and not _over(failed, started)
    ):
        attempts.append(_attempt(attempt, status, worker, started, finished, None))
    return {
        **_summary((job_id, type, status, attempt, most, created, run_at, started, finished, error)),
        "payload": msgspec.Raw(payload),
        "result": msgspec.Raw(result or b"null"),
        "timeout_seconds": timeout,
        "idempotency_key": key,
        "attempts": attempts,
    }


def _over(failed: list[Row], started: datetime) -> bool:
    return bool(failed) and failed[-1][2] == started


def _attempt(
    number: int,
    status: str,
    worker: bytes | None,
    started: datetime | None,
    finished: datetime | None,
    error: str | None,
) -> dict[str, Any]:
    return {
        "attempt": number,
        "status": status,
        "worker_id": id_text(worker) if worker else None,
        "started_at": started,
        "finished_at": finished,
        "error": error,
    }


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=JSONResponse.media_type)
