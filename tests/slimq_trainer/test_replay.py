from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.observation import FrameStack, ObservationSpec
from slimq.environments.vector import VectorEnvironment, describe
from slimq_trainer.replay import ReplayBuffer

CPU = torch.device("cpu")
GAMMA = 0.9


class Story:
    """Episodes whose observations name their own environment and time, and their transitions."""

    def __init__(self, environments: int, steps: int, stack: int, seed: int) -> None:
        self.stack = stack
        self.random = np.random.default_rng(seed)
        self.now = np.zeros(environments, dtype=np.int64)
        self.begin = np.zeros(environments, dtype=np.int64)
        self.rewards: dict[tuple[int, int], float] = {}
        self.over: dict[tuple[int, int], str] = {}
        self.starts: dict[tuple[int, int], int] = {}
        self.steps, self.environments = steps, environments

    def observe(self) -> np.ndarray:
        rows = []
        for index, (now, begin) in enumerate(zip(self.now, self.begin, strict=True)):
            times = [t if t >= begin else -1 for t in range(now - self.stack + 1, now + 1)]
            rows.append([[0.0, 0.0] if t < 0 else [index + 1.0, t + 1.0] for t in times])
        return np.array(rows, dtype=np.float32)

    def play(self, buffer: ReplayBuffer) -> Iterator[None]:
        for _ in range(self.steps):
            before = self.observe()
            rewards = self.random.normal(size=self.environments).astype(np.float32)
            fate = self.random.random(self.environments)
            terminated, truncated = fate < 0.1, (fate > 0.9)
            for index in range(self.environments):
                key = (index, int(self.now[index]))
                self.rewards[key] = float(rewards[index])
                self.starts[key] = int(self.begin[index])
                if terminated[index] or truncated[index]:
                    self.over[key] = "terminated" if terminated[index] else "truncated"
            actions = self.now % 5
            self.now += 1
            buffer.add(before, actions, rewards, terminated, truncated, self.observe())
            ended = terminated | truncated
            self.now[ended] += 1
            self.begin[ended] = self.now[ended]
            yield


def expected(story: Story, key: tuple[int, int], n_step: int) -> tuple[float, int, float]:
    """Return, bootstrap time and discount by the definition, one step at a time."""
    index, time = key
    total = 0.0
    for ahead in range(n_step):
        total += GAMMA**ahead * story.rewards[index, time + ahead]
        fate = story.over.get((index, time + ahead))
        if fate:
            discount = 0.0 if fate == "terminated" else GAMMA ** (ahead + 1)
            return total, time + ahead + 1, discount
    return total, time + n_step, GAMMA**n_step


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("steps", [40, 300])
def test_samples_are_what_the_definition_gives(n_step: int, steps: int, exponent: float) -> None:
    stack = 4
    layout = ObservationSpec(dtype="float32", shape=(stack, 2), stack=FrameStack(count=stack))
    buffer = ReplayBuffer(layout, 3 * 80, 3, n_step, GAMMA, CPU, exponent)
    story = Story(3, steps, stack, seed=n_step)
    for _ in story.play(buffer):
        pass
    batch = buffer.sample(500, torch.Generator().manual_seed(0))
    assert len({tuple(o[-1].tolist()) for o in batch.observations}) > 100
    for row in range(500):
        index, time = (int(v) - 1 for v in batch.observations[row, -1])
        key = (index, time)
        value, bootstrap, discount = expected(story, key, n_step)
        assert float(batch.returns[row]) == pytest.approx(value, abs=1e-5)
        assert float(batch.discounts[row]) == pytest.approx(discount, abs=1e-6)
        assert int(batch.actions[row]) == time % 5
        begin = story.starts[key]
        seen = [int(t) - 1 for t in batch.observations[row, :, 1]]
        assert seen == [t if t >= begin else -1 for t in range(time - stack + 1, time + 1)]
        after = [int(t) - 1 for t in batch.next_observations[row, :, 1]]
        span = range(bootstrap - stack + 1, bootstrap + 1)
        assert after == [t if t >= begin else -1 for t in span]


