"""Makes a policy from a source: observations, self-check, recorded states, manifests, models.

Everything is made and checked in memory; `publication.py` writes it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import (
    ImportRecord,
    PolicyManifest,
    RandomPolicyRecord,
    RecipeRecord,
    StepFidelity,
    StepRecord,
    VariantManifest,
)
from slimq.core.observation import Observations
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.publish import content_entry
from slimq.core.qfunction import QFunction
from slimq.core.seeds import HELD_OUT
from slimq.environments.rollout import random_returns
from slimq.evaluation.fidelity import measure_fidelity
from slimq.importing.checking import draw_observations, evaluate, relative_error
from slimq.importing.hub import find_policy
from slimq.importing.observations import Place, Recorded, find_place, notes_of, record_states
from slimq.importing.onnx.loading import opset_of
from slimq.importing.recognition import read_source
from slimq.importing.source import Fitted, Hints, Source, describe_layout, refuse
from slimq.networks.checkpoint import save_network
from slimq.networks.export import export_onnx
from slimq.networks.graph_counts import count_graph
from slimq.networks.qnetwork import count_macs, count_parameters
from slimq.networks.torch_policy import TorchPolicy

MAX_ERROR = 1e-4
"""Largest difference from the source's Q-values, relative to the largest of them."""
DRAWN = 64
"""Observations within the bounds of the space, checked before the policy plays."""
RANDOM_EPISODES = 100
VARIANT = "fp32"
LIBRARIES = ("slimq", "numpy", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True)
class Request:
    """What to import, and as what.

    Attributes:
        path: the file or folder.
        name: of the policy.
        hints: what the user says about the file.
        environment: where the policy plays; None for the one that the file names, if any.
        states: npz file with observations; None to play for them.
        calibration_states: states to collect in play.
    """

    path: Path
    name: str
    hints: Hints
    environment: EnvironmentSpec | None = None
    states: Path | None = None
    calibration_states: int = 1_000


@dataclass(frozen=True)
class Prepared:
    """A policy that is made and checked, but not published.

    Attributes:
        manifest: of the policy.
        files: its files by name.
        variant: manifest of the full network as a variant.
        model: the variant's ONNX model.
        calibration_states: number of states that compression calibrates on.
        held_out_states: number of states that it never sees; None with an environment, where
            evaluation plays.
    """

    manifest: PolicyManifest
    files: dict[str, bytes]
    variant: VariantManifest
    model: bytes
    calibration_states: int
    held_out_states: int | None


def prepare(request: Request) -> Prepared:
    """Reads, translates and checks a policy.

    Raises:
        InvalidInputError: the file cannot be imported, or does not fit the environment or states.
        ConfigError: the network file is invalid.
    """
    source = read_source(request.path, request.hints)
    place = find_place(source, request.environment, request.states)
    fitted = source.fit(place.observation)
    model = export_onnx(fitted.network) if fitted.network is not None else fitted.graph or b""
    states = draw_observations(place.observation, DRAWN) if place.states is None else place.states
    actions = _check_actions(source, fitted.reference, states, place, request)
    policy = OnnxPolicy(model, place.observation, actions, str(request.path))
    error = _check(fitted.reference, policy, states, request.path)
    checked = len(states)
    full: QFunction = policy if fitted.network is None else TorchPolicy(fitted.network)
    recorded = record_states(place, full, request.calibration_states)
    if place.environment is not None:
        seen = recorded.calibration.observations(place.observation)
        error = max(error, _check(fitted.reference, policy, seen, request.path))
        checked += len(seen)
    notes = (*source.notes, *fitted.notes, *notes_of(place, recorded))
    record = _record(source, request.path, checked, error, notes)
    return _stage(request, place, fitted, record, recorded, policy, model, actions)


def _check_actions(
    source: Source, reference: QFunction, states: Observations, place: Place, request: Request
) -> int:
    """Compares the actions with the environment's; returns their number."""
    actions = source.actions
    if actions is None:
        actions = reference(states[:1]).shape[1]
    if place.actions is not None and len(place.actions) != actions:
        environment = place.environment.id if place.environment else "the environment"
        expected = f"{actions} actions, as the policy has"
        raise refuse(str(request.path), expected, f"{len(place.actions)} of {environment}")
    if source.action_start not in (None, place.action_start):
        expected = f"actions from {source.action_start} on, as the policy has"
        raise refuse(str(request.path), expected, f"actions from {place.action_start} on")
    return actions


def _check(reference: QFunction, policy: QFunction, states: Observations, path: Path) -> float:
    """The relative error of the published model on states.

    Raises:
        InvalidInputError: it is too large, or the source's Q-values are not finite.
    """
    expected = evaluate(reference, states)
    if not np.isfinite(expected).all():
        state = int(np.argmin(np.isfinite(expected).all(axis=1)))
        raise refuse(str(path), "finite Q-values", f"{expected[state].tolist()} for state {state}")
    error = relative_error(expected, evaluate(policy, states))
    if error > MAX_ERROR:
        received = f"a relative difference of {error:.3g}"
        remedy = "the file is not what it seems; give its kind with --framework or --network"
        raise refuse(str(path), f"the source's Q-values within {MAX_ERROR:g}", received, remedy)
    return error


