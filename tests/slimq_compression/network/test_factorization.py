from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimq_compression.network.factorization import Cut, cut_convolution, cut_dense, singular_values


def random_tensor(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def product(cut: Cut) -> Tensor:
    """The kernel or matrix that the layers compute together."""
    weights = [weight.double() for weight, _ in cut]
    if weights[0].dim() == 2:
        return weights[1] @ weights[0]
    while len(weights) > 1 and weights[0].shape[2:] == (1, 1):
        first, second, *rest = weights
        weights = [torch.einsum("oihw,ic->ochw", second, first[:, :, 0, 0]), *rest]
    if len(weights) > 1:
        weights = [torch.einsum("po,oihw->pihw", weights[1][:, :, 0, 0], weights[0])]
    return weights[0]


def test_a_matrix_of_full_rank_is_the_product_of_its_factors() -> None:
    weight, bias = random_tensor(12, 20), random_tensor(12)
    cut = cut_dense(weight, bias, 12)
    torch.testing.assert_close(product(cut).float(), weight)
    assert [tuple(part.shape) for part, _ in cut] == [(12, 20), (12, 12)]
    assert torch.equal(cut[1][1], bias)
    assert not cut[0][1].any()


def test_the_error_of_a_matrix_is_the_energy_of_what_was_cut_off() -> None:
    weight, bias = random_tensor(12, 20), random_tensor(12)
    (values,) = singular_values(weight)
    for rank in range(1, 12):
        error = (product(cut_dense(weight, bias, rank)) - weight).square().sum()
        assert float(error) == pytest.approx(float(values[rank:].square().sum()), rel=1e-6)


def test_both_factors_of_a_matrix_are_of_one_scale() -> None:
    first, second = (weight for weight, _ in cut_dense(random_tensor(12, 20), torch.zeros(12), 5))
    assert float(first.norm()) == pytest.approx(float(second.norm()))


def test_a_kernel_of_low_rank_is_found_again() -> None:
    core = random_tensor(3, 2, 3, 3)
    weight = torch.einsum("or,rshw,is->oihw", random_tensor(8, 3), core, random_tensor(6, 2))
    cut = cut_convolution(weight, random_tensor(8), into=2, out=3)
    assert [tuple(part.shape) for part, _ in cut] == [(2, 6, 1, 1), (3, 2, 3, 3), (8, 3, 1, 1)]
    torch.testing.assert_close(product(cut).float(), weight, rtol=1e-4, atol=1e-4)
    assert [bool(bias.any()) for _, bias in cut] == [False, False, True]


@pytest.mark.parametrize(
    ("into", "out", "kernels"), [(6, 8, [3]), (6, 4, [3, 1]), (3, 8, [1, 3]), (3, 4, [1, 3, 1])]
)
def test_a_mode_of_full_rank_gets_no_layer(into: int, out: int, kernels: list[int]) -> None:
    bias = random_tensor(8)
    cut = cut_convolution(random_tensor(8, 6, 3, 3), bias, into, out)
    assert [weight.shape[2] for weight, _ in cut] == kernels
    assert torch.equal(cut[-1][1], bias)


def test_the_error_of_a_kernel_falls_with_each_rank_and_vanishes_at_full_rank() -> None:
    weight, bias = random_tensor(8, 6, 3, 3), random_tensor(8)
    errors = [
        float((product(cut_convolution(weight, bias, into, into + 2)) - weight).norm())
        for into in range(1, 7)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.0
    assert errors[-1] < 1e-5


def test_refinement_does_not_end_above_the_bound_of_the_singular_values() -> None:
    """HOSVD alone is at most the sum of what both unfoldings lose (De Lathauwer et al. 2000)."""
    weight = random_tensor(8, 6, 3, 3)
    inputs, outputs = singular_values(weight)
    error = (product(cut_convolution(weight, torch.zeros(8), 3, 4)) - weight).square().sum()
    assert float(error) < float(inputs[3:].square().sum() + outputs[4:].square().sum())
