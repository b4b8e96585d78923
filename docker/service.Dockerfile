# The service: slimq[serve] and nothing that trains. Policies are mounted at /policies, read-only.
#   docker build -f docker/service.Dockerfile -t slimq-service .
#   docker run --rm --init -p 127.0.0.1:8000:8000 -v ./policies:/policies:ro slimq-service

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY service service
COPY trainer trainer
COPY compression compression
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/slimq \
    && /opt/slimq/bin/pip install --no-cache-dir "$(echo /wheels/slimq-*.whl)[serve]"

FROM python:3.11-slim
COPY --from=build /opt/slimq /opt/slimq
COPY --chmod=755 docker/healthcheck.py /usr/local/bin/slimq-healthcheck
ENV PATH=/opt/slimq/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SLIMQ_HOST=0.0.0.0 \
    SLIMQ_POLICIES=/policies \
    SLIMQ_PORT=8000
WORKDIR /
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["slimq-healthcheck"]
CMD ["slimq", "serve"]
