from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from slimq.core.observation import ObservationSpec
from slimq_service.api.v2.tensors import OUTPUTS, Tensor, input_tensor, output_tensors

DTYPES = get_args(ObservationSpec.model_fields["dtype"].annotation)
NUMPY = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_observations_has_its_datatype(dtype: str) -> None:
    spec = ObservationSpec(dtype=dtype, shape=(3, 2))  # type: ignore[arg-type]
    tensor = input_tensor(spec)
    assert np.dtype(NUMPY[tensor.datatype]) == spec.numpy_dtype
    assert tensor.shape == (3, 2)


def test_outputs_are_q_values_and_actions() -> None:
    assert output_tensors(6) == (Tensor("q_values", "FP32", (6,)), Tensor("actions", "INT64", ()))
    assert tuple(tensor.name for tensor in output_tensors(2)) == OUTPUTS
