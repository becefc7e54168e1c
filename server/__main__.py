"""`python -m server` serves checkpoints. `--help` lists the flags; each is also an environment variable, TD_FLAG."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import uvicorn
from transformers.utils.logging import disable_progress_bar

from . import logs
from .app import create_app, load_engine
from .lifecycle import CLOSE_S, DrainingServer
from .settings import read_settings

log = logging.getLogger("server")

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop. 2 if the settings or a checkpoint cannot be used, else 0."""
    try:
        settings = read_settings(arguments)
        logs.configure(settings.log_level, settings.log_format)
        disable_progress_bar()
        engine = load_engine(settings)
    except ValueError as error:
        print(f"python -m server: error: {error}", file=sys.stderr)
        return 2
    for checkpoint in engine.checkpoints.values():
        log.info("loaded %s: %s, from %s", checkpoint.name, checkpoint.process, checkpoint.path)
    if settings.api_key is None and settings.host not in LOCAL_HOSTS:
        log.warning("no --api_key: everyone who reaches %s:%d can use this server", settings.host, settings.port)
    config = uvicorn.Config(
        create_app(settings, engine),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # AccessMiddleware writes it
        server_header=False,
        timeout_graceful_shutdown=CLOSE_S,
    )
    DrainingServer(config, engine, settings.shutdown_grace_s).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
