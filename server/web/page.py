"""The player at `/` and its files under `/web/`, from here alone; they carry no data, need no key and wait for no checkpoint."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
"""Their links to each other and to the server are relative, so that they hold under any prefix."""

PAGE = "index.html"
FILES = StaticFiles(directory=STATIC)

HEADERS = {
    # A sample is shown as text, whatever its text is; were it taken for a script, that would not run. Pictures and films that
    # the page makes itself are data and blobs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for each time, answered 304 while it is the same: the files of two versions never meet in one page.
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    return await _served(PAGE, request)


@router.api_route("/web/{name:path}", methods=["GET", "HEAD"])
async def file(name: str, request: Request) -> Response:
    # Under /web/ the page's own links would lead nowhere.
    return await _served("" if name == PAGE else name, request)


def is_page(path: str) -> bool:
    """Whether `path`, without the server's prefix, is of the player: nobody is asked for a key there."""
    return path == "/" or path.startswith("/web/")


async def _served(name: str, request: Request) -> Response:
    """A file of `STATIC`, or 304 if the asker has it. Raises HTTPException (404) where there is none."""
    response = await FILES.get_response(name, request.scope)
    response.headers.update(HEADERS)
    return response
