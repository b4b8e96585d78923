"""Small networks, calibration sets and a collector that needs no environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import PolicyManifest, RandomPolicyRecord, TrainingRecord
from slimq.core.observation import FrameStack, ObservationSpec
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.environments.collection import States, Transitions, collect_calibration
from slimq.networks.checkpoint import save_network
from slimq.networks.layers import ConvLayer
from slimq.networks.qnetwork import QNetwork, count_parameters
from slimq.networks.specification import NATURE, ConvSpec, MLPSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.context import PassContext

SPECS = {
    "mlp": QNetworkSpec(
        body=MLPSpec(hidden=(16, 12)),
        observation_shape=(4,),
        observation_dtype="float32",
        actions=2,
    ),
    "wide": QNetworkSpec(
        body=MLPSpec(hidden=(256, 256)),
        observation_shape=(4,),
        observation_dtype="float32",
        actions=2,
    ),
    "conv": QNetworkSpec(
        body=ConvSpec(
            convolutions=(
                ConvLayer(channels=6, kernel=4, stride=2),
                ConvLayer(channels=8, kernel=3, stride=1),
            ),
            hidden=(20,),
        ),
        observation_shape=(2, 20, 16),
        observation_dtype="uint8",
        actions=3,
    ),
    "nature": QNetworkSpec(
        body=NATURE, observation_shape=(4, 84, 84), observation_dtype="uint8", actions=6
    ),
}
OBSERVATIONS = {
    "mlp": ObservationSpec(dtype="float32", shape=(4,)),
    "conv": ObservationSpec(dtype="uint8", shape=(2, 20, 16), stack=FrameStack(count=2)),
    "nature": ObservationSpec(dtype="uint8", shape=(4, 84, 84), stack=FrameStack(count=4)),
}


def build_network(kind: str, seed: int = 0) -> QNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(SPECS[kind]).eval()


def draw_states(kind: str, count: int, seed: int = 0) -> Any:
    """Frames are sparse and mostly dark, as games are."""
    generator = np.random.default_rng(seed)
    shape = (count, *SPECS[kind].observation_shape)
    if kind == "mlp":
        return generator.normal(size=shape).astype(np.float32)
    frames = generator.integers(0, 256, shape, dtype=np.uint8)
    return np.where(generator.random(shape) < 0.1, frames, np.uint8(50)).astype(np.uint8)


class DrawnStates:
    """A collector whose states are drawn at random; it remembers who played."""

    def __init__(self, kind: str) -> None:
        self.kind, self.players = kind, []

    def states(
        self,
        q_function: Any,
        steps: int,
        *,
        epsilon: float,
        keep_every: int = 1,
        conditions: Any = (),
    ) -> States:
        self.players.append(q_function)
        drawn = draw_states(self.kind, steps, seed=len(self.players))
        return States(drawn, drawn)

    def transitions(
        self, q_function: Any, steps: int, *, epsilon: float, conditions: Any = ()
    ) -> Transitions:
        states = self.states(q_function, steps + 1, epsilon=epsilon).arrived
        actions = np.zeros(steps, np.int64)
        rewards, ended = np.zeros(steps, np.float32), np.zeros(steps, np.bool_)
        return Transitions(states[:-1], actions, rewards, states[1:], ended, states[:-1])


def build_context(kind: str, teacher: QNetwork, seed: int = 0, states: int = 96) -> PassContext:
    drawn = draw_states(kind, states)
    q_values = TorchPolicy(teacher)(drawn)
    if kind == "mlp":
        frames, indices = drawn, np.arange(states, dtype=np.int32)[:, None]
    else:
        count = drawn.shape[1]
        frames = drawn.reshape(-1, *drawn.shape[2:])
        indices = np.arange(len(frames), dtype=np.int32).reshape(-1, count)
    return PassContext(
        teacher=teacher,
        observation=OBSERVATIONS[kind],
        calibration=CalibrationSet(frames, indices, q_values),
        collect=DrawnStates(kind),
        parameters=count_parameters(teacher),
        seed=seed,
    )


def balancing_network() -> QNetwork:
    """A CartPole network that pushes towards the side to which the pole falls."""
    network = build_network("mlp", seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.05)
        lean = torch.tensor([0.0, 0.1, 1.0, 1.0])
        first, second = network.features[0], network.features[2]
        first.weight[0] += lean
        first.weight[1] -= lean
        second.weight[0, 0] += 1.0
        second.weight[1, 1] += 1.0
        network.head.weight[1, 0] += 1.0
        network.head.weight[0, 1] += 1.0
    return network


def build_policy(
    name: str, environment: EnvironmentSpec, observation: ObservationSpec, actions: list[str]
) -> PolicyManifest:
    training = TrainingRecord(
        config={}, seed=0, steps=0, updates=0, seconds=0, hardware="test", versions={}, curve=[]
    )
    return PolicyManifest(
        name=name,
        environment=environment,
        observation=observation,
        actions=actions,
        training=training,
        random_policy=RandomPolicyRecord(mean=22.0, episodes=10, seeds="selection"),
    )


def build_cartpole(root: Path) -> Repository:
    """A policy `cartpole` with checkpoint and calibration set, and no variants."""
    network = balancing_network()
    environment = EnvironmentSpec(id="CartPole-v1", max_episode_steps=100)
    observation = OBSERVATIONS["mlp"]
    calibration = collect_calibration(environment, observation, TorchPolicy(network), 200)
    contents = save_network(network), calibration.to_bytes()
    entries = (
        content_entry("checkpoint", ".safetensors", contents[0]),
        content_entry("calibration", ".npz", contents[1]),
    )
    manifest = build_policy("cartpole", environment, observation, ["left", "right"]).model_copy(
        update={"checkpoint": entries[0], "calibration": entries[1]}
    )
    root.mkdir()
    repository = Repository(root)
    files = {entry.path: content for entry, content in zip(entries, contents, strict=True)}
    Publisher(repository).publish_policy(manifest, files)
    return repository
