"""The server as a deployment of Ray Serve: replicas of the same application behind Ray's proxy, as many as the work needs.

    pip install '.[server,ray]'
    TD_CHECKPOINT_PATH=my-run/final serve run deploy.ray_serve:app max_replicas=4 num_gpus=0.5

Settings are those of `python -m server`, by the same TD_ variables, read once where this is run and handed to every replica;
`host` and `port` are Ray's own. `docs/operations.md` says when to take this.
"""

import math
import random
import re
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy, RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers.utils.logging import disable_progress_bar

from server.app import create_app
from server.settings import Settings, read_settings
from server.telemetry import logs

SESSION = "X-Session-Id"
"""On every answer: which replica gave it. Sent with a request, it asks for that one. Ray's own name for it."""

ONE_OF_OURS = re.compile(rb"/requests/smp-([0-9A-Za-z]+)-")
"""In the path of a request about a request; which replica holds it is said by its id."""

OUTSTANDING = "outstanding_work"

MAX_ONGOING_REQUESTS = 4096
"""Of a replica, at Ray's proxy. Never in the way: how much a replica takes is for its own admission, which knows the work."""

CLOSE_S = 5.0
"""Seconds that a replica may take to stop once its last request has ended."""


class Options(BaseModel):
    """Of `serve run deploy.ray_serve:app NAME=VALUE ...`, or `args:` in a config file of Serve."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=2, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    """of a replica: what Ray reserves, and the threads of its network unless num_threads is set"""
    num_gpus: float = Field(default=0.0, ge=0)
    """of a replica; two replicas of 0.5 share a GPU"""
    target_work: float = Field(default=200_000, gt=0)
    """outstanding work of a replica that scaling aims at, in token passes: its rate times the seconds one may wait"""
    look_back_s: float = Field(default=15.0, gt=0)
    upscale_delay_s: float = Field(default=10.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)


class OutstandingWork:
    """Scales by the work that all replicas have admitted and still have to do, of which a count of requests knows nothing."""

    def __init__(self, target_work: float) -> None:
        self._target_work = target_work

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Replicas wanted, before Serve applies its bounds and delays."""
        work = sum((context.aggregated_metrics or {}).get(OUTSTANDING, {}).values())
        return max(1, math.ceil(work / self._target_work)), {}


class ByReplica(RequestRouter):
    """The replica that holds the request asked for, or that `SESSION` names, if it is there; else the less busy of two."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            named = _named(pending_request)
            for replica in candidate_replicas:
                if replica.replica_id.unique_id == named:
                    return [[replica]]
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]


def _named(request: PendingRequest) -> str:
    """The replica that a request has to reach, or an empty string."""
    scope = (
        request.args[0] if request.args else None
    )  # pickled for the replica: path and headers are in it as they are
    found = ONE_OF_OURS.search(scope) if isinstance(scope, bytes) else None
    return found[1].decode() if found else request.metadata.session_id


class BehindRay:
    """Says on every answer which replica it comes from, and tells the app in ASGI's words when nobody waits for it any more."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.app, self.name = app, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_end() -> Message:
            try:
                return await receive()
            except RayError:  # the proxy's end of the request was cancelled, or the proxy itself has gone
                return {"type": "http.disconnect"}

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[SESSION] = self.name
                del headers["X-Request-Id"]  # Ray's proxy says it again
            await send(message)

        await self.app(scope, receive_or_end, send_named)


@serve.ingress()
class Server:
    """One replica: an engine of its own, in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        disable_progress_bar()
        logs.configure(settings.log_level, settings.log_format)
        name = serve.get_replica_context().replica_tag
        self._api = create_app(settings.model_copy(update={"instance": name}))
        self._api.add_middleware(BehindRay, name=name)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._api

    def check_health(self) -> None:
        """Raises if this replica should be replaced."""
        self._api.state.service.engine.check_alive()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `OutstandingWork` decides by."""
        return {OUTSTANDING: self._api.state.service.engine.jobs.work}


def app(options: Options) -> serve.Application:
    """The application that `serve run` runs. Raises ValueError, in one line, for settings that cannot be used."""
    settings = read_settings([])
    if settings.num_threads is None:
        settings = settings.model_copy(update={"num_threads": max(1, int(options.num_cpus))})
    deployment = serve.deployment(
        Server,
        name="server",
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=settings.request_timeout_s + CLOSE_S,
        graceful_shutdown_wait_loop_s=0.5,
        request_router_config=RequestRouterConfig(request_router_class=ByReplica),
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            upscale_delay_s=options.upscale_delay_s,
            downscale_delay_s=options.downscale_delay_s,
            look_back_period_s=options.look_back_s,
            policy=AutoscalingPolicy(
                policy_function=OutstandingWork, policy_kwargs={"target_work": options.target_work}
            ),
        ),
    )
    return deployment.bind(settings)
