"""Settings of the service; `settings_reading.py` reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from slimq.core.providers import CPU, PROVIDERS
from slimq_service.settings_types import (
    Hosts,
    Key,
    Origins,
    Peers,
    Pinned,
    Providers,
    RootPath,
    SocketPath,
)

PREFIX = "SLIMQ_"
PROVIDERS_SETTING = "settings", f"{PREFIX}PROVIDERS"
"""The place that errors about execution providers name."""
SECRETS = frozenset(("api_key", "admin_key"))
"""Settings whose values never appear in messages."""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads_per_worker(values: dict[str, Any]) -> int:
    workers: int = values.get("workers", 1)
    return max(1, _processors() // workers)


class Settings(BaseSettings):
    """Settings of a service process; each can be set by `SLIMQ_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    policies: Path = Field(default=Path("policies"), description="repository of policies")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65_535, description="port; 0 for any free one")
    uds: SocketPath | None = Field(
        default=None, description="Unix socket to listen on instead of host and port"
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="worker processes; each loads its own copy of the variants",
    )
    worker_stall_seconds: float = Field(
        default=10.0,
        ge=1,
        le=3600,
        description="time after which one of several workers is replaced if it does not answer",
    )
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="separate port for metrics, loads and unloads; 0 for any free one; unset: "
        "one port for everything",
    )
    admin_host: str = Field(
        default="127.0.0.1", min_length=1, description="address of the admin port"
    )
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="port for gRPC, at the same host; 0 for any free one; needs slimq[grpc]",
    )
    root_path: RootPath = Field(
        default="",
        description="path prefix behind a proxy, such as /slimq, whether or not the proxy "
        "strips it",
    )
    forwarded_allow_ips: Peers = Field(
        default=("127.0.0.1", "::1", "unix"),
        description="addresses and networks of proxies whose X-Forwarded-* and Forwarded "
        "headers are trusted; unix for a Unix socket, * for all",
    )
    access_log: bool = Field(default=False, description="log every request")
    traces: bool = Field(
        default=False,
        description="export spans, as configured by OTEL_* variables; needs slimq[otel]",
    )
    api_key: Key | None = Field(
        default=None,
        description="key required by every request except health checks and the page's files",
    )
    api_key_file: Path | None = Field(default=None, description="file that holds that key")
    admin_key: Key | None = Field(
        default=None,
        description="key required for loading and unloading; also accepted for everything else",
    )
    admin_key_file: Path | None = Field(default=None, description="file that holds that key")
    allowed_hosts: Hosts = Field(
        default=(),
        description="host names under which browsers may load, unload and open streams, besides "
        "IP addresses and localhost: a name, *.name for its subdomains, or * for "
        "any; if empty, any unless the service listens on a loopback address",
    )
    cors_origins: Origins = Field(
        default=(),
        description="origins whose web pages may use the service, such as "
        "https://slimq.example, or * for any",
    )
    max_batch: int = Field(
        default=256, ge=1, le=65_536, description="maximum number of observations in a request"
    )
    max_body_bytes: int = Field(
        default=8 * 2**20, ge=1, le=2**31, description="maximum size of a request body"
    )
    max_header_bytes: int = Field(
        default=32 * 2**10,
        ge=512,
        le=2**20,
        description="maximum size of the request line and headers",
    )
    header_seconds: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="timeout for the request line and headers; for the first request, from the "
        "start of the connection",
    )
    send_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="time after which a client that reads no more of its response is disconnected",
    )
    max_connections: int = Field(
        default=10_000, ge=1, le=10**6, description="maximum number of open connections per process"
    )
    body_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="timeout for a request body to arrive"
    )
    watch_seconds: float = Field(
        default=0.5, gt=0, le=3600, description="interval between scans of the repository"
    )
    retry_seconds: float = Field(
        default=5.0, ge=0, le=3600, description="delay before a broken variant is retried"
    )
    memory_budget_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**50,
        description="memory for variants, beyond which the least recently used are evicted; "
        "unset: no limit",
    )
    providers: Providers = Field(
        default=CPU,
        description="execution providers in order of preference, comma-separated, out of "
        f"{', '.join(PROVIDERS)}",
    )
    max_model_bytes: int = Field(
        default=512 * 2**20,
        ge=1,
        le=2**31 - 1,
        description="maximum size of a model, uncompressed",
    )
    memory_limit_bytes: int | None = Field(
        default=None,
        ge=2**27,
        le=2**50,
        description="memory limit of the process, on Linux; unset: its size at startup plus all "
        "memory of the machine or container",
    )
    pinned: Pinned = Field(
        default=(),
        description="variants to load at startup and never evict, as policy/variant,policy/variant",
    )
    inline_seconds: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="longest expected run in the event loop; longer ones are handed to a thread; "
        "unset: the cost of a handoff, measured at startup",
    )
    alone_seconds: float = Field(
        default=2e-3,
        ge=0,
        le=1,
        description="longest expected run in the event loop when no other request is pending",
    )
    inference_threads: int = Field(
        default_factory=_threads_per_worker,
        ge=1,
        le=1024,
        description="threads of each worker for runs outside the event loop",
    )
    batch_observations: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="maximum number of observations in a batch of several requests; a variant "
        "is run with every power-of-two batch size up to it when it is loaded",
    )
    queue_requests: int = Field(
        default=1024, ge=1, le=10**6, description="maximum number of queued requests"
    )
    queue_bytes: int = Field(
        default=256 * 2**20,
        ge=1,
        le=2**40,
        description="maximum size of all queued bodies and observations",
    )
    queue_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="longest time that a request is queued"
    )
    streams: int = Field(
        default=256,
        ge=0,
        le=10**6,
        description="maximum number of open streams per worker; 0 for none",
    )
    stream_idle_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="time without a message after which a stream is closed",
    )
    stream_message_bytes: int = Field(
        default=2**20, ge=1, le=2**31, description="maximum size of a stream message"
    )
    games: int = Field(
        default=2,
        ge=0,
        le=64,
        description="maximum number of games that a worker plays for the page; 0 for none",
    )
    keep_alive_seconds: int = Field(
        default=75, ge=1, le=3600, description="idle time after which a connection is closed"
    )
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="time after SIGTERM during which requests are still accepted while /readyz "
        "reports not ready",
    )
    shutdown_seconds: int = Field(
        default=30, ge=1, le=3600, description="time for requests to finish after SIGTERM"
    )

    @field_validator("api_key_file", "admin_key_file")
    @classmethod
    def _check_key_file(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        key = str(info.field_name).removesuffix("_file")
        if value is not None and info.data.get(key) is not None:
            raise ValueError(f"expected either this or {PREFIX}{key.upper()}, received both")
        return value

    @field_validator("admin_port", "grpc_port")
    @classmethod
    def _check_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        others = ["admin_port"] if info.data.get("uds") else ["port", "admin_port"]
        for other in others:
            if value and value == info.data.get(other):
                raise ValueError(f"must differ from {PREFIX}{other.upper()}")
        return value

    def reveal(self) -> str:
        """Serializes the settings with their secrets, to be piped to workers and nowhere else."""
        document = self.model_dump(mode="json")
        for name in SECRETS:
            secret: SecretStr | None = getattr(self, name)
            document[name] = None if secret is None else secret.get_secret_value()
        return json.dumps(document)

    def pinned_keys(self) -> frozenset[tuple[str, str]]:
        """The pinned variants as (policy, variant)."""
        return frozenset(
            (policy, variant) for policy, variant in (p.split("/") for p in self.pinned)
        )
