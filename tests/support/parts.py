"""Policies whose observations are integers or have named parts, and which were imported alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from builders import make_model, write_policy
from slimq.core.calibration import CalibrationSet
from slimq.core.manifest import ImportRecord, PolicyManifest
from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy

ACTIONS = ["stay", "left", "right"]
STATES = 40


def spec_of(dtype: Any, *parts: ObservationPart) -> ObservationSpec:
    size = sum(part.size for part in parts)
    return ObservationSpec(dtype=dtype, shape=(size,), parts=parts)


IMAGE = ObservationPart(name="image", shape=(2, 3, 2), integer=True, low=0, high=10)
DIRECTION = ObservationPart(name="direction", shape=(), categories=(4,))
SPECS = {
    # Discrete(500, start=1000): zero is not among its values.
    "taxi": spec_of(
        "int32", ObservationPart(name="state", shape=(), categories=(500,), start=(1000,))
    ),
    "wheels": spec_of(
        "int32", ObservationPart(name="wheels", shape=(3,), categories=(2, 3, 9), start=(0, -2, 5))
    ),
    "buttons": spec_of(
        "uint8", ObservationPart(name="keys", shape=(6,), integer=True, low=0, high=1)
    ),
    "maze": spec_of("int32", IMAGE, DIRECTION),
    "robot": spec_of(
        "float32",
        ObservationPart(name="arm.angles", shape=(2,)),
        ObservationPart(name="gear", shape=(), categories=(3,), start=(1,)),
        ObservationPart(name="lamp", shape=(1,), integer=True, low=0, high=1),
    ),
}


def draw_parts(spec: ObservationSpec, count: int, seed: int = 0) -> dict[str, Any]:
    """Random valid parts, each `(count, *part.shape)`."""
    generator = np.random.default_rng(seed)
    parts: dict[str, Any] = {}
    for part in spec.parts or ():
        shape = (count, *part.shape)
        if part.categories is not None:
            first = np.reshape(part.first, part.shape)
            parts[part.name] = first + generator.integers(
                np.reshape(part.categories, part.shape), size=shape
            )
        elif part.integer:
            assert part.low is not None
            assert part.high is not None
            parts[part.name] = generator.integers(int(part.low), int(part.high) + 1, shape)
        else:
            parts[part.name] = generator.normal(size=shape).astype(np.float32)
    return parts


def make_parts_model(spec: ObservationSpec, seed: int = 0) -> bytes:
    """A linear model of flat observations; of categories, it looks up a row of the first one.

    The lookup fails for a value out of range, as an encoder of categories may.
    """
    from onnx import TensorProto, helper

    elements = {
        "uint8": TensorProto.UINT8,
        "int32": TensorProto.INT32,
        "float32": TensorProto.FLOAT,
    }
    generator = np.random.default_rng(seed)
    constants = {
        "w": generator.normal(size=(spec.size, len(ACTIONS))).astype(np.float32),
        "b": generator.normal(size=len(ACTIONS)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["observation"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["float", "w", "b"], ["linear"]),
    ]
    ranges, last = spec.integer_ranges, "linear"
    if ranges is not None:
        element, low, high = int(ranges.indices[-1]), ranges.low[-1], ranges.high[-1]
        table = generator.normal(size=(int(high - low) + 1, len(ACTIONS)))
        constants |= {
            "element": np.array(element, np.int64),
            "low": np.array(low, np.float32),
            "table": table.astype(np.float32),
        }
        nodes += [
            helper.make_node("Gather", ["float", "element"], ["value"], axis=1),
            helper.make_node("Sub", ["value", "low"], ["offset"]),
            helper.make_node("Cast", ["offset"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["row"], axis=0),
        ]
        last = "row"
    nodes.append(helper.make_node("Add", ["linear", last], ["q_values"]))
    return make_model(nodes, constants, (elements[spec.dtype], spec.shape), len(ACTIONS))


def make_parts_manifest(name: str, spec: ObservationSpec) -> PolicyManifest:
    """The manifest of a policy that was imported without an environment."""
    return PolicyManifest(
        name=name,
        environment=None,
        observation=spec,
        actions=ACTIONS,
        action_start=2,
        training=None,
        random_policy=None,
        imported=ImportRecord(
            format="onnx",
            algorithm="DQN",
            file="policy.onnx",
            bytes=1,
            sha256="1" * 64,
            states=STATES,
            max_error=0.0,
        ),
    )


def build_parts_repository(root: Path) -> Path:
    """Writes a policy for each of `SPECS`, with variants `fp32` and `other`, and no environment."""
    for name, spec in SPECS.items():
        models = {
            variant: make_parts_model(spec, seed) for seed, variant in enumerate(("fp32", "other"))
        }
        states = spec.join(draw_parts(spec, STATES, seed=9))
        q_values = OnnxPolicy(models["fp32"], spec, len(ACTIONS))(states)
        indices = np.arange(STATES, dtype=np.int32)[:, None]
        calibration = CalibrationSet(states, indices, q_values).to_bytes()
        write_policy(root, make_parts_manifest(name, spec), calibration, models)
    return root
