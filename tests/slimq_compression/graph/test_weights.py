from __future__ import annotations

import numpy as np
import onnx

from slimq.networks.export import export_onnx
from slimq.networks.qnetwork import count_parameters
from slimq_compression.graph.weights import count_weights, decoded_weights, describe_precision


def test_weights_are_counted_as_the_layers_see_them_not_as_they_are_stored(coded_model) -> None:
    (weight,) = decoded_weights(coded_model).values()
    np.testing.assert_array_equal(weight, [[-0.5, 0.0], [0.5, -0.5]])
    assert count_weights(coded_model) == (4, 3)


def test_the_count_of_an_exported_network_is_that_of_the_network(make_network) -> None:
    network = make_network("conv")
    model = onnx.load_model_from_string(export_onnx(network))
    assert count_weights(model)[0] == count_parameters(network)
    assert describe_precision(model) == "fp32"
