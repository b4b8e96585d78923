"""Training that goes on from an earlier one: with its whole state, or with its weights."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from slimq.core.errors import InvalidInputError, TrainingError
from slimq.networks.checkpoint import save_network
from slimq_trainer.changes import CHANGEABLE, comparable, differences, fixed_keys
from slimq_trainer.checkpoint import latest_checkpoint
from slimq_trainer.config import AlgorithmConfig, TrainConfig
from slimq_trainer.dqn import learning_rate, make_learner, train
from slimq_trainer.fitting import network_spec
from slimq_trainer.learner import Learner
from slimq_trainer.run import Run
from slimq_trainer.start import find_start, require_same_network


def with_algorithm(config: TrainConfig, **changes: Any) -> TrainConfig:
    algorithm = AlgorithmConfig.model_validate(config.algorithm.model_dump() | changes)
    return config.model_copy(update={"algorithm": algorithm})


def train_in(
    folder: Path, config: TrainConfig, start: Path | None = None, stop: int = 10**9
) -> tuple[Learner, Run]:
    found = None if start is None else find_start(start)
    with Run(folder, config, start=found, progress=False) as run:
        follow = run.after_step

        def stop_there(learner: Learner) -> None:
            follow(learner)
            run.stopping = learner.step >= stop

        run.after_step = stop_there  # type: ignore[method-assign]
        return train(config, run), run


def weights(learner: Learner) -> bytes:
    return save_network(learner.online)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, small_config: TrainConfig) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    train_in(folder, small_config)
    return folder


@pytest.fixture
def trained(tmp_path: Path, complete: Path) -> Path:
    """The run folder of a complete training of `small_config`."""
    return Path(shutil.copytree(complete, tmp_path / "first"))


def test_more_steps_go_on_with_buffer_optimizer_and_step_count(
    trained: Path, small_config: TrainConfig
) -> None:
    more = with_algorithm(small_config, steps=1_500)
    before = latest_checkpoint(trained)
    learner, run = train_in(trained, more, trained, stop=1_203)
    assert (learner.step, learner.updates > 263, len(learner.replay)) == (1_203, False, 900)
    assert latest_checkpoint(trained) != before
    assert [one.from_step for one in run.history] == [1_200]
    assert run.history[0].changes == {"algorithm.steps": (1_200, 1_500)}


def test_a_training_that_goes_on_is_the_same_as_one_that_had_the_setting_from_then_on(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    halfway = with_algorithm(small_config, learning_rate_end=None)
    changed = with_algorithm(halfway, learning_rate=5e-4)
    train_in(tmp_path / "a", halfway, stop=600)
    learner, _ = train_in(tmp_path / "b", changed, tmp_path / "a")

    with Run(tmp_path / "c", halfway, progress=False) as run:
        follow = run.after_step

        def change(learner: Learner) -> None:
            follow(learner)
            if learner.step == 600:
                learner.config = changed

        run.after_step = change  # type: ignore[method-assign]
        expected = train(halfway, run)
    assert learning_rate(changed.algorithm, 600) == 5e-4
    assert weights(learner) == weights(expected)


@pytest.mark.parametrize("again", [True, False], ids=["with --from", "without --from"])
@pytest.mark.parametrize("weights_only", [True, False])
def test_an_interrupted_continuation_resumes_and_does_not_begin_again(
    tmp_path: Path, trained: Path, small_config: TrainConfig, *, again: bool, weights_only: bool
) -> None:
    changes = {"replay_size": 1_200} if weights_only else {"gamma": 0.9}
    other = with_algorithm(small_config, steps=1_500, **changes)
    whole, _ = train_in(tmp_path / "whole", other, trained)
    stop = 300 if weights_only else 1_300
    _, first = train_in(tmp_path / "second", other, trained, stop=stop)
    learner, run = train_in(tmp_path / "second", other, trained if again else None)
    assert (learner.step, weights(learner)) == (1_500, weights(whole))
    assert run.history == first.history
    assert len(run.history) == 1


def test_an_interruption_before_the_first_step_resumes_there_too(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    other = with_algorithm(small_config, replay_size=1_200)
    learner = make_learner(other)
    with Run(tmp_path / "second", other, start=find_start(trained), progress=False) as run:
        run.restore(learner)
        history = run.history
    resumed = make_learner(other)
    with Run(tmp_path / "second", other, progress=False) as run:
        run.restore(resumed)
    assert weights(resumed) == weights(learner) != weights(make_learner(other))
    assert run.history == history


def test_a_change_that_the_buffer_depends_on_takes_the_weights_alone(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    other = with_algorithm(small_config, environments=2, gamma=0.9)
    best = next(trained.glob("best-*"))
    learner = make_learner(other)
    with Run(tmp_path / "second", other, start=find_start(trained), progress=False) as run:
        run.restore(learner)
        assert (learner.step, learner.updates, len(learner.replay)) == (0, 0, 0)
        assert weights(learner) == save_network(learner.target) == best.read_bytes()
        assert run.best_network.read_bytes() == best.read_bytes()
        assert [step for step, _ in run.curve] == [0]
    (record,) = run.history
    assert record.from_sha256 == hashlib.sha256(best.read_bytes()).hexdigest()
    assert record.from_step == 1_200
    assert record.changes == {
        "algorithm.environments": (3, 2),
        "algorithm.gamma": (0.99, 0.9),
    }


def test_a_network_file_gives_its_weights(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(next(trained.glob("best-*")).read_bytes())
    learner = make_learner(small_config)
    with Run(tmp_path / "second", small_config, start=find_start(path), progress=False) as run:
        run.restore(learner)
    assert weights(learner) == path.read_bytes()
    assert (run.history[0].from_step, run.history[0].changes) == (0, {})
    assert find_start(next(trained.glob("best-*"))).step == 1_200


def test_a_run_without_a_best_network_gives_the_average_of_its_checkpoint(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    learner, _ = train_in(tmp_path / "first", small_config, stop=600)
    found = find_start(tmp_path / "first")
    assert found.network == save_network(learner.policy) != weights(learner)
    assert (found.step, found.spec) == (600, learner.online.spec)


def test_history_accumulates(tmp_path: Path, trained: Path, small_config: TrainConfig) -> None:
    train_in(tmp_path / "b", with_algorithm(small_config, steps=1_500), trained)
    narrow = with_algorithm(small_config, steps=900, replay_size=1_000)
    _, run = train_in(tmp_path / "c", narrow, tmp_path / "b")
    assert [one.from_step for one in run.history] == [1_200, 1_500]
    assert run.history[1].changes["algorithm.steps"] == (1_500, 900)


def test_the_best_network_so_far_comes_along(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    best = next(trained.glob("best-*"))
    more = with_algorithm(small_config, steps=1_500)
    _, run = train_in(tmp_path / "b", more, trained, stop=1_203)
    assert run.best_network.name == best.name
    assert run.best_network.read_bytes() == best.read_bytes()


def test_averages_can_begin_and_end_and_the_optimizers_epsilon_takes_effect(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    train_in(tmp_path / "a", small_config, stop=600)
    plain = with_algorithm(small_config, average_decay=None, optimizer_epsilon=1e-4)
    learner, _ = train_in(tmp_path / "b", plain, tmp_path / "a", stop=603)
    assert learner.average is None
    assert learner.optimizer.param_groups[0]["eps"] == 1e-4
    learner, _ = train_in(tmp_path / "c", small_config, tmp_path / "b", stop=606)
    assert learner.average is not None
    assert learner.optimizer.param_groups[0]["eps"] == 1e-8


def test_every_changeable_key_exists_and_what_the_buffer_holds_is_none(
    small_config: TrainConfig,
) -> None:
    keys = {f"algorithm.{name}" for name in AlgorithmConfig.model_fields} | {"policy", "precision"}
    assert keys >= CHANGEABLE
    assert keys - CHANGEABLE == {
        "algorithm.environments",
        "algorithm.replay_size",
        "algorithm.optimizer",
        "algorithm.clip_rewards",
        "algorithm.n_step",
        "algorithm.priority_exponent",
    }
    strengths = {"algorithm.augmentation": (None, {}), "algorithm.augmentation.noise": (4.0, 8.0)}
    assert fixed_keys(strengths) == []
    now = comparable(small_config, "fp32")
    assert differences(now, now) == {}
    assert differences(now, now | {"seed": 8}) == {"seed": (7, 8)}


def test_steps_that_were_all_taken_are_refused(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    less = with_algorithm(small_config, steps=1_000)
    message = r"^algorithm\.steps: expected more than the 1,200 steps .*, received 1,000$"
    with pytest.raises(InvalidInputError, match=message):
        train_in(tmp_path / "second", less, trained)
    assert latest_checkpoint(tmp_path / "second") is None


def test_in_the_same_folder_weights_alone_never_replace_a_whole_state(
    trained: Path, small_config: TrainConfig
) -> None:
    before = latest_checkpoint(trained)
    with pytest.raises(TrainingError, match=r"other values of algorithm\.replay_size; .* --run"):
        train_in(trained, with_algorithm(small_config, replay_size=1_000), trained)
    assert latest_checkpoint(trained) == before


def test_nothing_changed_just_resumes(trained: Path, small_config: TrainConfig) -> None:
    _, run = train_in(trained, small_config, trained)
    assert run.history == ()


def test_another_training_in_the_folder_is_never_replaced(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    train_in(tmp_path / "b", small_config, stop=300)
    with pytest.raises(
        TrainingError, match=r"holds a training run that did not begin at .*first; use"
    ):
        train_in(tmp_path / "b", small_config, trained)
    with pytest.raises(
        TrainingError, match=r"training run with other values of algorithm\.gamma; "
    ):
        train_in(tmp_path / "b", with_algorithm(small_config, gamma=0.9), trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network": {"kind": "mlp", "hidden": [16, 8]}},
            r"^network\.hidden: expected \[16\], as in the network of .*first, received \[16, 8\]$",
        ),
        (
            {"network": {"kind": "mlp", "hidden": [16], "activation": "tanh"}},
            r"^network\.activation: expected relu, as in .*, received tanh$",
        ),
        (
            {"environment": {"id": "Acrobot-v1", "max_episode_steps": 60}},
            r"^environment \((actions|observation_shape)\): expected (2|\[4\]), as in ",
        ),
    ],
)
def test_a_network_that_differs_is_refused_with_the_field(
    trained: Path, small_config: TrainConfig, change: dict[str, Any], message: str
) -> None:
    other = TrainConfig.model_validate(small_config.model_dump() | change)
    with pytest.raises(InvalidInputError, match=message):
        require_same_network(find_start(trained), network_spec(other))
    with pytest.raises(InvalidInputError, match=message):
        train_in(trained.parent / "second", other, trained)


def test_a_dense_layer_in_its_long_form_is_the_same(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    long = {"network": {"kind": "mlp", "hidden": [{"width": 16}]}}
    other = TrainConfig.model_validate(small_config.model_dump() | long)
    require_same_network(find_start(trained), network_spec(other))
    other = with_algorithm(other, steps=1_206)
    learner, _ = train_in(tmp_path / "second", other, trained)  # with the whole state
    assert (learner.step, len(learner.replay)) == (1_206, 900)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "which does not exist"),
        ("empty", "folder", "a folder with none of these"),
        ("model.zip", b"PK", r"model\.zip; slimq import"),
        ("x.safetensors", b"\x02\0\0\0\0\0\0\0{}", "is not a slimq checkpoint"),
        ("x.safetensors", b"short", "is not a slimq checkpoint"),
        ("policy.json", b"{}", "policy.json"),
    ],
)
def test_what_is_no_start_is_refused_with_what_is_needed(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(Exception, match=message) as error:
        find_start(path)
    assert not isinstance(error.value, (ValidationError, OSError, ValueError))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_format_is_refused_and_says_what_to_do(
    trained: Path, small_config: TrainConfig
) -> None:
    path = latest_checkpoint(trained)
    assert path is not None
    state = torch.load(path / "state.pt", weights_only=True)
    for found, said in ((None, "format 1"), (3, "format 3")):
        changed = {key: value for key, value in state.items() if key != "format"}
        torch.save(changed | ({"format": found} if found else {}), path / "state.pt")
        message = re.escape(f"{path}: is a checkpoint of {said}, this slimq reads format 2; use ")
        with pytest.raises(TrainingError, match=message):
            train_in(trained, small_config)
        with pytest.raises(TrainingError, match=message) as raised:
            find_start(trained)
        assert "--fresh" not in str(raised.value)


def test_a_policy_of_the_repository_gives_weights_configuration_and_history(
    tmp_path: Path, trained: Path, small_config: TrainConfig
) -> None:
    from slimq.cli.train import publish_policy

    learner, run = train_in(trained, with_algorithm(small_config, steps=1_500), trained)
    config = run.config.model_copy(update={"calibration_states": 20})
    publish_policy(config, run, learner, tmp_path / "policies")
    folder = tmp_path / "policies/small"
    content = run.best_network.read_bytes()
    for path in (folder, folder / "policy.json", next(folder.glob("checkpoint-*"))):
        found = find_start(path)
        assert (found.found, found.network) == ("the policy small", content)
        assert found.history == run.history
        assert found.checkpoint is None
        changes = found.changes(with_algorithm(config, gamma=0.5), "fp32")
        assert changes == {"algorithm.gamma": (0.99, 0.5)}
    second, run = train_in(tmp_path / "second", small_config, folder)
    assert [one.from_step for one in run.history] == [1_200, found.step]
    assert second.step == 1_200
