"""What the service can be told, from `SLIMQ_*` variables and flags, read once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from slimq.core.errors import ConfigError, nearest
from slimq.core.providers import CPU, PROVIDERS
from slimq_service.settings_types import Hosts, Key, Origins, Peers, Pinned, Providers, RootPath

PREFIX = "SLIMQ_"
OF_OTHER_COMMANDS = frozenset(("URL",))
PROVIDERS_SETTING = "settings", f"{PREFIX}PROVIDERS"
"""How errors name where execution providers are asked for."""
SECRETS = frozenset(("api_key", "admin_key"))
"""Settings whose values no message repeats."""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Settings of one service process. Each can be given as `SLIMQ_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    policies: Path = Field(default=Path("policies"), description="the repository of policies")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65_535, description="port, 0 for any free one")
    workers: int = Field(
        default=1, ge=1, le=256, description="processes that answer; each has every variant"
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
        description="port that alone answers metrics, loads and unloads, 0 for any free one; null: "
        "all is at one port",
    )
    admin_host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on for that port"
    )
    root_path: RootPath = Field(
        default="",
        description="prefix of every path behind a proxy, such as /slimq, whether the proxy strips "
        "it or not",
    )
    forwarded_allow_ips: Peers = Field(
        default=("127.0.0.1", "::1", "unix"),
        description="addresses and networks of proxies whose X-Forwarded-* and Forwarded headers "
        "count; unix for a socket in the file system, * for all",
    )
    access_log: bool = Field(default=False, description="whether every request is logged")
    traces: bool = Field(
        default=False,
        description="whether spans are sent, as OTEL_* variables say; needs slimq[otel]",
    )
    api_key: Key | None = Field(
        default=None, description="key that every request must bring, except those for health"
    )
    api_key_file: Path | None = Field(default=None, description="file with that key")
    admin_key: Key | None = Field(
        default=None, description="key that loading and unloading needs, and that is good for all"
    )
    admin_key_file: Path | None = Field(default=None, description="file with that key")
    allowed_hosts: Hosts = Field(
        default=(),
        description="names, *.name for those below one, or * for any, under which a browser may "
        "load, unload and open streams, beside addresses and localhost; any where it is empty and "
        "SLIMQ_HOST is no loopback address",
    )
    cors_origins: Origins = Field(
        default=(),
        description="origins, such as https://slimq.example, whose web pages may use the service, "
        "or * for any",
    )
    max_batch: int = Field(default=256, ge=1, le=65_536, description="observations in one request")
    max_body_bytes: int = Field(
        default=8 * 2**20, ge=1, le=2**31, description="bytes of one request's body"
    )
    max_header_bytes: int = Field(
        default=32 * 2**10, ge=512, le=2**20, description="bytes of a request's line and headers"
    )
    header_seconds: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="time in which a request's line and headers must arrive, for the first of a "
        "connection from its start on",
    )
    send_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="time in which a client must take more of its answer before it is cut off",
    )
    max_connections: int = Field(
        default=10_000, ge=1, le=10**6, description="connections that may be open in one process"
    )
    body_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="time in which a request's body must arrive"
    )
    watch_seconds: float = Field(
        default=0.5, gt=0, le=3600, description="time between two looks at the repository"
    )
    retry_seconds: float = Field(
        default=5.0, ge=0, le=3600, description="time after which a broken variant is tried again"
    )
    memory_budget_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**50,
        description="memory that variants may take before the least recently used go; null: no "
        "limit",
    )
    providers: Providers = Field(
        default=CPU,
        description="what runs the models, the preferred one first: "
        f"{', '.join(PROVIDERS)}; with commas between them",
    )
    max_model_bytes: int = Field(
        default=512 * 2**20,
        ge=1,
        le=2**31 - 1,
        description="bytes of a model, uncompressed; a larger one is refused",
    )
    memory_limit_bytes: int | None = Field(
        default=None,
        ge=2**27,
        le=2**50,
        description="memory beyond which the process is refused more, on Linux; null: what it has "
        "at its start and all that the machine or the container has",
    )
    pinned: Pinned = Field(
        default=(),
        description="variants that are loaded at the start and never evicted, as "
        "policy/variant,policy/variant",
    )
    inline_seconds: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="a run expected to take longer is handed to a thread; null: what handing it "
        "over costs, measured at the start",
    )
    alone_seconds: float = Field(
        default=2e-3,
        ge=0,
        le=1,
        description="one expected to take up to this is not, while nothing else is to be done",
    )
    inference_threads: int = Field(
        default_factory=_processors, ge=1, le=1024, description="threads for the larger batches"
    )
    batch_observations: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="observations of waiting requests that are computed together; a variant is run "
        "with every power of two up to it when it is loaded",
    )
    queue_requests: int = Field(
        default=1024, ge=1, le=10**6, description="requests that may wait for a thread"
    )
    queue_bytes: int = Field(
        default=256 * 2**20,
        ge=1,
        le=2**40,
        description="bytes of bodies and observations that may wait for a thread",
    )
    queue_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="longest time that a request waits for a thread"
    )
    streams: int = Field(
        default=256,
        ge=0,
        le=10**6,
        description="streams that are open at a time in each worker; 0 for none",
    )
    stream_idle_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="time without a message after which a stream is closed",
    )
    stream_message_bytes: int = Field(
        default=2**20, ge=1, le=2**31, description="bytes of one message of a stream"
    )
    keep_alive_seconds: int = Field(
        default=75, ge=1, le=3600, description="idle time after which a connection is closed"
    )
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="time after SIGTERM in which requests are still taken, while /readyz says no",
    )
    shutdown_seconds: int = Field(
        default=30, ge=1, le=3600, description="time that requests have to finish after SIGTERM"
    )

    @field_validator("api_key_file", "admin_key_file")
    @classmethod
    def _check_key_file(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        key = str(info.field_name).removesuffix("_file")
        if value is not None and info.data.get(key) is not None:
            raise ValueError(f"expected this or {PREFIX}{key.upper()}, received both")
        return value

    @field_validator("admin_port")
    @classmethod
    def _check_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port"):
            raise ValueError(f"expected another than {PREFIX}PORT")
        return value

    def reveal(self) -> str:
        """All of them as JSON, what is secret too: for workers, by a pipe, and for nobody else."""
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


def read_settings(**flags: Any) -> Settings:
    """The settings, where a flag that is not None takes precedence over its variable.

    Raises:
        ConfigError: a value is out of its bounds, naming the variable.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        problem = first["msg"]
        if first["loc"] and name not in SECRETS:
            problem += f", received {first.get('input')!r}"
        raise ConfigError("settings", PREFIX + name.upper(), problem) from error


def unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """`SLIMQ_*` variables that nothing reads, each with the nearest that is read, if any is near.

    They are no error: Kubernetes, for one, gives every container variables named after services.
    """
    known = [name.upper() for name in Settings.model_fields]
    unknown: dict[str, str | None] = {}
    for name in sorted(names):
        ours, key = name.upper().startswith(PREFIX), name.upper().removeprefix(PREFIX)
        if ours and key not in known and key not in OF_OTHER_COMMANDS:
            near = nearest(key, known)
            unknown[name] = None if near is None else PREFIX + near
    return unknown
