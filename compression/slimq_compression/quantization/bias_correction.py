"""Bias correction: compensates the mean output error of rounded weights in a layer's bias.

Finkelstein et al. 2019 (arXiv:1906.03193) and Nagel et al. 2019 (arXiv:1906.04721, §4.2): rounding
weights by ΔW shifts the mean of an output by ΔW·E[x], most of all in the first convolution, whose
inputs are not centred. Here E is the mean over the calibration set. Layers are corrected in order,
each after all earlier ones.
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
    """A copy of `reference` whose biases preserve every channel's mean under `quantize`.

    Only layers whose bias is an initializer can be corrected.

    Args:
        reference: the model with the correct means.
        quantize: quantizes a model; keeps node names and does not modify its argument.
        states: `(states, *shape)`, from real play.
        progress: opens a progress bar.
    """
    model = copy_model(reference)
    biases = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [n for n in weighted_nodes(model) if len(n.input) > 2 and n.input[2] in biases]
    wanted = channel_means(reference, [node.output[0] for node in layers], states)
    with progress("correct biases", len(layers), "layer") as bar:
        for node in layers:
            quantized = quantize(model)
            # The quantizer drops a ReLU before Q, since codes are not negative: the tensor may have
            # another name, but is still the pre-activation.
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
