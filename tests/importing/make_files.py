"""Writes policies with the real programs, and the Q-values that these compute for observations.

Run in an environment of its own (`.venv-imports`), which has Stable-Baselines3, sb3-contrib, flax
and torch: `make_files.py FOLDER`. CleanRL is no package; its networks' layout is written out here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import flax
import flax.linen as fnn
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

STATES = 12
FOLDER = Path(sys.argv[1])
CASES: list[dict[str, Any]] = []
RNG = np.random.default_rng(0)


def add(name: str, file: str, states: dict[str, Any], q_values: Any, *options: str) -> None:
    """Records a case and writes its states and Q-values."""
    np.savez(FOLDER / f"{name}.states.npz", **states)
    np.save(FOLDER / f"{name}.q_values.npy", np.asarray(q_values, dtype=np.float32))
    CASES.append({"name": name, "file": file, "options": list(options)})


class OneSpace(gym.Env[Any, Any]):
    """An environment with a given observation space, which samples it."""

    def __init__(self, space: Any, actions: int = 3) -> None:
        self.observation_space, self.action_space = space, gym.spaces.Discrete(actions)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def q_values_of(model: Any, observations: Any) -> np.ndarray[Any, Any]:
    """Q-values as the policy computes them, from observations as the environment gives them."""
    tensor, _ = model.policy.obs_to_tensor(observations)
    with torch.no_grad():
        if isinstance(model, QRDQN):
            values = model.policy.quantile_net(tensor).mean(dim=1)
        else:
            values = model.policy.q_net(tensor)
    return values.numpy()


def widen(model: Any) -> None:
    """Moves weights and biases away from their initial values, as training does."""
    for parameter in model.policy.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)


def sb3(name: str, space: Any, policy: str, kind: Any = DQN, **keywords: Any) -> None:
    """Saves a policy for a space, whose states are as the environment gives them."""
    torch.manual_seed(1)
    model = kind(policy, OneSpace(space), buffer_size=8, policy_kwargs=keywords, seed=1)
    widen(model)
    model.save(FOLDER / f"{name}.zip")
    space.seed(2)
    samples = [space.sample() for _ in range(STATES)]
    if isinstance(space, gym.spaces.Dict):
        states = {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
        batch: Any = states
    else:
        batch = np.stack([np.asarray(sample) for sample in samples])
        is_flat = isinstance(space, gym.spaces.Box)
        states = {"observations": batch if is_flat else batch.reshape(STATES, -1)}
    add(name, f"{name}.zip", states, q_values_of(model, batch))


def stable_baselines() -> None:
    box = gym.spaces.Box(-2, 2, (5,), np.float32)
    image = gym.spaces.Box(0, 255, (44, 40, 3), np.uint8)
    sb3("mlp", box, "MlpPolicy")
    sb3("linear", box, "MlpPolicy", net_arch=[])
    for activation in (nn.Tanh, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU):
        name = activation.__name__.lower()
        sb3(f"mlp-{name}", box, "MlpPolicy", net_arch=[32, 16, 8], activation_fn=activation)
    sb3("matrix", gym.spaces.Box(-1, 1, (3, 4), np.float64), "MlpPolicy")
    sb3("bytes", gym.spaces.Box(0, 9, (6,), np.uint8), "MlpPolicy")
    sb3("discrete", gym.spaces.Discrete(16), "MlpPolicy")
    sb3("multi-discrete", gym.spaces.MultiDiscrete([3, 5, 2]), "MlpPolicy")
    sb3("multi-binary", gym.spaces.MultiBinary(7), "MlpPolicy")
    sb3("cnn", image, "CnnPolicy")
    sb3("cnn-first", gym.spaces.Box(0, 255, (3, 44, 40), np.uint8), "CnnPolicy")
    sb3("cnn-hidden", image, "CnnPolicy", net_arch=[24])
    sb3("cnn-tanh", image, "CnnPolicy", net_arch=[24, 12], activation_fn=nn.Tanh)
    sb3("cnn-silu", image, "CnnPolicy", net_arch=[24], activation_fn=nn.SiLU)
    sb3("cnn-unscaled", image, "CnnPolicy", normalize_images=False,
        features_extractor_kwargs={"normalized_image": True})  # fmt: skip
    sb3("flat-image", image, "MlpPolicy")
    parts = {
        "zoom": gym.spaces.Box(-1, 1, (2,), np.float32),
        "image": image,
        "map": gym.spaces.Box(-1, 1, (2, 3), np.float32),
        "mode": gym.spaces.Discrete(4),
        "flags": gym.spaces.MultiBinary(3),
        "codes": gym.spaces.MultiDiscrete([2, 3]),
        "pixels": gym.spaces.Box(0, 255, (4,), np.uint8),
    }
    sb3("parts", gym.spaces.Dict(parts), "MultiInputPolicy", activation_fn=nn.Tanh)
    few = {key: parts[key] for key in ("zoom", "map", "mode")}
    sb3("parts-flat", gym.spaces.Dict(few), "MultiInputPolicy", net_arch=[16])
    sb3("quantiles", box, "MlpPolicy", QRDQN, n_quantiles=7, activation_fn=nn.Tanh)
    sb3("quantiles-linear", box, "MlpPolicy", QRDQN, n_quantiles=5, net_arch=[])
    sb3("quantiles-cnn", image, "CnnPolicy", QRDQN, n_quantiles=9)
    normalized()
    for kind, name in ((PPO, "ppo"), (A2C, "a2c")):
        kind("MlpPolicy", OneSpace(box)).save(FOLDER / f"{name}.zip")
    SAC("MlpPolicy", gym.make("Pendulum-v1"), buffer_size=8).save(FOLDER / "sac.zip")


def normalized() -> None:
    """A policy of CartPole behind VecNormalize, trained for a moment."""
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]), clip_obs=1.5)
    model = DQN("MlpPolicy", env, seed=3, learning_starts=100, policy_kwargs={"net_arch": [32]})
    model.learn(1_500)
    env.training = False
    model.save(FOLDER / "normalized.zip")
    env.save(str(FOLDER / "normalized.pkl"))
    states = (RNG.normal(size=(STATES, 4)) * [1, 2, 0.3, 2]).astype(np.float32)
    q_values = q_values_of(model, env.normalize_obs(states))
    vectors = str(FOLDER / "normalized.pkl")
    add(
        "normalized",
        "normalized.zip",
        {"observations": states},
        q_values,
        "--vecnormalize",
        vectors,
    )
    np.savez(FOLDER / "normalized.npz", mean=env.obs_rms.mean, var=env.obs_rms.var,
             epsilon=env.epsilon, clip=env.clip_obs)  # fmt: skip
    numbers = str(FOLDER / "normalized.npz")
    add("normalized-numbers", "normalized.zip", {"observations": states}, q_values,
        "--vecnormalize", numbers)  # fmt: skip
    hub = FOLDER / "hub"
    hub.mkdir()
    model.save(hub / "dqn-CartPole-v1.zip")
    env.save(str(hub / "vec_normalize.pkl"))
    (hub / "args.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - algo\n    - dqn\n"
        "  - - env\n    - CartPole-v1\n"
    )
    (hub / "README.md").write_text("# **DQN** Agent playing **CartPole-v1**\n")
    (hub / "replay.mp4").write_bytes(b"video")
    add("hub", "hub", {"observations": states}, q_values)


class Dqn(nn.Module):
    """The network of CleanRL's `dqn.py`, or of `dqn_atari.py` for frames."""

    def __init__(self, inputs: int | None, outputs: int, *, norm: bool = False) -> None:
        super().__init__()
        hidden = (lambda *size: [nn.LayerNorm(size)]) if norm else (lambda *size: [])
        if inputs is None:
            self.network = nn.Sequential(
                *(nn.Conv2d(4, 32, 8, stride=4), *hidden(32, 20, 20), nn.ReLU()),
                *(nn.Conv2d(32, 64, 4, stride=2), *hidden(64, 9, 9), nn.ReLU()),
                *(nn.Conv2d(64, 64, 3, stride=1), *hidden(64, 7, 7), nn.ReLU()),
                nn.Flatten(),
                *(nn.Linear(3136, 512), *hidden(512), nn.ReLU()),
                nn.Linear(512, outputs),
            )
        else:
            self.network = nn.Sequential(
                *(nn.Linear(inputs, 120), *hidden(120), nn.ReLU()),
                *(nn.Linear(120, 84), *hidden(84), nn.ReLU()),
                nn.Linear(84, outputs),
            )
        self.scale = 255.0 if inputs is None else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x / self.scale)


