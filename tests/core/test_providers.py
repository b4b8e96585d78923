"""Execution providers by short name. Only the CPU's can run here; the others are simulated."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from slimq.core.errors import ConfigError, RepositoryError
from slimq.core.observation import ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy, check_providers, make_session
from slimq.core.providers import PROVIDERS, check_available, full_names, parse_providers

PLACE = ("settings", "SLIMQ_PROVIDERS")


def test_every_name_is_one_that_onnx_runtime_knows() -> None:
    assert set(PROVIDERS.values()) <= set(ort.get_all_providers())


def test_a_list_is_read_in_its_order() -> None:
    assert parse_providers("cuda, cpu,") == ("cuda", "cpu")
    assert full_names(["cuda", "cpu"]) == ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one or more of cpu, cuda"),
        (" , ", "expected one or more of cpu, cuda"),
        ("cude", "received 'cude', did you mean 'cuda'"),
        ("CPUExecutionProvider", "expected any of cpu"),
        ("cpu,cuda,cpu", "expected each name at most once"),
    ],
)
def test_an_invalid_list_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_providers(text)


@pytest.mark.parametrize(
    ("name", "extra"), [("cuda", "serve-cuda"), ("openvino", "serve-openvino")]
)
def test_a_missing_provider_is_refused_and_its_extra_named(name: str, extra: str) -> None:
    message = f"SLIMQ_PROVIDERS: {name} is not available; available: cpu.*; install slimq.{extra}"
    for names in ([name, "cpu"], ["cpu", name]):
        with pytest.raises(ConfigError, match=message):
            check_available(names, *PLACE)
    with pytest.raises(ConfigError, match=r"coreml is not available; available: cpu$"):
        check_available(["coreml"], *PLACE)


def test_conflicting_wheels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in ("onnxruntime", "onnxruntime-gpu"):
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(
        ConfigError, match="conflicting wheels installed: onnxruntime, onnxruntime-gpu"
    ):
        check_available(["cuda"], *PLACE)


def test_the_cpu_provider_is_available_and_starts(mlp: Callable[..., bytes]) -> None:
    check_providers(["cpu"], *PLACE)
    assert make_session(mlp(), providers=["cpu"]).get_providers() == ["CPUExecutionProvider"]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Plays a wheel with CUDA in it whose driver is missing, which ONNX Runtime only logs."""
    made: list[dict[str, Any]] = []
    original = ort.InferenceSession

    def make(model: bytes, options: Any, **arguments: Any) -> Any:
        made.append(arguments)
        return original(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", make)
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    return made


def test_a_provider_that_does_not_start_is_an_error_not_a_silent_fallback(
    sessions: list[dict[str, Any]], mlp: Callable[..., bytes]
) -> None:
    check_available(["cuda", "cpu"], *PLACE)
    message = "SLIMQ_PROVIDERS: cuda does not start: expected to run on CUDA.*, runs on CPU"
    with pytest.raises(ConfigError, match=message):
        check_providers(["cuda", "cpu"], *PLACE)
    spec = ObservationSpec(dtype="float32", shape=(4,))
    with pytest.raises(RepositoryError, match=r"^tiny/x: expected to run on CUDA.*, runs on CPU"):
        OnnxPolicy(mlp(), spec, 2, "tiny/x", ["cuda", "cpu"])
    expected = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert sessions == [{"providers": expected, "enable_fallback": 0}] * 2


def test_the_preferred_provider_counts(
    sessions: list[dict[str, Any]], mlp: Callable[..., bytes]
) -> None:
    session = make_session(mlp(), providers=["cpu", "cuda"])
    assert session.run(None, {"observation": np.zeros((1, 4), np.float32)})[0].shape == (1, 2)