def test_sampling_is_uniform_over_transitions() -> None:
    layout = ObservationSpec(dtype="float32", shape=(1, 2), stack=FrameStack(count=1))
    buffer = ReplayBuffer(layout, 400, 1, 1, GAMMA, CPU)
    for _ in Story(1, 100, 1, seed=3).play(buffer):
        pass
    batch = buffer.sample(20_000, torch.Generator().manual_seed(0))
    _, counts = np.unique(batch.observations[:, 0, 1].numpy(), return_counts=True)
    rows = int(buffer.written[0]) - 1
    assert len(counts) == int((buffer.actions[0, :rows] >= 0).sum())
    assert counts.min() > 120
    assert counts.max() < 290


def test_priorities_cover_the_transitions_that_uniform_sampling_draws() -> None:
    layout = ObservationSpec(dtype="float32", shape=(4, 2), stack=FrameStack(count=4))
    drawn = []
    for exponent in (0.0, 0.5):
        buffer = ReplayBuffer(layout, 2 * 140, 2, 3, GAMMA, CPU, exponent)
        for _ in Story(2, 500, 4, seed=4).play(buffer):
            pass
        batch = buffer.sample(20_000, torch.Generator().manual_seed(0))
        drawn.append(set(zip(batch.environments.tolist(), batch.rows.tolist(), strict=True)))
    assert drawn[0] == drawn[1]


def test_transitions_are_drawn_in_proportion_to_the_power_of_their_error() -> None:
    layout = ObservationSpec(dtype="float32", shape=(1, 2), stack=FrameStack(count=1))
    buffer = ReplayBuffer(layout, 400, 1, 1, GAMMA, CPU, priority_exponent=0.5)
    for _ in Story(1, 50, 1, seed=3).play(buffer):
        pass
    everything = buffer.sample(5_000, torch.Generator().manual_seed(0))
    assert torch.equal(everything.probabilities, torch.ones(5_000))
    errors = 0.01 + (everything.rows % 3) ** 2 * 0.04
    buffer.reprioritize(everything, -errors)
    batch = buffer.sample(60_000, torch.Generator().manual_seed(1))
    rows, counts = np.unique(batch.rows.numpy(), return_counts=True)
    powers = np.sqrt(0.01 + (rows % 3) ** 2 * 0.04)
    assert counts / 60_000 == pytest.approx(powers / powers.sum(), rel=0.15)
    assert batch.probabilities.numpy() == pytest.approx(
        np.sqrt(0.01 + (batch.rows.numpy() % 3) ** 2 * 0.04), rel=1e-3
    )


def test_stacks_are_the_games_own_observations() -> None:
    spec = EnvironmentSpec(
        id="PongNoFrameskip-v4", preprocessing=AtariPreprocessing(), max_episode_steps=37
    )
    layout = describe(spec).observation
    environment = VectorEnvironment(spec, 2)
    buffer = ReplayBuffer(layout, 2 * 120, 2, 1, GAMMA, CPU)
    observations = environment.start([5, 6])
    seen = set()
    for step in range(160):
        actions = np.array([step % 6, (step // 3) % 6])
        result = environment.step(actions)
        seen.add(observations[0].tobytes())
        seen.add(observations[1].tobytes())
        buffer.add(
            observations,
            actions,
            result.rewards,
            result.terminated,
            result.truncated,
            result.observations,
        )
        seen.add(result.observations[0].tobytes())
        seen.add(result.observations[1].tobytes())
        observations = result.observations
        if result.ended.any():
            seeds = [100 + step + k for k in range(int(result.ended.sum()))]
            observations = environment.restart(result.ended, seeds)
    environment.close()
    batch = buffer.sample(300, torch.Generator().manual_seed(1))
    assert all(row.numpy().tobytes() in seen for row in batch.observations)
    assert all(row.numpy().tobytes() in seen for row in batch.next_observations)
    assert len({row.numpy().tobytes() for row in batch.observations}) > 50
