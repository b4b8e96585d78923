"""The input of compression: a policy's full network or graph, its calibration set, its teacher."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from slimq.core.calibration import CalibrationSet
from slimq.core.errors import ConfigError, RepositoryError
from slimq.core.manifest import PolicyManifest, TeacherRecord
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QFunction
from slimq.core.repository import POLICY_FILE, Repository
from slimq.evaluation.fidelity import q_values_of
from slimq.networks.checkpoint import load_network
from slimq.networks.graph_counts import count_graph
from slimq.networks.qnetwork import QNetwork, count_parameters
from slimq.networks.specification import MLPSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.recipe import Recipe

STUDENT = "student"
"""The pass that needs no network to start from."""
JUDGED_EVERY = 5
"""Without an environment, one in this many recorded states is kept for judging."""


Full = QNetwork | OnnxPolicy
"""A full policy: a network, or a graph that no network pass can change."""


@dataclass(frozen=True)
class Teacher:
    """Another policy, from whose Q-values passes learn.

    Attributes:
        record: its name, checkpoint and share, for the manifest.
        full: its network or graph.
    """

    record: TeacherRecord
    full: Full


@dataclass(frozen=True)
class Source:
    """Input of compression: a policy with its checkpoint or graph, and its calibration set.

    Attributes:
        manifest: the policy's manifest.
        checkpoint_sha256: SHA-256 of the stored checkpoint, or of the graph if there is none.
        full: the full policy, which is compressed and with which variants are compared.
        calibration: states with the full policy's Q-values, for passes.
        judged: states on which agreement is measured: the same, or, without an environment, a fifth
            of the recorded states, which passes do not see.
        graph: the full policy's ONNX graph, if it has no network.
        teacher: another policy to learn from; None for the full policy itself.
    """

    manifest: PolicyManifest
    checkpoint_sha256: str
    full: Full
    calibration: CalibrationSet
    judged: CalibrationSet
    graph: bytes | None = None
    teacher: Teacher | None = None

    @property
    def digest(self) -> str:
        """Digest of checkpoint, calibration set, environment, and the teacher's checkpoint."""
        environment = self.manifest.environment
        described = "" if environment is None else environment.model_dump_json()
        terms = f"{self.checkpoint_sha256} {self.calibration_sha256} {described}"
        if self.teacher is not None:
            taught_by = self.teacher.record
            terms += f" {taught_by.checkpoint_sha256} {taught_by.share}"
        return hashlib.sha256(terms.encode()).hexdigest()

    @property
    def calibration_sha256(self) -> str | None:
        """SHA-256 of the stored calibration set; None if there is none."""
        entry = self.manifest.calibration
        return None if entry is None else entry.sha256

    @property
    def spec(self) -> QNetworkSpec:
        """Specification of the full policy's network; of one without hidden layers for a graph."""
        network = self.full if isinstance(self.full, QNetwork) else outline(self.manifest)
        return network.spec

    @property
    def parameters(self) -> int:
        """Weights and biases of the full policy."""
        if isinstance(self.full, QNetwork):
            return count_parameters(self.full)
        return self.graph_parameters

    @cached_property
    def graph_parameters(self) -> int:
        """Weights and biases of the graph; 0 if the policy has a network."""
        if self.graph is None:
            return 0
        return count_graph(onnx.load_model_from_string(self.graph))[0]

    @property
    def expert(self) -> QFunction:
        """The full policy as a Q-function, on the CPU."""
        return as_q_function(self.full)

    @cached_property
    def lessons(self) -> CalibrationSet:
        """The calibration states with the teacher's Q-values, for passes."""
        if self.teacher is None:
            return self.calibration
        states = self.calibration.observations(self.manifest.observation)
        share = self.teacher.record.share
        theirs = q_values_of(as_q_function(self.teacher.full), states)
        q_values = (share * theirs + (1 - share) * self.calibration.q_values).astype(np.float32)
        return replace(self.calibration, q_values=q_values)

    def network(self, recipe: Recipe) -> QNetwork:
        """The network that a recipe's first network pass is given.

        For a graph, it is a network without hidden layers for the same observations and actions,
        which only the pass `student` accepts.

        Raises:
            ConfigError: the policy is a graph, and the recipe begins with another network pass.
        """
        if isinstance(self.full, QNetwork):
            return self.full
        if recipe.network and recipe.network[0].name != STUDENT:
            problem = (
                f"{self.manifest.name} is kept as an ONNX graph, which this pass cannot change; "
                f"begin with the pass {STUDENT}, or use graph passes"
            )
            raise ConfigError(recipe.source, recipe.network[0].place, problem)
        return outline(self.manifest)

    def require_network(self, purpose: str) -> QNetwork:
        """The full policy's network.

        Raises:
            RepositoryError: the policy is a graph.
        """
        if isinstance(self.full, QNetwork):
            return self.full
        problem = f"the policy is kept as an ONNX graph; {purpose} needs a network"
        raise RepositoryError(f"{self.manifest.name}/{POLICY_FILE}", problem)


def as_q_function(full: Full) -> QFunction:
    """A full policy as a Q-function, on the CPU."""
    return full if isinstance(full, OnnxPolicy) else TorchPolicy(full)


def outline(manifest: PolicyManifest) -> QNetwork:
    """An untrained network without hidden layers, for a policy's observations and actions."""
    spec = QNetworkSpec(
        body=MLPSpec(hidden=()),
        observation_shape=manifest.observation.shape,
        observation_dtype=manifest.observation.dtype,
        observation_parts=manifest.observation.parts,
        divisor=manifest.observation.high or 255.0,
        actions=len(manifest.actions),
    )
    return QNetwork(spec).eval()


def divide(calibration: CalibrationSet) -> tuple[CalibrationSet, CalibrationSet]:
    """Keeps every fifth state for judging; of fewer than five, all are for both uses."""
    judged = np.arange(len(calibration)) % JUDGED_EVERY == JUDGED_EVERY - 1
    if not judged.any():
        return calibration, calibration
    learned, kept = (
        replace(calibration, indices=calibration.indices[rows], q_values=calibration.q_values[rows])
        for rows in (~judged, judged)
    )
    return learned, kept


def load_source(repository: Repository, policy: str) -> Source:
    """Reads a policy's checkpoint or graph, and its calibration set.

    Raises:
        NotFoundError: the policy does not exist.
        RepositoryError: its checkpoint, graph or calibration set is missing or invalid.
    """
    manifest = repository.policy(policy)
    calibration = repository.calibration(manifest)
    if manifest.source is None or calibration is None:
        missing = "checkpoint" if manifest.source is None else "calibration"
        problem = f"{missing}: is null, so there is nothing to compress from; train the policy"
        raise RepositoryError(f"{policy}/{POLICY_FILE}", problem)
    judged = calibration
    if manifest.environment is None:
        calibration, judged = divide(calibration)
    content = repository.read_file(policy, manifest.source)
    full = parse_full(content, manifest, f"{policy}/{manifest.source.path}")
    graph = content if isinstance(full, OnnxPolicy) else None
    return Source(manifest, manifest.source.sha256, full, calibration, judged, graph)


def parse_full(content: bytes, manifest: PolicyManifest, place: str) -> Full:
    """Parses a policy's stored checkpoint or graph.

    Raises:
        RepositoryError: it is invalid; the error names `place`.
    """
    if manifest.checkpoint is not None:
        return load_network(content, place)
    return OnnxPolicy(content, manifest.observation, len(manifest.actions), place)
