"""Fixtures that several folders of tests share."""

from __future__ import annotations

import functools
import gc
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

import reports
from builders import build_repository, make_mlp, make_policy_manifest, make_variant_manifest
from slimq.core.manifest import FileEntry, PolicyManifest, VariantManifest
from slimq.core.report import EvaluationReport


def pytest_collection_finish() -> None:
    """Leaves what thousands of tests consist of out of garbage collections, half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Logs without the values of all variables, which take seconds to format."""
    renderer = structlog.get_config()["processors"][-1]
    assert isinstance(renderer, structlog.dev.ConsoleRenderer)
    renderer.exception_formatter = structlog.dev.plain_traceback


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """httpx reads all of them for each request without a client, in 20 ms, with or without TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """A command that ran in this process has pointed the logs at a stream that pytest closes."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def tiny_repository(tmp_path: Path) -> Path:
    """A repository with real models.

    `tiny` takes float32 `(4,)` and has 2 actions; `tiny_frames` takes uint8 `(4, 84, 84)` and has
    6. Both have the variants `fp32` and `other`, whose weights differ.
    """
    return build_repository(tmp_path / "policies")


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations measure latency in two processes, for tests of what does not depend on ten."""
    monkeypatch.setattr("slimq.evaluation.runner.PROCESSES", 2)


@pytest.fixture
def mlp() -> Callable[..., bytes]:
    """`mlp(seed, width=8)`: other models that fit the policy `tiny`."""
    return make_mlp


@pytest.fixture
def variant_manifest() -> Callable[[str, str, FileEntry], VariantManifest]:
    """`variant_manifest(policy, name, model_entry)`."""
    return make_variant_manifest


@pytest.fixture
def policy_manifest() -> Callable[..., PolicyManifest]:
    """`policy_manifest(name, calibration=None)`."""
    return make_policy_manifest


@pytest.fixture
def make_report() -> Callable[..., EvaluationReport]:
    return reports.make_report
