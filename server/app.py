"""The application: `create_app()` puts settings, engine, middleware and routes together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from token_diffusion import __version__
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.networks.memory import prepare
from token_diffusion.plain import plain

from .api import sampling, state
from .api.admission import Service
from .api.middleware import APIKeyMiddleware, BodyLimitMiddleware, RequestIdMiddleware
from .api.openapi import DocumentedAPI
from .errors import install_error_handlers
from .settings import Settings
from .work.engine import Engine
from .work.room import Bounds

CPU_BATCH_TOKENS, BATCH_TOKENS = 2048, 65536
"""Tokens of a forward pass beyond which more of them take longer and are not cheaper each (measured for the CPU)."""


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """The ASGI application.

    Args:
        settings: read from the environment if absent.
        engine: loaded, not yet started; the app loads what `settings` names if absent.
    """
    chosen = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = engine if engine is not None else await asyncio.to_thread(load_engine, chosen)
        with ThreadPoolExecutor(1, "text") as text:
            app.state.service = Service(chosen, running, text)
            running.start()
            try:
                yield
            finally:
                await asyncio.to_thread(running.stop)

    app = DocumentedAPI(
        title="Token Diffusion",
        description="Samples of discrete token diffusion language models, streamed as they denoise.",
        version=__version__,
        lifespan=lifespan,
        middleware=_middleware(chosen),
    )
    install_error_handlers(app)
    app.include_router(sampling.router)
    app.include_router(state.router)
    return app


def load_engine(settings: Settings) -> Engine:
    """An engine, not yet started, with all checkpoints that `settings` names.

    Raises:
        ParameterError: a folder or the device cannot be used.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)

    def load() -> dict[str, Checkpoint]:
        checkpoints = {
            name: load_checkpoint(folder, name=name, device=device, dtype=settings.dtype)
            for name, folder in settings.checkpoint_folders().items()
        }
        for checkpoint in checkpoints.values():
            plain(checkpoint.tokenizer)  # seconds for a large vocabulary, which the first request need not wait for
        return checkpoints

    prepare()
    # GNU's OpenMP keeps workers for each thread that has computed anything, and where they are more than the cores, all of
    # them sleep between two loops, the engine's too. Those of a thread end with it.
    with ThreadPoolExecutor(1, "loading") as thread:
        checkpoints = thread.submit(load).result()
    return Engine(
        checkpoints,
        bounds=Bounds.of(settings),
        max_batch_tokens=settings.max_batch_tokens or (CPU_BATCH_TOKENS if device == "cpu" else BATCH_TOKENS),
        determinism=settings.determinism,
    )


def _middleware(settings: Settings) -> list[Middleware]:
    """Outermost first."""
    middleware = [Middleware(RequestIdMiddleware)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        )
    if settings.api_key is not None:
        middleware.append(Middleware(APIKeyMiddleware, key=settings.api_key.get_secret_value()))
    middleware.append(Middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes))
    return middleware
