from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from policy_files import dense, q_net, save, sb3_zip
from slimq.core.errors import InvalidInputError
from slimq.importing.hub import find_policy
from slimq.importing.recognition import read_source
from slimq.importing.source import Hints


def test_the_policy_and_its_environment_are_found(tmp_path: Path) -> None:
    sb3_zip(tmp_path / "dqn-CartPole-v1.zip", q_net(dense(4, 2)))
    (tmp_path / "train_eval_metrics.zip").write_bytes(b"other")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "replay.mp4").write_bytes(b"video")
    source = read_source(tmp_path, Hints())
    assert source.environment is not None
    assert source.environment.id == "CartPole-v1"
    assert source.notes == ("environment CartPole-v1, as the folder says",)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("args.yml", "!!python/object/apply:collections.OrderedDict\n- - - algo\n    - dqn\n"
         "  - - env\n    - Acrobot-v1\n", "Acrobot-v1"),
        ("args.yml", "algo: dqn\nenv: Acrobot-v1\n", "Acrobot-v1"),
        ("README.md", "# (CleanRL) **DQN** Agent Playing **Acrobot-v1**\n", "Acrobot-v1"),
        ("README.md", "```python\n{'cuda': True,\n 'env_id': 'Acrobot-v1'}\n```", "Acrobot-v1"),
        ("README.md", "a **DQN** agent playing **PongNoFrameskip-v4**\n", "ALE/Pong-v5"),
    ],
)  # fmt: skip
def test_the_environment_is_read_without_loading_yaml(
    tmp_path: Path, name: str, text: str, found: str
) -> None:
    save(tmp_path / "dqn.cleanrl_model", {f"network.{k}": v for k, v in dense(4, 2).items()})
    (tmp_path / name).write_text(text)
    source = read_source(tmp_path, Hints())
    assert source.environment is not None
    assert source.environment.id == found
    assert (source.environment.preprocessing is not None) == found.startswith("ALE/")


def test_a_wrapper_of_the_training_is_named(tmp_path: Path) -> None:
    sb3_zip(tmp_path / "dqn-MiniGrid-Empty-5x5-v0.zip", q_net(dense(4, 2)))
    (tmp_path / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - batch_size\n    - 32\n"
        "  - - env_wrapper\n    - minigrid.wrappers.FlatObsWrapper\n  - - gamma\n    - 0.9\n"
    )
    source = read_source(tmp_path, Hints())
    wanted = "trained with the wrapper minigrid.wrappers.FlatObsWrapper: give it in --config"
    assert source.notes[-1] == wanted


def test_statistics_beside_the_policy_are_used(tmp_path: Path) -> None:
    sb3_zip(tmp_path / "dqn-CartPole-v1.zip", q_net(dense(4, 2)))
    (tmp_path / "vec_normalize.pkl").write_bytes(b"nothing")
    with pytest.raises(InvalidInputError, match=r"vec_normalize\.pkl: expected a VecNormalize"):
        read_source(tmp_path, Hints())


def test_statistics_that_are_not_used_are_mentioned(tmp_path: Path) -> None:
    path = sb3_zip(tmp_path / "dqn.zip", q_net(dense(4, 2)))
    (tmp_path / "vec_normalize.pkl").touch()
    assert "vec_normalize.pkl is in the same folder" in read_source(path, Hints()).notes[-1]
    pixels = gymnasium.spaces.Box(0, 255, (4,), np.uint8)
    path = sb3_zip(tmp_path / "pixels.zip", q_net(dense(4, 2)), pixels)
    assert read_source(path, Hints()).notes == ()


def test_a_folder_without_a_policy_or_with_several_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "optimizer.pt").touch()
    with pytest.raises(InvalidInputError, match=r"a folder with a policy \(.*notes\.txt"):
        find_policy(tmp_path)
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidInputError, match=r"one policy, received a\.zip, b\.zip; name the"):
        find_policy(tmp_path)
