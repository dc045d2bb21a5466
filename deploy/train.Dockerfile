# Stages 1 to 3, evaluation and report; no Ray and no simulator, rewards come over gRPC.
#
#   docker build -f deploy/train.Dockerfile -t REGISTRY/phys4d-train:0.1.0 .
#
# For a build that is the same tomorrow give the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY phys4d phys4d
COPY policy policy
COPY pretrain pretrain
COPY sft sft
RUN pip install -c constraints.txt setuptools
RUN pip install -c constraints.txt --no-build-isolation '.[train]'

FROM ${BASE} AS runtime
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 phys4d && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp phys4d
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp TOKENIZERS_PARALLELISM=false
WORKDIR /tmp
USER 10001:10001
# A job, not a server: it is well while it writes to the volume of runs (metrics.jsonl grows with every step).
HEALTHCHECK --interval=60s --start-period=60m CMD test -n "$(find /runs -type f -mmin -60 -print -quit)"
CMD ["python", "-m", "policy.train", "--help"]