class C51(Dqn):
    """The network of CleanRL's `c51.py` and `c51_atari.py`."""

    def __init__(self, inputs: int | None, actions: int, atoms: int, low: float, high: float):
        super().__init__(inputs, actions * atoms)
        self.n, self.n_atoms = actions, atoms
        self.register_buffer("atoms", torch.linspace(low, high, steps=atoms))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        pmfs = torch.softmax(logits.view(len(x), self.n, self.n_atoms), dim=2)
        return (pmfs * self.atoms).sum(2)


class NoisyLinear(nn.Module):
    """The noisy layer of CleanRL's `rainbow_atari.py`, as it is in evaluation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), 0.5 / inputs**0.5))
        self.register_buffer("weight_epsilon", torch.randn(outputs, inputs))
        self.bias_mu = nn.Parameter(torch.randn(outputs) * 0.1)
        self.bias_sigma = nn.Parameter(torch.full((outputs,), 0.1))
        self.register_buffer("bias_epsilon", torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight_mu, self.bias_mu)


class Rainbow(nn.Module):
    """The network of CleanRL's `rainbow_atari.py`."""

    def __init__(self, actions: int, atoms: int) -> None:
        super().__init__()
        self.actions, self.n_atoms = actions, atoms
        self.register_buffer("support", torch.linspace(-10, 10, atoms))
        convolutions = list(Dqn(None, actions).network.children())[:7]
        self.network = nn.Sequential(*convolutions)
        self.value_head = nn.Sequential(NoisyLinear(3136, 64), nn.ReLU(), NoisyLinear(64, atoms))
        self.advantage_head = nn.Sequential(
            NoisyLinear(3136, 64), nn.ReLU(), NoisyLinear(64, atoms * actions)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.network(x / 255.0)
        value = self.value_head(hidden).view(-1, 1, self.n_atoms)
        advantage = self.advantage_head(hidden).view(-1, self.actions, self.n_atoms)
        atoms = value + advantage - advantage.mean(dim=1, keepdim=True)
        return (torch.softmax(atoms, dim=2) * self.support).sum(2)


def cleanrl() -> None:
    torch.manual_seed(4)
    vectors = RNG.normal(size=(STATES, 4)).astype(np.float32)
    frames = RNG.integers(0, 256, (STATES, 4, 84, 84), dtype=np.uint8)
    networks: dict[str, tuple[nn.Module, Any]] = {
        "cleanrl-dqn": (Dqn(4, 2), vectors),
        "cleanrl-dqn-atari": (Dqn(None, 6), frames),
        "cleanrl-c51": (C51(4, 2, 101, -100, 100), vectors),
        "cleanrl-c51-atari": (C51(None, 4, 51, -10, 10), frames),
        "cleanrl-pqn": (Dqn(4, 2, norm=True), vectors),
        "cleanrl-pqn-atari": (Dqn(None, 6, norm=True), frames),
        "cleanrl-rainbow": (Rainbow(4, 51), frames),
    }
    for name, (network, states) in networks.items():
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        saved: Any = network.state_dict()
        if isinstance(network, C51):
            saved = {"model_weights": saved, "args": {"env_id": "CartPole-v1", "seed": 1}}
        torch.save(saved, FOLDER / f"{name}.cleanrl_model")
        with torch.no_grad():
            q_values = network(torch.Tensor(states)).numpy()
        add(name, f"{name}.cleanrl_model", {"observations": states}, q_values)


class FlaxNetwork(fnn.Module):
    """The networks of CleanRL's `dqn_jax.py`, `c51_jax.py` and of the Atari scripts."""

    outputs: int
    atoms: int = 0
    frames: bool = False

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        if self.frames:
            x = jnp.transpose(x, (0, 2, 3, 1)) / 255.0
            for width, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
                sizes = {"kernel_size": (kernel, kernel), "strides": (stride, stride)}
                x = fnn.relu(fnn.Conv(width, padding="VALID", **sizes)(x))
            x = fnn.relu(fnn.Dense(512)(x.reshape((x.shape[0], -1))))
        else:
            x = fnn.relu(fnn.Dense(120)(x))
            x = fnn.relu(fnn.Dense(84)(x))
        x = fnn.Dense(self.outputs * max(self.atoms, 1))(x)
        if not self.atoms:
            return x
        return fnn.softmax(x.reshape((x.shape[0], self.outputs, self.atoms)), axis=-1)


def flax_files() -> None:
    vectors = RNG.normal(size=(STATES, 4)).astype(np.float32)
    frames = RNG.integers(0, 256, (STATES, 4, 84, 84), dtype=np.uint8)
    for name, network, states in (
        ("flax-dqn", FlaxNetwork(2), vectors),
        ("flax-dqn-atari", FlaxNetwork(6, frames=True), frames),
        ("flax-c51", FlaxNetwork(2, 101), vectors),
        ("flax-c51-atari", FlaxNetwork(3, 51, frames=True), frames),
    ):
        parameters = network.init(jax.random.PRNGKey(5), states[:1])
        keys = iter(jax.random.split(jax.random.PRNGKey(6), 64))
        parameters = jax.tree.map(
            lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape),  # noqa: B023
            parameters,
        )
        values = np.asarray(network.apply(parameters, jnp.asarray(states, jnp.float32)))
        saved: Any = parameters
        if network.atoms:
            low, high = (-100, 100) if network.atoms == 101 else (-10, 10)
            arguments = {"n_atoms": network.atoms, "v_min": low, "v_max": high, "cuda": True}
            saved = {"model_weights": parameters, "args": arguments}
            values = (values * np.linspace(low, high, network.atoms)).sum(-1)
        (FOLDER / f"{name}.cleanrl_model").write_bytes(flax.serialization.to_bytes(saved))
        add(name, f"{name}.cleanrl_model", {"observations": states}, values)


