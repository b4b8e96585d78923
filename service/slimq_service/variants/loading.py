"""A variant in memory, and what its inference costs, measured when it is loaded."""

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
from slimq.core.observation import ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.providers import CPU
from slimq.core.qfunction import QFunction
from slimq.core.repository import Repository
from slimq_service.variants.cost import Cost, measure

EXTREME = 1e3
"""A number that no float32 observation of an environment comes near."""
JOINED_TOLERANCE = 1e-3
"""Of the largest Q-value: how far one may move when it is computed beside others."""


@dataclass
class Leases:
    """How many requests use a session now, whatever its manifest became meanwhile."""

    count: int = 0


@dataclass(frozen=True)
class LoadedVariant:
    """One version of a variant, ready to answer; never changed, only replaced.

    The policy's manifest is the one that it was loaded under, so that observation layout and model
    belong together while a new version is being published. `joinable` says whether observations of
    several clients may be computed together, as `is_joinable` finds it. `memory_bytes` is what the
    process grew by: weights as they are held, and the buffers of the largest batch.
    """

    policy: PolicyManifest
    manifest: VariantManifest
    q_function: QFunction
    cost: Cost
    joinable: bool = True
    memory_bytes: int = 0
    leases: Leases = field(default_factory=Leases, compare=False)

    @property
    def sha256(self) -> str:
        """Of the stored model."""
        return self.manifest.model.sha256


def load(
    repository: Repository,
    policy: PolicyManifest,
    variant: str,
    largest_batch: int = 8,
    providers: Sequence[str] = CPU,
) -> LoadedVariant:
    """Reads, verifies, builds and warms a variant. Takes its time: not for the event loop.

    Args:
        repository: where it lies.
        policy: the manifest that it is loaded under.
        variant: its name.
        largest_batch: up to which every power of two is run once: the first run of a batch size
            allocates, and no request is to wait for that.
        providers: what is to run it, as `make_session` has them.

    Raises:
        RepositoryError: a file is missing, cut, tampered with, or is no model of this policy, or
            one whose Q-values are not finite even for an observation of zeros.
        NotFoundError: the variant has gone.
    """
    trim_memory()
    before = resident_bytes()
    manifest, content = repository.read_model(policy.name, variant)
    name, actions = f"{policy.name}/{variant}", len(policy.actions)
    q_function = OnnxPolicy(content, policy.observation, actions, name, providers)
    try:
        cost = measure(q_function, policy.observation, largest_batch)
        joinable = is_joinable(q_function, policy.observation)
    except Exception as error:  # whatever the runtime raises for a model that cannot run
        path = f"{policy.name}/{variant}/{manifest.model.path}"
        raise RepositoryError(path, f"the model does not run: {error}") from error
    zeros: Any = np.zeros((1, *policy.observation.shape), policy.observation.numpy_dtype)
    if not np.isfinite(q_function(zeros)).all():
        path = f"{policy.name}/{variant}/{manifest.model.path}"
        raise RepositoryError(path, "answers Q-values that are not finite to zeros")
    least = len(content)
    del content
    trim_memory()
    memory_bytes = max(least, resident_bytes() - before)
    return LoadedVariant(policy, manifest, q_function, cost, joinable, memory_bytes)


def is_joinable(q_function: QFunction, spec: ObservationSpec) -> bool:
    """Whether an observation's Q-values stay the same whatever is computed beside it.

    They do not where a model chooses the scale of its activations anew for each batch
    (DynamicQuantizeLinear): there, one client's observations would change another's answer. Beside
    copies of itself and beside extreme ones the shapes are the same, so rounding is too.
    """
    rows = _unlike_rows(spec)
    mixed = q_function(np.stack(rows))
    for number, beside in enumerate(mixed):
        alone = q_function(np.stack([rows[number]] * len(rows)))[number]
        finite = np.abs(alone[np.isfinite(alone)])  # an extreme one may be too much for a model
        tolerance = JOINED_TOLERANCE * float(finite.max(initial=0))
        if not np.allclose(beside, alone, rtol=0, atol=tolerance, equal_nan=True):
            return False
    return True


def _unlike_rows(spec: ObservationSpec) -> list[npt.NDArray[Any]]:
    """Observations `(*shape)` that are as unlike as can be: nothing, noise, and both extremes."""
    generator = np.random.default_rng(0)
    if spec.dtype == "uint8":
        noise: Any = generator.integers(0, 256, spec.shape)
        constants: tuple[float, ...] = (0, 255)
    else:
        noise = generator.normal(0, 0.1, spec.shape)
        constants = (0, -EXTREME, EXTREME)
    rows = [noise, *(np.full(spec.shape, value) for value in constants)]
    return [row.astype(spec.numpy_dtype) for row in rows]


def trim_memory() -> None:
    """Has the C library give back to the system what a dropped model leaves, where it can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc, not of musl
        if trim is not None:
            trim(0)


def resident_bytes() -> int:
    """Memory that the process has now; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