def _record(
    source: Source, path: Path, states: int, error: float, notes: tuple[str, ...]
) -> ImportRecord:
    file = find_policy(path) if path.is_dir() else path
    content = file.read_bytes()
    return ImportRecord(
        format=source.format,
        algorithm=source.algorithm,
        file=file.name,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        versions=dict(source.versions),
        notes=notes,
        states=states,
        max_error=error,
    )


def _stage(
    request: Request,
    place: Place,
    fitted: Fitted,
    record: ImportRecord,
    recorded: Recorded,
    policy: OnnxPolicy,
    model: bytes,
    actions: int,
) -> Prepared:
    """Builds the manifests around the models."""
    calibration = recorded.calibration
    stored = calibration.to_bytes()
    calibration_entry = content_entry("calibration", ".npz", stored)
    files = {calibration_entry.path: stored}
    held_out = checkpoint = graph = None
    if recorded.held_out is not None:
        kept = recorded.held_out.to_bytes()
        held_out = content_entry("heldout", ".npz", kept)
        files[held_out.path] = kept
    if fitted.network is not None:
        weights = save_network(fitted.network)
        checkpoint = content_entry("checkpoint", ".safetensors", weights)
        files[checkpoint.path] = weights
    else:
        graph = content_entry("graph", ".onnx", model)
        files[graph.path] = model
    manifest = PolicyManifest(
        name=request.name,
        environment=place.environment,
        observation=place.observation,
        actions=place.actions or [str(index) for index in range(actions)],
        action_start=place.action_start,
        training=None,
        random_policy=_random_policy(place, actions),
        imported=record,
        checkpoint=checkpoint,
        graph=graph,
        calibration=calibration_entry,
        held_out=held_out,
    )
    source = checkpoint or graph
    variant = _variant(
        request.name,
        None if source is None else source.sha256,
        fitted,
        calibration,
        evaluate(policy, calibration.observations(place.observation)),
        model,
        calibration_entry.sha256,
    )
    kept_states = 0 if recorded.held_out is None else len(recorded.held_out)
    return Prepared(
        manifest,
        files,
        variant,
        model,
        calibration_states=len(calibration),
        held_out_states=kept_states if place.environment is None else None,
    )


def _random_policy(place: Place, actions: int) -> RandomPolicyRecord | None:
    if place.environment is None:
        return None
    returns = random_returns(place.environment, actions, HELD_OUT.seeds(RANDOM_EPISODES))
    return RandomPolicyRecord(
        mean=float(np.mean(returns)), episodes=len(returns), seeds=HELD_OUT.name
    )


def _variant(
    policy: str,
    parent: str | None,
    fitted: Fitted,
    calibration: CalibrationSet,
    q_values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    model: bytes,
    calibration_sha256: str,
) -> VariantManifest:
    """The manifest of the full network as the baseline variant."""
    started = time.monotonic()
    parsed = onnx.load_model_from_string(model)
    if fitted.network is not None:
        counts = (
            count_parameters(fitted.network),
            sum(int(torch.count_nonzero(p)) for p in fitted.network.parameters()),
            count_macs(fitted.network.spec),
        )
    else:
        counts = count_graph(parsed)
    fidelity = measure_fidelity(q_values, calibration.q_values)
    step = StepRecord(
        name="export",
        parameters={"opset": opset_of(parsed)},
        parameters_count=counts[0],
        nonzero_parameters=counts[1],
        macs=counts[2],
        bytes=len(model),
        fidelity=StepFidelity(agreement=fidelity.agreement, regret=fidelity.regret),
        seconds=round(time.monotonic() - started, 3),
    )
    return VariantManifest(
        policy=policy,
        name=VARIANT,
        parent=parent,
        recipe=RecipeRecord(
            name=VARIANT,
            description="The imported network in 32-bit floats.",
            seed=0,
            steps=[step],
            calibration_sha256=calibration_sha256,
        ),
        model=content_entry("model", ".onnx", model),
        precision="fp32",
        parameters=counts[0],
        nonzero_parameters=counts[1],
        macs=counts[2],
        opset=opset_of(parsed),
        versions={name: importlib.metadata.version(name) for name in LIBRARIES},
    )


def summarize(prepared: Prepared) -> dict[str, object]:
    """What an import found, for its output."""
    manifest, record = prepared.manifest, prepared.manifest.imported
    if record is None:
        raise TypeError("the policy was not imported")
    environment = manifest.environment
    return {
        "policy": manifest.name,
        "format": record.format,
        "algorithm": record.algorithm,
        "file": record.file,
        "environment": None if environment is None else environment.id,
        "observation": describe_layout(manifest.observation),
        "actions": len(manifest.actions),
        "network": "network" if manifest.checkpoint else "graph",
        "parameters": prepared.variant.parameters,
        "states": record.states,
        "calibration_states": prepared.calibration_states,
        "held_out_states": prepared.held_out_states,
        "max_error": record.max_error,
        "random_return": manifest.random_policy.mean if manifest.random_policy else None,
        "notes": list(record.notes),
    }
