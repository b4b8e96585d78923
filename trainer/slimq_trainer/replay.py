"""Replay buffer that stores each frame once and computes n-step returns when sampling.

Each environment has a ring buffer of rows. A row holds the newest frame of an observation, the
action and its outcome; an ended episode adds one row with its last observation and no action, so
that a truncated episode can still bootstrap from it. Frame stacks are assembled when sampled, with
zeros before an episode's first frame, as the environment pads them. That takes 7 kB per step
instead of 56 kB in Atari games. All tensors are on one device, and sampling is a handful of gathers
there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slimq.core.observation import Observations, ObservationSpec
from slimq_trainer.priorities import Priorities

NO_ACTION = -1
DTYPES = {"uint8": torch.uint8, "int32": torch.int32, "float32": torch.float32}


@dataclass(frozen=True)
class Batch:
    """Sampled transitions, with the leading axis `batch`.

    Attributes:
        observations: s_t.
        actions: a_t, int64.
        returns: sum of discounted rewards up to the bootstrap state.
        next_observations: the bootstrap state, n steps later or where the episode ended.
        discounts: γ^m for the bootstrap state; 0 if the episode terminated.
        probabilities: sampling probabilities, up to a common factor.
        environments: the environment of each transition, int64.
        rows: its row in that environment's ring, int64.
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    next_observations: Tensor
    discounts: Tensor
    probabilities: Tensor
    environments: Tensor
    rows: Tensor


