"""Steps after a layer that no kind of network has, but imported graphs do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from builders import make_model
from c_exports import needs_compiler, relative_difference
from slimq.core.observation import ObservationSpec

pytestmark = needs_compiler


@pytest.mark.parametrize("bounds", [["low"], ["", "high"], ["low", "high"]])
def test_clips_of_one_or_two_bounds(bounds: list[str], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    constants = {"w": weight, "low": np.float32(-0.5), "high": np.float32(0.75)}
    nodes = [
        helper.make_node("MatMul", ["observation", "w"], ["product"]),
        helper.make_node("Clip", ["product", *bounds], ["q_values"]),
    ]
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    content = make_model(nodes, arrays, (TensorProto.FLOAT, [4]), 3)
    states = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    layout = ObservationSpec(dtype="float32", shape=(4,))
    assert relative_difference(content, layout, 3, tmp_path, states) < 1e-6
