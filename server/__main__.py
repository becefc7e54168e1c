"""`python -m server` serves checkpoints. `--help` lists the flags; each is also an environment variable, TD_FLAG."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("server")


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop, and return the exit code.

    0 after a signal, 2 if the settings or a checkpoint cannot be used, 70 if a step did not end, 71 if the engine died. A
    signal while loading, or a second one, ends the process at once, with 128 + its number.
    """
    with _signals_at_once():
        try:
            return _serve(arguments)
        except ValueError as error:
            print(f"python -m server: error: {error}", file=sys.stderr)
            return 2
        finally:
            for handler in logging.getLogger().handlers:
                handler.flush()  # a child of multiprocessing ends without the interpreter's own end


def _serve(arguments: Sequence[str]) -> int:
    """Raises ValueError, in one line, for what cannot be used."""
    # Seconds, in which a signal must find the handlers in place; as the first process of a container has none of its own.
    from transformers.utils.logging import disable_progress_bar

    from .app import create_app, start_loading
    from .connections import serving_config
    from .lifecycle import CLOSE_S, DrainingServer, bound, listen
    from .settings import read_settings
    from .telemetry import logs

    settings = read_settings(arguments)
    logs.configure(settings.log_level, settings.log_format)
    disable_progress_bar()
    with bound(settings.host, settings.port) as sockets:
        engine = start_loading(settings)
        config = serving_config(create_app(settings, engine), settings, timeout_graceful_shutdown=CLOSE_S)
        server = DrainingServer(config, engine, settings.shutdown_grace_s)
        listen(sockets, config)
        server.run(sockets)
    if not isinstance(error := engine.exception(), ValueError | None):
        log.critical("loading has failed", exc_info=error)
        return 2
    if engine.result().alive:  # it hangs, and would hang the interpreter's end
        logging.shutdown()
        os._exit(server.exit_code)
    return server.exit_code


@contextmanager
def _signals_at_once() -> Iterator[None]:
    """In here SIGTERM and SIGINT end the process, without a traceback, wherever uvicorn does not handle them."""

    def end(sig: int, frame: FrameType | None) -> None:
        os._exit(128 + sig)

    before = {sig: signal.signal(sig, end) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
