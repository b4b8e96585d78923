"""A small repository with real ONNX models, and what it is made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.manifest import (
    FileEntry,
    PolicyManifest,
    RandomPolicyRecord,
    RecipeRecord,
    StepRecord,
    TrainingRecord,
    VariantManifest,
)
from slimq.core.observation import FrameStack, ObservationSpec

OPSET = 21
TINY_ACTIONS = ["left", "right"]
FRAMES_ACTIONS = ["noop", "fire", "right", "left", "right-fire", "left-fire"]


def make_model(nodes: list[Any], constants: dict[str, Any], inputs: Any, outputs: Any) -> bytes:
    """A model with one input, of this element type and shape, and this number of Q-values."""
    from onnx import TensorProto, checker, helper, numpy_helper

    element, shape = inputs
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", element, ["batch", *shape])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def make_mlp(seed: int = 0, width: int = 8) -> bytes:
    """A float32 MLP `(batch, 4)` to `(batch, 2)`."""
    from onnx import TensorProto, helper

    generator = np.random.default_rng(seed)
    constants = {
        "w1": generator.normal(size=(4, width)).astype(np.float32),
        "b1": generator.normal(size=width).astype(np.float32),
        "w2": generator.normal(size=(width, 2)).astype(np.float32),
        "b2": generator.normal(size=2).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["observation", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["rectified"]),
        helper.make_node("Gemm", ["rectified", "w2", "b2"], ["q_values"]),
    ]
    return make_model(nodes, constants, (TensorProto.FLOAT, (4,)), 2)


def make_frames_model(seed: int = 0) -> bytes:
    """A model of uint8 frames `(batch, 4, 84, 84)` to `(batch, 6)`: means of frames, then Gemm."""
    from onnx import TensorProto, helper

    generator = np.random.default_rng(seed)
    constants = {
        "axes": np.array([2, 3], np.int64),
        "scale": np.array(1 / 255, np.float32),
        "w": generator.normal(size=(4, 6)).astype(np.float32),
        "b": generator.normal(size=6).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["observation"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "w", "b"], ["q_values"]),
    ]
    return make_model(nodes, constants, (TensorProto.UINT8, (4, 84, 84)), 6)


def make_policy_manifest(name: str, calibration: FileEntry | None = None) -> PolicyManifest:
    """The manifest of `tiny` or `tiny_frames`, or of another policy like `tiny`."""
    frames = name == "tiny_frames"
    return PolicyManifest(
        name=name,
        environment=EnvironmentSpec(
            id="ALE/Pong-v5" if frames else "CartPole-v1",
            preprocessing=AtariPreprocessing() if frames else None,
            max_episode_steps=27_000 if frames else 500,
        ),
        observation=(
            ObservationSpec(
                dtype="uint8", shape=(4, 84, 84), low=0, high=255, stack=FrameStack(count=4)
            )
            if frames
            else ObservationSpec(dtype="float32", shape=(4,))
        ),
        actions=FRAMES_ACTIONS if frames else TINY_ACTIONS,
        training=TrainingRecord(
            config={"learning_rate": 1e-3},
            seed=0,
            steps=100,
            updates=25,
            seconds=1.5,
            hardware="test",
            versions={"slimq": "0"},
            curve=[(50, 10.0), (100, 20.0)],
        ),
        random_policy=RandomPolicyRecord(
            mean=-20.7 if frames else 22.0, episodes=10, seeds="selection"
        ),
        calibration=calibration,
    )


def make_variant_manifest(policy: str, name: str, model: FileEntry) -> VariantManifest:
    """The manifest of a variant that a recipe of one step made."""
    weights = 30 if policy == "tiny_frames" else 58
    step = StepRecord(
        name="export",
        parameters={},
        parameters_count=weights,
        nonzero_parameters=weights,
        macs=weights,
        bytes=model.bytes,
        seconds=0.1,
    )
    return VariantManifest(
        policy=policy,
        name=name,
        parent=None,
        recipe=RecipeRecord(name=name, seed=0, steps=[step]),
        model=model,
        precision="fp32",
        parameters=weights,
        nonzero_parameters=weights,
        macs=weights,
        opset=OPSET,
        versions={"slimq": "0"},
    )


def make_calibration(policy: str) -> bytes:
    """Sixteen random states of `tiny` or `tiny_frames`; their Q-values are zeros."""
    generator = np.random.default_rng(7)
    if policy == "tiny_frames":
        frames: Any = generator.integers(0, 256, size=(19, 84, 84), dtype=np.uint8)
        indices = (np.arange(16)[:, None] + np.arange(4)[None, :]).astype(np.int32)
        indices[0, :3] = -1
        return CalibrationSet(frames, indices, np.zeros((16, 6), np.float32)).to_bytes()
    frames = generator.normal(size=(16, 4)).astype(np.float32)
    indices = np.arange(16, dtype=np.int32)[:, None]
    return CalibrationSet(frames, indices, np.zeros((16, 2), np.float32)).to_bytes()


def _write(folder: Path, stem: str, suffix: str, content: bytes) -> FileEntry:
    digest = hashlib.sha256(content).hexdigest()
    path = f"{stem}-{digest[:12]}{suffix}"
    (folder / path).write_bytes(content)
    return FileEntry(path=path, bytes=len(content), sha256=digest)


def _write_manifest(path: Path, manifest: Any) -> None:
    content = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
    path.write_text(content + "\n", encoding="utf-8")


def build_repository(root: Path) -> Path:
    """Writes policies `tiny` and `tiny_frames`, each with variants `fp32` and `other`.

    Written file by file, not by the Publisher, so that it also pins the form on disk.
    """
    for policy, make in (("tiny", make_mlp), ("tiny_frames", make_frames_model)):
        models = {"fp32": make(0), "other": make(1)}
        write_policy(root, make_policy_manifest(policy), make_calibration(policy), models)
    return root


def write_policy(
    root: Path, manifest: PolicyManifest, calibration: bytes, models: dict[str, bytes]
) -> None:
    """Writes a policy with its calibration set and a variant for each model."""
    folder = root / manifest.name
    folder.mkdir(parents=True)
    entry = _write(folder, "calibration", ".npz", calibration)
    _write_manifest(folder / "policy.json", manifest.model_copy(update={"calibration": entry}))
    for variant, model in models.items():
        home = folder / "variants" / variant
        home.mkdir(parents=True)
        entry = _write(home, "model", ".onnx", model)
        _write_manifest(home / "variant.json", make_variant_manifest(manifest.name, variant, entry))
