from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError, TrainingError
from slimq_trainer.checkpoint import latest_checkpoint, read_state, save_checkpoint
from slimq_trainer.config import AlgorithmConfig, TrainConfig
from slimq_trainer.dqn import (
    act,
    descend,
    exploration_rate,
    importance,
    learning_rate,
    loss_of,
    make_learner,
    play,
    temporal_difference_errors,
    train,
    updates_due,
)
from slimq_trainer.learner import Learner
from slimq_trainer.replay import Batch
from slimq_trainer.run import Run
from waiting import until


def weights(learner: Learner) -> list[Tensor]:
    networks = [learner.online, learner.target, learner.policy]
    return [weight.clone() for net in networks for weight in net.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def train_in(folder: Path, config: TrainConfig) -> Learner:
    with Run(folder, config, progress=False) as run:
        return train(config, run)


def train_in_pieces(folder: Path, config: TrainConfig, pauses: list[int]) -> Learner:
    for pause in pauses:
        with Run(folder, config, progress=False) as run:
            follow = run.after_step

            def stop_there(
                learner: Learner, run: Any = run, at: int = pause, then: Any = follow
            ) -> None:
                then(learner)
                run.stopping = learner.step >= at

            run.after_step = stop_there  # type: ignore[method-assign]
            assert train(config, run).step < config.algorithm.steps
    return train_in(folder, config)


def test_both_networks_start_alike_and_the_replay_empty(small_config: TrainConfig) -> None:
    learner = make_learner(small_config)
    assert len(learner.replay) == 0
    for online, target in zip(
        learner.online.parameters(), learner.target.parameters(), strict=True
    ):
        assert torch.equal(online, target)
        assert not target.requires_grad


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, small_config: TrainConfig) -> None:
    first = train_in(tmp_path / "a", small_config)
    second = train_in(tmp_path / "b", small_config)
    assert first.updates > 200
    assert same(weights(first), weights(second))
    other = small_config.model_copy(update={"seed": 8})
    assert not same(weights(first), weights(train_in(tmp_path / "c", other)))


@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, small_config: TrainConfig, exponent: float
) -> None:
    algorithm = small_config.algorithm.model_copy(update={"priority_exponent": exponent})
    config = small_config.model_copy(update={"algorithm": algorithm})
    whole = train_in(tmp_path / "whole", config)
    pieces = train_in_pieces(tmp_path / "pieces", config, [90, 400, 901])
    assert pieces.step == whole.step
    assert pieces.episodes == whole.episodes
    assert same(weights(whole), weights(pieces))


# With batch normalization, whose statistics have to come back too.
BLOCKS: list[dict[str, Any]] = [
    {"channels": 4, "kernel": 8, "stride": 8, "batch_norm": True},
    {
        "kind": "residual",
        "layers": [
            {"channels": 8, "kernel": 1, "groups": 2, "batch_norm": True},
            {"kind": "shuffle", "groups": 2},
            {"channels": 8, "kernel": 3, "padding": 1, "groups": 8, "batch_norm": True},
            {"channels": 4, "kernel": 1, "batch_norm": True, "activation": False},
        ],
    },
]


def test_an_interrupted_atari_training_ends_with_the_same_weights(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    config = small_config.model_copy(
        update={
            "environment": EnvironmentSpec(
                id="PongNoFrameskip-v4", preprocessing=AtariPreprocessing(), max_episode_steps=70
            ),
            "network": TrainConfig.model_validate(
                small_config.model_dump()
                | {
                    "network": {
                        "kind": "conv",
                        "convolutions": BLOCKS,
                        "hidden": [8],
                    }
                }
            ).network,
            "algorithm": small_config.algorithm.model_copy(update={"steps": 450}),
        }
    )
    whole = train_in(tmp_path / "whole", config)
    pieces = train_in_pieces(tmp_path / "pieces", config, [200, 299])
    assert whole.episodes > 3
    assert same(weights(whole), weights(pieces))


SCRIPT = """
import sys
import time
from pathlib import Path
from slimq_trainer.config import TrainConfig
from slimq_trainer.dqn import train
from slimq_trainer.run import Run
config = TrainConfig.model_validate_json(sys.argv[2])
with Run(Path(sys.argv[1]), config, progress=False) as run:
    follow = run.after_step
    def slow_down(learner):
        follow(learner)
        if learner.step >= 900:
            time.sleep(0.1)
    run.after_step = slow_down
    learner = train(config, run)
print(learner.step)
"""
"""After 900 steps it takes a minute for the rest, however late it is told to end."""


def start(folder: Path, config: TrainConfig) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), config.model_dump_json()],
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(folder: Path) -> Path:
    """A checkpoint from after 900 steps."""
    found: list[Path] = []

    def look() -> bool:
        found[:] = [path for path in [latest_checkpoint(folder)] if path is not None]
        return bool(found) and int(found[0].name.split("-")[1]) >= 900

    until(look, 90, "a checkpoint")
    return found[0]


