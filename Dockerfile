# The image of a kuberay profile, for processors: docs/clusters/kuberay.md.
#
#   docker build --tag REGISTRY/distilsearch:0.1.0 .
#
# A plain torch brings CUDA's libraries along, several gigabytes that nothing here uses. Where pip is told of a place with the build for
# processors, by its own settings, they stay away.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

# KubeRay's probes ask a pod's health by wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home --shell /bin/bash ray

# Installed for everyone and not into a venv: KubeRay may start Ray in a login shell, whose PATH is the system's. Byte code is written
# here, since the user below may not, and each lane is a process of its own (docs/decisions/0009).
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY constraints.txt ./
RUN pip install --constraint constraints.txt torch
COPY pyproject.toml README.md ./
COPY spaces spaces
COPY search search
COPY cluster cluster
COPY examples examples
RUN pip install --constraint constraints.txt . && rm -rf /source/*

USER 1000:1000
WORKDIR /home/ray
CMD ["distilsearch", "--help"]
