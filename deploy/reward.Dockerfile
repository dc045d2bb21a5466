# The reward service, and the renderer of training data; neither needs diffusers, trl or transformers.
#
#   docker build -f deploy/reward.Dockerfile --target cpu -t REGISTRY/phys4d-reward:0.1.0 .
#   docker build -f deploy/reward.Dockerfile --target gpu -t REGISTRY/phys4d-reward:0.1.0-gpu .
#   docker build -f deploy/reward.Dockerfile --target data -t REGISTRY/phys4d-data:0.1.0 .
#
# For a build that is the same tomorrow give the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY phys4d phys4d
COPY reward_service reward_service
RUN pip install -c constraints.txt setuptools
RUN pip install -c constraints.txt --no-build-isolation '.[serve]'

FROM build AS build-gpu
RUN pip install -c constraints.txt --no-build-isolation '.[serve,gpu]'

# Drawing takes warp and mujoco-warp, which asks for a mujoco that pyproject.toml says why not to install.
FROM build AS build-data
RUN pip install -c constraints.txt --no-build-isolation '.[serve,sim]'
RUN pip install -c constraints.txt --no-deps mujoco-warp==4.0.0

FROM ${BASE} AS runtime
# KubeRay's probes of Ray containers call bash, wget and grep.
RUN apt-get update && apt-get install -y --no-install-recommends wget libgomp1 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 phys4d && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp phys4d
# Custom rewards of this folder are found as examples.NAME; put yours beside them.
COPY examples /opt/phys4d/examples
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/phys4d PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /tmp
USER 10001:10001
EXPOSE 9000 9464
# In a cluster KubeRay gives the command and the probes; alone the image is a plain server.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s CMD ["python", "-m", "reward_service.health"]
CMD ["python", "-m", "reward_service.plain", "--host", "0.0.0.0", "--metrics-port", "9464"]

FROM runtime AS cpu
COPY --from=build /opt/venv /opt/venv

FROM runtime AS gpu
COPY --from=build-gpu /opt/venv /opt/venv

FROM runtime AS data
COPY --from=build-data /opt/venv /opt/venv
# A job, not a server: it is well while files come.
HEALTHCHECK --interval=60s --start-period=60m CMD test -n "$(find /data -type f -mmin -60 -print -quit)"
CMD ["python", "-m", "phys4d.scenes.render", "--help"]
