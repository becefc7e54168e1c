"""The application: `create_app()` puts settings, engine, middleware and routes together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager

import torch
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from token_diffusion import __version__
from token_diffusion.checkpoint import Checkpoint, Unloaded, holds_tokenizer, open_checkpoint
from token_diffusion.engine.cost import enough_tokens
from token_diffusion.errors import ParameterError
from token_diffusion.networks.cpu.memory import prepare
from token_diffusion.networks.cpu.threads import set_threads
from token_diffusion.networks.weights.hub import local_folder, repository, tokenizer_folder
from token_diffusion.text.plain import plain

from .api.admission import Service
from .api.docs import page as docs_page
from .api.middleware.access import AccessMiddleware, is_probe
from .api.middleware.bodies import BodyLimitMiddleware
from .api.middleware.crowd import CrowdMiddleware
from .api.middleware.owners import OwnerMiddleware
from .api.middleware.proxies import ForwardedMiddleware, RootPathMiddleware
from .api.middleware.request_id import RequestIdMiddleware
from .api.openai import chat, completions
from .api.openai import models as openai_models
from .api.openapi import DocumentedAPI
from .api.routes import metrics as metrics_route
from .api.routes import requests, sampling, scoring, state
from .api.routes import text as text_route
from .errors import install_error_handlers
from .owners.keys import Keys
from .settings import Settings
from .telemetry import traces
from .telemetry.metrics import Metrics
from .web import page as player
from .work.engine import Engine
from .work.room import Bounds
from .work.text import TextThread
from .work.watchdog import Watchdog

STOP_S = 1.0
"""Seconds that the engine's thread may take to come back from the step it is in; it is left behind then."""


def create_app(settings: Settings | None = None, engine: Engine | Future[Engine] | None = None) -> FastAPI:
    """The ASGI application.

    Args:
        settings: read from the environment if absent.
        engine: loaded, not yet started. The app loads what `settings` names if absent, and has started up once that is done;
            with the promise of one (`start_loading`) it has at once, and answers 503 to all but /health until it is kept.

    Raises:
        ParameterError: the file of API keys cannot be used.
    """
    chosen = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = None
        with TextThread(metrics) as text, ExitStack() as watching:

            def begin(running: Engine) -> None:
                app.state.service = Service(chosen, running, text)
                first = next(iter(running.checkpoints.values()))
                metrics.describe(__version__, torch.__version__, first.device, first.dtype)
                running.metrics = metrics
                running.start()
                watching.callback(asyncio.create_task(Watchdog(running, chosen.stall_s).watch()).cancel)

            if isinstance(engine, Future):
                _when_kept(engine, begin)
            else:
                begin(engine if engine is not None else await asyncio.to_thread(load_engine, chosen))
            try:
                yield
            finally:
                if app.state.service is not None:
                    await asyncio.to_thread(app.state.service.engine.stop, STOP_S)

    app = DocumentedAPI(
        title="Token Diffusion",
        description="Samples of discrete token diffusion language models, streamed as they denoise.",
        version=__version__,
        lifespan=lifespan,
        middleware=_middleware(chosen, metrics),
        telemetry=traces.telemetry(excluded=is_probe),
        settings=chosen,
    )
    app.state.metrics = metrics
    install_error_handlers(app)
    app.include_router(sampling.router)
    app.include_router(scoring.router)
    app.include_router(requests.router)
    app.include_router(state.router)
    app.include_router(text_route.router)
    app.include_router(metrics_route.router)
    app.include_router(openai_models.router)
    app.include_router(completions.router)
    app.include_router(chat.router)
    if chosen.pages:
        app.include_router(player.router)
        app.include_router(docs_page.router)
    return app


