# The service: slimq[serve] without anything for training. Policies are mounted at /policies, read-only.
#   docker build -f docker/service.Dockerfile -t slimq-service .
#   docker run --rm --init --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v ./policies:/policies:ro slimq-service
# Packages are pinned with hashes in docker/requirements (make lock), the base image by the digest of its
# multi-platform index (amd64 and arm64).
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    SOURCE_DATE_EPOCH=315532800
WORKDIR /source
COPY docker/requirements/build.txt docker/requirements/serve.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-deps --only-binary=:all: --require-hashes -r requirements/build.txt \
    && python -m venv --without-pip /opt/slimq \
    && /opt/build/bin/pip --python /opt/slimq/bin/python install --no-compile --no-deps --only-binary=:all: \
        --require-hashes -r requirements/serve.txt
COPY docker/trim docker/trim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils \
    && docker/trim /opt/slimq/lib/python3.11/site-packages
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY service service
COPY trainer trainer
COPY compression compression
COPY docker/absent.py docker/absent.py
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/slimq/bin/python install --no-compile --no-deps /wheels/slimq-*.whl \
    && /opt/slimq/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/slimq/lib \
    && /opt/slimq/bin/python docker/absent.py

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/slimq /opt/slimq
COPY --chmod=755 docker/healthcheck.py /usr/local/bin/slimq-healthcheck
ENV PATH=/opt/slimq/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SLIMQ_HOST=0.0.0.0 \
    SLIMQ_POLICIES=/policies \
    SLIMQ_PORT=8000
WORKDIR /
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slimq-service" \
      org.opencontainers.image.description="Serves any variant of compressed DQN policies over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["slimq-healthcheck"]
CMD ["slimq", "serve"]
