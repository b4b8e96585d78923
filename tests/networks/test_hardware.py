from __future__ import annotations

import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.networks.hardware import (
    cpu_flags,
    describe_hardware,
    flushed_denormals,
    resolve_device,
    resolve_precision,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", ["nonsense", "cuda:99"])
def test_an_unavailable_device_is_refused_by_name(wanted: str) -> None:
    with pytest.raises(InvalidInputError, match=f"device: expected .*{wanted}"):
        resolve_device(wanted)


def test_auto_takes_the_best_available() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    fast = {"avx512_bf16", "amx_bf16"} & set(cpu_flags())
    assert resolve_precision("auto", CPU) == ("bf16" if fast else "fp32")
    assert resolve_precision("fp32", CPU) == "fp32"


def test_the_hardware_is_described_with_threads_and_precision() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert describe_hardware(CPU, "fp32").endswith(", 1 thread, fp32")
        torch.set_num_threads(2)
        assert describe_hardware(CPU, "bf16").endswith(", 2 threads, bf16")
    finally:
        torch.set_num_threads(before)


def test_denormals_are_flushed_only_inside() -> None:
    tiny = torch.tensor([1e-39])
    with flushed_denormals():
        assert (tiny * 0.5).item() == 0.0
    assert (tiny * 0.5).item() > 0.0
