# docker build -t token-diffusion .                                  the server, on the CPU
# docker build -t token-diffusion:cuda --build-arg TORCH_BACKEND= .  the server, on CUDA
# docker build -t token-diffusion:trainer --target trainer .         the trainer; TORCH_BACKEND as above
#
# The base image moves under its tag. For builds that can be repeated, name one by its digest, and renew that on purpose:
#   docker buildx imagetools inspect python:3.12-slim --format '{{.Manifest.Digest}}'
#   docker build --build-arg BASE_IMAGE=python:3.12-slim@sha256:... .
ARG BASE_IMAGE=python:3.12-slim


FROM ${BASE_IMAGE} AS server-venv
# cpu, cu130, ...: the build of torch that uv has under that name. Empty: the package index's own, on Linux with CUDA.
ARG TORCH_BACKEND=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 UV_LINK_MODE=copy
WORKDIR /build
COPY constraints.txt ./
COPY requirements requirements
RUN python3 -m venv --without-pip /opt/venv && python3 -m venv /opt/tools
# torch alone comes without a hash: each of its builds has others, and an index of its own.
RUN --mount=type=cache,target=/root/.cache \
    if [ -n "$TORCH_BACKEND" ]; then \
        /opt/tools/bin/pip install --require-hashes --requirement requirements/tools.txt && \
        /opt/tools/bin/uv pip install --python /opt/venv/bin/python --constraint constraints.txt \
            --torch-backend "$TORCH_BACKEND" --no-deps --compile-bytecode torch; \
    else \
        /opt/tools/bin/pip --python /opt/venv/bin/python install --constraint constraints.txt torch; \
    fi
RUN --mount=type=cache,target=/root/.cache \
    /opt/tools/bin/pip --python /opt/venv/bin/python install --require-hashes --no-deps --requirement requirements/server.txt \
    && /opt/tools/bin/pip --python /opt/venv/bin/python check
# A resolver that replaced the CPU build would go unnoticed but for the gigabytes.
RUN [ "$TORCH_BACKEND" != cpu ] || /opt/venv/bin/python -c "import sys, torch, importlib.metadata as metadata; \
names = {d.name.lower() for d in metadata.distributions()}; \
cuda = sorted(name for name in names if name.startswith(('nvidia', 'cuda', 'triton'))); \
sys.exit(f'TORCH_BACKEND=cpu, but torch {torch.__version__} came with {cuda}' if cuda or torch.version.cuda else 0)"


FROM server-venv AS trainer-venv
RUN --mount=type=cache,target=/root/.cache \
    /opt/tools/bin/pip --python /opt/venv/bin/python install --require-hashes --no-deps --requirement requirements/trainer.txt \
    && /opt/tools/bin/pip --python /opt/venv/bin/python check


FROM ${BASE_IMAGE} AS runtime
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin app \
    && install --directory --owner=app --group=app /app /runs /hub
# A volume that is mounted at /hub belongs, like this folder, to whom the server runs as.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/hub
WORKDIR /app
USER app


FROM runtime AS trainer
COPY --from=trainer-venv /opt/venv /opt/venv
COPY token_diffusion token_diffusion
COPY trainer trainer
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--help"]


FROM runtime AS server
COPY --from=server-venv /opt/venv /opt/venv
COPY token_diffusion token_diffusion
COPY server server
COPY clients clients
COPY checkpoints checkpoints
# Nobody reaches it but through a port that is published: docker-compose.yml does so on 127.0.0.1 alone.
ENV TD_HOST=0.0.0.0 TD_PORT=8000 TD_ALLOW_ANONYMOUS=true
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['TD_PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "server"]
