"""What a pass may use besides its input and its parameters.

Passes play nothing themselves: the pipeline gives them `collect`, which plays on collection seeds.
Every step gets fresh generators from the recipe's seed, so that a step's result depends on the
recipe alone and not on how much randomness earlier steps used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from slimq.core.calibration import CalibrationSet
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QFunction
from slimq.networks.qnetwork import QNetwork


class ProgressBar(Protocol):
    """What tqdm's bars can do, as far as passes use it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def update(self, n: float = 1, /) -> Any:
        """So many units are done."""
        ...

    def set_postfix_str(self, s: str = "", /, refresh: bool = True) -> None:
        """Shows a few words beside the bar; without `refresh`, when it is next drawn."""
        ...


class Progress(Protocol):
    """Opens a progress bar."""

    def __call__(self, description: str, total: int, unit: str, /) -> ProgressBar:
        """A bar of `total` units."""
        ...


class TransitionBatch(Protocol):
    """Transitions of play; `slimq.environments.collection.Transitions` is one."""

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


class Collector(Protocol):
    """Plays on collection seeds; each call goes on with seeds that no call has used before."""

    def states(
        self, q_function: QFunction, steps: int, *, epsilon: float, keep_every: int = 1
    ) -> Observations:
        """`steps` states that `q_function` visits, one of every `keep_every` played."""
        ...

    def transitions(self, q_function: QFunction, steps: int, *, epsilon: float) -> TransitionBatch:
        """`steps` transitions of `q_function`'s play."""
        ...


class SilentBar:
    """Shows nothing."""

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
    """A bar that shows nothing."""
    return SilentBar()


def ignore(told: object, /) -> None:
    """Lets pass by what a callback is told."""


@dataclass(frozen=True)
class PassContext:
    """What a pass may use.

    Attributes:
        teacher: the full policy's network; must not be changed.
        observation: the layout of its observations.
        calibration: states of its play with its Q-values.
        collect: plays on collection seeds.
        seed: of this step, derived from the recipe's.
        device: where to train.
        progress: opens a progress bar.
        generator: numpy's, seeded with `seed`.
        torch_generator: torch's on the CPU, seeded with `seed`.
    """

    teacher: QNetwork
    observation: ObservationSpec
    calibration: CalibrationSet
    collect: Collector
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    generator: np.random.Generator = field(init=False)
    torch_generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generator", np.random.default_rng(self.seed))
        object.__setattr__(self, "torch_generator", torch.Generator().manual_seed(self.seed))

    @property
    def states(self) -> Observations:
        """The calibration states `(states, *shape)`."""
        return self.calibration.observations(self.observation)

    def spread(self, most: int) -> Observations:
        """At most so many of the calibration states, evenly over the set."""
        states = self.states
        return states if len(states) <= most else states[evenly(len(states), most)]


def evenly(length: int, count: int) -> npt.NDArray[np.int64]:
    """`count` indices evenly over `length`, the first and the last among them."""
    return np.linspace(0, length - 1, count).round().astype(np.int64)


def step_seed(seed: int, index: int) -> int:
    """The seed of the `index`-th step of a recipe."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