class Dueling(nn.Module):
    """A dueling network with a vector and an image as inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.ELU(), nn.Flatten(), nn.Linear(144, 8))
        self.body = nn.Sequential(nn.Linear(8 + 3, 16), nn.SiLU())
        self.value, self.advantage = nn.Linear(16, 1), nn.Linear(16, 5)

    def forward(self, image: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
        hidden = self.body(torch.cat([self.eye(image), speed], dim=1))
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)


def onnx_files() -> None:
    torch.manual_seed(7)
    vectors = RNG.normal(size=(STATES, 4)).astype(np.float32)
    frames = RNG.integers(0, 256, (STATES, 4, 84, 84), dtype=np.uint8)
    plain, nature, two = Dqn(4, 3), Dqn(None, 6), Dueling()
    image = RNG.normal(size=(STATES, 2, 14, 14)).astype(np.float32)
    speed = RNG.normal(size=(STATES, 3)).astype(np.float32)

    def export(name: str, network: nn.Module, inputs: list[Any], names: list[str], **more: Any):
        tensors = tuple(torch.from_numpy(value[:1]).float() for value in inputs)
        torch.onnx.export(
            network, tensors, str(FOLDER / f"{name}.onnx"), input_names=names,
            output_names=["action_values"], external_data=False, verbose=False, **more,
        )  # fmt: skip
        with torch.no_grad():
            q_values = network(*(torch.from_numpy(value).float() for value in inputs)).numpy()
        states = (
            dict(zip(names, inputs, strict=True)) if len(names) > 1 else {"observations": inputs[0]}
        )
        options = ("--divisor", "1") if inputs[0].dtype == np.uint8 else ()
        add(name, f"{name}.onnx", states, q_values, *options)

    plain, nature, two = plain.eval(), nature.eval(), two.eval()
    export("onnx-fixed", plain, [vectors], ["obs"])
    batch = torch.export.Dim.DYNAMIC
    export("onnx-dynamic", plain, [vectors], ["obs"], dynamic_shapes=({0: batch},))
    export("onnx-frames", nature, [frames], ["x"])
    export("onnx-two", two, [image, speed], ["image", "speed"],
           dynamic_shapes=({0: batch}, {0: batch}))  # fmt: skip
    export("onnx-two-fixed", two, [image, speed], ["image", "speed"])
    for opset in (9, 11, 13):
        axes = {"obs": {0: "n"}}
        export(f"onnx-opset{opset}", plain, [vectors], ["obs"], dynamo=False,
               opset_version=opset, dynamic_axes=axes)  # fmt: skip


def torch_files() -> None:
    torch.manual_seed(8)
    from safetensors.torch import save_file

    vectors = RNG.normal(size=(STATES, 4)).astype(np.float32)
    network = nn.Sequential(
        nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 2)
    )
    with torch.no_grad():
        q_values = network(torch.from_numpy(vectors)).numpy()
    torch.save(network.state_dict(), FOLDER / "sequence.pt")
    save_file(network.state_dict(), FOLDER / "sequence.safetensors")
    states = {"observations": vectors}
    for file in ("sequence.pt", "sequence.safetensors"):
        add(file.replace(".", "-"), file, states, q_values, "--activation", "tanh")
    described = FOLDER / "network.toml"
    described.write_text('[network]\nkind = "mlp"\nhidden = [12, 9]\nactivation = "tanh"\n')
    for file in ("sequence.pt", "sequence.safetensors"):
        name = f"described-{file.replace('.', '-')}"
        add(name, file, states, q_values, "--network", str(described))
    torch.save(network, FOLDER / "module.pt")


def main() -> None:
    """Writes everything, and `cases.json` with the files, their options and states."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for make in (stable_baselines, cleanrl, flax_files, onnx_files, torch_files):
        make()
    (FOLDER / "cases.json").write_text(json.dumps(CASES, indent=1))


if __name__ == "__main__":
    main()
