"""Exports to C for tests: compiled for this machine, and compared with ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from places import POLICIES
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QValues
from slimq.core.repository import Repository
from slimq_compression.export.c.compilers import build_library, host_compiler
from slimq_compression.export.c.host import HostPolicy
from slimq_compression.export.c.source import write_sources
from slimq_compression.export.emulator.boards import has_tools
from slimq_compression.export.lowering.lower import lower
from slimq_compression.export.options import Options
from slimq_compression.export.report import CReport
from slimq_compression.export.targets import export_variant

needs_compiler = pytest.mark.skipif(
    host_compiler() is None and "CI" not in os.environ, reason="this machine lacks a C compiler"
)
needs_boards = pytest.mark.skipif(
    not has_tools() and "CI" not in os.environ,
    reason="this machine lacks arm-none-eabi-gcc or qemu-system-arm",
)
LARGE = 100_000_000
"""A limit that no variant reaches."""
BOUND = 1e-3
"""Largest difference of a Q-value, by the range of all."""


def shipped_model(policy: str, variant: str) -> tuple[onnx.ModelProto, ObservationSpec, int]:
    """A shipped variant's model with what it takes to lower it."""
    repository = Repository(POLICIES)
    manifest = repository.policy(policy)
    _, content = repository.read_model(policy, variant)
    return onnx.load_from_string(content), manifest.observation, len(manifest.actions)


def export(policy: str, variant: str, output: Path, **options: object) -> CReport:
    """Exports a shipped variant to C."""
    made = Options(**{"max_flash": LARGE, "max_ram": LARGE, **options})  # type: ignore[arg-type]
    report: CReport = export_variant(Repository(POLICIES), policy, variant, "c", output, made)
    return report


def compile_model(content: bytes, spec: ObservationSpec, actions: int, folder: Path) -> HostPolicy:
    """Lowers a model, writes it as C and compiles it for this machine."""
    network = lower(onnx.load_from_string(content), spec, actions)
    sources = write_sources(network, "policy", "A test.")
    (folder / "policy.h").write_text(sources.header)
    (folder / "policy.c").write_text(sources.source)
    assert build_library(folder, "policy", folder / "policy.so")
    return HostPolicy(folder / "policy.so", "policy", sources.state_bytes, actions)


def q_values_of(host: HostPolicy, observations: Observations) -> QValues:
    """Q-values of observations that are no stacks of frames."""
    rows = []
    for observation in observations:
        host.reset()
        host.observe(observation)
        rows.append(host.q_values())
    return np.stack(rows)


def relative_difference(
    content: bytes, spec: ObservationSpec, actions: int, folder: Path, states: Observations
) -> float:
    """Largest difference of the compiled C from ONNX Runtime, by the range of Q-values."""
    host = compile_model(content, spec, actions, folder)
    reference = OnnxPolicy(content, spec, actions)(states)
    return float(np.abs(q_values_of(host, states) - reference).max() / np.ptp(reference))


def make_check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `make check` in an export: sanitizers, then the self-test."""
    return subprocess.run(
        ["make", "check"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