def _when_kept(promise: Future[Engine], begin: Callable[[Engine], None]) -> None:
    """`begin` on this event loop once there is an engine, never if loading fails: that is for who loads to tell."""
    loop = asyncio.get_running_loop()

    def kept(promise: Future[Engine]) -> None:
        if promise.exception() is None and not loop.is_closed():
            loop.call_soon_threadsafe(begin, promise.result())

    promise.add_done_callback(kept)


def load_engine(settings: Settings) -> Engine:
    """An engine, not yet started, with all checkpoints that `settings` names.

    Raises:
        ParameterError: a folder or the device cannot be used.
    """
    return start_loading(settings).result()


def start_loading(settings: Settings) -> Future[Engine]:
    """The same in two steps: what is quickly found wrong with settings and folders is raised, then repositories of the hub are
    fetched and the weights are read.

    Raises:
        ParameterError: as does the promised engine for what only weights or a hub show.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    set_threads(settings.num_threads)
    prepare()
    places = settings.checkpoint_places()

    def opened(name: str) -> Unloaded:
        with _named(name, places):
            folder = local_folder("checkpoint_path", places[name])
            has_tokenizer = holds_tokenizer(folder) or holds_tokenizer(folder / "tokenizer")
            tokenizer = settings.tokenizer_name.get(name, None if has_tokenizer else settings.tokenizer_name.get(""))
            words = tokenizer_folder(tokenizer)
            return open_checkpoint(
                folder, device=device, dtype=settings.dtype, backend=settings.backend, tokenizer_name=words
            )

    def loaded(name: str, folder: Unloaded) -> Checkpoint:
        with _named(name, places):
            return folder.load(name)

    # What is on a hub may take minutes to be fetched, in which /health is asked for.
    here = {name: opened(name) for name, place in places.items() if repository(place) is None}

    def load() -> Engine:
        folders = {name: here[name] if name in here else opened(name) for name in places}
        checkpoints = {name: loaded(name, folder) for name, folder in folders.items()}
        for checkpoint in checkpoints.values():
            plain(checkpoint.tokenizer)  # seconds for a large vocabulary, which the first request need not wait for
        return Engine(
            checkpoints,
            bounds=Bounds.of(settings),
            max_batch_tokens=settings.max_batch_tokens or enough_tokens(torch.device(device)),
            determinism=settings.determinism,
        )

    # GNU's OpenMP keeps workers for each thread that has computed anything, and where they are more than the cores, all of
    # them sleep between two loops, the engine's too. Those of a thread end with it.
    thread = ThreadPoolExecutor(1, "loading")
    promise = thread.submit(load)
    thread.shutdown(wait=False)
    return promise


@contextmanager
def _named(name: str, places: Collection[str]) -> Iterator[None]:
    """In here an error says which of several checkpoints it is about; only some name a folder."""
    try:
        yield
    except ParameterError as error:
        if len(places) == 1:
            raise
        raise ParameterError(f"checkpoint {name!r}: {error.name}", error.rule, error.value) from error


def _middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    """Outermost first."""
    middleware = [Middleware(RequestIdMiddleware)]
    if settings.root_path:
        middleware.append(Middleware(RootPathMiddleware, root_path=settings.root_path))
    if settings.trusted_proxies:
        middleware.append(Middleware(ForwardedMiddleware, trusted=settings.trusted_proxies))
    middleware += [Middleware(AccessMiddleware, metrics=metrics), Middleware(CrowdMiddleware)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],  # client libraries have theirs, OpenAI's a dozen
                expose_headers=["X-Request-Id", "X-Sample-Id", "Retry-After"],
            )
        )
    middleware.append(Middleware(OwnerMiddleware, keys=_keys(settings), is_page=player.is_page))
    middleware.append(
        Middleware(BodyLimitMiddleware, max_bytes=settings.body_bytes, timeout_s=settings.body_timeout_s)
    )
    return middleware


def _keys(settings: Settings) -> Keys | None:
    """Raises ParameterError if the file of keys cannot be used."""
    if not settings.is_guarded:
        return None
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return Keys(key, settings.api_keys_file)