class ReplayBuffer:
    """Ring buffers of transitions, one per environment."""

    def __init__(
        self,
        observation: ObservationSpec,
        capacity: int,
        environments: int,
        n_step: int,
        gamma: float,
        device: torch.device,
        priority_exponent: float = 0.0,
    ) -> None:
        self.observation, self.n_step, self.gamma = observation, n_step, gamma
        self.rows, self.environments, self.device = capacity // environments, environments, device
        self.stack = observation.stack.count if observation.stack else 1
        frame = observation.shape[1:] if observation.stack else observation.shape
        dtype = DTYPES[observation.dtype]
        shape = (environments, self.rows)
        self.frames = torch.zeros((*shape, math.prod(frame)), dtype=dtype, device=device)
        self.actions = torch.full(shape, NO_ACTION, dtype=torch.int64, device=device)
        self.rewards = torch.zeros(shape, dtype=torch.float32, device=device)
        self.terminated = torch.zeros(shape, dtype=torch.bool, device=device)
        self.ended = torch.zeros(shape, dtype=torch.bool, device=device)
        self.ages = torch.zeros(shape, dtype=torch.int32, device=device)
        self.priorities = (
            Priorities(environments, self.rows, priority_exponent, device)
            if priority_exponent
            else None
        )
        self.written = np.zeros(environments, dtype=np.int64)
        self.episode_steps = np.zeros(environments, dtype=np.int64)

    def __len__(self) -> int:
        return int(np.minimum(self.written, self.rows).sum())

    @property
    def ready(self) -> bool:
        """Whether every environment has enough transitions to sample from."""
        return bool((self.written > 2 * (self.n_step + self.stack)).all())

    def add(
        self,
        observations: Observations,
        actions: npt.NDArray[np.int64],
        rewards: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        last_observations: Observations,
    ) -> None:
        """Stores one transition per environment.

        Args:
            observations: `(environments, *shape)`, in which the actions were taken.
            actions: `(environments,)`.
            rewards: `(environments,)`.
            terminated: `(environments,)`; the episode reached a terminal state.
            truncated: `(environments,)`; the episode was cut off before a terminal state.
            last_observations: `(environments, *shape)`, after the actions.
        """
        ended = terminated | truncated
        everyone = np.arange(self.environments)
        self._write(everyone, observations, actions, rewards, terminated, ended)
        self.episode_steps += 1
        over = np.flatnonzero(ended)
        if len(over):
            self._write_last(over, last_observations)

    def truncate(
        self, environments: npt.NDArray[np.int64], last_observations: Observations
    ) -> None:
        """Ends episodes in progress as if they had been truncated after their last step.

        Args:
            environments: the environments whose episodes end.
            last_observations: `(environments, *shape)`, of all environments.
        """
        begun = environments[self.episode_steps[environments] > 0]
        if len(begun):
            last = (self.written[begun] - 1) % self.rows
            self.ended[torch.from_numpy(begun), torch.from_numpy(last)] = True
            self._write_last(begun, last_observations)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Samples a minibatch, uniformly or by priority."""
        if self.priorities:
            environments, rows, odds = self.priorities.draw(batch_size, generator)
        else:
            environments, rows = self._draw(batch_size, generator)
            odds = torch.ones(batch_size, device=self.device)
        alive = torch.ones(batch_size, dtype=torch.float32, device=self.device)
        steps = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        returns = torch.zeros_like(alive)
        terminated = torch.zeros_like(alive)
        for ahead in range(self.n_step):
            at = environments, (rows + ahead) % self.rows
            returns += self.gamma**ahead * alive * self.rewards[at]
            steps += alive.long()
            terminated += alive * self.terminated[at]
            alive = alive * ~self.ended[at]
        return Batch(
            observations=self._observe(environments, rows),
            actions=self.actions[environments, rows],
            returns=returns,
            next_observations=self._observe(environments, (rows + steps) % self.rows),
            discounts=self.gamma**steps * (1 - terminated),
            probabilities=odds,
            environments=environments,
            rows=rows,
        )

    def reprioritize(self, batch: Batch, errors: Tensor) -> None:
        """Updates priorities from the temporal-difference errors `(batch,)` of a minibatch."""
        if self.priorities:
            self.priorities.update(batch.environments, batch.rows, errors)

    def _write_last(self, environments: npt.NDArray[np.int64], observations: Observations) -> None:
        """Adds the final row of an episode, which has no action."""
        count = len(environments)
        self._write(
            environments,
            observations[environments],
            np.full(count, NO_ACTION, dtype=np.int64),
            np.zeros(count, dtype=np.float32),
            np.zeros(count, dtype=np.bool_),
            np.zeros(count, dtype=np.bool_),
        )
        self.episode_steps[environments] = 0

    def _write(
        self,
        environments: npt.NDArray[np.int64],
        observations: Observations,
        actions: npt.NDArray[np.int64],
        rewards: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        ended: npt.NDArray[np.bool_],
    ) -> None:
        newest = observations[:, -1] if self.observation.stack else observations
        at = (
            torch.from_numpy(environments).to(self.device),
            torch.from_numpy(self.written[environments] % self.rows).to(self.device),
        )
        frames = np.ascontiguousarray(newest).reshape(len(environments), -1)
        self.frames[at] = torch.from_numpy(frames).to(self.device)
        self.actions[at] = torch.from_numpy(actions).to(self.device)
        self.rewards[at] = torch.from_numpy(rewards).to(self.device)
        self.terminated[at] = torch.from_numpy(terminated).to(self.device)
        self.ended[at] = torch.from_numpy(ended).to(self.device)
        ages = self.episode_steps[environments].astype(np.int32)
        self.ages[at] = torch.from_numpy(ages).to(self.device)
        self.written[environments] += 1
        if self.priorities:
            self._shift_window(self.priorities, *at)

    def _shift_window(self, priorities: Priorities, environments: Tensor, newest: Tensor) -> None:
        """Admits the row n steps back, now complete, and excludes stacks that were overwritten."""
        for ahead in range(self.stack):
            priorities.exclude(environments, (newest + ahead) % self.rows)
        complete = (newest - self.n_step) % self.rows
        usable = self.actions[environments, complete] != NO_ACTION
        priorities.admit(environments[usable], complete[usable])

    def _draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws rows with a complete stack and n-step window, uniformly, by rejection sampling."""
        written = torch.from_numpy(self.written).to(self.device)
        held = written.clamp(max=self.rows)
        usable = (held - self.n_step - (self.stack - 1)).clamp(min=0)
        kept: list[tuple[Tensor, Tensor]] = []
        count = 0
        while count < batch_size:
            tries = 2 * batch_size
            cell = torch.randint(
                int(usable.sum()), (tries,), generator=generator, device=self.device
            )
            edges = usable.cumsum(0)
            environments = torch.searchsorted(edges, cell, right=True)
            offset = cell - (edges[environments] - usable[environments])
            oldest = (written - held)[environments]
            rows = (oldest + offset + self.stack - 1) % self.rows
            valid = self.actions[environments, rows] != NO_ACTION
            kept.append((environments[valid], rows[valid]))
            count += int(valid.sum())
        environments = torch.cat([pair[0] for pair in kept])[:batch_size]
        return environments, torch.cat([pair[1] for pair in kept])[:batch_size]

    def _observe(self, environments: Tensor, rows: Tensor) -> Tensor:
        back = torch.arange(self.stack - 1, -1, -1, device=self.device)
        cells = environments[:, None] * self.rows + (rows[:, None] - back) % self.rows
        flat = self.frames.view(-1, self.frames.shape[-1]).index_select(0, cells.view(-1))
        stacked = flat.view(len(rows), self.stack, -1)
        padding = self.ages[environments, rows][:, None] < back
        if bool(padding.any()):
            stacked[padding] = 0
        return stacked.view(len(rows), *self.observation.shape)
