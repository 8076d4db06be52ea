"""Assembles the HTTP application: FastAPI with its documentation, the hot path in front, and the loops behind."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from scheduler.api.hot import HotPath
from scheduler.api.parts import Parts
from scheduler.api.problems import from_error
from scheduler.api.routes import SHAPES, router
from scheduler.errors import SchedulerError
from scheduler.settings import Settings


def build_app(settings: Settings, parts: Parts) -> ASGIApp:
    """The application that the server runs."""
    api = FastAPI(
        title="Scheduler",
        redirect_slashes=False,
        summary="A job accepted with 202 is never lost.",
        description="Jobs are rows in PostgreSQL, indexed in Redis Streams. Errors are application/problem+json.",
    )
    api.state.parts = parts
    api.include_router(router)
    for kind in (SchedulerError, RequestValidationError, HTTPException, Exception):
        api.add_exception_handler(kind, _answer)
    _document(api)
    return HotPath(api, settings, parts.intake, parts.types)


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


async def _answer(request: Request, error: Exception) -> Response:
    return from_error(error, request.method, request.url.path)
