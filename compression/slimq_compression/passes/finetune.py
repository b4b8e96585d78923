"""Fine-tuning by distillation from the teacher, on states that the network itself visits.

Policy distillation after Rusu et al. 2015 (1511.06295): the student minimizes KL(softmax(q_T/τ) ‖
softmax(q_S/τ)). Rusu et al. read the student's outputs as logits; here τ divides both, and a Huber
term fixes the level of the Q-values, which KL alone leaves free. Later rounds are played by the
student (Ross et al. 2011, 1011.0686), so that it learns to recover from its own errors.

Weights on grids (masks, levels, codebooks) stay on them, and with `activation_bits` activations are
quantized as well: quantization-aware training, whose learned ranges `quantize_int8` can use.

Cost: play (`rounds × states × keep_every` steps) and `rounds × updates` updates of `batch_size`. It
fails if the student is too small for the teacher's function; the KL term then spends the available
capacity on greedy actions first.
"""

from __future__ import annotations

from slimq.networks.qnetwork import QNetwork
from slimq_compression.context import PassContext
from slimq_compression.network.distillation import DistillationParams, distil


class Params(DistillationParams):
    """Parameters of the distillation."""


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """Trains a copy of the network."""
    return distil(network, params, context)
