"""Importance of weights and units, which pruning ranks.

Both gradient criteria use the trained network's outputs rather than a training loss, whose gradient
vanishes at the end of training.

`taylor` is a first-order criterion on the value that the policy acts on, V(s) = max_a Q(s, a). A
unit with values z scores E_s |Σ z · ∂V/∂z|, a signed sum over its positions (Molchanov et al. 2017,
1611.06440, §2.2, without the factor 1/M, which is constant within a layer; with a ReLU and without
normalization it equals |Σ w · ∂V/∂w| over weights and bias, Molchanov et al. 2019, 1906.10771).
Effects within a unit may cancel. A single weight scores |w| · E_s |∂V/∂w|.

`obd` is a second-order criterion on all Q-values (LeCun et al. 1990, "Optimal Brain Damage"). The
Hessian of half the squared output error, taken at the network itself, is exactly the Gauss-Newton
matrix; with its diagonal H = E_s Σ_a (∂Q_a/∂w)², a weight scores ½ H w², and a unit the sum over
its incoming weights, without cancellation. The sum over actions has an unbiased estimate from one
projection onto random signs per state (Hutchinson 1990).

`l1`, `l2` and `magnitude` need no states (Li et al. 2017, 1608.08710). `bn-scale` is |γ| of the
batch normalization (Liu et al. 2017, 1708.06519). `random` is the control.

Cost: a forward and a backward pass over the states, one or two seconds for the Nature network and
256 states on one core. Gradient criteria fail if the states miss situations that matter, and `obd`
if weights that are pruned together depend on each other.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

from slimq.core.errors import InvalidInputError
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq_compression.context import PassContext
from slimq_compression.network.gradients import greedy_value, unit_effects, weight_moments
from slimq_compression.network.units import UnitLayer, unit_layers

TINY = 1e-12


class Importance(StrEnum):
    """Criterion by which units are ranked."""

    L1 = "l1"
    L2 = "l2"
    TAYLOR = "taylor"
    OBD = "obd"
    BN_SCALE = "bn-scale"
    RANDOM = "random"


class WeightImportance(StrEnum):
    """Criterion by which single weights are ranked."""

    MAGNITUDE = "magnitude"
    TAYLOR = "taylor"
    OBD = "obd"
    RANDOM = "random"


def weight_sensitivities(
    network: QNetwork, importance: WeightImportance, states: int, context: PassContext
) -> dict[str, Tensor]:
    """Sensitivities: a weight's saliency is its magnitude times its sensitivity.

    Saliencies are comparable across layers. With `obd` the product is √H · |w|, which ranks weights
    like ½ H w².

    Args:
        network: any network; not modified.
        importance: the criterion.
        states: maximum calibration states to use, evenly spaced over the set.
        context: provides the states and the generator.

    Returns:
        Tensors of the shapes of the layers' weights, by layer name, including the head.
    """
    weights = {name: layer.weight.detach() for name, layer in named_layers(network).items()}
    match importance:
        case WeightImportance.MAGNITUDE:
            return {name: torch.ones_like(weight) for name, weight in weights.items()}
        case WeightImportance.RANDOM:
            return {
                name: torch.rand(weight.shape, generator=context.torch_generator)
                / weight.abs().clamp_min(TINY)
                for name, weight in weights.items()
            }
        case WeightImportance.TAYLOR:
            return weight_moments(network, context.spread(states), greedy_value, power=1)
        case WeightImportance.OBD:
            curvature = _curvature(network, states, context)
            return {name: diagonal.sqrt() for name, diagonal in curvature.items()}


def unit_scores(
    network: QNetwork,
    importance: Importance,
    states: int,
    context: PassContext,
    owner: str = "prune_channels",
) -> list[Tensor]:
    """Importance of every unit.

    Args:
        network: a plain network (see `unit_layers`); not modified.
        importance: the criterion; with `bn-scale`, dense layers have no normalization and are
            scored by their L1 norm.
        states: maximum calibration states to use, evenly spaced over the set.
        context: provides the states and the generator; not used by l1, l2 and bn-scale.
        owner: name of the pass, for errors.

    Returns:
        Scores `(units,)`, float64, for each convolution and hidden dense layer in order.

    Raises:
        InvalidInputError: the network is not plain; or with `bn-scale`, a convolution has no batch
            normalization or there is no convolution.
    """
    units = unit_layers(network, owner)
    match importance:
        case Importance.L1 | Importance.L2:
            return [_norms(unit, 1 if importance is Importance.L1 else 2) for unit in units]
        case Importance.BN_SCALE:
            return _scales(units, owner)
        case Importance.RANDOM:
            generator = context.torch_generator
            return [
                torch.rand(unit.width, generator=generator, dtype=torch.float64) for unit in units
            ]
        case Importance.TAYLOR:
            return unit_effects(network, context.spread(states), owner)
        case Importance.OBD:
            curvature = _curvature(network, states, context)
            return [
                (0.5 * curvature[unit.name] * unit.layer.weight.detach().square())
                .flatten(1)
                .double()
                .sum(dim=1)
                for unit in units
            ]


def _norms(unit: UnitLayer, order: int) -> Tensor:
    weight = unit.layer.weight.detach().flatten(1).double()
    norms: Tensor = torch.linalg.vector_norm(weight, ord=order, dim=1)
    return norms


def _scales(units: list[UnitLayer], owner: str) -> list[Tensor]:
    convolutions = [unit for unit in units if isinstance(unit.layer, nn.Conv2d)]
    bare = [unit.name for unit in convolutions if unit.norm is None]
    if bare or not convolutions:
        expected = "another criterion, since bn-scale needs convolutions with batch normalization"
        received = f"{bare[0]} without it" if bare else "a network without convolutions"
        raise InvalidInputError(f"{owner}.importance", expected, received)
    return [
        _norms(unit, 1) if unit.norm is None else unit.norm.weight.detach().double().abs()
        for unit in units
    ]


def _curvature(network: QNetwork, states: int, context: PassContext) -> dict[str, Tensor]:
    """Estimates the diagonal of the Gauss-Newton matrix of all Q-values, by layer name."""

    def projection(q_values: Tensor) -> Tensor:
        signs = torch.randint(0, 2, q_values.shape, generator=context.torch_generator) * 2 - 1
        return (q_values * signs).sum()

    return weight_moments(network, context.spread(states), projection, power=2)
