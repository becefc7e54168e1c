"""/docs: Swagger UI, from here and not from a CDN; it asks for the API key where one is needed."""

from __future__ import annotations

import mimetypes
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from starlette.responses import FileResponse

HERE = Path(__file__).parent
SWAGGER_UI = Path(fastapi_offline.__file__).parent / "static"

FILES = {
    "/docs": HERE / "docs.html",
    "/docs/docs.js": HERE / "docs.js",
    "/docs/docs.css": HERE / "docs.css",
    "/docs/swagger-ui.css": SWAGGER_UI / "swagger-ui.css",
    "/docs/swagger-ui-bundle.js": SWAGGER_UI / "swagger-ui-bundle.js",
}
"""Their links to each other and to openapi.json are relative, so that they hold under any prefix."""

PAGE_PATHS = frozenset(FILES)

HEADERS = {
    # Swagger UI draws its icons as data; nothing comes from elsewhere, nothing goes elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


def _add(path: str, file: Path) -> None:
    media_type, _ = mimetypes.guess_type(file.name)

    @router.get(path, response_class=FileResponse)
    async def page() -> FileResponse:
        return FileResponse(file, headers=HEADERS, media_type=media_type)


for _path, _file in FILES.items():
    _add(_path, _file)
