"""Small networks and a policy, made anew for each test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from slimq.core.manifest import PolicyManifest
from slimq.core.repository import Repository
from slimq.networks.qnetwork import QNetwork
from slimq_compression.context import PassContext
from slimq_compression.graph.model import to_bytes
from small_networks import build_cartpole, build_context, build_network, build_policy, draw_states


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_network() -> Callable[..., QNetwork]:
    return build_network


@pytest.fixture
def make_context() -> Callable[..., PassContext]:
    return build_context


Operators = Callable[[onnx.ModelProto], Counter[str]]


@pytest.fixture
def operators(tmp_path: Path) -> Operators:
    """What ONNX Runtime really runs of a model, counted by type."""

    def run(model: onnx.ModelProto) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        providers = ["CPUExecutionProvider"]
        onnxruntime.InferenceSession(to_bytes(model), options, providers=providers)
        return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)

    return run


@pytest.fixture
def make_states() -> Callable[..., Any]:
    return draw_states


@pytest.fixture
def make_policy() -> Callable[..., PolicyManifest]:
    return build_policy


@pytest.fixture
def cartpole_repository(tmp_path: Path) -> Repository:
    """A policy `cartpole` with checkpoint and calibration set, and no variants."""
    return build_cartpole(tmp_path / "policies")
