"""The page that documents the API: Swagger UI, all of it served from here. Page and document hold no secret and are
open, as a browser sends no key with them; the calls made from the page want one like any other.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import FileResponse

_POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {"Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'", "Cache-Control": "no-cache"}
_HEADERS |= {"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
_FILES = {
    "/docs": (__name__, "page.html", "text/html"),
    "/docs/start.js": (__name__, "start.js", "text/javascript"),
    "/docs/ui.js": ("fastapi_offline", "static/swagger-ui-bundle.js", "text/javascript"),
    "/docs/ui.css": ("fastapi_offline", "static/swagger-ui.css", "text/css"),
}
OPEN_PATHS = frozenset({*_FILES, "/openapi.json"})
router = APIRouter(include_in_schema=False)


async def _file(request: Request) -> FileResponse:
    package, name, kind = _FILES[request.scope["path"]]
    return FileResponse(str(files(package).joinpath(name)), media_type=kind, headers=_HEADERS)


for _path in _FILES:
    router.add_api_route(_path, _file)
