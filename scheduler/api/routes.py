"""Every endpoint but the two hot POSTs, which are documented here and answered in `hot`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable
from typing import Annotated, Any, NoReturn
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter

from scheduler.api import schemas
from scheduler.api.metrics import Stats
from scheduler.api.parts import Parts
from scheduler.api.problems import MEDIA_TYPE
from scheduler.api.schemas import as_json as _json
from scheduler.errors import InvalidJob, JobNotFound, NotCancellable, StoreUnavailable
from scheduler.facts.facts import INDEX_NOT_TOLD, JOB_CANCELLED, PURGED, REDRIVEN, tell
from scheduler.jobs.job import id_bytes, id_text
from scheduler.jobs.lifecycle import Status
from scheduler.jobs.view import Job, Page
from scheduler.storage.rows import Looked
from scheduler.submission.submission import Batch, Submission

Responses = dict[int | str, dict[str, Any]]

MAX_WAIT_SECONDS = 60.0
UNWELL = {"loops": "stalled", "jobs": "stalled"}  # what strangers are told; else that a store is out of reach


def problems(*codes: int) -> Responses:
    """The documentation of these error codes."""
    schema = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    titles = {400: "Bad request", 401: "No valid key", 403: "A key of another role, or a page of another site",
              404: "Not found", 408: "The body came too slowly", 409: "Conflict", 413: "Too large",
              415: "No application/json", 421: "A host that is not known", 422: "Invalid",
              429: "Backlog full, or too many wrong keys, see Retry-After",
              503: "Store out of reach, see Retry-After"}  # fmt: skip
    return {code: {"description": titles[code], "content": schema} for code in codes}


def content(shape: type, **more: Any) -> dict[str, Any]:
    """A JSON body of this shape, one of SHAPES; `more` may be an example."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}, **more}}


def takes(shape: type, example: object) -> dict[str, Any]:
    """What a raw POST reads."""
    return {"requestBody": {"required": True, "content": content(shape, example=example)}}


def answers(shape: type) -> Responses:
    """A 200 of this shape, one of SHAPES."""
    return {200: {"description": "OK", "content": content(shape)}}


SHAPES = (Submission, Batch, Job, Page, Stats, schemas.SubmittedJob, schemas.SubmittedBatch, schemas.Problem,
          schemas.Selection, schemas.Redrive, schemas.Selected)  # fmt: skip
EXAMPLE = {"type": "EMAIL", "payload": {"to": "ann@example.com", "subject": "hello"}, "idempotency_key": "order-17"}
KEY_HEADER = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255}}
TAKES_JOB = {"parameters": [KEY_HEADER], **takes(Submission, EXAMPLE)}
HOT: dict[str, Any] = {"status_code": 202, "response_model": None}  # answered in `hot`
SUBMITTED: Responses = {
    200: {"description": "The key's job, accepted before", "content": content(schemas.SubmittedJob)},
    202: {"content": content(schemas.SubmittedJob)},
}
SUBMITTED_BATCH: Responses = {202: {"content": content(schemas.SubmittedBatch)}}
REFUSED = problems(408, 409, 413)
SOME = {"type": "EMAIL", "dry_run": True}
TAKEN = answers(schemas.Selected) | problems(408, 413)
router = APIRouter(responses=problems(400, 401, 403, 415, 421, 422, 429, 503))
JobId = Annotated[str, PathParameter(description="uuid of the job", max_length=200)]
Limit = Annotated[int, Query(ge=1, le=1_000)]
Type = Annotated[str | None, Query(max_length=200)]
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, description="seconds to wait for a final status")]
Cursor = Annotated[str | None, Query(max_length=100, description="next_cursor of the page before")]


async def parts(request: Request) -> Parts:
    """What this application was built with."""
    found: Parts = request.app.state.parts
    return found


Own = Annotated[Parts, Depends(parts)]


@router.post("/jobs", **HOT, responses=SUBMITTED | REFUSED, openapi_extra=TAKES_JOB)
async def submit() -> NoReturn:
    """Submit one job. 202 means its row has committed; a repeat with the same idempotency key answers 200."""
    raise HTTPException(404)  # answered in scheduler.api.hot; a path with a newline at its end comes here


@router.post("/jobs/batch", **HOT, responses=SUBMITTED_BATCH | REFUSED, openapi_extra=takes(Batch, {"jobs": [EXAMPLE]}))
async def submit_batch() -> NoReturn:
    """Submit up to 10,000 jobs, all or nothing; the ids come in order."""
    raise HTTPException(404)  # answered in scheduler.api.hot; a path with a newline at its end comes here


@router.get("/jobs/{id}", responses=answers(Job) | problems(404))
async def get_job(request: Request, own: Own, id: JobId, wait: Wait = 0) -> Response:
    """One job with its attempts. With `wait`, answers as soon as the status is final, or after that many seconds."""
    job_id = _id(id)
    job = await own.store.job(job_id)
    if wait and not Status(job.status).is_final:
        await own.waiters.wait(job_id, wait, request.receive)
        job = await own.store.job(job_id)
    return _json(job)


