# Two images: the orchestrator without torch, the worker with it.
#
#   docker build --target orchestrator --tag justright-orchestrator .
#   docker build --target worker --tag justright-worker .
#
# Run them with --init: a process that is number 1 ignores a SIGTERM that it has not asked for yet.

FROM python:3.12-slim AS base
ENV JUSTRIGHT_STATE=/var/lib/justright \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
# Its home is the state folder: the one place it may write to. A new volume there is its own, too.
RUN useradd --system --user-group --no-log-init --uid 10001 --shell /usr/sbin/nologin \
    --home-dir /var/lib/justright --create-home justright && \
    install --directory --owner=justright --group=justright /var/lib/justright/artifacts

FROM base AS source
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY justright justright
COPY orchestrator orchestrator
COPY worker worker

FROM base AS orchestrator
COPY --from=source /src /src
WORKDIR /src
RUN pip install --no-cache-dir --constraint constraints.txt '.[orchestrator,dashboard,postgres]'
# Not /src: from there, `python -m` would import the sources instead of what is installed.
WORKDIR /app
COPY deploy/__init__.py deploy/health.py deploy/
USER 10001
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "-m", "deploy.health", "orchestrator"]
ENTRYPOINT ["justright"]
CMD ["orchestrator"]

FROM base AS worker
# Which torch: a requirement such as torch==2.11.0 (empty: the version of constraints.txt), and an
# index that has the build for the machine's driver (empty: PyPI, whose Linux builds are for CUDA).
ARG TORCH=""
ARG PIP_EXTRA_INDEX_URL=""
# worker, or with a comma more extras, such as worker,examples.
ARG EXTRAS=worker
# nvidia-smi, by which the worker counts its GPUs, is "utility".
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /src
# torch before the sources: gigabytes that a change of ours does not fetch again.
COPY constraints.txt ./
RUN sed "s|^torch==.*|${TORCH:-&}|" constraints.txt > worker-constraints.txt && \
    pip install --no-cache-dir --constraint worker-constraints.txt torch
COPY --from=source /src /src
RUN pip install --no-cache-dir --constraint worker-constraints.txt ".[${EXTRAS}]"
WORKDIR /app
COPY deploy/__init__.py deploy/health.py deploy/
USER 10001
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-m", "deploy.health", "worker"]
ENTRYPOINT ["justright"]
CMD ["worker"]
