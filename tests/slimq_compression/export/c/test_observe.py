"""The frame stack in C is that of the observation module, whatever axis and window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from c_exports import compile_model, needs_compiler
from slimq.core.observation import FrameStack, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq.networks.layers import ConvLayer, Window
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec

pytestmark = needs_compiler
CONVOLUTION = (ConvLayer(channels=3, kernel=3),)
CASES = {
    "first axis": ((6, 8, 9), FrameStack(axis=0, count=3), None),
    "newest frames and rows": ((6, 8, 9), FrameStack(axis=0, count=3), ((2, 6), (1, 7), (0, 9))),
    "older frames only": ((4, 8, 9), FrameStack(axis=0, count=4), ((1, 3), (0, 8), (2, 9))),
    "half a frame": ((6, 8, 9), FrameStack(axis=0, count=3), ((3, 6), (0, 8), (0, 9))),
    "no stack": ((2, 8, 9), None, ((0, 1), (2, 8), (0, 9))),
    "inner axis": ((7, 12), FrameStack(axis=1, count=4), None),
}


def make_spec(name: str) -> tuple[ObservationSpec, QNetworkSpec]:
    shape, stack, spans = CASES[name]
    window = None
    if spans is not None:
        window = Window(channels=spans[0], rows=spans[1], columns=spans[2])
    body = (
        MLPSpec(hidden=(5,))
        if len(shape) == 2
        else ConvSpec(window=window, convolutions=CONVOLUTION, hidden=(5,))
    )
    layout = ObservationSpec(dtype="uint8", shape=shape, low=0, high=255, stack=stack)
    network = QNetworkSpec(body=body, observation_shape=shape, observation_dtype="uint8", actions=3)
    return layout, network


@pytest.mark.parametrize("name", CASES)
def test_each_step_sees_what_the_observation_module_stacks(name: str, tmp_path: Path) -> None:
    layout, spec = make_spec(name)
    content = export_onnx(QNetwork(spec).eval())
    policy, host = OnnxPolicy(content, layout, 3), compile_model(content, layout, 3, tmp_path)
    generator = np.random.default_rng(0)
    for _ in range(2):
        before = layout.padding()
        host.reset()
        for _ in range(7):
            frame = generator.integers(0, 256, (1, *layout.frame.shape), dtype=np.uint8)
            before = layout.push(before, frame)
            expected = policy(before)[0]
            action = host.act(frame[0])
            np.testing.assert_allclose(host.q_values(), expected, rtol=0, atol=1e-5)
            assert action == expected.argmax()