@router.get("/jobs", responses=answers(Page))
async def list_jobs(
    own: Own, status: Status | None = None, type: Type = None, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """Jobs, newest first."""
    if status is Status.FAILED:
        return await list_dead(own, type, limit, cursor)
    return _page(await own.store.page(status, _text(type, "type"), _cursor(cursor), limit + 1), limit)


@router.post("/jobs/{id}/cancel", responses=answers(Job) | problems(404, 409))
async def cancel_job(own: Own, id: JobId, request: Request) -> Response:
    """Cancel a job that is not final. A running one is told through `ctx.cancelled`; its late result is refused."""
    job_id = _id(id)
    own.guard.audit.did(request.scope, "cancel", id)
    cancelled = await own.store.cancel(job_id)
    job = await own.store.job(job_id)
    if not cancelled:
        raise NotCancellable(id, job.status)
    tell(JOB_CANCELLED, job_id=id)
    await _tell_redis(own.stream.unschedule(job_id), [job_id])
    return _json(job)


@router.get("/dlq", responses=answers(Page))
async def list_dead(own: Own, type: Type = None, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Dead letters: the jobs whose attempts are spent, newest first."""
    return _page(await own.store.dead_page(_text(type, "type"), _cursor(cursor), limit + 1), limit)


@router.post("/dlq/redrive", response_model=None, responses=TAKEN, openapi_extra=takes(schemas.Redrive, SOME))
async def redrive(own: Own, request: Request) -> Response:
    """Send dead letters back with a fresh count of attempts. Without any condition it takes the oldest `limit`."""
    selection = schemas.read_redrive(request.scope["body"])
    ids = await _chosen(own, selection)
    if not selection.dry_run:
        own.guard.audit.did(request.scope, "redrive", _described(selection, ids))
        ids = await own.store.redrive(ids, 1 / selection.rate if selection.rate else 0.0)
        tell(REDRIVEN, ids)
        await _tell_redis(own.stream.exhume(ids), ids)
        if not selection.rate:  # those that wait for their time are left to the reconciler
            await _tell_redis(own.stream.publish(ids), ids)
    return _selected(selection, ids)


@router.delete("/dlq", response_model=None, responses=TAKEN, openapi_extra=takes(schemas.Selection, SOME))
async def purge(own: Own, request: Request) -> Response:
    """Delete dead letters and their jobs for good. Send `{}` to delete the oldest `limit`, whatever they are."""
    selection = schemas.read_selection(request.scope["body"])
    ids = await _chosen(own, selection)
    if not selection.dry_run:
        own.guard.audit.did(request.scope, "purge", _described(selection, ids))
        ids = await own.store.purge(ids)
        tell(PURGED, ids)
        await _tell_redis(own.stream.exhume(ids), ids)
    return _selected(selection, ids)


@router.get("/stats", responses=answers(Stats))
async def stats(own: Own) -> Response:
    """Figures of now: backlog, oldest due job, dead letters, Redis lengths, workers and their counters."""
    return _json(await own.gauges.stats())


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(own: Own) -> Response:
    """Prometheus text format."""
    return Response(await own.gauges.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/healthz", response_model=dict[str, str])
async def healthz() -> Response:
    """The process answers."""
    return _json({"status": "ok"})


@router.get("/readyz", response_model=dict[str, str])
async def readyz(own: Own, request: Request) -> Response:
    """Both stores take writes and every loop has ticked lately; 503 names what does not. A second old at most.

    Why is told to a key that may operate, and to the log.
    """
    answer = await own.readiness.answer()
    is_ready = set(answer.values()) == {"ok"}
    caller = request.scope["caller"]
    if caller is None or not caller.role.may("POST", "/readyz"):
        answer = {part: found if found == "ok" else UNWELL.get(part, "out of reach") for part, found in answer.items()}
    return _json(answer, 200 if is_ready else 503)


async def _chosen(own: Parts, selection: schemas.Selection) -> list[bytes]:
    ids = None if selection.ids is None else [_listed_id(text, n) for n, text in enumerate(selection.ids)]
    error = _text(selection.error, "error")
    like = error and error.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    type = _text(selection.type, "type")
    return await own.store.match_dead(ids, type, like, selection.older_than_seconds, selection.limit)


async def _tell_redis(change: Awaitable[None], ids: list[bytes]) -> None:
    """What the record says, the index follows: now, or by the reconciler."""
    try:
        await change
    except StoreUnavailable as error:
        tell(INDEX_NOT_TOLD, ids, reason=error)


def _described(selection: schemas.Selection, ids: list[bytes]) -> str:
    """How many, by which conditions."""
    return f"{len(ids)} by {msgspec.json.encode(selection).decode()}"


def _selected(selection: schemas.Selection, ids: list[bytes]) -> Response:
    return _json(schemas.Selected([id_text(raw) for raw in ids], selection.dry_run))


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
    if value is not None and ("\x00" in value or value.encode("utf-8", "ignore").decode() != value):
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


def _page(looked: Looked, limit: int) -> Response:
    """One job more than the page has says that another page follows."""
    jobs, stopped_at = looked
    last = UUID(jobs[limit - 1].id).bytes if len(jobs) > limit else stopped_at
    cursor = None if last is None else base64.urlsafe_b64encode(last).rstrip(b"=").decode()
    return _json(Page(jobs[:limit], cursor))
