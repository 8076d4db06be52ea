"""Assembles the HTTP application: FastAPI with its documentation, the hot path in front, and the loops behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from scheduler.api.auth import OPEN_PATHS, Keys
from scheduler.api.hot import App, HotPath
from scheduler.api.parts import Parts
from scheduler.api.problems import MEDIA_TYPE, from_error, printable, problem
from scheduler.api.routes import SHAPES, router
from scheduler.errors import InvalidJob, SchedulerError
from scheduler.facts.facts import REQUEST_FAILED, tell
from scheduler.settings import Settings


def build_app(settings: Settings, parts: Parts) -> App:
    """The application that the server runs."""
    keys = Keys(settings.api_keys)
    api = FastAPI(
        title="Scheduler",
        summary="A job accepted with 202 is never lost.",
        strict_content_type=False,
        description="Jobs are rows in PostgreSQL, indexed in Redis Streams. Errors are application/problem+json.",
    )
    api.state.parts = parts
    api.include_router(router)
    api.add_exception_handler(SchedulerError, _ours)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _unforeseen)
    _document(api)

    @api.middleware("http")
    async def authorize(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path not in OPEN_PATHS:
            try:
                keys.check(request.headers.get("authorization", "").encode("latin-1", "replace"))
            except SchedulerError as error:
                return await _ours(request, error)
        return await call_next(request)

    return HotPath(api, settings, parts.intake, parts.types, keys)


def _document(api: FastAPI) -> None:
    """Put the schemas of our structs and the bearer scheme into the generated document."""
    generate = api.openapi

    def openapi() -> dict[str, object]:
        if api.openapi_schema is None:
            document = generate()
            components = document.setdefault("components", {})
            shapes = msgspec.json.schema_components(SHAPES, ref_template="#/components/schemas/{name}")[1]
            components.setdefault("schemas", {}).update(shapes)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}, {}]
            api.openapi_schema = document
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, SchedulerError)
    status, body, headers = from_error(error)
    return Response(body, status, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or "body"
    return await _ours(request, InvalidJob(printable(place), first["msg"]))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # The only 400 of FastAPI itself: a body that is no JSON.
    field = {"field": "body"} if error.status_code == 400 else {}
    detail = f"{request.method} {request.url.path}: {error.detail}"
    body = problem(error.status_code, str(error.detail), detail, **field)
    return JSONResponse(body, error.status_code, error.headers, MEDIA_TYPE)


async def _unforeseen(request: Request, error: Exception) -> Response:
    tell(REQUEST_FAILED, path=request.url.path, trace=error)
    return await _ours(request, SchedulerError("the server failed; its log says why"))
