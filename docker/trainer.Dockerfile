# Offline work: all of slimq, to train, compress, search and evaluate.
#   docker build -f docker/trainer.Dockerfile -t slimq-trainer .
#   docker run --rm -it --user "$(id -u):$(id -g)" -v ./policies:/work/policies slimq-trainer compress pong int8
# torch is the CPU build; for CUDA (run it with --gpus all), build with
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
# Everything else is pinned with hashes in docker/requirements (make lock).
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    SOURCE_DATE_EPOCH=315532800
WORKDIR /source
COPY docker/requirements/build.txt docker/requirements/train.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-deps --only-binary=:all: --require-hashes -r requirements/build.txt \
    && python -m venv --without-pip /opt/slimq \
    && /opt/build/bin/pip --python /opt/slimq/bin/python install --no-compile --no-deps --only-binary=:all: \
        --require-hashes -r requirements/train.txt
COPY pyproject.toml README.md LICENSE ./
RUN /opt/build/bin/pip --python /opt/slimq/bin/python install --no-compile --index-url "${TORCH_INDEX}" \
        "$(sed -n '/^ *"torch==/{s/[ ",]//g;p;q}' pyproject.toml)"
COPY src src
COPY service service
COPY trainer trainer
COPY compression compression
COPY recipes recipes
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/slimq/bin/python install --no-compile --no-deps /wheels/slimq-*.whl \
    && /opt/build/bin/pip --python /opt/slimq/bin/python check

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/slimq /opt/slimq
WORKDIR /work
COPY configs configs
COPY recipes recipes
RUN mkdir --mode=1777 runs
ENV HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PATH=/opt/slimq/bin:$PATH \
    PYTHONUNBUFFERED=1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slimq-trainer" \
      org.opencontainers.image.description="Trains, compresses and evaluates DQN policies" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
ENTRYPOINT ["slimq"]
CMD ["--help"]