def long_config(config: TrainConfig) -> TrainConfig:
    return config.model_copy(
        update={
            "algorithm": config.algorithm.model_copy(update={"steps": 2_700}),
            "run": config.run.model_copy(update={"checkpoint_minutes": 0.005}),
        }
    )


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    config = long_config(small_config)
    process = start(tmp_path / "killed", config)
    wait_for_checkpoint(tmp_path / "killed")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert latest_checkpoint(tmp_path / "killed") is not None
    resumed = train_in(tmp_path / "killed", config)
    assert same(weights(train_in(tmp_path / "whole", config)), weights(resumed))


def test_ctrl_c_saves_a_checkpoint_and_ends_in_order(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    config = long_config(small_config)
    process = start(tmp_path, config)
    first = wait_for_checkpoint(tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    last = latest_checkpoint(tmp_path)
    assert last is not None
    assert last.name.startswith(f"checkpoint-{int(output):012d}-")
    assert last >= first


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    with Run(tmp_path, small_config, progress=False) as run:
        follow = run.after_step

        def poison(learner: Learner) -> None:
            if learner.step == 600:
                run.save(learner)
            if learner.step > 700:
                with torch.no_grad():
                    learner.online.head.weight[0, 0] = float("nan")
            follow(learner)

        run.after_step = poison  # type: ignore[method-assign]
        with pytest.raises(TrainingError, match=r"not finite at agent step 900.*learning_rate"):
            train(small_config, run)
    last = latest_checkpoint(tmp_path)
    assert last is not None
    assert last.name.startswith("checkpoint-000000000600-")
    assert train_in(tmp_path, small_config).step == small_config.algorithm.steps


def test_a_checkpoint_of_another_configuration_is_refused(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    train_in(tmp_path, small_config)
    algorithm = small_config.algorithm.model_copy(update={"gamma": 0.5})
    other = small_config.model_copy(update={"algorithm": algorithm, "seed": 8})
    message = r"other values of algorithm\.gamma, seed; restore .*, continue from it with --from "
    with pytest.raises(TrainingError, match=message):
        train_in(tmp_path, other)


def test_two_trainings_never_share_a_folder(tmp_path: Path, small_config: TrainConfig) -> None:
    with Run(tmp_path, small_config, progress=False):
        with pytest.raises(TrainingError, match=r"in use by another training run; .* --run"):
            train_in(tmp_path, small_config)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]
    with Run(tmp_path, small_config, progress=False):
        pass


def test_a_replay_buffer_that_does_not_fit_in_memory_is_refused(small_config: TrainConfig) -> None:
    algorithm = small_config.algorithm.model_copy(update={"replay_size": 10**15})
    with pytest.raises(InvalidInputError, match=r"^algorithm\.replay_size: .*received 10{15}: "):
        make_learner(small_config.model_copy(update={"algorithm": algorithm}))


def test_a_second_save_at_the_same_step_never_removes_the_first_before_its_time(
    tmp_path: Path, small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = train_in(tmp_path, small_config)
    first = latest_checkpoint(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="killed here"):
            save_checkpoint(tmp_path, learner, {})
    assert latest_checkpoint(tmp_path) == first
    with monkeypatch.context() as patch:
        patch.setattr("slimq_trainer.checkpoint.remove_checkpoint", fail)
        empty = {"seconds": 1.0, "curve": [], "best": None, "history": [], "origin": []}
        with pytest.raises(OSError, match="killed here"):
            save_checkpoint(tmp_path, learner, empty)
    assert latest_checkpoint(tmp_path) != first
    assert train_in(tmp_path, small_config).step == small_config.algorithm.steps
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


@pytest.mark.parametrize("name", ["state.pt", "replay.zst"])
@pytest.mark.parametrize("content", [None, b"", b"no such thing", "cut"])
def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, small_config: TrainConfig, name: str, content: bytes | str | None
) -> None:
    with Run(tmp_path, small_config, progress=False) as run:
        learner = make_learner(small_config)
        while learner.step < 60:
            play(learner, act(learner, learner.online))
        run.restore(learner)
        run.finish(learner)
    last = latest_checkpoint(tmp_path)
    assert last is not None
    if content is None:
        (last / name).unlink()
    else:
        whole = (last / name).read_bytes()
        (last / name).write_bytes(whole[:-200] if isinstance(content, str) else content)
    with pytest.raises(TrainingError, match=r"checkpoint-.*cannot be read.*--fresh") as raised:
        train_in(tmp_path, small_config)
    assert "weights_only" not in str(raised.value)
    if name == "state.pt":
        # It is not what --fresh would replace.
        with pytest.raises(TrainingError, match=r"checkpoint-.*cannot be read \(.*\)$"):
            read_state(last, starts_over=False)


def test_a_missing_best_network_is_named(tmp_path: Path, small_config: TrainConfig) -> None:
    train_in(tmp_path, small_config)
    for path in tmp_path.glob("best-*"):
        path.unlink()
    with pytest.raises(TrainingError, match="is missing"):
        train_in(tmp_path, small_config)


def test_what_was_logged_after_the_checkpoint_is_logged_once(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    train_in_pieces(tmp_path, small_config, [700])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1500, "train/loss": 1.0}\n{"ste')
    train_in(tmp_path, small_config)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [300, 600, 900, 1200]


def test_the_log_is_json_though_no_episode_has_ended(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    run = small_config.run.model_copy(update={"log_every": 4})
    train_in(tmp_path, small_config.model_copy(update={"run": run}))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert "train/return" not in records[0]
    assert "train/return" in records[-1]


def test_an_unfinished_checkpoint_is_passed_over(tmp_path: Path, small_config: TrainConfig) -> None:
    train_in(tmp_path, small_config)
    (tmp_path / "checkpoint-999999999999.unfinished").mkdir()
    assert train_in(tmp_path, small_config).step == small_config.algorithm.steps


class Table(nn.Module):
    """Q-values read from a table by the state's number."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, observation: Tensor) -> Tensor:
        return self.rows[observation.long().squeeze(1)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # y = 1 + 0.9·max(5, 1) = 5.5 and y = -2; Q = 2 and 0.5
        ({}, ((5.5 - 2.0) ** 2 + 2.5**2) / 2),
        # the online network prefers action 1 in state 1: y = 1 + 0.9·1
        ({"double": True}, ((1.9 - 2.0) ** 2 + 2.5**2) / 2),
        ({"loss": "huber"}, ((3.5 - 0.5) + (2.5 - 0.5)) / 2),
        # half way, importance weights of (1 / P)^0.7 relative to the largest
        ({"priority_exponent": 0.5}, (0.25**0.7 * (5.5 - 2.0) ** 2 + 2.5**2) / 2),
    ],
)
def test_the_loss_is_the_definition(
    small_config: TrainConfig, options: dict[str, Any], expected: float
) -> None:
    online, target = Table([[2.0, 0.5], [0.0, 3.0]]), Table([[9.0, 9.0], [5.0, 1.0]])
    batch = Batch(
        observations=torch.tensor([[0.0], [0.0]]),
        actions=torch.tensor([0, 1]),
        returns=torch.tensor([1.0, -2.0]),
        next_observations=torch.tensor([[1.0], [1.0]]),
        discounts=torch.tensor([0.9, 0.0]),
        probabilities=torch.tensor([4.0, 1.0])
        if options.get("priority_exponent")
        else torch.ones(2),
        environments=torch.zeros(2, dtype=torch.int64),
        rows=torch.arange(2),
    )
    algorithm = AlgorithmConfig(steps=10, learning_starts=0, **options)
    learner = make_learner(small_config.model_copy(update={"algorithm": algorithm}))
    learner.step = 5
    errors = temporal_difference_errors(online, target, batch, algorithm)
    loss = loss_of(errors, importance(learner, batch), algorithm)
    assert loss.item() == pytest.approx(expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert online.rows.grad is not None
    assert target.rows.grad is None
    assert torch.equal(online.rows.grad[1], torch.zeros(2))


def test_schedules_are_linear_and_end_where_they_should() -> None:
    algorithm = AlgorithmConfig(
        steps=1_000,
        learning_starts=0,
        epsilon_start=1.0,
        epsilon_end=0.2,
        epsilon_steps=100,
        learning_rate=1e-3,
        learning_rate_end=1e-4,
    )
    assert [exploration_rate(algorithm, s) for s in (0, 50, 100, 999)] == pytest.approx(
        [1.0, 0.6, 0.2, 0.2]
    )
    assert [learning_rate(algorithm, s) for s in (0, 500, 1_000)] == pytest.approx(
        [1e-3, 5.5e-4, 1e-4]
    )


def test_exploration_follows_epsilon(small_config: TrainConfig) -> None:
    learner = make_learner(small_config)
    with torch.no_grad():
        learner.online.head.bias.copy_(torch.tensor([-1e6, 1e6]))
    learner.step = 600
    rate = small_config.algorithm.epsilon_end
    actions = np.concatenate([act(learner, learner.q_online) for _ in range(1_000)])
    assert (actions == 0).mean() == pytest.approx(rate / 2, abs=0.02)


@pytest.mark.slow
def test_the_plain_algorithm_learns_cartpole(tmp_path: Path, small_config: TrainConfig) -> None:
    config = small_config.model_copy(
        update={
            "environment": EnvironmentSpec(id="CartPole-v1", max_episode_steps=500),
            "algorithm": AlgorithmConfig(
                steps=40_000,
                replay_size=20_000,
                learning_starts=1_000,
                update_every=2,
                target_update_every=200,
                epsilon_end=0.05,
                epsilon_steps=8_000,
                optimizer="adam",
                learning_rate=1e-3,
                optimizer_epsilon=1e-8,
            ),
            "run": small_config.run.model_copy(
                update={"evaluate_every": 5_000, "evaluate_episodes": 5}
            ),
        }
    )
    with Run(tmp_path, config, progress=False) as run:
        train(config, run)
        assert run.best is not None
        assert run.best[1] > 150
    assert run.best_network.exists()


def test_a_training_ends_early_once_the_target_return_is_reached(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    settings = {"evaluate_every": 300, "target_return": 1.0}
    config = small_config.model_copy(update={"run": small_config.run.model_copy(update=settings)})
    learner = train_in(tmp_path, config)
    assert learner.step == 300
    assert train_in(tmp_path, config).step == 300


def test_the_published_weights_are_the_moving_average(small_config: TrainConfig) -> None:
    learner = make_learner(small_config)
    decay = small_config.algorithm.average_decay
    assert decay is not None
    expected = learner.online.head.weight.detach().clone()
    while learner.updates < 5:
        play(learner, act(learner, learner.online))
        for _ in range(updates_due(learner)):
            batch = learner.replay.sample(16, learner.sampling)
            algorithm = small_config.algorithm
            errors = temporal_difference_errors(learner.online, learner.target, batch, algorithm)
            descend(learner, loss_of(errors, importance(learner, batch), algorithm))
            short = min(decay, learner.updates / (9 + learner.updates))
            expected = short * expected + (1 - short) * learner.online.head.weight.detach()
    assert torch.allclose(learner.policy.head.weight, expected, atol=1e-6)
    assert not torch.equal(learner.policy.head.weight, learner.online.head.weight)
    assert not learner.policy.head.weight.requires_grad


def test_without_averaging_the_online_network_is_published(small_config: TrainConfig) -> None:
    plain = small_config.algorithm.model_copy(update={"average_decay": None})
    learner = make_learner(small_config.model_copy(update={"algorithm": plain}))
    assert learner.policy is learner.online
