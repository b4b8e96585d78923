"""Context of a pass: everything it may use besides its input and its parameters.

Passes do not run environments themselves: the pipeline gives them `collect`, which plays on
collection seeds. Every step gets new generators derived from the recipe's seed, so that its result
does not depend on how much randomness earlier steps used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from slimq.core.calibration import CalibrationSet
from slimq.core.conditions.catalogue import Condition
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QFunction
from slimq.networks.qnetwork import QNetwork, arrange
from slimq.networks.torch_policy import TorchPolicy


class ProgressBar(Protocol):
    """The part of tqdm's interface that passes use."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def update(self, n: float = 1, /) -> Any:
        """Advances the bar by `n` units."""
        ...

    def set_postfix_str(self, s: str = "", /, refresh: bool = True) -> None:
        """Sets the text next to the bar; without `refresh`, it appears at the next redraw."""
        ...


class Progress(Protocol):
    """Opens a progress bar."""

    def __call__(self, description: str, total: int, unit: str, /) -> ProgressBar:
        """Opens a bar of `total` units."""
        ...


class StateBatch(Protocol):
    """States of play, such as `slimq.environments.collection.States`."""

    @property
    def arrived(self) -> Observations:
        """Observations that the policy acted on, `(states, *shape)`."""
        ...

    @property
    def present(self) -> Observations:
        """The environment's own observations at the same steps, `(states, *shape)`."""
        ...


class TransitionBatch(Protocol):
    """Recorded transitions, such as `slimq.environments.collection.Transitions`."""

    @property
    def observations(self) -> Observations:
        """`(steps, *shape)`."""
        ...

    @property
    def actions(self) -> npt.NDArray[np.int64]:
        """`(steps,)`."""
        ...

    @property
    def rewards(self) -> npt.NDArray[np.float32]:
        """`(steps,)`."""
        ...

    @property
    def next_observations(self) -> Observations:
        """`(steps, *shape)`."""
        ...

    @property
    def terminated(self) -> npt.NDArray[np.bool_]:
        """`(steps,)`."""
        ...

    @property
    def present(self) -> Observations:
        """The environment's own observations at the same steps, `(steps, *shape)`."""
        ...


class Collector(Protocol):
    """Plays on collection seeds; each call uses new seeds."""

    def states(
        self,
        q_function: QFunction,
        steps: int,
        *,
        epsilon: float,
        keep_every: int = 1,
        conditions: Sequence[Condition] = (),
    ) -> StateBatch:
        """Collects `steps` states that `q_function` visits, one of every `keep_every` played.

        With conditions, half of the episodes are played under one of them each, in turn.
        """
        ...

    def transitions(
        self,
        q_function: QFunction,
        steps: int,
        *,
        epsilon: float,
        conditions: Sequence[Condition] = (),
    ) -> TransitionBatch:
        """Collects `steps` transitions of `q_function`'s play, with conditions as in `states`."""
        ...


class SilentBar:
    """Progress bar that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def update(self, n: float = 1, /) -> None:
        """Does nothing."""

    def set_postfix_str(self, s: str = "", /, refresh: bool = True) -> None:
        """Does nothing."""


def silent(description: str, total: int, unit: str, /) -> ProgressBar:  # noqa: ARG001
    """Opens a bar that shows nothing."""
    return SilentBar()


def ignore(value: object, /) -> None:
    """Callback that ignores its argument."""


@dataclass(frozen=True)
class PassContext:
    """Everything a pass may use besides its input and its parameters.

    The teacher is the full policy, or another policy that the recipe names, with the same
    observations and actions. The teacher provides what is learned: labels, the first rounds of
    play, and the scale and mean of the Q-values in `calibration`. The full policy provides
    everything else: the states, the environment, the input of the first pass, and the size to which
    shares refer.

    Attributes:
        teacher: a network, which must not be modified, or a graph.
        share: the teacher's share of the Q-values; the rest are the full policy's.
        full: the full policy; only needed for a share below 1.
        observation: the layout of observations.
        calibration: states of the full policy's play with the teacher's Q-values.
        collect: plays the policy's environment on collection seeds.
        parameters: number of weights and biases of the full policy.
        seed: seed of this step, derived from the recipe's.
        device: device to train on.
        progress: opens a progress bar.
        generator: numpy generator, seeded with `seed`.
        torch_generator: torch generator on the CPU, seeded with `seed`.
    """

    teacher: QNetwork | OnnxPolicy
    observation: ObservationSpec
    calibration: CalibrationSet
    collect: Collector
    parameters: int
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    share: float = 1.0
    full: QNetwork | OnnxPolicy | None = None
    generator: np.random.Generator = field(init=False)
    torch_generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generator", np.random.default_rng(self.seed))
        object.__setattr__(self, "torch_generator", torch.Generator().manual_seed(self.seed))

    def expert(self) -> QFunction:
        """The teacher as a Q-function on the device, mixed with the full policy if both teach."""
        theirs = self._q_function(self.teacher)
        if self.full is None or self.share == 1:
            return theirs
        own, share = self._q_function(self.full), np.float32(self.share)
        return lambda observations: share * theirs(observations) + (1 - share) * own(observations)

    def _q_function(self, policy: QNetwork | OnnxPolicy) -> QFunction:
        if isinstance(policy, OnnxPolicy):
            return policy
        network = arrange(copy.deepcopy(policy)).to(self.device).eval()
        return TorchPolicy(network, self.device)

    @property
    def states(self) -> Observations:
        """The calibration states `(states, *shape)`."""
        return self.calibration.observations(self.observation)

    def spread(self, count: int) -> Observations:
        """At most `count` calibration states, evenly spaced over the set."""
        states = self.states
        return states if len(states) <= count else states[evenly(len(states), count)]


def evenly(length: int, count: int) -> npt.NDArray[np.int64]:
    """`count` evenly spaced indices below `length`, including the first and the last."""
    return np.linspace(0, length - 1, count).round().astype(np.int64)


def step_seed(seed: int, index: int) -> int:
    """The seed of the `index`-th step of a recipe."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
