from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from builders import make_frames_model
from places import POLICIES
from slimq.core.errors import RepositoryError
from slimq.core.observation import ObservationSpec
from slimq.core.repository import Repository
from slimq_service.variants.loading import is_batch_invariant, load, trim_memory


def test_a_variant_is_loaded_with_its_policy(repositories: Any) -> None:
    repository = Repository(repositories.root)
    loaded = load(repository, repository.policy("tiny"), "other")
    assert loaded.sha256 == repository.variant("tiny", "other").model.sha256
    assert loaded.q_function(np.zeros((5, 4), np.float32)).shape == (5, 2)


def test_a_model_of_another_policy_is_refused_by_name(repositories: Any) -> None:
    repositories.publish("tiny", "other", make_frames_model())
    repository = Repository(repositories.root)
    with pytest.raises(RepositoryError, match="other"):
        load(repository, repository.policy("tiny"), "other")


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_memory_is_trimmed_where_that_can_be_done(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr("slimq_service.variants.loading.sys.platform", platform)
    trim_memory()


@pytest.mark.parametrize(
    ("policy", "variant", "batch_invariant"),
    [
        ("cartpole", "fp32", True),
        ("cartpole", "int8", True),
        ("cartpole", "int8-dynamic", False),
        ("pong", "int8", True),
        ("pong", "int8-dynamic", False),
    ],
)
def test_models_with_one_scale_per_batch_are_not_batch_invariant(
    policy: str, variant: str, batch_invariant: bool
) -> None:
    repository = Repository(POLICIES)
    loaded = load(repository, repository.policy(policy), variant)
    assert loaded.batch_invariant is batch_invariant


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_model_that_scales_by_its_batch_is_seen(dtype: Any) -> None:
    def apart(observations: Any, /) -> Any:
        return observations.reshape(len(observations), -1).astype(np.float32)

    def together(observations: Any, /) -> Any:
        return apart(observations) / (1 + apart(observations).max())

    spec = ObservationSpec(dtype=dtype, shape=(2, 2), low=0, high=255)
    assert is_batch_invariant(apart, spec)
    assert not is_batch_invariant(together, spec)


def test_a_model_that_an_extreme_observation_is_too_much_for_is_tried_with_the_others() -> None:
    def overflow(observations: Any, /) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(observations[:, :2]) - np.exp(observations[:, 2:])

    spec = ObservationSpec(dtype="float32", shape=(4,))
    assert not np.isfinite(overflow(np.full((1, 4), 1e3, np.float32))).any()
    assert is_batch_invariant(overflow, spec)
