"""Low-rank factorization of layers: SVD for dense layers, Tucker-2 for convolutions.

The singular value decomposition gives the best approximation of a given rank (Eckart & Young 1936).
Tucker-2 reduces the rank of the two channel modes and leaves the spatial axes alone (Kim et al.
2016, 1511.06530). Its factors start from the singular vectors of the unfoldings (HOSVD) and are
refined alternately (HOOI, De Lathauwer et al. 2000), which reduces the error in each step. All
computations are in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

HOOI_STEPS = 10

Cut = list[tuple[Tensor, Tensor]]
"""Weights and biases of the layers that replace one layer; all but the last bias are zero."""


def singular_values(weight: Tensor) -> list[Tensor]:
    """Singular values of a matrix, or of a kernel's unfoldings along input and output channels."""
    values = weight.detach().double()
    modes = [values] if values.dim() == 2 else [values.transpose(0, 1), values]
    return [torch.linalg.svdvals(mode.flatten(1)) for mode in modes]


def cut_dense(weight: Tensor, bias: Tensor, rank: int) -> Cut:
    """Factors a dense layer `(outputs, inputs)` into two layers of equal scale."""
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    root = values[:rank].sqrt()
    first, second = root[:, None] * right[:rank], left[:, :rank] * root
    return [(first, weight.new_zeros(rank)), (second, bias)]


def cut_convolution(weight: Tensor, bias: Tensor, into: int, out: int) -> Cut:
    """Factors a kernel `(outputs, inputs, k, k)` into 1×1, k×k and 1×1 convolutions.

    A mode of full rank gets no 1×1 layer.

    Args:
        weight: the kernel.
        bias: the bias, which goes to the last layer.
        into: rank of the input channels, at most k² · out.
        out: rank of the output channels, at most k² · into.
    """
    kernel = weight.double()
    inner, outer = _leading(kernel.transpose(0, 1), into), _leading(kernel, out)
    for _ in range(HOOI_STEPS):
        outer = _leading(torch.einsum("oihw,ir->orhw", kernel, inner), out)
        inner = _leading(torch.einsum("oihw,or->irhw", kernel, outer), into)
    core = torch.einsum("oihw,or,is->rshw", kernel, outer, inner)
    cut: Cut = [(core, bias if out == len(weight) else weight.new_zeros(out))]
    if into < weight.shape[1]:
        cut.insert(0, (inner.T[:, :, None, None], weight.new_zeros(into)))
    if out < len(weight):
        cut.append((outer[:, :, None, None], bias))
    return cut


def _leading(tensor: Tensor, rank: int) -> Tensor:
    """The first left singular vectors `(length, rank)` of the unfolding along the first axis."""
    if rank == len(tensor):
        return torch.eye(rank, dtype=tensor.dtype)
    left: Tensor = torch.linalg.svd(tensor.flatten(1), full_matrices=False).U
    return left[:, :rank]
