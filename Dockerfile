# The appliance image: a vLLM base image plus what serving an omni model needs on top.
# No "syntax=" line on purpose: a frontend image could not be pulled without a registry.
#
#   docker build --build-arg BASE_IMAGE=quay.io/ascend/vllm-ascend:v0.23.0 .
#
# Nothing here comes from a distribution's packages, so one file serves Debian and Ubuntu
# (apt) and openEuler (dnf, yum) bases, on amd64 and arm64: ffmpeg is a static build from a
# Python package, whose hash requirements/image.txt pins.
ARG BASE_IMAGE=quay.io/ascend/vllm-ascend:v0.23.0
# `own` keeps the base's entrypoint: the Ascend base sources CANN's environment in it.
# `cleared` is for bases that start `vllm serve` whatever they are told to run, as the vLLM
# project's CPU image does.
ARG BASE_ENTRYPOINT=own

FROM ${BASE_IMAGE} AS base-own

FROM ${BASE_IMAGE} AS base-cleared
ENTRYPOINT []

FROM base-${BASE_ENTRYPOINT}
ARG BASE_IMAGE

# The company's CA bundle comes as a build secret: it serves these steps and is not kept.
# Proxies are Docker's own predefined build arguments (HTTP_PROXY and so on).
RUN --mount=type=bind,source=image,target=/tmp/context/image \
    --mount=type=bind,source=requirements,target=/tmp/context/requirements \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    --mount=type=secret,id=pip_index_url \
    . /tmp/context/image/trust.sh; \
    python3 -B /tmp/context/image/install.py packages /tmp/context/requirements/image.txt

# A decoder that is missing fails the build here, before any weight is ever loaded.
RUN --mount=type=bind,source=image,target=/tmp/context/image \
    --mount=type=bind,source=healthchecks/media,target=/tmp/context/media \
    cd /tmp; NUMBA_CACHE_DIR=/tmp/numba python3 -B /tmp/context/image/check.py /tmp/context/media; \
    status=$?; rm -rf /tmp/numba; exit $status

# What changes often comes last.
RUN --mount=type=bind,target=/tmp/context \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    --mount=type=secret,id=pip_index_url \
    . /tmp/context/image/trust.sh; \
    python3 -B /tmp/context/image/install.py project /tmp/context

ARG CONTEXT_HASH=""
# The digest by which registries know the base, empty for a base that was built or loaded. Set
# even then: else the base's own label, on its own base, would be inherited.
ARG BASE_DIGEST=""
LABEL org.opencontainers.image.title="qwen3-omni-appliance" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      appliance.context-hash="${CONTEXT_HASH}"

# Lets the launcher in the image know that the paths it is given are the host's.
ENV APPLIANCE_INSIDE_IMAGE=1
EXPOSE 8000
STOPSIGNAL SIGINT
# A model may load for half an hour: until then a failing check says nothing.
HEALTHCHECK --interval=30s --timeout=60s --start-period=30m --retries=3 \
    CMD ["python3", "-m", "healthchecks", "progress", \
         "--watched", "/tmp/appliance-progress.json"]
