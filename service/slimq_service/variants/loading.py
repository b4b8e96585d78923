"""Loading a variant: read, verify, build, warm up and measure it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.errors import RepositoryError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.observation import INTEGER_RANGES, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.providers import CPU
from slimq.core.qfunction import QFunction
from slimq.core.repository import Repository
from slimq_service.variants.cost import Cost, measure

EXTREME = 1e3
"""Larger than any observation value of a float32 environment; integers stay in their range."""
BATCH_TOLERANCE = 1e-3
"""Tolerance of batch invariance, relative to the largest Q-value."""


@dataclass
class Leases:
    """The number of requests using a session, counted across renewals of its manifest."""

    count: int = 0


@dataclass(frozen=True)
class LoadedVariant:
    """One version of a variant, ready to answer; immutable, and replaced as a whole.

    Attributes:
        policy: the manifest it was loaded with, so that observation layout and model fit each other
            while a new version is being published.
        manifest: the variant's manifest.
        q_function: its model.
        cost: of a run, by batch size.
        batch_invariant: whether observations of several clients may share a batch.
        memory_bytes: growth of the process: weights, and the buffers of the largest batch.
        leases: of the requests that use it.
    """

    policy: PolicyManifest
    manifest: VariantManifest
    q_function: QFunction
    cost: Cost
    batch_invariant: bool = True
    memory_bytes: int = 0
    leases: Leases = field(default_factory=Leases, compare=False)

    def numbers_of(self, actions: list[int]) -> list[int]:
        """The environment's numbers of actions, which are indices of Q-values here."""
        start = self.policy.action_start
        return [action + start for action in actions] if start else actions

    @property
    def sha256(self) -> str:
        """The sha256 of the stored model."""
        return self.manifest.model.sha256


def load(
    repository: Repository,
    policy: PolicyManifest,
    variant: str,
    max_batch: int = 8,
    providers: Sequence[str] = CPU,
) -> LoadedVariant:
    """Reads, verifies, builds and warms up a variant; too slow for the event loop.

    Args:
        repository: where it is read from.
        policy: the manifest it is loaded with.
        variant: its name.
        max_batch: largest batch size to warm up: the first run of a size allocates memory, and no
            request should wait for that.
        providers: execution providers, as for `make_session`.

    Raises:
        RepositoryError: a file is missing, truncated or tampered with, the model does not fit the
            policy, or its Q-values are not finite for an all-zero observation.
        NotFoundError: the variant was removed.
    """
    trim_memory()
    before = resident_bytes()
    manifest, content = repository.read_model(policy.name, variant)
    name, actions = f"{policy.name}/{variant}", len(policy.actions)
    q_function = OnnxPolicy(content, policy.observation, actions, name, providers)
    try:
        cost = measure(q_function, policy.observation, max_batch)
        batch_invariant = is_batch_invariant(q_function, policy.observation)
    except Exception as error:  # whatever the runtime raises for a model that cannot run
        path = f"{policy.name}/{variant}/{manifest.model.path}"
        raise RepositoryError(path, f"the model does not run: {error}") from error
    if not np.isfinite(q_function(policy.observation.zeros())).all():
        path = f"{policy.name}/{variant}/{manifest.model.path}"
        raise RepositoryError(path, "returns non-finite Q-values for an all-zero observation")
    least = len(content)
    del content
    trim_memory()
    memory_bytes = max(least, resident_bytes() - before)
    return LoadedVariant(policy, manifest, q_function, cost, batch_invariant, memory_bytes)


def is_batch_invariant(q_function: QFunction, spec: ObservationSpec) -> bool:
    """Whether an observation's Q-values do not depend on the rest of its batch.

    They do if the model scales its activations by batch (DynamicQuantizeLinear): one client's
    observations would then change another's Q-values. Each test observation is run in a batch of
    its own copies and in one with extreme values, of the same shape and so with the same rounding.
    """
    rows = unlike_rows(spec)
    mixed = q_function(np.stack(rows))
    for number, beside in enumerate(mixed):
        alone = q_function(np.stack([rows[number]] * len(rows)))[number]
        finite = np.abs(alone[np.isfinite(alone)])  # extreme inputs may overflow
        tolerance = BATCH_TOLERANCE * float(finite.max(initial=0))
        if not np.allclose(beside, alone, rtol=0, atol=tolerance, equal_nan=True):
            return False
    return True


def unlike_rows(spec: ObservationSpec) -> list[npt.NDArray[Any]]:
    """Valid observations `(*shape)` as different as possible: noise, zeros, and both extremes."""
    generator = np.random.default_rng(0)
    noise: npt.NDArray[Any]
    if spec.dtype == "float32":
        noise, least, most = generator.normal(0, 0.1, spec.shape), -EXTREME, EXTREME
    else:
        noise = generator.integers(0, 256, spec.shape)
        least, most = np.clip(INTEGER_RANGES[spec.dtype], -EXTREME, EXTREME)
    constants = (least, most, 0.0) if least else (least, most)
    rows = [noise, *(np.full(spec.shape, value) for value in constants)]
    if (ranges := spec.integer_ranges) is not None:
        low = np.where(np.isinf(ranges.low), np.minimum(ranges.high, 0) - EXTREME, ranges.low)
        high = np.where(np.isinf(ranges.high), np.maximum(low, 0) + EXTREME, ranges.high)
        drawn = low + np.floor(generator.random(low.shape) * (high - low + 1))
        for row, values in zip(rows, (drawn, low, high, np.clip(0, low, high)), strict=False):
            row[ranges.indices] = values
    return [row.astype(spec.numpy_dtype) for row in rows]


def trim_memory() -> None:
    """Returns memory freed by dropped models to the system, if the C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


def resident_bytes() -> int:
    """Resident memory of the process; 0 if the system does not report it."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
