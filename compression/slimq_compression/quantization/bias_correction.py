"""Bias correction: what rounding does to the mean of a layer's output, its bias takes back.

Finkelstein et al. 2019 (arXiv:1906.03193) and Nagel et al. 2019 (arXiv:1906.04721, §4.2): rounding
weights by ΔW shifts the mean of an output by ΔW·E[x], most of all in a first convolution, whose
inputs are not centred. Here E is the mean over the calibration set, and layers are corrected one
after another, each with all earlier ones corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from slimq.core.observation import Observations
from slimq_compression.context import Progress
from slimq_compression.graph.model import copy_model, run_tensors, weighted_nodes


def correct_biases(
    reference: onnx.ModelProto,
    quantize: Callable[[onnx.ModelProto], onnx.ModelProto],
    states: Observations,
    progress: Progress,
) -> onnx.ModelProto:
    """A copy of `reference` with the biases with which `quantize` keeps the mean of every channel.

    Only layers with a bias that is stored as it is can be corrected.

    Args:
        reference: what the means are taken from.
        quantize: leaves nodes their names, and its argument as it was.
        states: `(states, *shape)`, of real play.
        progress: opens a progress bar.
    """
    model = copy_model(reference)
    biases = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [n for n in weighted_nodes(model) if len(n.input) > 2 and n.input[2] in biases]
    wanted = channel_means(reference, [node.output[0] for node in layers], states)
    with progress("correct biases", len(layers), "layer") as bar:
        for node in layers:
            quantized = quantize(model)
            # A ReLU between a layer and its Q is left out, for codes have no negative values: the
            # tensor may have another name, but it is the pre-activation still.
            (output,) = (n.output[0] for n in quantized.graph.node if n.name == node.name)
            found = channel_means(quantized, [output], states)[output]
            bias = biases[node.input[2]]
            values = numpy_helper.to_array(bias) + (wanted[node.output[0]] - found)
            bias.CopyFrom(numpy_helper.from_array(values.astype(np.float32), bias.name))
            bar.update(1)
    return model


def channel_means(
    model: onnx.ModelProto, tensors: list[str], states: Observations
) -> dict[str, npt.NDArray[Any]]:
    """Mean of each output channel over states and positions, float64."""
    sums: dict[str, npt.NDArray[Any]] = {}
    for values in run_tensors(model, tensors, states):
        for name, value in values.items():
            axes = (0, *range(2, value.ndim))
            positions = int(np.prod(value.shape[2:]))
            total = value.sum(axis=axes, dtype=np.float64) / positions
            sums[name] = sums.get(name, 0.0) + total
    return {name: total / len(states) for name, total in sums.items()}
