# The load test: slimq[load], without torch or ONNX Runtime.
#   docker build -f docker/loadtest.Dockerfile -t slimq-loadtest .
#   mkdir -p runs
#   docker run --rm --init --user "$(id -u):$(id -g)" -v ./policies:/work/policies:ro -v ./runs:/work/runs \
#       slimq-loadtest http://ADDRESS:8000 --policy pong --variants fp32,int8
# Packages are pinned with hashes in docker/requirements (make lock).
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    SOURCE_DATE_EPOCH=315532800
WORKDIR /source
COPY docker/requirements/build.txt docker/requirements/load.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-deps --only-binary=:all: --require-hashes -r requirements/build.txt \
    && python -m venv --without-pip /opt/slimq \
    && /opt/build/bin/pip --python /opt/slimq/bin/python install --no-compile --no-deps --only-binary=:all: \
        --require-hashes -r requirements/load.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY service service
COPY trainer trainer
COPY compression compression
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/slimq/bin/python install --no-compile --no-deps /wheels/slimq-*.whl \
    && /opt/build/bin/pip --python /opt/slimq/bin/python check \
    && /opt/slimq/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/slimq/lib

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/slimq /opt/slimq
WORKDIR /work
RUN mkdir --mode=1777 runs
ENV HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PATH=/opt/slimq/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slimq-loadtest" \
      org.opencontainers.image.description="Compares variants of a service under load" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
ENTRYPOINT ["slimq", "loadtest"]
CMD ["--help"]
