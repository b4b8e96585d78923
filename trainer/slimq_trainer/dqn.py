"""Deep Q-learning with experience replay (Mnih et al. 2015, Algorithm 1).

    1. the online network Q(·; θ) and the target network Q(·; θ⁻) start with equal weights
    2. the replay buffer starts empty
    3. each step: act ε-greedily,
    4. step the environment,
    5. store the transition;
    6. sample a minibatch, with targets y = r + γ·max Q(s'; θ⁻), or y = r if s' is terminal,
    7. take a gradient step on (y − Q(s, a; θ))²;
    8. every C updates: θ⁻ ← θ.

With the options of `AlgorithmConfig` the same loop is Double DQN (van Hasselt et al. 2016), with
n-step returns (Sutton 1988), Huber loss, gradient clipping, an annealed learning rate, averaged
weights and augmented minibatches (Kostrikov et al. 2020). The mathematics is in `docs/method.md`.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slimq.core.errors import InvalidInputError, first_line
from slimq.core.observation import ObservationSpec
from slimq.core.seeds import TRAINING
from slimq.environments.seeding import check_seeding
from slimq.environments.vector import VectorEnvironment, describe
from slimq.networks.frame_disturbance import FrameDisturber
from slimq.networks.hardware import resolve_device, resolve_precision
from slimq.networks.qnetwork import QNetwork, arrange
from slimq.networks.targets import bootstrap_targets
from slimq_trainer.config import AlgorithmConfig, TrainConfig
from slimq_trainer.fitting import network_spec
from slimq_trainer.learner import Learner
from slimq_trainer.replay import Batch, ReplayBuffer
from slimq_trainer.run import Run

SEEDS_PER_TRAINING = 1_000_000


def train(config: TrainConfig, run: Run) -> Learner:
    """Trains to the last step, from the run's last checkpoint or its start, if there is one.

    Args:
        config: the training configuration.
        run: the folder, logs and checkpoints; also decides when to stop early.

    Returns:
        The learner after its last step; `run.complete(learner)` is false if the run was asked to
        stop.

    Raises:
        TrainingError: the loss is not finite, or the disk is full; the last checkpoint is kept.
        EnvironmentFailure: the environment breaks its contract; the last checkpoint is kept.
        InvalidInputError: the replay buffer does not fit in memory.
    """
    algorithm = config.algorithm
    check_seeding(config.environment)
    learner = make_learner(config)
    run.restore(learner)
    online, target = learner.q_online, learner.q_target

    while not run.complete(learner) and not run.stopping:
        actions = act(learner, online)
        play(learner, actions)
        for _ in range(updates_due(learner)):
            batch = sample(learner)
            errors = temporal_difference_errors(online, target, batch, algorithm)
            descend(learner, loss_of(errors, importance(learner, batch), algorithm))
            learner.replay.reprioritize(batch, errors.detach())
            if learner.updates % algorithm.target_update_every == 0:
                learner.target.load_state_dict(learner.online.state_dict())
        run.after_step(learner)

    run.finish(learner)
    learner.environment.close()
    return learner


def make_learner(config: TrainConfig) -> Learner:
    """Steps 1 and 2: two equal networks, an empty replay buffer, the first observations."""
    algorithm = config.algorithm
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = resolve_device(config.run.device)
    observation = describe(config.environment).observation
    spec = network_spec(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        online = arrange(QNetwork(spec)).to(device).eval()
    target = arrange(QNetwork(spec)).to(device).eval().requires_grad_(requires_grad=False)
    target.load_state_dict(online.state_dict())
    average = copy.deepcopy(target) if algorithm.average_decay is not None else None
    for network in (target, average):
        if network is not None:  # the statistics of observations are shared
            network.normalize = online.normalize
    environment = VectorEnvironment(config.environment, algorithm.environments, config.run.threads)
    first = TRAINING.start + config.seed * SEEDS_PER_TRAINING
    seeds = list(range(first, first + algorithm.environments))
    learner = Learner(
        config=config,
        device=device,
        precision=resolve_precision(config.run.precision, device),
        online=online,
        target=target,
        average=average,
        optimizer=make_optimizer(online, algorithm, device),
        replay=make_replay(algorithm, observation, device),
        environment=environment,
        exploration=np.random.default_rng([config.seed, 1]),
        sampling=torch.Generator(device).manual_seed(config.seed),
        augment=make_augmentation(config, observation, device),
        observations=environment.start(seeds),
        episode_seeds=seeds,
        episode_actions=[[] for _ in seeds],
        episode_returns=np.zeros(algorithm.environments),
        next_seed=first + algorithm.environments,
        losses=torch.zeros((), device=device),
    )
    learner.observe(learner.observations)
    return learner


def make_replay(
    algorithm: AlgorithmConfig, observation: ObservationSpec, device: torch.device
) -> ReplayBuffer:
    """Allocates the empty replay buffer.

    Raises:
        InvalidInputError: it does not fit in memory.
    """
    try:
        return ReplayBuffer(
            observation,
            algorithm.replay_size,
            algorithm.environments,
            algorithm.n_step,
            algorithm.gamma,
            device,
            algorithm.priority_exponent,
        )
    except RuntimeError as error:  # raised by torch if memory runs out on the CPU
        received = f"{algorithm.replay_size}: {first_line(error)}"
        fitting = "a capacity that fits in memory"
        raise InvalidInputError("algorithm.replay_size", fitting, received) from error


def make_augmentation(
    config: TrainConfig, observation: ObservationSpec, device: torch.device
) -> FrameDisturber | None:
    """The disturber of minibatches, with its own generator; None without `augmentation`."""
    strengths = config.algorithm.augmentation
    if strengths is None:
        return None
    generator = np.random.default_rng([config.seed, 2])
    return FrameDisturber(strengths, observation, generator, device)


def act(learner: Learner, online: nn.Module) -> npt.NDArray[np.int64]:
    """Step 3: for each environment the greedy action, or with probability ε a random one."""
    epsilon = exploration_rate(learner.config.algorithm, learner.step)
    count = learner.environment.count
    explore = learner.exploration.random(count) < epsilon
    actions = learner.exploration.integers(learner.online.spec.actions, size=count)
    if not explore.all():
        with torch.no_grad():
            q_values = online(torch.from_numpy(learner.observations).to(learner.device))
        greedy = q_values.argmax(1).cpu().numpy()
        actions = np.where(explore, actions, greedy)
    return actions.astype(np.int64)


def play(learner: Learner, actions: npt.NDArray[np.int64]) -> None:
    """Steps 4 and 5: steps every environment, stores transitions, and restarts ended episodes."""
    result = learner.environment.step(actions)
    rewards = result.rewards
    learner.episode_returns += rewards
    if learner.config.algorithm.clip_rewards:
        rewards = np.clip(rewards, -1.0, 1.0)
    learner.replay.add(
        learner.observations,
        actions,
        rewards,
        result.terminated,
        result.truncated,
        result.observations,
    )
    learner.observations = result.observations
    learner.observe(result.observations)
    learner.step += learner.environment.count
    for index, action in enumerate(actions.tolist()):
        learner.episode_actions[index].append(action)
    over = np.flatnonzero(result.ended).tolist()
    if over:
        for index in over:
            learner.recent_returns.append(float(learner.episode_returns[index]))
            learner.episode_returns[index] = 0.0
            learner.episode_seeds[index] = learner.next_seed
            learner.episode_actions[index] = []
            learner.next_seed += 1
            learner.episodes += 1
        seeds = [learner.episode_seeds[index] for index in over]
        learner.observations = learner.environment.restart(result.ended, seeds)
        learner.observe(learner.observations[result.ended])


def updates_due(learner: Learner) -> int:
    """Number of updates due now, one per `update_every` agent steps."""
    algorithm = learner.config.algorithm
    if learner.step <= algorithm.learning_starts or not learner.replay.ready:
        return 0
    before = learner.step - learner.environment.count
    return learner.step // algorithm.update_every - before // algorithm.update_every


def sample(learner: Learner) -> Batch:
    """Step 6: samples a minibatch, with augmented observations if configured.

    Augmentation is DrQ with K = M = 1 (Kostrikov et al. 2020, 2004.13649, section 3): the bootstrap
    state is augmented independently of the state, and the target computed from it.
    """
    batch = learner.replay.sample(learner.config.algorithm.batch_size, learner.sampling)
    if learner.augment is None:
        return batch
    return dataclasses.replace(
        batch,
        observations=learner.augment(batch.observations),
        next_observations=learner.augment(batch.next_observations),
    )


def temporal_difference_errors(
    online: nn.Module, target: nn.Module, batch: Batch, algorithm: AlgorithmConfig
) -> Tensor:
    """Step 6: δ = y − Q(s, a; θ) for each transition of the minibatch.

    y = R + γ^m·Q(s', a*; θ⁻), where R sums m discounted rewards and the bootstrap term is 0 at a
    terminal state; a* maximizes Q(s', ·; θ⁻), or with Double DQN Q(s', ·; θ).

    Batch normalization uses minibatch statistics only for the Q(s, a; θ) that is differentiated.
    Acting and targets use its running statistics, so that rows do not depend on each other.
    """
    with torch.no_grad():
        next_values = target(batch.next_observations)
        selecting = online(batch.next_observations) if algorithm.double else next_values
        targets = bootstrap_targets(batch.returns, batch.discounts, selecting, next_values)
    online.train()
    values: Tensor = online(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
    online.eval()
    errors: Tensor = targets - values
    return errors


def loss_of(errors: Tensor, weights: Tensor, algorithm: AlgorithmConfig) -> Tensor:
    """Step 7: the weighted mean of δ², or of the Huber loss of δ."""
    kind = nn.functional.smooth_l1_loss if algorithm.loss == "huber" else nn.functional.mse_loss
    return (weights * kind(errors, torch.zeros_like(errors), reduction="none")).mean()


def importance(learner: Learner, batch: Batch) -> Tensor:
    """(min P / P(i))^β: importance weights against sampling bias (Schaul et al. 2016)."""
    algorithm = learner.config.algorithm
    done = min(1.0, learner.step / algorithm.steps)
    exponent = algorithm.importance_exponent + done * (1.0 - algorithm.importance_exponent)
    weights: Tensor = (batch.probabilities.min() / batch.probabilities) ** exponent
    return weights


def descend(learner: Learner, loss: Tensor) -> None:
    """Step 7: one gradient step at the current learning rate, then the weight average."""
    algorithm = learner.config.algorithm
    for group in learner.optimizer.param_groups:
        group["lr"] = learning_rate(algorithm, learner.step)
    learner.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if algorithm.gradient_clip is not None:
        nn.utils.clip_grad_norm_(learner.online.parameters(), algorithm.gradient_clip)
    learner.optimizer.step()
    if learner.average is not None and algorithm.average_decay is not None:
        # The decay starts low, so that the random initial weights fade quickly.
        decay = min(algorithm.average_decay, (1 + learner.updates) / (10 + learner.updates))
        averages, weights = _state(learner.average), _state(learner.online)
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight.detach(), 1.0 - decay)
    learner.updates += 1
    learner.losses += loss.detach()


def _state(network: nn.Module) -> Iterator[Tensor]:
    """Weights and batch normalization's running statistics, without its batch counter."""
    buffers = (buffer for buffer in network.buffers() if buffer.is_floating_point())
    return itertools.chain(network.parameters(), buffers)


def exploration_rate(algorithm: AlgorithmConfig, step: int) -> float:
    """ε at an agent step: annealed linearly, then constant."""
    fraction = min(1.0, step / algorithm.epsilon_steps)
    return algorithm.epsilon_start + fraction * (algorithm.epsilon_end - algorithm.epsilon_start)


def learning_rate(algorithm: AlgorithmConfig, step: int) -> float:
    """The learning rate at an agent step."""
    if algorithm.learning_rate_end is None:
        return algorithm.learning_rate
    fraction = min(1.0, step / algorithm.steps)
    return algorithm.learning_rate + fraction * (
        algorithm.learning_rate_end - algorithm.learning_rate
    )


def make_optimizer(
    network: nn.Module, algorithm: AlgorithmConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Centred RMSProp with the constants of Mnih et al. 2015, Extended Data Table 1, or Adam.

    Torch adds ε outside the root, g / (√(E[g²] − E[g]²) + ε); the publication adds it inside. The
    default of 0.1 is the smallest denominator of the published form, √0.01.
    """
    rate, epsilon = algorithm.learning_rate, algorithm.denominator_term
    if algorithm.optimizer == "adam":
        fused = device.type in {"cpu", "cuda"}
        return torch.optim.Adam(network.parameters(), lr=rate, eps=epsilon, fused=fused)
    return torch.optim.RMSprop(
        network.parameters(), lr=rate, alpha=0.95, eps=epsilon, centered=True
    )
